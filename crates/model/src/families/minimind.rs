//! MiniMind's own files. (Its published Hugging Face folders say `llama` or `qwen3` and are of those families.)
//!
//! Three generations say `minimind`. The first has Meta's names and rotates neighbouring elements; the second is a
//! Llama; the third norms the heads of queries and keys, which only its tensors tell.

use serde_json::{Value, json};

use super::{baby_llama2, common_fields, read_common};
use crate::fields::Fields;
use crate::names::{Extra, Role};
use crate::{Config, Result, RopeScaling};

pub(super) fn read(fields: &Fields, has_tensor: &dyn Fn(&str) -> bool) -> Result<Config> {
    let config = read_common(fields)?;
    let norm = super::LLAMA_NAMES.of(Role::Extra(0, Extra::QueryNorm));
    let rope_scaling = match fields.flag("inference_rope_scaling")? {
        true => config.rope_scaling,
        false => RopeScaling::None,
    };
    Ok(Config {
        query_key_norm: has_tensor(&norm),
        rope_theta: fields.number("rope_theta")?.unwrap_or(1e6),
        rope_scaling,
        tie_word_embeddings: fields.flag_or("tie_word_embeddings", true)?,
        ..config
    })
}

pub(super) fn fields(config: &Config) -> Value {
    let mut fields = common_fields(config, "minimind");
    fields["head_dim"] = json!(config.head_dim);
    fields["inference_rope_scaling"] = (config.rope_scaling != RopeScaling::None).into();
    fields
}

pub(super) fn read_v1(fields: &Fields) -> Result<Config> {
    baby_llama2::read_arguments(fields, 64, 512)
}

pub(super) fn fields_v1(config: &Config) -> Value {
    baby_llama2::arguments(config, "minimind")
}
