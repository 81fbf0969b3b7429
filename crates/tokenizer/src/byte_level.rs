//! Byte-level BPE for many texts: the same ids as the `tokenizers` crate, without its record of where each byte came from
//! and its strings, which take most of its time.
//!
//! It is built from what that crate has read, for the vocabularies whose parts are all known here; others stay with it.

use std::borrow::Cow;

use regex_automata::meta::Cache;
use serde::Deserialize;
use tokenizers::models::ModelWrapper;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::split::SplitPattern;
use tokenizers::tokenizer::{Model, NormalizedString, Normalizer, SplitDelimiterBehavior};

use crate::bytes::alphabet;
use crate::id_cache::{IdCache, PerThread};
use crate::pair_table::{Joined, PairTable};
use crate::word_pattern::WordPattern;

/// How GPT-2 cuts, which is the `ByteLevel` pre-tokenizer's own way.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// A rule that cuts a text into words; what it does not match is a word too.
#[derive(Debug)]
enum Cut {
    Pattern(WordPattern),
    /// Each digit alone.
    Digits,
}

#[derive(Debug)]
pub(crate) struct ByteLevel {
    /// Whether texts are composed (NFC) first.
    composes: bool,
    /// One after another.
    cuts: Vec<Cut>,
    /// The ids of single bytes; one without leaves nothing, as in that crate.
    bytes: [Option<u32>; 256],
    pairs: PairTable,
    /// Whether a word that is a token is one, however its parts are joined.
    whole_words: bool,
    alphabet: [char; 256],
    scratch: PerThread<Scratch>,
}

/// What a thread remembers of the texts that it cut.
#[derive(Default)]
struct Scratch {
    known: IdCache,
    /// Of each cut by a pattern.
    patterns: Vec<Option<Cache>>,
}

impl ByteLevel {
    /// `None` where the vocabulary has a part that is not known here.
    pub(crate) fn new(inner: &tokenizers::Tokenizer) -> Option<Self> {
        let composes = match inner.get_normalizer() {
            None => false,
            Some(NormalizerWrapper::NFC(_)) => true,
            Some(_) => return None,
        };
        let mut cuts = Vec::new();
        let mut is_byte_level = false;
        let steps = match inner.get_pre_tokenizer()? {
            PreTokenizerWrapper::Sequence(steps) => steps.as_ref(),
            one => std::slice::from_ref(one),
        };
        for step in steps {
            // Behind it, patterns would see the alphabet.
            if is_byte_level {
                return None;
            }
            match step {
                PreTokenizerWrapper::Digits(digits) if digits.individual_digits => cuts.push(Cut::Digits),
                PreTokenizerWrapper::Split(split) => {
                    let SplitPattern::Regex(pattern) = &split.pattern else { return None };
                    if split.invert || split.behavior != SplitDelimiterBehavior::Isolated {
                        return None;
                    }
                    cuts.push(Cut::Pattern(WordPattern::new(pattern)?));
                }
                PreTokenizerWrapper::ByteLevel(last) if !last.add_prefix_space => {
                    is_byte_level = true;
                    if last.use_regex {
                        cuts.push(Cut::Pattern(WordPattern::new(GPT2)?));
                    }
                }
                _ => return None,
            }
        }
        let ModelWrapper::BPE(model) = inner.get_model() else { return None };
        let is_plain = model.dropout.is_none()
            && model.continuing_subword_prefix.as_deref().is_none_or(str::is_empty)
            && model.end_of_word_suffix.as_deref().is_none_or(str::is_empty)
            && !model.byte_fallback;
        if !is_byte_level || !is_plain {
            return None;
        }
        let alphabet = alphabet();
        let bytes = alphabet.map(|character| model.token_to_id(character.encode_utf8(&mut [0; 4])));
        if bytes.contains(&None) && model.unk_token.is_some() {
            return None;
        }
        let whole_words = model.ignore_merges;
        Some(Self {
            composes,
            cuts,
            bytes,
            pairs: pairs(model)?,
            whole_words,
            alphabet,
            scratch: PerThread::default(),
        })
    }

    /// Whether texts are changed before they are cut.
    pub(crate) fn composes(&self) -> bool {
        self.composes
    }

    /// Adds the ids of a text without added tokens.
    pub(crate) fn encode(&self, text: &str, model: &ModelWrapper, ids: &mut Vec<u32>) {
        let text = self.normalize(text);
        self.scratch.with(|Scratch { known, patterns }| {
            patterns.resize_with(self.cuts.len(), || None);
            self.cut(&text, &self.cuts, patterns, model, known, ids);
        });
    }

