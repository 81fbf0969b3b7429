//! Which rows are left out: those that share a bucket with an earlier row and, where it is verified, resemble one that is
//! kept. The result is a function of the rows and their order alone, not of threads or memory.

use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use fs_err as fs;
use rayon::prelude::*;

use super::partitions::{PARTITIONS, Partitions};
use super::row_text::{jaccard, shingle_set};
use crate::error::Result;

const NONE: u32 = u32::MAX;
/// Rows that are compared at once.
const BLOCK: usize = 128;

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
        rows.par_sort_by_key(|&row| std::cmp::Reverse(lengths[row as usize]));
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

/// Calls `found` with the ranks, ascending, of the rows of each key that several rows have.
fn buckets(
    keys: &mut Partitions,
    order: &Order,
    tick: &mut (dyn FnMut() -> Result<()> + Send),
    found: &mut dyn FnMut(&[u32]) -> Result<()>,
) -> Result<()> {
    let mut ranks = Vec::new();
    for partition in 0..PARTITIONS {
        for group in keys.take(partition)?.chunk_by(|a, b| a.0 == b.0).filter(|group| group.len() > 1) {
            ranks.clear();
            ranks.extend(group.iter().map(|&(_, row)| order.rank(row)));
            ranks.sort_unstable();
            found(&ranks)?;
        }
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
    buckets(keys, order, tick, &mut |ranks| {
        for &rank in &ranks[1..] {
            let first = &mut first[rank as usize];
            *first = (*first).min(ranks[0]);
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
pub struct Memberships {
    pairs: Partitions,
    buckets: u32,
    members: Vec<u32>,
}

impl Memberships {
    /// Gathers them out of the keys; of them `pairs` holds what fits in memory.
    ///
    /// # Errors
    /// Those of the files, and of `tick`.
    pub fn gather(
        keys: &mut Partitions,
        mut pairs: Partitions,
        rows: u32,
        order: &Order,
        tick: &mut (dyn FnMut() -> Result<()> + Send),
    ) -> Result<Self> {
        let mut number = 0;
        let mut is_member = vec![false; rows as usize];
        buckets(keys, order, tick, &mut |ranks| {
            for &rank in ranks {
                is_member[order.row(rank) as usize] = true;
                let partition = u64::from(rank) * PARTITIONS as u64 / u64::from(rows);
                pairs.push(partition as usize, (rank.into(), number))?;
            }
            number += 1;
            Ok(())
        })?;
        let members = (0..).zip(is_member).filter(|(_, is_member)| *is_member).map(|(row, _)| row).collect();
        Ok(Self { pairs, buckets: number, members })
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
        let mut kept = KeptRows { first: vec![NONE; self.buckets as usize], entries: Vec::new() };
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

/// How rows are compared.
pub trait Compare: Sync {
    /// What of a row is compared.
    type Sketch: Send + Sync;

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

/// For each bucket the ranks of its rows that are kept, as linked lists.
struct KeptRows {
    first: Vec<u32>,
    /// A rank and the next entry of the bucket.
    entries: Vec<(u32, u32)>,
}

impl KeptRows {
    fn push(&mut self, row: &Row) {
        for &bucket in &row.buckets {
            let first = &mut self.first[bucket as usize];
            self.entries.push((row.rank, *first));
            *first = self.entries.len() as u32 - 1;
        }
    }

    /// The ranks in any of the buckets of a row, ascending.
    fn beside(&self, row: &Row) -> Vec<u32> {
        let mut ranks = Vec::new();
        for &bucket in &row.buckets {
            let mut next = self.first[bucket as usize];
            while let Some(&(rank, after)) = self.entries.get(next as usize) {
                ranks.push(rank);
                next = after;
            }
        }
        ranks.sort_unstable();
        ranks.dedup();
        ranks
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
    let mut in_bucket: HashMap<u32, Vec<usize>> = HashMap::new();
    let beside: Vec<Vec<usize>> = (0..block.len())
        .map(|place| {
            let mut earlier = Vec::new();
            for &bucket in &block[place].buckets {
                let places = in_bucket.entry(bucket).or_default();
                earlier.extend_from_slice(places);
                places.push(place);
            }
            earlier.sort_unstable();
            earlier.dedup();
            earlier
        })
        .collect();
    let like_kept = |place: usize| -> Result<Option<(u32, f64)>> {
        for rank in kept.beside(&block[place]) {
            let other = compare.sketch(order.row(rank))?;
            if let Some(similarity) = compare.similarity(&sketches[place], &other) {
                return Ok(Some((rank, similarity)));
            }
        }
        Ok(None)
    };
    let like_beside = |place: usize| -> Vec<(usize, f64)> {
        let similar = |&other: &usize| Some((other, compare.similarity(&sketches[place], &sketches[other])?));
        beside[place].iter().filter_map(similar).collect()
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

    fn sketch(&self, row: u32) -> Result<u128> {
        Ok(self.fingerprints[row as usize])
    }

    fn similarity(&self, a: &u128, b: &u128) -> Option<f64> {
        let bits = (a ^ b).count_ones();
        (bits <= self.bits).then(|| 1.0 - f64::from(bits) / 128.0)
    }
}

/// The texts of some rows, in a file, whose shingles are compared.
pub struct SimilarTexts {
    rows: Vec<u32>,
    /// Where the text of each of the rows ends.
    ends: Vec<u64>,
    file: Mutex<fs::File>,
    buffer: Vec<u8>,
    ngram: usize,
    threshold: f64,
}

impl SimilarTexts {
    /// For these rows, whose texts are then [pushed](Self::push).
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn create(path: &Path, rows: Vec<u32>, ngram: usize, threshold: f64) -> Result<Self> {
        let file = fs::File::options().create(true).truncate(true).read(true).write(true).open(path)?;
        Ok(Self {
            ends: Vec::with_capacity(rows.len()),
            rows,
            file: Mutex::new(file),
            buffer: Vec::new(),
            ngram,
            threshold,
        })
    }

    /// Whether the text of a row is wanted.
    pub fn wants(&self, row: u32) -> bool {
        self.rows.binary_search(&row).is_ok()
    }

    /// Appends the text of the next of the rows.
    ///
    /// # Errors
    /// A full disk.
    pub fn push(&mut self, text: &str) -> Result<()> {
        self.ends.push(self.ends.last().unwrap_or(&0) + text.len() as u64);
        self.buffer.extend_from_slice(text.as_bytes());
        if self.buffer.len() >= 1 << 20 { self.flush() } else { Ok(()) }
    }

    /// Writes what waits; to be called behind the last text.
    ///
    /// # Errors
    /// A full disk.
    pub fn flush(&mut self) -> Result<()> {
        let file = self.file.get_mut().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

impl Compare for SimilarTexts {
    type Sketch = Vec<u64>;

    fn sketch(&self, row: u32) -> Result<Vec<u64>> {
        let place = self.rows.binary_search(&row).unwrap_or_default();
        let start = if place == 0 { 0 } else { self.ends[place - 1] };
        let mut bytes = vec![0; (self.ends[place] - start) as usize];
        {
            let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
            file.seek(SeekFrom::Start(start))?;
            file.read_exact(&mut bytes)?;
        }
        Ok(shingle_set(&String::from_utf8_lossy(&bytes), self.ngram))
    }

    fn similarity(&self, a: &Vec<u64>, b: &Vec<u64>) -> Option<f64> {
        let similarity = jaccard(a, b);
        (similarity >= self.threshold).then_some(similarity)
    }
}
