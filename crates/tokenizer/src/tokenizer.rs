//! One immutable vocabulary: text to ids, and what its special tokens are.

use crate::byte_level::ByteLevel;
use crate::bytes::hexadecimal;
use crate::decode::Decoding;
use crate::sentencepiece::{DummyPrefix, SentencePiece};
use crate::{Error, Result, TemplateTokens};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokenizers::NormalizerWrapper;
use tokenizers::tokenizer::{
    AddedToken, AddedVocabulary, Model, NormalizedString, OffsetReferential, OffsetType, PreTokenizer,
};

/// Special tokens that end a turn in the chat formats of the field.
pub(crate) const END_OF_TURN: [&str; 7] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<end_of_turn>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
];

/// Raised when this crate gives other ids for the same vocabulary and text, so that nothing cached is taken for them.
const ENCODING: u32 = 1;

/// Stands for text before an input; private use, in no vocabulary, so that no token reaches across it.
const TEXT_BEFORE: &str = "\u{F0000}";

/// What the text of a special token inside an input becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialTokens {
    /// The special token's id: for text that a chat template rendered.
    Parse,
    /// Ordinary tokens: for text that somebody typed, and for raw documents.
    AsText,
    /// As `Parse`, for text that a chat template rendered from [`crate::Guarded`] messages: what this guard keeps apart
    /// becomes ordinary tokens, the guard itself none.
    Guarded(char),
}

/// Special ids and what the tokenizer's own files say about them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Settings {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub pad: Option<u32>,
    pub unk: Option<u32>,
    pub end_of_turn: Option<u32>,
    pub add_bos: bool,
    pub add_eos: bool,
    pub chat_template: Option<String>,
}

/// A vocabulary. Immutable; encoding and decoding take `&self` from any number of threads.
#[derive(Debug)]
pub struct Tokenizer {
    pub(crate) inner: tokenizers::Tokenizer,
    /// The added tokens of `inner`, with special ones not recognised in text.
    as_text: AddedVocabulary,
    /// Whether it finds nothing: all added tokens are special.
    has_only_special: bool,
    /// Whether an added token is looked for in normalized text.
    has_normalized: bool,
    /// Whether an added token begins with this byte.
    begins: Box<[bool; 256]>,
    byte_level: OnceLock<Option<ByteLevel>>,
    /// Bytes of text that were encoded before `byte_level` was worth building.
    bytes_seen: AtomicUsize,
    /// How text is cut, where it is sentencepiece that cuts it; then `inner` only knows the tokens.
    pub(crate) sentencepiece: Option<SentencePiece>,
    pub(crate) decoding: Decoding,
    pub(crate) settings: Settings,
    vocabulary_size: usize,
    /// Files by name as they were opened, written back unchanged.
    pub(crate) files: Vec<(String, Vec<u8>)>,
    pub(crate) fingerprint: OnceLock<String>,
}

impl Tokenizer {
    /// The error is the bare reason; callers say which file.
    pub(crate) fn new(
        inner: tokenizers::Tokenizer,
        sentencepiece: Option<SentencePiece>,
        settings: Settings,
        files: Vec<(String, Vec<u8>)>,
    ) -> Result<Self, String> {
        let decoder = serde_json::to_value(inner.get_decoder()).map_err(|error| error.to_string())?;
        let decoding = Decoding::from_json(&decoder)?;
        let mut as_text = inner.get_added_vocabulary().clone();
        as_text.set_encode_special_tokens(true);
        let has_only_special = as_text.get_added_tokens_decoder().values().all(|token| token.special);
        let has_normalized = as_text.get_added_tokens_decoder().values().any(|token| token.normalized);
        let mut begins = Box::new([false; 256]);
        for token in as_text.get_added_tokens_decoder().values() {
            token.content.bytes().next().into_iter().for_each(|byte| begins[usize::from(byte)] = true);
        }
        let vocabulary_size = inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        Ok(Self {
            inner,
            as_text,
            has_only_special,
            has_normalized,
            begins,
            byte_level: OnceLock::new(),
            bytes_seen: AtomicUsize::new(0),
            sentencepiece,
            decoding,
            settings,
            vocabulary_size,
            files,
            fingerprint: OnceLock::new(),
        })
    }

    /// The ids of `text`. Never adds BOS or EOS; see [`Tokenizer::adds_bos`].
    ///
    /// # Errors
    /// Text that the vocabulary cannot write (only possible without bytes and without an unknown token).
    pub fn encode(&self, text: &str, special: SpecialTokens) -> Result<Vec<u32>> {
        self.encode_at(text, special, true)
    }