    fn normalize<'a>(&self, text: &'a str) -> Cow<'a, str> {
        // Characters that stay as they are beside each other: before the combining marks, and those of Chinese.
        let is_composed = |character| matches!(character, ..'\u{300}' | '\u{2002}'..='\u{206F}' | '\u{3000}'..='\u{3029}' | '一'..='\u{9FFF}' | '\u{FF00}'..='\u{FFEF}');
        if !self.composes || text.chars().all(is_composed) {
            return Cow::Borrowed(text);
        }
        let mut normalized = NormalizedString::from(text);
        match tokenizers::normalizers::NFC.normalize(&mut normalized) {
            Ok(()) => Cow::Owned(normalized.get().to_owned()),
            Err(_) => Cow::Borrowed(text),
        }
    }

    /// Cuts by the first rule, its words by those behind it, and joins what remains.
    fn cut(
        &self,
        text: &str,
        cuts: &[Cut],
        patterns: &mut [Option<Cache>],
        model: &ModelWrapper,
        known: &mut IdCache,
        ids: &mut Vec<u32>,
    ) {
        let (Some((first, others)), Some((cache, caches))) = (cuts.split_first(), patterns.split_first_mut())
        else {
            known.extend(ids, text, |ids| self.join(text, model, ids));
            return;
        };
        let mut behind = 0;
        let mut word = |(start, end): (usize, usize)| {
            for range in [behind..start, start..end] {
                if !range.is_empty() {
                    self.cut(&text[range], others, caches, model, known, ids);
                }
            }
            behind = end;
        };
        match first {
            Cut::Pattern(pattern) => pattern.for_each(text, cache, &mut word),
            Cut::Digits => {
                let digits = text.match_indices(char::is_numeric);
                digits.for_each(|(start, digit)| word((start, start + digit.len())));
            }
        }
        word((text.len(), text.len()));
    }

    fn join(&self, word: &str, model: &ModelWrapper, ids: &mut Vec<u32>) {
        if self.whole_words {
            let written: String = word.bytes().map(|byte| self.alphabet[usize::from(byte)]).collect();
            if let Some(id) = model.token_to_id(&written) {
                ids.push(id);
                return;
            }
        }
        let start = ids.len();
        ids.extend(word.bytes().filter_map(|byte| self.bytes[usize::from(byte)]));
        self.pairs.join(ids, start);
    }
}

/// The merges of a vocabulary, which the crate gives away only as JSON.
fn pairs(model: &BPE) -> Option<PairTable> {
    #[derive(Deserialize)]
    struct Merges<'a> {
        #[serde(borrow)]
        merges: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    }
    let json = serde_json::to_string(model).ok()?;
    let Merges { merges } = serde_json::from_str(&json).ok()?;
    let mut joined = Vec::with_capacity(merges.len());
    let mut whole = String::new();
    for (rank, (left, right)) in (0..).zip(&merges) {
        whole.clear();
        whole.push_str(left);
        whole.push_str(right);
        let pair = (model.token_to_id(left)?, model.token_to_id(right)?);
        joined.push(Joined { pair, rank, id: model.token_to_id(&whole)? });
    }
    Some(PairTable::new(&joined))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::gguf::{GPT2, LLAMA3, QWEN2, byte_level_tokenizer};

    /// A vocabulary of all bytes but one, and merges in a made-up order.
    fn vocabulary(patterns: &[&str], ignore_merges: bool) -> tokenizers::Tokenizer {
        let written = |text: &str| text.bytes().map(|byte| alphabet()[usize::from(byte)]).collect::<String>();
        let mut tokens: Vec<String> =
            alphabet().iter().map(char::to_string).filter(|text| text != "z").collect();
        let mut merges = Vec::new();
        let half: String = written("数").chars().take(2).collect();
        let rest: String = written("数").chars().skip(2).collect();
        let space = written(" ");
        let pairs =
            [("a", "b"), ("1", "2"), (&half, &rest), ("b", "a"), ("ab", "ab"), (&space, "a"), ("a", "a")];
        for (left, right) in std::iter::once((&half[..2], &half[2..])).chain(pairs) {
            tokens.push(format!("{left}{right}"));
            merges.push((left.to_owned(), right.to_owned()));
        }
        tokens.push(written("abc"));
        let ids = tokens.into_iter().zip(0..).collect::<Vec<(String, u32)>>();
        let model = BPE::builder()
            .vocab_and_merges(ids.into_iter().collect::<tokenizers::models::bpe::Vocab>(), merges);
        byte_level_tokenizer(model.ignore_merges(ignore_merges).build().unwrap(), patterns).unwrap()
    }

    proptest! {
        #[test]
        fn ids_are_those_of_the_tokenizers_crate(text in "([abcz12 '\n!数控]|[^\\p{C}]){0,40}") {
            for (patterns, ignore_merges) in [(&[LLAMA3], true), (&[QWEN2], false), (&[GPT2], false)] {
                let inner = vocabulary(patterns, ignore_merges);
                let quick = ByteLevel::new(&inner).unwrap();
                let mut ids = Vec::new();
                quick.encode(&text, inner.get_model(), &mut ids);
                let expected = inner.encode(text.as_str(), false).unwrap();
                prop_assert_eq!(ids, expected.get_ids());
            }
        }
    }
}
