//! Text of tokens as they come, with nothing that only half arrived.

use danlu_tokenizer::{DecodeStream, Tokenizer};

/// The text of one answer while it grows. Ids that the vocabulary lacks (rows that only pad the embedding) show
/// as U+FFFD.
pub struct TextStream<'t> {
    decoder: Option<DecodeStream<'t>>,
    text: String,
}

impl<'t> TextStream<'t> {
    /// An empty answer.
    pub fn new(tokenizer: &'t Tokenizer) -> Self {
        Self { decoder: Some(tokenizer.decode_stream(true)), text: String::new() }
    }

    /// The text that `id` completes.
    pub fn push(&mut self, id: u32) -> String {
        let piece = self.decoder.as_mut().map_or_else(|| Ok(String::new()), |decoder| decoder.push(id));
        let piece = piece.unwrap_or_else(|_| char::REPLACEMENT_CHARACTER.into());
        self.text += &piece;
        piece
    }

    /// What was still incomplete when the last token came.
    pub fn finish(&mut self) -> String {
        let rest = self.decoder.take().map_or_else(String::new, DecodeStream::finish);
        self.text += &rest;
        rest
    }

    /// The whole text so far.
    pub fn into_text(self) -> String {
        self.text
    }
}
