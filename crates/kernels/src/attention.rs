//! Causal attention over packed sequences with grouped heads: each sequence sees only itself.
//!
//! Work is cut by (sequence, key head), or by (sequence, query head) where that gives few tasks. The scores of a tile of
//! queries against the keys it sees are the only scores in memory. The backward takes the probabilities again from the
//! kept log-sum-exp. In [`Precision::Bf16`] the operands of the products are rounded, but for a few queries; sums and
//! softmax are f32.

mod one_query;

use std::cell::RefCell;
use std::ops::Range;

use crate::buffer::{Buffer, View, ViewMut};
use crate::linear::Precision;
use crate::matmul::{Method, Output, Seen, Strided};
use crate::reduce::{dot, exponentials, maximum};
use crate::team::{SharedSlice, parallel_chunks, parallel_for};
use crate::value::Value;

/// Queries of one tile: four panels of the AVX-512 BF16 product.
const TILE: usize = 56;

/// Rows of one task of the backward's δ.
const DELTA_ROWS: usize = 32;

/// Fewer tasks than this are cut further.
const FEW_TASKS: usize = 16;

/// Heads of an attention layer; queries are [T, H · E], keys and values [T, K · E].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// H.
    pub query_heads: usize,
    /// K; divides H.
    pub key_value_heads: usize,
    /// E.
    pub head_dim: usize,
}

/// What weakens or hides keys that came before a query.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Distance<'a> {
    /// A query sees only so many keys, its own the last (Beltagy et al. 2020, arXiv:2004.05150).
    pub window: Option<usize>,
    /// Each head's slope m: a score falls by m for each key further back, ALiBi (Press et al. 2021, arXiv:2108.12409);
    /// empty without.
    pub slopes: &'a [f32],
}

impl Distance<'_> {
    fn check(self, heads: Heads) {
        assert!(self.window != Some(0), "a query sees itself");
        assert!(self.slopes.is_empty() || self.slopes.len() == heads.query_heads);
    }

    /// The first of `seen` keys that is not hidden.
    fn first(self, seen: usize) -> usize {
        self.window.map_or(0, |window| seen.saturating_sub(window))
    }

    fn slope(self, head: usize) -> f32 {
        self.slopes.get(head).copied().unwrap_or(0.0)
    }
}

/// One sequence: which rows of the queries and of the keys are its own. The last query sees all its keys, each query
/// before it one key less; with a cache there are more keys than queries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Rows of the queries and of the output.
    pub queries: Range<usize>,
    /// Rows of the keys and values.
    pub keys: Range<usize>,
}

impl Sequence {
    /// Keys that precede the first query.
    pub fn past(&self) -> usize {
        self.keys.len() - self.queries.len()
    }

    /// Whether `rows` of all sequences lie one behind the other within `count`, so that no two tasks share one.
    fn are_disjoint(sequences: &[Self], count: usize, rows: impl Fn(&Self) -> &Range<usize>) -> bool {
        let ordered = sequences.windows(2).all(|pair| rows(&pair[0]).end <= rows(&pair[1]).start);
        ordered
            && sequences.iter().all(|sequence| rows(sequence).start <= rows(sequence).end)
            && sequences.last().is_none_or(|last| rows(last).end <= count)
    }
}

thread_local! {
    static SCRATCH: RefCell<Buffer<f32>> = RefCell::new(Buffer::zeros(0));
}

