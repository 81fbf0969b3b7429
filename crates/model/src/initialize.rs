//! Fresh weights of a new model. Every tensor has its own stream of random numbers.

use danlu_kernels::blocks::{BlockType, quantize_in_parallel};
use danlu_kernels::random::Random;
use danlu_kernels::{Precision, bf16};

use crate::model::Stored;
use crate::names::{self, Kind, TensorSpec};
use crate::{Config, Model, ParameterId, Parameters};

/// Streams of the model's tensors differ by this key from those of adapters.
const MODEL: u64 = 1;

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
    /// A frozen model whose weights are zero, its matrices in blocks if a type is given: for plans, which need shapes only.
    /// The weights take no memory, because their pages are never touched.
    pub fn frozen_zeros(config: Config, precision: Precision, kind: Option<BlockType>) -> Self {
        let specs = names::tensors(&config);
        let stored = specs.iter().map(|spec| Stored::zeros(spec, precision, kind)).collect();
        Self::from_parts(config, precision, stored, Parameters::new([]))
    }

    /// The same with random weights, as large and as slow as a real model: for measurements without a file.
    pub fn random(config: Config, precision: Precision, kind: Option<BlockType>, seed: u64) -> Self {
        let deviation = config.initializer_range as f32;
        let fresh = |(index, spec): (usize, &TensorSpec)| {
            let mut random = Random::new(&[seed, MODEL, index as u64]);
            let draw = |_| match spec.kind {
                Kind::Norm => 1.0,
                Kind::Bias => 0.0,
                _ => (2.0 * random.uniform() as f32 - 1.0) * deviation,
            };
            let values: Vec<f32> = (0..spec.elements()).map(draw).collect();
            let mut stored = Stored::zeros(spec, precision, kind);
            match &mut stored {
                Stored::F32(rest) => rest.host_mut().copy_from_slice(&values),
                Stored::Bf16(rest) => {
                    rest.host_mut()
                        .iter_mut()
                        .zip(&values)
                        .for_each(|(rest, value)| *rest = bf16::from_f32(*value));
                }
                Stored::Blocks(kind, rest) => {
                    let done = quantize_in_parallel(*kind, &values, spec.width(), None, rest.host_mut());
                    assert!(done.is_ok(), "finite values in whole rows");
                }
                Stored::Grouped(_) | Stored::Trained(_) => unreachable!("a frozen tensor of a type given"),
            }
            stored
        };
        let specs = names::tensors(&config);
        let stored = specs.iter().enumerate().map(fresh).collect();
        Self::from_parts(config, precision, stored, Parameters::new([]))
    }
}

fn values(model: &mut Model, index: usize) -> &mut [f32] {
    let range = model.parameters.list()[index].range.clone();
    &mut model.parameters.values_mut().host_mut()[range]
}
