//! The model: its configuration, its weights at rest, and what of it is trained.

use std::ops::Range;

use danlu_kernels::attention::Distance;
use danlu_kernels::blocks::{BlockType, quantize_in_parallel};
use danlu_kernels::elementwise::round_to_bf16;
use danlu_kernels::int8::Packed;
use danlu_kernels::{Buffer, Grouped, Precision, View, Weight, bf16};

use crate::adapter_place::ParametersMut;
use crate::lora::Adapters;
use crate::names::{self, Extra, TensorId, TensorSpec};
use crate::noise::Noise;
use crate::unit_head::UnitHead;
use crate::{Config, ParameterId, Parameters};

/// A dense decoder of the Llama family.
pub struct Model {
    pub(crate) config: Config,
    pub(crate) precision: Precision,
    pub(crate) specs: Vec<TensorSpec>,
    pub(crate) stored: Vec<Stored>,
    pub(crate) parameters: Parameters,
    pub(crate) adapters: Adapters,
    pub(crate) noise: Noise,
    /// The head with rows of length one, if it is trained and used so.
    pub(crate) unit_head: UnitHead,
    /// Weights that are repacked, in one memory.
    pub(crate) repacked: Buffer<u8>,
    /// ALiBi's slopes, one a head, or none.
    slopes: Vec<f32>,
}

/// Where a tensor's values are.
pub(crate) enum Stored {
    F32(Buffer<f32>),
    Bf16(Buffer<bf16>),
    /// As a file has it; rows are whole blocks.
    Blocks(BlockType, Buffer<u8>),
    /// Columns quantized in groups.
    Grouped(Grouped),
    /// Repacked for products of integers, in these bytes of [`Model::repacked`].
    Repacked(BlockType, Range<usize>),
    Trained(ParameterId),
}

impl Stored {
    /// A frozen tensor of zeros as it rests: vectors as f32, matrices in blocks of `kind` where rows are whole blocks, else
    /// as they are computed with.
    pub(crate) fn zeros(spec: &TensorSpec, precision: Precision, kind: Option<BlockType>) -> Self {
        let elements = spec.elements();
        if spec.kind.is_vector() {
            return Self::F32(Buffer::zeros(elements));
        }
        let whole = |kind: &BlockType| spec.width().is_multiple_of(kind.block_elements());
        if let Some(kind) = kind.filter(whole)
            && let Some(bytes) = kind.bytes_for(elements)
        {
            return Self::Blocks(kind, Buffer::zeros(bytes));
        }
        match precision {
            Precision::Bf16 => Self::Bf16(Buffer::zeros(elements)),
            Precision::F32 => Self::F32(Buffer::zeros(elements)),
        }
    }

    /// Puts `rows` of a matrix, the first `values`, where they rest; the error is a reason.
    pub(crate) fn put(
        &mut self,
        spec: &TensorSpec,
        rows: Range<usize>,
        values: &Buffer<f32>,
    ) -> Result<(), String> {
        let elements = rows.start * spec.width()..rows.end * spec.width();
        let count = elements.len();
        match self {
            Self::F32(all) => all.host_mut()[elements].copy_from_slice(&values.host()[..count]),
            Self::Bf16(all) => round_to_bf16(values.first(count), all.view_mut(elements)),
            Self::Blocks(kind, bytes) => {
                let place = |element| element / kind.block_elements() * kind.block_bytes();
                let bytes = &mut bytes.host_mut()[place(elements.start)..place(elements.end)];
                quantize_in_parallel(*kind, &values.host()[..count], spec.width(), None, bytes)
                    .map_err(|error| error.to_string())?;
            }
            Self::Grouped(_) | Self::Repacked(..) | Self::Trained(_) => {
                return Err("takes no values by rows".into());
            }
        }
        Ok(())
    }

    /// Another one of the same values; a trained one is the same parameter.
    pub(crate) fn copy(&self) -> Self {
        match self {
            Self::F32(values) => Self::F32(Buffer::from_host(values.host())),
            Self::Bf16(values) => Self::Bf16(Buffer::from_host(values.host())),
            Self::Blocks(kind, bytes) => Self::Blocks(*kind, Buffer::from_host(bytes.host())),
            Self::Grouped(grouped) => Self::Grouped(grouped.copy()),
            Self::Repacked(kind, place) => Self::Repacked(*kind, place.clone()),
            Self::Trained(id) => Self::Trained(*id),
        }
    }
}

impl Model {
    pub(crate) fn from_parts(
        config: Config,
        precision: Precision,
        stored: Vec<Stored>,
        parameters: Parameters,
    ) -> Self {
        let specs = names::tensors(&config);
        debug_assert_eq!(specs.len(), stored.len());
        let (adapters, unit_head) = (Adapters::default(), UnitHead::default());
        let slopes = config.alibi_slopes();
        let noise = Noise::default();
        Self {
            config,
            precision,
            specs,
            stored,
            parameters,
            adapters,
            noise,
            unit_head,
            repacked: Buffer::zeros(0),
            slopes,
        }
    }

