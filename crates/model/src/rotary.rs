//! The rotary table of a slice and the row of each token in it.
//!
//! A token's row is its position, but in sequences that are long enough for frequencies of their own.

use std::ops::Range;

use danlu_kernels::rope::RopeTable;

use crate::Config;

pub(crate) struct Rotary {
    pub(crate) table: RopeTable,
    /// The row of each token.
    pub(crate) rows: Vec<u32>,
    /// Rows that stay: those of plain positions.
    positions: usize,
}

impl Rotary {
    /// A table for sequences of up to `length` tokens.
    pub(crate) fn new(config: &Config, length: usize) -> Self {
        let positions = length.min(config.max_position_embeddings);
        let frequencies = config.rope_frequencies(positions);
        let table = RopeTable::new(config.rope_layout, config.rope_scale(), positions, &frequencies);
        Self { table, rows: Vec::new(), positions }
    }

    /// Finds the rows of tokens that stand at `positions` of sequences of `length` tokens.
    pub(crate) fn place(&mut self, config: &Config, tokens: impl Iterator<Item = (Range<usize>, usize)>) {
        self.table.truncate(self.positions);
        self.rows.clear();
        for (positions, length) in tokens {
            let first = match config.dynamic_beyond() {
                Some(original) if length > original => {
                    self.table.append(positions.clone(), &config.rope_frequencies(length))
                }
                _ => positions.start,
            };
            self.rows.extend(first as u32..(first + positions.len()) as u32);
        }
    }
}
