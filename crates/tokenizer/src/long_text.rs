//! Long texts in pieces of bounded size: cut at ends of lines where the ids stay those of the whole text.

use crate::{Result, SpecialTokens, Tokenizer};

/// A piece is cut at the first good place behind so many bytes.
const LENGTH: usize = 1 << 16;

impl Tokenizer {
    /// A raw text in pieces whose ids, one after another, are those of [`Tokenizer::encode`] with special tokens as text:
    /// for several threads, and for less memory. One piece where the vocabulary allows no cut.
    pub fn pieces<'a>(&self, text: &'a str) -> Vec<&'a str> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while rest.len() > LENGTH {
            let Some(end) = self.end_of_line(rest) else { break };
            let (piece, behind) = rest.split_at(end);
            pieces.push(piece);
            rest = behind;
        }
        pieces.push(rest);
        pieces
    }

    /// The ids of one of [`Tokenizer::pieces`], the first or a later one.
    ///
    /// # Errors
    /// As for [`Tokenizer::encode`].
    pub fn encode_piece(&self, piece: &str, is_first: bool) -> Result<Vec<u32>> {
        self.encode_at(piece, SpecialTokens::AsText, is_first)
    }

    /// The end of the first line behind [`LENGTH`] that no token reaches over. In sentencepiece the vocabulary shows it;
    /// the patterns of byte-level vocabularies all cut there if no white space is beside.
    fn end_of_line(&self, text: &str) -> Option<usize> {
        let (is_possible, any_line) = match &self.sentencepiece {
            Some(sentencepiece) => (sentencepiece.keeps_lines_apart(), true),
            None => (self.decoding.is_byte_level(), false),
        };
        let is_ink = |character: Option<char>| {
            character.is_some_and(|character| {
                character.is_alphanumeric()
                    || character.is_ascii_graphic()
                    || "。，、；：？！”》）…".contains(character)
            })
        };
        let start = text.ceil_char_boundary(LENGTH.min(text.len()));
        let mut lines = text[start..].match_indices('\n').filter(|_| is_possible).map(|(at, _)| start + at);
        let end = lines.find(|&at| {
            any_line || is_ink(text[..at].chars().next_back()) && is_ink(text[at + 1..].chars().next())
        });
        end.map(|at| at + 1).filter(|&end| end < text.len())
    }
}
