//! Generation for several prompts at once: a step runs the next token of every sequence that grows, and pieces of the
//! prompts that have joined them, as one slice, so that weights are read once for all.
//!
//! A sequence gets the tokens that it gets alone, but for roundings of products whose sums run in another order.

use std::ops::ControlFlow;

use danlu_kernels::Buffer;
use danlu_kernels::linear::linear;
use danlu_kernels::matmul::Output;

use crate::activations::{Buffers, Keep, bytes};
use crate::constraint::{Constraint, ConstraintState};
use crate::generate::{LogSum, check_finite};
use crate::key_cache::KeyCache;
use crate::rotary::Rotary;
use crate::{
    Error, FinishReason, Generated, GenerationOptions, Model, PackedTokens, Resident, Result, Sampler,
    Target, TokenProbability,
};

/// Prompt tokens of a step.
const CHUNK: usize = 256;

/// Runs a model for several sequences, remembering keys and values of each.
pub struct BatchGenerator<'m> {
    model: &'m Model,
    buffers: Buffers<f32>,
    slots: Vec<Option<Slot>>,
    /// Tokens of a slot at most.
    context: usize,
    /// Tokens that the cache has room for in each slot; it grows with the longest.
    room: usize,
    /// New tokens before which a stop token is impossible.
    min_new_tokens: usize,
    /// [slots, V]
    logits: Buffer<f32>,
}

/// A sequence that grows.
struct Slot {
    /// Prompt and new tokens.
    ids: Vec<u32>,
    prompt_tokens: usize,
    /// How many of them have their keys and values cached.
    cached: usize,
    options: GenerationOptions,
    min_new_tokens: usize,
    sampler: Sampler,
    constraint: Option<ConstraintState>,
    /// The logits [V] before sampling changes them, where log-probabilities are asked for.
    unchanged: Vec<f32>,
    log_probabilities: Vec<f32>,
    top_log_probabilities: Vec<Vec<TokenProbability>>,
}

/// A token that a step produced.
#[derive(Debug, Clone, PartialEq)]
pub struct NewToken {
    /// The slot, as [`BatchGenerator::add`] named it.
    pub slot: usize,
    /// The token.
    pub id: u32,
    /// The logarithm of its probability before sampling changed it, where that is asked for.
    pub log_probability: Option<f32>,
    /// The most probable tokens of the step, as many as are asked for.
    pub top_log_probabilities: Vec<TokenProbability>,
    /// All of the sequence, if this was its last token; the slot is free then.
    pub finished: Option<Generated>,
}

impl<'m> BatchGenerator<'m> {
    /// Room for so many sequences of up to `context` tokens each, at most the model's own context.
    pub fn new(model: &'m Model, slots: usize, context: usize) -> Self {
        let config = &model.config;
        let (slots, context) = (slots.max(1), context.clamp(1, config.context_length()));
        let capacity = (CHUNK + slots).min(slots * context);
        let mut buffers = Buffers::new(model, capacity, Keep::Nothing);
        buffers.rotary = Rotary::new(config, context);
        let room = CHUNK.min(context);
        buffers.scratch.cache = Some(KeyCache::new(config, slots * room));
        Self {
            model,
            buffers,
            slots: (0..slots).map(|_| None).collect(),
            context,
            room,
            min_new_tokens: 0,
            logits: Buffer::zeros(slots * config.vocab_size),
        }
    }

    /// Makes stop tokens impossible before so many new tokens of a sequence.
    #[must_use]
    pub fn with_min_new_tokens(self, min_new_tokens: usize) -> Self {
        Self { min_new_tokens, ..self }
    }

    /// Bytes of full caches and of everything beside them.
    pub fn bytes(&self) -> usize {
        let cache = self.buffers.scratch.cache.as_ref().map_or(0, KeyCache::bytes);
        let full = self.model.config.key_value_bytes(self.slots.len() * self.context) as usize;
        self.buffers.bytes() - cache + full + bytes([&self.logits])
    }

