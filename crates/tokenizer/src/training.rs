//! Training of a byte-level BPE vocabulary, Chinese first. Deterministic: the same texts give the same vocabulary.
//!
//! The finished vocabulary cuts text with the pattern that GGUF calls `qwen2`, so that llama.cpp can read it. For
//! counting, its pieces are cut further into short runs of one script: Chinese has no spaces, and without that every
//! clause would be its own word and memory would grow with the corpus. No token then mixes Chinese with other script.

use crate::bytes::alphabet;
use crate::gguf::{QWEN2, around, byte_level_tokenizer};
use crate::tokenizer::Settings;
use crate::{ChatTemplate, Error, Result, Tokenizer};
use std::sync::atomic::{AtomicU64, Ordering};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::{
    AddedToken, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, SplitDelimiterBehavior,
    Trainer,
};

/// Longest run of Chinese characters that is counted as one word, and so the longest Chinese token.
const LONGEST_CHINESE: usize = 8;
/// The same for all other text.
const LONGEST_OTHER: usize = 32;
/// A pair that occurs only once says nothing about the language.
const LEAST_COUNT: u64 = 2;
/// Pairs are counted in 31 bits by the library; no pair can occur more often than there are bytes.
const MOST_BYTES: u64 = i32::MAX as u64;

/// What a special token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenRole {
    /// Begins a text.
    Bos,
    /// Ends a text.
    Eos,
    /// Fills up batches elsewhere; never trained on.
    Pad,
    /// Stands for what cannot be written; a byte-level vocabulary never needs it.
    Unk,
}

/// A special token of a vocabulary to be trained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainedToken {
    /// The token's text, such as `<|im_end|>`.
    pub text: String,
    /// What it is for; none for a mere marker of a chat template.
    pub roles: Vec<TokenRole>,
}

/// How far training has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrainingProgress {
    /// Texts are being read and words counted; bytes so far.
    Reading {
        /// Bytes of text read.
        bytes: u64,
    },
    /// All texts are read; pairs are being merged.
    Merging {
        /// Different words that were counted.
        words: usize,
    },
}

/// Options of [`Tokenizer::train_byte_level_bpe`].
pub struct BpeTraining {
    /// Tokens in all: the special ones, 256 bytes, and merges. A small corpus may give fewer.
    pub vocabulary_size: usize,
    /// Special tokens; they get the ids 0, 1, 2, …
    pub special_tokens: Vec<TrainedToken>,
    /// Whether a raw text begins with BOS.
    pub add_bos: bool,
    /// Jinja source to store with the vocabulary.
    pub chat_template: Option<String>,
    /// Called after each text and at each change of phase, from any thread.
    pub progress: Option<Box<dyn Fn(TrainingProgress) + Send + Sync>>,
}

impl Default for BpeTraining {
    /// 6400 tokens with the special tokens and template of ChatML: BOS `<|im_start|>`, EOS `<|im_end|>`,
    /// padding `<|endoftext|>`.
    fn default() -> Self {
        let token = |text: &str, role| TrainedToken { text: text.into(), roles: vec![role] };
        Self {
            vocabulary_size: 6400,
            special_tokens: vec![
                token("<|endoftext|>", TokenRole::Pad),
                token("<|im_start|>", TokenRole::Bos),
                token("<|im_end|>", TokenRole::Eos),
            ],
            add_bos: false,
            chat_template: ChatTemplate::builtin("chatml").ok().map(|template| template.source().to_owned()),
            progress: None,
        }
    }
}

impl Tokenizer {
    /// Trains a byte-level BPE vocabulary on `texts`. Memory grows with the different short words, not with the text.
    ///
    /// # Errors
    /// A size below 256 bytes + special tokens, a special token given twice, no text, more than 2 GiB of text.
    pub fn train_byte_level_bpe(
        texts: impl Iterator<Item = String> + Send,
        options: &BpeTraining,
    ) -> Result<Self> {
        train(texts, options).map_err(Error::Training)
    }
}

