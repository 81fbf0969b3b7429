//! The bias of a linear layer: one vector added to every row of its output.

use crate::buffer::{View, ViewMut};
use crate::team::{SharedSlice, parallel_chunks, parallel_for};
use crate::value::Value;

/// Rows of one task.
const ROWS: usize = 16;
/// Columns of one task of the gradient.
const COLUMNS: usize = 64;

/// y [T, N] += bias [N], row by row.
pub fn add_bias<T: Value>(bias: View<f32>, y: ViewMut<T>) {
    let _timer = crate::timing::Operation::LinearForward.start();
    let width = bias.0.len();
    assert!(y.0.len().is_multiple_of(width));
    parallel_chunks(y.0, ROWS * width, |_, y| {
        y.chunks_exact_mut(width).for_each(|row| add(bias.0, row));
    });
}

/// dbias [N] += Σ over rows of dy [T, N].
pub fn bias_backward<T: Value>(dy: View<T>, dbias: ViewMut<f32>) {
    let _timer = crate::timing::Operation::LinearWeightGradient.start();
    let width = dbias.0.len();
    assert!(dy.0.len().is_multiple_of(width));
    let dbias = SharedSlice::new(dbias.0);
    parallel_for(width.div_ceil(COLUMNS), |task| {
        let (start, count) = (task * COLUMNS, COLUMNS.min(width - task * COLUMNS));
        // SAFETY: each block of columns belongs to one task.
        let dbias = unsafe { dbias.range(start, count) };
        dy.0.chunks_exact(width).for_each(|row| sum(&row[start..start + count], dbias));
    });
}

by_cpu_level! {
    fn add<[T: Value]>(bias: &[f32], y: &mut [T]) {
        for (y, bias) in y.iter_mut().zip(bias) {
            *y = T::from_f32(y.to_f32() + bias);
        }
    }
}

by_cpu_level! {
    fn sum<[T: Value]>(row: &[T], sum: &mut [f32]) {
        for (sum, value) in sum.iter_mut().zip(row) {
            *sum += value.to_f32();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{close, finite_difference, normals};

    #[test]
    fn forward_and_backward_follow_the_formula() {
        let (tokens, width) = (19, 150);
        let (x, bias, dy) = (normals(1, tokens * width), normals(2, width), normals(3, tokens * width));
        let twin = |inputs: &[&[f64]]| -> Vec<f64> {
            let rows = inputs[0].chunks(width);
            rows.flat_map(|row| row.iter().zip(inputs[1]).map(|(x, bias)| x + bias)).collect()
        };
        let mut y = x.clone();
        add_bias(View(&bias), ViewMut(&mut y));
        close(&y, twin, &[&x, &bias], 1e-6);
        let mut dbias = vec![0.0; width];
        bias_backward(View(&dy), ViewMut(&mut dbias));
        finite_difference(twin, &[&x, &bias], &dy, &[&dy, &dbias], 1e-4);
    }
}
