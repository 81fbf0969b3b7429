//! How similar two strings are: `fuzz.ratio` of `fuzzywuzzy` with Python's own `difflib` below it.
//!
//! Where python-Levenshtein is installed, `fuzzywuzzy` uses it in place of `difflib` and gives other numbers; LongBench does not ask
//! for it, and neither is it done here.

use std::collections::HashMap;

/// Elements after which `difflib` leaves out what occurs often.
const MANY: usize = 200;

/// `fuzz.ratio`, 0 to 100.
#[must_use]
pub fn fuzzy_ratio(one: &str, other: &str) -> f64 {
    if one == other {
        return 100.0;
    }
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    if one.is_empty() || other.is_empty() {
        return 0.0;
    }
    (100.0 * sequence_ratio(&one, &other)).round_ties_even()
}

/// `difflib.SequenceMatcher(None, one, other).ratio()`, 0 to 1: twice the length of the matching blocks over that of both.
#[must_use]
pub fn sequence_ratio(one: &[char], other: &[char]) -> f64 {
    let length = one.len() + other.len();
    if length == 0 {
        return 1.0;
    }
    let places = places(other);
    let mut waiting = vec![(0, one.len(), 0, other.len())];
    let mut matches = 0;
    while let Some((start, end, other_start, other_end)) = waiting.pop() {
        let Some(block) = longest_block(one, start..end, other, other_start..other_end, &places) else {
            continue;
        };
        matches += block.length;
        let (after, other_after) = (block.start + block.length, block.other_start + block.length);
        if start < block.start && other_start < block.other_start {
            waiting.push((start, block.start, other_start, block.other_start));
        }
        if after < end && other_after < other_end {
            waiting.push((after, end, other_after, other_end));
        }
    }
    2.0 * matches as f64 / length as f64
}

/// Where each character occurs, but for those that are too frequent in a long text.
fn places(text: &[char]) -> HashMap<char, Vec<usize>> {
    let mut places: HashMap<char, Vec<usize>> = HashMap::new();
    for (index, character) in text.iter().enumerate() {
        places.entry(*character).or_default().push(index);
    }
    if text.len() >= MANY {
        places.retain(|_, indices| indices.len() <= text.len() / 100 + 1);
    }
    places
}

struct Block {
    start: usize,
    other_start: usize,
    length: usize,
}

/// The longest stretch that both ranges have, the first of equals; it begins at a character that is not too frequent, if there is
/// one, and is then made longer at both ends by any characters.
fn longest_block(
    one: &[char],
    range: std::ops::Range<usize>,
    other: &[char],
    other_range: std::ops::Range<usize>,
    places: &HashMap<char, Vec<usize>>,
) -> Option<Block> {
    let mut best = Block { start: range.start, other_start: other_range.start, length: 0 };
    // By the last place in the other text: how long the stretch is that ends there and at the character before.
    let mut lengths: HashMap<usize, usize> = HashMap::new();
    for index in range.clone() {
        let mut longer = HashMap::new();
        let indices = places.get(&one[index]).map_or(&[][..], Vec::as_slice);
        for &other_index in indices.iter().filter(|index| other_range.contains(index)) {
            let before = other_index.checked_sub(1).and_then(|before| lengths.get(&before));
            let length = before.unwrap_or(&0) + 1;
            longer.insert(other_index, length);
            if length > best.length {
                best = Block { start: index + 1 - length, other_start: other_index + 1 - length, length };
            }
        }
        lengths = longer;
    }
    while best.start > range.start
        && best.other_start > other_range.start
        && one[best.start - 1] == other[best.other_start - 1]
    {
        best = Block { start: best.start - 1, other_start: best.other_start - 1, length: best.length + 1 };
    }
    while best.start + best.length < range.end
        && best.other_start + best.length < other_range.end
        && one[best.start + best.length] == other[best.other_start + best.length]
    {
        best.length += 1;
    }
    (best.length > 0).then_some(best)
}
