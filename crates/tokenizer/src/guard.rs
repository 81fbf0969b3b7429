//! Special tokens that somebody spelled out inside a message: kept apart, so that a rendered conversation parses only
//! those that the chat template wrote. One of a single character cannot be broken, and stays what it is.

use std::ops::Range;

use serde_json::Value;
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
        let spells = |text: &str| !self.spelled_special_tokens(text, &ends).is_empty();
        if !messages.iter().any(|message| any_text(message, &spells)) {
            return None;
        }
        let guard = ('\0'..=char::MAX)
            .rev()
            .find(|guard| !messages.iter().any(|message| any_text(message, &|text| text.contains(*guard))))?;
        let guarded = |text: &str| {
            let ranges = self.spelled_special_tokens(text, &ends);
            let mut result = String::with_capacity(text.len());
            for (at, character) in text.char_indices() {
                result.push(character);
                // Not behind spaces, which some tokens take in: templates trim them.
                if !character.is_whitespace() && ranges.iter().any(|range| range.contains(&at)) {
                    result.push(guard);
                }
            }
            result
        };
        let message = |message: &Message| {
            let mut message = message.clone();
            message.content = guarded(&message.content);
            message.fields.values_mut().for_each(|value| change_texts(value, &guarded));
            message
        };
        Some(Guarded { messages: messages.iter().map(message).collect(), guard })
    }

    /// Where `text`, parsed, would become special tokens or `ends` of more than one character, in bytes.
    fn spelled_special_tokens(&self, text: &str, ends: &[u32]) -> Vec<Range<usize>> {
        if self.surely_spells_none(text) {
            return Vec::new();
        }
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

/// Whether the text of a message, or one inside its further fields, `is` so.
fn any_text(message: &Message, is: &impl Fn(&str) -> bool) -> bool {
    fn any(value: &Value, is: &impl Fn(&str) -> bool) -> bool {
        match value {
            Value::String(text) => is(text),
            Value::Array(items) => items.iter().any(|item| any(item, is)),
            Value::Object(fields) => fields.values().any(|value| any(value, is)),
            _ => false,
        }
    }
    is(&message.content) || message.fields.values().any(|value| any(value, is))
}

fn change_texts(value: &mut Value, change: &impl Fn(&str) -> String) {
    match value {
        Value::String(text) => *text = change(text),
        Value::Array(items) => items.iter_mut().for_each(|item| change_texts(item, change)),
        Value::Object(fields) => fields.values_mut().for_each(|value| change_texts(value, change)),
        _ => {}
    }
}
