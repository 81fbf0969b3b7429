//! Which rows are left out: those that share a bucket with an earlier row and, where it is verified, resemble one that is
//! kept. The result is a function of the rows and their order alone, not of threads or memory.

use std::cmp::Reverse;
use std::collections::HashMap;

use rayon::prelude::*;

use super::partitions::{PARTITIONS, Pair, Partitions};
use super::shingle_sets::ShingleSets;
use crate::error::Result;

const NONE: u32 = u32::MAX;
/// Rows that are compared at once, a bit each.
const BLOCK: usize = u128::BITS as usize;

/// A row that is left out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Duplicate {
    /// Its number, from 0, in the order of the inputs.
    pub row: u32,
    /// The row that it resembles.
    pub of: u32,
    /// How much, up to 1; none where it was not compared.
    pub similarity: Option<f64>,
}

/// The order in which rows are considered: an earlier one is kept before a later one.
pub enum Order {
    /// As they stand in the inputs.
    First,
    /// Longer texts first, then as they stand.
    Longest {
        /// Row of each rank.
        rows: Vec<u32>,
        /// Rank of each row.
        ranks: Vec<u32>,
    },
}

impl Order {
    /// The order by length of these texts.
    pub fn longest(lengths: &[u32]) -> Self {
        let mut rows: Vec<u32> = (0..lengths.len() as u32).collect();
        rows.par_sort_by_key(|&row| Reverse(lengths[row as usize]));
        let mut ranks = vec![0; rows.len()];
        (0..).zip(&rows).for_each(|(rank, &row)| ranks[row as usize] = rank);
        Self::Longest { rows, ranks }
    }

    fn rank(&self, row: u32) -> u32 {
        match self {
            Self::First => row,
            Self::Longest { ranks, .. } => ranks[row as usize],
        }
    }

    fn row(&self, rank: u32) -> u32 {
        match self {
            Self::First => rank,
            Self::Longest { rows, .. } => rows[rank as usize],
        }
    }
}

/// Calls `found` with the rows of each key that several rows have; keys are equal but for the lower bits of `roles`.
fn buckets(
    keys: &mut Partitions,
    roles: u32,
    tick: &mut (dyn FnMut() -> Result<()> + Send),
    found: &mut dyn FnMut(&[Pair]) -> Result<()>,
) -> Result<()> {
    for partition in 0..PARTITIONS {
        let pairs = keys.take(partition)?;
        let mut groups = pairs.chunk_by(|a, b| a.0 >> roles == b.0 >> roles).filter(|group| group.len() > 1);
        groups.try_for_each(&mut *found)?;
        tick()?;
    }
    Ok(())
}

/// The rows that share a key with any earlier row, kept or not; nothing is compared.
///
/// # Errors
/// Those of the file of keys, and of `tick`.
pub fn all_that_share(
    keys: &mut Partitions,
    rows: u32,
    order: &Order,
    tick: &mut (dyn FnMut() -> Result<()> + Send),
) -> Result<Vec<Duplicate>> {
    let mut first = vec![NONE; rows as usize];
    buckets(keys, 0, tick, &mut |group| {
        let ranks = || group.iter().map(|&(_, row)| order.rank(row));
        let earliest = ranks().min().unwrap_or(NONE);
        for rank in ranks().filter(|&rank| rank != earliest) {
            let first = &mut first[rank as usize];
            *first = (*first).min(earliest);
        }
        Ok(())
    })?;
    let shared = (0..).zip(first).filter(|(_, first)| *first != NONE);
    let mut duplicates: Vec<Duplicate> = shared
        .map(|(rank, first)| Duplicate { row: order.row(rank), of: order.row(first), similarity: None })
        .collect();
    duplicates.sort_unstable_by_key(|duplicate| duplicate.row);
    Ok(duplicates)
}

/// For each row that shares a key with another: its rank and the numbers of the buckets that it is in.
///
/// A bucket has two numbers, an even one and the odd one behind it. Its rows of the odd number are compared with those of
/// the even one only; those with each other too.
pub struct Memberships {
    pairs: Partitions,
    buckets: u32,
    members: Vec<u32>,
    rows: u32,
}

