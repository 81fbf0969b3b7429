//! Pairs of a key and a number, gathered in partitions that can be taken out one by one, sorted; beyond a limit of
//! memory they wait in a file.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use fs_err as fs;
use rayon::slice::ParallelSliceMut;

use crate::error::Result;

/// A pair: what it is sorted by, and what it carries.
pub type Pair = (u64, u32);

/// Partitions of pairs.
pub const PARTITIONS: usize = 256;
/// Bytes of a pair in the file.
const PAIR_BYTES: usize = 12;

/// Pairs by partition.
pub struct Partitions {
    held: Vec<Vec<Pair>>,
    /// Pairs in memory, and how many may be.
    count: usize,
    limit: usize,
    path: PathBuf,
    file: Option<fs::File>,
    /// Where in the file the pieces of each partition lie: first byte and pairs.
    pieces: Vec<Vec<(u64, usize)>>,
    written: u64,
}

impl Partitions {
    /// Holds up to `bytes` in memory, and the rest in a file `path`.
    pub fn new(path: PathBuf, bytes: u64) -> Self {
        // A vector may have twice the room that it needs.
        let limit = (bytes as usize / (2 * size_of::<Pair>())).max(PARTITIONS);
        let held = vec![Vec::new(); PARTITIONS];
        Self { held, count: 0, limit, path, file: None, pieces: vec![Vec::new(); PARTITIONS], written: 0 }
    }

    /// Adds a pair to a partition.
    ///
    /// # Errors
    /// A full disk.
    pub fn push(&mut self, partition: usize, pair: Pair) -> Result<()> {
        self.held[partition].push(pair);
        self.count += 1;
        if self.count >= self.limit { self.spill() } else { Ok(()) }
    }

    fn spill(&mut self) -> Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            file => file.insert(
                fs::File::options().create(true).truncate(true).read(true).write(true).open(&self.path)?,
            ),
        };
        let mut bytes = Vec::new();
        for (pairs, pieces) in self.held.iter_mut().zip(&mut self.pieces) {
            bytes.clear();
            for (key, number) in &*pairs {
                bytes.extend_from_slice(&key.to_le_bytes());
                bytes.extend_from_slice(&number.to_le_bytes());
            }
            file.write_all(&bytes)?;
            pieces.push((self.written, pairs.len()));
            self.written += bytes.len() as u64;
            // The room is given back: which partitions grow is not known.
            *pairs = Vec::new();
        }
        self.count = 0;
        Ok(())
    }

    /// Whether pairs wait in the file.
    pub fn is_spilled(&self) -> bool {
        self.file.is_some()
    }

    /// Takes a partition out, sorted.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn take(&mut self, partition: usize) -> Result<Vec<Pair>> {
        let mut pairs = std::mem::take(&mut self.held[partition]);
        let pieces = std::mem::take(&mut self.pieces[partition]);
        if let Some(file) = &mut self.file {
            pairs.reserve_exact(pieces.iter().map(|(_, length)| length).sum());
            let mut bytes = Vec::new();
            for (start, length) in pieces {
                bytes.resize(length * PAIR_BYTES, 0);
                file.seek(SeekFrom::Start(start))?;
                file.read_exact(&mut bytes)?;
                pairs.extend(bytes.chunks_exact(PAIR_BYTES).filter_map(|bytes| {
                    let (key, number) = bytes.split_first_chunk()?;
                    Some((u64::from_le_bytes(*key), u32::from_le_bytes(number.try_into().ok()?)))
                }));
            }
        }
        pairs.par_sort_unstable();
        Ok(pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_come_back_sorted_from_memory_and_from_the_file() {
        let folder = tempfile::tempdir().unwrap();
        for bytes in [0, 1 << 20] {
            let mut partitions = Partitions::new(folder.path().join("pairs"), bytes);
            let pairs: Vec<Pair> = (0..1000u32).map(|n| (u64::from(n) * 7919 % 1009, n)).collect();
            for &pair in &pairs {
                partitions.push(pair.0 as usize % PARTITIONS, pair).unwrap();
            }
            assert_eq!(partitions.is_spilled(), bytes == 0);
            for partition in 0..PARTITIONS {
                let mut expected: Vec<Pair> = pairs.clone();
                expected.retain(|pair| pair.0 as usize % PARTITIONS == partition);
                expected.sort_unstable();
                assert_eq!(partitions.take(partition).unwrap(), expected);
            }
        }
    }
}
