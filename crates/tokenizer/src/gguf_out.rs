//! The vocabulary as a GGUF file has it: the reverse of [`crate::gguf`], for writing one.
//!
//! A `tokenizer.json` says how text is cut by regular expressions; GGUF has names for the ways that llama.cpp knows, so
//! another way is an error. The scores of a sentencepiece vocabulary are the order of its merges, which is all that they
//! decide.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use crate::gguf::{GPT2, PRE_TOKENIZATIONS};
use crate::sentencepiece::{BYTE, CONTROL, DummyPrefix, NORMAL, UNKNOWN, UNUSED, USER_DEFINED};
use crate::{Error, GgufVocabulary, Result, Tokenizer};

/// Of tokens that no merge makes.
const LOWEST_SCORE: f32 = -1e6;

impl Tokenizer {
    /// The `tokenizer.ggml.*` values of a vocabulary for a model with `rows` rows of embeddings: ids without a token
    /// become unused ones, and tokens without a row are left out, because llama.cpp wants a token for each row.
    ///
    /// # Errors
    /// Text that is cut in a way that llama.cpp has no name for.
    pub fn to_gguf(&self, rows: usize) -> Result<GgufVocabulary> {
        let failed = |message: String| Error::Gguf(message);
        let has_row = |id: &u32| (*id as usize) < rows;
        let mut vocabulary = GgufVocabulary {
            tokens: (0..rows).map(|id| self.token_text(id as u32).unwrap_or(format!("[PAD{id}]"))).collect(),
            token_types: (0..rows).map(|id| self.token_type(id as u32)).collect(),
            bos_id: self.settings.bos.filter(has_row),
            eos_id: self.settings.eos.filter(has_row),
            unk_id: self.settings.unk.filter(has_row),
            pad_id: self.settings.pad.filter(has_row),
            eot_id: self.settings.end_of_turn.filter(has_row),
            add_bos: Some(self.settings.add_bos),
            add_eos: Some(self.settings.add_eos),
            chat_template: self.settings.chat_template.clone(),
            ..GgufVocabulary::default()
        };
        if let Some(sentencepiece) = &self.sentencepiece {
            if !sentencepiece.is_bpe_with_bytes() {
                let reason = "llama.cpp reads sentencepiece vocabularies only if they are BPE with bytes";
                return Err(failed(reason.into()));
            }
            let score = |id| sentencepiece.score(id).unwrap_or(LOWEST_SCORE);
            vocabulary.model = "llama".into();
            vocabulary.scores = (0..rows as u32).map(score).collect();
            vocabulary.add_space_prefix = Some(sentencepiece.has_dummy_prefix());
            let joined = sentencepiece.joined_characters();
            for (token, kind) in vocabulary.tokens.iter().zip(&mut vocabulary.token_types) {
                if *kind == USER_DEFINED && stands_alone(token, &joined) {
                    *kind = NORMAL;
                }
            }
            return Ok(vocabulary);
        }
        let json = self.tokenizer_json()?;
        let json: Value = serde_json::from_slice(&json).map_err(|error| failed(error.to_string()))?;
        let merges = merges(&json["model"]["merges"]);
        if json["model"]["byte_fallback"] == true {
            vocabulary.model = "llama".into();
            vocabulary.scores = scores(&vocabulary.tokens, &merges);
            vocabulary.add_space_prefix = Some(has_space_prefix(&json));
            for (id, token) in vocabulary.tokens.iter().enumerate() {
                if is_byte(token) && vocabulary.token_types[id] == NORMAL {
                    vocabulary.token_types[id] = BYTE;
                }
            }
            if let Some(id) = vocabulary.unk_id {
                vocabulary.token_types[id as usize] = UNKNOWN;
            }
        } else {
            vocabulary.model = "gpt2".into();
            vocabulary.pre = Some(pre_tokenization(&json["pre_tokenizer"]).map_err(failed)?.to_owned());
            vocabulary.merges = merges.into_iter().map(|(left, right)| format!("{left} {right}")).collect();
        }
        Ok(vocabulary)
    }

    /// Where llama.cpp gives some texts other ids than this vocabulary, whatever a GGUF file says: sentences for the user.
    pub fn differences_in_llama_cpp(&self) -> Vec<&'static str> {
        let mut differences = Vec::new();
        let normalizes = match &self.sentencepiece {
            Some(sentencepiece) => sentencepiece.normalizes(),
            None => self.decoding.is_byte_level() && self.inner.get_normalizer().is_some(),
        };
        if normalizes {
            differences.push(
                "llama.cpp normalizes no texts, as this vocabulary does: where that changes a text, its ids there are \
                 others; normalize texts before they come there",
            );
        }
        if self.sentencepiece.as_ref().is_some_and(|pieces| pieces.dummy_prefix == DummyPrefix::First) {
            differences.push(
                "llama.cpp puts a space before text behind a special token, which this vocabulary does not \
                 (`legacy` is false)",
            );
        }
        if let Some(sentencepiece) = self.sentencepiece.as_ref().filter(|pieces| pieces.has_dummy_prefix()) {
            let joined = sentencepiece.joined_characters();
            if sentencepiece.user_defined_texts().any(|text| !stands_alone(text, &joined)) {
                differences.push(
                    "llama.cpp puts a space before text behind a user-defined piece, which sentencepiece does not",
                );
            }
        }
        if self.decoding.is_byte_level() && (0..=u8::MAX).any(|byte| self.byte_id(byte).is_none()) {
            differences.push(
                "the vocabulary has no token for some bytes: what stands around such a byte is joined here, as in the \
                 tokenizers library, and kept apart by llama.cpp",
            );
        }
        differences
    }

    fn token_type(&self, id: u32) -> i32 {
        let kind = self.sentencepiece.as_ref().and_then(|pieces| pieces.kind(id)).unwrap_or(NORMAL);
        if matches!(kind, UNKNOWN | CONTROL | BYTE) {
            return kind;
        }
        match self.added_token(id) {
            Some(token) if token.special => CONTROL,
            _ if kind != NORMAL => kind,
            Some(_) => USER_DEFINED,
            None if self.token_text(id).is_none() => UNUSED,
            None => NORMAL,
        }
    }
}

