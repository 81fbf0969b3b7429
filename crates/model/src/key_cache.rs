//! Keys and values that tokens attend to beside their own slice's: those of a beginning that many sequences share, such as
//! the examples before the questions of a subject, which runs once, and those of sequences that grow token by token.
//!
//! A sequence's keys lie one behind the other in memory: where several follow one beginning, its keys are copied before the
//! own ones of each, block by block.

use std::ops::Range;

use danlu_kernels::attention::Sequence;
use danlu_kernels::elementwise::copy;
use danlu_kernels::{Buffer, Value, View};

use crate::activations::{Activations, bytes, with_buffers};
use crate::{Config, Model, PackedTokens, Resident, Result};

/// Keys and values of all blocks.
pub(crate) struct KeyCache<T: Value> {
    /// Of each block, [rows, K · E].
    blocks: Vec<[Buffer<T>; 2]>,
    /// One block's, of sequences that follow a beginning: its and their own.
    joined: [Buffer<T>; 2],
}

impl Model {
    /// Runs sequences that others begin with; a [`forward`](Model::forward) of [`PackedTokens::following`] them goes on
    /// behind them.
    ///
    /// # Errors
    /// As [`forward`](Model::forward).
    ///
    /// # Panics
    /// If angles depend on a sequence's length ([`Config::angles_depend_on_length`]), which is not known yet.
    pub fn forward_prefixes(&self, tokens: &PackedTokens, activations: &mut Activations) -> Result<()> {
        assert!(
            !self.config.angles_depend_on_length(),
            "keys of a beginning hold for sequences of any length"
        );
        with_buffers!(&mut activations.0, buffers => {
            let enough = |cache: &KeyCache<_>| cache.rows(&self.config) >= tokens.len();
            let cache = buffers.prefixes.take().filter(enough);
            buffers.scratch.cache = Some(cache.unwrap_or_else(|| KeyCache::new(&self.config, tokens.len())));
        });
        let done = self.forward(tokens, activations, &mut Resident);
        with_buffers!(&mut activations.0, buffers => buffers.prefixes = buffers.scratch.cache.take());
        done
    }
}

impl<T: Value> KeyCache<T> {
    /// Room for so many tokens.
    pub(crate) fn new(config: &Config, rows: usize) -> Self {
        let zeros = || Buffer::zeros(rows * config.key_value_size());
        Self {
            blocks: (0..config.num_hidden_layers).map(|_| [zeros(), zeros()]).collect(),
            joined: [Buffer::zeros(0), Buffer::zeros(0)],
        }
    }

    /// Makes room for so many tokens in each of `parts` equal parts; what they hold stays at their beginnings.
    pub(crate) fn grow(&mut self, config: &Config, parts: usize, rows: usize) {
        let length = rows * config.key_value_size();
        for buffer in self.blocks.iter_mut().flatten() {
            let held = buffer.len() / parts;
            let mut grown = Buffer::zeros(parts * length);
            for part in 0..parts {
                let from = buffer.view(part * held..(part + 1) * held);
                copy(from, grown.view_mut(part * length..part * length + held));
            }
            *buffer = grown;
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        bytes(self.blocks.iter().chain([&self.joined]).flatten())
    }

    fn rows(&self, config: &Config) -> usize {
        self.blocks.first().map_or(0, |[keys, _]| keys.len() / config.key_value_size())
    }

    /// Keys and values that the sequences of `tokens` attend to, given those of their own tokens, [T, K · E] each: of
    /// sequences that follow no other they are put into the cache, where [`Sequence::keys`] says.
    pub(crate) fn attended<'a>(
        &'a mut self,
        layer: usize,
        sequences: &[Sequence],
        follows: &[Range<usize>],
        own: [View<T>; 2],
        width: usize,
    ) -> [View<'a, T>; 2] {
        let of = |rows: Range<usize>| rows.start * width..rows.end * width;
        let rows = sequences.iter().map(|sequence| sequence.keys.end).max().unwrap_or(0);
        let Self { blocks, joined } = self;
        if follows.is_empty() {
            let block = &mut blocks[layer];
            for (cached, own) in block.iter_mut().zip(own) {
                for Sequence { queries, keys } in sequences {
                    let new = keys.end - queries.len()..keys.end;
                    copy(own.part(of(queries.clone())), cached.view_mut(of(new)));
                }
            }
            return block.each_ref().map(|cached| cached.first(rows * width));
        }
        for ((joined, kept), own) in joined.iter_mut().zip(&blocks[layer]).zip(own) {
            if joined.len() < rows * width {
                *joined = Buffer::zeros(rows * width);
            }
            for (Sequence { queries, keys }, prefix) in sequences.iter().zip(follows) {
                let (before, behind) = joined.view_mut(of(keys.clone())).split_at(prefix.len() * width);
                copy(kept.view(of(prefix.clone())), before);
                copy(own.part(of(queries.clone())), behind);
            }
        }
        joined.each_ref().map(|joined| joined.first(rows * width))
    }
}
