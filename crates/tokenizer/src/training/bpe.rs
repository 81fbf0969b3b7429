//! Byte pair encoding: the pair of neighbours that occurs most often becomes a token, again and again.
//!
//! Counts have 64 bits, and a pair remembers the words it is in as a plain list. Knows nothing of scripts or files.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::hash::BuildHasherDefault;

use super::symbols::{PairHasher, SymbolWords, Word};

/// Which of several pairs that occur equally often comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ties {
    /// The one of lower ids, as in the `tokenizers` crate.
    Ids,
    /// The shorter one, then the one whose text sorts first, as in sentencepiece.
    Text,
}

type Pair = (u32, u32);

/// A pair and where it is.
#[derive(Default)]
struct Occurrences {
    count: u64,
    /// The last merge that added to it.
    changed: u32,
    words: Vec<u32>,
}

struct Candidate {
    count: u64,
    /// Length and text where these decide.
    text: Option<(usize, Box<str>)>,
    pair: Pair,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_count = self.count.cmp(&other.count);
        by_count.then_with(|| other.text.cmp(&self.text)).then_with(|| other.pair.cmp(&self.pair))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

type Pairs = HashMap<Pair, Occurrences, BuildHasherDefault<PairHasher>>;

/// The merges in order. New tokens are added to `tokens`, which holds the symbols, until there are `size`; fewer where
/// no pair is left that occurs `least` times.
///
/// With [`Ties::Text`] a text is a token by one pair only, and pairs that ended up inside of longer tokens everywhere
/// come last, without a merge: text elsewhere may have them.
pub(super) fn merge(
    words: SymbolWords,
    tokens: &mut Vec<String>,
    size: usize,
    least: u64,
    ties: Ties,
    progress: &mut dyn FnMut(usize),
) -> Vec<(Pair, u32)> {
    let SymbolWords { mut symbols, mut words } = words;
    let mut ids: HashMap<String, u32> =
        (0..).zip(tokens.iter()).map(|(id, token)| (token.clone(), id)).collect();
    let mut pairs = count_pairs(&symbols, &words);
    let candidate = |pair: Pair, count: u64, tokens: &[String]| {
        let text = || {
            let text = joined(pair, tokens);
            (text.chars().count(), text.into_boxed_str())
        };
        Candidate { count, text: (ties == Ties::Text).then(text), pair }
    };
    let wanted = pairs.iter().filter(|(_, occurrences)| occurrences.count >= least);
    let mut queue: BinaryHeap<Candidate> =
        wanted.map(|(pair, occurrences)| candidate(*pair, occurrences.count, tokens)).collect();
    let mut merges: Vec<(Pair, u32)> = Vec::new();
    let mut changed: Vec<Pair> = Vec::new();
    while tokens.len() < size {
        let Some(mut top) = queue.pop() else { break };
        let Some(occurrences) = pairs.get_mut(&top.pair) else { continue };
        if occurrences.count != top.count {
            top.count = occurrences.count;
            if top.count >= least {
                queue.push(top);
            }
            continue;
        }
        let text = joined(top.pair, tokens);
        let id = match ids.get(&text) {
            Some(_) if ties == Ties::Text => continue,
            Some(id) => *id,
            None => {
                let id = tokens.len() as u32;
                tokens.push(text.clone());
                ids.insert(text, id);
                id
            }
        };
        occurrences.count = 0;
        let places = std::mem::take(&mut occurrences.words);
        merges.push((top.pair, id));
        let now = merges.len() as u32;
        for &place in &places {
            let Word { start, length, count } = &mut words[place as usize];
            let word = &mut symbols[*start..][..*length as usize];
            *length = merge_in(word, top.pair, id, &mut |pair, is_new| {
                if !is_new {
                    if let Some(occurrences) = pairs.get_mut(&pair) {
                        // The pair that is being merged was set to zero.
                        occurrences.count = occurrences.count.saturating_sub(*count);
                        if occurrences.count == 0 {
                            occurrences.words = Vec::new();
                        }
                    }
                    return;
                }
                let occurrences = pairs.entry(pair).or_default();
                occurrences.count += *count;
                if occurrences.words.last() != Some(&place) {
                    occurrences.words.push(place);
                }
                if occurrences.changed != now {
                    occurrences.changed = now;
                    changed.push(pair);
                }
            });
        }
        for pair in changed.drain(..) {
            let count = pairs.get(&pair).map_or(0, |occurrences| occurrences.count);
            if count >= least {
                queue.push(candidate(pair, count, tokens));
            }
        }
        progress(tokens.len());
    }
    if ties == Ties::Text && tokens.len() < size {
        let rest = pairs.keys().map(|&pair| joined(pair, tokens)).filter(|text| !ids.contains_key(text));
        let mut rest: Vec<(usize, String)> = rest.map(|text| (text.chars().count(), text)).collect();
        rest.sort_unstable();
        rest.dedup();
        rest.truncate(size - tokens.len());
        tokens.extend(rest.into_iter().map(|(_, text)| text));
    }
    merges
}

fn joined((left, right): Pair, tokens: &[String]) -> String {
    [tokens[left as usize].as_str(), tokens[right as usize].as_str()].concat()
}

fn count_pairs(symbols: &[u32], words: &[Word]) -> Pairs {
    let neighbours = |word: &Word| {
        let word = &symbols[word.start..][..word.length as usize];
        word.windows(2).map(|pair| (pair[0], pair[1]))
    };
    let mut pairs = Pairs::default();
    // How many places there will be, so that the lists are not longer than they need be.
    for word in words {
        for pair in neighbours(word) {
            let occurrences = pairs.entry(pair).or_default();
            occurrences.count += word.count;
            occurrences.changed += 1;
        }
    }
    for occurrences in pairs.values_mut() {
        occurrences.words.reserve_exact(occurrences.changed as usize);
        occurrences.changed = 0;
    }
    for (place, word) in (0..).zip(words) {
        for pair in neighbours(word) {
            if let Some(occurrences) = pairs.get_mut(&pair)
                && occurrences.words.last() != Some(&place)
            {
                occurrences.words.push(place);
            }
        }
    }
    pairs
}

/// Merges a pair in a word and returns its new length; says which pairs of neighbours went (false) and came (true).
fn merge_in(word: &mut [u32], pair: Pair, id: u32, change: &mut dyn FnMut(Pair, bool)) -> u32 {
    let (mut from, mut to) = (0, 0);
    while from < word.len() {
        if from + 1 < word.len() && (word[from], word[from + 1]) == pair {
            if to > 0 {
                change((word[to - 1], pair.0), false);
                change((word[to - 1], id), true);
            }
            if let Some(&next) = word.get(from + 2) {
                change((pair.1, next), false);
                change((id, next), true);
            }
            word[to] = id;
            from += 2;
        } else {
            word[to] = word[from];
            from += 1;
        }
        to += 1;
    }
    to as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::Model;
    use tokenizers::models::bpe::{BPE, BpeTrainer};
    use tokenizers::tokenizer::Trainer;

    /// Words over few letters, so that pairs repeat and counts are often equal.
    fn corpus() -> Vec<String> {
        let mut state = 1_u32;
        let mut next = |below: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) % below
        };
        let word = |next: &mut dyn FnMut(u32) -> u32| {
            (0..2 + next(7)).map(|_| char::from(b'a' + next(4) as u8)).collect()
        };
        (0..400).map(|_| word(&mut next)).collect()
    }

    #[test]
    fn the_tokens_are_those_of_the_tokenizers_crate() {
        let mut trainer = BpeTrainer::builder().vocab_size(150).min_frequency(2).show_progress(false).build();
        trainer.feed(corpus().iter(), |word| Ok(vec![word.to_owned()])).unwrap();
        let mut model = BPE::default();
        trainer.train(&mut model).unwrap();
        let mut tokens: Vec<String> = ["a", "b", "c", "d"].map(str::to_owned).into();
        let mut words = SymbolWords::default();
        for word in corpus() {
            words.push(word.bytes().map(|byte| u32::from(byte - b'a')), 1);
        }
        merge(words, &mut tokens, 150, 2, Ties::Ids, &mut |_| {});
        assert!(tokens.len() > 100);
        let expected: Vec<String> =
            (0..tokens.len()).map(|id| model.id_to_token(id as u32).unwrap()).collect();
        assert_eq!(tokens, expected);
    }

    #[test]
    fn what_overlaps_itself_is_counted_right() {
        let mut tokens = vec!["a".to_owned()];
        let mut words = SymbolWords::default();
        words.push([0; 7], 3);
        merge(words, &mut tokens, 9, 1, Ties::Ids, &mut |_| {});
        assert_eq!(tokens, ["a", "aa", "aaaa", "aaa", "aaaaaaa"]);
    }
}
