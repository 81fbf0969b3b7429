//! Baichuan and Baichuan 2: a Llama that stores queries, keys and values as one tensor. The 13B models have ALiBi in place
//! of rotary positions; the second generation's head is used with rows of length one.
//!
//! All say `baichuan`. They differ in other fields: the first 7B model is a `BaiChuanForCausalLM`, the 13B models have no
//! `max_position_embeddings`, and the second generation has a `z_loss_weight`.

use serde_json::{Map, Value};

use super::{LLAMA_NAMES, Names, Packing, common_fields, read_common};
use crate::fields::Fields;
use crate::{Config, Result, RopeScaling};

pub(super) const NAMES: Names = Names {
    parts: [
        "input_layernorm",
        "self_attn.W_pack",
        "self_attn.W_pack",
        "self_attn.W_pack",
        "self_attn.o_proj",
        "post_attention_layernorm",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    ],
    packing: Some(Packing::Stacked),
    ..LLAMA_NAMES
};

const FIRST_GENERATION: &str = "BaiChuanForCausalLM";
pub(super) const SECOND_GENERATION: &str = "z_loss_weight";
/// Context of the 13B models, should a file lack that field.
const CONTEXT: usize = 4096;
/// Vocabulary of the second generation, should a file lack that field.
const SECOND_VOCABULARY: usize = 125_696;

pub(super) fn architecture(config: &Config) -> &'static str {
    if config.normalized_head || config.alibi { "BaichuanForCausalLM" } else { FIRST_GENERATION }
}

pub(super) fn read(fields: &Fields) -> Result<Config> {
    let is_first = fields.get("architectures").is_some_and(|list| list[0] == FIRST_GENERATION);
    let alibi = !is_first && fields.get("max_position_embeddings").is_none();
    let mut config = read_common(fields)?;
    if alibi {
        config.max_position_embeddings = fields.optional("model_max_length")?.unwrap_or(CONTEXT);
    }
    let normalized_head =
        !is_first && (fields.get(SECOND_GENERATION).is_some() || config.vocab_size == SECOND_VOCABULARY);
    // Its own code has no fields for these.
    let head_dim = config.hidden_size / config.num_attention_heads.max(1);
    Ok(Config {
        num_key_value_heads: config.num_attention_heads,
        head_dim,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::None,
        normalized_head,
        alibi,
        ..config
    })
}

pub(super) fn fields(config: &Config) -> Value {
    let mut fields: Map<String, Value> = super::object(common_fields(config, "baichuan"));
    fields
        .retain(|field, _| !["num_key_value_heads", "rope_scaling", "rope_theta"].contains(&field.as_str()));
    if config.alibi {
        fields.remove("max_position_embeddings");
    }
    if config.normalized_head || config.alibi {
        fields.insert("model_max_length".into(), config.max_position_embeddings.into());
    }
    Value::Object(fields)
}
