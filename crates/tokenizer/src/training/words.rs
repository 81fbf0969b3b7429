//! The different words of a corpus and how often each occurs, in bounded memory.
//!
//! Words lie in shards by their hash, so that threads never share one; what is counted depends on the texts alone, not
//! on the number of threads. Where the words grow beyond the bound, rare ones are sampled: each of them stays with
//! half the probability and then counts double, so that sums over words keep their expectation.

use hashbrown::HashTable;
use rayon::prelude::*;

/// A power of two, far above the number of threads that could be of use.
const SHARDS: usize = 32;
/// Bytes that the table of a shard takes for each entry, with the room that it keeps free.
const ENTRY_BYTES: usize = 2 * (size_of::<Entry>() + 1);

/// A word that was found in a text.
pub(super) struct Found {
    hash: u64,
    start: u32,
    length: u32,
}

/// The words of one stretch of text, by shard.
pub(super) struct FoundWords<'a> {
    text: std::borrow::Cow<'a, str>,
    found: Vec<Vec<Found>>,
}

impl<'a> FoundWords<'a> {
    /// A stretch of text, shorter than 4 GiB, in which nothing is found yet.
    pub(super) fn new(text: impl Into<std::borrow::Cow<'a, str>>) -> Self {
        Self { text: text.into(), found: (0..SHARDS).map(|_| Vec::new()).collect() }
    }

    /// Finds the words that `cut` names by where they begin and end.
    pub(super) fn find(mut self, cut: impl FnOnce(&str, &mut dyn FnMut(usize, usize))) -> Self {
        let Self { text, found } = &mut self;
        cut(text, &mut |start, end| {
            let hash = hash(&text.as_bytes()[start..end], 0);
            let word = Found { hash, start: start as u32, length: (end - start) as u32 };
            found[(hash >> 32) as usize % SHARDS].push(word);
        });
        self
    }
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    start: u32,
    length: u32,
    count: u64,
}

#[derive(Default)]
struct Shard {
    text: Vec<u8>,
    table: HashTable<Entry>,
    /// Words that were looked for and not found.
    missed: u64,
}

impl Shard {
    /// Counts a word; after `rounds` of sampling a new one stands for as many as the rare ones that stayed do.
    fn count(&mut self, word: &[u8], hash: u64, rounds: u32) {
        let text = &self.text;
        if let Some(entry) = self.table.find_mut(hash, |entry| span(text, entry) == word) {
            entry.count += 1;
            return;
        }
        self.missed += 1;
        if self::hash(&self.missed.to_le_bytes(), hash).is_multiple_of(1 << rounds) {
            self.add(word, hash, 1 << rounds);
        }
    }

    fn add(&mut self, word: &[u8], hash: u64, count: u64) {
        let text = &self.text;
        let is_word = |entry: &Entry| span(text, entry) == word;
        if let Some(entry) = self.table.find_mut(hash, is_word) {
            entry.count += count;
            return;
        }
        let entry = Entry { start: text.len() as u32, length: word.len() as u32, count };
        self.text.extend_from_slice(word);
        let text = &self.text;
        self.table.insert_unique(hash, entry, |entry| crate::training::words::hash(span(text, entry), 0));
    }

    /// Keeps half of the words that occur at most `rare` times, chosen by `seed`, and doubles their counts.
    fn sample(&mut self, rare: u64, seed: u64) {
        let before = std::mem::take(self);
        self.missed = before.missed;
        for entry in &before.table {
            let word = span(&before.text, entry);
            let is_rare = entry.count <= rare;
            if is_rare && hash(word, seed) & 1 == 0 {
                continue;
            }
            self.add(word, hash(word, 0), entry.count << u32::from(is_rare));
        }
        self.text.shrink_to_fit();
    }
}

fn span<'a>(text: &'a [u8], entry: &Entry) -> &'a [u8] {
    &text[entry.start as usize..][..entry.length as usize]
}

