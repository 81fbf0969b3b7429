//! Text → the ids that a model is given: raw, or through a chat template.
//!
//! What somebody typed never becomes a control token: only the template's own text does.

use anyhow::Result;
use danlu_model::Opened;
use danlu_tokenizer::{ChatTemplate, Message, SpecialTokens, Tokenizer};

use crate::failure::wrong_input;

/// A place where a control token that was typed is broken up; from here on the first that no text uses is taken.
const PRIVATE_USE: std::ops::RangeInclusive<char> = '\u{E000}'..='\u{F8FF}';

/// The template of `--template`, or the model's own.
///
/// # Errors
/// A template that is not there or does not parse.
pub fn template_of(opened: &Opened, name: Option<&str>) -> Result<Option<ChatTemplate>> {
    match (name, opened.tokenizer.as_ref().and_then(Tokenizer::chat_template)) {
        (Some(name), _) => Ok(Some(ChatTemplate::open(name)?)),
        (None, Some(source)) => Ok(Some(ChatTemplate::from_source(source)?)),
        (None, None) => Ok(None),
    }
}

/// The ids of a text that is continued: BOS if the tokenizer's own files put it there, and for no text at all.
///
/// # Errors
/// No text for a model without BOS, or a text for a model without a tokenizer.
pub fn raw_ids(opened: &Opened, text: &str) -> Result<Vec<u32>> {
    let tokenizer = opened.tokenizer.as_ref();
    let bos = tokenizer.and_then(Tokenizer::bos_id).or(opened.model.config().bos_token_id);
    if text.is_empty() {
        let message = "the prompt is empty and the model has no token to begin with: give it a text";
        return Ok(vec![bos.ok_or_else(|| wrong_input(message))?]);
    }
    let tokenizer = opened.tokenizer()?;
    let mut ids: Vec<u32> = tokenizer.bos_id().filter(|_| tokenizer.adds_bos()).into_iter().collect();
    ids.extend(tokenizer.encode(text, SpecialTokens::AsText)?);
    Ok(ids)
}

/// The ids of a conversation up to where the answer begins.
///
/// # Errors
/// What the template refuses.
pub fn chat_ids(tokenizer: &Tokenizer, template: &ChatTemplate, messages: &[Message]) -> Result<Vec<u32>> {
    let tokens = tokenizer.template_tokens();
    let special: Vec<String> = (0..tokenizer.vocabulary_size() as u32)
        .filter(|&id| tokenizer.is_special(id))
        .filter_map(|id| tokenizer.token_text(id))
        .collect();
    let typed = |text: &String| messages.iter().any(|message| message.content.contains(text.as_str()));
    if !special.iter().any(typed) {
        return Ok(tokenizer.encode(&template.render(messages, true, &tokens)?, SpecialTokens::Parse)?);
    }
    let is_unused = |mark: &char| {
        !template.source().contains(*mark) && !messages.iter().any(|message| message.content.contains(*mark))
    };
    let mark = PRIVATE_USE
        .into_iter()
        .find(is_unused)
        .ok_or_else(|| wrong_input("the prompt uses every private-use character"))?;
    let marked: Vec<Message> = messages
        .iter()
        .map(|message| Message::new(&message.role, break_up(&message.content, &special, mark)))
        .collect();
    let rendered = template.render(&marked, true, &tokens)?;
    let mut ids = Vec::new();
    // Between two control tokens of the template lies text, in which nothing is parsed.
    let mut rest = rendered.as_str();
    while !rest.is_empty() {
        let next = special.iter().filter_map(|text| Some((rest.find(text.as_str())?, text.len())));
        let (start, length) =
            next.min_by_key(|&(start, length)| (start, usize::MAX - length)).unwrap_or((rest.len(), 0));
        let text = rest[..start].replace(mark, "");
        ids.extend(tokenizer.encode(&text, SpecialTokens::AsText)?);
        ids.extend(tokenizer.encode(&rest[start..start + length], SpecialTokens::Parse)?);
        rest = &rest[start + length..];
    }
    Ok(ids)
}

/// Puts `mark` behind the first character of every control token that the text spells.
fn break_up(text: &str, special: &[String], mark: char) -> String {
    let mut text = text.to_owned();
    for token in special {
        let mut characters = token.chars();
        if let Some(first) = characters.next() {
            text = text.replace(token.as_str(), &format!("{first}{mark}{}", characters.as_str()));
        }
    }
    text
}
