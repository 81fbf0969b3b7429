//! Models of other kinds that people come with, and what to take instead.

/// Models that there are, but not here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForeignModels {
    /// What they are.
    pub topic: &'static str,
    /// Their `model_type`; one that ends in `*` stands for all that begin so.
    pub model_types: &'static [&'static str],
    /// Why not, and what to do instead.
    pub reason: &'static str,
}

/// All of them.
#[rustfmt::skip]
pub const FOREIGN_MODELS: &[ForeignModels] = &[
    ForeignModels {
        topic: "ChatGLM and GLM",
        model_types: &["chatglm", "glm", "glm4"],
        reason: "its blocks are not those of the Llama family; take Baichuan, InternLM2 or Qwen, which know as much Chinese",
    },
    ForeignModels {
        topic: "BLOOM, Falcon, GPT-2, OPT and their like",
        model_types: &["bloom", "falcon", "gpt2", "gpt_neo", "gpt_neox", "gptj", "opt", "mpt"],
        reason: "its blocks have layer norms and no gate; take a model of the Llama family of its size, such as Qwen2.5 or SmolLM2",
    },
    ForeignModels {
        topic: "Gemma, Phi, Cohere, OLMo",
        model_types: &["gemma*", "phi*", "cohere*", "olmo*", "stablelm", "starcoder2", "minicpm"],
        reason: "its blocks differ from those of the Llama family; take a model of that family of its size, such as Qwen2.5 or Llama 3.2",
    },
    ForeignModels {
        topic: "mixtures of experts",
        model_types: &["mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v2", "deepseek_v3", "gpt_oss", "dbrx", "minimax*", "kimi*", "llama4*"],
        reason: "every token passes every layer of a dense model here; take a dense model of the same family",
    },
    ForeignModels {
        topic: "models of pictures, sound and video",
        model_types: &["qwen2_vl", "qwen2_5_vl", "qwen3_vl*", "qwen2_audio", "qwen2_5_omni", "llava*", "mllama", "internvl*", "paligemma", "whisper", "video_llava"],
        reason: "only text is learned; take the text model of the same family",
    },
    ForeignModels {
        topic: "encoders",
        model_types: &["bert", "roberta", "xlm-roberta", "deberta*", "electra", "t5", "mt5", "bart", "mbart"],
        reason: "it fills gaps or has an encoder, and danlu continues texts; take a decoder such as Qwen2.5",
    },
    ForeignModels {
        topic: "models without attention",
        model_types: &["mamba*", "rwkv*", "jamba", "falcon_h1", "qwen3_next"],
        reason: "its layers keep a state in the place of attention; take a model of the Llama family of its size",
    },
];

/// What there is to say of a `model_type`, or of a GGUF file's architecture, which is often the same.
pub(crate) fn sentence(model_type: &str) -> Option<String> {
    let is_it = |name: &&str| {
        name.strip_suffix('*').map_or(*name == model_type, |start| model_type.starts_with(start))
    };
    let models = FOREIGN_MODELS.iter().find(|models| models.model_types.iter().any(is_it))?;
    Some(format!("`{model_type}` is not read ({}): {}", models.topic, models.reason))
}