/// output [T, H · E] = softmax(q · kᵀ / √E) · v; keeps log Σ exp of every row in `log_sum_exp` [H, T].
///
/// # Panics
/// If the shapes disagree, sequences overlap or are out of order, or one has fewer keys than queries.
#[allow(clippy::too_many_arguments)]
pub fn attention<T: Value>(
    precision: Precision,
    heads: Heads,
    distance: Distance,
    sequences: &[Sequence],
    q: View<T>,
    k: View<T>,
    v: View<T>,
    output: ViewMut<T>,
    log_sum_exp: ViewMut<f32>,
) {
    let _timer = crate::timing::Operation::AttentionForward.start();
    let Heads { query_heads, key_value_heads, head_dim } = heads;
    let (q_width, k_width) = (query_heads * head_dim, key_value_heads * head_dim);
    let tokens = q.0.len() / q_width;
    assert!(
        q.0.len() == output.0.len() && k.0.len() == v.0.len() && log_sum_exp.0.len() == tokens * query_heads
    );
    assert!(Sequence::are_disjoint(sequences, tokens, |sequence| &sequence.queries));
    distance.check(heads);
    let scale = 1.0 / (head_dim as f32).sqrt();
    let (output, log_sum_exp) = (SharedSlice::new(output.0), SharedSlice::new(log_sum_exp.0));
    let share = heads.share(sequences.len());
    let parts = query_heads / share;
    parallel_for(sequences.len() * parts, |task| {
        let sequence = &sequences[task / parts];
        let (queries, length) = (sequence.queries.len(), sequence.keys.len());
        if queries == 0 {
            return;
        }
        let first_head = task % parts * share;
        let first_key = sequence.keys.start * k_width + heads.key_head(first_head) * head_dim;
        if queries == 1 {
            let row = sequence.queries.start;
            let (k, v) = (&k.0[first_key..], &v.0[first_key..]);
            return with_scratch([length, head_dim, 1], |[scores, result, sum]| {
                for head in first_head..first_head + share {
                    let own = row * q_width + head * head_dim;
                    one_query::scores(&q.0[own..own + head_dim], k, k_width, scale, scores);
                    // SAFETY: this token of row `head` of the log-sum-exp is this task's own.
                    let kept = unsafe { log_sum_exp.range(head * tokens + row, 1) };
                    exponentials_of_rows(
                        scores,
                        length,
                        length - 1,
                        distance,
                        distance.slope(head),
                        kept,
                        sum,
                    );
                    one_query::weighted_sum(scores, v, k_width, result);
                    // SAFETY: this head's columns of this row belong to this task.
                    narrow(result, 1.0 / sum[0], unsafe { output.range(own, head_dim) });
                }
            });
        }
        let method = Method::new(precision, queries);
        let k = Strided::rows(&k.0[first_key..], k_width).transposed();
        let v = Strided::rows(&v.0[first_key..], k_width);
        let (k_shape, v_shape) = ([head_dim, length], [length, head_dim]);
        let most = TILE.min(queries);
        let left = method.left_scratch([most, length]).max(method.left_scratch([most, head_dim]));
        let lengths = [
            method.right_scratch(k_shape),
            method.right_scratch(v_shape),
            left,
            most * length,
            most * head_dim,
            most,
        ];
        with_scratch(lengths, |[k_scratch, v_scratch, left, scores, result, sums]| {
            let (k, v) = (method.right(k, k_shape, k_scratch), method.right(v, v_shape, v_scratch));
            for (head, tile) in tiles_of(sequence, first_head..first_head + share) {
                let (rows, keys) = (tile.len(), sequence.past() + tile.end);
                let row = sequence.queries.start + tile.start;
                let (scores, result) = (&mut scores[..rows * keys], &mut result[..rows * head_dim]);
                let q = Strided::rows(&q.0[row * q_width + head * head_dim..], q_width);
                let before = sequence.past() + tile.start;
                k.product(
                    [rows, keys, head_dim],
                    scale,
                    q,
                    Seen::Columns(before),
                    Output::Overwrite,
                    scores,
                    left,
                );
                // SAFETY: row `head` of the log-sum-exp, tokens of this tile: this task's own.
                let kept = unsafe { log_sum_exp.range(head * tokens + row, rows) };
                exponentials_of_rows(scores, keys, before, distance, distance.slope(head), kept, sums);
                let p = Strided::rows(scores, keys);
                v.product(
                    [rows, head_dim, keys],
                    1.0,
                    p,
                    Seen::Depth(before),
                    Output::Overwrite,
                    result,
                    left,
                );
                for (index, result) in result.chunks_exact(head_dim).enumerate() {
                    // SAFETY: this head's columns of this tile's rows belong to this task.
                    let target = unsafe { output.range((row + index) * q_width + head * head_dim, head_dim) };
                    narrow(result, 1.0 / sums[index], target);
                }
            }
        });
    });
}

