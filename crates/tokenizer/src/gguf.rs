//! The vocabulary inside a GGUF file, from the plain values of its `tokenizer.ggml.*` metadata.
//!
//! Two of the models that llama.cpp knows: `gpt2` (byte-level BPE with merges) and `llama` (sentencepiece BPE with
//! scores), turned into what `tokenizer.json` and sentencepiece's `.model` files have. Reads no file itself.

use crate::files::SENTENCEPIECE;
use crate::model_file::without_merges;
use crate::sentencepiece::{CONTROL, ModelFile, UNKNOWN, USER_DEFINED, model_of_gguf};
use crate::tokenizer::{END_OF_TURN, Settings};
use crate::{Error, Result, Tokenizer};
use std::collections::HashMap;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::{
    PreTokenizerWrapper,
    byte_level::ByteLevel,
    sequence::Sequence as PreTokenizerSequence,
    split::{Split, SplitPattern},
};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::tokenizer::{AddedToken, SplitDelimiterBehavior};

pub(crate) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";
pub(crate) const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
pub(crate) const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Escapes where Unicode normalization of this file would change a letter.
const DEEPSEEK_LETTERS: &str = r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\x{1F7D}ᾀ-ᾴᾶ-ᾼ\x{1FBE}ῂ-ῄῆ-ῌῐ-\x{1FD3}ῖ-\x{1FDB}ῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\x{2126}ℨ\x{212A}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";

/// How `tokenizer.ggml.pre` cuts text before BPE: each pattern cuts the pieces of the one before.
pub(crate) struct PreTokenization {
    pub(crate) names: &'static [&'static str],
    pub(crate) patterns: &'static [&'static str],
    /// A piece that is a token as a whole is taken without merging.
    ignore_merges: bool,
    /// BOS before a text unless the file says otherwise.
    add_bos: bool,
}

pub(crate) const PRE_TOKENIZATIONS: [PreTokenization; 6] = [
    PreTokenization {
        names: &["default"],
        patterns: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
        ignore_merges: false,
        add_bos: false,
    },
    PreTokenization { names: &["gpt-2"], patterns: &[GPT2], ignore_merges: false, add_bos: false },
    PreTokenization {
        names: &["llama-bpe", "llama3", "llama-v3"],
        patterns: &[LLAMA3],
        ignore_merges: true,
        add_bos: true,
    },
    PreTokenization { names: &["qwen2"], patterns: &[QWEN2], ignore_merges: false, add_bos: false },
    PreTokenization { names: &["smollm"], patterns: &[r"\p{N}", GPT2], ignore_merges: false, add_bos: false },
    PreTokenization {
        names: &["deepseek-llm"],
        patterns: &[
            r"[\r\n]",
            DEEPSEEK_LETTERS,
            r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
            r"\s+$",
            r"[一-龥ࠀ-一가-퟿]+",
            r"\p{N}+",
        ],
        ignore_merges: false,
        add_bos: false,
    },
];

/// The `tokenizer.ggml.*` metadata of a GGUF file; absent arrays are empty, absent values `None`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GgufVocabulary {
    /// `model`: `gpt2` or `llama`.
    pub model: String,
    /// `pre`: how text is cut before BPE (`gpt2` only; absent means `default`).
    pub pre: Option<String>,
    /// `tokens`, by id.
    pub tokens: Vec<String>,
    /// `scores`, by id (`llama` only).
    pub scores: Vec<f32>,
    /// `token_type`, by id: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub token_types: Vec<i32>,
    /// `merges`, two tokens with a space between, best first (`gpt2` only).
    pub merges: Vec<String>,
    /// `bos_token_id`.
    pub bos_id: Option<u32>,
    /// `eos_token_id`.
    pub eos_id: Option<u32>,
    /// `unknown_token_id`.
    pub unk_id: Option<u32>,
    /// `padding_token_id`.
    pub pad_id: Option<u32>,
    /// `eot_token_id`: ends a turn.
    pub eot_id: Option<u32>,
    /// `add_bos_token`.
    pub add_bos: Option<bool>,
    /// `add_eos_token`.
    pub add_eos: Option<bool>,
    /// `add_space_prefix` (`llama` only; default true).
    pub add_space_prefix: Option<bool>,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
}

impl Tokenizer {
    /// Builds the vocabulary of a GGUF file.
    ///
    /// # Errors
    /// An unknown `model` or `pre` (with the known ones), lists whose lengths differ, merges of unknown tokens.
    pub fn from_gguf(vocabulary: GgufVocabulary) -> Result<Self> {
        build(vocabulary).map_err(Error::Gguf)
    }
}

