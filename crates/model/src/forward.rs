//! The forward: embedding, decoder blocks, and the last norm at the rows whose next token is predicted.

use std::ops::Range;

use danlu_kernels::attention::{Sequence, attention};
use danlu_kernels::elementwise::{copy, gather_rows};
use danlu_kernels::embedding::embedding;
use danlu_kernels::matmul::Output;
use danlu_kernels::rms_norm::rms_norm;
use danlu_kernels::rope::{Direction, rope};
use danlu_kernels::swiglu::swiglu;
use danlu_kernels::{Buffer, Value, View, ViewMut};

use crate::activations::{Activations, Buffers, Saved, Scratch, with_buffers};
use crate::importance::{Input, add_squares};
use crate::names::{self, Extra, Part, block_tensor};
use crate::rotary::Rotary;
use crate::{Error, Model, Module, PackedTokens, ParameterSource, Result, Target};

/// The tokens that a block runs on.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    /// The angles of each token.
    pub(crate) rotary: &'a Rotary,
    pub(crate) sequences: &'a [Sequence],
    /// The cached rows that each sequence follows, if any does.
    pub(crate) follows: &'a [Range<usize>],
    /// Row of the keys and values where these tokens' own begin: the length of the cache.
    pub(crate) first_key: usize,
}

impl Model {
    /// Runs the blocks on packed tokens; the residual stream after the last stays in `activations`.
    ///
    /// # Errors
    /// A token id outside the vocabulary, or a sequence longer than the context.
    pub fn forward(
        &self,
        tokens: &PackedTokens,
        activations: &mut Activations,
        source: &mut impl ParameterSource,
    ) -> Result<()> {
        self.check_ids(tokens.ids())?;
        for sequence in tokens.sequences() {
            self.check_length("a sequence", sequence.keys.len(), "lower `cutoff_len`")?;
        }
        with_buffers!(&mut activations.0, buffers => {
            if tokens.follows().is_empty() {
                self.run_blocks(tokens, buffers, source);
            } else {
                buffers.scratch.cache = buffers.prefixes.take();
                assert!(buffers.scratch.cache.is_some(), "sequences follow others that ran");
                self.run_blocks(tokens, buffers, source);
                buffers.prefixes = buffers.scratch.cache.take();
            }
        });
        Ok(())
    }

    fn run_blocks<T: Value>(
        &self,
        tokens: &PackedTokens,
        buffers: &mut Buffers<T>,
        source: &mut impl ParameterSource,
    ) {
        let places = tokens.sequences().iter().map(|own| (own.past()..own.keys.len(), own.keys.len()));
        buffers.rotary.place(&self.config, places);
        self.run_placed_blocks(tokens, buffers, source);
    }

    /// The same where the angles of the tokens are known.
    pub(crate) fn run_placed_blocks<T: Value>(
        &self,
        tokens: &PackedTokens,
        buffers: &mut Buffers<T>,
        source: &mut impl ParameterSource,
    ) {
        let Buffers { capacity, residual, blocks, scratch, rotary, .. } = buffers;
        assert!(tokens.len() <= *capacity, "a slice longer than its activations");
        let width = tokens.len() * self.config.hidden_size;
        let rows = Rows { rotary, sequences: tokens.sequences(), follows: tokens.follows(), first_key: 0 };
        self.noise.keys_of(tokens, &mut scratch.adapters.keys);
        self.embed(tokens.ids(), residual[0].first_mut(width));
        self.noise.add_to_embeddings(tokens, &scratch.adapters.keys, residual[0].first_mut(width));
        for layer in 0..self.config.num_hidden_layers {
            source.need(layer);
            let (before, after) = (layer % residual.len(), (layer + 1) % residual.len());
            let block_index = layer % blocks.len();
            let block = &mut blocks[block_index];
            let Ok([x, output]) = residual.get_disjoint_mut([before, after]) else {
                unreachable!("a block reads one residual stream and writes another")
            };
            self.block(
                layer,
                rows,
                x.first(width),
                &mut block.saved,
                [&mut block.keys, &mut block.values],
                scratch,
                output.first_mut(width),
            );
            source.done(layer);
        }
    }

