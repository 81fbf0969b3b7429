//! Llama 1 to 3.2, and the families that say `llama` in their files: Yi, DeepSeek-LLM, SmolLM2.

use serde_json::{Value, json};

use super::{Names, common_fields, read_common};
use crate::fields::Fields;
use crate::{AttentionBias, Config, Result};

pub(crate) const NAMES: Names = Names {
    embedding: "model.embed_tokens.weight",
    blocks: "model.layers.",
    parts: [
        "input_layernorm",
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "post_attention_layernorm",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    ],
    head_norms: ["self_attn.q_norm", "self_attn.k_norm"],
    final_norm: "model.norm.weight",
    head: "lm_head.weight",
    packing: None,
};

pub(super) fn read(fields: &Fields) -> Result<Config> {
    let attention_bias =
        if fields.flag("attention_bias")? { AttentionBias::All } else { AttentionBias::None };
    Ok(Config { attention_bias, mlp_bias: fields.flag("mlp_bias")?, ..read_common(fields)? })
}

pub(super) fn fields(config: &Config) -> Value {
    let mut fields = common_fields(config, "llama");
    fields["attention_bias"] = (config.attention_bias == AttentionBias::All).into();
    fields["mlp_bias"] = config.mlp_bias.into();
    fields["head_dim"] = json!(config.head_dim);
    fields
}
