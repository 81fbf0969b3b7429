//! Keys of LLaMA-Factory and the Hugging Face Trainer that are not options here.
//!
//! Those without any effect on the result are accepted and named in one notice. Those that would change the result are
//! refused unless they hold the value that changes nothing.

use serde_json::Value;

use super::not_done;

/// No effect on what is learned, on a CPU and with packing that never mixes samples; a name that ends in `*` stands for all that begin
/// so.
#[rustfmt::skip]
const WITHOUT_EFFECT: &[&str] = &[
    "do_train", "do_eval", "run_name", "logging_first_step", "logging_strategy",
    "log_level", "disable_tqdm", "compute_accuracy", "include_num_input_tokens_seen", "include_tokens_per_second", "swanlab_*",
    "use_swanlab", "wandb_*", "trackio_*", "project", "hub_*", "hf_hub_token", "ms_hub_token", "om_hub_token",
    "ddp_timeout", "ddp_find_unused_parameters", "ddp_backend", "fsdp", "fsdp_config", "local_rank", "ray_*",
    "placement_strategy", "resources_per_worker", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph", "accelerator_config",
    "preprocessing_num_workers", "preprocessing_batch_size", "dataloader_num_workers", "dataloader_pin_memory",
    "dataloader_prefetch_factor", "dataloader_persistent_workers", "cache_dir", "remove_unused_columns",
    "data_shared_file_system", "buffer_size", "length_column_name",
    "trust_remote_code", "use_fast_tokenizer", "split_special_tokens", "model_revision", "low_cpu_mem_usage", "device_map",
    "flash_attn", "attn_implementation", "use_unsloth", "use_unsloth_gc", "enable_liger_kernel", "use_liger_kernel", "liger_kernel_config", "use_v1_kernels",
    "use_flash_attention_2", "use_cache", "use_kv_cache", "activation_checkpointing", "activation_checkpointing_kwargs",
    "gradient_checkpointing", "gradient_checkpointing_kwargs", "disable_gradient_checkpointing", "use_reentrant_gc",
    "torch_compile", "torch_compile_backend", "torch_compile_mode", "torchdynamo", "torch_empty_cache_steps", "torch_dtype", "fp16", "tf32", "pure_bf16", "half_precision_backend",
    "upcast_layernorm", "upcast_lmhead_output", "bf16_full_eval", "fp16_full_eval", "full_determinism", "use_cpu",
    "no_cuda", "use_mps_device", "use_ipex", "jit_mode_eval", "fp16_backend", "fp16_opt_level", "mp_parameters", "infer_dtype", "infer_backend", "offload_folder", "print_param_status",
    "ignore_pad_token_for_loss", "pad_to_multiple_of",
    "per_device_eval_batch_size", "eval_accumulation_steps", "prediction_loss_only", "batch_eval_metrics",
    "eval_do_concat_batches", "eval_use_gather_object", "eval_num_beams", "include_for_metrics", "include_inputs_for_metrics", "label_names",
    "include_effective_tokens_per_second", "generation_max_length", "generation_num_beams", "generation_config", "past_index",
    "log_on_each_node", "log_level_replica", "logging_nan_inf_filter", "debug", "skip_memory_metrics", "average_tokens_across_devices",
    "dataloader_multiprocessing_context", "dataloader_in_order", "dispatch_batches", "split_batches", "enable_jit_checkpoint",
    "restore_callback_states_from_checkpoint", "adapter_folder", "init_special_tokens", "hyper_parallel_args", "hyper_parallel_cp_size",
    "asft_alpha", "eaft_alpha", "module_dropout", "oft_target", "image_*", "video_*", "audio_*", "crop_to_patches", "max_length", "length_penalty",
    "skip_special_tokens", "lang", "download_mode", "save_safetensors", "save_only_model", "save_on_each_node", "ignore_data_skip",
    "quantization_device_map", "bnb_4bit_compute_dtype", "bnb_4bit_quant_storage",
    "pissa_convert", "freeze_vision_tower",
    "freeze_multi_modal_projector", "freeze_language_model", "media_dir", "tool_format",
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
    ("quant_type", &["\"nf4\""], "four bits are NF4"),
    ("double_quant", &["true"], "NF4 is quantized doubly"),
    ("use_muon", &["false"], "`optim: muon` is how to ask for it"),
    ("label_smoothing_factor", &["0", "0.0"], "the loss is plain cross-entropy"),
    ("rope_scaling", &[], "positions are used as the model defines them"),
    ("add_tokens", &[], GROW_FIRST),
    ("add_special_tokens", &[], GROW_FIRST),
    ("new_special_tokens", &[], GROW_FIRST),
    ("new_special_tokens_config", &[], GROW_FIRST),
    ("freeze_original_embeddings", &["false"], "`trainable_token_indices` names the rows that are trained"),
    ("optim_args", &[], "`adam_beta1`, `adam_beta2` and `adam_epsilon` are what the optimizers take"),
    ("optim_target_modules", &[], "an optimizer is for all parameters"),
    ("adafactor", &["false"], "`optim: adafactor` is how to ask for it"),
    ("auto_find_batch_size", &["false"], "no batch is too large: steps are computed in slices of 1,024 tokens"),
    ("dataloader_drop_last", &["false"], "the last samples of a pass are a smaller step"),
    ("train_sampling_strategy", &["\"random\""], "samples are shuffled, or with `group_by_length: true` taken by their length"),
    ("sortish_sampler", &["false"], "`group_by_length: true` takes samples by their length"),
    ("eval_on_start", &["false"], "the first validation is behind the first `eval_steps` steps; `danlu eval ppl` scores a model before"),
    ("eval_on_each_dataset", &["false"], "validation is over all of `eval_dataset`; a run for each gives each its own figure"),
    ("disable_shuffling", &["false"], "samples are shuffled by `seed`"),
    ("ld_alpha", &["1", "1.0"], "every token of an answer counts alike; `pref_loss: simpo` and `ipo` are fair to short answers"),
];

