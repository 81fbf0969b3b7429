//! Generation of one sequence with a key/value cache that the next one may begin with.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::constraint::{Constraint, Vocabulary};
use crate::generate_batch::{BatchGenerator, NewToken};
use crate::{Error, Model, Result, Sampling};

/// Runs a model token by token, remembering keys and values.
pub struct Generator<'m> {
    /// One sequence at a time.
    batch: BatchGenerator<'m>,
    /// The tokens whose keys and values are cached, while none is growing.
    ids: Vec<u32>,
}

/// How to generate.
#[derive(Clone, Debug)]
pub struct GenerationOptions {
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Stop after this many.
    pub max_new_tokens: usize,
    /// Stop after one of these, which is kept.
    pub stop_ids: Vec<u32>,
    /// Report the logarithm of each new token's probability before sampling changed it.
    pub log_probabilities: bool,
    /// Report this many of the most probable tokens at each step, and the new token's probability.
    pub top_log_probabilities: usize,
    /// What the text must be. Tokens of `stop_ids` come only where it may end; where nothing else can come it ends by itself.
    pub constraint: Option<Constraint>,
    /// The bytes of tokens, with which the texts of `dry_sequence_breakers` are found.
    pub vocabulary: Option<Arc<Vocabulary>>,
}

impl Default for GenerationOptions {
    /// 512 tokens, none of which ends the text.
    fn default() -> Self {
        Self {
            sampling: Sampling::default(),
            max_new_tokens: 512,
            stop_ids: Vec::new(),
            log_probabilities: false,
            top_log_probabilities: 0,
            constraint: None,
            vocabulary: None,
        }
    }
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token was produced, or the constraint is fulfilled and nothing can follow.
    Stop,
    /// `max_new_tokens`, or the end of the context.
    Length,
    /// The caller broke off.
    Cancelled,
    /// No token of the vocabulary goes on as the constraint has it.
    Stuck,
}

impl FinishReason {
    /// The word that the field's APIs use.
    pub fn name(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::Cancelled => "cancelled",
            FinishReason::Stuck => "stuck",
        }
    }
}

/// A token and the logarithm of its probability before sampling changed it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenProbability {
    /// The token.
    pub id: u32,
    /// log p.
    pub log_probability: f32,
}

/// What was generated.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// The new tokens, a stop token included.
    pub ids: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// For each new token, the logarithm of its probability before sampling changed it; empty unless it is asked for.
    pub log_probabilities: Vec<f32>,
    /// For each new token, the most probable tokens of its step.
    pub top_log_probabilities: Vec<Vec<TokenProbability>>,
}

impl<'m> Generator<'m> {
    /// A generator with an empty cache for up to `context` tokens, at most the model's own context.
    pub fn new(model: &'m Model, context: usize) -> Self {
        Self { batch: BatchGenerator::new(model, 1, context), ids: Vec::new() }
    }

    /// Makes stop tokens impossible before so many new tokens.
    #[must_use]
    pub fn with_min_new_tokens(self, min_new_tokens: usize) -> Self {
        Self { batch: self.batch.with_min_new_tokens(min_new_tokens), ..self }
    }

    /// Bytes of the cache and of everything beside it.
    pub fn bytes(&self) -> usize {
        self.batch.bytes()
    }

    /// Makes `prompt` the cached tokens, running only what follows the longest common beginning, and then generates.
    /// `on_token` sees each new token and may break off.
    ///
    /// # Errors
    /// An empty prompt, one with ids outside the vocabulary, one longer than the context, and logits that are not finite.
    pub fn generate(
        &mut self,
        prompt: &[u32],
        options: &GenerationOptions,
        mut on_token: impl FnMut(u32) -> ControlFlow<()>,
    ) -> Result<Generated> {
        let slot = self.begin(prompt, options)?;
        loop {
            for NewToken { id, finished, .. } in self.batch.step()? {
                let is_over = on_token(id).is_break();
                let ended = if finished.is_none() && is_over { self.batch.cancel(slot) } else { finished };
                let Some(mut generated) = ended else { continue };
                if is_over && generated.finish_reason == FinishReason::Length {
                    generated.finish_reason = FinishReason::Cancelled;
                }
                // The last token has not run.
                self.ids = [prompt, &generated.ids[..generated.ids.len() - 1]].concat();
                return Ok(generated);
            }
        }
    }

