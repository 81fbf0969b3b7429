//! What a GGUF file says of its model: the configuration behind its architecture's keys, and the vocabulary.
//!
//! Architectures whose rows of q and k are stored with rotated pairs side by side are put back by
//! [`crate::checkpoint`].

use std::path::Path;

use danlu_formats::{Dtype, Gguf};
use danlu_tokenizer::GgufVocabulary;

use crate::families::{GGUF_NAMES, foreign};
use crate::gguf_out::NO_VOCABULARY;
use crate::names::{Extra, Role};
use crate::{AttentionBias, Config, Error, Family, Module, Result, RopeScaling, Yarn};

/// The factors of slow and fast frequencies, one for each pair, of a Llama 3.1.
const ROPE_FACTORS: &str = "rope_freqs.weight";

/// Tensors beside those of the model.
pub(crate) fn is_computed(name: &str) -> bool {
    name == ROPE_FACTORS
}

/// The families of `general.architecture`.
fn family(architecture: &str) -> Option<Family> {
    match architecture {
        "llama" => Some(Family::Llama),
        "qwen2" => Some(Family::Qwen2),
        "qwen3" => Some(Family::Qwen3),
        "internlm2" => Some(Family::InternLm2),
        "baichuan" => Some(Family::Baichuan),
        _ => None,
    }
}

/// Whether the rows of q and k are stored with rotated pairs side by side.
pub(crate) fn has_neighbouring_pairs(family: Family) -> bool {
    !matches!(family, Family::Qwen2 | Family::Qwen3)
}

pub(crate) fn gguf_config(gguf: &Gguf, path: &Path) -> Result<Config> {
    let error =
        |field: &str, reason: String| Error::Config { path: path.into(), field: field.into(), reason };
    let architecture = gguf.get_str("general.architecture")?.unwrap_or_default();
    let family = family(architecture).ok_or_else(|| {
        let expected = "`llama`, `qwen2`, `qwen3`, `internlm2` or `baichuan`";
        let sentence = foreign::sentence(architecture);
        let unknown = || format!("expected {expected}, found `{architecture}`");
        error("general.architecture", sentence.unwrap_or_else(unknown))
    })?;
    let key = |key: &str| format!("{architecture}.{key}");
    let optional = |name: &str| gguf.get_usize(&key(name));
    let number = |name: &str| -> Result<usize> {
        optional(name)?.ok_or_else(|| error(&key(name), "missing; expected a whole number".into()))
    };
    if let Some(experts) = optional("expert_count")?.filter(|&experts| experts > 0) {
        let reason = format!("expected a dense model, found {experts} experts; mixtures are not supported");
        return Err(error(&key("expert_count"), reason));
    }
    let max_position_embeddings = number("context_length")?;
    let sliding_window = optional("attention.sliding_window")?.filter(|&window| window > 0);
    let family = match (family, sliding_window) {
        (Family::Llama, Some(_)) => Family::Mistral,
        (Family::Llama, None) => family,
        (_, Some(window)) if window < max_position_embeddings => {
            let reason = format!("expected none for this architecture, found {window}");
            return Err(error(&key("attention.sliding_window"), reason));
        }
        _ => family,
    };
    let hidden_size = number("embedding_length")?;
    let num_attention_heads = number("attention.head_count")?;
    let head_dim = match optional("attention.key_length")? {
        Some(length) => length,
        None => optional("rope.dimension_count")?.unwrap_or(hidden_size / num_attention_heads.max(1)),
    };
    let embedding = gguf.tensors().find(|info| info.name == GGUF_NAMES.embedding);
    let vocab_size = embedding.and_then(|info| info.shape.first().copied()).unwrap_or(0);
    let alibi = family == Family::Baichuan && number("block_count")? == BAICHUAN_13B_LAYERS;
    let has = |extra: Extra| gguf.tensor(&GGUF_NAMES.of(Role::Extra(0, extra))).is_some();
    let attention_bias = match (has(Extra::Bias(Module::Query)), has(Extra::Bias(Module::Output))) {
        (false, _) => AttentionBias::None,
        (true, false) => AttentionBias::QueryKeyValue,
        (true, true) => AttentionBias::All,
    };
    let id = |key: &str| token_id(gguf, key);
    let mut config = Config {
        family,
        vocab_size,
        hidden_size,
        intermediate_size: number("feed_forward_length")?,
        num_hidden_layers: number("block_count")?,
        num_attention_heads,
        num_key_value_heads: optional("attention.head_count_kv")?.unwrap_or(num_attention_heads),
        head_dim,
        max_position_embeddings,
        rope_theta: f64::from(gguf.get_f32(&key("rope.freq_base"))?.unwrap_or(10_000.0)),
        rms_norm_eps: shortest(gguf.get_f32(&key("attention.layer_norm_rms_epsilon"))?.unwrap_or(1e-6)),
        sliding_window: sliding_window.filter(|_| family == Family::Mistral),
        alibi,
        attention_bias,
        mlp_bias: has(Extra::Bias(Module::Gate)),
        query_key_norm: has(Extra::QueryNorm),
        normalized_head: family == Family::Baichuan && vocab_size == BAICHUAN_2_VOCABULARY,
        tie_word_embeddings: gguf.tensor(GGUF_NAMES.head).is_none(),
        bos_token_id: id("tokenizer.ggml.bos_token_id")?,
        eos_token_ids: id("tokenizer.ggml.eos_token_id")?
            .into_iter()
            .chain(id("tokenizer.ggml.eot_token_id")?)
            .collect(),
        pad_token_id: id("tokenizer.ggml.padding_token_id")?,
        ..Config::default()
    };
    config.check(path)?;
    config.rope_scaling = rope_scaling(gguf, path, architecture, &config)?;
    config.check(path)?;
    Ok(config)
}