impl Memberships {
    /// Gathers them out of the keys; of them `pairs` holds what fits in memory. The rows of buckets that `crowds` finds too
    /// large are members of none of those.
    ///
    /// # Errors
    /// Those of the files, and of `tick`.
    pub fn gather(
        keys: &mut Partitions,
        pairs: Partitions,
        rows: u32,
        order: &Order,
        crowds: &mut Crowds,
        tick: &mut (dyn FnMut() -> Result<()> + Send),
    ) -> Result<Self> {
        let mut is_member = vec![false; rows as usize];
        let mut gathered = Self { pairs, buckets: 0, members: Vec::new(), rows };
        buckets(keys, 0, tick, &mut |group| {
            group.iter().for_each(|&(_, row)| is_member[row as usize] = true);
            if crowds.is_crowd(group) {
                crowds.mark(group);
                return Ok(());
            }
            gathered.push(group, order, 0)
        })?;
        let members = (0..).zip(is_member).filter(|(_, is_member)| *is_member);
        gathered.members = members.map(|(row, _)| row).collect();
        Ok(gathered)
    }

    /// Adds buckets of the crowded rows, whose keys are their rare shingles.
    ///
    /// # Errors
    /// Those of the files, and of `tick`.
    pub fn part_crowds(
        &mut self,
        sets: &ShingleSets,
        crowds: Crowds,
        mut keys: Partitions,
        order: &Order,
        tick: &mut (dyn FnMut() -> Result<()> + Send),
    ) -> Result<()> {
        for block in crowds.rows().chunks(BLOCK) {
            let rare: Vec<Vec<u64>> =
                block.par_iter().map(|&row| sets.rare_keys(row)).collect::<Result<_>>()?;
            for (&row, rare) in block.iter().zip(rare) {
                rare.into_iter().try_for_each(|key| keys.push(ShingleSets::partition(key), (key, row)))?;
            }
        }
        buckets(&mut keys, 1, tick, &mut |group| {
            // Where all have the odd number, none is compared.
            if group[0].0 & 1 == 1 { Ok(()) } else { self.push(group, order, 1) }
        })
    }

    fn push(&mut self, group: &[Pair], order: &Order, roles: u64) -> Result<()> {
        for &(key, row) in group {
            let rank = order.rank(row);
            let partition = u64::from(rank) * PARTITIONS as u64 / u64::from(self.rows);
            self.pairs.push(partition as usize, (rank.into(), self.buckets | (key & roles) as u32))?;
        }
        let many = || {
            std::io::Error::other(
                "too many groups of rows that may be alike: raise `--threshold`, or take fewer rows",
            )
        };
        self.buckets = self.buckets.checked_add(2).ok_or_else(many)?;
        Ok(())
    }

    /// The rows that share a key with another, ascending.
    pub fn members(&self) -> &[u32] {
        &self.members
    }

    /// The rows that resemble an earlier row that is kept and in one of their buckets.
    ///
    /// # Errors
    /// Those of the files, and of `tick`.
    pub fn decide<C: Compare>(
        mut self,
        order: &Order,
        compare: &C,
        tick: &mut (dyn FnMut() -> Result<()> + Send),
    ) -> Result<Vec<Duplicate>> {
        let mut kept = KeptRows { lists: vec![(0, NONE); self.buckets as usize], entries: Vec::new() };
        let mut duplicates = Vec::new();
        for partition in 0..PARTITIONS {
            let pairs = self.pairs.take(partition)?;
            let rows: Vec<Row> = pairs
                .chunk_by(|a, b| a.0 == b.0)
                .map(|group| Row {
                    rank: group[0].0 as u32,
                    buckets: group.iter().map(|pair| pair.1).collect(),
                })
                .collect();
            for block in rows.chunks(BLOCK) {
                decide_block(block, &mut kept, order, compare, &mut duplicates)?;
                tick()?;
            }
        }
        duplicates.sort_unstable_by_key(|duplicate: &Duplicate| duplicate.row);
        Ok(duplicates)
    }
}

/// Rows of buckets that are too large to compare all of their pairs.
pub struct Crowds {
    /// Rows of a bucket from which on it is too large.
    most: usize,
    is_crowded: Vec<bool>,
}

impl Crowds {
    /// Buckets of more than `most` of all `rows`.
    pub fn new(most: usize, rows: u32) -> Self {
        Self { most, is_crowded: vec![false; if most == usize::MAX { 0 } else { rows as usize }] }
    }

    fn is_crowd(&self, group: &[Pair]) -> bool {
        group.len() > self.most
    }

    fn mark(&mut self, group: &[Pair]) {
        group.iter().for_each(|&(_, row)| self.is_crowded[row as usize] = true);
    }

    /// Whether a row is in a bucket that is too large.
    pub fn contain(&self, row: u32) -> bool {
        self.is_crowded.get(row as usize).is_some_and(|is_crowded| *is_crowded)
    }

    fn rows(&self) -> Vec<u32> {
        (0..self.is_crowded.len() as u32).filter(|&row| self.contain(row)).collect()
    }
}