    /// The logits [V] of the token after `prompt`, which becomes the cached tokens as in [`Generator::generate`].
    ///
    /// # Errors
    /// An empty prompt, one with ids outside the vocabulary, one longer than the context.
    pub fn next_logits(&mut self, prompt: &[u32]) -> Result<&[f32]> {
        let options = GenerationOptions { max_new_tokens: 1, ..GenerationOptions::default() };
        let slot = self.begin(prompt, &options)?;
        while self.batch.run().is_empty() {}
        self.batch.cancel(slot);
        self.ids = prompt.to_vec();
        Ok(self.batch.logits())
    }

    /// Adds the sequence behind what is cached of it. Nothing counts as cached until it has ended.
    fn begin(&mut self, prompt: &[u32], options: &GenerationOptions) -> Result<usize> {
        let config = self.batch.model().config();
        // Keys of long sequences are turned by angles of their own.
        let is_long = |ids: &[u32]| config.dynamic_beyond().is_some_and(|original| ids.len() > original);
        let common = match is_long(&self.ids) || is_long(prompt) {
            true => 0,
            false => self.ids.iter().zip(prompt).take_while(|(cached, id)| cached == id).count(),
        };
        // The last token runs again for its logits.
        let slot = self.batch.add_behind(common.min(prompt.len().saturating_sub(1)), prompt, options)?;
        self.ids.clear();
        Ok(slot)
    }
}

impl Model {
    pub(crate) fn check_prompt(&self, prompt: &[u32], context: usize) -> Result<()> {
        if prompt.is_empty() {
            let message = "the prompt is empty and the model has no token to begin with; give it a text";
            return Err(Error::Message(message.into()));
        }
        self.check_ids(prompt)?;
        if prompt.len() > context {
            let (what, tokens) = ("a prompt", prompt.len());
            return Err(Error::TooLong { what, tokens, context, advice: "shorten the prompt" });
        }
        Ok(())
    }
}

/// Refuses logits that are no numbers, after so many tokens.
pub(crate) fn check_finite(logits: &[f32], tokens: usize) -> Result<()> {
    match logits.iter().find(|logit| !logit.is_finite()) {
        None => Ok(()),
        Some(logit) => Err(Error::Message(format!(
            "the model's logits are not finite numbers (`{logit}`) after {tokens} tokens: its weights are damaged, or too \
             large for the precision; try `--precision f32`",
        ))),
    }
}

/// The logarithm of a softmax's sum, from which log-probabilities follow.
pub(crate) struct LogSum {
    largest: f32,
    /// Of exp(logit − largest).
    log_sum: f64,
}

impl LogSum {
    /// Of logits [V].
    pub(crate) fn of(logits: &[f32]) -> Self {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&logit| f64::from(logit - largest).exp()).sum();
        Self { largest, log_sum: sum.ln() }
    }

    pub(crate) fn log_probability(&self, logit: f32) -> f32 {
        (f64::from(logit - self.largest) - self.log_sum) as f32
    }

    /// The `count` most probable tokens, first the most probable.
    pub(crate) fn most_probable(&self, logits: &[f32], count: usize) -> Vec<TokenProbability> {
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        let falling = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        if count < order.len() {
            order.select_nth_unstable_by(count, falling);
            order.truncate(count);
        }
        order.sort_unstable_by(falling);
        let probable =
            |id: u32| TokenProbability { id, log_probability: self.log_probability(logits[id as usize]) };
        order.into_iter().map(probable).collect()
    }
}
