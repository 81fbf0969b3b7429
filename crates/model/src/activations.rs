//! Memory of one slice's forward and backward, allocated once for the longest slice and used again.
//!
//! What the backward keeps is `recompute: cheap`: norm outputs and the SwiGLU product are computed again.

use danlu_kernels::Buffer;
use danlu_kernels::rope::RopeTable;

use crate::{Model, Module};

/// Whether the backward will follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Keep what the backward needs of every block.
    ForBackward,
    /// One block's memory serves all.
    Nothing,
}

/// Buffers for slices of up to `capacity` tokens.
pub struct Activations {
    pub(crate) capacity: usize,
    /// The residual stream before each block and after the last; two in turn when nothing is kept.
    pub(crate) residual: Vec<Buffer<f32>>,
    pub(crate) blocks: Vec<BlockActivations>,
    pub(crate) scratch: Scratch,
    pub(crate) head: HeadActivations,
    pub(crate) rope: RopeTable,
}

/// The rows whose next token is predicted, [N ≤ T, …] each.
pub(crate) struct HeadActivations {
    /// [N, D]: the residual stream after the last block.
    pub(crate) residual: Buffer<f32>,
    pub(crate) inverse_rms: Buffer<f32>,
    /// [N, D]: after the last norm.
    pub(crate) hidden: Buffer<f32>,
    /// [N, D]: gradients of the two above; empty when nothing is kept.
    pub(crate) dhidden: Buffer<f32>,
    pub(crate) dresidual: Buffer<f32>,
}

/// What one block keeps, [T, …] each.
pub(crate) struct BlockActivations {
    pub(crate) saved: Saved,
    pub(crate) keys: Buffer<f32>,
    pub(crate) values: Buffer<f32>,
}

pub(crate) struct Saved {
    pub(crate) input_inverse_rms: Buffer<f32>,
    pub(crate) queries: Buffer<f32>,
    pub(crate) attention: Buffer<f32>,
    /// [H, T]
    pub(crate) log_sum_exp: Buffer<f32>,
    /// The residual stream between attention and feed-forward.
    pub(crate) middle: Buffer<f32>,
    pub(crate) post_inverse_rms: Buffer<f32>,
    pub(crate) gate: Buffer<f32>,
    pub(crate) up: Buffer<f32>,
    /// x · Aᵀ of each module's adapter.
    pub(crate) low: [Buffer<f32>; Module::ALL.len()],
}

/// What every block uses and none keeps.
pub(crate) struct Scratch {
    /// [T, D]: norm output.
    pub(crate) normed: Buffer<f32>,
    /// [T, F]: SwiGLU product.
    pub(crate) product: Buffer<f32>,
    pub(crate) backward: Option<BackwardScratch>,
}

pub(crate) struct BackwardScratch {
    /// [T, D]: gradient of the residual stream.
    pub(crate) dresidual: Buffer<f32>,
    /// [T, D]: gradient of a norm's output.
    pub(crate) dnormed: Buffer<f32>,
    /// [T, F]
    pub(crate) dproduct: Buffer<f32>,
    /// [T, H · E]
    pub(crate) dattention: Buffer<f32>,
    /// [T, H · E], [T, K · E], [T, K · E]
    pub(crate) dqkv: [Buffer<f32>; 3],
    /// [2, T, H · E]
    pub(crate) heads: Buffer<f32>,
    /// [T, R]
    pub(crate) dlow: Buffer<f32>,
}

