//! The backward of [`crate::forward`], written out: head, last norm, blocks from last to first, embedding.
//!
//! Frozen weights get no gradient, and it stops below the lowest block that trains something.

use std::borrow::Cow;

use danlu_kernels::attention::attention_backward;
use danlu_kernels::cross_entropy::{
    Score, SoftTargets, WeightGradient, linear_cross_entropy, linear_cross_entropy_backward,
};
use danlu_kernels::elementwise::{clear, scale_rows, scatter_rows};
use danlu_kernels::embedding::embedding_backward;
use danlu_kernels::matmul::Output;
use danlu_kernels::rms_norm::{rms_norm_again, rms_norm_backward, rms_norm_heads_backward};
use danlu_kernels::rope::{Direction, rope};
use danlu_kernels::swiglu::{swiglu, swiglu_backward};
use danlu_kernels::{Value, View};

use crate::activations::{Activations, BlockActivations, Buffers, Keep, Scratch, with_buffers};
use crate::forward::Rows;
use crate::gradients::STAGES;
use crate::names::{self, Extra, Part, block_tensor};
use crate::rotary::Rotary;
use crate::{GradientSink, Gradients, Model, Module, PackedTokens, ParameterSource, Target};

/// ∂loss / ∂log p of every target.
enum Coefficients<'a> {
    /// Known before the forward, with what a teacher holds for probable.
    Known(&'a [f32], Option<SoftTargets<'a>>),
    /// A function of the scores.
    AfterForward(&'a mut dyn FnMut(&[Score]) -> Vec<f32>),
}

impl Model {
    /// Adds the gradients of this slice to `gradients` after [`Model::forward`] on the same tokens with the same
    /// activations.
    ///
    /// `coefficients[i]` = ∂loss / ∂log p(target i); `soft` is what a teacher holds for probable at every target, and the scores
    /// have the divergence from it. `sink` hears of every parameter once, when nothing of this slice
    /// will be added to its gradient any more; it may change the parameter then.
    #[allow(clippy::too_many_arguments)]
    pub fn backward(
        &mut self,
        tokens: &PackedTokens,
        targets: &[Target],
        coefficients: &[f32],
        soft: Option<SoftTargets>,
        activations: &mut Activations,
        gradients: &mut Gradients,
        sink: &mut impl GradientSink,
        source: &mut impl ParameterSource,
    ) -> Vec<Score> {
        with_buffers!(&mut activations.0, buffers => {
            let coefficients = Coefficients::Known(coefficients, soft);
            self.backward_in(tokens, targets, coefficients, buffers, gradients, sink, source)
        })
    }

    /// As [`backward`](Self::backward), with coefficients that are a function of the scores.
    #[allow(clippy::too_many_arguments)]
    pub fn backward_after(
        &mut self,
        tokens: &PackedTokens,
        targets: &[Target],
        coefficients: &mut dyn FnMut(&[Score]) -> Vec<f32>,
        activations: &mut Activations,
        gradients: &mut Gradients,
        sink: &mut impl GradientSink,
        source: &mut impl ParameterSource,
    ) {
        with_buffers!(&mut activations.0, buffers => {
            let coefficients = Coefficients::AfterForward(coefficients);
            self.backward_in(tokens, targets, coefficients, buffers, gradients, sink, source);
        });
    }

    #[allow(clippy::too_many_arguments)]
    fn backward_in<T: Value>(
        &mut self,
        tokens: &PackedTokens,
        targets: &[Target],
        coefficients: Coefficients,
        buffers: &mut Buffers<T>,
        gradients: &mut Gradients,
        sink: &mut impl GradientSink,
        source: &mut impl ParameterSource,
    ) -> Vec<Score> {
        let (width, layers) = (tokens.len() * self.config.hidden_size, self.config.num_hidden_layers);
        let scores = self.head_backward(tokens.len(), targets, coefficients, buffers, gradients);
        let [embedding, head] =
            [names::EMBEDDING, names::head(&self.config)].map(|table| self.trained_table(table));
        if !self.config.tie_word_embeddings
            && let Some(head) = head
        {
            self.complete(head, gradients, sink);
        }
        if let Some(norm) = self.trained(names::final_norm(&self.config)) {
            self.complete(norm, gradients, sink);
        }
        let lowest = (0..layers).find(|&layer| embedding.is_some() || self.trains_in(layer));
        let lowest = lowest.unwrap_or(layers);
        let Buffers { keep, residual, blocks, scratch, rotary, .. } = buffers;
        for layer in (lowest..layers).rev() {
            source.need(layer);
            let below = layer > lowest || embedding.is_some();
            let block_index = layer % blocks.len();
            let block = &mut blocks[block_index];
            if *keep == Keep::ResidualOnly {
                let Ok([x, output]) = residual.get_disjoint_mut([layer, layer + 1]) else {
                    unreachable!("a block reads one residual stream and writes the next")
                };
                let rows = Rows { rotary, sequences: tokens.sequences(), follows: &[], first_key: 0 };
                let (saved, cache) = (&mut block.saved, [&mut block.keys, &mut block.values]);
                self.block(layer, rows, x.first(width), saved, cache, scratch, output.first_mut(width));
            }
            let x = residual[layer].first(width);
            self.block_backward(layer, tokens, rotary, x, block, scratch, below, gradients, sink);
            source.done(layer);
        }
        if let Some(id) = embedding
            && let Some(backward) = &scratch.backward
        {
            let (dx, dtable) = (backward.dresidual.first(width), gradients.add_to(id));
            match self.adapters.rows_of(names::EMBEDDING) {
                None => embedding_backward(tokens.ids(), |id| Some(id as usize), dx, dtable),
                Some(rows) => embedding_backward(tokens.ids(), |id| rows.place(id), dx, dtable),
            }
            self.complete(id, gradients, sink);
        }
        scores
    }

