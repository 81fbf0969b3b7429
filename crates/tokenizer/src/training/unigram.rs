//! Unigram: from all repeated strings down to those that explain the words best (Kudo 2018, as sentencepiece does it).
//!
//! Expectation-maximisation gives each piece its probability; then the pieces whose loss costs least are dropped, and
//! so on. Words are short, so that probabilities of whole words need no logarithms. Sums run over fixed stretches of
//! the words and are added in order: threads do not change the result.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use rayon::prelude::*;

use super::symbols::{PairHasher, SymbolWords, Word};
use super::word_splitter::LONGEST_PIECE as LONGEST;

/// Pieces to begin with.
const SEEDS: usize = 1_000_000;
/// Rounds of expectation-maximisation before pieces are dropped.
const ROUNDS: usize = 2;
/// What is left of the pieces each time.
const SHRINKING: f64 = 0.75;
/// A piece that is expected less often goes at once.
const LEAST_EXPECTED: f64 = 0.5;
/// Stretches of words whose sums are made apart.
const STRETCHES: usize = 8;
const NONE: u32 = u32::MAX;

type Children = HashMap<(u32, u32), u32, BuildHasherDefault<PairHasher>>;

/// A piece, and how often it occurs or is expected to.
#[derive(Clone)]
struct Piece {
    symbols: Box<[u32]>,
    count: f64,
}

/// At most `size` pieces with the logarithms of their probabilities, most probable first; all single symbols, which are
/// 0 to `alphabet`, are among them.
pub(super) fn train(
    words: &SymbolWords,
    alphabet: usize,
    size: usize,
    progress: &mut dyn FnMut(usize),
) -> Vec<(Box<[u32]>, f64)> {
    let mut pieces = seeds(words, alphabet);
    // A few more than wanted stay to the end, where the best are taken.
    let enough = size.saturating_add(size / 10);
    let mut model = Model::new(pieces, alphabet);
    loop {
        for _ in 0..ROUNDS {
            model = Model::new(model.expected(words), alphabet);
        }
        let before = model.pieces.len();
        progress(before);
        if before <= enough {
            break;
        }
        pieces = model.pruned(words, ((before as f64 * SHRINKING) as usize).max(enough));
        let is_smaller = pieces.len() < before;
        model = Model::new(pieces, alphabet);
        if !is_smaller {
            break;
        }
    }
    let mut order: Vec<usize> = (0..model.pieces.len()).collect();
    let by_score = |one: &usize, other: &usize| {
        let symbols = |&piece: &usize| &model.pieces[piece].symbols;
        let by_score = model.scores[*other].total_cmp(&model.scores[*one]);
        by_score.then_with(|| symbols(one).cmp(symbols(other)))
    };
    order.sort_unstable_by(by_score);
    let mut room = size.saturating_sub(alphabet);
    order.retain(|&piece| {
        let is_single = piece < alphabet;
        let stays = is_single || room > 0;
        room -= usize::from(stays && !is_single);
        stays
    });
    order.into_iter().map(|piece| (model.pieces[piece].symbols.clone(), model.scores[piece])).collect()
}

/// Strings that occur at least twice and not always within the same longer one, by the text that they cover.
fn seeds(words: &SymbolWords, alphabet: usize) -> Vec<Piece> {
    struct Node {
        parent: u32,
        symbol: u32,
        length: u32,
        count: u64,
        is_inside: bool,
    }
    let mut nodes: Vec<Node> = (0..alphabet as u32)
        .map(|symbol| Node { parent: NONE, symbol, length: 1, count: 0, is_inside: false })
        .collect();
    for word in &words.words {
        words.of(word).iter().for_each(|&symbol| nodes[symbol as usize].count += word.count);
    }
    // The string of the present length that begins at each place.
    let mut places = words.symbols.clone();
    for length in 1..LONGEST as u32 {
        let mut counts: HashMap<(u32, u32), u64, BuildHasherDefault<PairHasher>> = HashMap::default();
        let longer = |places: &[u32], word: &Word, at: usize| {
            let next = words.symbols.get(word.start + at + length as usize).copied()?;
            let place = word.start + at;
            // A string occurs no more often than its parts.
            (at + (length as usize) < word.length as usize
                && places[place] != NONE
                && places[place + 1] != NONE)
                .then_some((places[place], next))
        };
        for word in &words.words {
            let keys = (0..word.length as usize).filter_map(|at| longer(&places, word, at));
            keys.for_each(|key| *counts.entry(key).or_default() += word.count);
        }
        let mut found: Vec<((u32, u32), u64)> = counts.drain().filter(|&(_, count)| count > 1).collect();
        drop(counts);
        if found.is_empty() {
            break;
        }
        found.sort_unstable();
        let mut ids = Children::with_capacity_and_hasher(found.len(), BuildHasherDefault::default());
        for (key, count) in found {
            let (parent, symbol) = key;
            nodes[parent as usize].is_inside |= nodes[parent as usize].count == count;
            ids.insert(key, nodes.len() as u32);
            nodes.push(Node { parent, symbol, length: length + 1, count, is_inside: false });
        }
        for word in &words.words {
            for at in 0..word.length as usize {
                let key = longer(&places, word, at);
                places[word.start + at] = key.and_then(|key| ids.get(&key)).map_or(NONE, |&id| id);
            }
        }
    }
    let cover = |&node: &u32| Reverse(nodes[node as usize].count * u64::from(nodes[node as usize].length));
    let mut best: Vec<u32> = (alphabet as u32..nodes.len() as u32).collect();
    best.retain(|&node| !nodes[node as usize].is_inside);
    // Ties stay in the order of the strings' lengths and symbols.
    best.sort_by_key(cover);
    best.truncate(SEEDS.saturating_sub(alphabet));
    let piece = |node: u32| {
        let Reverse(cover) = cover(&node);
        let mut symbols = Vec::with_capacity(nodes[node as usize].length as usize);
        let mut at = node;
        while at != NONE {
            symbols.push(nodes[at as usize].symbol);
            at = nodes[at as usize].parent;
        }
        symbols.reverse();
        Piece { symbols: symbols.into(), count: cover as f64 }
    };
    (0..alphabet as u32).chain(best).map(piece).collect()
}

