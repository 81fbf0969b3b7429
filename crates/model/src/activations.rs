//! Memory of one slice's forward and backward, allocated once for the longest slice and used again.
//!
//! Norm outputs and the SwiGLU product are always computed again in the backward; [`Keep`] says what else is.

use danlu_kernels::{Buffer, Precision, Value, bf16};

use crate::importance::InputSquares;
use crate::key_cache::KeyCache;
use crate::projection::{AdapterScratch, LowRank};
use crate::rotary::Rotary;
use crate::{Model, Module};

/// What is kept of every block for the backward; the rest is computed again, to the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// What the backward needs: `recompute: cheap`.
    ForBackward,
    /// The same without gate and up, whose products run again: `recompute: mlp`.
    WithoutFeedForward,
    /// The residual stream before each block, which runs again as a whole: `recompute: block`.
    ResidualOnly,
    /// Nothing: no backward will follow.
    Nothing,
}

impl Keep {
    fn has_backward(self) -> bool {
        self != Self::Nothing
    }

    fn shares_feed_forward(self) -> bool {
        self == Self::WithoutFeedForward
    }

    /// Whether one block's memory serves all.
    fn shares_block(self) -> bool {
        matches!(self, Self::ResidualOnly | Self::Nothing)
    }
}

/// Buffers for slices of up to so many tokens of one model.
pub struct Activations(pub(crate) Typed);

/// The same by what operands of matrix products rest in.
pub(crate) enum Typed {
    F32(Buffers<f32>),
    Bf16(Buffers<bf16>),
}

/// Runs `$body` with `$buffers` as the typed buffers.
macro_rules! with_buffers {
    ($activations:expr, $buffers:ident => $body:expr) => {
        match $activations {
            $crate::activations::Typed::F32($buffers) => $body,
            $crate::activations::Typed::Bf16($buffers) => $body,
        }
    };
}
pub(crate) use with_buffers;

/// Buffers for slices of up to `capacity` tokens. What only enters matrix products, or is rounded for them, is a T; the
/// residual stream and its gradient are f32.
pub(crate) struct Buffers<T: Value> {
    pub(crate) keep: Keep,
    pub(crate) capacity: usize,
    /// The residual stream before each block and after the last; two in turn when nothing is kept.
    pub(crate) residual: Vec<Buffer<f32>>,
    pub(crate) blocks: Vec<BlockActivations<T>>,
    pub(crate) scratch: Scratch<T>,
    pub(crate) head: HeadActivations<T>,
    pub(crate) rotary: Rotary,
    /// What the last prefixes left.
    pub(crate) prefixes: Option<KeyCache<T>>,
}

/// The rows whose next token is predicted, [N ≤ T, …] each.
pub(crate) struct HeadActivations<T: Value> {
    /// [N, D]: the residual stream after the last block.
    pub(crate) residual: Buffer<f32>,
    pub(crate) inverse_rms: Buffer<f32>,
    /// [N, D]: after the last norm.
    pub(crate) hidden: Buffer<T>,
    /// [N, D]: gradients of the two above; empty when nothing is kept.
    pub(crate) dhidden: Buffer<f32>,
    pub(crate) dresidual: Buffer<f32>,
}

/// What one block keeps, [T, …] each.
pub(crate) struct BlockActivations<T: Value> {
    pub(crate) saved: Saved<T>,
    pub(crate) keys: Buffer<T>,
    pub(crate) values: Buffer<T>,
}

pub(crate) struct Saved<T: Value> {
    pub(crate) input_inverse_rms: Buffer<f32>,
    pub(crate) queries: Buffer<T>,
    /// Of families that norm them.
    pub(crate) head_norms: Option<HeadNorms<T>>,
    pub(crate) attention: Buffer<T>,
    /// [H, T]
    pub(crate) log_sum_exp: Buffer<f32>,
    /// The residual stream between attention and feed-forward.
    pub(crate) middle: Buffer<f32>,
    pub(crate) post_inverse_rms: Buffer<f32>,
    /// Gate and up, unless all blocks share those of the scratch.
    pub(crate) feed_forward: Option<[Buffer<T>; 2]>,
    /// What adapters keep.
    pub(crate) low: LowRank,
}

