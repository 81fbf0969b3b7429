//! InternLM2 and InternLM2.5: a Llama with Meta's names inside Hugging Face's, that stores queries, keys and values as
//! one tensor by groups.

use serde_json::Value;

use super::{Names, Packing, common_fields, read_common};
use crate::fields::Fields;
use crate::{AttentionBias, Config, Result};

pub(super) const NAMES: Names = Names {
    embedding: "model.tok_embeddings.weight",
    blocks: "model.layers.",
    parts: [
        "attention_norm",
        "attention.wqkv",
        "attention.wqkv",
        "attention.wqkv",
        "attention.wo",
        "ffn_norm",
        "feed_forward.w1",
        "feed_forward.w3",
        "feed_forward.w2",
    ],
    head_norms: ["attention.q_norm", "attention.k_norm"],
    final_norm: "model.norm.weight",
    head: "output.weight",
    packing: Some(Packing::Grouped),
};

pub(super) fn read(fields: &Fields) -> Result<Config> {
    let has_bias = fields.flag_or("bias", true)?;
    let attention_bias = if has_bias { AttentionBias::All } else { AttentionBias::None };
    Ok(Config { attention_bias, ..read_common(fields)? })
}

pub(super) fn fields(config: &Config) -> Value {
    let mut fields = common_fields(config, "internlm2");
    fields["bias"] = (config.attention_bias == AttentionBias::All).into();
    fields
}
