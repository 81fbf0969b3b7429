//! Text → the ids that a model is given: raw, or through a chat template.
//!
//! What somebody typed never becomes a control token: only the template's own text does.

use anyhow::Result;
use danlu_model::Opened;
use danlu_tokenizer::{ChatTemplate, Guarded, Message, SpecialTokens, Tokenizer};

use crate::failure::wrong_input;

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
    Ok(match tokenizer.guard(messages) {
        Some(Guarded { messages, guard }) => {
            tokenizer.encode(&template.render(&messages, true, &tokens)?, SpecialTokens::Guarded(guard))?
        }
        None => tokenizer.encode(&template.render(messages, true, &tokens)?, SpecialTokens::Parse)?,
    })
}