/// Pieces with their probabilities; the single symbols come first.
struct Model {
    pieces: Vec<Piece>,
    scores: Vec<f64>,
    probabilities: Vec<f64>,
    alphabet: usize,
    /// A tree of the pieces: its first nodes are the single symbols.
    children: Children,
    piece_of: Vec<u32>,
}

/// A piece in a word.
#[derive(Clone, Copy)]
struct Edge {
    from: usize,
    to: usize,
    piece: usize,
}

impl Model {
    /// Probabilities from how often the pieces occur; pieces that hardly do are dropped.
    fn new(mut pieces: Vec<Piece>, alphabet: usize) -> Self {
        let mut index = 0;
        pieces.retain_mut(|piece| {
            index += 1;
            let is_single = index <= alphabet;
            if is_single {
                piece.count = piece.count.max(LEAST_EXPECTED);
            }
            is_single || piece.count >= LEAST_EXPECTED
        });
        let sum = digamma(pieces.iter().map(|piece| piece.count).sum());
        let scores: Vec<f64> = pieces.iter().map(|piece| digamma(piece.count) - sum).collect();
        let probabilities = scores.iter().map(|score| score.exp()).collect();
        let mut children =
            Children::with_capacity_and_hasher(pieces.len() * 5 / 4, BuildHasherDefault::default());
        let mut piece_of: Vec<u32> = (0..alphabet as u32).collect();
        for (id, piece) in (0..).zip(&pieces).skip(alphabet) {
            let mut node = piece.symbols[0];
            for &symbol in &piece.symbols[1..] {
                node = *children.entry((node, symbol)).or_insert_with(|| {
                    piece_of.push(NONE);
                    piece_of.len() as u32 - 1
                });
            }
            piece_of[node as usize] = id;
        }
        Self { pieces, scores, probabilities, alphabet, children, piece_of }
    }

    /// All pieces in a word, by where they begin.
    fn edges(&self, word: &[u32], edges: &mut Vec<Edge>) {
        edges.clear();
        for (from, &symbol) in word.iter().enumerate() {
            let mut node = symbol;
            for to in from + 1.. {
                let piece = self.piece_of[node as usize];
                if piece != NONE {
                    edges.push(Edge { from, to, piece: piece as usize });
                }
                let next = word.get(to).and_then(|&symbol| self.children.get(&(node, symbol)));
                let Some(&next) = next else { break };
                node = next;
            }
        }
    }

    /// The sums over stretches of the words of what `each` adds for a word.
    fn sum<T: Copy + Default + Send + std::ops::AddAssign>(
        &self,
        words: &SymbolWords,
        each: impl Fn(&[u32], u64, &mut Vec<Edge>, &mut [T]) + Sync,
    ) -> Vec<T> {
        let stretch = words.words.len().div_ceil(STRETCHES).max(1);
        let sums: Vec<Vec<T>> = words
            .words
            .par_chunks(stretch)
            .map(|stretch| {
                let mut sum = vec![T::default(); self.pieces.len()];
                let mut edges = Vec::new();
                for word in stretch {
                    each(words.of(word), word.count, &mut edges, &mut sum);
                }
                sum
            })
            .collect();
        let mut all = vec![T::default(); self.pieces.len()];
        for sum in sums {
            all.iter_mut().zip(sum).for_each(|(all, part)| *all += part);
        }
        all
    }