/// The same on every machine and for all time, since it decides what is sampled.
fn hash(word: &[u8], seed: u64) -> u64 {
    const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
    let (parts, rest) = word.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let mut hash = seed ^ (word.len() as u64).wrapping_mul(FACTOR);
    for part in parts.iter().chain([&last]) {
        hash = (hash.rotate_left(23) ^ u64::from_le_bytes(*part)).wrapping_mul(FACTOR);
        hash ^= hash >> 29;
    }
    hash.wrapping_mul(0xBF58_476D_1CE4_E5B9) ^ hash >> 32
}

/// The words of a corpus.
pub(super) struct Words {
    shards: Vec<Shard>,
    most_bytes: usize,
    seed: u64,
    /// How often rare words were sampled.
    rounds: u32,
}

impl Words {
    /// None yet; the texts of all words stay below about `most_bytes`, and the tables within a few times that.
    pub(super) fn new(most_bytes: usize, seed: u64) -> Self {
        Self { shards: (0..SHARDS).map(|_| Shard::default()).collect(), most_bytes, seed, rounds: 0 }
    }

    /// Counts the words that were found.
    pub(super) fn add(&mut self, cuts: &[FoundWords]) {
        let rounds = self.rounds;
        self.shards.par_iter_mut().enumerate().for_each(|(shard, words)| {
            for cut in cuts {
                for found in &cut.found[shard] {
                    let word = &cut.text.as_bytes()[found.start as usize..][..found.length as usize];
                    words.count(word, found.hash, rounds);
                }
            }
        });
        while self
            .shards
            .iter()
            .map(|shard| shard.text.len() + ENTRY_BYTES / 4 * shard.table.len())
            .sum::<usize>()
            > self.most_bytes
            && self.rounds < 40
        {
            let rare = 1 << self.rounds;
            self.rounds += 1;
            let seed = self.seed.wrapping_add(u64::from(self.rounds)).wrapping_mul(0xD6E8_FEB8_6659_FD93) | 1;
            self.shards.par_iter_mut().for_each(|shard| shard.sample(rare, seed));
        }
    }

    /// How often rare words were sampled to stay within memory.
    pub(super) fn rounds(&self) -> u32 {
        self.rounds
    }

    /// The number of different words.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.table.len()).sum()
    }

    /// Gives every word with its count, shard by shard, and frees each shard; the order depends on the words alone.
    pub(super) fn drain(self, mut each: impl FnMut(&str, u64)) {
        for Shard { text, table, .. } in self.shards {
            let mut entries: Vec<Entry> = table.into_iter().collect();
            entries.sort_unstable_by(|one, other| span(&text, one).cmp(span(&text, other)));
            for entry in &entries {
                // Words were cut from text between characters.
                if let Ok(word) = std::str::from_utf8(span(&text, entry)) {
                    each(word, entry.count);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(words: Words) -> Vec<(String, u64)> {
        let mut all = Vec::new();
        words.drain(|word, count| all.push((word.to_owned(), count)));
        all.sort();
        all
    }

    fn letters(text: &str) -> FoundWords<'_> {
        FoundWords::new(text).find(|text, found| {
            text.split_inclusive(' ').fold(0, |at, word| {
                found(at, at + word.len());
                at + word.len()
            });
        })
    }

    #[test]
    fn words_are_counted() {
        let mut words = Words::new(usize::MAX, 0);
        words.add(&[letters("甲 乙 甲 "), letters("甲 丙 ")]);
        let expected = [("丙 ", 1), ("乙 ", 1), ("甲 ", 3)].map(|(word, count)| (word.to_owned(), count));
        assert_eq!(counted(words), expected);
    }

    #[test]
    fn sampling_bounds_the_words_and_keeps_their_sum() {
        let text: String = (0..20_000).map(|number| format!("{number} often ")).collect();
        let mut words = Words::new(40_000, 7);
        for part in text.as_bytes().chunks(1000) {
            words.add(&[letters(std::str::from_utf8(part).unwrap_or_default())]);
        }
        assert!(words.rounds() > 2 && words.len() < 4_000);
        let counts = counted(words);
        let often = counts.iter().find(|(word, _)| word == "often ").map(|(_, count)| *count);
        assert!(often.is_some_and(|count| (19_800..=20_200).contains(&count)), "{often:?}");
        let sum: u64 = counts.iter().map(|(_, count)| count).sum();
        assert!((36_000..44_000).contains(&sum), "{sum}");
    }
}
