//! A row of LongBench → the ids of its prompt → an answer.
//!
//! A prompt that is too long loses its middle, before a chat template is put around it; where the model's context is shorter
//! still, it loses more of it.

use std::ops::ControlFlow;

use danlu_model::{FinishReason, GenerationOptions, Generator, Opened, Sampling};
use danlu_tokenizer::{ChatTemplate, Message, SpecialTokens, Tokenizer};

use super::rows::Row;
use super::tasks::Task;
use crate::{Result, openai};

/// A chat template around prompts, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Instruction {
    /// Around every prompt.
    True,
    /// Around none.
    False,
    /// Around those that are questions, and not around those that are to be continued.
    Auto,
}

/// How rows are asked.
pub struct Asking<'a> {
    /// The model.
    pub opened: &'a Opened,
    /// Which prompts the template is put around.
    pub instruction: Instruction,
    /// The template; without one, `instruction` has no effect.
    pub template: Option<&'a ChatTemplate>,
    /// The system message in it, if it is not empty.
    pub system: &'a str,
    /// Tokens of a prompt before the template, beyond which it loses its middle.
    pub max_length: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
}

/// An answer and how it came to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The text, without special tokens.
    pub text: String,
    /// What it answers.
    pub prompt: Prompt,
}

/// What the model is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Its tokens; none where the model's context has no room for a prompt beside an answer.
    pub ids: Vec<u32>,
    /// Whether it lost its middle to `max_length`.
    pub is_cut: bool,
    /// Whether it lost more to the model's context.
    pub is_cut_for_context: bool,
}

impl Asking<'_> {
    /// Generates the answer of a row, or none if `go_on` breaks off. A row for which the model's context has no room is answered
    /// with nothing.
    ///
    /// # Errors
    /// What generation may fail with.
    pub fn answer(
        &self,
        task: &Task,
        row: &Row,
        mut go_on: impl FnMut() -> ControlFlow<()>,
    ) -> Result<Option<Answer>> {
        let tokenizer = self.opened.tokenizer()?;
        let prompt = self.prompt(task, row)?;
        if prompt.ids.is_empty() {
            return Ok(Some(Answer { text: String::new(), prompt }));
        }
        let mut options = GenerationOptions {
            sampling: self.sampling.clone(),
            max_new_tokens: task.max_new_tokens,
            stop_ids: self.opened.stop_ids(),
            ..GenerationOptions::default()
        };
        if task.stops_at_line_break() {
            options.stop_ids.extend(tokenizer.encode("\n", SpecialTokens::AsText)?.last());
        }
        // A new one for each row: an answer does not depend on those before it, to the bit.
        let context = prompt.ids.len().saturating_add(task.max_new_tokens);
        let mut generator = Generator::new(&self.opened.model, context)
            .with_min_new_tokens(usize::from(task.stops_at_line_break()));
        let generated = generator.generate(&prompt.ids, &options, |_| go_on())?;
        if generated.finish_reason == FinishReason::Cancelled {
            return Ok(None);
        }
        let text = tokenizer.decode(&generated.ids, true)?;
        Ok(Some(Answer { text, prompt }))
    }

    /// The prompt of a row.
    ///
    /// # Errors
    /// A model without a tokenizer.
    pub fn prompt(&self, task: &Task, row: &Row) -> Result<Prompt> {
        let tokenizer = self.opened.tokenizer()?;
        let text = filled(task.prompt(), row);
        let whole = tokenizer.prompt_ids(&text)?;
        let context = self.opened.model.config().context_length();
        let mut length = self.max_length.min(whole.len());
        let is_cut = length < whole.len();
        loop {
            let text = match length < whole.len() {
                true => without_middle(tokenizer, &whole, length)?,
                false => text.clone(),
            };
            let ids = self.ids(tokenizer, task, &text)?;
            let excess = (ids.len() + task.max_new_tokens).saturating_sub(context);
            if excess == 0 {
                return Ok(Prompt {
                    ids,
                    is_cut,
                    is_cut_for_context: length < self.max_length.min(whole.len()),
                });
            }
            length = length.saturating_sub(excess);
            if length < 2 {
                return Ok(Prompt { ids: Vec::new(), is_cut, is_cut_for_context: true });
            }
        }
    }

    fn ids(&self, tokenizer: &Tokenizer, task: &Task, text: &str) -> Result<Vec<u32>> {
        let Some(template) = self.template.filter(|_| self.instruction.is_for(task)) else {
            return Ok(tokenizer.prompt_ids(text)?);
        };
        Ok(tokenizer.chat_ids(template, &conversation(self.system, text))?)
    }
}

impl Instruction {
    fn is_for(self, task: &Task) -> bool {
        match self {
            Self::True => true,
            Self::False => false,
            Self::Auto => !task.is_continuation(),
        }
    }

    /// The prompt of a row for a server, which puts a template of its own around it where one is wanted; and whether it lost its
    /// middle, which takes a tokenizer, with the most tokens that are left.
    ///
    /// # Errors
    /// A tokenizer that fails.
    pub fn prompt(
        self,
        task: &Task,
        row: &Row,
        system: &str,
        cut: Option<(&Tokenizer, usize)>,
    ) -> Result<(openai::Prompt, bool)> {
        let mut text = filled(task.prompt(), row);
        let mut is_cut = false;
        if let Some((tokenizer, max_length)) = cut {
            let ids = tokenizer.prompt_ids(&text)?;
            is_cut = ids.len() > max_length;
            if is_cut {
                text = without_middle(tokenizer, &ids, max_length)?;
            }
        }
        let prompt = match self.is_for(task) {
            true => openai::Prompt::Chat(conversation(system, &text)),
            false => openai::Prompt::Text(text),
        };
        Ok((prompt, is_cut))
    }
}

fn conversation(system: &str, text: &str) -> Vec<Message> {
    let system = (!system.is_empty()).then(|| Message::new("system", system));
    system.into_iter().chain([Message::new("user", text)]).collect()
}

/// The prompt with the row's texts; what looks like a field in them stays.
fn filled(prompt: &str, row: &Row) -> String {
    let mut text = String::with_capacity(prompt.len() + row.context.len() + row.input.len());
    let mut rest = prompt;
    let fields = [("{context}", &row.context), ("{input}", &row.input)];
    while let Some((place, name, value)) =
        fields.iter().filter_map(|(name, value)| Some((rest.find(name)?, name, value))).min()
    {
        text.push_str(&rest[..place]);
        text.push_str(value);
        rest = &rest[place + name.len()..];
    }
    text + rest
}

/// The texts of the first and the last half of `length` tokens.
fn without_middle(tokenizer: &Tokenizer, ids: &[u32], length: usize) -> Result<String> {
    let half = length / 2;
    Ok(tokenizer.decode(&ids[..half], true)? + &tokenizer.decode(&ids[ids.len() - half..], true)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_field_in_a_text_stays() {
        let row = Row {
            input: "{context}".into(),
            context: "a {input} b".into(),
            answers: Vec::new(),
            all_classes: None,
            length: serde_json::Value::Null,
        };
        assert_eq!(filled("1 {context} 2 {input} 3", &row), "1 a {input} b 2 {context} 3");
    }
}
