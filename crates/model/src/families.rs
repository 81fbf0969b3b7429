//! The families of models: what each calls its tensors and the fields of its `config.json`. The block that they share
//! is in [`crate::forward`].

mod baby_llama2;
mod baichuan;
pub(crate) mod foreign;
mod internlm2;
mod llama;
mod minimind;
mod mistral;
mod qwen2;
mod qwen3;

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::fields::Fields;
use crate::names::{Extra, Part, Role};
use crate::{Config, Module, Result, RopeScaling};

pub use foreign::{FOREIGN_MODELS, ForeignModels};

pub(crate) use baby_llama2::{NAMES as META_NAMES, infer};
pub(crate) use llama::NAMES as LLAMA_NAMES;

/// Whose files a model is read from and written to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// Llama 1 to 3.2, and all that say `llama`: Yi, DeepSeek-LLM, SmolLM2.
    #[default]
    Llama,
    /// Baby-Llama2 and Luban: Meta's names, neighbouring elements rotated.
    BabyLlama2,
    /// Baichuan-7B and Baichuan2-7B.
    Baichuan,
    /// Mistral.
    Mistral,
    /// Qwen2 and Qwen2.5.
    Qwen2,
    /// Qwen3.
    Qwen3,
    /// MiniMind since April 2025.
    MiniMind,
    /// MiniMind before: Meta's names, neighbouring elements rotated.
    MiniMindV1,
    /// InternLM2 and InternLM2.5.
    InternLm2,
}

/// What a family calls its tensors.
#[derive(Debug)]
pub(crate) struct Names {
    pub(crate) embedding: &'static str,
    /// Before the number of a block.
    pub(crate) blocks: &'static str,
    /// Modules inside a block, in the order of [`Part`].
    pub(crate) parts: [&'static str; Part::ALL.len()],
    /// Norms of query and key heads.
    pub(crate) head_norms: [&'static str; 2],
    pub(crate) final_norm: &'static str,
    pub(crate) head: &'static str,
    /// How queries, keys and values are one tensor, whose name is then in the place of all three.
    pub(crate) packing: Option<Packing>,
}

/// The order of rows in a tensor of queries, keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    /// All queries, all keys, all values.
    Stacked,
    /// For each key head its query heads, the key head and the value head.
    Grouped,
}

impl Names {
    /// The name of the tensor in this role.
    pub(crate) fn of(&self, role: Role) -> String {
        match role {
            Role::Embedding => self.embedding.to_owned(),
            Role::Block(layer, part) => {
                format!("{}{layer}.{}.weight", self.blocks, self.parts[part as usize])
            }
            Role::Extra(layer, Extra::Bias(module)) => format!("{}.bias", self.module(layer, module)),
            Role::Extra(layer, Extra::QueryNorm) => {
                format!("{}{layer}.{}.weight", self.blocks, self.head_norms[0])
            }
            Role::Extra(layer, Extra::KeyNorm) => {
                format!("{}{layer}.{}.weight", self.blocks, self.head_norms[1])
            }
            Role::FinalNorm => self.final_norm.to_owned(),
            Role::Head => self.head.to_owned(),
        }
    }

    /// The path of a linear layer.
    pub(crate) fn module(&self, layer: usize, module: Module) -> String {
        format!("{}{layer}.{}", self.blocks, self.parts[module.part() as usize])
    }

    /// The last part of a linear layer's path, as `target_modules` has it.
    pub(crate) fn target(&self, module: Module) -> &'static str {
        let path = self.parts[module.part() as usize];
        path.rsplit('.').next().unwrap_or(path)
    }
}

/// GGUF's names, for every family.
pub(crate) const GGUF_NAMES: Names = Names {
    embedding: "token_embd.weight",
    blocks: "blk.",
    parts: [
        "attn_norm",
        "attn_q",
        "attn_k",
        "attn_v",
        "attn_output",
        "ffn_norm",
        "ffn_gate",
        "ffn_up",
        "ffn_down",
    ],
    head_norms: ["attn_q_norm", "attn_k_norm"],
    final_norm: "output_norm.weight",
    head: "output.weight",
    packing: None,
};

/// Tensors that older checkpoints carry and that are computed here.
pub(crate) fn is_computed(name: &str) -> bool {
    let last = [".rotary_emb.inv_freq", ".attention.mask", "freqs_cos", "freqs_sin", "pos_cis"];
    last.iter().any(|end| name.ends_with(end))
}

