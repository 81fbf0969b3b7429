//! Root-mean-square normalisation (Zhang & Sennrich 2019, arXiv:1910.07467).
//!
//! y = x · s · w with s = 1 / √(mean(x²) + ε), row by row.

use crate::buffer::{View, ViewMut};
use crate::reduce::dot;
use crate::team::{SharedSlice, parallel_chunks, parallel_for};
use crate::value::Value;

/// Rows of one task.
const ROWS: usize = 16;
/// Columns of one task of the weight's gradient.
const COLUMNS: usize = 64;

/// y [T, D] from x [T, D] and weight [D]; keeps s in `inverse_rms` [T] for the backward.
pub fn rms_norm<T: Value>(
    x: View<f32>,
    weight: View<f32>,
    epsilon: f32,
    y: ViewMut<T>,
    inverse_rms: ViewMut<f32>,
) {
    let _timer = crate::timing::Operation::Norm.start();
    let width = weight.0.len();
    assert!(x.0.len() == y.0.len() && x.0.len() == inverse_rms.0.len() * width);
    let y = SharedSlice::new(y.0);
    parallel_chunks(inverse_rms.0, ROWS, |task, scales| {
        for (row, scale) in scales.iter_mut().enumerate() {
            let start = (task * ROWS + row) * width;
            // SAFETY: each row belongs to one task.
            let y = unsafe { y.range(start, width) };
            *scale = forward_row(&x.0[start..start + width], weight.0, epsilon, y);
        }
    });
}

/// The forward again, from the kept s: y = x · s · w.
pub fn rms_norm_again<T: Value>(x: View<f32>, weight: View<f32>, inverse_rms: View<f32>, y: ViewMut<T>) {
    let _timer = crate::timing::Operation::Norm.start();
    let width = weight.0.len();
    assert!(x.0.len() == y.0.len() && x.0.len() == inverse_rms.0.len() * width);
    parallel_chunks(y.0, ROWS * width, |task, y| {
        for (row, y) in y.chunks_exact_mut(width).enumerate() {
            let row = task * ROWS + row;
            scale_row(&x.0[row * width..][..width], weight.0, inverse_rms.0[row], y);
        }
    });
}

/// Adds the gradient of x to `dx`, and that of the weight to `dweight` if it is trained.
///
/// dx = s · (w·dy) − x · s³ · mean(x · w·dy); dw = Σ over rows of dy · x · s.
pub fn rms_norm_backward(
    x: View<f32>,
    weight: View<f32>,
    inverse_rms: View<f32>,
    dy: View<f32>,
    dx: ViewMut<f32>,
    dweight: Option<ViewMut<f32>>,
) {
    let _timer = crate::timing::Operation::Norm.start();
    let width = weight.0.len();
    assert!(x.0.len() == dy.0.len() && x.0.len() == dx.0.len() && x.0.len() == inverse_rms.0.len() * width);
    parallel_chunks(dx.0, ROWS * width, |task, dx| {
        for (row, dx) in dx.chunks_exact_mut(width).enumerate() {
            let row = task * ROWS + row;
            let range = row * width..(row + 1) * width;
            backward_row(&x.0[range.clone()], weight.0, inverse_rms.0[row], &dy.0[range], dx);
        }
    });
    let Some(dweight) = dweight else { return };
    assert_eq!(dweight.0.len(), width);
    let dweight = SharedSlice::new(dweight.0);
    parallel_for(width.div_ceil(COLUMNS), |task| {
        let (start, count) = (task * COLUMNS, COLUMNS.min(width - task * COLUMNS));
        // SAFETY: each block of columns belongs to one task.
        let dweight = unsafe { dweight.range(start, count) };
        for (row, &scale) in inverse_rms.0.iter().enumerate() {
            let range = row * width + start..row * width + start + count;
            add_scaled_products(&dy.0[range.clone()], &x.0[range], scale, dweight);
        }
    });
}

by_cpu_level! {
    fn forward_row<[T: Value]>(x: &[f32], weight: &[f32], epsilon: f32, y: &mut [T]) -> f32 {
        let scale = 1.0 / (dot(x, x) / x.len() as f32 + epsilon).sqrt();
        for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
            *y = T::from_f32(x * scale * weight);
        }
        scale
    }
}

by_cpu_level! {
    fn scale_row<[T: Value]>(x: &[f32], weight: &[f32], scale: f32, y: &mut [T]) {
        for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
            *y = T::from_f32(x * scale * weight);
        }
    }
}

by_cpu_level! {
    fn backward_row(x: &[f32], weight: &[f32], scale: f32, dy: &[f32], dx: &mut [f32]) {
        const LANES: usize = 16;
        let mut sums = [0.0f32; LANES];
        for (index, ((x, weight), dy)) in x.iter().zip(weight).zip(dy).enumerate() {
            sums[index % LANES] += x * weight * dy;
        }
        let mean = sums.iter().sum::<f32>() / x.len() as f32;
        let correction = scale * scale * scale * mean;
        for (((dx, x), weight), dy) in dx.iter_mut().zip(x).zip(weight).zip(dy) {
            *dx += scale * weight * dy - correction * x;
        }
    }
}

by_cpu_level! {
    fn add_scaled_products(dy: &[f32], x: &[f32], scale: f32, sum: &mut [f32]) {
        for ((sum, dy), x) in sum.iter_mut().zip(dy).zip(x) {
            *sum += dy * x * scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{close, finite_difference, normals};

    const EPSILON: f32 = 1e-5;

    fn twin(x: &[f64], weight: &[f64]) -> Vec<f64> {
        x.chunks(weight.len())
            .flat_map(|x| {
                let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
                let scale = 1.0 / (mean + f64::from(EPSILON)).sqrt();
                x.iter().zip(weight).map(move |(x, weight)| x * scale * weight).collect::<Vec<_>>()
            })
            .collect()
    }

    #[test]
    fn forward_and_backward_follow_the_formula() {
        let (tokens, width) = (19, 37);
        let (x, weight, dy) = (normals(1, tokens * width), normals(2, width), normals(3, tokens * width));
        let (mut y, mut scales) = (vec![0.0; x.len()], vec![0.0; tokens]);
        rms_norm(View(&x), View(&weight), EPSILON, ViewMut(&mut y), ViewMut(&mut scales));
        close(&y, |x: &[&[f64]]| twin(x[0], x[1]), &[&x, &weight], 1e-6);
        let mut again = vec![0.0; x.len()];
        rms_norm_again(View(&x), View(&weight), View(&scales), ViewMut(&mut again));
        assert_eq!(y, again);

        let (mut dx, mut dweight) = (vec![0.0; x.len()], vec![0.0; width]);
        let into = Some(ViewMut(&mut dweight));
        rms_norm_backward(View(&x), View(&weight), View(&scales), View(&dy), ViewMut(&mut dx), into);
        let forward = |inputs: &[&[f64]]| twin(inputs[0], inputs[1]);
        finite_difference(forward, &[&x, &weight], &dy, &[&dx, &dweight], 1e-4);
    }
}