impl Activations {
    /// Memory for slices of up to `capacity` tokens of this model.
    pub fn new(model: &Model, capacity: usize, keep: Keep) -> Self {
        let config = &model.config;
        let layers = config.num_hidden_layers;
        let (d, f, q) = (config.hidden_size, config.intermediate_size, config.query_size());
        let zeros = |width: usize| Buffer::zeros(capacity * width);
        let (residuals, blocks) = match keep {
            Keep::ForBackward => (layers + 1, layers),
            Keep::Nothing => (2, 1),
        };
        let backward = (keep == Keep::ForBackward).then(|| BackwardScratch {
            dresidual: zeros(d),
            dnormed: zeros(d),
            dproduct: zeros(f),
            dattention: zeros(q),
            dqkv: [zeros(q), zeros(config.key_value_size()), zeros(config.key_value_size())],
            heads: zeros(2 * q),
            dlow: zeros(model.adapters.largest_rank()),
        });
        Self {
            capacity,
            residual: (0..residuals).map(|_| zeros(d)).collect(),
            blocks: (0..blocks).map(|layer| BlockActivations::new(model, layer, capacity, keep)).collect(),
            scratch: Scratch { normed: zeros(d), product: zeros(f), backward },
            head: HeadActivations {
                residual: zeros(d),
                inverse_rms: zeros(1),
                hidden: zeros(d),
                dhidden: zeros(if keep == Keep::ForBackward { d } else { 0 }),
                dresidual: zeros(if keep == Keep::ForBackward { d } else { 0 }),
            },
            rope: config.rope_table(capacity.min(config.max_position_embeddings)),
        }
    }
}

impl Activations {
    /// Bytes of all buffers, as far as slices of full capacity use them.
    pub fn bytes(&self) -> usize {
        let head = &self.head;
        let shared = [&self.scratch.normed, &self.scratch.product];
        let head = [&head.residual, &head.inverse_rms, &head.hidden, &head.dhidden, &head.dresidual];
        let blocks = self.blocks.iter().flat_map(BlockActivations::buffers);
        let backward = self.scratch.backward.iter().flat_map(BackwardScratch::buffers);
        let all = self.residual.iter().chain(shared).chain(head).chain(blocks).chain(backward);
        all.map(|buffer| buffer.len() * size_of::<f32>()).sum()
    }
}

impl BackwardScratch {
    fn buffers(&self) -> impl Iterator<Item = &Buffer<f32>> {
        let single =
            [&self.dresidual, &self.dnormed, &self.dproduct, &self.dattention, &self.heads, &self.dlow];
        single.into_iter().chain(&self.dqkv)
    }
}

impl BlockActivations {
    fn buffers(&self) -> impl Iterator<Item = &Buffer<f32>> {
        let Saved {
            input_inverse_rms,
            queries,
            attention,
            log_sum_exp,
            middle,
            post_inverse_rms,
            gate,
            up,
            low,
        } = &self.saved;
        let single = [input_inverse_rms, queries, attention, log_sum_exp, middle, post_inverse_rms, gate, up];
        single.into_iter().chain(low).chain([&self.keys, &self.values])
    }

    fn new(model: &Model, layer: usize, capacity: usize, keep: Keep) -> Self {
        let key_value_size = model.config.key_value_size();
        Self {
            saved: Saved::new(model, layer, capacity, keep),
            keys: Buffer::zeros(capacity * key_value_size),
            values: Buffer::zeros(capacity * key_value_size),
        }
    }
}

impl Saved {
    pub(crate) fn new(model: &Model, layer: usize, capacity: usize, keep: Keep) -> Self {
        let config = &model.config;
        let zeros = |width: usize| Buffer::zeros(capacity * width);
        let rank = |module: Module| match keep {
            Keep::ForBackward => model.adapters.get(layer, module).map_or(0, |adapter| adapter.rank),
            Keep::Nothing => model.adapters.largest_rank(),
        };
        Self {
            input_inverse_rms: zeros(1),
            queries: zeros(config.query_size()),
            attention: zeros(config.query_size()),
            log_sum_exp: zeros(config.num_attention_heads),
            middle: zeros(config.hidden_size),
            post_inverse_rms: zeros(1),
            gate: zeros(config.intermediate_size),
            up: zeros(config.intermediate_size),
            low: Module::ALL.map(|module| zeros(rank(module))),
        }
    }
}
