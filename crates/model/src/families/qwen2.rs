//! Qwen2 and Qwen2.5: a Llama with biases of queries, keys and values.

use serde_json::Value;

use super::{common_fields, read_common, refuse_window};
use crate::fields::Fields;
use crate::{AttentionBias, Config, Result};

pub(super) fn read(fields: &Fields) -> Result<Config> {
    let config = read_common(fields)?;
    if fields.flag("use_sliding_window")? {
        refuse_window(fields, fields.optional("sliding_window")?, config.max_position_embeddings)?;
    }
    Ok(Config { attention_bias: AttentionBias::QueryKeyValue, ..config })
}

pub(super) fn fields(config: &Config) -> Value {
    let mut fields = common_fields(config, "qwen2");
    fields["use_sliding_window"] = false.into();
    fields
}