    /// The ids of a text, or of one that goes on from another, so that no space is put before it.
    fn encode_at(&self, text: &str, special: SpecialTokens, is_start: bool) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        self.add_ids(text, special, is_start, &mut ids)?;
        Ok(ids)
    }

    /// Adds the ids of such a text to `ids`.
    pub(crate) fn add_ids(
        &self,
        text: &str,
        special: SpecialTokens,
        is_start: bool,
        ids: &mut Vec<u32>,
    ) -> Result<()> {
        let failed = |error: tokenizers::Error| Error::Encode(error.to_string());
        let added = match special {
            SpecialTokens::Parse | SpecialTokens::Guarded(_) => self.inner.get_added_vocabulary(),
            SpecialTokens::AsText => &self.as_text,
        };
        if let Some(sentencepiece) = &self.sentencepiece {
            if special == SpecialTokens::AsText && self.has_only_special {
                let encoded = match is_start {
                    true => sentencepiece.encode(text, true, ids),
                    false => sentencepiece.encode_within(text, ids),
                };
                return encoded.map_err(Error::Encode);
            }
            let pieces = added.extract_and_normalize(None::<&NormalizerWrapper>, text);
            for (part, (start, _), tokens) in pieces.get_splits(OffsetReferential::Original, OffsetType::Byte)
            {
                if let Some(tokens) = tokens {
                    ids.extend(tokens.iter().map(|token| token.id));
                    continue;
                }
                let part = match special {
                    SpecialTokens::Guarded(guard) => Cow::Owned(part.replace(guard, "")),
                    SpecialTokens::Parse | SpecialTokens::AsText => Cow::Borrowed(part),
                };
                let encoded = match start == 0 && !is_start {
                    true => sentencepiece.encode_within(&part, ids),
                    false => sentencepiece.encode(&part, start == 0, ids),
                };
                encoded.map_err(Error::Encode)?;
            }
            return Ok(());
        }
        if let Some(byte_level) = self.byte_level(text.len(), special) {
            self.add_ids_of_bytes(byte_level, added, text, special, ids);
            return Ok(());
        }
        let mut pieces = added.extract_and_normalize(self.inner.get_normalizer(), text);
        if let SpecialTokens::Guarded(guard) = special {
            let remove = |piece: &mut NormalizedString| {
                piece.filter(|character| character != guard);
                Ok(())
            };
            pieces.normalize(remove).map_err(failed)?;
        }
        if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces).map_err(failed)?;
        }
        let model = self.inner.get_model();
        pieces.tokenize(|piece| model.tokenize(piece.get())).map_err(failed)?;
        let pieces = pieces.get_splits(OffsetReferential::Normalized, OffsetType::Byte);
        let tokens = pieces.iter().filter_map(|(_, _, tokens)| tokens.as_ref()).flatten();
        ids.extend(tokens.map(|token| token.id));
        Ok(())
    }

    /// Whether no byte of `text` begins an added token, so that none can be in it.
    pub(crate) fn surely_spells_none(&self, text: &str) -> bool {
        !text.bytes().any(|byte| self.begins[usize::from(byte)])
    }

    /// The quick way of a byte-level vocabulary, once as much text came as pays for it.
    fn byte_level(&self, bytes: usize, special: SpecialTokens) -> Option<&ByteLevel> {
        /// Bytes that the slow way cuts while the quick one is built.
        const WORTH_IT: usize = 1 << 17;
        let sum = self.bytes_seen.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if sum < WORTH_IT {
            return None;
        }
        let built = self.byte_level.get_or_init(|| ByteLevel::new(&self.inner)).as_ref();
        // What is found only in normalized text is left to the crate.
        let finds_nothing = special == SpecialTokens::AsText && self.has_only_special;
        built.filter(|byte_level| !byte_level.composes() || finds_nothing || !self.has_normalized)
    }

    fn add_ids_of_bytes(
        &self,
        byte_level: &ByteLevel,
        added: &AddedVocabulary,
        text: &str,
        special: SpecialTokens,
        ids: &mut Vec<u32>,
    ) {
        let model = self.inner.get_model();
        let finds_nothing = special == SpecialTokens::AsText && self.has_only_special;
        if finds_nothing || special == SpecialTokens::Parse && self.surely_spells_none(text) {
            byte_level.encode(text, model, ids);
            return;
        }
        let pieces = added.extract_and_normalize(None::<&NormalizerWrapper>, text);
        for (part, _, tokens) in pieces.get_splits(OffsetReferential::Original, OffsetType::Byte) {
            match (tokens, special) {
                (Some(tokens), _) => ids.extend(tokens.iter().map(|token| token.id)),
                (None, SpecialTokens::Guarded(guard)) => {
                    byte_level.encode(&part.replace(guard, ""), model, ids)
                }
                (None, _) => byte_level.encode(part, model, ids),
            }
        }
    }

    /// The ids of `text` where it goes on from `before`, as a model goes on from a prompt: a vocabulary that puts a space
    /// before each text (sentencepiece's dummy prefix) puts none inside one. Together they are the ids of the whole
    /// text, unless one of those would reach from `before` into `text`.
    ///
    /// # Errors
    /// As for [`Tokenizer::encode`].
    pub fn encode_after(&self, before: &[u32], text: &str, special: SpecialTokens) -> Result<Vec<u32>> {
        let Some(&last) = before.last() else { return self.encode(text, special) };
        // Behind an added token some vocabularies begin anew.
        match (self.added_token(last), &self.sentencepiece) {
            (None, _) => self.encode_within(text, special),
            (Some(_), Some(pieces)) => {
                self.encode_at(text, special, pieces.dummy_prefix == DummyPrefix::Always)
            }
            (Some(token), None) => self.encode_behind(&token.content, text, special),
        }
    }

    /// The ids of `text` inside of a text, behind a word.
    ///
    /// # Errors
    /// As for [`Tokenizer::encode`].
    pub fn encode_within(&self, text: &str, special: SpecialTokens) -> Result<Vec<u32>> {
        match self.sentencepiece {
            Some(_) => self.encode_at(text, special, false),
            None => self.encode_behind(TEXT_BEFORE, text, special),
        }
    }

    /// The ids of `text` behind `anchor`, where that makes a difference.
    fn encode_behind(&self, anchor: &str, text: &str, special: SpecialTokens) -> Result<Vec<u32>> {
        if !self.decoding.strips_start() {
            return self.encode(text, special);
        }
        let mut ids = self.encode(&format!("{anchor}{text}"), special)?;
        let anchor = self.encode(anchor, special)?;
        if !ids.starts_with(&anchor) {
            return self.encode(text, special);
        }
        Ok(ids.split_off(anchor.len()))
    }

    /// Whether the tokenizer's own files put BOS before a raw text.
    pub fn adds_bos(&self) -> bool {
        self.settings.add_bos
    }

    /// Whether the tokenizer's own files put EOS after a raw text.
    pub fn adds_eos(&self) -> bool {
        self.settings.add_eos
    }

    /// The token that begins a text.
    pub fn bos_id(&self) -> Option<u32> {
        self.settings.bos
    }

    /// The token that ends a text.
    pub fn eos_id(&self) -> Option<u32> {
        self.settings.eos
    }

    /// The padding token.
    pub fn pad_id(&self) -> Option<u32> {
        self.settings.pad
    }

    /// The token for what the vocabulary cannot write.
    pub fn unk_id(&self) -> Option<u32> {
        self.settings.unk
    }

    /// All tokens that end an answer: EOS, and the end-of-turn markers that are special tokens here. No duplicates.
    pub fn end_of_turn_ids(&self) -> Vec<u32> {
        let markers = END_OF_TURN.iter().filter_map(|text| self.token_id(text));
        let markers = markers.filter(|&id| self.is_special(id));
        let mut ids: Vec<u32> = Vec::new();
        for id in self.settings.eos.into_iter().chain(self.settings.end_of_turn).chain(markers) {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        ids
    }

    /// The token as the vocabulary writes it (`Ġthe`, `▁the`, `<0x0A>`).
    pub fn token_text(&self, id: u32) -> Option<String> {
        match self.added_token(id) {
            Some(token) => Some(token.content.clone()),
            None => self.inner.get_model().id_to_token(id),
        }
    }

    /// The id of a token as the vocabulary writes it.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.inner.token_to_id(text)
    }

    /// Whether `id` is a special (control) token.
    pub fn is_special(&self, id: u32) -> bool {
        self.added_token(id).is_some_and(|token| token.special)
    }

    /// Highest id + 1.
    pub fn vocabulary_size(&self) -> usize {
        self.vocabulary_size
    }

    /// Jinja source of the chat template that came with the vocabulary.
    pub fn chat_template(&self) -> Option<&str> {
        self.settings.chat_template.as_deref()
    }

    /// The texts of BOS and EOS for [`crate::ChatTemplate::render`]; empty where the vocabulary has none.
    pub fn template_tokens(&self) -> TemplateTokens {
        let text = |id: Option<u32>| id.and_then(|id| self.token_text(id)).unwrap_or_default();
        TemplateTokens { bos_token: text(self.settings.bos), eos_token: text(self.settings.eos) }
    }

    /// SHA-256 (hexadecimal) of everything that decides which ids a text or conversation gets: the key for caches.
    pub fn fingerprint(&self) -> String {
        let compute = || {
            let mut hash = Sha256::new();
            hash.update(ENCODING.to_le_bytes());
            hash.update(self.tokenizer_json().unwrap_or_default());
            if let Some(model) = self.model_file() {
                hash.update(model);
            }
            let prefix = self.sentencepiece.as_ref().map(|pieces| pieces.dummy_prefix);
            hash.update(format!("{prefix:?} {:?}", self.settings));
            hexadecimal(&hash.finalize())
        };
        self.fingerprint.get_or_init(compute).clone()
    }

    pub(crate) fn added_token(&self, id: u32) -> Option<&AddedToken> {
        self.inner.get_added_vocabulary().get_added_tokens_decoder().get(&id)
    }
}