/// Gradients of q, k and v, overwritten, for sequences whose queries and keys are the same rows and which cover all.
///
/// With P the probabilities and δ = Σ dO · O per row: dV = Pᵀ·dO, dS = P · (dO·Vᵀ − δ) / √E, dQ = dS·K, dK = dSᵀ·Q.
/// `scratch` ([`Heads::backward_scratch`]) takes δ [T, H] and, where a task holds only a part of a group's heads, each
/// head's dK and dV, [2, T, H · E], which are added in order.
#[allow(clippy::too_many_arguments)]
pub fn attention_backward<T: Value>(
    precision: Precision,
    heads: Heads,
    distance: Distance,
    sequences: &[Sequence],
    [q, k, v]: [View<T>; 3],
    output: View<T>,
    log_sum_exp: View<f32>,
    doutput: View<T>,
    [dq, dk, dv]: [ViewMut<T>; 3],
    scratch: ViewMut<f32>,
) {
    let _timer = crate::timing::Operation::AttentionBackward.start();
    let Heads { query_heads, key_value_heads, head_dim } = heads;
    let (q_width, k_width) = (query_heads * head_dim, key_value_heads * head_dim);
    let tokens = q.0.len() / q_width;
    assert!(dq.0.len() == q.0.len() && dk.0.len() == k.0.len());
    assert_eq!(scratch.0.len(), tokens * heads.backward_scratch());
    assert!(Sequence::are_disjoint(sequences, tokens, |sequence| &sequence.queries));
    distance.check(heads);
    assert!(sequences.iter().all(|sequence| sequence.queries == sequence.keys));
    assert_eq!(sequences.iter().map(|sequence| sequence.keys.len()).sum::<usize>(), tokens);
    let scale = 1.0 / (head_dim as f32).sqrt();
    let group = query_heads / key_value_heads;
    let share = heads.share(sequences.len());
    let parts = query_heads / share;
    let (deltas, of_heads) = scratch.0.split_at_mut(tokens * query_heads);
    let (dk_heads, dv_heads) = of_heads.split_at_mut(of_heads.len() / 2);
    // All heads of a token at once, in the order of the memory.
    parallel_chunks(deltas, DELTA_ROWS * query_heads, |task, deltas| {
        let range = task * DELTA_ROWS * q_width..task * DELTA_ROWS * q_width + deltas.len() * head_dim;
        row_dots(&doutput.0[range.clone()], &output.0[range], head_dim, deltas);
    });
    let deltas = &*deltas;
    {
        let (dk_heads, dv_heads) = (SharedSlice::new(&mut *dk_heads), SharedSlice::new(&mut *dv_heads));
        let (dq, dk, dv) =
            (SharedSlice::new(dq.0), SharedSlice::new(&mut *dk.0), SharedSlice::new(&mut *dv.0));
        parallel_for(sequences.len() * parts, |task| {
            let sequence = &sequences[task / parts];
            let first_head = task % parts * share;
            let length = sequence.keys.len();
            if length == 0 {
                return;
            }
            let first_key = sequence.keys.start * k_width + heads.key_head(first_head) * head_dim;
            let (k, v) =
                (Strided::rows(&k.0[first_key..], k_width), Strided::rows(&v.0[first_key..], k_width));
            let method = Method::new(precision, length);
            let (across, along, most) = ([head_dim, length], [length, head_dim], TILE.min(length));
            let left = [[most, length], [length, most], [most, head_dim]];
            // Sums of a whole group go to scratch, those of one head to its place among the heads.
            let own_sums = if share < group { 0 } else { length * head_dim };
            let lengths = [
                method.right_scratch(across),
                method.right_scratch(across),
                method.right_scratch(along),
                method.right_scratch([most, head_dim]),
                left.map(|shape| method.left_scratch(shape)).into_iter().max().unwrap_or(0),
                most * length,
                most * length,
                most * head_dim,
                own_sums,
                own_sums,
            ];
            with_scratch(
                lengths,
                |[k_across, v_across, k_along, tile_scratch, left, p, ds, result, mut dk_sum, mut dv_sum]| {
                    let k_across = method.right(k.transposed(), across, k_across);
                    let v_across = method.right(v.transposed(), across, v_across);
                    let k_along = method.right(k, along, k_along);
                    if share < group {
                        let start = (first_head * tokens + sequence.keys.start) * head_dim;
                        // SAFETY: the rows of this sequence in the block of this head belong to this task.
                        [dk_sum, dv_sum] = [&dk_heads, &dv_heads]
                            .map(|heads| unsafe { heads.range(start, length * head_dim) });
                    }
                    dk_sum.fill(0.0);
                    dv_sum.fill(0.0);
                    for (head, tile) in tiles_of(sequence, first_head..first_head + share) {
                        let (rows, keys) = (tile.len(), tile.end);
                        let row = sequence.queries.start + tile.start;
                        let at = row * q_width + head * head_dim;
                        let (q, d_o) =
                            (Strided::rows(&q.0[at..], q_width), Strided::rows(&doutput.0[at..], q_width));
                        let (p, ds) = (&mut p[..rows * keys], &mut ds[..rows * keys]);
                        let shape = [rows, keys, head_dim];
                        let seen = Seen::Columns(tile.start);
                        k_across.product(shape, scale, q, seen, Output::Overwrite, p, left);
                        v_across.product(shape, 1.0, d_o, seen, Output::Overwrite, ds, left);
                        let deltas = &deltas[row * query_heads + head..];
                        let kept = &log_sum_exp.0[head * tokens + row..][..rows];
                        let slope = distance.slope(head);
                        backward_rows(
                            p,
                            ds,
                            keys,
                            tile.start,
                            distance,
                            slope,
                            kept,
                            deltas,
                            query_heads,
                            scale,
                        );
                        let (p, ds) = (Strided::rows(p, keys), Strided::rows(ds, keys));
                        for (right, left_matrix, sum) in [(d_o, p, &mut *dv_sum), (q, ds, &mut *dk_sum)] {
                            let right = method.right(right, [rows, head_dim], tile_scratch);
                            let (shape, sum) = ([keys, head_dim, rows], &mut sum[..keys * head_dim]);
                            let (left_matrix, seen) = (left_matrix.transposed(), Seen::ByColumns(tile.start));
                            right.product(shape, 1.0, left_matrix, seen, Output::Add, sum, left);
                        }
                        let result = &mut result[..rows * head_dim];
                        let (shape, seen) = ([rows, head_dim, keys], Seen::Depth(tile.start));
                        k_along.product(shape, 1.0, ds, seen, Output::Overwrite, result, left);
                        for (index, result) in result.chunks_exact(head_dim).enumerate() {
                            // SAFETY: this head's columns of this tile's rows belong to this task.
                            let target = unsafe { dq.range(at + index * q_width, head_dim) };
                            narrow(result, 1.0, target);
                        }
                    }
                    if share < group {
                        return;
                    }
                    for (sum, gradient) in [(dk_sum, &dk), (dv_sum, &dv)] {
                        for (index, sum) in sum.chunks_exact(head_dim).enumerate() {
                            // SAFETY: these heads' columns of this sequence's rows belong to this task.
                            narrow(sum, 1.0, unsafe {
                                gradient.range(first_key + index * k_width, head_dim)
                            });
                        }
                    }
                },
            );
        });
    }
    if share == group {
        return;
    }
    for (sum, heads) in [(dk, &*dk_heads), (dv, &*dv_heads)] {
        parallel_chunks(sum.0, k_width, |token, row| {
            for (key_head, sum) in row.chunks_exact_mut(head_dim).enumerate() {
                let first = key_head * group * tokens * head_dim + token * head_dim;
                add_heads(&heads[first..], tokens * head_dim, group, sum);
            }
        });
    }
}

