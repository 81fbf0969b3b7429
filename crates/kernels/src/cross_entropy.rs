//! The output head with log-softmax: hidden states to the log-probabilities of target tokens.
//!
//! Logits exist for a chunk of positions at a time, never for all. The loss belongs to the caller, which gives its
//! derivative by each log-probability; with that known, one pass serves both directions.

use std::cell::RefCell;

use crate::buffer::{Buffer, View, ViewMut};
use crate::linear::{Precision, Weight, linear, linear_backward_input, linear_backward_weight};
use crate::matmul::Output;
use crate::reduce::{exponentials, maximum, position};
use crate::team::{SharedSlice, parallel_chunks};
use crate::value::Value;

/// Logits in memory at a time: 64 MiB, unless 32 positions need more.
const LOGITS: usize = 1 << 24;

thread_local! {
    static CHUNK: RefCell<Buffer<f32>> = RefCell::new(Buffer::zeros(0));
    /// Gradients of the logits of trained rows.
    static COLUMNS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// What the head says of one position.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// log p(target).
    pub log_probability: f32,
    /// The most probable token (the first of equals).
    pub argmax: u32,
}

/// Where the gradient of the head's weight goes.
pub enum WeightGradient<'a> {
    /// The weight is frozen.
    None,
    /// Added to [V, D].
    Whole(ViewMut<'a, f32>),
    /// Those of the rows of these tokens alone, added to [rows, D].
    Rows(&'a [u32], ViewMut<'a, f32>),
}

/// Positions whose logits are in memory at a time, for a vocabulary of this size.
pub fn positions_at_once(vocabulary: usize) -> usize {
    (LOGITS / vocabulary.max(1)).clamp(32, 1024)
}

/// Scores of `targets` [N] given hidden states [N, D] and the head's weight [V, D].
///
/// # Panics
/// If the shapes disagree or a target is not below V.
pub fn linear_cross_entropy<T: Value>(
    precision: Precision,
    hidden: View<T>,
    weight: Weight,
    targets: &[u32],
    scores: &mut [Score],
) {
    chunks(precision, hidden, weight, targets.len(), |start, logits, _| {
        let width = weight.outputs();
        let scores = &mut scores[start..start + logits.len() / width];
        let logits = SharedSlice::new(logits);
        parallel_chunks(scores, 1, |row, score| {
            // SAFETY: each row belongs to one task.
            let logits = unsafe { logits.range(row * width, width) };
            (score[0], _) = log_softmax(logits, targets[start + row]);
        });
    });
}

/// The same with the backward: `coefficients[n]` = ∂loss / ∂log p(target n), known before the forward.
///
/// dhidden [N, D] is overwritten; the weight's gradient is added to `dweight`.
/// ∂loss/∂logits = coefficient · (one-hot(target) − softmax).
#[allow(clippy::too_many_arguments)]
pub fn linear_cross_entropy_backward<T: Value>(
    precision: Precision,
    hidden: View<T>,
    weight: Weight,
    targets: &[u32],
    coefficients: &[f32],
    scores: &mut [Score],
    dhidden: ViewMut<f32>,
    mut dweight: WeightGradient,
) {
    assert!(coefficients.len() == targets.len() && dhidden.0.len() == hidden.0.len());
    let (vocabulary, width) = (weight.outputs(), weight.inputs());
    chunks(precision, hidden, weight, targets.len(), |start, logits, hidden| {
        let count = logits.len() / vocabulary;
        let scores = &mut scores[start..start + count];
        let shared = SharedSlice::new(&mut *logits);
        parallel_chunks(scores, 1, |row, score| {
            // SAFETY: each row belongs to one task.
            let logits = unsafe { shared.range(row * vocabulary, vocabulary) };
            let (target, coefficient) = (targets[start + row], coefficients[start + row]);
            let sum;
            (score[0], sum) = log_softmax(logits, target);
            scale(logits, -coefficient / sum);
            logits[target as usize] += coefficient;
        });
        let dlogits = View(&*logits);
        let dhidden = ViewMut(&mut dhidden.0[start * width..(start + count) * width]);
        linear_backward_input(precision, dlogits, weight, Output::Overwrite, dhidden);
        match &mut dweight {
            WeightGradient::None => {}
            WeightGradient::Whole(dweight) => {
                linear_backward_weight(precision, dlogits, hidden, [vocabulary, width], dweight.reborrow());
            }
            WeightGradient::Rows(ids, drows) => {
                COLUMNS.with_borrow_mut(|columns| {
                    columns.clear();
                    let rows = dlogits.0.chunks_exact(vocabulary);
                    columns.extend(rows.flat_map(|row| ids.iter().map(|&id| row[id as usize])));
                    let shape = [ids.len(), width];
                    linear_backward_weight(precision, View(columns), hidden, shape, drows.reborrow());
                });
            }
        }
    });
}

