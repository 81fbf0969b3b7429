//! What danlu does not do, with the reason and what to do instead: the one source of what a recipe is refused with and of
//! the last section of `docs/*/migrate.md`.
//!
//! Models of other kinds are in [`danlu_model::FOREIGN_MODELS`].

use serde_json::Value;

/// A thing that is not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotDone {
    /// What it is.
    pub topic: &'static str,
    /// Why, and what to do instead.
    pub reason: &'static str,
    /// Keys that ask for it; one that ends in `*` stands for all that begin so.
    pub keys: &'static [(&'static str, Asks)],
}

/// Which values of a key ask for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asks {
    /// All but `false`, `0`, `none` and an empty list.
    IfSet,
    /// These.
    By(&'static [&'static str]),
}

/// All of them.
#[rustfmt::skip]
pub const NOT_DONE: &[NotDone] = &[
    NotDone {
        topic: "training on a TPU",
        reason: "danlu computes on the processor; a TPU needs the programs of its maker; the run is the same without this key",
        keys: &[("tpu_num_cores", Asks::IfSet), ("tpu_metrics_debug", Asks::IfSet)],
    },
    NotDone {
        topic: "8-bit floats",
        reason: "they are arithmetic of graphics cards, and danlu computes on the processor: `precision: bf16` is the nearest, `quantization_bit` \
                 saves more memory",
        keys: &[("fp8", Asks::IfSet), ("fp8_backend", Asks::IfSet), ("fp8_enable_fsdp_float8_all_gather", Asks::IfSet)],
    },
    NotDone {
        topic: "model parallelism within other engines",
        reason: "one process has the whole model; quantize it with `quantization_bit`, or choose a smaller one",
        keys: &[
            ("use_mca", Asks::IfSet), ("use_megatron_bridge", Asks::IfSet), ("use_hyper_parallel", Asks::IfSet), ("tp_size", Asks::IfSet),
            ("parallelism_config", Asks::IfSet), ("tensor_parallel_size", Asks::IfSet), ("context_parallel_size", Asks::IfSet),
        ],
    },
    NotDone {
        topic: "offloading weights to memory or disk",
        reason: "all memory is the processor's already, and a page that waits for the disk would make a step take minutes; `quantization_bit: 4`, \
                 `recompute: block` or `optim: adafactor` need less of it (`danlu plan` says how much)",
        keys: &[
            ("use_kt", Asks::IfSet), ("kt_*", Asks::IfSet), ("cpu_infer", Asks::IfSet), ("chunk_size", Asks::IfSet), ("mode", Asks::By(&["long_context"])),
            ("offload_optimizer", Asks::IfSet), ("offload_param", Asks::IfSet), ("cpu_offload", Asks::IfSet),
        ],
    },
    NotDone {
        topic: "reward models, PPO and other reinforcement learning",
        reason: "no reward model is trained or asked; preferences are learned directly from pairs or judged answers (`stage: dpo`, `stage: kto`)",
        keys: &[
            ("stage", Asks::By(&["rm", "ppo", "grpo", "rloo"])), ("reward_model", Asks::IfSet), ("reward_model_*", Asks::IfSet), ("ppo_*", Asks::IfSet),
        ],
    },
    NotDone {
        topic: "uploading to a hub",
        reason: "nothing leaves this machine; the result is a folder that `hf upload REPOSITORY FOLDER` of huggingface_hub takes as it is",
        keys: &[("push_to_hub", Asks::IfSet), ("export_hub_model_id", Asks::IfSet)],
    },
    NotDone {
        topic: "pictures, sound and video",
        reason: "only text is learned; take the text model of the same family",
        keys: &[("train_mm_proj_only", Asks::IfSet), ("use_audio_in_video", Asks::IfSet), ("image_do_pan_and_scan", Asks::IfSet)],
    },
    NotDone {
        topic: "mixtures of experts and of depths",
        reason: "every token passes every layer of a dense model; take a dense model of the same family",
        keys: &[("moe_aux_loss_coef", Asks::IfSet), ("use_moe", Asks::IfSet), ("mixture_of_depths", Asks::IfSet)],
    },
    NotDone {
        topic: "GaLore, APOLLO, BAdam, Adam-mini",
        reason: "they save the optimizer's memory: so do `optim: adafactor`, `adamw_8bit` and `lion` (`danlu plan` lists what each takes)",
        keys: &[
            ("use_galore", Asks::IfSet), ("galore_*", Asks::IfSet), ("use_apollo", Asks::IfSet), ("apollo_*", Asks::IfSet), ("use_badam", Asks::IfSet),
            ("badam_*", Asks::IfSet), ("use_adam_mini", Asks::IfSet),
        ],
    },
    NotDone {
        topic: "OFT, LLaMA Pro, LongLoRA",
        reason: "adapters are LoRA in all its kinds; `finetuning_type: lora` with `lora_target: all` learns what these learn, and \
                 `finetuning_type: freeze` trains chosen layers",
        keys: &[
            ("finetuning_type", Asks::By(&["oft"])), ("oft_*", Asks::IfSet), ("use_llama_pro", Asks::IfSet), ("shift_attn", Asks::IfSet),
        ],
    },
    NotDone {
        topic: "losses that reweight tokens by the model's own confidence, prediction of several tokens",
        reason: "the loss is the cross-entropy of the next token; weights of samples and answers are given in the data (`loss_weight`)",
        keys: &[
            ("use_dft_loss", Asks::IfSet), ("use_asft_loss", Asks::IfSet), ("use_eaft_loss", Asks::IfSet), ("num_mtp_layers", Asks::IfSet),
            ("mtp_loss_weight", Asks::IfSet),
        ],
    },
    NotDone {
        topic: "other engines for answering, and their containers",
        reason: "danlu answers itself (`danlu chat`, `danlu generate`); for another engine give it the model folder, or a GGUF file by `danlu convert`",
        keys: &[("vllm_*", Asks::IfSet), ("sglang_*", Asks::IfSet), ("docker_image", Asks::IfSet)],
    },
    NotDone {
        topic: "merging, predicting and scoring by a training recipe",
        reason: "each has a command: `danlu merge --base MODEL --adapter ADAPTER --out FOLDER`, `danlu convert --quant gptq-4bit`, `danlu generate`, \
                 `danlu eval ceval`",
        keys: &[
            ("export_*", Asks::IfSet), ("do_predict", Asks::IfSet), ("predict_with_generate", Asks::IfSet), ("task", Asks::IfSet), ("task_dir", Asks::IfSet),
            ("n_shot", Asks::IfSet),
        ],
    },
    NotDone {
        topic: "random weights in the place of a model's own",
        reason: "a new model has no `model_name_or_path`: leave it out and give `model_preset`, or `hidden_size` and the other sizes",
        keys: &[("train_from_scratch", Asks::IfSet)],
    },
];

/// What a key with this value asks for in vain.
pub(super) fn find(key: &str, value: &Value) -> Option<&'static NotDone> {
    let is_neutral = match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => ["", "none", "None"].contains(&text.as_str()),
        Value::Array(values) => values.is_empty(),
        _ => false,
    };
    let asks = |(name, asks): &(&str, Asks)| {
        let is_it = match name.strip_suffix('*') {
            Some(start) => key.starts_with(start),
            None => *name == key,
        };
        is_it
            && match asks {
                Asks::IfSet => !is_neutral,
                Asks::By(values) => value.as_str().is_some_and(|value| values.contains(&value)),
            }
    };
    NOT_DONE.iter().find(|entry| entry.keys.iter().any(asks))
}

/// Whether a key has to do with something that is not done, but does not ask for it.
pub(super) fn mentions(key: &str) -> bool {
    let is_it = |name: &str| name.strip_suffix('*').map_or(name == key, |start| key.starts_with(start));
    NOT_DONE.iter().any(|entry| entry.keys.iter().any(|(name, _)| is_it(name)))
}
