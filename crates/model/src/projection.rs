//! The linear layers of a block with their adapters, forward and backward, whatever of them is trained. Layers with the
//! same input run together.

use danlu_kernels::bias::{add_bias, bias_backward};
use danlu_kernels::linear::{Input, Layer, OutputGradient, input_gradient};
use danlu_kernels::matmul::Output;
use danlu_kernels::{Buffer, Value, View, ViewMut};

use crate::names::{Extra, block_tensor};
use crate::{Gradients, Model, Module, ParameterId};

/// x · Aᵀ of each module's adapter, [T, R] each.
pub(crate) type LowRank = [Buffer<f32>; Module::ALL.len()];

impl Model {
    /// What is trained of a layer: its weight and bias, or A and B of its adapter.
    pub(crate) fn trained_in(&self, layer: usize, module: Module) -> [Option<ParameterId>; 4] {
        let adapter = self.adapters.get(layer, module);
        let weight = self.trained(block_tensor(&self.config, layer, module.part()));
        let bias = self.trained_extra(layer, Extra::Bias(module));
        let adapter = adapter.filter(|adapter| adapter.leads());
        [weight, bias, adapter.map(|adapter| adapter.a), adapter.map(|adapter| adapter.b)]
    }

    fn layer(&self, layer: usize, module: Module) -> Layer<'_> {
        let adapter = self.adapters.get(layer, module);
        Layer {
            weight: self.matrix(block_tensor(&self.config, layer, module.part())),
            adapter: adapter.map(|adapter| adapter.matrices(&self.parameters)),
        }
    }

    /// y (+)= W·x + B·low + bias for each module, with its low [T, R] = scale · A·x kept.
    pub(crate) fn forward_together<X: Value, Y: Value, const N: usize>(
        &self,
        layer: usize,
        x: View<X>,
        members: [(Module, ViewMut<Y>); N],
        low: &mut LowRank,
        output: Output,
    ) {
        let inputs = self.layer(layer, members[0].0).weight.inputs();
        let tokens = x.len() / inputs;
        let input = Input::new(self.precision, x, inputs);
        for (module, mut y) in members {
            let member = self.layer(layer, module);
            let low = low[module as usize].first_mut(tokens * rank(member));
            input.forward(member, low, output, y.reborrow());
            if let Some(bias) = self.extra(layer, Extra::Bias(module)) {
                add_bias(bias, y);
            }
        }
    }

    /// Adds the gradients of what is trained in each module, given those of its outputs, to `gradients`, and writes that
    /// of their input x to `dx` if it is wanted; `dlow` is scratch.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn backward_together<X: Value, Y: Value, D: Value, const N: usize>(
        &self,
        layer: usize,
        x: View<X>,
        members: [(Module, View<Y>); N],
        low: &LowRank,
        dlow: &mut [Buffer<f32>; 3],
        dx: Option<ViewMut<D>>,
        gradients: &mut Gradients,
    ) {
        let layers = members.map(|(module, _)| self.layer(layer, module));
        let inputs = layers[0].weight.inputs();
        let tokens = x.len() / inputs;
        let input = Input::new(self.precision, x, inputs);
        let dys: [_; N] =
            std::array::from_fn(|index| OutputGradient::new(self.precision, layers[index], members[index].1));
        for (index, dy) in dys.iter().enumerate() {
            let module = members[index].0;
            if let Some(weight) = self.trained(block_tensor(&self.config, layer, module.part())) {
                input.weight_gradient(dy, gradients.add_to(weight));
            }
            if let Some(bias) = self.trained_extra(layer, Extra::Bias(module)) {
                bias_backward(members[index].1, gradients.add_to(bias));
            }
            if let Some(adapter) = self.adapters.get(layer, module) {
                let (da, db) = gradients.add_to_both([adapter.a, adapter.b]);
                let db = adapter.own_rows(db);
                let elements = tokens * adapter.rank;
                let low = low[module as usize].first(elements);
                input.adapter_gradient(dy, low, dlow[index].first_mut(elements), da, db);
            }
        }
        if let Some(dx) = dx {
            let members: [_; N] =
                std::array::from_fn(|index| (&dys[index], dlow[index].first(tokens * rank(layers[index]))));
            input_gradient(self.precision, members, Output::Overwrite, dx);
        }
    }
}

fn rank(layer: Layer) -> usize {
    layer.adapter.map_or(0, |lora| lora.rank)
}