    pub(crate) fn model(&self) -> &'m Model {
        self.model
    }

    /// The logits [V] of the first slot that [`run`](Self::run) has told.
    pub(crate) fn logits(&self) -> &[f32] {
        &self.logits.host()[..self.model.config.vocab_size]
    }

    /// Whether another sequence may be added.
    pub fn has_room(&self) -> bool {
        self.slots.iter().any(Option::is_none)
    }

    /// Whether no sequence is growing.
    pub fn is_idle(&self) -> bool {
        self.slots.iter().all(Option::is_none)
    }

    /// Adds a sequence, which gets at least one token; its slot.
    ///
    /// # Errors
    /// An empty prompt, one with ids outside the vocabulary, one longer than the context, and no free slot.
    pub fn add(&mut self, prompt: &[u32], options: &GenerationOptions) -> Result<usize> {
        self.add_behind(0, prompt, options)
    }

    /// The same for a sequence whose first `cached` tokens the free slot, the only one, has in its cache.
    pub(crate) fn add_behind(
        &mut self,
        cached: usize,
        prompt: &[u32],
        options: &GenerationOptions,
    ) -> Result<usize> {
        self.model.check_prompt(prompt, self.context)?;
        let Some(slot) = self.slots.iter().position(Option::is_none) else {
            return Err(Error::Message("no more sequences can be generated at once".into()));
        };
        let mut sampler = Sampler::new(options.sampling.clone());
        match &options.vocabulary {
            Some(vocabulary) => sampler = sampler.with_vocabulary(vocabulary),
            None if options.sampling.needs_vocabulary() => {
                let message = "`dry_sequence_breakers` are texts, and the model has no tokenizer to find their tokens with: give \
                               none of them, or a tokenizer";
                return Err(Error::Message(message.into()));
            }
            None => {}
        }
        let constraint = options.constraint.as_ref().map(Constraint::begin);
        if let Some(constraint) = &constraint
            && constraint.allowed().is_empty()
        {
            let message = "no token of the vocabulary begins what the grammar or JSON schema allows";
            return Err(Error::Message(message.into()));
        }
        self.slots[slot] = Some(Slot {
            ids: prompt.to_vec(),
            prompt_tokens: prompt.len(),
            cached,
            options: options.clone(),
            min_new_tokens: self.min_new_tokens,
            sampler,
            constraint,
            unchanged: Vec::new(),
            log_probabilities: Vec::new(),
            top_log_probabilities: Vec::new(),
        });
        Ok(slot)
    }

    /// Breaks off a sequence; what it got until now.
    pub fn cancel(&mut self, slot: usize) -> Option<Generated> {
        Some(self.slots.get_mut(slot)?.take()?.finish(FinishReason::Cancelled))
    }

    /// Runs what comes next of every sequence; those whose prompt is read get a token.
    ///
    /// # Errors
    /// Logits that are not finite; all sequences are broken off then.
    pub fn step(&mut self) -> Result<Vec<NewToken>> {
        let due = self.run();
        let logits = self.logits.host_mut().chunks_exact_mut(self.model.config.vocab_size);
        let mut new = Vec::with_capacity(due.len());
        for (index, logits) in due.into_iter().zip(logits) {
            let Some(slot) = &mut self.slots[index] else { continue };
            let (id, finished) = match slot.next(logits, self.context) {
                Ok(next) => next,
                Err(error) => {
                    self.slots.fill_with(|| None);
                    return Err(error);
                }
            };
            let log_probability = slot.log_probabilities.last().copied();
            let top_log_probabilities = slot.top_log_probabilities.last().cloned().unwrap_or_default();
            let finished = finished.and_then(|reason| Some(self.slots[index].take()?.finish(reason)));
            new.push(NewToken { slot: index, id, log_probability, top_log_probabilities, finished });
        }
        Ok(new)
    }

    /// Runs what comes next of every sequence; the slots that a token is due for, whose logits stand in this order.
    pub(crate) fn run(&mut self) -> Vec<usize> {
        self.make_room();
        let (model, config) = (self.model, &self.model.config);
        let (mut tokens, mut places) = (PackedTokens::default(), Vec::new());
        let (mut targets, mut due) = (Vec::new(), Vec::new());
        let mut chunk = CHUNK;
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let Some(slot) = slot else { continue };
            let waiting = slot.ids.len() - slot.cached;
            // The newest token of a sequence that grows always has its row.
            let count = if waiting == 1 { 1 } else { waiting.min(chunk) };
            if count == 0 {
                continue;
            }
            chunk -= if waiting == 1 { 0 } else { count };
            let (first, end) = (slot.cached, slot.cached + count);
            let keys = index * self.room..index * self.room + end;
            tokens.push_cached(&slot.ids[first..end], keys);
            places.push((first..end, end.max(slot.prompt_tokens)));
            slot.cached = end;
            if count == waiting {
                targets.push(Target { position: tokens.len() as u32 - 1, id: 0 });
                due.push(index);
            }
        }
        if tokens.is_empty() {
            return due;
        }
        self.buffers.rotary.place(config, places.into_iter());
        model.run_placed_blocks(&tokens, &mut self.buffers, &mut Resident);
        model.head_input(tokens.len(), &targets, &mut self.buffers);
        let hidden = self.buffers.head.hidden.first(due.len() * config.hidden_size);
        let logits = self.logits.first_mut(due.len() * config.vocab_size);
        linear(model.precision, hidden, model.head(), Output::Overwrite, logits);
        due
    }

    /// Makes the cache long enough for the next step, twice as long at least, so that tokens are seldom copied.
    fn make_room(&mut self) {
        let length = |slot: &Slot| slot.ids.len().min(slot.cached + CHUNK);
        let longest = self.slots.iter().flatten().map(length).max().unwrap_or(0);
        if longest > self.room
            && let Some(cache) = &mut self.buffers.scratch.cache
        {
            self.room = longest.max(2 * self.room).min(self.context);
            cache.grow(&self.model.config, self.slots.len(), self.room);
        }
    }
}