/// Queries and keys before the norm of their heads.
pub(crate) struct HeadNorms<T: Value> {
    /// [T, H · E]
    pub(crate) queries: Buffer<T>,
    /// [T, K · E]
    pub(crate) keys: Buffer<T>,
    /// [T, H]
    pub(crate) query_inverse_rms: Buffer<f32>,
    /// [T, K]
    pub(crate) key_inverse_rms: Buffer<f32>,
}

/// What every block uses and none keeps.
pub(crate) struct Scratch<T: Value> {
    /// [T, D]: norm output.
    pub(crate) normed: Buffer<T>,
    /// [T, F]: SwiGLU product.
    pub(crate) product: Buffer<T>,
    /// [T, F] each: gate and up where blocks keep none.
    pub(crate) feed_forward: Option<[Buffer<T>; 2]>,
    pub(crate) adapters: AdapterScratch<T>,
    pub(crate) backward: Option<BackwardScratch<T>>,
    /// What every forward adds the inputs of linear layers to, where they are wanted.
    pub(crate) squares: Option<InputSquares>,
    /// Keys beside those of the slice, while a forward needs them.
    pub(crate) cache: Option<KeyCache<T>>,
}

pub(crate) struct BackwardScratch<T: Value> {
    /// [T, D]: gradient of the residual stream.
    pub(crate) dresidual: Buffer<f32>,
    /// [T, D]: gradient of a norm's output.
    pub(crate) dnormed: Buffer<f32>,
    /// [T, F]
    pub(crate) dproduct: Buffer<T>,
    /// [T, H · E]
    pub(crate) dattention: Buffer<T>,
    /// [T, H · E], [T, K · E], [T, K · E]
    pub(crate) dqkv: [Buffer<T>; 3],
    /// [2, T, H · E] where heads share keys
    pub(crate) heads: Buffer<f32>,
    /// [T, R], of layers with the same input
    pub(crate) dlow: [Buffer<f32>; 3],
}

impl Activations {
    /// Memory for slices of up to `capacity` tokens of this model.
    pub fn new(model: &Model, capacity: usize, keep: Keep) -> Self {
        Self(match model.precision {
            Precision::F32 => Typed::F32(Buffers::new(model, capacity, keep)),
            Precision::Bf16 => Typed::Bf16(Buffers::new(model, capacity, keep)),
        })
    }

    /// Bytes of all buffers, as far as slices of full capacity use them, and of cached keys and values.
    pub fn bytes(&self) -> usize {
        with_buffers!(&self.0, buffers => buffers.bytes())
    }
}

impl<T: Value> Buffers<T> {
    pub(crate) fn new(model: &Model, capacity: usize, keep: Keep) -> Self {
        let config = &model.config;
        let layers = config.num_hidden_layers;
        let (d, f, q) = (config.hidden_size, config.intermediate_size, config.query_size());
        let zeros = |width: usize| Buffer::zeros(capacity * width);
        let residuals = if keep.has_backward() { layers + 1 } else { 2 };
        let blocks = if keep.shares_block() { layers.min(1) } else { layers };
        let (kv, rank) = (config.key_value_size(), model.adapters.largest_rank());
        let backward = keep.has_backward().then(|| BackwardScratch {
            dresidual: zeros(d),
            dnormed: zeros(d),
            dproduct: Buffer::zeros(capacity * f),
            dattention: Buffer::zeros(capacity * q),
            dqkv: [q, kv, kv].map(|width| Buffer::zeros(capacity * width)),
            heads: zeros(config.heads().backward_scratch()),
            dlow: [zeros(rank), zeros(rank), zeros(rank)],
        });
        let dhead = if keep.has_backward() { d } else { 0 };
        Self {
            keep,
            capacity,
            residual: (0..residuals).map(|_| zeros(d)).collect(),
            blocks: (0..blocks).map(|layer| BlockActivations::new(model, layer, capacity, keep)).collect(),
            scratch: Scratch {
                normed: Buffer::zeros(capacity * d),
                product: Buffer::zeros(capacity * f),
                feed_forward: keep.shares_feed_forward().then(|| [f, f].map(|f| Buffer::zeros(capacity * f))),
                adapters: AdapterScratch::new(model, capacity, keep.has_backward()),
                backward,
                squares: None,
                cache: None,
            },
            head: HeadActivations {
                residual: zeros(d),
                inverse_rms: zeros(1),
                hidden: Buffer::zeros(capacity * d),
                dhidden: zeros(dhead),
                dresidual: zeros(dhead),
            },
            rotary: Rotary::new(config, capacity),
            prefixes: None,
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        let Self { residual, blocks, scratch, head, prefixes, .. } = self;
        let head_f32 = [&head.residual, &head.inverse_rms, &head.dhidden, &head.dresidual];
        let blocks: usize = blocks.iter().map(BlockActivations::bytes).sum();
        let prefixes = prefixes.as_ref().map_or(0, KeyCache::bytes);
        bytes(residual.iter().chain(head_f32)) + bytes([&head.hidden]) + blocks + scratch.bytes() + prefixes
    }
}

impl<T: Value> Scratch<T> {
    fn bytes(&self) -> usize {
        let Self { normed, product, feed_forward, adapters, backward, cache, .. } = self;
        bytes([normed, product].into_iter().chain(feed_forward.iter().flatten()))
            + bytes([&adapters.part])
            + bytes([&adapters.dropped].into_iter().chain(&adapters.unscaled))
            + backward.as_ref().map_or(0, BackwardScratch::bytes)
            + cache.as_ref().map_or(0, KeyCache::bytes)
    }
}

/// Bytes of buffers.
pub(crate) fn bytes<'b, T: Value>(buffers: impl IntoIterator<Item = &'b Buffer<T>>) -> usize {
    buffers.into_iter().map(|buffer| buffer.len() * size_of::<T>()).sum()
}