/// Whether a user-defined piece is a character that no piece joins to others, so that it stays whole as a normal one too:
/// behind a user-defined one llama.cpp would put a space.
fn stands_alone(token: &str, joined: &HashSet<char>) -> bool {
    let mut characters = token.chars();
    matches!((characters.next(), characters.next()), (Some(only), None) if !joined.contains(&only))
}

/// Pairs of tokens, which files have as a list or with a space between.
fn merges(value: &Value) -> Vec<(String, String)> {
    let pair = |merge: &Value| match merge {
        Value::String(line) => line.split_once(' ').map(|(left, right)| (left.to_owned(), right.to_owned())),
        pair => Some((pair[0].as_str()?.to_owned(), pair[1].as_str()?.to_owned())),
    };
    value.as_array().into_iter().flatten().filter_map(pair).collect()
}

/// The earlier a merge makes a token, the higher its score.
fn scores(tokens: &[String], merges: &[(String, String)]) -> Vec<f32> {
    let mut ranks: HashMap<String, usize> = HashMap::new();
    for (left, right) in merges {
        let next = ranks.len();
        ranks.entry(format!("{left}{right}")).or_insert(next);
    }
    tokens.iter().map(|token| ranks.get(token).map_or(LOWEST_SCORE, |rank| -(*rank as f32))).collect()
}

/// `<0x0A>`.
fn is_byte(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

/// Whether a space is put before each text.
fn has_space_prefix(json: &Value) -> bool {
    let prepends = |value: &Value| {
        value["type"] == "Prepend" || value["prepend_scheme"].as_str().is_some_and(|scheme| scheme != "never")
    };
    let parts =
        |value: &Value, list: &str| value[list].as_array().is_some_and(|parts| parts.iter().any(prepends));
    let (normalizer, cut) = (&json["normalizer"], &json["pre_tokenizer"]);
    prepends(normalizer) || parts(normalizer, "normalizers") || prepends(cut) || parts(cut, "pretokenizers")
}

/// llama.cpp's name for the way that text is cut.
fn pre_tokenization(value: &Value) -> Result<&'static str, String> {
    let single = [value.clone()];
    let parts = value["pretokenizers"].as_array().map_or(&single[..], Vec::as_slice);
    let mut patterns = Vec::new();
    let mut has_bytes = false;
    for part in parts {
        match part["type"].as_str() {
            Some("Split") => {
                let pattern = part["pattern"]["Regex"].as_str().or(part["pattern"]["String"].as_str());
                patterns.push(pattern.unwrap_or_default());
            }
            Some("Digits") if part["individual_digits"] == true => patterns.push(r"\p{N}"),
            Some("Digits") => patterns.push(r"\p{N}+"),
            Some("ByteLevel") => {
                has_bytes = true;
                if part["use_regex"] != false {
                    patterns.push(GPT2);
                }
            }
            _ => {}
        }
    }
    if !has_bytes {
        return Err("it is neither byte-level nor sentencepiece BPE with bytes, which llama.cpp reads".into());
    }
    let known = PRE_TOKENIZATIONS.iter().find(|pre| pre.patterns == patterns);
    known.and_then(|pre| pre.names.first().copied()).ok_or_else(|| {
        let known: Vec<&str> = PRE_TOKENIZATIONS.iter().map(|pre| pre.names[0]).collect();
        format!("llama.cpp has no name for the way that it cuts text; it has {}", known.join(", "))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::SpecialTokens;

    /// Texts that are cut in many ways.
    const TEXTS: [&str; 4] = [
        "The lathe's 1234 rpm, isn't it?",
        "数控机床 2024 年\n\n  车床",
        " leading  spaces\tand ▁ 😀é",
        "<|im_end|>x",
    ];

    #[test]
    fn a_vocabulary_written_for_gguf_and_read_again_gives_the_same_ids() {
        let data = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/tokenizers"));
        if !data.is_dir() {
            println!("skipped: ../shared/data is not there");
            return;
        }
        for (name, model, pre) in [
            ("smollm", "gpt2", Some("smollm")),
            ("minimind", "gpt2", Some("gpt-2")),
            ("llama3", "gpt2", Some("llama-bpe")),
            ("llama2", "llama", None),
        ] {
            let tokenizer = Tokenizer::open(&data.join(name)).unwrap();
            let rows = tokenizer.vocabulary_size() + 3;
            let vocabulary = tokenizer.to_gguf(rows).unwrap();
            assert_eq!((vocabulary.model.as_str(), vocabulary.pre.as_deref()), (model, pre), "{name}");
            assert_eq!(vocabulary.tokens.len(), rows);
            let again = Tokenizer::from_gguf(vocabulary).unwrap();
            for text in TEXTS {
                for special in [SpecialTokens::Parse, SpecialTokens::AsText] {
                    let expected = tokenizer.encode(text, special).unwrap();
                    assert_eq!(again.encode(text, special).unwrap(), expected, "{name}: {text}");
                }
            }
            assert_eq!(again.adds_bos(), tokenizer.adds_bos(), "{name}");
            assert_eq!((again.bos_id(), again.eos_id()), (tokenizer.bos_id(), tokenizer.eos_id()), "{name}");
        }
    }
}
