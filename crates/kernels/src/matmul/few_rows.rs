//! A few rows of activations against a large weight, as in decoding: each weight row is read once and its dot
//! products with all activation rows are taken while it is in the cache.

use std::cell::RefCell;

use half::bf16;

use super::{Data, Operand, Output};
use crate::linear::Precision;
use crate::team::{SharedSlice, parallel_for};
use crate::value::{Value, round_to_bf16};

/// More rows than this reuse the weight enough for the packed product to win.
const MOST_ROWS: usize = 4;
/// Weight rows of one task.
const WEIGHT_ROWS: usize = 64;

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Whether A is a few contiguous rows and B is a transposed row-major weight.
pub(super) fn suits(a: &Operand, b: &Operand) -> bool {
    a.rows <= MOST_ROWS && a.column_stride == 1 && b.row_stride == 1
}

pub(super) fn matmul<T: Value>(
    precision: Precision,
    alpha: f32,
    a: Operand,
    b: Operand,
    output: Output,
    c: &mut [T],
) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    let shared = SharedSlice::new(c);
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.resize(m * k, 0.0);
        for (index, row) in scratch.chunks_exact_mut(k.max(1)).enumerate() {
            a.row(index, row);
            if precision == Precision::Bf16 {
                row.iter_mut().for_each(|value| *value = round_to_bf16(*value));
            }
        }
        let rows: &[f32] = scratch;
        parallel_for(n.div_ceil(WEIGHT_ROWS), |task| {
            for column in task * WEIGHT_ROWS..n.min((task + 1) * WEIGHT_ROWS) {
                b.block(0, k, column, 1).transposed().with_values(false, |weight| {
                    for row in 0..m {
                        let x = &rows[row * k..][..k];
                        let dot = match (weight.data, precision) {
                            (Data::F32(weight), Precision::F32) => dot_f32(x, &weight[..k]),
                            (Data::F32(weight), Precision::Bf16) => dot_rounded(x, &weight[..k]),
                            (Data::Bf16(weight), _) => dot_bf16(x, &weight[..k]),
                        };
                        // SAFETY: element (row, column) belongs to this task alone.
                        let value = unsafe { &mut shared.range(row * n + column, 1)[0] };
                        let old = if output == Output::Add { value.to_f32() } else { 0.0 };
                        *value = T::from_f32(old + alpha * dot);
                    }
                });
            }
        });
    });
}

/// Partial sums that the compiler keeps in vector registers.
const LANES: usize = 32;

#[inline(always)]
fn dot<T: Copy>(x: &[f32], weight: &[T], widen: impl Fn(T) -> f32) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (x_chunks, x_rest) = x.as_chunks::<LANES>();
    let (w_chunks, w_rest) = weight.as_chunks::<LANES>();
    for (x, w) in x_chunks.iter().zip(w_chunks) {
        for lane in 0..LANES {
            sums[lane] += x[lane] * widen(w[lane]);
        }
    }
    let mut total: f32 = sums.iter().sum();
    for (x, w) in x_rest.iter().zip(w_rest) {
        total += x * widen(*w);
    }
    total
}

by_cpu_level! {
    fn dot_f32(x: &[f32], weight: &[f32]) -> f32 {
        dot(x, weight, |value| value)
    }
}

by_cpu_level! {
    fn dot_rounded(x: &[f32], weight: &[f32]) -> f32 {
        dot(x, weight, round_to_bf16)
    }
}

by_cpu_level! {
    fn dot_bf16(x: &[f32], weight: &[bf16]) -> f32 {
        dot(x, weight, <bf16 as Value>::to_f32)
    }
}
