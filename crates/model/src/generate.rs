//! Generation with a key/value cache.

use std::ops::ControlFlow;

use danlu_kernels::Buffer;
use danlu_kernels::attention::Sequence;
use danlu_kernels::linear::linear;
use danlu_kernels::matmul::Output;
use danlu_kernels::rms_norm::rms_norm;

use crate::activations::{Keep, Saved, Scratch, bytes};
use crate::forward::Rows;
use crate::names;
use crate::projection::AdapterScratch;
use crate::rotary::Rotary;
use crate::{Error, Model, Result, Sampler, Sampling};

/// Keys that were turned for different lengths: no sequence has this length.
const MIXED: Option<usize> = Some(0);

/// Prompt tokens that run through the blocks at a time.
const CHUNK: usize = 256;

/// Runs a model token by token, remembering keys and values.
pub struct Generator<'m> {
    model: &'m Model,
    /// The tokens whose keys and values are cached.
    ids: Vec<u32>,
    /// Keys and values of each block, [context, K · E].
    cache: Vec<[Buffer<f32>; 2]>,
    saved: Saved<f32>,
    scratch: Scratch<f32>,
    /// The residual stream before and after a block.
    residual: [Buffer<f32>; 2],
    logits: Buffer<f32>,
    rotary: Rotary,
    /// The length whose frequencies turned the cached keys, where a sequence's length decides them.
    rotated_for: Option<usize>,
    context: usize,
    /// New tokens before which a stop token is impossible.
    min_new_tokens: usize,
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
    /// Report this many of the most probable tokens at each step.
    pub top_log_probabilities: usize,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token was produced.
    Stop,
    /// `max_new_tokens`, or the end of the context.
    Length,
    /// The caller broke off.
    Cancelled,
}

impl FinishReason {
    /// The word that the field's APIs use.
    pub fn name(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::Cancelled => "cancelled",
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
    /// For each new token, the most probable tokens of its step.
    pub top_log_probabilities: Vec<Vec<TokenProbability>>,
}

impl<'m> Generator<'m> {
    /// A generator with an empty cache for up to `context` tokens, at most the model's own context.
    pub fn new(model: &'m Model, context: usize) -> Self {
        let config = &model.config;
        let context = context.clamp(1, config.context_length());
        let rows = CHUNK.min(context);
        let cached = || Buffer::zeros(context * config.key_value_size());
        let zeros = |width: usize| Buffer::zeros(rows * width);
        Self {
            model,
            ids: Vec::new(),
            cache: (0..config.num_hidden_layers).map(|_| [cached(), cached()]).collect(),
            saved: Saved::new(model, 0, rows, Keep::Nothing),
            scratch: Scratch {
                normed: zeros(config.hidden_size),
                product: zeros(config.intermediate_size),
                feed_forward: None,
                adapters: AdapterScratch::new(model, rows, false),
                backward: None,
                squares: None,
                cache: None,
            },
            residual: [zeros(config.hidden_size), zeros(config.hidden_size)],
            logits: Buffer::zeros(config.vocab_size),
            rotary: Rotary::new(config, context),
            rotated_for: None,
            context,
            min_new_tokens: 0,
        }
    }

    /// Makes stop tokens impossible before so many new tokens.
    #[must_use]
    pub fn with_min_new_tokens(self, min_new_tokens: usize) -> Self {
        Self { min_new_tokens, ..self }
    }

    /// Bytes of the cache and of everything beside it.
    pub fn bytes(&self) -> usize {
        let Self { cache, saved, scratch, residual, logits, .. } = self;
        bytes(cache.iter().flatten()) + saved.bytes() + bytes(residual) + bytes([logits]) + scratch.bytes()
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
        self.prefill(prompt)?;
        let mut sampler = Sampler::new(options.sampling.clone());
        let mut history = prompt.to_vec();
        let mut top_log_probabilities = Vec::new();
        let finish_reason = loop {
            let new_tokens = history.len() - prompt.len();
            if new_tokens == options.max_new_tokens {
                break FinishReason::Length;
            }
            if options.top_log_probabilities > 0 {
                top_log_probabilities.push(most_probable(self.logits.host(), options.top_log_probabilities));
            }
            check_finite(self.logits.host(), history.len())?;
            if new_tokens < self.min_new_tokens {
                for &id in &options.stop_ids {
                    if let Some(logit) = self.logits.host_mut().get_mut(id as usize) {
                        *logit = f32::NEG_INFINITY;
                    }
                }
            }
            let id = sampler.next(self.logits.host_mut(), &history);
            history.push(id);
            if options.stop_ids.contains(&id) {
                _ = on_token(id);
                break FinishReason::Stop;
            }
            if on_token(id).is_break() {
                break FinishReason::Cancelled;
            }
            if new_tokens + 1 < options.max_new_tokens {
                if self.ids.len() == self.context {
                    break FinishReason::Length;
                }
                self.run(&[id], self.ids.len() + 1);
            }
        };
        Ok(Generated { ids: history.split_off(prompt.len()), finish_reason, top_log_probabilities })
    }