    /// Head and last norm; leaves the gradient of the residual stream behind the last block in the scratch.
    fn head_backward<T: Value>(
        &self,
        tokens: usize,
        targets: &[Target],
        coefficients: Coefficients,
        buffers: &mut Buffers<T>,
        gradients: &mut Gradients,
    ) -> Vec<Score> {
        let config = &self.config;
        self.head_input(tokens, targets, buffers);
        let Buffers { head, scratch, .. } = buffers;
        let ids: Vec<u32> = targets.iter().map(|target| target.id).collect();
        let rows: Vec<u32> = targets.iter().map(|target| target.position).collect();
        let mut scores = vec![Score::default(); ids.len()];
        let width = ids.len() * config.hidden_size;
        let (precision, weight, hidden) = (self.precision, self.head(), head.hidden.first(width));
        let table = names::head(config);
        let trained = self.trained_table(table);
        let (known, soft, after_forward) = match coefficients {
            Coefficients::Known(known, soft) => (Cow::Borrowed(known), soft, None),
            // A frozen head is linear in the coefficients: what they scale can wait for them.
            Coefficients::AfterForward(function) if trained.is_none() => {
                (Cow::Owned(vec![1.0; ids.len()]), None, Some(function))
            }
            Coefficients::AfterForward(function) => {
                linear_cross_entropy(precision, hidden, weight, &ids, &mut scores);
                (Cow::Owned(function(&scores)), None, None)
            }
        };
        linear_cross_entropy_backward(
            precision,
            hidden,
            weight,
            &ids,
            &known,
            soft,
            &mut scores,
            head.dhidden.first_mut(width),
            match (trained, self.adapters.rows_of(table)) {
                (Some(id), None) => WeightGradient::Whole(gradients.add_to(id)),
                (Some(id), Some(rows)) => WeightGradient::Rows(&rows.ids, gradients.add_to(id)),
                (None, _) => WeightGradient::None,
            },
        );
        if let Some(function) = after_forward {
            scale_rows(head.dhidden.first_mut(width), &function(&scores));
        }
        clear(head.dresidual.first_mut(width));
        let norm = names::final_norm(config);
        rms_norm_backward(
            head.residual.first(width),
            self.vector(norm),
            head.inverse_rms.first(ids.len()),
            head.dhidden.first(width),
            head.dresidual.first_mut(width),
            self.trained(norm).map(|id| gradients.add_to(id)),
        );
        if let Some(backward) = &mut scratch.backward {
            let dresidual = backward.dresidual.first_mut(tokens * config.hidden_size);
            scatter_rows(head.dresidual.first(width), &rows, dresidual);
        }
        scores
    }

