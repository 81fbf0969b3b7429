//! Training of vocabularies, Chinese first: byte-level BPE, and BPE and Unigram as sentencepiece has them.
//!
//! Deterministic: the same texts and options give the same vocabulary, on any number of threads. Words are counted in
//! bounded memory ([`words`]) and are short ([`word_splitter`]): Chinese has no spaces, and otherwise every clause would be
//! its own word and memory would grow with the corpus.

mod bpe;
mod model;
mod nmt_nfkc;
mod symbols;
mod unigram;
mod word_splitter;
mod words;

use crate::bytes::alphabet;
use crate::gguf::{QWEN2, around, byte_level_tokenizer};
use crate::tokenizer::Settings;
use crate::{ChatTemplate, Error, Result, Tokenizer};
use bpe::Ties;
use rayon::prelude::*;
use std::ops::ControlFlow;
use symbols::SymbolWords;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::tokenizer::AddedToken;
use word_splitter::{ByteLevel, WordRule, WordSplitter};
use words::Words;

/// A pair that occurs only once says nothing about the language.
const LEAST_COUNT: u64 = 2;
/// Text that is cut at once, by all threads.
const BATCH_BYTES: usize = 8 << 20;
/// Text that is cut by one thread, where lines allow.
const CHUNK_BYTES: usize = 128 << 10;
/// Text without an end of line that is cut wherever it may be.
const LONGEST_LINE: usize = 64 << 20;

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
    /// All texts are read.
    Counted {
        /// Different words that were counted.
        words: usize,
        /// How often rare words were halved in number to stay within memory.
        samplings: u32,
    },
    /// Tokens are being found (BPE, so many so far) or sorted out (Unigram, so many are left).
    Tokens {
        /// Tokens at this time.
        now: usize,
        /// Tokens that there will be.
        wanted: usize,
    },
}

/// How a vocabulary writes and cuts text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum VocabularyKind {
    /// BPE over bytes, as in GPT-2, Llama 3 and Qwen: a `tokenizer.json` file.
    #[default]
    ByteLevelBpe,
    /// BPE over characters: a sentencepiece `.model` file, as Llama 2's.
    Bpe,
    /// The most probable pieces: a sentencepiece `.model` file.
    Unigram,
}

/// What is done to a text before it is cut, by a sentencepiece vocabulary.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TextNormalization {
    /// Nothing: every text comes back as it was.
    #[default]
    Identity,
    /// Compatibility forms are unified (full-width punctuation becomes ASCII), control characters dropped, runs of
    /// spaces joined: sentencepiece's own default.
    NmtNfkc,
}

/// Options of [`Tokenizer::train`].
pub struct VocabularyTraining {
    /// How the vocabulary writes text.
    pub kind: VocabularyKind,
    /// Tokens in all: special ones, bytes, and those that training finds.
    pub vocabulary_size: usize,
    /// Whether a corpus that gives fewer tokens is an error.
    pub exact_size: bool,
    /// Special tokens; they get the ids 0, 1, 2, … A sentencepiece vocabulary needs one for what is unknown and gets
    /// `<unk>` before them if there is none.
    pub special_tokens: Vec<TrainedToken>,
    /// Ids kept free behind the special tokens, as special tokens `<|reserved_0|>`, `<|reserved_1|>`, …
    pub reserved: usize,
    /// Texts that are always one token.
    pub user_defined: Vec<String>,
    /// Whether a raw text begins with BOS.
    pub add_bos: bool,
    /// Jinja source to store with the vocabulary.
    pub chat_template: Option<String>,
    /// Whether a sentencepiece vocabulary writes what is in no piece byte by byte.
    pub byte_fallback: bool,
    /// Share of the characters of the texts that sentencepiece pieces must cover, most frequent first.
    pub character_coverage: f64,
    /// Normalization of a sentencepiece vocabulary.
    pub normalization: TextNormalization,
    /// Bytes of memory to stay within, roughly.
    pub max_memory: u64,
    /// Decides which rare words are counted where they do not all fit in memory.
    pub seed: u64,
    /// Called at each step, from any thread; may end the training while texts are read and when all are.
    pub progress: Option<Box<dyn Fn(TrainingProgress) -> ControlFlow<()> + Send + Sync>>,
}

