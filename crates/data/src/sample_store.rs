//! Many samples in little memory: ids one after another, weights as runs, in memory or in a file that is mapped. A
//! [`SampleSet`] is a list of samples of such a store; [`Sample`]s are made where they are looked at.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use memmap2::Mmap;

use crate::records::Source;
use crate::sample::Sample;
use crate::slices::SliceSize;

/// Where the words of a sample are, and what is known of it without them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Entry {
    /// Index of its first word: its ids, then its weights as pairs of a length and the bits of a weight.
    start: u64,
    /// Line of its row.
    line: u64,
    /// Hash of the tokens of its row.
    hash: u64,
    /// Number of its ids.
    ids: u32,
    /// Number of the runs of its weights.
    runs: u32,
    /// Ids that are learned.
    trained: u32,
    /// Which of the files its row is in.
    file: u32,
}

#[derive(Debug)]
enum Words {
    Memory(Vec<u32>),
    Mapped(Mmap),
}

/// Samples, packed.
#[derive(Debug)]
pub(crate) struct SampleStore {
    words: Words,
    entries: Vec<Entry>,
    files: Vec<Arc<Path>>,
}

impl SampleStore {
    /// The samples whose words are in a mapped file; `None` if the two do not fit together.
    pub(crate) fn mapped(words: Mmap, entries: Vec<Entry>, files: Vec<Arc<Path>>) -> Option<Self> {
        let count = bytemuck::try_cast_slice::<u8, u32>(&words).ok()?.len() as u64;
        let fits = |entry: &Entry| {
            let length = u64::from(entry.ids) + 2 * u64::from(entry.runs);
            entry.start.checked_add(length).is_some_and(|end| end <= count)
                && (entry.file as usize) < files.len()
        };
        entries.iter().all(fits).then_some(Self { words: Words::Mapped(words), entries, files })
    }

    fn words(&self, entry: &Entry) -> (&[u32], &[u32]) {
        let words = match &self.words {
            Words::Memory(words) => words.as_slice(),
            Words::Mapped(bytes) => bytemuck::cast_slice(bytes),
        };
        let start = entry.start as usize;
        words[start..][..entry.ids as usize + 2 * entry.runs as usize].split_at(entry.ids as usize)
    }

    fn sample(&self, index: usize) -> Sample {
        let entry = &self.entries[index];
        let (ids, runs) = self.words(entry);
        let mut loss_weights = Vec::with_capacity(ids.len());
        for run in runs.chunks_exact(2) {
            let length = (run[0] as usize).min(ids.len() - loss_weights.len());
            loss_weights.resize(loss_weights.len() + length, f32::from_bits(run[1]));
        }
        loss_weights.resize(ids.len(), 0.0);
        let path = self.files[entry.file as usize].clone();
        Sample { ids: ids.to_vec(), loss_weights, source: Source { path, line: entry.line } }
    }
}

/// Collects samples for a store.
#[derive(Default)]
pub(crate) struct StoreBuilder {
    /// Words that are not written to a file.
    pub(crate) words: Vec<u32>,
    /// Words that are.
    pub(crate) written: u64,
    pub(crate) entries: Vec<Entry>,
    pub(crate) files: Files,
}

/// Files, each once, in the order in which they were met.
#[derive(Default)]
pub(crate) struct Files {
    paths: Vec<Arc<Path>>,
    numbers: HashMap<Arc<Path>, u32>,
}

impl Files {
    pub(crate) fn number(&mut self, path: &Arc<Path>) -> u32 {
        // Rows come file by file.
        if let Some(last) = self.paths.last().filter(|last| Arc::ptr_eq(last, path) || *last == path) {
            return self.numbers.get(last).copied().unwrap_or_default();
        }
        let paths = &mut self.paths;
        *self.numbers.entry(path.clone()).or_insert_with(|| {
            paths.push(path.clone());
            paths.len() as u32 - 1
        })
    }

    pub(crate) fn into_paths(self) -> Vec<Arc<Path>> {
        self.paths
    }
}

impl StoreBuilder {
    /// Adds a sample of a row whose tokens have this hash.
    pub(crate) fn push(&mut self, sample: &Sample, hash: u64) {
        let start = self.written + self.words.len() as u64;
        self.words.extend_from_slice(&sample.ids);
        let mut runs = 0;
        for run in sample.loss_weights.chunk_by(|a, b| a.to_bits() == b.to_bits()) {
            self.words.extend([run.len() as u32, run[0].to_bits()]);
            runs += 1;
        }
        self.entries.push(Entry {
            start,
            line: sample.source.line,
            hash,
            ids: sample.ids.len() as u32,
            runs,
            trained: sample.trained_tokens() as u32,
            file: self.files.number(&sample.source.path),
        });
    }

    /// Tokens of the samples from this one on, and those that are learned.
    pub(crate) fn tokens_from(&self, start: usize) -> [u64; 2] {
        let entries = &self.entries[start..];
        let sum = |count: fn(&Entry) -> u32| entries.iter().map(|entry| u64::from(count(entry))).sum();
        [sum(|entry| entry.ids), sum(|entry| entry.trained)]
    }

    /// The store of samples whose words are all in memory.
    pub(crate) fn in_memory(mut self) -> SampleStore {
        self.words.shrink_to_fit();
        self.entries.shrink_to_fit();
        SampleStore {
            words: Words::Memory(self.words),
            entries: self.entries,
            files: self.files.into_paths(),
        }
    }
}

/// A list of samples. It costs an index for each; the samples themselves are shared.
#[derive(Debug, Clone)]
pub struct SampleSet {
    store: Arc<SampleStore>,
    /// Which samples of the store, in order; all of them without it.
    indices: Option<Arc<[u32]>>,
}

