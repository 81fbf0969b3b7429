//! The importance matrix of a model: what a calibration text puts into its linear layers, by column.
//!
//! As `llama-imatrix` counts by default: the layers of the blocks, not the head, over pieces of which each begins with
//! BOS where the vocabulary puts one before a text. It leaves out what is behind the last whole piece, which counts
//! here. How a quantizer uses the matrix is in [`danlu_kernels::blocks`].

use std::ops::ControlFlow;

use danlu_formats::{Importance, ImportanceMatrix};
use danlu_kernels::reduce::add_squares_of_columns;
use danlu_kernels::{Buffer, Value, View};

use crate::activations::{Activations, Keep, with_buffers};
use crate::families::GGUF_NAMES;
use crate::{Config, Error, Model, Module, PackedTokens, Resident, Result};

/// Tokens of a piece of the text, as `llama-imatrix` has them.
const CHUNK: usize = 512;

/// The inputs of a block, each of which one or several layers have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    Attention,
    Output,
    FeedForward,
    Down,
}

impl Input {
    const ALL: [Self; 4] = [Self::Attention, Self::Output, Self::FeedForward, Self::Down];

    fn modules(self) -> &'static [Module] {
        match self {
            Self::Attention => &[Module::Query, Module::Key, Module::Value],
            Self::Output => &[Module::Output],
            Self::FeedForward => &[Module::Gate, Module::Up],
            Self::Down => &[Module::Down],
        }
    }

    fn width(self, config: &Config) -> usize {
        match self {
            Self::Attention | Self::FeedForward => config.hidden_size,
            Self::Output => config.query_size(),
            Self::Down => config.intermediate_size,
        }
    }
}

/// Σ x² by column for the inputs of each block.
pub(crate) struct InputSquares(Vec<[Buffer<f32>; 4]>);

/// Adds x [T, …], if somebody counts.
pub(crate) fn add_squares<T: Value>(
    squares: &mut Option<InputSquares>,
    layer: usize,
    input: Input,
    x: View<T>,
) {
    if let Some(InputSquares(layers)) = squares {
        let sums = &mut layers[layer][input as usize];
        let width = sums.len();
        add_squares_of_columns(x, sums.first_mut(width));
    }
}

/// Runs the model on a calibration text, in pieces of 512 tokens, and counts what its layers see. `bos` takes the place
/// of each piece's first token.
///
/// `progress(tokens done, tokens in all)` is called after each piece and may stop the work, with [`Error::Cancelled`].
///
/// # Errors
/// No ids, or one outside the vocabulary.
pub fn measure_importance(
    model: &Model,
    ids: &[u32],
    bos: Option<u32>,
    progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<ImportanceMatrix> {
    let config = &model.config;
    let size = CHUNK.min(config.context_length());
    if ids.is_empty() {
        return Err(Error::Message(
            "the calibration text is empty; expected one such as the model will see".into(),
        ));
    }
    let zeros = |input: Input| Buffer::zeros(input.width(config));
    let squares = InputSquares((0..config.num_hidden_layers).map(|_| Input::ALL.map(zeros)).collect());
    let mut activations = Activations::new(model, size.min(ids.len()), Keep::Nothing);
    with_buffers!(&mut activations.0, buffers => buffers.scratch.squares = Some(squares));
    for (number, chunk) in ids.chunks(size).enumerate() {
        let first = bos.unwrap_or(chunk[0]);
        let piece = [&[first], &chunk[1..]].concat();
        model.forward(&PackedTokens::new([&piece[..]]), &mut activations, &mut Resident)?;
        if progress(number * size + chunk.len(), ids.len()).is_break() {
            return Err(Error::Cancelled);
        }
    }
    let squares = with_buffers!(&activations.0, buffers => &buffers.scratch.squares);
    let mut matrix = ImportanceMatrix {
        chunks: u32::try_from(ids.len().div_ceil(size)).ok(),
        chunk_size: size as u32,
        ..ImportanceMatrix::default()
    };
    for (layer, inputs) in squares.iter().flat_map(|squares| &squares.0).enumerate() {
        for (input, sums) in Input::ALL.into_iter().zip(inputs) {
            for &module in input.modules() {
                let name = format!("{}.weight", GGUF_NAMES.module(layer, module));
                let own = Importance { sums: sums.host().to_vec(), count: ids.len() as f32 };
                matrix.tensors.insert(name, own);
            }
        }
    }
    Ok(matrix)
}