    /// The logits [V] of the token after `prompt`, which becomes the cached tokens as in [`Generator::generate`].
    ///
    /// # Errors
    /// An empty prompt, one with ids outside the vocabulary, one longer than the context.
    pub fn next_logits(&mut self, prompt: &[u32]) -> Result<&[f32]> {
        self.prefill(prompt)?;
        Ok(self.logits.host())
    }

    /// Runs the part of `prompt` that is not cached yet.
    fn prefill(&mut self, prompt: &[u32]) -> Result<()> {
        self.model.check_prompt(prompt, self.context)?;
        let tokens = prompt.len();
        let common = self.ids.iter().zip(prompt).take_while(|(cached, id)| cached == id).count();
        // The last token runs again for its logits.
        self.ids.truncate(common.min(prompt.len() - 1));
        if self.model.config.dynamic_beyond().is_some() && self.rotated_for != self.own_length(tokens) {
            self.ids.clear();
        }
        let start = self.ids.len();
        for chunk in prompt[start..].chunks(CHUNK) {
            self.run(chunk, tokens);
        }
        Ok(())
    }

    /// The length of a sequence, if it has frequencies of its own.
    fn own_length(&self, length: usize) -> Option<usize> {
        self.model.config.dynamic_beyond().filter(|&original| length > original).map(|_| length)
    }

    /// Appends tokens of a sequence of `length` tokens to the cache; the logits after the last stand in
    /// `self.logits`. Keys that are cached keep the angles that they were turned by, as in transformers.
    fn run(&mut self, ids: &[u32], length: usize) {
        let (model, config) = (self.model, &self.model.config);
        let past = self.ids.len();
        let (before, now) = (self.rotated_for, self.own_length(length));
        self.rotated_for = if past == 0 || before == now { now } else { MIXED };
        self.rotary.place(config, std::iter::once((past..past + ids.len(), length)));
        let sequences = [Sequence { queries: 0..ids.len(), keys: 0..past + ids.len() }];
        let rows = Rows { rotary: &self.rotary, sequences: &sequences, follows: &[], first_key: past };
        let width = ids.len() * config.hidden_size;
        model.embed(ids, self.residual[0].first_mut(width));
        for (layer, [keys, values]) in self.cache.iter_mut().enumerate() {
            let [before, after] = &mut self.residual;
            let (saved, scratch) = (&mut self.saved, &mut self.scratch);
            model.block(
                layer,
                rows,
                before.first(width),
                saved,
                [keys, values],
                scratch,
                after.first_mut(width),
            );
            self.residual.swap(0, 1);
        }
        let last = self.residual[0].view(width - config.hidden_size..width);
        rms_norm(
            last,
            model.vector(names::final_norm(config)),
            config.rms_norm_eps as f32,
            self.scratch.normed.first_mut(config.hidden_size),
            self.saved.input_inverse_rms.first_mut(1),
        );
        let hidden = self.scratch.normed.first(config.hidden_size);
        let head = model.head();
        linear(model.precision, hidden, head, Output::Overwrite, self.logits.first_mut(config.vocab_size));
        self.ids.extend_from_slice(ids);
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

/// The `count` most probable tokens, first the most probable.
pub(crate) fn most_probable(logits: &[f32], count: usize) -> Vec<TokenProbability> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - largest).exp()).sum();
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let falling = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    if count < order.len() {
        order.select_nth_unstable_by(count, falling);
        order.truncate(count);
    }
    order.sort_unstable_by(falling);
    let log_probability = |id: u32| (f64::from(logits[id as usize] - largest) - sum.ln()) as f32;
    order.into_iter().map(|id| TokenProbability { id, log_probability: log_probability(id) }).collect()
}