    /// One block: the gradient of its output in the scratch becomes that of its input, if something `below` needs it.
    #[allow(clippy::too_many_arguments)]
    fn block_backward<T: Value>(
        &mut self,
        layer: usize,
        tokens: &PackedTokens,
        rotary: &Rotary,
        x: View<f32>,
        block: &mut BlockActivations<T>,
        scratch: &mut Scratch<T>,
        below: bool,
        gradients: &mut Gradients,
        sink: &mut impl GradientSink,
    ) {
        let config = &self.config;
        let heads = config.heads();
        let count = tokens.len();
        let (d, q, f) =
            (count * config.hidden_size, count * config.query_size(), count * config.intermediate_size);
        let kv = count * config.key_value_size();
        let Scratch { normed, product, feed_forward: shared, adapters, backward: Some(backward), .. } =
            scratch
        else {
            unreachable!("a backward needs activations that were kept");
        };
        let saved = &mut block.saved;
        let [input_norm, post_norm] =
            [Part::InputNorm, Part::PostNorm].map(|part| block_tensor(config, layer, part));
        let (middle, scales) = (saved.middle.first(d), saved.post_inverse_rms.first(count));
        if let Some([gate, up]) = shared {
            rms_norm_again(middle, self.vector(post_norm), scales, normed.first_mut(d));
            let members = [(Module::Gate, gate.first_mut(f)), (Module::Up, up.first_mut(f))];
            let low = &mut saved.low;
            self.forward_together(layer, normed.first(d), members, low, adapters, Output::Overwrite);
        }
        let Some([gate, up]) = saved.feed_forward.as_mut().or(shared.as_mut()) else {
            unreachable!("gate and up are a block's own or shared")
        };
        let low = &saved.low;
        let dlow = &mut backward.dlow;

        // Feed-forward: dresidual is the gradient of out = middle + Wdown · product.
        let dout = backward.dresidual.first(d);
        swiglu(gate.first(f), up.first(f), product.first_mut(f));
        let dx = Some(backward.dproduct.first_mut(f));
        let member = [(Module::Down, dout)];
        self.backward_together(layer, product.first(f), member, low, adapters, dlow, dx, gradients);
        self.complete_stage(layer, 0, gradients, sink);
        swiglu_backward(backward.dproduct.first(f), gate.first_mut(f), up.first_mut(f));
        rms_norm_again(middle, self.vector(post_norm), scales, normed.first_mut(d));
        let members = [(Module::Gate, gate.first(f)), (Module::Up, up.first(f))];
        let dx = Some(backward.dnormed.first_mut(d));
        self.backward_together(layer, normed.first(d), members, low, adapters, dlow, dx, gradients);
        rms_norm_backward(
            saved.middle.first(d),
            self.vector(post_norm),
            scales,
            backward.dnormed.first(d),
            backward.dresidual.first_mut(d),
            self.trained(post_norm).map(|id| gradients.add_to(id)),
        );
        self.complete_stage(layer, 1, gradients, sink);

        // Attention: dresidual is now the gradient of middle = x + Wo · attention.
        let dmiddle = backward.dresidual.first(d);
        let attended = saved.attention.first(q);
        let dx = Some(backward.dattention.first_mut(q));
        let member = [(Module::Output, dmiddle)];
        self.backward_together(layer, attended, member, low, adapters, dlow, dx, gradients);
        self.complete_stage(layer, 2, gradients, sink);
        let [dqueries, dkeys, dvalues] = &mut backward.dqkv;
        attention_backward(
            self.precision,
            heads,
            self.distance(),
            tokens.sequences(),
            [saved.queries.first(q), block.keys.first(kv), block.values.first(kv)],
            attended,
            saved.log_sum_exp.first(count * heads.query_heads),
            backward.dattention.first(q),
            [dqueries.first_mut(q), dkeys.first_mut(kv), dvalues.first_mut(kv)],
            backward.heads.first_mut(count * heads.backward_scratch()),
        );
        if !self.config.alibi {
            rope(dqueries.first_mut(q), &rotary.rows, &rotary.table, Direction::Backward);
            rope(dkeys.first_mut(kv), &rotary.rows, &rotary.table, Direction::Backward);
        }
        if let Some(norms) = &saved.head_norms {
            let queries = (norms.queries.first(q), norms.query_inverse_rms.first(count * heads.query_heads));
            let keys = (norms.keys.first(kv), norms.key_inverse_rms.first(count * heads.key_value_heads));
            let members = [
                (Extra::QueryNorm, queries, dqueries.first_mut(q)),
                (Extra::KeyNorm, keys, dkeys.first_mut(kv)),
            ];
            for (norm, (x, scales), gradient) in members {
                let Some(weight) = self.extra(layer, norm) else { continue };
                let dweight = self.trained_extra(layer, norm).map(|id| gradients.add_to(id));
                rms_norm_heads_backward(x, weight, scales, gradient, dweight);
            }
        }
        let scales = saved.input_inverse_rms.first(count);
        rms_norm_again(x, self.vector(input_norm), scales, normed.first_mut(d));
        let through = below || self.trained(input_norm).is_some();
        let members = [
            (Module::Query, dqueries.first(q)),
            (Module::Key, dkeys.first(kv)),
            (Module::Value, dvalues.first(kv)),
        ];
        let dx = through.then(|| backward.dnormed.first_mut(d));
        self.backward_together(layer, normed.first(d), members, low, adapters, dlow, dx, gradients);
        if through {
            rms_norm_backward(
                x,
                self.vector(input_norm),
                scales,
                backward.dnormed.first(d),
                backward.dresidual.first_mut(d),
                self.trained(input_norm).map(|id| gradients.add_to(id)),
            );
        }
        self.complete_stage(layer, 3, gradients, sink);
    }

    fn trains_in(&self, layer: usize) -> bool {
        (0..STAGES.len()).any(|stage| self.trained_in_stage(layer, stage).next().is_some())
    }
}
