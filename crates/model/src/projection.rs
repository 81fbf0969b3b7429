//! One linear layer of a block with its adapter, forward and backward, whatever of it is trained.

use danlu_kernels::linear::{Lora, linear, linear_backward_input, linear_backward_weight};
use danlu_kernels::matmul::Output;
use danlu_kernels::{Buffer, Precision, View, ViewMut, Weight};

use crate::lora::Adapter;
use crate::names::block_tensor;
use crate::{Gradients, Model, Module, ParameterId};

/// A linear layer of one block.
pub(crate) struct Projection<'a> {
    precision: Precision,
    weight: Weight<'a>,
    trained: Option<ParameterId>,
    adapter: Option<(&'a Adapter, Lora<'a>)>,
}

impl Model {
    /// What is trained of a layer: its weight, or A and B of its adapter.
    pub(crate) fn trained_in(&self, layer: usize, module: Module) -> [Option<ParameterId>; 3] {
        let adapter = self.adapters.get(layer, module);
        let weight = self.trained(block_tensor(layer, module.part()));
        [weight, adapter.map(|adapter| adapter.a), adapter.map(|adapter| adapter.b)]
    }

    pub(crate) fn projection(&self, layer: usize, module: Module) -> Projection<'_> {
        let id = block_tensor(layer, module.part());
        Projection {
            precision: self.precision,
            weight: self.matrix(id),
            trained: self.trained(id),
            adapter: self
                .adapters
                .get(layer, module)
                .map(|adapter| (adapter, adapter.matrices(&self.parameters))),
        }
    }
}

impl Projection<'_> {
    /// y (+)= W·x + scale · B·A·x; `low` [T, R] keeps A·x.
    pub(crate) fn forward(&self, x: View<f32>, low: &mut Buffer<f32>, output: Output, mut y: ViewMut<f32>) {
        linear(self.precision, x, self.weight, output, y.reborrow());
        if let Some((adapter, lora)) = &self.adapter {
            let tokens = tokens(x, self.weight.inputs());
            lora.forward(self.precision, x, low.first_mut(tokens * adapter.rank), y);
        }
    }

    /// Adds the gradients of what is trained to `gradients`, and writes or adds that of x to `dx` if it is wanted.
    pub(crate) fn backward(
        &self,
        x: View<f32>,
        low: &Buffer<f32>,
        dy: View<f32>,
        dlow: &mut Buffer<f32>,
        mut dx: Option<(Output, ViewMut<f32>)>,
        gradients: &mut Gradients,
    ) {
        let (outputs, inputs) = (self.weight.outputs(), self.weight.inputs());
        if let Some(id) = self.trained {
            linear_backward_weight(self.precision, dy, x, outputs, inputs, gradients.add_to(id));
        }
        if let Some((output, dx)) = &mut dx {
            linear_backward_input(self.precision, dy, self.weight, *output, dx.reborrow());
        }
        let Some((adapter, lora)) = &self.adapter else { return };
        let elements = tokens(x, inputs) * adapter.rank;
        let (da, db) = gradients.add_to_both([adapter.a, adapter.b]);
        let (low, dlow) = (low.first(elements), dlow.first_mut(elements));
        lora.backward(self.precision, x, low, dy, dlow, da, db, dx.map(|(_, dx)| dx));
    }
}

fn tokens(x: View<f32>, inputs: usize) -> usize {
    x.len() / inputs
}