/// Calls `work(first position, logits, hidden)` for each chunk of positions.
fn chunks<T: Value>(
    precision: Precision,
    hidden: View<T>,
    weight: Weight,
    positions: usize,
    mut work: impl FnMut(usize, &mut [f32], View<T>),
) {
    let _timer = crate::timing::Operation::Head.start();
    let (vocabulary, width) = (weight.outputs(), weight.inputs());
    assert_eq!(hidden.0.len(), positions * width);
    let at_once = positions_at_once(vocabulary);
    CHUNK.with_borrow_mut(|memory| {
        for start in (0..positions).step_by(at_once) {
            let count = at_once.min(positions - start);
            if memory.len() < count * vocabulary {
                *memory = Buffer::zeros(count * vocabulary);
            }
            let hidden = hidden.part(start * width..(start + count) * width);
            linear(precision, hidden, weight, Output::Overwrite, memory.first_mut(count * vocabulary));
            work(start, &mut memory.host_mut()[..count * vocabulary], hidden);
        }
    });
}

by_cpu_level! {
    /// Replaces logits by exp(logit − largest); returns the target's score and the sum of the exponentials.
    fn log_softmax(logits: &mut [f32], target: u32) -> (Score, f32) {
        let largest = maximum(logits);
        let argmax = position(logits, largest) as u32;
        let target_logit = logits[target as usize];
        let sum = exponentials(logits, largest);
        (Score { log_probability: target_logit - largest - sum.ln(), argmax }, sum)
    }
}

by_cpu_level! {
    fn scale(values: &mut [f32], factor: f32) {
        for value in values {
            *value *= factor;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{close, finite_difference, normals};

    const N: usize = 9;
    const WIDTH: usize = 6;
    const VOCABULARY: usize = 37;

    fn twin(targets: &[u32], hidden: &[f64], weight: &[f64]) -> Vec<f64> {
        let log_probability = |(hidden, &target): (&[f64], &u32)| {
            let logits: Vec<f64> =
                weight.chunks(WIDTH).map(|w| w.iter().zip(hidden).map(|(w, h)| w * h).sum()).collect();
            logits[target as usize] - logits.iter().map(|logit: &f64| logit.exp()).sum::<f64>().ln()
        };
        hidden.chunks(WIDTH).zip(targets).map(log_probability).collect()
    }

    #[test]
    fn scores_and_gradients_follow_the_formula() {
        let (hidden, weight) = (normals(1, N * WIDTH), normals(2, VOCABULARY * WIDTH));
        let targets: Vec<u32> = (0..N as u32).map(|n| n * 4).collect();
        let coefficients = normals(3, N);
        let head = Weight::new(View(&weight), VOCABULARY, WIDTH);
        let twin = |inputs: &[&[f64]]| twin(&targets, inputs[0], inputs[1]);
        let mut scores = vec![Score::default(); N];
        linear_cross_entropy(Precision::F32, View(&hidden), head, &targets, &mut scores);
        let log_probabilities: Vec<f32> = scores.iter().map(|score| score.log_probability).collect();
        close(&log_probabilities, twin, &[&hidden, &weight], 1e-6);

        let mut both = vec![Score::default(); N];
        let (mut dhidden, mut dweight) = (vec![0.0; hidden.len()], vec![0.0; weight.len()]);
        linear_cross_entropy_backward(
            Precision::F32,
            View(&hidden),
            head,
            &targets,
            &coefficients,
            &mut both,
            ViewMut(&mut dhidden),
            WeightGradient::Whole(ViewMut(&mut dweight)),
        );
        assert_eq!(both, scores);
        finite_difference(twin, &[&hidden, &weight], &coefficients, &[&dhidden, &dweight], 1e-4);
    }

    #[test]
    fn more_positions_than_one_chunk_give_the_same_scores() {
        let positions = positions_at_once(VOCABULARY) + 5;
        let (hidden, weight) = (normals(1, positions * WIDTH), normals(2, VOCABULARY * WIDTH));
        let targets: Vec<u32> = (0..positions as u32).map(|n| n % VOCABULARY as u32).collect();
        let head = Weight::new(View(&weight), VOCABULARY, WIDTH);
        let mut scores = vec![Score::default(); positions];
        linear_cross_entropy(Precision::F32, View(&hidden), head, &targets, &mut scores);
        let log_probabilities: Vec<f32> = scores.iter().map(|score| score.log_probability).collect();
        close(&log_probabilities, |inputs| twin(&targets, inputs[0], inputs[1]), &[&hidden, &weight], 1e-6);
    }
}