/// How rows are compared.
pub trait Compare: Sync {
    /// What of a row is compared.
    type Sketch: Send + Sync;

    /// Kept rows of its buckets that are looked at for a row, those of small buckets first.
    const MOST_SEEN: usize;
    /// How many of these it is compared with, those first that share most buckets.
    const MOST_COMPARED: usize;

    /// That of one row.
    ///
    /// # Errors
    /// It cannot be read.
    fn sketch(&self, row: u32) -> Result<Self::Sketch>;

    /// The similarity of two rows, if it makes one of them a duplicate.
    fn similarity(&self, a: &Self::Sketch, b: &Self::Sketch) -> Option<f64>;
}

struct Row {
    rank: u32,
    buckets: Vec<u32>,
}

/// The numbers of a bucket whose rows are compared with one of this number.
fn compared_with(number: u32) -> impl Iterator<Item = u32> {
    let even = number & !1;
    [even, even | 1].into_iter().take(if number == even { 2 } else { 1 })
}

/// For each number of a bucket the ranks of its rows that are kept, as linked lists.
struct KeptRows {
    /// How many, and the last entry.
    lists: Vec<(u32, u32)>,
    /// A rank and the entry before it.
    entries: Vec<(u32, u32)>,
}

impl KeptRows {
    fn push(&mut self, row: &Row) {
        for &bucket in &row.buckets {
            let (length, last) = &mut self.lists[bucket as usize];
            self.entries.push((row.rank, *last));
            *last = self.entries.len() as u32 - 1;
            *length += 1;
        }
    }

    /// Ranks in the buckets of a row, ascending.
    fn beside<C: Compare>(&self, row: &Row) -> Vec<u32> {
        let numbers = row.buckets.iter().flat_map(|&bucket| compared_with(bucket));
        let mut numbers: Vec<u32> = numbers.collect();
        // Of about equal ones in the order of the numbers, which is as good as random: parts of one text lie apart.
        numbers.sort_unstable_by_key(|&number| (self.lists[number as usize].0.checked_ilog2(), number));
        let mut ranks = Vec::new();
        for number in numbers {
            let (length, mut next) = self.lists[number as usize];
            for _ in 0..(length as usize).min(C::MOST_SEEN - ranks.len()) {
                let (rank, before) = self.entries[next as usize];
                ranks.push(rank);
                next = before;
            }
        }
        ranks.sort_unstable();
        let mut shared: Vec<(usize, u32)> =
            ranks.chunk_by(|a, b| a == b).map(|equal| (equal.len(), equal[0])).collect();
        if shared.len() > C::MOST_COMPARED {
            shared.sort_unstable_by_key(|&(count, rank)| (Reverse(count), rank));
            shared.truncate(C::MOST_COMPARED);
            shared.sort_unstable_by_key(|&(_, rank)| rank);
        }
        shared.into_iter().map(|(_, rank)| rank).collect()
    }
}

/// Compares the rows of a block with those kept before and, in case those are kept, with each other; then decides in order.
fn decide_block<C: Compare>(
    block: &[Row],
    kept: &mut KeptRows,
    order: &Order,
    compare: &C,
    duplicates: &mut Vec<Duplicate>,
) -> Result<()> {
    let sketches: Vec<C::Sketch> =
        block.par_iter().map(|row| compare.sketch(order.row(row.rank))).collect::<Result<_>>()?;
    // Of each bucket, and beside each row, the earlier places of the block as bits.
    let mut in_bucket: HashMap<u32, u128> = HashMap::new();
    let beside: Vec<u128> = (0..block.len())
        .map(|place| {
            let mut earlier = 0;
            for &bucket in &block[place].buckets {
                let places = compared_with(bucket).filter_map(|number| in_bucket.get(&number));
                earlier |= places.fold(0, |all, places| all | places);
                *in_bucket.entry(bucket).or_default() |= 1 << place;
            }
            earlier & !(1 << place)
        })
        .collect();
    let like_kept = |place: usize| -> Result<Option<(u32, f64)>> {
        for rank in kept.beside::<C>(&block[place]) {
            let other = compare.sketch(order.row(rank))?;
            if let Some(similarity) = compare.similarity(&sketches[place], &other) {
                return Ok(Some((rank, similarity)));
            }
        }
        Ok(None)
    };
    let like_beside = |place: usize| -> Vec<(usize, f64)> {
        let similar = |other| Some((other, compare.similarity(&sketches[place], &sketches[other])?));
        (0..place).filter(|other| beside[place] >> other & 1 == 1).filter_map(similar).collect()
    };
    type Alike = (Option<(u32, f64)>, Vec<(usize, f64)>);
    let alike: Vec<Alike> = (0..block.len())
        .into_par_iter()
        .map(|place| {
            let before = like_kept(place)?;
            let beside = if before.is_some() { Vec::new() } else { like_beside(place) };
            Ok((before, beside))
        })
        .collect::<Result<_>>()?;
    let mut is_kept = vec![false; block.len()];
    for (place, (before, beside)) in alike.into_iter().enumerate() {
        let beside = beside.into_iter().find(|(other, _)| is_kept[*other]);
        let found = before.or_else(|| beside.map(|(other, similarity)| (block[other].rank, similarity)));
        match found {
            Some((of, similarity)) => duplicates.push(Duplicate {
                row: order.row(block[place].rank),
                of: order.row(of),
                similarity: Some(similarity),
            }),
            None => {
                is_kept[place] = true;
                kept.push(&block[place]);
            }
        }
    }
    Ok(())
}

