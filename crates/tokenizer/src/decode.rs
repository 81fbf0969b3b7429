//! Ids back to text, whole or token by token. Never shows half of a character.

use crate::bytes::{alphabet, bytes_of, fallback_byte};
use crate::{Error, Result, Tokenizer};
use serde_json::Value;

/// How a vocabulary writes its pieces, read from the `decoder` of `tokenizer.json`.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Decoding {
    byte_level: bool,
    byte_fallback: bool,
    replacements: Vec<(String, String)>,
    /// A character dropped up to so many times at the start of the text.
    strip: Option<(char, usize)>,
}

impl Decoding {
    /// Reads a `decoder` object; the error says which part is not supported.
    pub(crate) fn from_json(decoder: &Value) -> Result<Self, String> {
        let mut decoding = Self::default();
        decoding.add(decoder)?;
        Ok(decoding)
    }

    fn add(&mut self, decoder: &Value) -> Result<(), String> {
        match decoder["type"].as_str() {
            Some("Sequence") => {
                let parts = decoder["decoders"].as_array().ok_or("decoder `Sequence` has no `decoders`")?;
                parts.iter().try_for_each(|part| self.add(part))?;
            }
            Some("ByteLevel") => self.byte_level = true,
            Some("ByteFallback") => self.byte_fallback = true,
            Some("Fuse") => {}
            Some("Replace") if decoder["pattern"]["String"].is_string() => {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                self.replacements.push((text(&decoder["pattern"]["String"]), text(&decoder["content"])));
            }
            Some("Strip") if decoder["stop"] == 0 => {
                let content = decoder["content"].as_str().and_then(|text| text.chars().next());
                let count = decoder["start"].as_u64().unwrap_or(0) as usize;
                self.strip = content.map(|content| (content, count));
            }
            Some("Metaspace") => {
                let mark = decoder["replacement"].as_str().unwrap_or("▁").to_owned();
                self.replacements.push((mark, " ".into()));
                self.strip = (decoder["prepend_scheme"] != "never").then_some((' ', 1));
            }
            _ => {
                return Err(format!(
                    "decoder `{decoder}` is not supported; expected ByteLevel, Metaspace, or a Sequence of Replace \
                     (of a string), ByteFallback, Fuse and Strip (at the start)"
                ));
            }
        }
        Ok(())
    }

    /// Whether a space is dropped at the start of a text: the one that encoding put there.
    pub(crate) fn strips_start(&self) -> bool {
        self.strip.is_some()
    }

    /// Whether tokens are written in the alphabet of bytes.
    pub(crate) fn is_byte_level(&self) -> bool {
        self.byte_level
    }

    /// The bytes that a piece of the model's vocabulary stands for.
    fn piece(&self, text: &str) -> Vec<u8> {
        if self.byte_level {
            return bytes_of(text).unwrap_or_else(|| text.as_bytes().to_vec());
        }
        if self.byte_fallback
            && let Some(byte) = fallback_byte(text)
        {
            return vec![byte];
        }
        let mut text = text.to_owned();
        for (from, to) in &self.replacements {
            text = text.replace(from, to);
        }
        text.into_bytes()
    }
}

impl Tokenizer {
    /// The text of `ids`. Bytes that are not UTF-8 become U+FFFD; `skip_special` leaves special tokens out.
    ///
    /// # Errors
    /// An id outside the vocabulary.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let mut stream = self.decode_stream(skip_special);
        let mut text = String::new();
        for &id in ids {
            text += &stream.push(id)?;
        }
        text += &stream.finish();
        Ok(text)
    }

    /// The token of a single byte.
    pub fn byte_id(&self, byte: u8) -> Option<u32> {
        let text = if self.decoding.byte_level {
            alphabet()[usize::from(byte)].into()
        } else {
            format!("<0x{byte:02X}>")
        };
        self.token_id(&text)
    }

    /// Decodes ids as they are generated.
    pub fn decode_stream(&self, skip_special: bool) -> DecodeStream<'_> {
        DecodeStream { tokenizer: self, skip_special, pending: Vec::new(), strip: self.decoding.strip }
    }

    /// The bytes that `id` adds in the middle of a text; `None` outside the vocabulary.
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        // Added tokens are written as they read, whatever the vocabulary's alphabet.
        match self.added_token(id) {
            Some(token) => Some(token.content.clone().into_bytes()),
            None => self.token_text(id).map(|text| self.decoding.piece(&text)),
        }
    }
}

/// Decoder for one growing text: the pieces concatenate to what [`Tokenizer::decode`] gives for all ids.
#[derive(Debug)]
pub struct DecodeStream<'a> {
    tokenizer: &'a Tokenizer,
    skip_special: bool,
    /// The start of a character whose other bytes have not come yet.
    pending: Vec<u8>,
    strip: Option<(char, usize)>,
}

impl DecodeStream<'_> {
    /// The text that `id` completes; empty while a character is still incomplete.
    ///
    /// # Errors
    /// An id outside the vocabulary.
    pub fn push(&mut self, id: u32) -> Result<String> {
        let tokenizer = self.tokenizer;
        let unknown = || Error::UnknownId { id, last: tokenizer.vocabulary_size().saturating_sub(1) };
        let bytes = tokenizer.token_bytes(id).ok_or_else(unknown)?;
        if self.skip_special && tokenizer.is_special(id) {
            return Ok(String::new());
        }
        self.pending.extend(bytes);
        let mut text = String::new();
        loop {
            match std::str::from_utf8(&self.pending) {
                Ok(valid) => {
                    text += valid;
                    self.pending.clear();
                    break;
                }
                Err(error) => {
                    text += &String::from_utf8_lossy(&self.pending[..error.valid_up_to()]);
                    let Some(wrong) = error.error_len() else {
                        self.pending.drain(..error.valid_up_to());
                        break;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    self.pending.drain(..error.valid_up_to() + wrong);
                }
            }
        }
        Ok(self.strip_start(text))
    }

    /// What is left when no more ids come: U+FFFD if the last character never became complete.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }

    fn strip_start(&mut self, mut text: String) -> String {
        while let Some((content, count)) = self.strip
            && let Some(first) = text.chars().next()
        {
            if count == 0 || first != content {
                self.strip = None;
            } else {
                text.remove(0);
                self.strip = Some((content, count - 1));
            }
        }
        text
    }
}
