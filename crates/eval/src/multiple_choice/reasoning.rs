//! Answers with reasons: what a model writes, and the letter that it arrives at. It scores no options.

use std::ops::ControlFlow;

use danlu_model::{GenerationOptions, Generator, Opened, Sampling};
use danlu_tokenizer::Tokenizer;

use super::Answer;
use super::prompts::{Asked, Asker, Wanted};
use super::questions::OPTIONS;
use super::stated_letter::stated_letter;
use crate::Result;

/// Tokens between two looks at whether the answer is over.
const LOOK: usize = 16;

/// How reasons are written.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Reasoning {
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Most tokens of an answer; at most half of the model's context.
    pub max_new_tokens: usize,
}

impl Reasoning {
    /// The same with the seed of a later time.
    #[must_use]
    pub fn of_take(&self, number: usize) -> Self {
        let seed = self.sampling.seed.wrapping_add(number as u64);
        Self { sampling: Sampling { seed, ..self.sampling.clone() }, ..*self }
    }
}

/// The answers to questions that were put so. `progress` is told how many options of how many are decided.
pub(super) fn answers(
    opened: &Opened,
    reasoning: &Reasoning,
    asker: &Asker,
    asked: &[Asked],
    mut progress: impl FnMut(usize, usize),
) -> Result<Vec<Answer>> {
    let tokenizer = opened.tokenizer()?;
    let wanted = asked.iter().map(|asked| match &asked.wanted {
        Some(Wanted::Reasons { prompt, room }) => prompt.len() + room,
        _ => 0,
    });
    let mut generator = Generator::new(&opened.model, wanted.max().unwrap_or(0));
    let mut options = GenerationOptions {
        sampling: reasoning.sampling.clone(),
        max_new_tokens: reasoning.max_new_tokens,
        stop_ids: opened.stop_ids(),
        ..GenerationOptions::default()
    };
    let mut answers = Vec::with_capacity(asked.len());
    for question in asked {
        let response = match &question.wanted {
            Some(Wanted::Reasons { prompt, room }) => {
                options.max_new_tokens = *room;
                Some(response(&mut generator, tokenizer, asker, prompt, &options)?)
            }
            _ => None,
        };
        let chosen = response.as_deref().and_then(stated_letter);
        let shortened = question.shortened;
        answers.push(Answer { scores: None, most_likely: chosen, chosen, shortened, response });
        progress(OPTIONS * answers.len(), OPTIONS * asked.len());
    }
    Ok(answers)
}

fn response(
    generator: &mut Generator,
    tokenizer: &Tokenizer,
    asker: &Asker,
    prompt: &[u32],
    options: &GenerationOptions,
) -> Result<String> {
    let mut ids = Vec::new();
    let is_over = |ids: &[u32]| {
        let text = tokenizer.decode(ids, true).unwrap_or_default();
        asker.wording().first_answer(&text).len() < text.len()
    };
    let generated = generator.generate(prompt, options, |id| {
        ids.push(id);
        match ids.len().is_multiple_of(LOOK) && is_over(&ids) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    })?;
    let is_stop = |id: &u32| options.stop_ids.contains(id);
    let end = generated.ids.len() - usize::from(generated.ids.last().is_some_and(is_stop));
    let text = tokenizer.decode(&generated.ids[..end], true)?;
    Ok(asker.wording().first_answer(&text).trim().to_owned())
}