fn train(texts: impl Iterator<Item = String> + Send, options: &BpeTraining) -> Result<Tokenizer, String> {
    let least = 256 + options.special_tokens.len();
    if options.vocabulary_size < least {
        let (size, special) = (options.vocabulary_size, options.special_tokens.len());
        return Err(format!(
            "a vocabulary of {size} is too small: 256 bytes and {special} special tokens need {least}"
        ));
    }
    let mut settings = Settings { chat_template: options.chat_template.clone(), ..Settings::default() };
    for (id, token) in options.special_tokens.iter().enumerate() {
        if token.text.is_empty() || options.special_tokens[..id].iter().any(|other| other.text == token.text)
        {
            return Err(format!("special token `{}` is empty or given twice", token.text));
        }
        for role in &token.roles {
            let slot = match role {
                TokenRole::Bos => &mut settings.bos,
                TokenRole::Eos => &mut settings.eos,
                TokenRole::Pad => &mut settings.pad,
                TokenRole::Unk => &mut settings.unk,
            };
            *slot = Some(id as u32);
        }
    }
    settings.add_bos = options.add_bos && settings.bos.is_some();

    let report = |progress| options.progress.iter().for_each(|report| report(progress));
    let read = AtomicU64::new(0);
    let texts = texts.take_while(|text| {
        let bytes = read.fetch_add(text.len() as u64, Ordering::Relaxed) + text.len() as u64;
        report(TrainingProgress::Reading { bytes });
        bytes <= MOST_BYTES
    });
    let special = options
        .special_tokens
        .iter()
        .map(|token| AddedToken::from(token.text.clone(), true).normalized(false));
    let special: Vec<AddedToken> = special.collect();
    let alphabet = alphabet();
    let mut trainer = BpeTrainer::builder()
        .vocab_size(options.vocabulary_size)
        .min_frequency(LEAST_COUNT)
        .show_progress(false)
        .special_tokens(special.clone())
        .initial_alphabet(alphabet.into_iter().collect())
        .build();
    let split = SplitPattern::Regex(QWEN2.into());
    let split =
        Split::new(split, SplitDelimiterBehavior::Isolated, false).map_err(|error| error.to_string())?;
    trainer.feed(texts, |text| words(text, &split, &alphabet)).map_err(|error| error.to_string())?;
    let read = read.into_inner();
    if read > MOST_BYTES {
        return Err(format!(
            "more than {MOST_BYTES} bytes of text: give a sample, which makes as good a vocabulary"
        ));
    }
    if read == 0 {
        return Err("there is no text to train on".into());
    }
    report(TrainingProgress::Merging { words: trainer.get_word_count() });
    let mut model = BPE::default();
    trainer.train(&mut model).map_err(|error| error.to_string())?;

    let mut inner = byte_level_tokenizer(model, &[QWEN2])?;
    inner.add_special_tokens(special).map_err(|error| error.to_string())?;
    let bos = settings.bos.filter(|_| settings.add_bos);
    let bos = bos.map(|id| (options.special_tokens[id as usize].text.clone(), id));
    inner.with_post_processor(around(bos, None)?);
    Tokenizer::new(inner, None, settings, Vec::new())
}

/// The words of a text for counting, written in the byte alphabet.
fn words(text: &str, split: &Split, alphabet: &[char; 256]) -> tokenizers::Result<Vec<String>> {
    let mut words = Vec::new();
    // Line by line, so that a whole book as one text needs little memory.
    for line in text.split_inclusive('\n') {
        let mut pieces = PreTokenizedString::from(line);
        split.pre_tokenize(&mut pieces)?;
        for (piece, _, _) in pieces.get_splits(OffsetReferential::Original, OffsetType::Byte) {
            let runs = runs(piece).into_iter();
            words.extend(
                runs.map(|run| -> String { run.bytes().map(|byte| alphabet[usize::from(byte)]).collect() }),
            );
        }
    }
    Ok(words)
}

/// Cuts a piece into runs of Chinese and of other characters, none longer than allowed.
fn runs(piece: &str) -> Vec<&str> {
    let mut runs = Vec::new();
    let (mut start, mut length, mut chinese) = (0, 0, false);
    for (at, character) in piece.char_indices() {
        let is_chinese = is_chinese(character);
        let longest = if chinese { LONGEST_CHINESE } else { LONGEST_OTHER };
        if length > 0 && (is_chinese != chinese || length == longest) {
            runs.push(&piece[start..at]);
            (start, length) = (at, 0);
        }
        chinese = is_chinese;
        length += 1;
    }
    runs.push(&piece[start..]);
    runs
}

/// Han characters, and kana, which run on in the same way.
fn is_chinese(character: char) -> bool {
    matches!(character, '\u{3040}'..='\u{30FF}' | '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}'
        | '\u{F900}'..='\u{FAFF}' | '\u{20000}'..='\u{3FFFF}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_short_and_of_one_script() {
        assert_eq!(runs("，一二三四五六七八九"), ["，", "一二三四五六七八", "九"]);
        assert_eq!(runs("GDP增长"), ["GDP", "增长"]);
        assert!(runs(&"a".repeat(100)).iter().all(|run| run.len() <= LONGEST_OTHER));
    }
}
