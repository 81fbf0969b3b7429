//! The linear layers of a block with their adapters, forward and backward, whatever of them is trained. Layers with the
//! same input run together.

use danlu_kernels::bias::{add_bias, bias_backward};
use danlu_kernels::dora::{magnitude_gradient, scale_columns, scaled_columns};
use danlu_kernels::dropout::{add_dropout, dropout};
use danlu_kernels::linear::{Input, Layer, Lora, OutputGradient, adapter_input_gradient, input_gradient};
use danlu_kernels::matmul::Output;
use danlu_kernels::{Buffer, Value, View, ViewMut};

use crate::names::{Extra, block_tensor};
use crate::{Gradients, Model, Module, ParameterId};

/// What the adapter of each module keeps for the backward: scale · x · Aᵀ, [T, R].
pub(crate) type LowRank = [Buffer<f32>; Module::ALL.len()];

/// What adapters use and do not keep.
pub(crate) struct AdapterScratch<T: Value> {
    /// The key of each token's random bits; empty where nothing is random.
    pub(crate) keys: Vec<u64>,
    /// [T, inputs]: an input, of which elements are dropped.
    pub(crate) dropped: Buffer<T>,
    /// [T, inputs or outputs]: one layer's part of a sum.
    pub(crate) part: Buffer<f32>,
    /// [T, outputs]: gradients of layers with the same input, before their rows were given a length.
    pub(crate) unscaled: [Buffer<T>; 3],
}

impl<T: Value> AdapterScratch<T> {
    /// For slices of up to `capacity` tokens, with or without a backward.
    pub(crate) fn new(model: &Model, capacity: usize, has_backward: bool) -> Self {
        let config = &model.config;
        let (d, f) = (config.hidden_size, config.intermediate_size);
        let (q, kv) = (config.query_size(), config.key_value_size());
        let (drops, scales) = (model.adapters.dropout > 0.0, model.adapters.has_magnitudes());
        let when = |used: bool, width: usize| if used { capacity * width } else { 0 };
        let backward = |width: usize| Buffer::zeros(when(scales && has_backward, width));
        let widest = d.max(q).max(f);
        Self {
            keys: Vec::with_capacity(capacity),
            dropped: Buffer::zeros(when(drops && has_backward, widest)),
            part: Buffer::zeros(when(scales || drops && has_backward, widest.max(kv))),
            unscaled: [backward(widest), backward(f.max(kv)), backward(kv)],
        }
    }
}

/// What an adapter does beside its products.
#[derive(Clone, Copy)]
struct Around<'a> {
    lora: Lora<'a>,
    /// The trained lengths of the layer's rows, and what gives them length one.
    magnitude: Option<(ParameterId, View<'a, f32>, View<'a, f32>)>,
    /// Where its random bits come from, if something is dropped.
    site: Option<u64>,
}

impl Model {
    /// What is trained of a layer: its weight and bias, or A, B and lengths of its adapter.
    pub(crate) fn trained_in(&self, layer: usize, module: Module) -> [Option<ParameterId>; 5] {
        let adapter = self.adapters.get(layer, module);
        let weight = self.trained(block_tensor(&self.config, layer, module.part()));
        let bias = self.trained_extra(layer, Extra::Bias(module));
        let adapter = adapter.filter(|adapter| adapter.leads());
        let magnitude = adapter.and_then(|adapter| adapter.magnitude.as_ref()).map(|magnitude| magnitude.id);
        [weight, bias, adapter.map(|adapter| adapter.a), adapter.map(|adapter| adapter.b), magnitude]
    }

