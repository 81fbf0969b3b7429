//! What a GGUF file says of a model, under the keys that llama.cpp's converter writes: the reverse of [`crate::gguf`].

use std::path::Path;

use danlu_formats::{Array, ImportanceMatrix, Value, write_gguf};
use danlu_tokenizer::GgufVocabulary;

use crate::mixture::Mixture;
use crate::{AttentionBias, Config, Error, Family, Result, RopeScaling};

/// The version of the block types.
const QUANTIZATION_VERSION: u32 = 2;

/// What `tokenizer.ggml.model` says where there is no vocabulary; llama.cpp then takes ids.
pub(crate) const NO_VOCABULARY: &str = "none";

/// The architecture of `general.architecture` for a model.
///
/// # Errors
/// Options together that no architecture of llama.cpp has.
pub(crate) fn architecture(config: &Config) -> Result<&'static str> {
    let has_bias = config.attention_bias != AttentionBias::None || config.mlp_bias;
    let name = match config.family {
        _ if config.query_key_norm => "qwen3",
        Family::Qwen2 => "qwen2",
        Family::InternLm2 if !has_bias => "internlm2",
        Family::Baichuan => "baichuan",
        _ => "llama",
    };
    if has_bias && matches!(name, "qwen3" | "baichuan") {
        let message = "with biases is a model that llama.cpp does not know; it stays a Hugging Face folder";
        return Err(Error::Message(format!("`{name}` {message}")));
    }
    Ok(name)
}

/// Whether an architecture's rows of q and k are stored with rotated pairs side by side.
pub(crate) fn has_neighbouring_pairs(architecture: &str) -> bool {
    !matches!(architecture, "qwen2" | "qwen3")
}

/// The factors of `rope_freqs.weight`, which stand for Llama 3's scaling: by how much each frequency is divided.
pub(crate) fn rope_factors(config: &Config) -> Option<Vec<f32>> {
    let RopeScaling::Llama3 { .. } = config.rope_scaling else { return None };
    let plain = Config { rope_scaling: RopeScaling::None, ..config.clone() }.rope_frequencies(1);
    let scaled = config.rope_frequencies(1);
    Some(plain.iter().zip(&scaled).map(|(plain, scaled)| plain / scaled).collect())
}

/// The metadata of a file.
pub(crate) fn metadata(
    config: &Config,
    mixture: Mixture,
    vocabulary: Option<GgufVocabulary>,
    importance: Option<&ImportanceMatrix>,
    name: &str,
) -> Result<Vec<(String, Value)>> {
    let architecture = architecture(config)?;
    let mut entries = vec![
        ("general.architecture".to_owned(), Value::String(architecture.into())),
        ("general.type".to_owned(), Value::String("model".into())),
        ("general.name".to_owned(), Value::String(name.into())),
        ("general.file_type".to_owned(), Value::U32(mixture.file_type())),
        ("general.quantization_version".to_owned(), Value::U32(QUANTIZATION_VERSION)),
    ];
    let whole = |field: &str, value: usize| -> Result<Value> {
        let number = u32::try_from(value).map_err(|_| {
            let reason = format!("{value} is more than GGUF holds");
            Error::Config { path: Path::new(name).into(), field: field.into(), reason }
        })?;
        Ok(Value::U32(number))
    };
    let mut own = |key: &str, value: Value| entries.push((format!("{architecture}.{key}"), value));
    for (key, value) in [
        ("vocab_size", config.vocab_size),
        ("context_length", config.max_position_embeddings),
        ("embedding_length", config.hidden_size),
        ("block_count", config.num_hidden_layers),
        ("feed_forward_length", config.intermediate_size),
        ("attention.head_count", config.num_attention_heads),
        ("attention.head_count_kv", config.num_key_value_heads),
        ("attention.key_length", config.head_dim),
        ("attention.value_length", config.head_dim),
        ("rope.dimension_count", config.head_dim),
    ] {
        own(key, whole(key, value)?);
    }
    if let Some(window) = config.sliding_window {
        own("attention.sliding_window", whole("attention.sliding_window", window)?);
    }
    own("attention.layer_norm_rms_epsilon", Value::F32(config.rms_norm_eps as f32));
    own("rope.freq_base", Value::F32(config.rope_theta as f32));
    match config.rope_scaling {
        // The first is in a tensor; the second llama.cpp does not have.
        RopeScaling::None | RopeScaling::Llama3 { .. } | RopeScaling::Dynamic { .. } => {}
        RopeScaling::Linear { factor } => {
            own("rope.scaling.type", Value::String("linear".into()));
            own("rope.scaling.factor", Value::F32(factor as f32));
        }
        RopeScaling::Yarn(yarn) => {
            own("rope.scaling.type", Value::String("yarn".into()));
            own("rope.scaling.factor", Value::F32(yarn.factor as f32));
            let original =
                whole("rope.scaling.original_context_length", yarn.original_max_position_embeddings)?;
            own("rope.scaling.original_context_length", original);
            own("rope.scaling.yarn_beta_fast", Value::F32(yarn.beta_fast as f32));
            own("rope.scaling.yarn_beta_slow", Value::F32(yarn.beta_slow as f32));
            // llama.cpp multiplies it with what follows from the factor.
            let attention = config.rope_scale() / (0.1 * (yarn.factor as f32).ln() + 1.0);
            if (attention - 1.0).abs() > 1e-6 {
                own("rope.scaling.attn_factor", Value::F32(attention));
            }
        }
    }
    if let Some(matrix) = importance {
        entries.extend(importance_entries(matrix));
    }
    match vocabulary {
        Some(vocabulary) => entries.extend(tokenizer_entries(vocabulary)),
        None => entries.push(("tokenizer.ggml.model".to_owned(), Value::String(NO_VOCABULARY.into()))),
    }
    Ok(entries)
}