impl Default for VocabularyTraining {
    /// 6400 tokens with the special tokens and template of ChatML: BOS `<|im_start|>`, EOS `<|im_end|>`,
    /// padding `<|endoftext|>`; byte-level BPE within 1.5 GiB.
    fn default() -> Self {
        let token = |text: &str, role| TrainedToken { text: text.into(), roles: vec![role] };
        Self {
            kind: VocabularyKind::default(),
            vocabulary_size: 6400,
            exact_size: false,
            special_tokens: vec![
                token("<|endoftext|>", TokenRole::Pad),
                token("<|im_start|>", TokenRole::Bos),
                token("<|im_end|>", TokenRole::Eos),
            ],
            reserved: 0,
            user_defined: Vec::new(),
            add_bos: false,
            chat_template: ChatTemplate::builtin("chatml").ok().map(|template| template.source().to_owned()),
            byte_fallback: true,
            character_coverage: 0.9995,
            normalization: TextNormalization::default(),
            max_memory: 3 << 29,
            seed: 0,
            progress: None,
        }
    }
}

impl Tokenizer {
    /// Trains a vocabulary on `texts`.
    ///
    /// # Errors
    /// A size that the special tokens and bytes alone need, or that the texts cannot give if it is to be exact; a token
    /// given twice; no text; a training that was ended.
    pub fn train(texts: impl Iterator<Item = String>, options: &VocabularyTraining) -> Result<Self> {
        train(texts, options).map_err(Error::Training)
    }
}

fn train(texts: impl Iterator<Item = String>, options: &VocabularyTraining) -> Result<Tokenizer, String> {
    let tokens = Tokens::new(options)?;
    match options.kind {
        VocabularyKind::ByteLevelBpe => train_byte_level(texts, options, tokens),
        VocabularyKind::Bpe | VocabularyKind::Unigram => model::train(texts, options, tokens),
    }
}

/// The tokens that are not found by training.
struct Tokens {
    special: Vec<TrainedToken>,
    settings: Settings,
}

impl Tokens {
    fn new(options: &VocabularyTraining) -> Result<Self, String> {
        if options.reserved > options.vocabulary_size {
            return Err(format!(
                "a vocabulary of {} has no room for {} reserved tokens",
                options.vocabulary_size, options.reserved
            ));
        }
        let mut special = options.special_tokens.clone();
        let is_unk = |token: &TrainedToken| token.roles.contains(&TokenRole::Unk);
        if options.kind != VocabularyKind::ByteLevelBpe && !special.iter().any(is_unk) {
            special.insert(0, TrainedToken { text: "<unk>".into(), roles: vec![TokenRole::Unk] });
        }
        let reserved = |number| TrainedToken { text: format!("<|reserved_{number}|>"), roles: Vec::new() };
        special.extend((0..options.reserved).map(reserved));
        let texts = special.iter().map(|token| &token.text).chain(&options.user_defined);
        let mut seen = std::collections::HashSet::new();
        for text in texts {
            if text.is_empty() || !seen.insert(text) {
                return Err(format!("the special or user-defined token `{text}` is empty or given twice"));
            }
            let mut characters = text.chars();
            if options.kind == VocabularyKind::ByteLevelBpe
                && let (Some(only), None) = (characters.next(), characters.next())
                && alphabet().contains(&only)
            {
                return Err(format!(
                    "`{text}` cannot be a special or user-defined token: a byte-level vocabulary writes a byte with it"
                ));
            }
        }
        let mut settings = Settings { chat_template: options.chat_template.clone(), ..Settings::default() };
        for (id, token) in (0..).zip(&special) {
            for role in &token.roles {
                let slot = match role {
                    TokenRole::Bos => &mut settings.bos,
                    TokenRole::Eos => &mut settings.eos,
                    TokenRole::Pad => &mut settings.pad,
                    TokenRole::Unk => &mut settings.unk,
                };
                *slot = Some(id);
            }
        }
        settings.add_bos = options.add_bos && settings.bos.is_some();
        let given = special.len() + options.user_defined.len();
        let bytes =
            if options.kind == VocabularyKind::ByteLevelBpe || options.byte_fallback { 256 } else { 0 };
        if options.vocabulary_size < given + bytes {
            let size = options.vocabulary_size;
            return Err(format!(
                "a vocabulary of {size} is too small: {bytes} bytes and {given} special and user-defined tokens need {}",
                given + bytes
            ));
        }
        Ok(Self { special, settings })
    }

    /// All texts that are tokens before training begins.
    fn texts(&self, options: &VocabularyTraining) -> Vec<String> {
        self.special
            .iter()
            .map(|token| token.text.clone())
            .chain(options.user_defined.iter().cloned())
            .collect()
    }
}

fn report(options: &VocabularyTraining, progress: TrainingProgress) -> Result<(), String> {
    match &options.progress {
        Some(report) if report(progress).is_break() => Err("it was ended".into()),
        _ => Ok(()),
    }
}

