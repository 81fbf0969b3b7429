//! The output head with log-softmax: hidden states to the log-probabilities of target tokens.
//!
//! Logits exist for a chunk of positions at a time, never for all. The loss belongs to the caller, which gives its
//! derivative by each log-probability; with that known, one pass serves both directions. Beside the target a position may
//! have [`SoftTargets`], what a teacher holds for probable there.

use std::cell::RefCell;

use crate::buffer::{Buffer, View, ViewMut};
use crate::exp::exp;
use crate::linear::{Precision, Weight, linear, linear_backward_input, linear_backward_weight};
use crate::matmul::Output;
use crate::reduce::{exponentials, greatest, maximum, position, sum_of_exponentials};
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
    /// Divergence from the soft targets; 0 where there are none.
    pub divergence: f32,
}

/// What a teacher holds for probable at N positions: of each the K most probable tokens, to be imitated.
///
/// With q = softmax(ℓ / T) over the K tokens, ℓ being the teacher's log-probabilities (their sum does not matter: q is normalised
/// again), and p = softmax(logits / T) over the whole vocabulary, the divergence of a position is
/// KL(q ‖ p) = Σₖ qₖ (ln qₖ − ln pₖ), with the gradient ∂KL/∂logitᵢ = (pᵢ − qᵢ) / T.
#[derive(Clone, Copy, Debug)]
pub struct SoftTargets<'a> {
    /// The tokens, [N, K], each below V.
    pub ids: &'a [u32],
    /// log p of each by the teacher, finite, [N, K].
    pub log_probabilities: &'a [f32],
    /// T, above 0.
    pub temperature: f32,
    /// ∂loss / ∂divergence of each position, [N].
    pub coefficients: &'a [f32],
}

/// The soft targets of one position.
#[derive(Clone, Copy)]
struct SoftTarget<'a> {
    ids: &'a [u32],
    log_probabilities: &'a [f32],
    temperature: f32,
    coefficient: f32,
}

impl<'a> SoftTargets<'a> {
    fn check(&self, positions: usize) {
        let count = self.ids.len() / positions.max(1);
        assert!(self.coefficients.len() == positions && self.ids.len() == positions * count);
        assert!(self.log_probabilities.len() == self.ids.len() && self.temperature > 0.0);
        assert!(positions == 0 || count > 0);
    }

    fn at(&self, position: usize) -> SoftTarget<'a> {
        let count = self.ids.len() / self.coefficients.len();
        let range = position * count..(position + 1) * count;
        SoftTarget {
            ids: &self.ids[range.clone()],
            log_probabilities: &self.log_probabilities[range],
            temperature: self.temperature,
            coefficient: self.coefficients[position],
        }
    }
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

/// The K most probable tokens of every position among the first `among` of the vocabulary, the most probable first (of equals
/// the one with the lower id), with their log-probabilities: `ids` and `log_probabilities` are [N, K].
///
/// # Panics
/// If the shapes disagree, or `among` is less than K or more than V.
pub fn linear_most_probable<T: Value>(
    precision: Precision,
    hidden: View<T>,
    weight: Weight,
    among: usize,
    ids: &mut [u32],
    log_probabilities: &mut [f32],
) {
    let positions = hidden.0.len() / weight.inputs();
    let count = ids.len() / positions.max(1);
    assert!(ids.len() == positions * count && log_probabilities.len() == ids.len());
    assert!((count..=weight.outputs()).contains(&among) && (count > 0 || positions == 0));
    chunks(precision, hidden, weight, positions, |start, logits, _| {
        let width = weight.outputs();
        let part = start * count..(start + logits.len() / width) * count;
        let (logits, values) =
            (SharedSlice::new(logits), SharedSlice::new(&mut log_probabilities[part.clone()]));
        parallel_chunks(&mut ids[part], count, |row, ids| {
            // SAFETY: each row belongs to one task.
            let (logits, values) =
                unsafe { (logits.range(row * width, width), values.range(row * count, count)) };
            top_log_probabilities(logits, among, ids, values);
        });
    });
}