    /// One decoder block, pre-norm:
    ///
    /// middle = x + Wo · attention(rope(Wq · n), rope(Wk · n), Wv · n) with n = norm(x);
    /// out = middle + Wdown · (silu(Wgate · m) · Wup · m) with m = norm(middle).
    ///
    /// Where a family has them, biases are added to the products, and heads of queries and keys are normed before rope.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn block<T: Value>(
        &self,
        layer: usize,
        rows: Rows,
        x: View<f32>,
        saved: &mut Saved<T>,
        cache: [&mut Buffer<T>; 2],
        scratch: &mut Scratch<T>,
        out: ViewMut<f32>,
    ) {
        let tokens = rows.rotary.rows.len();
        let (d, q) = (tokens * self.config.hidden_size, tokens * self.config.query_size());
        let f = tokens * self.config.intermediate_size;
        self.norm_input(layer, x, saved, scratch);
        add_squares(&mut scratch.squares, layer, Input::Attention, scratch.normed.first(d));
        self.attend(layer, rows, saved, cache, scratch);
        add_squares(&mut scratch.squares, layer, Input::Output, saved.attention.first(q));
        self.add_attention(layer, x, saved, scratch);
        self.norm_middle(layer, tokens, saved, scratch);
        add_squares(&mut scratch.squares, layer, Input::FeedForward, scratch.normed.first(d));
        self.gate_and_up(layer, tokens, saved, scratch);
        add_squares(&mut scratch.squares, layer, Input::Down, scratch.product.first(f));
        self.add_feed_forward(layer, tokens, saved, scratch, out);
    }

    /// n of [`block`](Self::block), what queries, keys and values are made of.
    pub(crate) fn norm_input<T: Value>(
        &self,
        layer: usize,
        x: View<f32>,
        saved: &mut Saved<T>,
        scratch: &mut Scratch<T>,
    ) {
        let tokens = x.len() / self.config.hidden_size;
        let weight = self.vector(block_tensor(&self.config, layer, Part::InputNorm));
        let (normed, inverse_rms) =
            (scratch.normed.first_mut(x.len()), saved.input_inverse_rms.first_mut(tokens));
        rms_norm(x, weight, self.config.rms_norm_eps as f32, normed, inverse_rms);
    }

    /// From n to the attention's result, what the output layer sees.
    pub(crate) fn attend<T: Value>(
        &self,
        layer: usize,
        rows: Rows,
        saved: &mut Saved<T>,
        [keys, values]: [&mut Buffer<T>; 2],
        scratch: &mut Scratch<T>,
    ) {
        let config = &self.config;
        let (angles, table) = (&rows.rotary.rows, &rows.rotary.table);
        let tokens = angles.len();
        let (d, q) = (tokens * config.hidden_size, tokens * config.query_size());
        let kv_size = config.key_value_size();
        let own_keys = rows.first_key * kv_size..(rows.first_key + tokens) * kv_size;
        let all_keys = (rows.first_key + tokens) * kv_size;
        let epsilon = config.rms_norm_eps as f32;
        let Saved { queries, head_norms, attention: attended, log_sum_exp, low, .. } = saved;
        let (projected_queries, projected_keys) = match head_norms {
            Some(norms) => (norms.queries.first_mut(q), norms.keys.first_mut(own_keys.len())),
            None => (queries.first_mut(q), keys.view_mut(own_keys.clone())),
        };
        let members = [
            (Module::Query, projected_queries),
            (Module::Key, projected_keys),
            (Module::Value, values.view_mut(own_keys.clone())),
        ];
        let Scratch { normed, adapters, cache, .. } = scratch;
        self.forward_together(layer, normed.first(d), members, low, adapters, Output::Overwrite);
        if let Some(norms) = head_norms
            && let [Some(query_norm), Some(key_norm)] =
                [Extra::QueryNorm, Extra::KeyNorm].map(|extra| self.extra(layer, extra))
        {
            let scales = norms.query_inverse_rms.first_mut(tokens * config.num_attention_heads);
            rms_norm(norms.queries.first(q), query_norm, epsilon, queries.first_mut(q), scales);
            let scales = norms.key_inverse_rms.first_mut(tokens * config.num_key_value_heads);
            let into = keys.view_mut(own_keys.clone());
            rms_norm(norms.keys.first(own_keys.len()), key_norm, epsilon, into, scales);
        }
        if !config.alibi {
            rope(queries.first_mut(q), angles, table, Direction::Forward);
            rope(keys.view_mut(own_keys), angles, table, Direction::Forward);
        }
        let own = [keys.first(all_keys), values.first(all_keys)];
        let [keys, values] = match cache {
            None => own,
            Some(cache) => cache.attended(layer, rows.sequences, rows.follows, own, kv_size),
        };
        attention(
            self.precision,
            config.heads(),
            self.distance(),
            rows.sequences,
            queries.first(q),
            keys,
            values,
            attended.first_mut(q),
            log_sum_exp.first_mut(tokens * config.num_attention_heads),
        );
    }

    /// The residual stream behind the attention: middle = x + Wo · attention.
    pub(crate) fn add_attention<T: Value>(
        &self,
        layer: usize,
        x: View<f32>,
        saved: &mut Saved<T>,
        scratch: &mut Scratch<T>,
    ) {
        let q = x.len() / self.config.hidden_size * self.config.query_size();
        let Saved { attention: attended, middle, low, .. } = saved;
        copy(x, middle.first_mut(x.len()));
        let member = [(Module::Output, middle.first_mut(x.len()))];
        self.forward_together(layer, attended.first(q), member, low, &mut scratch.adapters, Output::Add);
    }

    /// m of [`block`](Self::block), what gate and up are made of.
    pub(crate) fn norm_middle<T: Value>(
        &self,
        layer: usize,
        tokens: usize,
        saved: &mut Saved<T>,
        scratch: &mut Scratch<T>,
    ) {
        let d = tokens * self.config.hidden_size;
        let weight = self.vector(block_tensor(&self.config, layer, Part::PostNorm));
        let (normed, inverse_rms) = (scratch.normed.first_mut(d), saved.post_inverse_rms.first_mut(tokens));
        rms_norm(saved.middle.first(d), weight, self.config.rms_norm_eps as f32, normed, inverse_rms);
    }

    /// From m to the product of gate and up, what the down layer sees.
    pub(crate) fn gate_and_up<T: Value>(
        &self,
        layer: usize,
        tokens: usize,
        saved: &mut Saved<T>,
        scratch: &mut Scratch<T>,
    ) {
        let (d, f) = (tokens * self.config.hidden_size, tokens * self.config.intermediate_size);
        let Scratch { normed, product, feed_forward: shared, adapters, .. } = scratch;
        let Saved { feed_forward: own, low, .. } = saved;
        let Some([gate, up]) = own.as_mut().or(shared.as_mut()) else {
            unreachable!("gate and up are a block's own or shared")
        };
        let members = [(Module::Gate, gate.first_mut(f)), (Module::Up, up.first_mut(f))];
        self.forward_together(layer, normed.first(d), members, low, adapters, Output::Overwrite);
        swiglu(gate.first(f), up.first(f), product.first_mut(f));
    }

    /// The residual stream behind the block: out = middle + Wdown · product.
    pub(crate) fn add_feed_forward<T: Value>(
        &self,
        layer: usize,
        tokens: usize,
        saved: &mut Saved<T>,
        scratch: &mut Scratch<T>,
        mut out: ViewMut<f32>,
    ) {
        let (d, f) = (tokens * self.config.hidden_size, tokens * self.config.intermediate_size);
        let Saved { middle, low, .. } = saved;
        copy(middle.first(d), out.reborrow());
        let Scratch { product, adapters, .. } = scratch;
        self.forward_together(layer, product.first(f), [(Module::Down, out)], low, adapters, Output::Add);
    }

    /// x [T, D] = the embeddings of `ids`.
    pub(crate) fn embed(&self, ids: &[u32], x: ViewMut<f32>) {
        embedding(ids, self.matrix(names::EMBEDDING), x);
    }

    /// Gathers the rows of `targets` behind the last block and norms them: what the head sees.
    pub(crate) fn head_input<T: Value>(
        &self,
        tokens: usize,
        targets: &[Target],
        activations: &mut Buffers<T>,
    ) {
        let d = self.config.hidden_size;
        let rows: Vec<u32> = targets.iter().map(|target| target.position).collect();
        let last = self.config.num_hidden_layers % activations.residual.len();
        let head = &mut activations.head;
        gather_rows(
            activations.residual[last].first(tokens * d),
            &rows,
            head.residual.first_mut(rows.len() * d),
        );
        rms_norm(
            head.residual.first(rows.len() * d),
            self.vector(names::final_norm(&self.config)),
            self.config.rms_norm_eps as f32,
            head.hidden.first_mut(rows.len() * d),
            head.inverse_rms.first_mut(rows.len()),
        );
    }

    pub(crate) fn check_ids(&self, ids: &[u32]) -> Result<()> {
        let vocabulary_size = self.config.vocab_size;
        match ids.iter().find(|&&id| id as usize >= vocabulary_size) {
            Some(&id) => Err(Error::TokenOutOfRange { id, vocabulary_size }),
            None => Ok(()),
        }
    }

    pub(crate) fn check_length(&self, what: &'static str, tokens: usize, advice: &'static str) -> Result<()> {
        let context = self.config.context_length();
        if tokens > context { Err(Error::TooLong { what, tokens, context, advice }) } else { Ok(()) }
    }
}
