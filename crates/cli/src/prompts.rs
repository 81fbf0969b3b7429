//! The chat template of an opened model, and the ids of a text that it continues.

use anyhow::Result;
use danlu_model::Opened;
use danlu_tokenizer::{ChatTemplate, Tokenizer};

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
    Ok(opened.tokenizer()?.prompt_ids(text)?)
}
