//! Root-mean-square normalisation (Zhang & Sennrich 2019, arXiv:1910.07467).
//!
//! y = x · s · w with s = 1 / √(mean(x²) + ε), row by row: over the hidden size, or over each head of queries and keys.

use crate::buffer::{View, ViewMut};
use crate::reduce::dot;
use crate::team::{SharedSlice, parallel_chunks, parallel_for};
use crate::value::Value;

/// Elements of one task, unless a row has more.
const CHUNK: usize = 1 << 14;
/// Columns of one task of the weight's gradient.
const COLUMNS: usize = 64;
/// The same where a row is a head: narrow, and there are many.
const HEAD_COLUMNS: usize = 16;

/// Rows of one task.
fn rows_at_once(width: usize) -> usize {
    (CHUNK / width.max(1)).max(1)
}

/// y [T, D] from x [T, D] and weight [D]; keeps s in `inverse_rms` [T] for the backward.
pub fn rms_norm<X: Value, T: Value>(
    x: View<X>,
    weight: View<f32>,
    epsilon: f32,
    y: ViewMut<T>,
    inverse_rms: ViewMut<f32>,
) {
    let _timer = crate::timing::Operation::Norm.start();
    let width = weight.0.len();
    assert!(x.0.len() == y.0.len() && x.0.len() == inverse_rms.0.len() * width);
    let (y, rows) = (SharedSlice::new(y.0), rows_at_once(width));
    parallel_chunks(inverse_rms.0, rows, |task, scales| {
        for (row, scale) in scales.iter_mut().enumerate() {
            let start = (task * rows + row) * width;
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
    let rows = rows_at_once(width);
    parallel_chunks(y.0, rows * width, |task, y| {
        for (row, y) in y.chunks_exact_mut(width).enumerate() {
            let row = task * rows + row;
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
    let rows = rows_at_once(width);
    parallel_chunks(dx.0, rows * width, |task, dx| {
        for (row, dx) in dx.chunks_exact_mut(width).enumerate() {
            let row = task * rows + row;
            let range = row * width..(row + 1) * width;
            backward_row(&x.0[range.clone()], weight.0, inverse_rms.0[row], &dy.0[range], dx);
        }
    });
    if let Some(dweight) = dweight {
        weight_gradient(x, inverse_rms, dy, COLUMNS, dweight);
    }
}

/// The same for rows that are heads: `gradient` holds dy and is overwritten with dx, because nothing else adds to it.
pub fn rms_norm_heads_backward<T: Value>(
    x: View<T>,
    weight: View<f32>,
    inverse_rms: View<f32>,
    gradient: ViewMut<T>,
    dweight: Option<ViewMut<f32>>,
) {
    let _timer = crate::timing::Operation::Norm.start();
    let width = weight.0.len();
    assert!(x.0.len() == gradient.0.len() && x.0.len() == inverse_rms.0.len() * width);
    if let Some(dweight) = dweight {
        weight_gradient(x, inverse_rms, gradient.as_view(), HEAD_COLUMNS, dweight);
    }
    let rows = rows_at_once(width);
    parallel_chunks(gradient.0, rows * width, |task, gradient| {
        for (row, gradient) in gradient.chunks_exact_mut(width).enumerate() {
            let row = task * rows + row;
            backward_row_in_place(&x.0[row * width..][..width], weight.0, inverse_rms.0[row], gradient);
        }
    });
}

/// dw += Σ over rows of dy · x · s, for `columns` of the weight in each task.
fn weight_gradient<T: Value>(
    x: View<T>,
    inverse_rms: View<f32>,
    dy: View<T>,
    columns: usize,
    dweight: ViewMut<f32>,
) {
    let width = dweight.0.len();
    assert_eq!(x.0.len(), inverse_rms.0.len() * width);
    let dweight = SharedSlice::new(dweight.0);
    parallel_for(width.div_ceil(columns), |task| {
        let (start, count) = (task * columns, columns.min(width - task * columns));
        // SAFETY: each block of columns belongs to one task.
        let dweight = unsafe { dweight.range(start, count) };
        for (row, &scale) in inverse_rms.0.iter().enumerate() {
            let range = row * width + start..row * width + start + count;
            add_scaled_products(&dy.0[range.clone()], &x.0[range], scale, dweight);
        }
    });
}

/// Σ xᵢ wᵢ yᵢ in lanes, whole vectors at a time.
#[inline(always)]
fn weighted_dot<T: Value>(x: &[T], weight: &[f32], y: &[T]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0.0f32; LANES];
    let (x_chunks, x_rest) = x.as_chunks::<LANES>();
    let (weight_chunks, weight_rest) = weight.as_chunks::<LANES>();
    let (y_chunks, y_rest) = y.as_chunks::<LANES>();
    for ((x, weight), y) in x_chunks.iter().zip(weight_chunks).zip(y_chunks) {
        for lane in 0..LANES {
            sums[lane] += x[lane].to_f32() * weight[lane] * y[lane].to_f32();
        }
    }
    for (((sum, x), weight), y) in sums.iter_mut().zip(x_rest).zip(weight_rest).zip(y_rest) {
        *sum += x.to_f32() * weight * y.to_f32();
    }
    sums.iter().sum()
}

by_cpu_level! {
    fn forward_row<[X: Value, T: Value]>(x: &[X], weight: &[f32], epsilon: f32, y: &mut [T]) -> f32 {
        let scale = 1.0 / (dot(x, x) / x.len() as f32 + epsilon).sqrt();
        for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
            *y = T::from_f32(x.to_f32() * scale * weight);
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
        let mean = weighted_dot(x, weight, dy) / x.len() as f32;
        let correction = scale * scale * scale * mean;
        for (((dx, x), weight), dy) in dx.iter_mut().zip(x).zip(weight).zip(dy) {
            *dx += scale * weight * dy - correction * x;
        }
    }
}

by_cpu_level! {
    fn backward_row_in_place<[T: Value]>(x: &[T], weight: &[f32], scale: f32, gradient: &mut [T]) {
        let mean = weighted_dot(x, weight, gradient) / x.len() as f32;
        let correction = scale * scale * scale * mean;
        for ((gradient, x), weight) in gradient.iter_mut().zip(x).zip(weight) {
            *gradient = T::from_f32(scale * weight * gradient.to_f32() - correction * x.to_f32());
        }
    }
}

by_cpu_level! {
    fn add_scaled_products<[T: Value]>(dy: &[T], x: &[T], scale: f32, sum: &mut [f32]) {
        for ((sum, dy), x) in sum.iter_mut().zip(dy).zip(x) {
            *sum += dy.to_f32() * x.to_f32() * scale;
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

    #[test]
    fn the_backward_of_heads_overwrites_the_gradient() {
        let (heads, width) = (141, 20);
        let (x, weight, dy) = (normals(1, heads * width), normals(2, width), normals(3, heads * width));
        let (mut y, mut scales) = (vec![0.0; x.len()], vec![0.0; heads]);
        rms_norm(View(&x), View(&weight), EPSILON, ViewMut(&mut y), ViewMut(&mut scales));
        let (mut gradient, mut dweight) = (dy.clone(), vec![0.0; width]);
        let into = Some(ViewMut(&mut dweight));
        rms_norm_heads_backward(View(&x), View(&weight), View(&scales), ViewMut(&mut gradient), into);
        let forward = |inputs: &[&[f64]]| twin(inputs[0], inputs[1]);
        finite_difference(forward, &[&x, &weight], &dy, &[&gradient, &dweight], 1e-4);
    }
}