/// What llama.cpp's quantizer says of the importance matrix that it was given.
fn importance_entries(matrix: &ImportanceMatrix) -> Vec<(String, Value)> {
    let text = |text: String| Some(Value::String(text));
    let entries = [
        ("file", matrix.path.as_ref().and_then(|path| text(path.display().to_string()))),
        ("dataset", matrix.datasets.first().cloned().and_then(text)),
        ("entries_count", u32::try_from(matrix.tensors.len()).ok().map(Value::U32)),
        ("chunks_count", matrix.chunks.map(Value::U32)),
    ];
    entries.into_iter().filter_map(|(key, value)| Some((format!("quantize.imatrix.{key}"), value?))).collect()
}

/// Writes a GGUF file that holds a vocabulary and nothing else, as llama.cpp reads with `vocab_only`.
///
/// # Errors
/// A file that cannot be written.
pub fn write_gguf_vocabulary(path: &Path, vocabulary: GgufVocabulary) -> Result<()> {
    let architecture = ("general.architecture".to_owned(), Value::String("llama".into()));
    let metadata: Vec<_> = std::iter::once(architecture).chain(tokenizer_entries(vocabulary)).collect();
    write_gguf(path, &metadata, &[], |_, _| Ok(()))
}

fn tokenizer_entries(vocabulary: GgufVocabulary) -> Vec<(String, Value)> {
    let strings = |list: Vec<String>| Value::Array(Array::Strings(list.iter().collect()));
    let id = |id: Option<u32>| id.map(Value::U32);
    let is_gpt2 = vocabulary.model == "gpt2";
    let entries = [
        ("model", Some(Value::String(vocabulary.model))),
        ("pre", Some(Value::String(vocabulary.pre.unwrap_or_else(|| "default".into())))),
        ("tokens", Some(strings(vocabulary.tokens))),
        ("scores", (!is_gpt2).then_some(Value::Array(Array::F32(vocabulary.scores)))),
        ("token_type", Some(Value::Array(Array::I32(vocabulary.token_types)))),
        ("merges", is_gpt2.then(|| strings(vocabulary.merges))),
        ("bos_token_id", id(vocabulary.bos_id)),
        ("eos_token_id", id(vocabulary.eos_id)),
        ("eot_token_id", id(vocabulary.eot_id)),
        ("unknown_token_id", id(vocabulary.unk_id)),
        ("padding_token_id", id(vocabulary.pad_id)),
        ("add_bos_token", vocabulary.add_bos.map(Value::Bool)),
        ("add_eos_token", vocabulary.add_eos.map(Value::Bool)),
        ("add_space_prefix", vocabulary.add_space_prefix.map(Value::Bool)),
    ];
    let own = entries.into_iter().filter_map(|(key, value)| Some((format!("tokenizer.ggml.{key}"), value?)));
    let template =
        vocabulary.chat_template.map(|text| ("tokenizer.chat_template".to_owned(), Value::String(text)));
    own.chain(template).collect()
}