impl Family {
    /// The family of a `config.json`.
    pub(crate) fn of(fields: &Fields) -> Result<Self> {
        match fields.text("model_type") {
            None if fields.get("model_type").is_none() && fields.get("dim").is_some() => Ok(Self::BabyLlama2),
            None if fields.get("model_type").is_none() => Ok(Self::Llama),
            Some("llama") => Ok(Self::Llama),
            Some(baby_llama2::MODEL_TYPE) => Ok(Self::BabyLlama2),
            Some("baichuan") => Ok(Self::Baichuan),
            Some("mistral") => Ok(Self::Mistral),
            Some("qwen2") => Ok(Self::Qwen2),
            Some("qwen3") => Ok(Self::Qwen3),
            Some("minimind") if fields.get("dim").is_some() => Ok(Self::MiniMindV1),
            Some("minimind") => Ok(Self::MiniMind),
            Some("internlm2") => Ok(Self::InternLm2),
            _ => {
                let found = fields.get("model_type").unwrap_or(&Value::Null);
                if let Some(sentence) = found.as_str().and_then(foreign::sentence) {
                    return Err(fields.error("model_type", sentence));
                }
                let expected = "`llama`, `mistral`, `qwen2`, `qwen3`, `baichuan`, `internlm2`, `minimind` or \
                                `baby_llama2`";
                Err(fields.error("model_type", format!("expected {expected}, found {found}")))
            }
        }
    }

    /// The configuration in the fields of a file that holds these tensors.
    pub(crate) fn read(self, fields: &Fields, has_tensor: &dyn Fn(&str) -> bool) -> Result<Config> {
        refuse_what_no_family_has(fields)?;
        let config = match self {
            Self::Llama => llama::read(fields),
            Self::BabyLlama2 => baby_llama2::read(fields),
            Self::Baichuan => baichuan::read(fields),
            Self::Mistral => mistral::read(fields),
            Self::Qwen2 => qwen2::read(fields),
            Self::Qwen3 => qwen3::read(fields),
            Self::MiniMind => minimind::read(fields, has_tensor),
            Self::MiniMindV1 => minimind::read_v1(fields),
            Self::InternLm2 => internlm2::read(fields),
        }?;
        Ok(Config { family: self, ..config })
    }

    /// The fields of `config.json` that follow from the configuration.
    pub(crate) fn fields(self, config: &Config) -> Map<String, Value> {
        let fields = match self {
            Self::Llama => llama::fields(config),
            Self::BabyLlama2 => baby_llama2::fields(config),
            Self::Baichuan => baichuan::fields(config),
            Self::Mistral => mistral::fields(config),
            Self::Qwen2 => qwen2::fields(config),
            Self::Qwen3 => qwen3::fields(config),
            Self::MiniMind => minimind::fields(config),
            Self::MiniMindV1 => minimind::fields_v1(config),
            Self::InternLm2 => internlm2::fields(config),
        };
        object(fields)
    }

    /// Whether its files can say what the configuration is.
    pub(crate) fn can_say(self, config: &Config) -> bool {
        let fields = self.fields(config).into_iter().chain(self.usual_fields(config)).collect();
        let read = self.read(&Fields::new(Path::new("config.json"), &fields), &|_| config.query_key_norm);
        read.is_ok_and(|read| Config { other_fields: config.other_fields.clone(), ..read } == *config)
    }

