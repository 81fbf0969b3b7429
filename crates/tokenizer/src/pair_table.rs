//! Byte pair encoding by ids (Sennrich et al. 2016): which two neighbours make a third, and which are joined first. Both
//! kinds of vocabulary use it, sentencepiece's with its scores as ranks.
//!
//! It knows no texts: what stands between ids is the caller's.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// 2⁶⁴ over the golden ratio.
const MIX: u64 = 0x9E37_79B9_7F4A_7C15;
/// Bits of the filter: 256 KiB, which tells nearly all pairs that make nothing without a look at the table.
const FILTER_BITS: u32 = 21;
/// Ids that are joined without an agenda: looking at all of so few is quicker.
const FEW: usize = 64;
/// The rank of two that make nothing.
const NEVER: u32 = u32::MAX;

/// Two ids, when their turn is, and the id of both together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Joined {
    pub pair: (u32, u32),
    /// Lower ones are joined first, of equal ones the leftmost.
    pub rank: u32,
    pub id: u32,
}

#[derive(Debug, Clone)]
pub(crate) struct PairTable {
    /// A bit for each pair that may be in the table.
    filter: Box<[u64]>,
    /// A pair lies at its hash's place or behind it; [`NEVER`] ranks what is free. At most three quarters are taken; a power of two.
    table: Box<[Joined]>,
}

impl PairTable {
    /// Of equal pairs the first counts.
    pub(crate) fn new(joined: &[Joined]) -> Self {
        let free = Joined { pair: (0, 0), rank: NEVER, id: 0 };
        let mut table = Self {
            filter: vec![0; (1 << FILTER_BITS) / 64].into(),
            table: vec![free; (joined.len() * 4 / 3 + 1).next_power_of_two()].into(),
        };
        for &one in joined {
            if table.get(one.pair.0, one.pair.1).0 == NEVER {
                let hash = hash(one.pair);
                let bit = (hash >> (u64::BITS - FILTER_BITS)) as usize;
                table.filter[bit / 64] |= 1 << (bit % 64);
                let mut place = table.place(hash);
                while table.table[place].rank != NEVER {
                    place = (place + 1) & (table.table.len() - 1);
                }
                table.table[place] = one;
            }
        }
        table
    }

    /// Rank and id of what two make.
    fn get(&self, left: u32, right: u32) -> (u32, u32) {
        let hash = hash((left, right));
        let bit = (hash >> (u64::BITS - FILTER_BITS)) as usize;
        if self.filter[bit / 64] >> (bit % 64) & 1 == 0 {
            return (NEVER, 0);
        }
        let mut place = self.place(hash);
        loop {
            let Joined { pair, rank, id } = self.table[place];
            if pair == (left, right) || rank == NEVER {
                return (rank, id);
            }
            place = (place + 1) & (self.table.len() - 1);
        }
    }

    fn place(&self, hash: u64) -> usize {
        (hash >> (u64::BITS - self.table.len().ilog2())) as usize
    }

    /// Joins the ids from `start` on until no neighbours make anything.
    pub(crate) fn join(&self, ids: &mut Vec<u32>, start: usize) {
        match ids.len() - start {
            0 | 1 => {}
            2..=FEW => self.join_few(ids, start),
            _ => self.join_many(ids, start),
        }
    }

    fn join_few(&self, ids: &mut Vec<u32>, start: usize) {
        let ids_here = &mut ids[start..];
        let mut count = ids_here.len();
        // What each makes with the next.
        let (mut ranks, mut joined) = ([NEVER; FEW], [0; FEW]);
        for left in 0..count - 1 {
            (ranks[left], joined[left]) = self.get(ids_here[left], ids_here[left + 1]);
        }
        loop {
            let (mut left, mut lowest) = (0, NEVER);
            for (at, &rank) in ranks[..count - 1].iter().enumerate() {
                if rank < lowest {
                    (left, lowest) = (at, rank);
                }
            }
            if lowest == NEVER {
                break;
            }
            ids_here[left] = joined[left];
            ids_here.copy_within(left + 2..count, left + 1);
            ranks.copy_within(left + 2..count, left + 1);
            joined.copy_within(left + 2..count, left + 1);
            count -= 1;
            if left > 0 {
                (ranks[left - 1], joined[left - 1]) = self.get(ids_here[left - 1], ids_here[left]);
            }
            if left + 1 < count {
                (ranks[left], joined[left]) = self.get(ids_here[left], ids_here[left + 1]);
            }
        }
        ids.truncate(start + count);
    }

    fn join_many(&self, ids: &mut Vec<u32>, start: usize) {
        const NONE: usize = usize::MAX;
        let mut list = ids.split_off(start);
        let count = list.len();
        let mut previous: Vec<usize> = (0..count).map(|at| at.wrapping_sub(1)).collect();
        let mut next: Vec<usize> = (1..count).chain([NONE]).collect();
        let mut agenda = BinaryHeap::new();
        let meet = |agenda: &mut BinaryHeap<_>, list: &[u32], left: usize, right: usize| {
            let (rank, id) = self.get(list[left], list[right]);
            if rank != NEVER {
                agenda.push(Reverse((rank, left, right, id, list[left], list[right])));
            }
        };
        for right in 1..count {
            meet(&mut agenda, &list, right - 1, right);
        }
        let mut is_gone = vec![false; count];
        while let Some(Reverse((_, left, right, id, was_left, was_right))) = agenda.pop() {
            let is_current =
                !is_gone[left] && next[left] == right && list[left] == was_left && list[right] == was_right;
            if !is_current {
                continue;
            }
            list[left] = id;
            is_gone[right] = true;
            next[left] = next[right];
            if next[left] != NONE {
                previous[next[left]] = left;
                meet(&mut agenda, &list, left, next[left]);
            }
            if previous[left] != NONE {
                meet(&mut agenda, &list, previous[left], left);
            }
        }
        ids.extend(list.into_iter().zip(is_gone).filter(|(_, is_gone)| !is_gone).map(|(id, _)| id));
    }
}

fn hash((left, right): (u32, u32)) -> u64 {
    (u64::from(left) << 32 | u64::from(right)).wrapping_mul(MIX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition: again and again the lowest rank, the leftmost of equal ones.
    fn join_plainly(joined: &[Joined], ids: &mut Vec<u32>) {
        let find = |pair: (u32, u32)| joined.iter().find(|one| one.pair == pair);
        loop {
            let found =
                ids.windows(2).enumerate().filter_map(|(at, pair)| Some((find((pair[0], pair[1]))?, at)));
            let Some((one, at)) = found.min_by_key(|(one, at)| (one.rank, *at)) else { break };
            ids.splice(at..at + 2, [one.id]);
        }
    }

    proptest! {
        #[test]
        fn ids_are_joined_as_defined(
            pairs in prop::collection::vec((0_u32..12, 0_u32..12, 0_u32..5), 0..40),
            ids in prop::collection::vec(0_u32..8, 0..200),
        ) {
            let joined: Vec<Joined> = pairs
                .into_iter()
                .enumerate()
                .map(|(at, (left, right, rank))| Joined { pair: (left, right), rank, id: 4 + at as u32 % 8 })
                .collect();
            let table = PairTable::new(&joined);
            for ids in [ids.clone(), ids.iter().copied().take(FEW).collect()] {
                let mut expected = ids.clone();
                join_plainly(&joined, &mut expected);
                let mut found = vec![99];
                found.extend(ids);
                table.join(&mut found, 1);
                prop_assert_eq!(&found[1..], &expected);
            }
        }
    }
}
