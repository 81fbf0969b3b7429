//! tiktoken's rank files: each line a token in base64 and its rank, which is its id; of two neighbours those are joined
//! first whose token ranks lowest.
//!
//! Such a file says neither how a text is cut before, nor which special tokens there are: that is known here for the
//! files of Qwen and of Llama 3, which their number of ranks tells apart; a `tokenizer_config.json` beside it may name
//! other special tokens. Nothing is written in this format.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::NFC;
use tokenizers::tokenizer::AddedToken;

use crate::bytes::alphabet;
use crate::gguf::{LLAMA3, QWEN2, around, byte_level_tokenizer};
use crate::model_file::{Vocabulary, config_tokens};
use crate::tokenizer::Settings;

/// What the file itself does not say.
struct Family {
    name: &'static str,
    ranks: usize,
    pattern: &'static str,
    /// Texts are composed (NFC) first.
    composes: bool,
    begin: Option<&'static str>,
    end: &'static str,
    special: fn() -> Vec<String>,
}

const FAMILIES: [Family; 2] = [
    Family {
        name: "Qwen",
        ranks: 151_643,
        pattern: QWEN2,
        composes: true,
        begin: None,
        end: "<|endoftext|>",
        special: || {
            let named = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(str::to_owned);
            named.into_iter().chain((0..205).map(|index| format!("<|extra_{index}|>"))).collect()
        },
    },
    Family {
        name: "Llama 3",
        ranks: 128_000,
        pattern: LLAMA3,
        composes: false,
        begin: Some("<|begin_of_text|>"),
        end: "<|end_of_text|>",
        special: || {
            let reserved = |index: u32| format!("<|reserved_special_token_{index}|>");
            let mut tokens = vec!["<|begin_of_text|>".to_owned(), "<|end_of_text|>".to_owned()];
            tokens.extend((0..4).map(reserved));
            tokens.extend(["<|start_header_id|>", "<|end_header_id|>"].map(str::to_owned));
            tokens.extend([reserved(4), "<|eot_id|>".to_owned()]);
            tokens.extend((5..251).map(reserved));
            tokens
        },
    },
];

/// Whether the bytes begin with a token in base64 and its rank.
pub(crate) fn is_tiktoken(bytes: &[u8]) -> bool {
    let line = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
    line.len() < 4096 && std::str::from_utf8(line).is_ok_and(|line| rank(line.trim_end()).is_some())
}

