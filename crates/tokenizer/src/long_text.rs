//! Long texts in stretches of bounded size: cut at ends of lines where the ids stay those of the whole text.

use crate::{Result, SpecialTokens, Tokenizer};

/// A stretch is cut at the first good place behind so many bytes.
const LENGTH: usize = 1 << 16;

impl Tokenizer {
    /// A raw text in stretches whose ids, one after another, are those of [`Tokenizer::encode`] with special tokens as text:
    /// for several threads, and for less memory. One stretch where the vocabulary allows no cut.
    pub fn stretches<'a>(&self, text: &'a str) -> Vec<&'a str> {
        let mut stretches = Vec::new();
        let mut rest = text;
        while rest.len() > LENGTH {
            let Some(end) = self.end_of_line(rest) else { break };
            let (stretch, behind) = rest.split_at(end);
            stretches.push(stretch);
            rest = behind;
        }
        stretches.push(rest);
        stretches
    }

    /// Adds the ids of one of [`Tokenizer::stretches`], the first or a later one, to `ids`.
    ///
    /// # Errors
    /// As for [`Tokenizer::encode`].
    pub fn encode_stretch(&self, stretch: &str, is_first: bool, ids: &mut Vec<u32>) -> Result<()> {
        self.add_ids(stretch, SpecialTokens::AsText, is_first, ids)
    }

    /// The end of the first line behind [`LENGTH`] that no token reaches over. In sentencepiece the vocabulary shows it;
    /// the usual patterns of byte-level vocabularies cut there if no white space is beside, and it is tried.
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
            any_line
                || is_ink(text[..at].chars().next_back())
                    && is_ink(text[at + 1..].chars().next())
                    && self.cuts_at(text, at + 1)
        });
        end.map(|at| at + 1).filter(|&end| end < text.len())
    }
    /// Whether the ids around a place are those of what stands before it and behind it, each alone.
    fn cuts_at(&self, text: &str, place: usize) -> bool {
        const AROUND: usize = 64;
        let start = text.floor_char_boundary(place.saturating_sub(AROUND));
        let end = text.ceil_char_boundary((place + AROUND).min(text.len()));
        let ids = |part: &str| self.encode(part, SpecialTokens::AsText).ok();
        let apart = ids(&text[start..place]).zip(ids(&text[place..end]));
        apart.is_some_and(|(before, behind)| ids(&text[start..end]) == Some([before, behind].concat()))
    }
}
