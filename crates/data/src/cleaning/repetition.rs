//! How much of a text says the same again: the measures of Rae et al. 2021 (MassiveText, arXiv:2112.11446,
//! table A1), which RefinedWeb and others took over.
//!
//! A word is a run of letters and digits; a Chinese character is a word of its own.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use super::language::is_cjk;

/// Words of the n-gram of [`top_ngram_share`].
pub const TOP_NGRAM: usize = 4;
/// Words of the n-grams of [`duplicate_ngram_share`].
pub const DUPLICATE_NGRAM: usize = 10;
/// In a shorter text a term that comes up three times, or the refrain of a poem, would look like spam.
const FEWEST_WORDS: usize = 100;

/// The share of characters in lines that stood in the text before; blank lines count for nothing.
pub fn duplicate_line_share(text: &str) -> f64 {
    let (mut seen, mut repeated, mut all) = (HashSet::new(), 0, 0);
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let length = line.chars().count();
        all += length;
        if !seen.insert(line) {
            repeated += length;
        }
    }
    share(repeated, all)
}

/// The share of characters in the sequence of four words that takes most of them, if it stands there twice or more;
/// 0 for a text of fewer than a hundred words.
pub fn top_ngram_share(text: &str) -> f64 {
    let words = words(text);
    if words.len() < FEWEST_WORDS {
        return 0.0;
    }
    let mut counts: HashMap<u64, (usize, usize), Hashed> =
        HashMap::with_capacity_and_hasher(words.len(), Hashed::default());
    for (hash, ngram) in ngram_hashes(&words, TOP_NGRAM).zip(words.windows(TOP_NGRAM)) {
        let entry = counts.entry(hash).or_insert_with(|| (0, length(ngram)));
        entry.0 += 1;
    }
    let repeated = counts.values().filter(|(count, _)| *count > 1).map(|(count, length)| count * length);
    share(repeated.max().unwrap_or(0), length(&words)).min(1.0)
}

/// The share of characters in sequences of ten words that stood in the text before, none counted twice.
pub fn duplicate_ngram_share(text: &str) -> f64 {
    let words = words(text);
    let mut seen: HashSet<u64, Hashed> = HashSet::with_capacity_and_hasher(words.len(), Hashed::default());
    let (mut repeated, mut next) = (0, 0);
    for (start, hash) in ngram_hashes(&words, DUPLICATE_NGRAM).enumerate() {
        // Within a repeated sequence none is looked at again.
        if start >= next && !seen.insert(hash) {
            repeated += length(&words[start..start + DUPLICATE_NGRAM]);
            next = start + DUPLICATE_NGRAM;
        }
    }
    share(repeated, length(&words))
}

struct Word {
    hash: u64,
    characters: usize,
}

/// The multiplier of the hash FNV-1a.
const PRIME: u64 = 0x100_0000_01b3;
/// Any odd number of many bits.
const BASE: u64 = 0x9e37_79b9_7f4a_7c15;

fn words(text: &str) -> Vec<Word> {
    let mut words: Vec<Word> = Vec::with_capacity(text.len() / 3);
    let mut is_open = false;
    for character in text.chars() {
        let is_alone = is_cjk(character);
        // The table of letters is slow to ask for the most frequent ones.
        let is_word = matches!(character, '\u{4e00}'..='\u{9fff}') || character.is_alphanumeric();
        let code = u64::from(u32::from(character));
        match words.last_mut() {
            Some(word) if is_open && is_word && !is_alone => {
                word.hash = (word.hash ^ code).wrapping_mul(PRIME);
                word.characters += 1;
            }
            _ if is_word => {
                words.push(Word { hash: (BASE ^ code).wrapping_mul(PRIME), characters: 1 });
            }
            _ => {}
        }
        is_open = is_word && !is_alone;
    }
    words
}

/// A hash for each `n` words that follow each other: a polynomial in [`BASE`], moved on by one word at a time.
fn ngram_hashes(words: &[Word], n: usize) -> impl Iterator<Item = u64> {
    let highest = (0..n).fold(1_u64, |power, _| power.wrapping_mul(BASE));
    let mut hash = 0_u64;
    words.iter().enumerate().filter_map(move |(index, word)| {
        hash = hash.wrapping_mul(BASE).wrapping_add(word.hash);
        if let Some(left) = index.checked_sub(n) {
            hash = hash.wrapping_sub(words[left].hash.wrapping_mul(highest));
        }
        (index + 1 >= n).then_some(hash)
    })
}

/// For keys that are hashes already.
type Hashed = BuildHasherDefault<Mixed>;

#[derive(Default)]
struct Mixed(u64);

impl Hasher for Mixed {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, key: u64) {
        let mixed = (self.0 ^ key).wrapping_mul(BASE);
        self.0 = mixed ^ (mixed >> 32);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

fn length(words: &[Word]) -> usize {
    words.iter().map(|word| word.characters).sum()
}

fn share(part: usize, all: usize) -> f64 {
    if all == 0 { 0.0 } else { part as f64 / all as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_lines_are_measured_in_characters() {
        assert_eq!(duplicate_line_share("首页\n正文六个字呀\n首页\n 首页 \n\n\n"), 4.0 / 12.0);
        assert_eq!(duplicate_line_share(""), 0.0);
    }

    #[test]
    fn ngrams_are_of_words_or_chinese_characters() {
        assert_eq!(top_ngram_share(&"点击这里，".repeat(25)), 1.0);
        assert_eq!(top_ngram_share(&"点击这里，".repeat(24)), 0.0);
        let different: String = ('一'..).take(92).collect();
        assert_eq!(top_ngram_share(&format!("{different}，数控机床。数控机床")), 0.08);
        assert_eq!(top_ngram_share(&format!("{different}，数控机床。数控，机器")), 0.0);
        let phrase = "一二三四五六七八九十";
        assert_eq!(duplicate_ngram_share(&format!("{phrase}，{phrase}")), 0.5);
        assert_eq!(duplicate_ngram_share(phrase), 0.0);
        let words: Vec<usize> = words("GB18030车床ab").iter().map(|word| word.characters).collect();
        assert_eq!(words, [7, 1, 1, 2]);
    }
}