/// The vocabulary of a rank file with the special tokens of its family, or of the configuration beside it.
pub(crate) fn tiktoken_vocabulary(bytes: &[u8], config: &Map<String, Value>) -> Result<Vocabulary, String> {
    let ranks = ranks(bytes)?;
    let family = FAMILIES.iter().find(|family| family.ranks == ranks.len()).ok_or_else(|| {
        let known = FAMILIES.map(|family| format!("{} ({} ranks)", family.name, family.ranks)).join(" and ");
        format!(
            "a tiktoken vocabulary of {} ranks: how it cuts text is not in the file, and known only for {known}; \
             give the model's tokenizer.json",
            ranks.len()
        )
    })?;
    let alphabet = alphabet();
    let written =
        |token: &[u8]| -> String { token.iter().map(|&byte| alphabet[usize::from(byte)]).collect() };
    let mut merges: Vec<(u32, u32, u32)> = Vec::with_capacity(2 * ranks.len());
    let mut ids = HashMap::with_capacity(ranks.len());
    for (id, token) in (0..).zip(&ranks) {
        if ids.insert(token.as_slice(), id).is_some() {
            return Err(format!("the token of rank {id} stands twice"));
        }
    }
    if let Some(byte) = (0..=u8::MAX).find(|byte| !ids.contains_key(&[*byte][..])) {
        return Err(format!("the byte {byte:#04x} has no rank"));
    }
    // Any two tokens that make a third are joined when its turn comes.
    for (id, token) in (0..).zip(&ranks) {
        let halves = (1..token.len()).map(|at| token.split_at(at));
        let known = halves.filter_map(|(left, right)| Some((id, *ids.get(left)?, *ids.get(right)?)));
        merges.extend(known);
    }
    merges.sort_unstable();
    let text = |id: u32| written(&ranks[id as usize]);
    let merges = merges.into_iter().map(|(_, left, right)| (text(left), text(right))).collect();
    let vocabulary: Vocab = (0..).zip(&ranks).map(|(id, token)| (written(token), id)).collect();
    // A piece that is a token as a whole is looked up, not merged.
    let model = BPE::builder().vocab_and_merges(vocabulary, merges).ignore_merges(true);
    let model = model.build().map_err(|error| error.to_string())?;
    let mut inner = byte_level_tokenizer(model, &[family.pattern])?;
    if family.composes {
        inner.with_normalizer(Some(NFC)).map_err(|error| error.to_string())?;
    }
    let first = ranks.len() as u32;
    let named = (family.special)().into_iter().map(|text| AddedToken::from(text, true).normalized(false));
    let mut added: BTreeMap<u32, AddedToken> = (first..).zip(named).collect();
    let configured = config_tokens(config)?;
    if !configured.is_empty() {
        added = configured;
    }
    for (id, token) in added {
        let text = token.content.clone();
        inner.add_tokens([token]).map_err(|error| error.to_string())?;
        if inner.token_to_id(&text) != Some(id) {
            return Err(format!(
                "the configuration beside it gives `{text}` the id {id}, which is not the next after {first} ranks"
            ));
        }
    }
    let id = |text: &str| inner.token_to_id(text);
    let (bos, eos) = (family.begin.and_then(id), id(family.end));
    let before = bos.and_then(|bos| Some((family.begin?.to_owned(), bos)));
    inner.with_post_processor(around(before, None)?);
    let own = Settings { bos, eos, ..Settings::default() };
    Ok(Vocabulary { inner, sentencepiece: None, own, before: bos, after: None })
}

/// The tokens by rank.
fn ranks(bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| format!("not a tiktoken vocabulary: {error}"))?;
    let mut ranks = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let line_number = index + 1;
        let (token, rank) = rank(line.trim_end()).ok_or_else(|| {
            format!(
                "line {line_number} is no token in base64 with its rank: the tiktoken vocabulary is damaged"
            )
        })?;
        if rank != ranks.len() {
            return Err(format!("line {line_number} has the rank {rank}; expected {}", ranks.len()));
        }
        ranks.push(token);
    }
    Ok(ranks)
}

/// The token and the rank of a line.
fn rank(line: &str) -> Option<(Vec<u8>, usize)> {
    let (token, rank) = line.split_once(' ')?;
    let token = from_base64(token).filter(|token| !token.is_empty())?;
    Some((token, rank.bytes().all(|byte| byte.is_ascii_digit()).then(|| rank.parse().ok())??))
}

/// The bytes that padded base64 (RFC 4648) stands for.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    if !text.len().is_multiple_of(4) || text.len() - digits.len() > 2 {
        return None;
    }
    let (mut bytes, mut bits, mut count) = (Vec::with_capacity(text.len()), 0u32, 0);
    for digit in digits.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        (bits, count) = (bits << 6 | u32::from(value), count + 6);
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_as_it_is_defined() {
        for (text, bytes) in [("IQ==", "!"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYmE=", "fooba"), ("", "")]
        {
            assert_eq!(from_base64(text).unwrap(), bytes.as_bytes());
        }
        assert_eq!(from_base64("4rqf").unwrap(), "⺟".as_bytes());
        for wrong in ["Zg", "Zg=", "Z===", "Zm9*", "Zg==Zg=="] {
            assert_eq!(from_base64(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_family_is_known_by_its_first_special_tokens() {
        let [qwen, llama] = FAMILIES.map(|family| (family.special)());
        assert_eq!((qwen.len(), llama.len()), (208, 256));
        assert_eq!((llama[6].as_str(), llama[9].as_str()), ("<|start_header_id|>", "<|eot_id|>"));
        assert_eq!(llama[255], "<|reserved_special_token_250|>");
    }
}
