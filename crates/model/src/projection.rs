//! One linear layer of a block with its adapter, forward and backward, whatever of it is trained.

use danlu_kernels::linear::{Lora, linear, linear_backward_input, linear_backward_weight};
use danlu_kernels::matmul::Output;
use danlu_kernels::{Buffer, Precision, View, ViewMut, Weight};

use crate::lora::Adapter;
use crate::names::block_tensor;
use crate::{Model, Module, ParameterId, Parameters};

/// A linear layer of one block.
pub(crate) struct Projection<'a> {
    precision: Precision,
    weight: Weight<'a>,
    trained: Option<ParameterId>,
    adapter: Option<(&'a Adapter, Lora<'a>)>,
    parameters: &'a Parameters,
}

impl Model {
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
            parameters: &self.parameters,
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
        gradients: &mut Buffer<f32>,
    ) {
        let (outputs, inputs) = (self.weight.outputs(), self.weight.inputs());
        if let Some(id) = self.trained {
            let dweight = self.parameters.part_mut(gradients, id);
            linear_backward_weight(self.precision, dy, x, outputs, inputs, dweight);
        }
        if let Some((output, dx)) = &mut dx {
            linear_backward_input(self.precision, dy, self.weight, *output, dx.reborrow());
        }
        let Some((adapter, lora)) = &self.adapter else { return };
        let elements = tokens(x, inputs) * adapter.rank;
        let (a, b) = (&self.parameters.list()[adapter.a.0].range, &self.parameters.list()[adapter.b.0].range);
        // B follows A in the flat memory.
        let both = gradients.view_mut(a.start..b.end);
        let (da, db) = both.split_at(a.len());
        let (low, dlow) = (low.first(elements), dlow.first_mut(elements));
        lora.backward(self.precision, x, low, dy, dlow, da, db, dx.map(|(_, dx)| dx));
    }

    /// The parameters whose gradients this layer completes.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = ParameterId> {
        let adapter = self.adapter.as_ref().map(|(adapter, _)| [adapter.a, adapter.b]);
        self.trained.into_iter().chain(adapter.into_iter().flatten())
    }

    pub(crate) fn is_trained(&self) -> bool {
        self.parameters().next().is_some()
    }
}

fn tokens(x: View<f32>, inputs: usize) -> usize {
    x.len() / inputs
}