    fn layer(&self, layer: usize, module: Module) -> Layer<'_> {
        let adapter = self.adapters.get(layer, module);
        Layer {
            weight: self.matrix(block_tensor(&self.config, layer, module.part())),
            adapter: adapter.map(|adapter| adapter.matrices(&self.parameters)),
        }
    }

    fn around<'a>(
        &'a self,
        layer: usize,
        module: Module,
        own: Layer<'a>,
        keys: &[u64],
    ) -> Option<Around<'a>> {
        let (adapter, lora) = (self.adapters.get(layer, module)?, own.adapter?);
        let magnitude = adapter.magnitude.as_ref().map(|magnitude| {
            let lengths = self.parameters.view(magnitude.id).part(adapter.rows.clone());
            (magnitude.id, lengths, magnitude.inverse(self.precision, own.weight, lora))
        });
        let drops = self.adapters.dropout > 0.0 && !keys.is_empty();
        // Layers that are one tensor drop the same.
        let lead = self.config.family.lead(module) as usize;
        let site = drops.then(|| 1 + (layer * Module::ALL.len() + lead) as u64);
        Some(Around { lora, magnitude, site })
    }

    /// y (+)= W·x + B·low + bias for each module, with its low [T, R] = scale · A·x kept; with trained lengths,
    /// (W·x + B·low) · length / its length.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn forward_together<T: Value, Y: Value, const N: usize>(
        &self,
        layer: usize,
        x: View<T>,
        members: [(Module, ViewMut<Y>); N],
        kept: &mut LowRank,
        scratch: &mut AdapterScratch<T>,
        output: Output,
    ) {
        let inputs = self.layer(layer, members[0].0).weight.inputs();
        let tokens = x.len() / inputs;
        let input = Input::new(self.precision, x, inputs);
        let AdapterScratch { keys, dropped, part, .. } = scratch;
        let mut members = members;
        let is_plain = |module: Module| {
            self.adapters.get(layer, module).is_none() && self.extra(layer, Extra::Bias(module)).is_none()
        };
        if members.iter().all(|(module, _)| is_plain(*module)) {
            let weights = members.each_ref().map(|(module, _)| self.layer(layer, *module).weight);
            if input.products(weights, output, members.each_mut().map(|(_, y)| y.reborrow())) {
                return;
            }
        }
        for (module, mut y) in members {
            let member = self.layer(layer, module);
            let around = self.around(layer, module, member, keys);
            let low = &mut kept[module as usize];
            let elements = tokens * rank(member);
            if let Some(Around { lora, site, .. }) = around {
                let low = low.first_mut(elements);
                match site {
                    None => input.low(lora, low),
                    Some(site) => {
                        dropout(x, keys, site, self.adapters.dropout, dropped.first_mut(x.len()));
                        Input::new(self.precision, dropped.first(x.len()), inputs).low(lora, low);
                    }
                }
            }
            let low = low.first(elements);
            match around.and_then(|around| around.magnitude) {
                None => input.forward(member, low, output, y.reborrow()),
                Some((_, lengths, inverse)) => {
                    if output == Output::Overwrite {
                        input.forward(member, low, output, y.reborrow());
                        scale_columns(lengths, inverse, y.reborrow());
                    } else {
                        let mut part = part.first_mut(tokens * lengths.len());
                        input.forward(member, low, Output::Overwrite, part.reborrow());
                        scaled_columns(part.as_view(), lengths, inverse, output, y.reborrow());
                    }
                }
            }
            if let Some(bias) = self.extra(layer, Extra::Bias(module)) {
                add_bias(bias, y);
            }
        }
    }

    /// Adds the gradients of what is trained in each module, given those of its outputs, to `gradients`, and writes that
    /// of their input x to `dx` if it is wanted; `dlow` is scratch.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn backward_together<T: Value, Y: Value, D: Value, const N: usize>(
        &self,
        layer: usize,
        x: View<T>,
        members: [(Module, View<Y>); N],
        kept: &LowRank,
        scratch: &mut AdapterScratch<T>,
        dlow: &mut [Buffer<f32>; 3],
        dx: Option<ViewMut<D>>,
        gradients: &mut Gradients,
    ) {
        let layers = members.map(|(module, _)| self.layer(layer, module));
        let inputs = layers[0].weight.inputs();
        let tokens = x.len() / inputs;
        let input = Input::new(self.precision, x, inputs);
        let AdapterScratch { keys, dropped, part, unscaled } = scratch;
        let around: [_; N] =
            std::array::from_fn(|index| self.around(layer, members[index].0, layers[index], keys));
        for (index, (module, dy)) in members.iter().enumerate() {
            let magnitude = around[index].and_then(|around| around.magnitude);
            let Some((id, lengths, inverse)) = magnitude else { continue };
            let low = kept[*module as usize].first(tokens * rank(layers[index]));
            let mut part = part.first_mut(tokens * lengths.len());
            input.forward(layers[index], low, Output::Overwrite, part.reborrow());
            if let Some(adapter) = self.adapters.get(layer, *module) {
                let own = adapter.own_rows(gradients.add_to(id), 1);
                magnitude_gradient(*dy, part.as_view(), inverse, own);
            }
            let unscaled = unscaled[index].first_mut(tokens * lengths.len());
            scaled_columns(*dy, lengths, inverse, Output::Overwrite, unscaled);
        }
        let dys: [_; N] =
            std::array::from_fn(|index| match around[index].and_then(|around| around.magnitude) {
                None => OutputGradient::new(self.precision, layers[index], members[index].1),
                Some((_, lengths, _)) => {
                    let unscaled = unscaled[index].first(tokens * lengths.len());
                    OutputGradient::new(self.precision, layers[index], unscaled)
                }
            });
        for (index, dy) in dys.iter().enumerate() {
            let module = members[index].0;
            if let Some(weight) = self.trained(block_tensor(&self.config, layer, module.part())) {
                input.weight_gradient(dy, gradients.add_to(weight));
            }
            if let Some(bias) = self.trained_extra(layer, Extra::Bias(module)) {
                bias_backward(members[index].1, gradients.add_to(bias));
            }
            if let (Some(adapter), Some(around)) = (self.adapters.get(layer, module), around[index]) {
                let (da, db) = gradients.add_to_both([adapter.a, adapter.b]);
                let db = adapter.own_rows(db, adapter.rank);
                let elements = tokens * adapter.rank;
                let low = kept[module as usize].first(elements);
                let dlow = dlow[index].first_mut(elements);
                match around.site {
                    None => input.adapter_gradient(dy, low, dlow, da, db),
                    Some(site) => {
                        dropout(x, keys, site, self.adapters.dropout, dropped.first_mut(x.len()));
                        let input = Input::new(self.precision, dropped.first(x.len()), inputs);
                        input.adapter_gradient(dy, low, dlow, da, db);
                    }
                }
            }
        }
        let Some(mut dx) = dx else { return };
        let low = |index: usize| dlow[index].first(tokens * rank(layers[index]));
        let sees_x = |index: usize| around[index].is_some_and(|around| around.site.is_none());
        let terms: [_; N] = std::array::from_fn(|index| (&dys[index], sees_x(index).then(|| low(index))));
        input_gradient(self.precision, terms, Output::Overwrite, dx.reborrow());
        for (index, around) in around.iter().enumerate() {
            let Some(Around { lora, site: Some(site), .. }) = *around else { continue };
            let mut part = part.first_mut(x.len());
            adapter_input_gradient(self.precision, lora, low(index), part.reborrow());
            add_dropout(part.as_view(), keys, site, self.adapters.dropout, dx.reborrow());
        }
    }
}

fn rank(layer: Layer) -> usize {
    layer.adapter.map_or(0, |lora| lora.rank)
}