impl Heads {
    /// Elements of scratch that a token takes in [`attention_backward`].
    pub fn backward_scratch(self) -> usize {
        let shared = self.query_heads > self.key_value_heads;
        self.query_heads + if shared { 2 * self.query_heads * self.head_dim } else { 0 }
    }

    /// Query heads of one task: all that share a key head, so that keys are packed once, or one where tasks are few.
    fn share(self, sequences: usize) -> usize {
        let few = sequences * self.key_value_heads < FEW_TASKS;
        if few { 1 } else { self.query_heads / self.key_value_heads }
    }

    /// The key head that a query head reads.
    fn key_head(self, head: usize) -> usize {
        head / (self.query_heads / self.key_value_heads)
    }
}

/// The tiles of a sequence's queries, of each of these heads in turn.
fn tiles_of(sequence: &Sequence, heads: Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> + use<> {
    let queries = sequence.queries.len();
    let tiles =
        move |head| (0..queries).step_by(TILE).map(move |start| (head, start..queries.min(start + TILE)));
    heads.flat_map(tiles)
}

/// Slices of these lengths from this thread's scratch memory, with unspecified contents; each begins at a cache line.
fn with_scratch<const N: usize>(lengths: [usize; N], work: impl FnOnce([&mut [f32]; N])) {
    const LINE: usize = 16;
    SCRATCH.with_borrow_mut(|scratch| {
        let total = lengths.iter().map(|length| length.next_multiple_of(LINE)).sum();
        if scratch.len() < total {
            *scratch = Buffer::zeros(total);
        }
        let mut rest = scratch.host_mut();
        work(lengths.map(|length| {
            let (part, tail) = std::mem::take(&mut rest).split_at_mut(length.next_multiple_of(LINE));
            rest = tail;
            &mut part[..length]
        }));
    });
}

by_cpu_level! {
    fn narrow<[T: Value]>(values: &[f32], factor: f32, target: &mut [T]) {
        for (target, &value) in target.iter_mut().zip(values) {
            *target = T::from_f32(factor * value);
        }
    }
}

by_cpu_level! {
    /// The sum over `group` heads, `stride` apart, in order.
    fn add_heads<[T: Value]>(heads: &[f32], stride: usize, group: usize, sum: &mut [T]) {
        const LANES: usize = 16;
        for (index, sum) in sum.chunks_mut(LANES).enumerate() {
            let mut totals = [0.0f32; LANES];
            for head in 0..group {
                let values = &heads[head * stride + index * LANES..][..sum.len()];
                for (total, value) in totals.iter_mut().zip(values) {
                    *total += value;
                }
            }
            for (sum, total) in sum.iter_mut().zip(totals) {
                *sum = T::from_f32(total);
            }
        }
    }
}

by_cpu_level! {
    /// Σ x · y of each head of each row.
    fn row_dots<[T: Value]>(x: &[T], y: &[T], head_dim: usize, sums: &mut [f32]) {
        for ((x, y), sum) in x.chunks_exact(head_dim).zip(y.chunks_exact(head_dim)).zip(sums) {
            *sum = dot(x, y);
        }
    }
}

by_cpu_level! {
    /// The scores of a tile, whose first query sees one key more than those `before`: where they are visible, weakened by
    /// their distance, exp(score − the row's largest), zero elsewhere. Keeps log Σ exp of each row's scores, and its sum.
    fn exponentials_of_rows(
        scores: &mut [f32],
        keys: usize,
        before: usize,
        distance: Distance,
        slope: f32,
        kept: &mut [f32],
        sums: &mut [f32],
    ) {
        let rows = scores.chunks_exact_mut(keys).zip(kept).zip(sums);
        for (index, ((scores, kept), sum)) in rows.enumerate() {
            let seen = before + index + 1;
            let first = distance.first(seen);
            weaken(&mut scores[first..seen], slope);
            // Whole vectors where there is room: exp(−∞) is 0.
            let end = (first + (seen - first).next_multiple_of(16)).min(keys);
            scores[seen..end].fill(f32::NEG_INFINITY);
            scores[..first].fill(0.0);
            scores[end..].fill(0.0);
            let scores = &mut scores[first..end];
            let largest = maximum(scores);
            *sum = exponentials::<FUSED>(scores, largest);
            *kept = largest + sum.ln();
        }
    }
}

by_cpu_level! {
    /// Scores of a tile to probabilities and dP to dS, zero where the keys are not visible.
    fn backward_rows(
        p: &mut [f32],
        ds: &mut [f32],
        keys: usize,
        before: usize,
        distance: Distance,
        slope: f32,
        log_sum_exp: &[f32],
        deltas: &[f32],
        delta_stride: usize,
        scale: f32,
    ) {
        let deltas = deltas.iter().step_by(delta_stride);
        let rows = p.chunks_exact_mut(keys).zip(ds.chunks_exact_mut(keys)).zip(log_sum_exp).zip(deltas);
        for (index, (((p, ds), &log_sum_exp), &delta)) in rows.enumerate() {
            let seen = before + index + 1;
            let visible = distance.first(seen)..seen;
            weaken(&mut p[visible.clone()], slope);
            // Whole vectors where there is room: what stands beyond the visible is cleared afterwards.
            let computed = seen.next_multiple_of(16).min(keys);
            for (p, ds) in p[..computed].iter_mut().zip(&mut ds[..computed]) {
                *p = crate::exp::exp::<FUSED>(*p - log_sum_exp);
                *ds = *p * (*ds - delta) * scale;
            }
            for row in [p, ds] {
                row[..visible.start].fill(0.0);
                row[visible.end..].fill(0.0);
            }
        }
    }
}

/// Lowers each score by `slope` for each key between it and the last.
#[inline(always)]
fn weaken(scores: &mut [f32], slope: f32) {
    if slope == 0.0 {
        return;
    }
    let last = scores.len() as f32 - 1.0;
    for (key, score) in scores.iter_mut().enumerate() {
        *score += slope * (key as f32 - last);
    }
}

#[cfg(test)]
mod tests;
