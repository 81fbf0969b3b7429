//! Mistral: a Llama whose attention may be limited to a window.

use serde_json::{Value, json};

use super::{common_fields, read_common};
use crate::fields::Fields;
use crate::{Config, Result};

/// What the class of the field takes where the file says nothing.
const SLIDING_WINDOW: usize = 4096;

pub(super) fn read(fields: &Fields) -> Result<Config> {
    let config = read_common(fields)?;
    let sliding_window = match fields.all().get("sliding_window") {
        Some(Value::Null) => None,
        _ => Some(fields.optional("sliding_window")?.unwrap_or(SLIDING_WINDOW)),
    };
    Ok(Config { sliding_window, ..config })
}

pub(super) fn fields(config: &Config) -> Value {
    let mut fields = common_fields(config, "mistral");
    fields["head_dim"] = json!(config.head_dim);
    fields["sliding_window"] = json!(config.sliding_window);
    fields
}
