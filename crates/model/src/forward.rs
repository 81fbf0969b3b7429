//! The forward: embedding, decoder blocks, and the last norm at the rows whose next token is predicted.

use danlu_kernels::attention::{Sequence, attention};
use danlu_kernels::elementwise::{copy, gather_rows};
use danlu_kernels::embedding::{embedding, embedding_bf16};
use danlu_kernels::matmul::Output;
use danlu_kernels::rms_norm::rms_norm;
use danlu_kernels::rope::{Direction, RopeTable, rope};
use danlu_kernels::swiglu::swiglu;
use danlu_kernels::{Buffer, View, ViewMut};

use crate::activations::{Activations, Saved, Scratch};
use crate::model::Stored;
use crate::names::{self, Part, block_tensor};
use crate::{Error, Model, Module, PackedTokens, ParameterSource, Result, Target};

/// The tokens that a block runs on.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) rope: &'a RopeTable,
    pub(crate) positions: &'a [u32],
    pub(crate) sequences: &'a [Sequence],
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
        assert!(tokens.len() <= activations.capacity, "a slice longer than its activations");
        self.check_ids(tokens.ids())?;
        for sequence in tokens.sequences() {
            self.check_length("a sequence", sequence.keys.len(), "lower `cutoff_len`")?;
        }
        let width = tokens.len() * self.config.hidden_size;
        let Activations { residual, blocks, scratch, rope, .. } = activations;
        let rows = Rows { rope, positions: tokens.positions(), sequences: tokens.sequences(), first_key: 0 };
        self.embed(tokens.ids(), residual[0].first_mut(width));
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
        Ok(())
    }

    /// One decoder block, pre-norm:
    ///
    /// middle = x + Wo · attention(rope(Wq · n), rope(Wk · n), Wv · n) with n = norm(x);
    /// out = middle + Wdown · (silu(Wgate · m) · Wup · m) with m = norm(middle).
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn block(
        &self,
        layer: usize,
        rows: Rows,
        x: View<f32>,
        saved: &mut Saved,
        [keys, values]: [&mut Buffer<f32>; 2],
        scratch: &mut Scratch,
        mut out: ViewMut<f32>,
    ) {
        let config = &self.config;
        let tokens = rows.positions.len();
        let (d, q, f) =
            (tokens * config.hidden_size, tokens * config.query_size(), tokens * config.intermediate_size);
        let kv_size = config.key_value_size();
        let own_keys = rows.first_key * kv_size..(rows.first_key + tokens) * kv_size;
        let all_keys = (rows.first_key + tokens) * kv_size;
        let epsilon = config.rms_norm_eps as f32;
        let norm = |part| self.norm(block_tensor(layer, part));
        let linear = |module| self.projection(layer, module);
        let Scratch { normed, product, .. } = scratch;
        let Saved { queries, attention: attended, log_sum_exp, middle, gate, up, low, .. } = saved;

        let inverse_rms = saved.input_inverse_rms.first_mut(tokens);
        rms_norm(x, norm(Part::InputNorm), epsilon, normed.first_mut(d), inverse_rms);
        let n = normed.first(d);
        for (module, y) in [
            (Module::Query, queries.first_mut(q)),
            (Module::Key, keys.view_mut(own_keys.clone())),
            (Module::Value, values.view_mut(own_keys.clone())),
        ] {
            linear(module).forward(n, &mut low[module as usize], Output::Overwrite, y);
        }
        rope(queries.first_mut(q), rows.positions, rows.rope, Direction::Forward);
        rope(keys.view_mut(own_keys), rows.positions, rows.rope, Direction::Forward);
        attention(
            self.precision,
            config.heads(),
            rows.sequences,
            queries.first(q),
            keys.first(all_keys),
            values.first(all_keys),
            attended.first_mut(q),
            log_sum_exp.first_mut(tokens * config.num_attention_heads),
        );
        copy(x, middle.first_mut(d));
        let low_output = &mut low[Module::Output as usize];
        linear(Module::Output).forward(attended.first(q), low_output, Output::Add, middle.first_mut(d));

        let inverse_rms = saved.post_inverse_rms.first_mut(tokens);
        rms_norm(middle.first(d), norm(Part::PostNorm), epsilon, normed.first_mut(d), inverse_rms);
        let m = normed.first(d);
        linear(Module::Gate).forward(
            m,
            &mut low[Module::Gate as usize],
            Output::Overwrite,
            gate.first_mut(f),
        );
        linear(Module::Up).forward(m, &mut low[Module::Up as usize], Output::Overwrite, up.first_mut(f));
        swiglu(gate.first(f), up.first(f), product.first_mut(f));
        copy(middle.first(d), out.reborrow());
        linear(Module::Down).forward(product.first(f), &mut low[Module::Down as usize], Output::Add, out);
    }

    /// x [T, D] = the embeddings of `ids`.
    pub(crate) fn embed(&self, ids: &[u32], x: ViewMut<f32>) {
        match &self.stored[names::EMBEDDING] {
            Stored::F32(table) => embedding(ids, table.first(table.len()), x),
            Stored::Bf16(table) => embedding_bf16(ids, table.first(table.len()), x),
            Stored::Trained(id) => embedding(ids, self.parameters.view(*id), x),
        }
    }

    /// Gathers the rows of `targets` behind the last block and norms them: what the head sees.
    pub(crate) fn head_input(&self, tokens: usize, targets: &[Target], activations: &mut Activations) {
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
            self.norm(names::final_norm(&self.config)),
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
        let context = self.config.max_position_embeddings;
        if tokens > context { Err(Error::TooLong { what, tokens, context, advice }) } else { Ok(()) }
    }
}
