//! The sets of shingles of the rows that are compared, in a file, and the rare ones among them.
//!
//! Rows of one template have most shingles in common, and share bands with thousands of others without being duplicates.
//! Two sets as similar as the threshold must also have one of their rarest shingles in common (the prefix filter of
//! Bayardo, Ma, Srikant 2007 and Xiao et al. 2008): by these such rows are found.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use fs_err as fs;

use super::decide::Compare;
use super::positioned_read::read_exact_at;
use super::row_text::{jaccard, mix, shingle_set};
use crate::error::Result;

/// Bits of a shingle by which its rows are counted: those of different shingles may be counted together.
const COUNTED_BITS: u32 = 20;
/// Rare shingles of a row that become keys; of more, those with the least hashes.
const MOST_KEYS: usize = 64;

/// The sets of some rows.
pub struct ShingleSets {
    rows: Vec<u32>,
    /// Where the set of each of the rows ends, in shingles.
    ends: Vec<u64>,
    file: fs::File,
    buffer: Vec<u8>,
    /// In how many of the counted rows a shingle is.
    counts: Vec<AtomicU32>,
    ngram: usize,
    threshold: f64,
}

impl ShingleSets {
    /// For these rows, whose sets are then [pushed](Self::push).
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn create(path: &Path, rows: Vec<u32>, ngram: usize, threshold: f64) -> Result<Self> {
        let file = fs::File::options().create(true).truncate(true).read(true).write(true).open(path)?;
        let mut counts = Vec::new();
        counts.resize_with(1 << COUNTED_BITS, AtomicU32::default);
        Ok(Self {
            ends: Vec::with_capacity(rows.len()),
            rows,
            file,
            buffer: Vec::new(),
            counts,
            ngram,
            threshold,
        })
    }

    /// Whether the set of a row is wanted.
    pub fn wants(&self, row: u32) -> bool {
        self.rows.binary_search(&row).is_ok()
    }

    /// The set of a [normalised](super::row_text::normalise) text.
    pub fn of(&self, text: &str) -> Vec<u32> {
        shingle_set(text, self.ngram)
    }

    /// Counts a row for the shingles of its set.
    pub fn count(&self, set: &[u32]) {
        for &shingle in set {
            self.counts[counted(shingle)].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Appends the set of the next of the rows.
    ///
    /// # Errors
    /// A full disk.
    pub fn push(&mut self, set: &[u32]) -> Result<()> {
        self.ends.push(self.ends.last().unwrap_or(&0) + set.len() as u64);
        self.buffer.extend(set.iter().flat_map(|shingle| shingle.to_le_bytes()));
        if self.buffer.len() >= 1 << 20 { self.flush() } else { Ok(()) }
    }

    /// Writes what waits; to be called behind the last set.
    ///
    /// # Errors
    /// A full disk.
    pub fn flush(&mut self) -> Result<()> {
        self.file.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    /// Keys by which a row shares one with each row that is as similar as the threshold: an even one for a shingle that
    /// both may share where this set is the smaller one or as large, and an odd one for those more that they may share
    /// where it is the larger one. Of two equal keys but for that bit one must be even.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn rare_keys(&self, row: u32) -> Result<Vec<u64>> {
        let mut set = self.sketch(row)?;
        // As many are shared at least; one in a million less, for numbers that are not quite what they should be.
        let all_but =
            |share: f64| set.len() + 1 - ((set.len() as f64 * (share - 1e-6)).ceil() as usize).min(set.len());
        let as_smaller = all_but(2.0 * self.threshold / (1.0 + self.threshold));
        let as_larger = all_but(self.threshold).max(as_smaller);
        set.sort_by_cached_key(|&shingle| (self.counts[counted(shingle)].load(Ordering::Relaxed), shingle));
        let mut keys: Vec<u64> = (0..as_larger)
            .zip(set)
            .map(|(place, shingle)| u64::from(shingle) << 1 | u64::from(place >= as_smaller))
            .collect();
        if keys.len() > MOST_KEYS {
            keys.select_nth_unstable_by_key(MOST_KEYS, |key| mix(key >> 1));
            keys.truncate(MOST_KEYS);
        }
        Ok(keys)
    }

    /// Which of 256 partitions a key belongs to.
    pub fn partition(key: u64) -> usize {
        (key >> 25) as usize
    }
}

fn counted(shingle: u32) -> usize {
    (shingle >> (u32::BITS - COUNTED_BITS)) as usize
}

impl Compare for ShingleSets {
    type Sketch = Vec<u32>;

    const MOST_SEEN: usize = 1 << 13;
    const MOST_COMPARED: usize = 64;

    fn sketch(&self, row: u32) -> Result<Vec<u32>> {
        let place = self.rows.binary_search(&row).unwrap_or_default();
        let start = if place == 0 { 0 } else { self.ends[place - 1] };
        let mut bytes = vec![0; (self.ends[place] - start) as usize * size_of::<u32>()];
        read_exact_at(self.file.file(), &mut bytes, start * size_of::<u32>() as u64)?;
        Ok(bytes.as_chunks().0.iter().map(|&shingle| u32::from_le_bytes(shingle)).collect())
    }

    fn similarity(&self, a: &Vec<u32>, b: &Vec<u32>) -> Option<f64> {
        let similarity = jaccard(a, b);
        (similarity >= self.threshold).then_some(similarity)
    }
}
