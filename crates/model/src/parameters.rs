//! The trained parameters in one flat block of memory, so that clipping, optimizers and checkpoints see one array.

use std::ops::Range;

use danlu_kernels::{Buffer, View, ViewMut};

/// A trained parameter's place in [`Parameters::list`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParameterId(pub usize);

/// One trained parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name in files.
    pub name: String,
    /// Its shape; norms have one dimension.
    pub shape: Vec<usize>,
    /// Its elements in the flat memory, and in any memory of the same layout (gradients, moments).
    pub range: Range<usize>,
}

impl Parameter {
    /// Whether weight decay applies: to matrices, not to norms.
    pub fn decays(&self) -> bool {
        self.shape.len() >= 2
    }

    /// Whether it is a matrix of a block, which maps hidden states to hidden states: no norm, no embedding, no head.
    pub fn is_hidden_matrix(&self) -> bool {
        self.shape.len() == 2 && self.name.contains(".layers.")
    }
}

/// All trained parameters.
pub struct Parameters {
    list: Vec<Parameter>,
    values: Buffer<f32>,
}

impl Parameters {
    /// Zeros for parameters of these names and shapes, laid out in order.
    pub(crate) fn new(specs: impl IntoIterator<Item = (String, Vec<usize>)>) -> Self {
        let mut end = 0;
        let list: Vec<Parameter> = specs
            .into_iter()
            .map(|(name, shape)| {
                let start = end;
                end += shape.iter().product::<usize>();
                Parameter { name, shape, range: start..end }
            })
            .collect();
        Self { list, values: Buffer::zeros(end) }
    }

    /// The parameters in order.
    pub fn list(&self) -> &[Parameter] {
        &self.list
    }

    /// Number of trained elements.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether nothing is trained.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The flat memory.
    pub fn values(&self) -> &Buffer<f32> {
        &self.values
    }

    /// The flat memory, to change.
    pub fn values_mut(&mut self) -> &mut Buffer<f32> {
        &mut self.values
    }

    /// One parameter's elements.
    pub(crate) fn view(&self, id: ParameterId) -> View<'_, f32> {
        self.values.view(self.list[id.0].range.clone())
    }

    /// One parameter's elements, to change.
    pub fn view_mut(&mut self, id: ParameterId) -> ViewMut<'_, f32> {
        self.values.view_mut(self.list[id.0].range.clone())
    }
}
