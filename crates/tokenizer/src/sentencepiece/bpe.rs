//! Sentencepiece's BPE: of all neighbours that together are a piece, the pair of the highest score is joined first, of
//! equal ones the leftmost.
//!
//! Ranked merges cannot say this: appended pieces often have one score together, so that only places decide.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::hash::BuildHasher;
use std::ops::Range;

use super::{NO_PIECE, Piece, SentencePiece, UNUSED};
use crate::id_cache::IdCache;
use crate::pair_table::{Joined, PairTable};

/// A stretch of the text and its neighbours, of which the last has none behind it.
struct Symbol {
    range: Range<usize>,
    previous: Option<usize>,
    next: Option<usize>,
    /// A user-defined piece, which is joined with nothing.
    is_frozen: bool,
}

/// Two neighbours that could be joined.
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    /// Bytes of both when they met: a pair of other length is out of date.
    length: usize,
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then_with(|| other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

/// How ids are joined: all pairs that together are one of `pieces`, ranked by its score.
///
/// `characters` has the ids of single characters; those that stand only inside of pieces get one here, from [`NO_PIECE`]
/// down. `None` if such a character is beyond that table.
pub(super) fn pair_table<S: BuildHasher>(
    pieces: &HashMap<String, u32, S>,
    table: &[Piece],
    characters: &mut [u32],
) -> Option<PairTable> {
    let mut next = NO_PIECE;
    for character in pieces.keys().filter(|text| text.chars().nth(1).is_some()).flat_map(|text| text.chars())
    {
        match characters.get_mut(character as usize) {
            Some(place) if *place == NO_PIECE => {
                next -= 1;
                *place = next;
            }
            None if !pieces.contains_key(&*character.encode_utf8(&mut [0; 4])) => return None,
            _ => {}
        }
    }
    // Zero is equal to minus zero here, as it is not in a total order.
    let score = |id: u32| table[id as usize].score + 0.0;
    let mut scores: Vec<f32> = pieces.values().map(|&id| score(id)).collect();
    scores.sort_unstable_by(|one, other| other.total_cmp(one));
    scores.dedup();
    let id = |text: &str| {
        let only = text.chars().next().filter(|first| first.len_utf8() == text.len());
        let known = only.and_then(|only| characters.get(only as usize));
        known.or_else(|| pieces.get(text)).copied()
    };
    let mut joined = Vec::new();
    for (text, &whole) in pieces {
        let rank = scores.partition_point(|one| one.total_cmp(&score(whole)).is_gt()) as u32;
        for (at, _) in text.char_indices().skip(1) {
            if let (Some(left), Some(right)) = (id(&text[..at]), id(&text[at..])) {
                joined.push(Joined { pair: (left, right), rank, id: whole });
            }
        }
    }
    Some(PairTable::new(&joined))
}

/// Adds the ids of a normalized text to `ids`; `known` remembers its stretches.
pub(super) fn encode(model: &SentencePiece, text: &str, known: &mut IdCache, ids: &mut Vec<u32>) {
    model.neighbours.for_each_stretch(text, |stretch, only| match only {
        Some(character) => model.write(stretch, model.id_of(character), ids),
        None => known.extend(ids, stretch, |ids| join(model, stretch, ids)),
    });
}

/// Adds the ids of a stretch that no piece reaches out of.
fn join(model: &SentencePiece, text: &str, ids: &mut Vec<u32>) {
    if let Some(pairs) = &model.pairs {
        let start = ids.len();
        ids.extend(text.chars().map(|character| model.id_of(character)));
        pairs.join(ids, start);
        if ids[start..].iter().all(|&id| (id as usize) < model.table.len()) {
            return;
        }
        // A character that is no piece remains, which only the text can tell.
        ids.truncate(start);
    }
    for (range, id) in cut(model, text) {
        model.write(&text[range], id.unwrap_or(NO_PIECE), ids);
    }
}

/// The pieces of a stretch that no piece reaches out of.
pub(super) fn cut(model: &SentencePiece, text: &str) -> Vec<(Range<usize>, Option<u32>)> {
    let mut symbols: Vec<Symbol> = Vec::with_capacity(text.len());
    let mut start = 0;
    while let Some(character) = text[start..].chars().next() {
        let defined = model.user_defined(&text[start..]);
        let end = start + defined.unwrap_or(character.len_utf8());
        let previous = symbols.len().checked_sub(1);
        let next = Some(symbols.len() + 1);
        symbols.push(Symbol { range: start..end, previous, next, is_frozen: defined.is_some() });
        start = end;
    }
    if let Some(last) = symbols.last_mut() {
        last.next = None;
    }
    let mut agenda = BinaryHeap::new();
    // How an unused piece came about: it is taken apart again in the end.
    let mut halves: HashMap<Range<usize>, usize> = HashMap::new();
    let mut meet =
        |symbols: &[Symbol], agenda: &mut BinaryHeap<Pair>, left: Option<usize>, right: Option<usize>| {
            let (Some(left), Some(right)) = (left, right) else { return };
            let (first, second) = (&symbols[left], &symbols[right]);
            if first.is_frozen || second.is_frozen {
                return;
            }
            let range = first.range.start..second.range.end;
            if let Some(&id) = model.pieces.get(&text[range.clone()]) {
                let Piece { score, kind } = model.table[id as usize];
                // Zero is equal to minus zero here, as it is not in a total order.
                agenda.push(Pair { score: score + 0.0, left, right, length: range.len() });
                if kind == UNUSED {
                    halves.insert(range, second.range.start);
                }
            }
        };
    for right in 1..symbols.len() {
        meet(&symbols, &mut agenda, Some(right - 1), Some(right));
    }
    while let Some(Pair { left, right, length, .. }) = agenda.pop() {
        let (first, second) = (&symbols[left].range, &symbols[right].range);
        if first.is_empty() || second.is_empty() || first.len() + second.len() != length {
            continue;
        }
        let (end, next) = (second.end, symbols[right].next);
        symbols[left].range.end = end;
        symbols[left].next = next;
        symbols[right].range = end..end;
        if let Some(next) = next {
            symbols[next].previous = Some(left);
        }
        meet(&symbols, &mut agenda, symbols[left].previous, Some(left));
        meet(&symbols, &mut agenda, Some(left), next);
    }
    let mut cut = Vec::new();
    let mut waiting: Vec<Range<usize>> = Vec::new();
    for symbol in symbols.into_iter().filter(|symbol| !symbol.range.is_empty()) {
        waiting.push(symbol.range);
        while let Some(range) = waiting.pop() {
            let id = model.pieces.get(&text[range.clone()]).copied();
            let is_unused = id.is_some_and(|id| model.table[id as usize].kind == UNUSED);
            match halves.get(&range).filter(|_| is_unused) {
                Some(&middle) => waiting.extend([middle..range.end, range.start..middle]),
                None => cut.push((range, id)),
            }
        }
    }
    cut
}
