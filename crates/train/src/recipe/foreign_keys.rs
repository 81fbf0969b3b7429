//! Keys of LLaMA-Factory and the Hugging Face Trainer that are not options here.
//!
//! Those without any effect on the result are accepted and named in one notice. Those that would change the result are
//! refused unless they hold the value that changes nothing.

use serde_json::Value;

/// No effect on what is learned, on a CPU and with packing that never mixes samples.
#[rustfmt::skip]
const WITHOUT_EFFECT: &[&str] = &[
    "do_train", "do_eval", "report_to", "run_name", "logging_dir", "logging_first_step", "logging_strategy",
    "log_level", "disable_tqdm", "include_num_input_tokens_seen", "include_tokens_per_second", "swanlab_project",
    "use_swanlab", "wandb_project", "push_to_hub", "hub_model_id", "hub_token", "hf_hub_token", "ms_hub_token",
    "ddp_timeout", "ddp_find_unused_parameters", "ddp_backend", "deepspeed", "fsdp", "fsdp_config", "local_rank", "ray_run_name",
    "preprocessing_num_workers", "preprocessing_batch_size", "dataloader_num_workers", "dataloader_pin_memory",
    "dataloader_prefetch_factor", "dataloader_persistent_workers", "cache_dir", "remove_unused_columns",
    "data_shared_file_system", "buffer_size", "length_column_name",
    "trust_remote_code", "use_fast_tokenizer", "split_special_tokens", "model_revision", "low_cpu_mem_usage", "device_map",
    "flash_attn", "attn_implementation", "use_unsloth", "use_unsloth_gc", "enable_liger_kernel", "use_kt", "use_cache",
    "gradient_checkpointing", "gradient_checkpointing_kwargs", "disable_gradient_checkpointing", "use_reentrant_gc",
    "torch_compile", "torch_empty_cache_steps", "torch_dtype", "fp16", "tf32", "pure_bf16", "half_precision_backend",
    "upcast_layernorm", "upcast_lmhead_output", "bf16_full_eval", "fp16_full_eval", "full_determinism", "use_cpu",
    "no_cuda", "infer_dtype", "infer_backend", "offload_folder", "print_param_status",
    "ignore_pad_token_for_loss", "pad_to_multiple_of",
    "per_device_eval_batch_size", "eval_accumulation_steps", "eval_delay", "prediction_loss_only", "batch_eval_metrics",
    "save_safetensors", "save_only_model", "save_on_each_node", "ignore_data_skip",
    "quantization_device_map", "bnb_4bit_compute_dtype", "bnb_4bit_quant_storage",
    "loraplus_lr_embedding", "pissa_convert", "freeze_vision_tower",
    "freeze_multi_modal_projector", "freeze_language_model", "image_max_pixels", "image_min_pixels", "video_max_pixels",
    "video_min_pixels", "image_resolution", "video_resolution", "media_dir", "tool_format",
    "max_new_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "num_beams", "do_sample",
];

/// Key, the values that change nothing (JSON), and what the program does instead.
#[rustfmt::skip]
const ONLY_NEUTRAL: &[(&str, &[&str], &str)] = &[
    ("ref_model", &[], "the reference is the model as the run begins"),
    ("ref_model_adapters", &[], "the reference is the model as the run begins"),
    ("ref_model_quantization_bit", &[], "the reference is the model as the run begins"),
    ("pref_bco_weight", &["0", "0.0"], "`pref_loss` names the losses that there are"),
    ("quantization_type", &["\"nf4\""], "four bits are NF4"),
    ("bnb_4bit_quant_type", &["\"nf4\""], "four bits are NF4"),
    ("double_quantization", &["true"], "NF4 is quantized doubly"),
    ("bnb_4bit_use_double_quant", &["true"], "NF4 is quantized doubly"),
    ("quantization_method", &["\"bnb\"", "\"bitsandbytes\""], "quantization while loading is that of bitsandbytes"),
    ("use_galore", &["false"], "`optim` names the optimizers that there are"),
    ("use_apollo", &["false"], "`optim` names the optimizers that there are"),
    ("use_badam", &["false"], "`optim` names the optimizers that there are"),
    ("use_muon", &["false"], "`optim: muon` is how to ask for it"),
    ("label_smoothing_factor", &["0", "0.0"], "the loss is plain cross-entropy"),
    ("rope_scaling", &[], "positions are used as the model defines them"),
    ("shift_attn", &["false"], "attention is the model's own"),
    ("mixture_of_depths", &[], "every token passes every layer"),
    ("add_tokens", &[], "the vocabulary stays as it is"),
    ("new_special_tokens", &[], "the vocabulary stays as it is"),
    ("disable_shuffling", &["false"], "samples are shuffled by `seed`"),
    ("load_best_model_at_end", &["false"], "the last state is kept as the result"),
    ("do_predict", &["false"], "a trained model predicts with `danlu generate`"),
    ("predict_with_generate", &["false"], "validation measures the loss"),
    ("compute_accuracy", &["false"], "validation measures the loss"),
];

/// Why `streaming: true` is not needed.
const STREAMING: &str = "data sets are read as streams and tokenized once, the ids of large ones stay on disk, and the order is a shuffle \
     of all samples in place of a buffer; to train on the beginning of a huge data set, set `max_samples`";

/// What a key means that is not an option of this program.
pub(super) enum Foreign {
    /// Accepted, without effect.
    WithoutEffect,
    /// Accepted and not needed, for this reason.
    NotNeeded(&'static str),
    /// Refused, with the reason.
    Refused(&'static str),
    /// Not known at all.
    Unknown,
}

pub(super) fn judge(key: &str, value: &Value) -> Foreign {
    if WITHOUT_EFFECT.contains(&key) {
        return Foreign::WithoutEffect;
    }
    if key == "streaming" {
        return if value == &Value::Bool(false) {
            Foreign::WithoutEffect
        } else {
            Foreign::NotNeeded(STREAMING)
        };
    }
    match ONLY_NEUTRAL.iter().find(|(name, ..)| *name == key) {
        Some((_, neutral, _)) if neutral.contains(&value.to_string().as_str()) => Foreign::WithoutEffect,
        Some((_, _, reason)) => Foreign::Refused(reason),
        None => Foreign::Unknown,
    }
}