/// Counts the words of all texts; `cost` is what training takes for each byte of different words.
fn count(
    texts: impl Iterator<Item = String>,
    options: &VocabularyTraining,
    splitter: &WordSplitter,
    cost: u64,
) -> Result<Words, String> {
    let mut words = Words::new((options.max_memory / cost) as usize, options.seed);
    let mut texts = texts.peekable();
    let mut read = 0;
    while texts.peek().is_some() {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while bytes < BATCH_BYTES
            && let Some(text) = texts.next()
        {
            bytes += text.len();
            batch.push(text);
        }
        let chunks: Vec<&str> = batch.iter().flat_map(|text| chunks(text)).collect();
        // A few at a time, so that a book that is one text takes little more than itself.
        for chunks in chunks.chunks(BATCH_BYTES / CHUNK_BYTES) {
            let cuts: Vec<_> = chunks.par_iter().map(|chunk| splitter.split(chunk)).collect();
            words.add(&cuts);
        }
        read += bytes as u64;
        report(options, TrainingProgress::Reading { bytes: read })?;
    }
    if read == 0 {
        return Err("there is no text to train on".into());
    }
    report(options, TrainingProgress::Counted { words: words.len(), samplings: words.rounds() })?;
    Ok(words)
}

/// Whole lines of a text.
fn chunks(mut text: &str) -> Vec<&str> {
    let mut chunks = Vec::new();
    while !text.is_empty() {
        let from = text.floor_char_boundary(CHUNK_BYTES);
        let end = text[from..].find('\n').map_or(text.len(), |at| from + at + 1);
        let end = if end > LONGEST_LINE { text.floor_char_boundary(LONGEST_LINE) } else { end };
        let (chunk, rest) = text.split_at(end);
        chunks.push(chunk);
        text = rest;
    }
    chunks
}

/// The vocabulary that there is, where it is not the one asked for.
fn check_size(size: usize, options: &VocabularyTraining) -> Result<(), String> {
    if size < options.vocabulary_size && options.exact_size {
        return Err(format!(
            "a vocabulary of {} is too large for this text, which gives {size} tokens at most: ask for {size} or fewer, \
             or give more text",
            options.vocabulary_size
        ));
    }
    Ok(())
}

fn train_byte_level(
    texts: impl Iterator<Item = String>,
    options: &VocabularyTraining,
    given: Tokens,
) -> Result<Tokenizer, String> {
    /// A symbol for each byte, its place in the list of a pair, and what merges add to that.
    const COST: u64 = 20;
    let mut tokens = given.texts(options);
    let splitter = WordSplitter { rule: WordRule::ByteLevel(ByteLevel::new()?), whole: tokens.clone() };
    let words = count(texts, options, &splitter, COST)?;
    let alphabet = alphabet();
    let mut sorted = alphabet;
    sorted.sort_unstable();
    let first = tokens.len() as u32;
    let symbols = alphabet.map(|letter| first + sorted.binary_search(&letter).unwrap_or_default() as u32);
    tokens.extend(sorted.iter().map(char::to_string));
    let mut all = SymbolWords::default();
    words.drain(|word, count| all.push(word.bytes().map(|byte| symbols[usize::from(byte)]), count));
    let wanted = options.vocabulary_size;
    let merges = bpe::merge(all, &mut tokens, wanted, LEAST_COUNT, Ties::Ids, &mut |now| {
        _ = report(options, TrainingProgress::Tokens { now, wanted });
    });
    check_size(tokens.len(), options)?;
    let text = |id: u32| tokens[id as usize].clone();
    let merges = merges.into_iter().map(|((left, right), _)| (text(left), text(right))).collect();
    let vocabulary: Vocab = (0..).zip(&tokens).map(|(id, token)| (token.clone(), id)).collect();
    let model =
        BPE::builder().vocab_and_merges(vocabulary, merges).build().map_err(|error| error.to_string())?;

    let mut inner = byte_level_tokenizer(model, &[QWEN2])?;
    let Tokens { special, settings } = given;
    let added = |text: &String, special| AddedToken::from(text.clone(), special).normalized(false);
    let special_tokens: Vec<AddedToken> = special.iter().map(|token| added(&token.text, true)).collect();
    inner.add_special_tokens(special_tokens).map_err(|error| error.to_string())?;
    let user_defined: Vec<AddedToken> = options.user_defined.iter().map(|text| added(text, false)).collect();
    inner.add_tokens(user_defined).map_err(|error| error.to_string())?;
    let bos = settings.bos.filter(|_| settings.add_bos);
    let bos = bos.map(|id| (special[id as usize].text.clone(), id));
    inner.with_post_processor(around(bos, None)?);
    Tokenizer::new(inner, None, settings, Vec::new())
}