const BAICHUAN_13B_LAYERS: usize = 40;
/// Its head has rows of length one, in whatever length the file has them.
const BAICHUAN_2_VOCABULARY: usize = 125_696;

fn rope_scaling(gguf: &Gguf, path: &Path, architecture: &str, config: &Config) -> Result<RopeScaling> {
    let key = |name: &str| format!("{architecture}.rope.scaling.{name}");
    let error =
        |field: &str, reason: String| Error::Config { path: path.into(), field: field.into(), reason };
    let number = |name: &str| -> Result<Option<f64>> { Ok(gguf.get_f32(&key(name))?.map(shortest)) };
    let factor = || -> Result<f64> {
        number("factor")?.ok_or_else(|| error(&key("factor"), "missing; expected a number".into()))
    };
    match gguf.get_str(&key("type"))? {
        None | Some("none") => {}
        Some("linear") => return Ok(RopeScaling::Linear { factor: factor()? }),
        Some("yarn") => {
            let (original, factor) = (gguf.get_usize(&key("original_context_length"))?, factor()?);
            // llama.cpp multiplies it with what follows from the factor.
            let attention = number("yarn_attn_factor")?.or(number("attn_factor")?);
            let attention_factor = attention.map(|attention| attention * (0.1 * factor.ln() + 1.0));
            return Ok(RopeScaling::Yarn(Yarn {
                factor,
                original_max_position_embeddings: original.unwrap_or(config.max_position_embeddings),
                attention_factor,
                beta_fast: number("yarn_beta_fast")?.unwrap_or(32.0),
                beta_slow: number("yarn_beta_slow")?.unwrap_or(1.0),
                mscale: None,
                mscale_all_dim: None,
                truncate: true,
            }));
        }
        Some(kind) => {
            let reason = format!("expected `none`, `linear` or `yarn`, found `{kind}`");
            return Err(error(&key("type"), reason));
        }
    }
    let Some(factors) = gguf.tensor(ROPE_FACTORS) else { return Ok(RopeScaling::None) };
    let is_f32 = factors.info.dtype == Dtype::F32 && factors.info.shape == [config.head_dim / 2];
    let found: Vec<f32> = match is_f32 {
        true => factors.bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        false => Vec::new(),
    };
    // The file has what came of the settings, so the settings of the published models are tried.
    let plain = config.rope_frequencies(1);
    let gives = |scaling: &RopeScaling| {
        let scaled = Config { rope_scaling: *scaling, ..config.clone() }.rope_frequencies(1);
        let expected = plain.iter().zip(&scaled).map(|(plain, scaled)| plain / scaled);
        found.len() == plain.len()
            && expected.zip(&found).all(|(expected, found)| (expected - found).abs() <= 1e-3 * expected)
    };
    let published = [8.0, 32.0].map(|factor| RopeScaling::Llama3 {
        factor,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    });
    published.into_iter().find(gives).ok_or_else(|| Error::Tensor {
        path: path.into(),
        name: ROPE_FACTORS.into(),
        reason: "expected the frequency factors of Llama 3.1 (8) or 3.2 (32); others are not supported"
            .into(),
    })
}

/// 1e-5 stored as f32 reads back as 1e-5, not as 9.99999974e-6.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

/// The id of a special token; older files write -1 for one that there is not.
fn token_id(gguf: &Gguf, key: &str) -> Result<Option<u32>> {
    Ok(gguf.get_usize(key)?.and_then(|id| u32::try_from(id).ok()).filter(|&id| id != u32::MAX))
}

pub(crate) fn gguf_vocabulary(gguf: &Gguf) -> Result<Option<GgufVocabulary>> {
    let model = gguf.get_str("tokenizer.ggml.model")?;
    let Some(model) = model.filter(|model| *model != NO_VOCABULARY) else { return Ok(None) };
    let strings = |key: &str| -> Result<Vec<String>> {
        let strings = gguf.get_strings(key)?;
        Ok(strings
            .map(|list| list.iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect())
            .unwrap_or_default())
    };
    let id = |key: &str| token_id(gguf, key);
    Ok(Some(GgufVocabulary {
        model: model.to_owned(),
        pre: gguf.get_str("tokenizer.ggml.pre")?.map(str::to_owned),
        tokens: strings("tokenizer.ggml.tokens")?,
        scores: gguf.get_f32s("tokenizer.ggml.scores")?.map(<[f32]>::to_vec).unwrap_or_default(),
        token_types: gguf.get_i32s("tokenizer.ggml.token_type")?.map(<[i32]>::to_vec).unwrap_or_default(),
        merges: strings("tokenizer.ggml.merges")?,
        bos_id: id("tokenizer.ggml.bos_token_id")?,
        eos_id: id("tokenizer.ggml.eos_token_id")?,
        unk_id: id("tokenizer.ggml.unknown_token_id")?,
        pad_id: id("tokenizer.ggml.padding_token_id")?,
        eot_id: id("tokenizer.ggml.eot_token_id")?,
        add_bos: gguf.get_bool("tokenizer.ggml.add_bos_token")?,
        add_eos: gguf.get_bool("tokenizer.ggml.add_eos_token")?,
        add_space_prefix: gguf.get_bool("tokenizer.ggml.add_space_prefix")?,
        chat_template: gguf.get_str("tokenizer.chat_template")?.map(str::to_owned),
    }))
}
