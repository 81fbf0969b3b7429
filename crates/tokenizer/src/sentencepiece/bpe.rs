//! Sentencepiece's BPE: of all neighbours that together are a piece, the pair of the highest score is joined first, of
//! equal ones the leftmost.
//!
//! Ranked merges cannot say this: appended pieces often have one score together, so that only places decide.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::ops::Range;

use super::{Piece, SentencePiece, UNUSED};

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

/// The pieces of a normalized text, in order; `None` where a stretch is no piece.
pub(super) fn cut_stretches(model: &SentencePiece, text: &str) -> Vec<(Range<usize>, Option<u32>)> {
    let mut pieces = Vec::with_capacity(text.len() / 3);
    for (start, stretch) in model.neighbours.stretches(text) {
        let mut characters = stretch.char_indices().skip(1);
        let (second, third) = (characters.next(), characters.next());
        let whole = model.pieces.get(stretch).copied();
        let is_plain =
            model.user_defined.is_empty() && whole.is_none_or(|id| model.table[id as usize].kind != UNUSED);
        match (second, third) {
            (None, _) => pieces.push((start..start + stretch.len(), whole)),
            (Some(_), None) if is_plain && whole.is_some() => {
                pieces.push((start..start + stretch.len(), whole));
            }
            (Some((second, _)), None) if is_plain => {
                for range in [0..second, second..stretch.len()] {
                    let id = model.pieces.get(&stretch[range.clone()]).copied();
                    pieces.push((start + range.start..start + range.end, id));
                }
            }
            _ => {
                let cut = cut(model, stretch).into_iter();
                pieces.extend(cut.map(|(range, id)| (start + range.start..start + range.end, id)));
            }
        }
    }
    pieces
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