    /// The pieces with how often each is expected in the words, over all ways to cut them.
    fn expected(self, words: &SymbolWords) -> Vec<Piece> {
        let expected = self.sum(words, |word, count, edges, sum: &mut [f64]| {
            self.edges(word, edges);
            let mut before = [0.0; LONGEST + 1];
            let mut after = [0.0; LONGEST + 1];
            before[0] = 1.0;
            after[word.len()] = 1.0;
            for &Edge { from, to, piece } in edges.iter() {
                before[to] += before[from] * self.probabilities[piece];
            }
            let scale = count as f64 / before[word.len()];
            for &Edge { from, to, piece } in edges.iter().rev() {
                let share = self.probabilities[piece] * after[to];
                after[from] += share;
                sum[piece] += before[from] * share * scale;
            }
        });
        let pieces = self.pieces.into_iter().zip(expected);
        pieces.map(|(piece, count)| Piece { count, ..piece }).collect()
    }

    /// The best cut; without the piece that is the whole word if `is_split`.
    fn best(&self, word: &[u32], is_split: bool, edges: &mut Vec<Edge>, mut each: impl FnMut(usize)) -> f64 {
        self.edges(word, edges);
        let mut best = [(f64::NEG_INFINITY, 0, 0); LONGEST + 1];
        best[0].0 = 0.0;
        for &Edge { from, to, piece } in edges.iter() {
            let score = best[from].0 + self.scores[piece];
            if score > best[to].0 && !(is_split && to - from == word.len()) {
                best[to] = (score, from, piece);
            }
        }
        let mut at = word.len();
        while at > 0 {
            let (_, from, piece) = best[at];
            each(piece);
            at = from;
        }
        best[word.len()].0
    }

    /// The `size` pieces whose loss would cost most, and those that nothing can stand for.
    fn pruned(self, words: &SymbolWords, size: usize) -> Vec<Piece> {
        let used = self.sum(words, |word, count, edges, sum: &mut [u64]| {
            self.best(word, false, edges, |piece| sum[piece] += count);
        });
        let all: u64 = used.iter().sum();
        let log_all = (all as f64).ln();
        let cost = |piece: usize| {
            if piece < self.alphabet {
                return f64::INFINITY;
            }
            if used[piece] == 0 {
                return 0.0;
            }
            let count = used[piece] as f64;
            let mut instead = Vec::new();
            let score =
                self.best(&self.pieces[piece].symbols, true, &mut Vec::new(), |piece| instead.push(piece));
            if score >= self.scores[piece] {
                return f64::INFINITY;
            }
            // Its share goes to the pieces that stand for it.
            let log_new = (all as f64 + count * (instead.len() - 1) as f64).ln();
            let instead: f64 = instead.iter().map(|&piece| (used[piece] as f64 + count).ln() - log_new).sum();
            count * (count.ln() - log_all - instead)
        };
        let costs: Vec<f64> = (0..self.pieces.len()).into_par_iter().map(cost).collect();
        let mut order: Vec<usize> = (0..self.pieces.len()).collect();
        order.sort_by(|&one, &other| costs[other].total_cmp(&costs[one]));
        let kept = order.iter().take_while(|&&piece| costs[piece] > 0.0).count();
        let certain = order.iter().take_while(|&&piece| costs[piece] == f64::INFINITY).count();
        order.truncate(size.min(kept).max(certain));
        let mut stays = vec![false; self.pieces.len()];
        order.into_iter().for_each(|piece| stays[piece] = true);
        self.pieces.into_iter().zip(stays).filter(|(_, stays)| *stays).map(|(piece, _)| piece).collect()
    }
}

/// The derivative of the logarithm of the gamma function, by its asymptotic series.
fn digamma(mut x: f64) -> f64 {
    let mut sum = 0.0;
    while x < 7.0 {
        sum -= x.recip();
        x += 1.0;
    }
    let square = x.powi(-2);
    sum + x.ln() - 0.5 / x - square * (1.0 / 12.0 - square * (1.0 / 120.0 - square / 252.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digamma_has_its_known_values() {
        for (x, value) in
            [(0.5, -1.963_510_026_021_423_5), (1.0, -0.577_215_664_901_532_9), (100.0, 4.600_161_852_738_087)]
        {
            assert!((digamma(x) - value).abs() < 1e-7, "{x}");
        }
    }

    #[test]
    fn what_occurs_together_becomes_a_piece() {
        let mut words = SymbolWords::default();
        for count in 1..50 {
            words.push([0, 1, 2, 3 + count as u32 % 3], count);
            words.push([3 + count as u32 % 3, 3 + count as u32 % 2], 1);
        }
        let pieces = train(&words, 6, 7, &mut |_| {});
        assert_eq!(pieces.len(), 7);
        assert!(pieces.iter().any(|(symbols, _)| symbols.starts_with(&[0, 1, 2])));
        let sum: f64 = pieces.iter().map(|(_, score)| score.exp()).sum();
        assert!(sum <= 1.0 && pieces.is_sorted_by(|one, other| one.1 >= other.1));
    }
}