/// Fingerprints that differ in few bits.
pub struct NearFingerprints {
    /// Of each row.
    pub fingerprints: Vec<u128>,
    /// Bits in which duplicates differ at most.
    pub bits: u32,
}

impl Compare for NearFingerprints {
    type Sketch = u128;

    const MOST_SEEN: usize = usize::MAX;
    const MOST_COMPARED: usize = usize::MAX;

    fn sketch(&self, row: u32) -> Result<u128> {
        Ok(self.fingerprints[row as usize])
    }

    fn similarity(&self, a: &u128, b: &u128) -> Option<f64> {
        let bits = (a ^ b).count_ones();
        (bits <= self.bits).then(|| 1.0 - f64::from(bits) / 128.0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::deduplication::row_text::mix;

    fn partitions(folder: &tempfile::TempDir, name: &str) -> Partitions {
        Partitions::new(folder.path().join(name), 1 << 20)
    }

    /// Counts what is compared.
    struct Counted<'a>(&'a ShingleSets, AtomicUsize);

    impl Compare for Counted<'_> {
        type Sketch = Vec<u32>;

        const MOST_SEEN: usize = ShingleSets::MOST_SEEN;
        const MOST_COMPARED: usize = ShingleSets::MOST_COMPARED;

        fn sketch(&self, row: u32) -> Result<Vec<u32>> {
            self.0.sketch(row)
        }

        fn similarity(&self, a: &Vec<u32>, b: &Vec<u32>) -> Option<f64> {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.similarity(a, b)
        }
    }

    /// Comparisons of rows of one template, in one bucket, that have three quarters of their text in common, where buckets of
    /// more than `most` rows are parted.
    fn compared(rows: u32, most: usize) -> usize {
        let folder = tempfile::tempdir().unwrap();
        let mut sets = ShingleSets::create(&folder.path().join("sets"), (0..rows).collect(), 5, 0.8).unwrap();
        let mut keys = partitions(&folder, "keys");
        for row in 0..rows {
            let own = (0..9).map(|place| mix(u64::from(row) << 4 | place) % 4000);
            let text: String =
                (0..64).chain(own).filter_map(|at| char::from_u32(0x4E00 + at as u32)).collect();
            let set = sets.of(&text);
            sets.count(&set);
            sets.push(&set).unwrap();
            keys.push(0, (7, row)).unwrap();
        }
        sets.flush().unwrap();
        let (mut crowds, mut tick) = (Crowds::new(most, rows), || Ok(()));
        let pairs = partitions(&folder, "pairs");
        let mut memberships =
            Memberships::gather(&mut keys, pairs, rows, &Order::First, &mut crowds, &mut tick).unwrap();
        let rare = partitions(&folder, "rare");
        memberships.part_crowds(&sets, crowds, rare, &Order::First, &mut tick).unwrap();
        let counted = Counted(&sets, AtomicUsize::new(0));
        memberships.decide(&Order::First, &counted, &mut tick).unwrap();
        counted.1.into_inner()
    }

    #[test]
    fn rows_of_a_template_are_compared_with_few_others() {
        let (parted, together) = (compared(2000, 100), compared(2000, usize::MAX));
        assert!(parted < 2000 && together > 50 * 2000, "{parted}, {together}");
    }

    #[test]
    fn buckets_beyond_all_numbers_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let pairs = partitions(&folder, "pairs");
        let mut memberships = Memberships { pairs, buckets: u32::MAX - 3, members: Vec::new(), rows: 1 };
        memberships.push(&[(0, 0)], &Order::First, 0).unwrap();
        let error = memberships.push(&[(0, 0)], &Order::First, 0).unwrap_err();
        assert!(error.to_string().contains("too many"), "{error}");
    }
}
