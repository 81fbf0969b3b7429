//! Sentencepiece's unigram model: the cut whose pieces are together most probable (Viterbi).

use std::ops::Range;

use super::{NORMAL, Piece, SentencePiece, UNUSED, USER_DEFINED};

/// How much less probable than the rarest piece a character is that is in none.
const UNKNOWN_PENALTY: f32 = 10.0;

/// The best cut of the text up to somewhere.
#[derive(Clone, Copy)]
struct Best {
    start: usize,
    score: f32,
    id: Option<u32>,
}

/// Lowest and highest score of normal pieces.
pub(super) fn bounds(table: &[Piece]) -> (f32, f32) {
    let scores = table.iter().filter(|piece| piece.kind == NORMAL).map(|piece| piece.score);
    scores.fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), score| (low.min(score), high.max(score)))
}

/// The pieces of a normalized text, in order; `None` where a character is in no piece.
pub(super) fn cut(model: &SentencePiece, text: &str) -> Vec<(Range<usize>, Option<u32>)> {
    let best = best_ends(model, text);
    let mut cut = Vec::new();
    let mut end = text.len();
    while let Some(Best { start, id, .. }) = best[end].filter(|_| end > 0) {
        cut.push((start..end, id));
        end = start;
    }
    cut.reverse();
    cut
}

/// The score of the best cut.
pub(super) fn best_score(model: &SentencePiece, text: &str) -> f32 {
    best_ends(model, text)[text.len()].map_or(0.0, |best| best.score)
}

/// The best cuts up to each end of a character.
fn best_ends(model: &SentencePiece, text: &str) -> Vec<Option<Best>> {
    let (lowest, highest) = model.bounds;
    let mut best: Vec<Option<Best>> = vec![None; text.len() + 1];
    for (start, character) in text.char_indices() {
        let before = best[start].map_or(0.0, |best| best.score);
        let mut reach = |end: usize, score: f32, id: Option<u32>| {
            let score = score + before;
            if best[end].is_none_or(|best| score > best.score) {
                best[end] = Some(Best { start, score, id });
            }
        };
        let mut is_known = false;
        for (count, (at, character)) in text[start..].char_indices().enumerate() {
            if count == model.longest {
                break;
            }
            let end = start + at + character.len_utf8();
            let Some(&id) = model.pieces.get(&text[start..end]) else { continue };
            let Piece { score, kind } = model.table[id as usize];
            let score = match kind {
                UNUSED => continue,
                // Never worse than pieces of single characters.
                USER_DEFINED => (count + 1) as f32 * highest - 0.1,
                _ => score,
            };
            is_known |= count == 0;
            reach(end, score, Some(id));
        }
        if !is_known {
            reach(start + character.len_utf8(), lowest - UNKNOWN_PENALTY, None);
        }
    }
    best
}