impl SampleSet {
    pub(crate) fn all(store: SampleStore) -> Self {
        Self { store: Arc::new(store), indices: None }
    }

    /// Those samples of this list, in this order; one may be in it more than once.
    pub fn subset(&self, indices: &[u32]) -> Self {
        let indices = indices.iter().map(|&index| self.place(index as usize) as u32).collect();
        Self { store: self.store.clone(), indices: Some(indices) }
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.indices.as_ref().map_or(self.store.entries.len(), |indices| indices.len())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A sample.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    pub fn get(&self, index: usize) -> Sample {
        self.store.sample(self.place(index))
    }

    /// What a sample adds to a slice, without its ids.
    ///
    /// # Panics
    /// As [`get`](Self::get).
    pub fn size(&self, index: usize) -> SliceSize {
        let (mut size, mut position) = (SliceSize::default(), 0);
        for run in self.store.words(&self.store.entries[self.place(index)]).1.chunks_exact(2) {
            // The first id is predicted from nothing.
            let (start, end) = (position.max(1), position + run[0] as usize);
            if f32::from_bits(run[1]) != 0.0 && start < end {
                size = SliceSize { tokens: end - 1, targets: size.targets + end - start };
            }
            position = end;
        }
        size
    }

    /// The samples one after another.
    pub fn iter(&self) -> impl Iterator<Item = Sample> + '_ {
        (0..self.len()).map(|index| self.get(index))
    }

    /// Number of tokens of each sample.
    pub fn lengths(&self) -> Vec<u32> {
        self.entries().map(|entry| entry.ids).collect()
    }

    /// Tokens of all samples.
    pub fn tokens(&self) -> u64 {
        self.entries().map(|entry| u64::from(entry.ids)).sum()
    }

    /// Tokens of all samples that are learned.
    pub fn trained_tokens(&self) -> u64 {
        self.entries().map(|entry| u64::from(entry.trained)).sum()
    }

    /// Hash of the tokens of each sample's row: equal rows have equal hashes.
    pub(crate) fn hashes(&self) -> impl Iterator<Item = u64> + '_ {
        self.entries().map(|entry| entry.hash)
    }

    /// The samples of each row: equal rows behind each other on one line count as one.
    pub(crate) fn rows(&self) -> Vec<Range<usize>> {
        let mut rows: Vec<Range<usize>> = Vec::new();
        let mut last = None;
        for (index, entry) in self.entries().enumerate() {
            let row = Some((entry.file, entry.line, entry.hash));
            match rows.last_mut() {
                Some(row_before) if last == row => row_before.end = index + 1,
                _ => rows.push(index..index + 1),
            }
            last = row;
        }
        rows
    }

    /// Bytes of memory that the samples take; those of a mapped file belong to the file, which the system may drop.
    pub fn bytes(&self) -> usize {
        let words = match &self.store.words {
            Words::Memory(words) => size_of_val(words.as_slice()),
            Words::Mapped(bytes) => bytes.len(),
        };
        words
            + size_of_val(self.store.entries.as_slice())
            + self.indices.as_ref().map_or(0, |indices| size_of_val(&**indices))
    }

    fn place(&self, index: usize) -> usize {
        self.indices.as_ref().map_or(index, |indices| indices[index] as usize)
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> + '_ {
        (0..self.len()).map(|index| &self.store.entries[self.place(index)])
    }
}

impl FromIterator<Sample> for SampleSet {
    fn from_iter<I: IntoIterator<Item = Sample>>(samples: I) -> Self {
        let mut builder = StoreBuilder::default();
        for sample in samples {
            builder.push(&sample, content_hash(&sample.ids));
        }
        Self::all(builder.in_memory())
    }
}

/// A hash of tokens, the same in every run and on every machine: multiply and fold, then SplitMix64's finish.
pub(crate) fn content_hash(ids: &[u32]) -> u64 {
    const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
    let fold = |hash: u64, id: &u32| {
        let product = u128::from(hash ^ u64::from(*id)).wrapping_mul(u128::from(FACTOR));
        (product >> 64) as u64 ^ product as u64
    };
    let hash = ids.iter().fold(FACTOR ^ ids.len() as u64, fold);
    crate::order::split_mix(hash)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_sample_comes_back_as_it_was(
            rows in prop::collection::vec(prop::collection::vec((any::<u32>(), 0_u8..3), 0..40), 0..20),
        ) {
            let samples: Vec<Sample> = rows
                .into_iter()
                .enumerate()
                .map(|(line, row)| Sample {
                    ids: row.iter().map(|(id, _)| *id).collect(),
                    loss_weights: row.iter().map(|(_, weight)| f32::from(*weight) / 2.0).collect(),
                    source: Source { path: Path::new(if line % 3 == 0 { "a" } else { "b" }).into(), line: line as u64 },
                })
                .collect();
            let set: SampleSet = samples.iter().cloned().collect();
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), samples.clone());
            prop_assert_eq!(set.trained_tokens(), samples.iter().map(|sample| sample.trained_tokens() as u64).sum::<u64>());
            let reversed: Vec<u32> = (0..samples.len() as u32).rev().collect();
            let twice = set.subset(&reversed).subset(&reversed);
            prop_assert_eq!(twice.iter().collect::<Vec<_>>(), samples);
        }
    }

    #[test]
    fn hashes_tell_rows_apart() {
        let hashes: std::collections::HashSet<u64> = (0..1000_u32)
            .flat_map(|id| [content_hash(&[id]), content_hash(&[id, 0]), content_hash(&[0, id, 1])])
            .collect();
        assert_eq!(hashes.len(), 3000);
        let below = hashes.iter().filter(|&&hash| hash < u64::MAX / 10).count();
        assert!((250..350).contains(&below), "{below}");
    }
}
