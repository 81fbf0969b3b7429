//! Samples of any length → blocks that fill a budget of tokens, by best fit. A block is only what counts as one sample
//! of a batch: its samples keep their boundaries, so that none sees another.
//!
//! Whether documents may see each other is decided before, where they are cut ([`neat_packing`](crate::DataOptions)).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::order::epoch_order;

/// Samples are packed this many budgets at a time, so that a block holds samples from anywhere in the data.
const WINDOW_BUDGETS: usize = 256;

/// The order in which samples come to be packed is that of an epoch that no run reaches.
const PACKING_EPOCH: u64 = u64::MAX - 1;

/// Which samples lie in which block. It is a function of the lengths, the budget and the seed.
#[derive(Debug, Clone, PartialEq)]
pub struct Packing {
    /// Indices of samples, block after block.
    members: Vec<u32>,
    /// Where each block ends in `members`.
    ends: Vec<u32>,
    report: PackingReport,
}

/// How full the blocks are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct PackingReport {
    /// Blocks.
    pub blocks: u64,
    /// Tokens that a block may hold.
    pub budget: u64,
    /// Tokens that they hold.
    pub tokens: u64,
    /// Share of the budgets that is filled.
    pub efficiency: f64,
}

impl Packing {
    /// Packs samples of these lengths into blocks of at most `budget` tokens by best-fit decreasing; a longer sample
    /// has a block of its own.
    pub fn best_fit(lengths: &[u32], budget: usize, seed: u64) -> Self {
        let budget = u32::try_from(budget).unwrap_or(u32::MAX).max(1);
        let mut blocks = Vec::new();
        let mut window = Vec::new();
        let mut tokens = 0;
        for index in epoch_order(lengths.len(), seed, PACKING_EPOCH) {
            window.push(index as u32);
            tokens += lengths[index] as usize;
            if tokens >= WINDOW_BUDGETS * budget as usize {
                let (full, rest) = fill(&mut window, lengths, budget);
                blocks.extend(full);
                tokens = rest.iter().map(|&index| lengths[index as usize] as usize).sum();
                window = rest;
            }
        }
        blocks
            .extend(best_fit_decreasing(&mut window, lengths, budget).into_iter().map(|block| block.members));

        let mut packing = Self {
            members: Vec::with_capacity(lengths.len()),
            ends: Vec::with_capacity(blocks.len()),
            report: PackingReport::default(),
        };
        for block in blocks {
            packing.members.extend(block);
            packing.ends.push(packing.members.len() as u32);
        }
        let tokens: u64 = lengths.iter().map(|&length| u64::from(length)).sum();
        let blocks = packing.ends.len() as u64;
        let efficiency = tokens as f64 / (blocks * u64::from(budget)).max(1) as f64;
        packing.report = PackingReport { blocks, budget: u64::from(budget), tokens, efficiency };
        packing
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.ends.len()
    }

    /// Indices of the samples of a block; none behind the last block.
    pub fn block(&self, index: usize) -> &[u32] {
        let start = index.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        let Some(&end) = self.ends.get(index) else { return &[] };
        &self.members[start as usize..end as usize]
    }

    /// How full the blocks are.
    pub fn report(&self) -> PackingReport {
        self.report
    }
}

struct Block {
    members: Vec<u32>,
    tokens: u32,
}

/// The full blocks of a window, and the samples of the others, which the next window may fill.
fn fill(window: &mut Vec<u32>, lengths: &[u32], budget: u32) -> (Vec<Vec<u32>>, Vec<u32>) {
    // 99 % are full enough, and so is what could only be carried on and on: a sample that takes most of a block.
    let is_full = |block: &Block| {
        let tokens = u64::from(block.tokens);
        tokens * 100 >= u64::from(budget) * 99 || block.members.len() == 1 && 2 * tokens > u64::from(budget)
    };
    let (mut full, mut open): (Vec<Block>, Vec<Block>) =
        best_fit_decreasing(window, lengths, budget).into_iter().partition(is_full);
    // Where lengths do not add up to a budget no block is ever full: of more than half a window the fuller ones stay.
    open.sort_by_key(|block| block.tokens);
    let mut carried = 0;
    let too_many = open.iter().position(|block| {
        carried += block.tokens as usize;
        carried > WINDOW_BUDGETS / 2 * budget as usize
    });
    full.extend(open.split_off(too_many.unwrap_or(open.len())));
    let members = |blocks: Vec<Block>| blocks.into_iter().map(|block| block.members);
    (members(full).collect(), members(open).flatten().collect())
}

fn best_fit_decreasing(window: &mut Vec<u32>, lengths: &[u32], budget: u32) -> Vec<Block> {
    let mut window = std::mem::take(window);
    window.sort_by_key(|&index| std::cmp::Reverse(lengths[index as usize]));
    let mut blocks: Vec<Block> = Vec::new();
    // Blocks by the room that is left in them.
    let mut by_room: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for index in window {
        let length = lengths[index as usize];
        let (room, block) = match by_room.range_mut(length..).next() {
            Some((&room, blocks_with_room)) => {
                let block = blocks_with_room.pop().unwrap_or_default();
                if blocks_with_room.is_empty() {
                    by_room.remove(&room);
                }
                (room, block)
            }
            None => {
                blocks.push(Block { members: Vec::new(), tokens: 0 });
                (budget.max(length), blocks.len() - 1)
            }
        };
        blocks[block].members.push(index);
        blocks[block].tokens += length;
        if room > length {
            by_room.entry(room - length).or_default().push(block);
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn blocks_hold_each_sample_once_within_their_budget(
            lengths in prop::collection::vec(1_u32..600, 0..400),
            budget in 1_usize..512,
            seed: u64,
        ) {
            let packing = Packing::best_fit(&lengths, budget, seed);
            prop_assert_eq!(&packing, &Packing::best_fit(&lengths, budget, seed));
            let mut seen: Vec<u32> = Vec::new();
            for block in 0..packing.blocks() {
                let members = packing.block(block);
                let tokens: u32 = members.iter().map(|&index| lengths[index as usize]).sum();
                prop_assert!(!members.is_empty() && (members.len() == 1 || tokens as usize <= budget));
                seen.extend(members);
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len() as u32).collect::<Vec<_>>());
            prop_assert!(packing.block(packing.blocks()).is_empty());
        }
    }

    #[test]
    fn the_best_fit_is_found() {
        // 6 + 4, 5 + 3 + 2: nothing is left over.
        let packing = Packing::best_fit(&[5, 4, 3, 2, 6], 10, 1);
        assert_eq!(packing.report(), PackingReport { blocks: 2, budget: 10, tokens: 20, efficiency: 1.0 });
    }

    /// What fills no block must not be carried on from window to window, ever more of it.
    #[test]
    fn lf_5443_samples_of_one_length_are_packed_in_linear_time() {
        for (length, count, budget, blocks) in
            [(79, 300_000, 512, 50_000), (800, 20_001, 2000, 10_001), (1200, 10_000, 2000, 10_000)]
        {
            assert_eq!(Packing::best_fit(&vec![length; count], budget, 1).blocks(), blocks);
        }
    }

    #[test]
    fn many_short_samples_fill_their_blocks_in_every_window() {
        let lengths: Vec<u32> = (0..60_000_u32).map(|index| 20 + index * index % 379).collect();
        let packing = Packing::best_fit(&lengths, 2048, 7);
        assert!(packing.report().efficiency > 0.99, "{:?}", packing.report());
    }
}