fn build(mut vocabulary: GgufVocabulary) -> Result<Tokenizer, String> {
    let size = vocabulary.tokens.len();
    if size == 0 {
        return Err("`tokenizer.ggml.tokens` is missing or empty".into());
    }
    let types = vocabulary.token_types.len();
    if types != 0 && types != size {
        return Err(format!("`tokenizer.ggml.token_type` has {types} entries for {size} tokens"));
    }
    let mut ids: HashMap<String, u32> = HashMap::with_capacity(size);
    for (id, token) in vocabulary.tokens.iter_mut().enumerate() {
        if token.is_empty() {
            // A map from text to id has room for one empty text only, and none can ever be encoded.
            *token = format!("[EMPTY_{id}]");
        }
        if let Some(first) = ids.insert(token.clone(), id as u32) {
            return Err(format!("token `{token}` stands twice in `tokenizer.ggml.tokens`: {first} and {id}"));
        }
    }
    // Whatever the file says, as llama.cpp.
    for (kind, token) in vocabulary.token_types.iter_mut().zip(&vocabulary.tokens) {
        if *kind == USER_DEFINED && (END_OF_TURN.contains(&token.as_str()) || token == "</s>") {
            *kind = CONTROL;
        }
    }
    for (key, id) in [
        ("bos_token_id", &mut vocabulary.bos_id),
        ("eos_token_id", &mut vocabulary.eos_id),
        ("unknown_token_id", &mut vocabulary.unk_id),
        ("padding_token_id", &mut vocabulary.pad_id),
        ("eot_token_id", &mut vocabulary.eot_id),
    ] {
        // Older files write -1 for a token that there is not.
        *id = id.filter(|&id| id != u32::MAX);
        if let Some(id) = id.filter(|&id| id as usize >= size) {
            return Err(format!("`tokenizer.ggml.{key}` is {id}, but there are {size} tokens"));
        }
    }
    let (mut inner, cutting, files, add_bos) = match vocabulary.model.as_str() {
        "gpt2" => {
            let (inner, add_bos) = byte_level(&vocabulary, ids)?;
            (inner, None, Vec::new(), add_bos)
        }
        "llama" => {
            // The places that sentencepiece gives them by default.
            let default = |id: u32, kind| Some(id).filter(|_| vocabulary.kind(id as usize) == kind);
            let (unk, bos, eos) = (default(0, UNKNOWN), default(1, CONTROL), default(2, CONTROL));
            vocabulary.unk_id = vocabulary.unk_id.or(unk);
            vocabulary.bos_id = vocabulary.bos_id.or(bos);
            vocabulary.eos_id = vocabulary.eos_id.or(eos);
            let scores = vocabulary.scores.len();
            if scores != size {
                return Err(format!("`tokenizer.ggml.scores` has {scores} entries for {size} tokens"));
            }
            let bytes = model_of_gguf(&vocabulary);
            let ModelFile { sentencepiece, .. } = ModelFile::parse(&bytes)?;
            let unk = vocabulary.unk_id.map(|id| vocabulary.tokens[id as usize].clone());
            let inner = without_merges(ids, unk, &sentencepiece)?;
            (inner, Some(sentencepiece), vec![(SENTENCEPIECE.to_owned(), bytes)], true)
        }
        other => {
            return Err(format!("`tokenizer.ggml.model` is `{other}`; known are `gpt2` and `llama`"));
        }
    };
    let named = [vocabulary.bos_id, vocabulary.eos_id, vocabulary.pad_id, vocabulary.eot_id];
    let added = (0..size).filter_map(|id| {
        let special = matches!(vocabulary.kind(id), UNKNOWN | CONTROL)
            || named.iter().flatten().any(|&named| named as usize == id);
        let text = vocabulary.tokens[id].clone();
        (special || vocabulary.kind(id) == USER_DEFINED)
            .then(|| AddedToken::from(text, special).normalized(false))
    });
    let added: Vec<AddedToken> = added.collect();
    inner.add_tokens(added).map_err(|error| error.to_string())?;
    let settings = Settings {
        bos: vocabulary.bos_id,
        eos: vocabulary.eos_id,
        pad: vocabulary.pad_id,
        unk: vocabulary.unk_id,
        end_of_turn: vocabulary.eot_id,
        add_bos: vocabulary.bos_id.is_some() && vocabulary.add_bos.unwrap_or(add_bos),
        add_eos: vocabulary.eos_id.is_some() && vocabulary.add_eos.unwrap_or(false),
        chat_template: vocabulary.chat_template,
    };
    if cutting.is_none() {
        let text = |id: Option<u32>| id.map(|id| (vocabulary.tokens[id as usize].clone(), id));
        let before = text(settings.bos).filter(|_| settings.add_bos);
        let after = text(settings.eos).filter(|_| settings.add_eos);
        inner.with_post_processor(around(before, after)?);
    }
    Tokenizer::new(inner, cutting, settings, files)
}