/// The same as [`linear_cross_entropy`] with the backward: `coefficients[n]` = ∂loss / ∂log p(target n), known before the forward.
///
/// dhidden [N, D] is overwritten; the weight's gradient is added to `dweight`.
/// ∂loss/∂logits = coefficient · (one-hot(target) − softmax), and what [`SoftTargets`] say where there are some.
#[allow(clippy::too_many_arguments)]
pub fn linear_cross_entropy_backward<T: Value>(
    precision: Precision,
    hidden: View<T>,
    weight: Weight,
    targets: &[u32],
    coefficients: &[f32],
    soft: Option<SoftTargets>,
    scores: &mut [Score],
    dhidden: ViewMut<f32>,
    mut dweight: WeightGradient,
) {
    assert!(coefficients.len() == targets.len() && dhidden.0.len() == hidden.0.len());
    if let Some(soft) = soft {
        soft.check(targets.len());
    }
    let (vocabulary, width) = (weight.outputs(), weight.inputs());
    chunks(precision, hidden, weight, targets.len(), |start, logits, hidden| {
        let count = logits.len() / vocabulary;
        let scores = &mut scores[start..start + count];
        let shared = SharedSlice::new(&mut *logits);
        parallel_chunks(scores, 1, |row, score| {
            // SAFETY: each row belongs to one task.
            let logits = unsafe { shared.range(row * vocabulary, vocabulary) };
            let (target, coefficient) = (targets[start + row], coefficients[start + row]);
            if let Some(soft) = soft {
                score[0] = soft_gradient(logits, target, coefficient, soft.at(start + row));
                return;
            }
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
        let sum = exponentials::<FUSED>(logits, largest);
        (Score { log_probability: target_logit - largest - sum.ln(), argmax, divergence: 0.0 }, sum)
    }
}

by_cpu_level! {
    /// The log-probabilities of the most probable of the first `among` tokens.
    fn top_log_probabilities(logits: &[f32], among: usize, ids: &mut [u32], values: &mut [f32]) {
        let largest = maximum(logits);
        let shift = largest + sum_of_exponentials::<FUSED>(logits, largest, 1.0).ln();
        greatest(&logits[..among], ids, values);
        for value in values {
            *value -= shift;
        }
    }
}

by_cpu_level! {
    /// Replaces logits by ∂loss/∂logits, with soft targets beside the target.
    fn soft_gradient(logits: &mut [f32], target: u32, coefficient: f32, soft: SoftTarget) -> Score {
        let cold = 1.0 / soft.temperature;
        let largest = maximum(logits);
        let sum = sum_of_exponentials::<FUSED>(logits, largest, 1.0);
        let soft_sum = if cold == 1.0 { sum } else { sum_of_exponentials::<FUSED>(logits, largest, cold) };
        // q = exp(cold · ℓ − shift)
        let most = maximum(soft.log_probabilities);
        let shift = cold * most + sum_of_exponentials::<FUSED>(soft.log_probabilities, most, cold).ln();
        let q = |log_probability: f32| exp::<FUSED>(cold * log_probability - shift);
        let mut divergence = soft_sum.ln();
        for (&id, &log_probability) in soft.ids.iter().zip(soft.log_probabilities) {
            let log_q = cold * log_probability - shift;
            divergence += q(log_probability) * (log_q - cold * (logits[id as usize] - largest));
        }
        let score = Score {
            log_probability: logits[target as usize] - largest - sum.ln(),
            argmax: position(logits, largest) as u32,
            divergence,
        };
        let slope = soft.coefficient * cold;
        let (hard, softened) = (-coefficient / sum, slope / soft_sum);
        if cold == 1.0 {
            for logit in logits.iter_mut() {
                *logit = (hard + softened) * exp::<FUSED>(*logit - largest);
            }
        } else {
            for logit in logits.iter_mut() {
                let below = *logit - largest;
                *logit = hard * exp::<FUSED>(below) + softened * exp::<FUSED>(cold * below);
            }
        }
        logits[target as usize] += coefficient;
        for (&id, &log_probability) in soft.ids.iter().zip(soft.log_probabilities) {
            logits[id as usize] -= slope * q(log_probability);
        }
        score
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
            None,
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

        // Gradients are those of the chunks alone, one behind the other, and of the weight their sum.
        let coefficients = normals(3, positions);
        let backward = |range: std::ops::Range<usize>, dweight: &mut [f32]| {
            let rows = range.start * WIDTH..range.end * WIDTH;
            let (mut scores, mut dhidden) = (vec![Score::default(); range.len()], vec![0.0; rows.len()]);
            linear_cross_entropy_backward(
                Precision::F32,
                View(&hidden[rows]),
                head,
                &targets[range.clone()],
                &coefficients[range],
                None,
                &mut scores,
                ViewMut(&mut dhidden),
                WeightGradient::Whole(ViewMut(dweight)),
            );
            dhidden
        };
        let [mut together, mut apart] = [(); 2].map(|()| vec![0.0; weight.len()]);
        let first = positions_at_once(VOCABULARY);
        let whole = backward(0..positions, &mut together);
        assert_eq!(whole, [backward(0..first, &mut apart), backward(first..positions, &mut apart)].concat());
        assert_eq!(together, apart);
    }

    /// The K most probable tokens of each row of logits by the formula, sorted by sorting all.
    fn sorted(logits: &[f64], among: usize, count: usize) -> Vec<(u32, f64)> {
        let sum = logits.iter().map(|logit| logit.exp()).sum::<f64>().ln();
        let mut all: Vec<(u32, f64)> =
            (0..among as u32).zip(logits.iter().map(|logit| logit - sum)).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        all.truncate(count);
        all
    }

    fn logits(hidden: &[f64], weight: &[f64]) -> Vec<f64> {
        let product = |w: &[f64], h: &[f64]| w.iter().zip(h).map(|(w, h)| w * h).sum();
        hidden.chunks(WIDTH).flat_map(|h| weight.chunks(WIDTH).map(move |w| product(w, h))).collect()
    }

    #[test]
    fn the_most_probable_tokens_are_those_of_sorting_all() {
        let positions = positions_at_once(VOCABULARY) + 3;
        let (hidden, mut weight) = (normals(1, positions * WIDTH), normals(2, VOCABULARY * WIDTH));
        // Two tokens are always equal: the lower id is first.
        weight.copy_within(3 * WIDTH..4 * WIDTH, 20 * WIDTH);
        let head = Weight::new(View(&weight), VOCABULARY, WIDTH);
        let wide = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect::<Vec<_>>();
        let logits = logits(&wide(&hidden), &wide(&weight));
        for (among, count) in [(VOCABULARY, 1), (VOCABULARY, 7), (30, 30)] {
            let (mut ids, mut values) = (vec![9; positions * count], vec![9.0; positions * count]);
            linear_most_probable(Precision::F32, View(&hidden), head, among, &mut ids, &mut values);
            for (row, (ids, values)) in ids.chunks(count).zip(values.chunks(count)).enumerate() {
                let expected = sorted(&logits[row * VOCABULARY..][..VOCABULARY], among, count);
                assert!(values.is_sorted_by(|a, b| a >= b));
                for ((id, value), (expected_id, expected)) in ids.iter().zip(values).zip(expected) {
                    assert_eq!(*id, expected_id, "row {row}");
                    assert!((f64::from(*value) - expected).abs() < 1e-5, "{value} {expected}");
                }
            }
        }
    }

    #[test]
    fn soft_targets_follow_the_formula() {
        let (hidden, weight) = (normals(1, N * WIDTH), normals(2, VOCABULARY * WIDTH));
        let targets: Vec<u32> = (0..N as u32).map(|n| n * 4).collect();
        const K: usize = 5;
        let ids: Vec<u32> = (0..N * K).map(|place| ((place * 7) % VOCABULARY) as u32).collect();
        let log_probabilities = normals(4, N * K);
        let (hard, soft) = (normals(3, N), normals(5, N));
        let head = Weight::new(View(&weight), VOCABULARY, WIDTH);
        for temperature in [1.0, 2.5] {
            let cold = 1.0 / f64::from(temperature);
            // log p of the targets, then the divergences.
            let twin = |inputs: &[&[f64]]| -> Vec<f64> {
                let logits = logits(inputs[0], inputs[1]);
                let divergence = |n: usize| -> f64 {
                    let row = &logits[n * VOCABULARY..][..VOCABULARY];
                    let sum = row.iter().map(|logit| (cold * logit).exp()).sum::<f64>().ln();
                    let places = n * K..(n + 1) * K;
                    let teacher: Vec<f64> =
                        log_probabilities[places.clone()].iter().map(|&l| cold * f64::from(l)).collect();
                    let teacher_sum = teacher.iter().map(|l| l.exp()).sum::<f64>().ln();
                    let term = |(id, l): (&u32, &f64)| {
                        let log_q = l - teacher_sum;
                        log_q.exp() * (log_q - (cold * row[*id as usize] - sum))
                    };
                    ids[places].iter().zip(&teacher).map(term).sum()
                };
                twin(&targets, inputs[0], inputs[1]).into_iter().chain((0..N).map(divergence)).collect()
            };
            let mut scores = vec![Score::default(); N];
            let (mut dhidden, mut dweight) = (vec![0.0; hidden.len()], vec![0.0; weight.len()]);
            linear_cross_entropy_backward(
                Precision::F32,
                View(&hidden),
                head,
                &targets,
                &hard,
                Some(SoftTargets {
                    ids: &ids,
                    log_probabilities: &log_probabilities,
                    temperature,
                    coefficients: &soft,
                }),
                &mut scores,
                ViewMut(&mut dhidden),
                WeightGradient::Whole(ViewMut(&mut dweight)),
            );
            let found: Vec<f32> = (scores.iter().map(|score| score.log_probability))
                .chain(scores.iter().map(|score| score.divergence))
                .collect();
            close(&found, twin, &[&hidden, &weight], 1e-6);
            let both = [&hard[..], &soft].concat();
            finite_difference(twin, &[&hidden, &weight], &both, &[&dhidden, &dweight], 1e-4);
        }
    }
}