/// How tokens are added.
const GROW_FIRST: &str = "the vocabulary stays as it is in training; `danlu tokenizer extend --model MODEL --new words.txt` adds tokens first";

/// Keys that choose a device.
const DEVICES: &[&str] = &[
    "device",
    "gpus",
    "n_gpu",
    "gpu_memory_limit",
    "cuda_visible_devices",
    "CUDA_VISIBLE_DEVICES",
    "ASCEND_RT_VISIBLE_DEVICES",
];

/// Why they are not needed.
const ON_THE_PROCESSOR: &str =
    "danlu computes on the processor, with `threads` threads, and takes up to `max_memory`";

/// Why `streaming: true` is not needed.
const STREAMING: &str = "data sets are read as streams and tokenized once, the ids of large ones stay on disk, and the order is a shuffle \
     of all samples in place of a buffer; to train on the beginning of a huge data set, set `max_samples`";

/// What LLaMA-Factory's LoRA+ gives a rate of its own.
const LOW_RANK_EMBEDDING: &str = "it is the learning rate of low-rank matrices beside an embedding, which are not trained here (`lora_target` \
     names linear layers of the blocks); `additional_target: embed_tokens` trains the embedding whole, in LLaMA-Factory too with `learning_rate`";

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
    let is_it = |name: &&&str| name.strip_suffix('*').map_or(**name == key, |start| key.starts_with(start));
    if WITHOUT_EFFECT.iter().any(|name| is_it(&name)) || not_done::mentions(key) {
        return Foreign::WithoutEffect;
    }
    if DEVICES.contains(&key) {
        return Foreign::NotNeeded(ON_THE_PROCESSOR);
    }
    if key == "loraplus_lr_embedding" {
        return Foreign::NotNeeded(LOW_RANK_EMBEDDING);
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