impl GgufVocabulary {
    fn kind(&self, id: usize) -> i32 {
        self.token_types.get(id).copied().unwrap_or_default()
    }
}

/// A post-processor that puts these tokens around a text, for programs that read the saved files.
pub(crate) fn around(
    before: Option<(String, u32)>,
    after: Option<(String, u32)>,
) -> Result<Option<TemplateProcessing>, String> {
    if before.is_none() && after.is_none() {
        return Ok(None);
    }
    // As JSON, since the library's own template syntax cannot hold tokens with spaces or `$`.
    let piece = |token: &Option<(String, u32)>, segment: u32| {
        token.as_ref().map(|(text, _)| serde_json::json!({"SpecialToken": {"id": text, "type_id": segment}}))
    };
    let text =
        |name: &str, segment: u32| Some(serde_json::json!({"Sequence": {"id": name, "type_id": segment}}));
    let single: Vec<_> = [piece(&before, 0), text("A", 0), piece(&after, 0)].into_iter().flatten().collect();
    let second = [piece(&before, 1), text("B", 1), piece(&after, 1)].into_iter().flatten();
    let pair: Vec<_> = single.iter().cloned().chain(second).collect();
    let special = |(text, id): &(String, u32)| {
        (text.clone(), serde_json::json!({"id": text, "ids": [id], "tokens": [text]}))
    };
    let special: serde_json::Map<_, _> = [&before, &after].into_iter().flatten().map(special).collect();
    let template = serde_json::json!({
        "type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special
    });
    serde_json::from_value(template).map(Some).map_err(|error| error.to_string())
}

/// Byte-level BPE that cuts text by `patterns` in turn.
pub(crate) fn byte_level_tokenizer(model: BPE, patterns: &[&str]) -> Result<tokenizers::Tokenizer, String> {
    let mut cuts: Vec<PreTokenizerWrapper> = Vec::new();
    for pattern in patterns {
        let pattern = SplitPattern::Regex((*pattern).to_owned());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
            .map_err(|error| error.to_string())?;
        cuts.push(split.into());
    }
    let bytes = ByteLevel::new(false, true, false);
    cuts.push(bytes.into());
    let mut inner = tokenizers::Tokenizer::new(model);
    inner.with_pre_tokenizer(Some(PreTokenizerSequence::new(cuts)));
    inner.with_decoder(Some(bytes));
    Ok(inner)
}

fn byte_level(
    vocabulary: &GgufVocabulary,
    ids: HashMap<String, u32>,
) -> Result<(tokenizers::Tokenizer, bool), String> {
    let name = vocabulary.pre.as_deref().unwrap_or("default");
    let pre = PRE_TOKENIZATIONS.iter().find(|pre| pre.names.contains(&name)).ok_or_else(|| {
        let known: Vec<&str> = PRE_TOKENIZATIONS.iter().flat_map(|pre| pre.names).copied().collect();
        format!("`tokenizer.ggml.pre` is `{name}`; known are {}", known.join(", "))
    })?;
    if vocabulary.merges.is_empty() {
        return Err("`tokenizer.ggml.merges` is missing or empty".into());
    }
    let mut merges = Vec::with_capacity(vocabulary.merges.len());
    for (index, merge) in vocabulary.merges.iter().enumerate() {
        let pair = merge.split_once(' ').filter(|(left, right)| {
            [*left, right, &format!("{left}{right}")].into_iter().all(|token| ids.contains_key(token))
        });
        let (left, right) = pair.ok_or_else(|| {
            format!("`tokenizer.ggml.merges[{index}]` is `{merge}`; expected two tokens that make a third")
        })?;
        merges.push((left.to_owned(), right.to_owned()));
    }
    let model = BPE::builder().vocab_and_merges(ids.into_iter().collect::<Vocab>(), merges);
    let model = model.ignore_merges(pre.ignore_merges).build().map_err(|error| error.to_string())?;
    Ok((byte_level_tokenizer(model, pre.patterns)?, pre.add_bos))
}
