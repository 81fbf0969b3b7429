//! Qwen3: a Llama whose heads of queries and keys are normed.

use serde_json::{Value, json};

use super::{common_fields, read_common, refuse_window};
use crate::fields::Fields;
use crate::{AttentionBias, Config, Result};

/// What the class of the field takes where the file says nothing.
const HEAD_DIM: usize = 128;

pub(super) fn read(fields: &Fields) -> Result<Config> {
    let config = read_common(fields)?;
    if fields.flag("use_sliding_window")? {
        refuse_window(fields, fields.optional("sliding_window")?, config.max_position_embeddings)?;
    }
    let attention_bias =
        if fields.flag("attention_bias")? { AttentionBias::All } else { AttentionBias::None };
    let head_dim = fields.optional("head_dim")?.unwrap_or(HEAD_DIM);
    Ok(Config { attention_bias, head_dim, query_key_norm: true, ..config })
}

pub(super) fn fields(config: &Config) -> Value {
    let mut fields = common_fields(config, "qwen3");
    fields["attention_bias"] = (config.attention_bias == AttentionBias::All).into();
    fields["head_dim"] = json!(config.head_dim);
    fields["use_sliding_window"] = false.into();
    fields
}
