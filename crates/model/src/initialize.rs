//! Fresh weights of a new model. Every tensor has its own stream of random numbers.

use danlu_kernels::blocks::BlockType;
use danlu_kernels::blocks::nf4::double_quantize;
use danlu_kernels::random::Random;
use danlu_kernels::team::parallel_chunks;
use danlu_kernels::{Buffer, Precision};

use crate::checkpoint::is_quantizable;
use crate::model::Stored;
use crate::names::{self, Kind, TensorSpec};
use crate::{Config, Model, ParameterId, Parameters};

/// Streams of the model's tensors differ by this key from those of adapters.
const MODEL: u64 = 1;

/// Values of one stream of [`Model::random`].
const PIECE: usize = 1 << 16;
/// Values of a matrix that [`Model::random`] has in memory before they rest.
const STRETCH: usize = 64 * PIECE;

impl Model {
    /// A trainable model whose weights are zero, until [`Model::initialize`] or a file gives them.
    pub fn zeros(config: Config, precision: Precision) -> Self {
        let specs = names::tensors(&config);
        let stored = (0..specs.len()).map(|index| Stored::Trained(ParameterId(index))).collect();
        let parameters = Parameters::new(specs.iter().map(|spec| (spec.name.clone(), spec.shape.clone())));
        Self::from_parts(config, precision, stored, parameters)
    }

    /// Fresh weights: norms one, biases zero, matrices normal with `initializer_range`, those that write to the residual stream
    /// divided by √(2 · layers) so that its variance does not grow with depth (GPT-2).
    #[must_use]
    pub fn initialize(mut self, seed: u64) -> Self {
        let residual = 1.0 / (2.0 * self.config.num_hidden_layers as f64).sqrt();
        let range = self.config.initializer_range;
        for index in 0..self.specs.len() {
            let deviation = match self.specs[index].kind {
                Kind::Norm => {
                    values(&mut self, index).fill(1.0);
                    continue;
                }
                // They are zero already.
                Kind::Bias => continue,
                Kind::Embedding | Kind::Linear => range,
                Kind::Residual => range * residual,
            } as f32;
            let mut random = Random::new(&[seed, MODEL, index as u64]);
            values(&mut self, index).iter_mut().for_each(|value| *value = random.normal() * deviation);
        }
        self
    }
}

impl Model {
    /// A frozen model whose weights are zero, the matrices of its blocks in a type if one is given: for plans, which need shapes
    /// only. The weights take no memory, because their pages are never touched.
    pub fn frozen_zeros(config: Config, precision: Precision, kind: Option<BlockType>) -> Self {
        let specs = names::tensors(&config);
        let stored = specs.iter().map(|spec| zeros(spec, precision, kind)).collect();
        Self::from_parts(config, precision, stored, Parameters::new([]))
    }

    /// The same with random weights, as large and as slow as a real model that is quantized while it is loaded: for
    /// measurements without a file. No matrix is ever in memory as anything but what it rests in.
    pub fn random(config: Config, precision: Precision, kind: Option<BlockType>, seed: u64) -> Self {
        let specs = names::tensors(&config);
        let deviation = config.initializer_range as f32;
        let mut scratch =
            Buffer::zeros(specs.iter().map(TensorSpec::elements).max().unwrap_or(0).min(STRETCH));
        let fresh = |(index, spec): (usize, &TensorSpec)| {
            let mut stored = zeros(spec, precision, kind);
            if let (Kind::Norm, Stored::F32(ones)) = (spec.kind, &mut stored) {
                ones.host_mut().fill(1.0);
            }
            if spec.kind.is_vector() {
                return stored;
            }
            let at_once = (scratch.len() / spec.width()).max(1);
            for first in (0..spec.shape[0]).step_by(at_once) {
                let rows = first..spec.shape[0].min(first + at_once);
                let values = &mut scratch.host_mut()[..rows.len() * spec.width()];
                parallel_chunks(values, PIECE, |piece, values| {
                    let mut random = Random::new(&[seed, MODEL, index as u64, first as u64, piece as u64]);
                    values.fill_with(|| (2.0 * random.uniform() as f32 - 1.0) * deviation);
                });
                let done = stored.put(spec, rows, &scratch);
                assert!(done.is_ok(), "finite values in whole rows");
            }
            if let Stored::Blocks(BlockType::Nf4, bytes) = &mut stored {
                double_quantize(bytes.host_mut());
            }
            stored
        };
        let stored = specs.iter().enumerate().map(fresh).collect();
        Self::from_parts(config, precision, stored, Parameters::new([]))
    }
}

/// A frozen tensor of zeros; embedding and head keep their precision.
fn zeros(spec: &TensorSpec, precision: Precision, kind: Option<BlockType>) -> Stored {
    Stored::zeros(spec, precision, kind.filter(|kind| is_quantizable(spec, *kind)))
}

fn values(model: &mut Model, index: usize) -> &mut [f32] {
    let range = model.parameters.list()[index].range.clone();
    &mut model.parameters.values_mut().host_mut()[range]
}