impl Slot {
    /// The next token, and why it is the last if it is.
    fn next(&mut self, logits: &mut [f32], context: usize) -> Result<(u32, Option<FinishReason>)> {
        check_finite(logits, self.ids.len())?;
        let top = self.options.top_log_probabilities;
        let is_asked = self.options.log_probabilities || top > 0;
        if is_asked {
            self.unchanged.clear();
            self.unchanged.extend_from_slice(logits);
        }
        if self.ids.len() - self.prompt_tokens < self.min_new_tokens {
            for &id in &self.options.stop_ids {
                if let Some(logit) = logits.get_mut(id as usize) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
        let (id, ended) = match &mut self.constraint {
            None => (self.sampler.next(logits, &self.ids, self.prompt_tokens), None),
            Some(constraint) => {
                constraint.mask(logits, &self.options.stop_ids);
                let drawn = self.sampler.next(logits, &self.ids, self.prompt_tokens);
                constraint.go_on(drawn, &self.options.stop_ids)
            }
        };
        self.ids.push(id);
        if is_asked {
            let sum = LogSum::of(&self.unchanged);
            self.log_probabilities.push(sum.log_probability(self.unchanged[id as usize]));
            if top > 0 {
                self.top_log_probabilities.push(sum.most_probable(&self.unchanged, top));
            }
        }
        let new_tokens = self.ids.len() - self.prompt_tokens;
        let finished = if self.options.stop_ids.contains(&id) {
            Some(FinishReason::Stop)
        } else if new_tokens >= self.options.max_new_tokens || self.cached == context {
            Some(FinishReason::Length)
        } else {
            None
        };
        Ok((id, ended.or(finished)))
    }

    fn finish(mut self, finish_reason: FinishReason) -> Generated {
        let ids = self.ids.split_off(self.prompt_tokens);
        Generated {
            ids,
            finish_reason,
            log_probabilities: self.log_probabilities,
            top_log_probabilities: self.top_log_probabilities,
        }
    }
}

/// What a step of [`generate_all`] has brought.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// New tokens of all sequences; none while prompts are read.
    pub tokens: usize,
    /// What ended, with the index of its prompt.
    pub finished: Vec<(usize, Generated)>,
}

/// Generates for every prompt with the same options, `at_once` at a time. `on_step` is told of each step and may break off.
///
/// # Errors
/// As [`BatchGenerator::add`] and [`BatchGenerator::step`].
pub fn generate_all(
    model: &Model,
    prompts: &[Vec<u32>],
    options: &GenerationOptions,
    at_once: usize,
    mut on_step: impl FnMut(Step) -> ControlFlow<()>,
) -> Result<()> {
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    let slots = at_once.clamp(1, prompts.len().max(1));
    let mut generator = BatchGenerator::new(model, slots, longest.saturating_add(options.max_new_tokens));
    let mut owners = vec![0; slots];
    let mut waiting = prompts.iter().enumerate();
    loop {
        while generator.has_room()
            && let Some((index, prompt)) = waiting.next()
        {
            owners[generator.add(prompt, options)?] = index;
        }
        if generator.is_idle() {
            return Ok(());
        }
        let new = generator.step()?;
        let tokens = new.len();
        let finished = new.into_iter().filter_map(|new| Some((owners[new.slot], new.finished?))).collect();
        if on_step(Step { tokens, finished }).is_break() {
            return Ok(());
        }
    }
}
