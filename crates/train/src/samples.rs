//! What the model answers during a run: a few prompts, greedily, into `samples.jsonl` of the run folder.
//!
//! The answers change nothing of the run.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use danlu_model::{GenerationOptions, Generator, Model, Sampling};
use danlu_tokenizer::{ChatTemplate, Message, Tokenizer};
use fs_err as fs;
use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainError};
use crate::recipe::Recipe;

/// Name of the file.
pub const SAMPLES: &str = "samples.jsonl";

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Finished optimizer steps.
    pub step: u64,
    /// The text of the recipe.
    pub prompt: String,
    /// What the model made of it.
    pub text: String,
    /// `stop` or `length`.
    pub finish_reason: String,
}

/// Prompts, cut into ids.
pub(crate) struct Prompts {
    prompts: Vec<(String, Vec<u32>)>,
    options: GenerationOptions,
}

impl Prompts {
    /// The prompts of a recipe, in the `template` of its samples if they have one.
    ///
    /// # Errors
    /// What the template refuses; a prompt without tokens, or longer than the model's context.
    pub fn new(
        recipe: &Recipe,
        tokenizer: &Tokenizer,
        template: Option<&ChatTemplate>,
        model: &Model,
    ) -> Result<Self> {
        let mut stop_ids = model.config().eos_token_ids.clone();
        stop_ids.extend(tokenizer.end_of_turn_ids());
        let evaluation = &recipe.evaluation;
        let ids = |prompt: &String| -> Result<(String, Vec<u32>)> {
            let ids = match template {
                Some(template) => {
                    let system = recipe.data.default_system.as_deref();
                    let system = system.map(|system| Message::new("system", system));
                    let messages: Vec<Message> =
                        system.into_iter().chain([Message::new("user", prompt)]).collect();
                    tokenizer.chat_ids(template, &messages)?
                }
                None => tokenizer.prompt_ids(prompt)?,
            };
            let context = model.config().context_length();
            if ids.is_empty() || ids.len() >= context {
                let problem = format!(
                    "`{prompt}` has {} tokens; expected from 1 to {}, which leave room for an answer in the model's context",
                    ids.len(),
                    context.saturating_sub(1)
                );
                return Err(TrainError::Option { key: "sample_prompts", problem });
            }
            Ok((prompt.clone(), ids))
        };
        Ok(Self {
            prompts: evaluation.sample_prompts.iter().map(ids).collect::<Result<_>>()?,
            options: GenerationOptions {
                sampling: Sampling { temperature: 0.0, ..Sampling::default() },
                max_new_tokens: evaluation.sample_max_new_tokens,
                stop_ids,
                ..GenerationOptions::default()
            },
        })
    }

    /// What answers the prompts, with room for the longest of them; none without prompts.
    fn generator<'m>(&self, model: &'m Model) -> Option<Generator<'m>> {
        let longest = self.prompts.iter().map(|(_, ids)| ids.len()).max()?;
        Some(Generator::new(model, longest.saturating_add(self.options.max_new_tokens)))
    }

    /// Bytes that answering takes.
    pub fn bytes(&self, model: &Model) -> usize {
        self.generator(model).map_or(0, |generator| generator.bytes())
    }

    /// Answers every prompt and appends the answers to the file in `folder`.
    ///
    /// # Errors
    /// A prompt longer than the model's context, or a file that cannot be written.
    pub fn answer(
        &self,
        model: &Model,
        tokenizer: &Tokenizer,
        step: u64,
        folder: &Path,
    ) -> Result<Vec<Answer>> {
        let Some(mut generator) = self.generator(model) else { return Ok(Vec::new()) };
        let mut answers = Vec::new();
        for (prompt, ids) in &self.prompts {
            let generated = generator.generate(ids, &self.options, |_| ControlFlow::Continue(()))?;
            let is_stop = |id: &u32| self.options.stop_ids.contains(id);
            let end = generated.ids.len() - usize::from(generated.ids.last().is_some_and(is_stop));
            answers.push(Answer {
                step,
                prompt: prompt.clone(),
                text: tokenizer.decode(&generated.ids[..end], true)?,
                finish_reason: generated.finish_reason.name().into(),
            });
        }
        let mut lines = String::new();
        for answer in &answers {
            lines += &serde_json::to_string(answer).map_err(std::io::Error::from)?;
            lines.push('\n');
        }
        let file = fs::OpenOptions::new().create(true).append(true).open(folder.join(SAMPLES));
        file?.write_all(lines.as_bytes())?;
        Ok(answers)
    }
}

/// Cuts off what a run wrote behind `step`, and a line that a kill left torn.
///
/// # Errors
/// When the file cannot be read or written.
pub fn keep_until(folder: &Path, step: u64) -> Result<()> {
    let path = folder.join(SAMPLES);
    if !path.is_file() {
        return Ok(());
    }
    let bytes = fs::read(&path)?;
    let text = String::from_utf8_lossy(&bytes);
    let is_kept = |line: &&str| {
        line.ends_with('\n') && serde_json::from_str::<Answer>(line).is_ok_and(|answer| answer.step <= step)
    };
    let kept: String = text.split_inclusive('\n').filter(is_kept).collect();
    Ok(danlu_formats::write_file_atomically(&path, kept.as_bytes())?)
}