    /// The fields that a new `config.json` has beside these.
    pub(crate) fn usual_fields(self, config: &Config) -> Map<String, Value> {
        let architecture = match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Baichuan => baichuan::architecture(config),
            Self::Mistral => "MistralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
            Self::MiniMind => "MiniMindForCausalLM",
            Self::InternLm2 => "InternLM2ForCausalLM",
            Self::BabyLlama2 | Self::MiniMindV1 => return Map::new(),
        };
        let usual = json!({ "architectures": [architecture], "hidden_act": "silu", "use_cache": true });
        let mut fields = object(usual);
        if matches!(self, Self::Llama | Self::Mistral | Self::Qwen2 | Self::Qwen3) {
            fields.insert("attention_dropout".into(), json!(0.0));
        }
        if config.normalized_head {
            fields.insert(baichuan::SECOND_GENERATION.into(), json!(0));
        }
        fields
    }

    /// The fields of a file that neither follow from the configuration nor are as in a new file.
    pub(crate) fn other_fields(self, config: &Config, read: &Map<String, Value>) -> Map<String, Value> {
        // Older places hold the same, or it is about how weights were stored, which changes when they are written.
        const REPLACED: [&str; 5] = [
            "rope_parameters",
            "original_max_position_embeddings",
            "dtype",
            "torch_dtype",
            "quantization_config",
        ];
        let (own, usual) = (self.fields(config), self.usual_fields(config));
        let is_other = |(field, value): &(&String, &Value)| {
            !own.contains_key(*field)
                && !REPLACED.contains(&field.as_str())
                && usual.get(*field) != Some(value)
        };
        read.iter().filter(is_other).map(|(field, value)| (field.clone(), value.clone())).collect()
    }

    /// What its files call the tensors.
    pub(crate) fn names(self) -> &'static Names {
        match self {
            Self::Llama | Self::Mistral | Self::Qwen2 | Self::Qwen3 | Self::MiniMind => &LLAMA_NAMES,
            Self::BabyLlama2 | Self::MiniMindV1 => &META_NAMES,
            Self::Baichuan => &baichuan::NAMES,
            Self::InternLm2 => &internlm2::NAMES,
        }
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// The fields that most families share, under the names that Llama gave them.
fn read_common(fields: &Fields) -> Result<Config> {
    let hidden_size = fields.required("hidden_size")?;
    let num_attention_heads = fields.required("num_attention_heads")?;
    let max_position_embeddings = fields.optional("max_position_embeddings")?.unwrap_or(2048);
    let rope_theta = fields.rope().and_then(|(_, settings)| settings.get("rope_theta")?.as_f64());
    Ok(Config {
        vocab_size: fields.required("vocab_size")?,
        hidden_size,
        intermediate_size: fields.required("intermediate_size")?,
        num_hidden_layers: fields.required("num_hidden_layers")?,
        num_attention_heads,
        num_key_value_heads: fields.optional("num_key_value_heads")?.unwrap_or(num_attention_heads),
        head_dim: fields.optional("head_dim")?.unwrap_or(hidden_size / num_attention_heads.max(1)),
        max_position_embeddings,
        rope_theta: rope_theta.or(fields.number("rope_theta")?).unwrap_or(10_000.0),
        rope_scaling: RopeScaling::read(fields, max_position_embeddings)?,
        rms_norm_eps: fields.number("rms_norm_eps")?.unwrap_or(1e-6),
        tie_word_embeddings: fields.flag("tie_word_embeddings")?,
        initializer_range: fields.number("initializer_range")?.unwrap_or(0.02),
        bos_token_id: fields.ids("bos_token_id")?.first().copied(),
        eos_token_ids: fields.ids("eos_token_id")?,
        pad_token_id: fields.ids("pad_token_id")?.first().copied(),
        ..Config::default()
    })
}

/// The same, to write.
fn common_fields(config: &Config, model_type: &str) -> Value {
    let mut fields = json!({
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_json(),
        "hidden_size": config.hidden_size,
        "initializer_range": config.initializer_range,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_position_embeddings,
        "model_type": model_type,
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_hidden_layers,
        "num_key_value_heads": config.num_key_value_heads,
        "pad_token_id": config.pad_token_id,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_scaling": config.rope_scaling.to_json(),
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tie_word_embeddings,
        "vocab_size": config.vocab_size,
    });
    if config.head_dim != config.hidden_size / config.num_attention_heads.max(1) {
        fields["head_dim"] = config.head_dim.into();
    }
    fields
}

fn refuse_what_no_family_has(fields: &Fields) -> Result<()> {
    for field in ["num_experts", "num_local_experts", "n_routed_experts"] {
        // MiniMind writes numbers of experts for its dense models too.
        let counts = fields.text("model_type") != Some("minimind");
        if counts && let Some(found) = fields.get(field).filter(|value| value.as_u64() != Some(0)) {
            let reason = format!("expected a dense model, found {found} experts; mixtures are not supported");
            return Err(fields.error(field, reason));
        }
    }
    if fields.flag("use_moe")? {
        return Err(fields.error("use_moe", "expected false: mixtures of experts are not supported"));
    }
    if let Some(activation) = fields.get("hidden_act").filter(|activation| *activation != "silu") {
        return Err(fields.error("hidden_act", format!("expected `silu`, found {activation}")));
    }
    let inside = fields.rope().and_then(|(_, settings)| settings.get("partial_rotary_factor"));
    if let Some(part) = inside.or(fields.get("partial_rotary_factor"))
        && part.as_f64() != Some(1.0)
    {
        let reason = format!("expected 1, found {part}: only whole heads are rotated");
        return Err(fields.error("partial_rotary_factor", reason));
    }
    if let Some(Value::Array(layers)) = fields.get("layer_types")
        && let Some(kind) = layers.iter().find(|kind| *kind != "full_attention")
    {
        let reason = format!("expected `full_attention` for every layer, found {kind}");
        return Err(fields.error("layer_types", reason));
    }
    Ok(())
}

/// Refuses a sliding window that some sequence would be longer than.
fn refuse_window(fields: &Fields, window: Option<usize>, max_position_embeddings: usize) -> Result<()> {
    match window {
        Some(window) if window < max_position_embeddings => Err(fields.error(
            "sliding_window",
            format!(
                "expected null, or at least `max_position_embeddings` ({max_position_embeddings}), found {window}: \
                 a window in some layers only is not supported; up to {window} tokens the model is the same without it, so \
                 set `max_position_embeddings` to {window}"
            ),
        )),
        _ => Ok(()),
    }
}
