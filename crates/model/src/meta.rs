//! Configurations of files with Meta's names: `params.json` of Meta's own folders, the header of llama2.c, and the
//! arguments that a training script saved with its tensors.
//!
//! Meta's own models and llama2.c's are Llamas; only their files have rotated pairs side by side.

use std::collections::BTreeMap;
use std::path::Path;

use danlu_formats::{ConsolidatedFolder, Llama2cConfig, Scalar};
use serde_json::{Map, Value, json};

use crate::families::META_NAMES;
use crate::fields::Fields;
use crate::names::{Part, Role};
use crate::{Config, Error, Family, Result, RopeScaling};

/// The rotary frequencies in Meta's files, which are computed here.
pub(crate) const FREQUENCIES: &str = "rope.freqs";
/// The base of rotations where `params.json` says none.
const LLAMA_2_BASE: f64 = 10_000.0;
/// One of the arguments in a file of llama2.c's training script.
pub(crate) const ARGUMENTS: &str = "model_args.dim";

/// The configuration of Meta's `params.json`; sizes that it lacks come from the tensors.
pub(crate) fn meta_config(
    tensors: &ConsolidatedFolder,
    path: &Path,
    shape: &dyn Fn(&str) -> Option<Vec<usize>>,
) -> Result<Config> {
    let mut parameters = tensors.parameters().clone();
    // -1: as many as the tokenizer has.
    if parameters.get("vocab_size").and_then(Value::as_i64).is_some_and(|size| size < 0) {
        parameters.remove("vocab_size");
    }
    let fields = Fields::new(path, &parameters);
    let rows = |role: Role| shape(&META_NAMES.of(role)).and_then(|shape| shape.first().copied());
    let missing = |role: Role| Error::MissingTensors { path: path.into(), names: vec![META_NAMES.of(role)] };
    let hidden_size = fields.required("dim")?;
    let num_attention_heads = fields.required("n_heads")?;
    let rope_theta = fields.number("rope_theta")?.unwrap_or(LLAMA_2_BASE);
    let gate = Role::Block(0, Part::Gate);
    let config = Config {
        vocab_size: rows(Role::Embedding).ok_or_else(|| missing(Role::Embedding))?,
        hidden_size,
        intermediate_size: rows(gate).ok_or_else(|| missing(gate))?,
        num_hidden_layers: fields.required("n_layers")?,
        num_attention_heads,
        num_key_value_heads: fields.optional("n_kv_heads")?.unwrap_or(num_attention_heads),
        head_dim: hidden_size / num_attention_heads.max(1),
        max_position_embeddings: fields
            .optional("max_seq_len")?
            .unwrap_or(guessed_context(rope_theta, &RopeScaling::None)),
        rope_theta,
        rms_norm_eps: fields.number("norm_eps")?.unwrap_or(1e-5),
        tie_word_embeddings: rows(Role::Head).is_none(),
        ..Config::default()
    };
    config.check(path)?;
    if !fields.flag("use_scaled_rope")? {
        return Ok(config);
    }
    let rope_scaling = RopeScaling::Llama3 {
        factor: fields.number("rope_scaling_factor")?.unwrap_or(8.0),
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    let max_position_embeddings =
        fields.optional("max_seq_len")?.unwrap_or(guessed_context(rope_theta, &rope_scaling));
    let config = Config { rope_scaling, max_position_embeddings, ..config };
    config.check(path)?;
    Ok(config)
}

/// How long a context is of which `params.json` does not say it: Llama 3 has another base than Llama 2.
pub(crate) fn guessed_context(rope_theta: f64, rope_scaling: &RopeScaling) -> usize {
    match rope_scaling {
        RopeScaling::None if rope_theta == LLAMA_2_BASE => 4096,
        RopeScaling::None => 8192,
        _ => 131_072,
    }
}

/// Along which dimension Meta cuts this tensor, where it cuts the embedding along `embedding`; `None` for vectors, of
/// which each file has the whole.
pub(crate) fn cut_along(name: &str, embedding: usize) -> Option<usize> {
    match name.strip_suffix(".weight")?.rsplit('.').next()? {
        "wq" | "wk" | "wv" | "w1" | "w3" | "output" => Some(0),
        "wo" | "w2" => Some(1),
        "tok_embeddings" => Some(embedding),
        _ => None,
    }
}

/// Along which dimension the code for this model cuts the embedding: only Llama 3's, which cuts rows, knows of another
/// base of rotations than Llama 2's.
pub(crate) fn embedding_cut(config: &Config) -> usize {
    usize::from(config.rope_theta == LLAMA_2_BASE)
}

/// The configuration of a file of llama2.c, whose programs know one base of rotations, one ε, and BOS and EOS as 1 and 2.
pub(crate) fn llama2c_config(header: &Llama2cConfig, path: &Path) -> Result<Config> {
    let config = Config {
        vocab_size: header.vocab_size,
        hidden_size: header.dim,
        intermediate_size: header.hidden_dim,
        num_hidden_layers: header.n_layers,
        num_attention_heads: header.n_heads,
        num_key_value_heads: header.n_kv_heads,
        head_dim: header.dim / header.n_heads.max(1),
        max_position_embeddings: header.max_seq_len,
        rms_norm_eps: 1e-5,
        tie_word_embeddings: header.shared_classifier,
        bos_token_id: Some(1),
        eos_token_ids: vec![2],
        ..Config::default()
    };
    config.check(path)?;
    Ok(config)
}

/// The configuration in the `model_args` of a training script's file.
pub(crate) fn config_of_arguments(metadata: &BTreeMap<String, Scalar>, path: &Path) -> Result<Config> {
    let argument = |(key, value): (&String, &Scalar)| {
        let value = match value {
            Scalar::Bool(value) => json!(value),
            Scalar::Int(value) => json!(value),
            Scalar::Float(value) => json!(value),
            Scalar::Text(value) => json!(value),
        };
        Some((key.strip_prefix("model_args.")?.to_owned(), value))
    };
    let arguments: Map<String, Value> = metadata.iter().filter_map(argument).collect();
    let fields = Fields::new(path, &arguments);
    let config = Family::of(&fields)?.read(&fields, &|_| false)?;
    config.check(path)?;
    Ok(config)
}
