//! Special tokens that somebody spelled out inside a message: kept apart, so that a rendered conversation parses only
//! those that the chat template wrote. One of a single character cannot be broken, and stays what it is.

use std::ops::Range;

use tokenizers::tokenizer::{OffsetReferential, OffsetType};

use crate::{Message, Tokenizer};

/// Messages with a guard behind each character of a special token that they spell out.
///
/// Render them in place of the original ones, and encode with [`crate::SpecialTokens::Guarded`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guarded {
    /// The messages, guarded.
    pub messages: Vec<Message>,
    /// A character that none of the original messages uses.
    pub guard: char,
}

impl Tokenizer {
    /// Guards `messages`; `None` where they spell out no special token that could be kept apart, as nearly always.
    pub fn guard(&self, messages: &[Message]) -> Option<Guarded> {
        let ends = self.end_of_turn_ids();
        let spelled = messages.iter().map(|message| self.spelled_special_tokens(&message.content, &ends));
        let spelled: Vec<Vec<Range<usize>>> = spelled.collect();
        if spelled.iter().all(Vec::is_empty) {
            return None;
        }
        let is_unused = |guard: &char| messages.iter().all(|message| !message.content.contains(*guard));
        let guard = ('\0'..=char::MAX).rev().find(is_unused)?;
        let guarded = |(message, ranges): (&Message, &Vec<Range<usize>>)| {
            let mut content = String::with_capacity(message.content.len());
            for (at, character) in message.content.char_indices() {
                content.push(character);
                // Not behind spaces, which some tokens take in: templates trim them.
                if !character.is_whitespace() && ranges.iter().any(|range| range.contains(&at)) {
                    content.push(guard);
                }
            }
            Message { role: message.role.clone(), content }
        };
        Some(Guarded { messages: messages.iter().zip(&spelled).map(guarded).collect(), guard })
    }

    /// Where `text`, parsed, would become special tokens or `ends` of more than one character, in bytes.
    fn spelled_special_tokens(&self, text: &str, ends: &[u32]) -> Vec<Range<usize>> {
        let added = self.inner.get_added_vocabulary();
        let pieces = added.extract_and_normalize(self.inner.get_normalizer(), text);
        let pieces = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte).into_iter();
        let is_special = |tokens: &Option<Vec<tokenizers::Token>>| {
            tokens.iter().flatten().any(|token| self.is_special(token.id) || ends.contains(&token.id))
        };
        let can_be_broken = |range: &Range<usize>| {
            text.get(range.clone()).is_none_or(|spelled| spelled.trim().chars().nth(1).is_some())
        };
        let ranges =
            pieces.filter(|(_, _, tokens)| is_special(tokens)).map(|(_, (start, end), _)| start..end);
        ranges.filter(can_be_broken).collect()
    }
}
