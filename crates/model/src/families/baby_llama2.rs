//! Baby-Llama2 and Luban: Meta's names, neighbouring elements of a head rotated, the head usually the embedding.
//!
//! Their checkpoints have no `config.json`; the fields here are those of their `ModelArgs`, for a file beside the
//! weights.

use std::path::Path;

use danlu_kernels::rope::RopeLayout;
use serde_json::{Value, json};

use super::Names;
use crate::fields::Fields;
use crate::names::{Part, Role};
use crate::{Config, Error, Result};

pub(super) const MODEL_TYPE: &str = "baby_llama2";

pub(crate) const NAMES: Names = Names {
    embedding: "tok_embeddings.weight",
    blocks: "layers.",
    parts: [
        "attention_norm",
        "attention.wq",
        "attention.wk",
        "attention.wv",
        "attention.wo",
        "ffn_norm",
        "feed_forward.w1",
        "feed_forward.w3",
        "feed_forward.w2",
    ],
    head_norms: ["attention.q_norm", "attention.k_norm"],
    final_norm: "norm.weight",
    head: "output.weight",
    packing: None,
};

pub(super) fn read(fields: &Fields) -> Result<Config> {
    read_arguments(fields, 256, 2048)
}

/// `ModelArgs` with these defaults of `multiple_of` and `max_seq_len`.
pub(super) fn read_arguments(fields: &Fields, multiple_of: usize, max_seq_len: usize) -> Result<Config> {
    let hidden_size = fields.required("dim")?;
    let num_attention_heads = fields.required("n_heads")?;
    let multiple_of = fields.optional("multiple_of")?.unwrap_or(multiple_of);
    Ok(Config {
        vocab_size: fields.required("vocab_size")?,
        hidden_size,
        intermediate_size: match fields.optional("hidden_dim")? {
            Some(intermediate_size) => intermediate_size,
            None => {
                let wider = fields.number("ffn_dim_multiplier")?.unwrap_or(1.0);
                intermediate_size(hidden_size, wider, multiple_of)
            }
        },
        num_hidden_layers: fields.required("n_layers")?,
        num_attention_heads,
        num_key_value_heads: fields.optional("n_kv_heads")?.unwrap_or(num_attention_heads),
        head_dim: hidden_size / num_attention_heads.max(1),
        max_position_embeddings: fields.optional("max_seq_len")?.unwrap_or(max_seq_len),
        rope_theta: fields.number("rope_theta")?.unwrap_or(10_000.0),
        rope_layout: RopeLayout::Interleaved,
        rms_norm_eps: fields.number("norm_eps")?.unwrap_or(1e-5),
        tie_word_embeddings: fields.flag_or("tie_word_embeddings", true)?,
        initializer_range: fields.number("initializer_range")?.unwrap_or(0.02),
        bos_token_id: fields.ids("bos_token_id")?.first().copied(),
        eos_token_ids: fields.ids("eos_token_id")?,
        pad_token_id: fields.ids("pad_token_id")?.first().copied(),
        ..Config::default()
    })
}

/// Two thirds of four times the width, times the multiplier of Meta's larger models, rounded up.
fn intermediate_size(hidden_size: usize, multiplier: f64, multiple_of: usize) -> usize {
    let size = (hidden_size.saturating_mul(8) / 3) as f64 * multiplier;
    (size as usize).min(1 << 32).next_multiple_of(multiple_of.clamp(1, 1 << 24))
}

pub(super) fn fields(config: &Config) -> Value {
    arguments(config, MODEL_TYPE)
}

pub(super) fn arguments(config: &Config, model_type: &str) -> Value {
    json!({
        "bos_token_id": config.bos_token_id,
        "dim": config.hidden_size,
        "eos_token_id": config.eos_json(),
        "hidden_dim": config.intermediate_size,
        "initializer_range": config.initializer_range,
        "max_seq_len": config.max_position_embeddings,
        "model_type": model_type,
        "n_heads": config.num_attention_heads,
        "n_kv_heads": config.num_key_value_heads,
        "n_layers": config.num_hidden_layers,
        "norm_eps": config.rms_norm_eps,
        "pad_token_id": config.pad_token_id,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tie_word_embeddings,
        "vocab_size": config.vocab_size,
    })
}

/// The configuration of a checkpoint without one, from the shapes of its tensors.
///
/// Shapes do not tell the number of heads, nor the context: these are taken from the published model of the same
/// shapes.
///
/// # Errors
/// Shapes of no published model; the sentence says what to write beside the file.
pub(crate) fn infer(path: &Path, shape: &dyn Fn(&str) -> Option<Vec<usize>>) -> Result<Config> {
    let rows = |role: Role| {
        let name = NAMES.of(role);
        let found =
            shape(&name).and_then(|shape| Some((*shape.first()?, shape.get(1).copied().unwrap_or(1))));
        found.ok_or_else(|| Error::MissingTensors { path: path.into(), names: vec![name] })
    };
    let (vocab_size, dim) = rows(Role::Embedding)?;
    let n_layers = (0..).take_while(|&layer| rows(Role::Block(layer, Part::InputNorm)).is_ok()).count();
    let (hidden_dim, _) = rows(Role::Block(0, Part::Gate))?;
    let (key_rows, _) = rows(Role::Block(0, Part::Key))?;
    for preset in ["luban-1b", "llama2-chinese-218m", "llama2-chinese-92m"].map(Config::preset) {
        let Some(preset) = preset else { continue };
        let found = [dim, n_layers, hidden_dim, key_rows];
        let known =
            [preset.hidden_size, preset.num_hidden_layers, preset.intermediate_size, preset.key_value_size()];
        if found == known {
            return Ok(Config { vocab_size, ..preset });
        }
    }
    let fits = |heads: &usize| {
        let head = dim / heads;
        dim.is_multiple_of(*heads) && head.is_multiple_of(8) && head <= 256 && key_rows.is_multiple_of(head)
    };
    let heads: Vec<String> = (1..=dim / 8).filter(fits).map(|heads| heads.to_string()).collect();
    let key_heads =
        if key_rows == dim { String::new() } else { format!(", \"n_kv_heads\": {key_rows} / head size") };
    Err(Error::Message(format!(
        "`{}` says nothing of its number of heads, and its shapes are those of no known model; possible are {}; write \
         `config.json` beside it: {{\"dim\": {dim}, \"n_layers\": {n_layers}, \"n_heads\": …{key_heads}, \
         \"vocab_size\": {vocab_size}, \"hidden_dim\": {hidden_dim}, \"max_seq_len\": …}}",
        path.display(),
        heads.join(", "),
    )))
}
