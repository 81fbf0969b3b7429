//! One query against all its keys, as in generation: dot products row by row, nothing is packed.

use crate::matmul::prefetch;
use crate::reduce::{LANES, folded};
use crate::value::Value;

/// Columns of the result that are summed at once, in registers.
const COLUMNS: usize = 64;
/// Rows that are asked for ahead.
const AHEAD: usize = 8;

by_cpu_level! {
    /// scores [n] = scale · q · kᵀ for q [E] and rows of k, `width` apart.
    pub(super) fn scores<[T: Value]>(q: &[T], k: &[T], width: usize, scale: f32, scores: &mut [f32]) {
        let (q, q_rest) = q.as_chunks::<LANES>();
        let head_dim = q.len() * LANES + q_rest.len();
        for (row, score) in scores.iter_mut().enumerate() {
            ask_for(k, (row + AHEAD) * width, head_dim);
            let (k, k_rest) = k[row * width..][..head_dim].as_chunks::<LANES>();
            let mut sums = [0.0f32; LANES];
            for (q, k) in q.iter().zip(k) {
                let (q, k) = (q.map(Value::to_f32), k.map(Value::to_f32));
                for lane in 0..LANES {
                    sums[lane] += q[lane] * k[lane];
                }
            }
            let rest: f32 = q_rest.iter().zip(k_rest).map(|(q, k)| q.to_f32() * k.to_f32()).sum();
            *score = scale * (folded(sums, |a, b| a + b) + rest);
        }
    }
}

/// Asks for values that are soon read: heads of different tokens lie too far apart for the processor to guess.
#[inline(always)]
fn ask_for<T: Value>(values: &[T], start: usize, count: usize) {
    let size = size_of::<T>();
    prefetch(bytemuck::cast_slice(values), start * size, count * size);
}

by_cpu_level! {
    /// result [E] = Σ p · v over the rows of v, `width` apart.
    pub(super) fn weighted_sum<[T: Value]>(p: &[f32], v: &[T], width: usize, result: &mut [f32]) {
        for (chunk, result) in result.chunks_mut(COLUMNS).enumerate() {
            let mut sums = [0.0f32; COLUMNS];
            for (row, p) in p.iter().enumerate() {
                ask_for(v, (row + AHEAD) * width + chunk * COLUMNS, result.len());
                let v = &v[row * width + chunk * COLUMNS..][..result.len()];
                if let Some((v, _)) = v.split_first_chunk::<COLUMNS>() {
                    for column in 0..COLUMNS {
                        let v = v[column].to_f32();
                        sums[column] = if FUSED { v.mul_add(*p, sums[column]) } else { sums[column] + v * p };
                    }
                } else {
                    for (sum, v) in sums.iter_mut().zip(v) {
                        *sum += v.to_f32() * p;
                    }
                }
            }
            result.copy_from_slice(&sums[..result.len()]);
        }
    }
}