    /// Its shapes and constants.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How operands of matrix products are rounded.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// What is trained.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// What is trained, to update.
    pub fn parameters_mut(&mut self) -> ParametersMut<'_> {
        self.unit_head.forget();
        self.adapters.forget_lengths(None);
        ParametersMut(self)
    }

    /// Number of elements of all tensors, tied ones once, adapters included.
    pub fn parameter_count(&self) -> usize {
        let elements = |(spec, stored): (&TensorSpec, &Stored)| match stored {
            Stored::Trained(_) => 0,
            _ => spec.elements(),
        };
        let frozen: usize = self.specs.iter().zip(&self.stored).map(elements).sum();
        frozen + self.parameters.len()
    }

    /// Bytes of all weights in memory.
    pub fn weight_bytes(&self) -> usize {
        let frozen = |stored: &Stored| match stored {
            Stored::F32(values) => values.len() * 4,
            Stored::Bf16(values) => values.len() * 2,
            Stored::Blocks(_, bytes) => bytes.len(),
            Stored::Grouped(grouped) => grouped.bytes(),
            Stored::Repacked(_, place) => place.len(),
            Stored::Trained(_) => 0,
        };
        let unit_head = match self.trained_unit_head() {
            Some(id) => UnitHead::bytes(self.precision, self.parameters.list()[id.0].range.len()),
            None => 0,
        };
        let start = self.adapters.start.as_ref().map_or(0, |start| start.len() * 4);
        // Of each row its square, and what gives it length one.
        let lengths = self.adapters.magnitudes() * 8;
        self.stored.iter().map(frozen).sum::<usize>()
            + self.parameters.len() * 4
            + unit_head
            + lengths
            + start
    }

    /// Names and shapes of the tensors, in the order of the forward.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.specs.iter().map(|spec| (spec.name.as_str(), spec.shape.as_slice()))
    }

    /// What the distance between a query and a key does.
    pub(crate) fn distance(&self) -> Distance<'_> {
        Distance { window: self.config.sliding_window, slopes: &self.slopes }
    }

    /// A matrix as an operand.
    pub(crate) fn matrix(&self, id: TensorId) -> Weight<'_> {
        let [outputs, inputs] = self.specs[id].shape[..] else {
            unreachable!("matrices have two dimensions")
        };
        match &self.stored[id] {
            Stored::F32(values) => Weight::new(values.first(values.len()), outputs, inputs),
            Stored::Bf16(values) => Weight::new(values.first(values.len()), outputs, inputs),
            Stored::Blocks(kind, bytes) => Weight::blocks(*kind, bytes.first(bytes.len()), outputs, inputs),
            Stored::Grouped(grouped) => Weight::grouped(grouped),
            Stored::Repacked(kind, place) => {
                match Packed::new(*kind, self.repacked.view(place.clone()), outputs, inputs) {
                    Some(packed) => Weight::repacked(packed),
                    None => unreachable!("only what can be repacked was"),
                }
            }
            Stored::Trained(parameter) => Weight::new(self.parameters.view(*parameter), outputs, inputs),
        }
    }

    /// The head as it is used.
    pub(crate) fn head(&self) -> Weight<'_> {
        let id = names::head(&self.config);
        match self.trained_unit_head() {
            Some(parameter) => {
                let shape = [self.config.vocab_size, self.config.hidden_size];
                self.unit_head.get(self.precision, self.parameters.view(parameter), shape)
            }
            None => self.matrix(id),
        }
    }

    /// The head, if it is trained and used with rows of length one; a frozen one rests so.
    pub(crate) fn trained_unit_head(&self) -> Option<ParameterId> {
        let head = self.config.normalized_head.then(|| self.trained(names::head(&self.config)));
        head.flatten()
    }

    /// A norm's weight or a bias; vectors always rest as f32.
    pub(crate) fn vector(&self, id: TensorId) -> View<'_, f32> {
        match &self.stored[id] {
            Stored::F32(values) => values.first(values.len()),
            Stored::Trained(parameter) => self.parameters.view(*parameter),
            Stored::Bf16(_) | Stored::Blocks(..) | Stored::Grouped(_) | Stored::Repacked(..) => {
                unreachable!("vectors rest as f32")
            }
        }
    }

    /// The vector `extra` of a block, if this family has it.
    pub(crate) fn extra(&self, layer: usize, extra: Extra) -> Option<View<'_, f32>> {
        Some(self.vector(names::extra_tensor(&self.config, layer, extra)?))
    }

    /// The parameter that the vector `extra` of a block is, if the family has it and it is trained.
    pub(crate) fn trained_extra(&self, layer: usize, extra: Extra) -> Option<ParameterId> {
        self.trained(names::extra_tensor(&self.config, layer, extra)?)
    }

    /// The parameter that this tensor is, if it is trained.
    pub(crate) fn trained(&self, id: TensorId) -> Option<ParameterId> {
        match self.stored[id] {
            Stored::Trained(parameter) => Some(parameter),
            _ => None,
        }
    }
}