impl<T: Value> BackwardScratch<T> {
    fn bytes(&self) -> usize {
        let Self { dresidual, dnormed, dproduct, dattention, dqkv, heads, dlow } = self;
        bytes([dresidual, dnormed, heads].into_iter().chain(dlow))
            + bytes([dproduct, dattention].into_iter().chain(dqkv))
    }
}

impl<T: Value> BlockActivations<T> {
    fn new(model: &Model, layer: usize, capacity: usize, keep: Keep) -> Self {
        let key_value_size = model.config.key_value_size();
        Self {
            saved: Saved::new(model, layer, capacity, keep),
            keys: Buffer::zeros(capacity * key_value_size),
            values: Buffer::zeros(capacity * key_value_size),
        }
    }

    fn bytes(&self) -> usize {
        self.saved.bytes() + bytes([&self.keys, &self.values])
    }
}

impl<T: Value> Saved<T> {
    pub(crate) fn bytes(&self) -> usize {
        let Self {
            input_inverse_rms,
            queries,
            head_norms,
            attention,
            log_sum_exp,
            middle,
            post_inverse_rms,
            feed_forward,
            low,
        } = self;
        let head_norms = head_norms.as_ref().map_or(0, |norms| {
            bytes([&norms.queries, &norms.keys]) + bytes([&norms.query_inverse_rms, &norms.key_inverse_rms])
        });
        head_norms
            + bytes([input_inverse_rms, log_sum_exp, middle, post_inverse_rms])
            + bytes(low)
            + bytes([queries, attention].into_iter().chain(feed_forward.iter().flatten()))
    }

    pub(crate) fn new(model: &Model, layer: usize, capacity: usize, keep: Keep) -> Self {
        let config = &model.config;
        let zeros = |width: usize| Buffer::zeros(capacity * width);
        let operand = |width: usize| Buffer::zeros(capacity * width);
        let rank = |module: Module| match keep.shares_block() {
            false => model.adapters.get(layer, module).map_or(0, |adapter| adapter.rank),
            true => model.adapters.largest_rank(),
        };
        let f = config.intermediate_size;
        Self {
            input_inverse_rms: zeros(1),
            queries: operand(config.query_size()),
            head_norms: config.query_key_norm.then(|| HeadNorms {
                queries: operand(config.query_size()),
                keys: operand(config.key_value_size()),
                query_inverse_rms: zeros(config.num_attention_heads),
                key_inverse_rms: zeros(config.num_key_value_heads),
            }),
            attention: operand(config.query_size()),
            log_sum_exp: zeros(config.num_attention_heads),
            middle: zeros(config.hidden_size),
            post_inverse_rms: zeros(1),
            feed_forward: (!keep.shares_feed_forward()).then(|| [operand(f), operand(f)]),
            low: Module::ALL.map(|module| zeros(rank(module))),
        }
    }
}
