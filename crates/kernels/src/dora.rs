//! Weight-decomposed adapters (Liu et al. 2024, arXiv:2402.09353): every row of W + s·B·A is given a trained length m.
//!
//! y = g · (W·x + s·B·A·x) with g = m / n and n_i = ‖W_i + s·B_i·A‖, which the backward takes for a constant, as PEFT does.
//! The sum of W and B·A is never made: n_i² = ‖W_i‖² + 2s·B_i·(A·W_iᵀ) + s²·B_i·(A·Aᵀ)·B_iᵀ.

use std::cell::RefCell;

use crate::buffer::{Buffer, View, ViewMut};
use crate::linear::{Lora, Precision, Weight};
use crate::matmul::{Left, Operand, Output, sum_of_products};
use crate::reduce::dot;
use crate::team::{SharedSlice, parallel_chunks, parallel_for};
use crate::value::Value;

/// Rows of a weight, or of tokens, of one task.
const ROWS: usize = 16;
/// Columns of one task of the gradient.
const COLUMNS: usize = 64;
/// A row of zeros gets this length, so that nothing is divided by 0.
pub const SHORTEST: f32 = 1e-30;

thread_local! {
    /// A·Wᵀ [R, outputs] and A·Aᵀ [R, R].
    static PRODUCTS: RefCell<[Buffer<f32>; 2]> = RefCell::new([Buffer::zeros(0), Buffer::zeros(0)]);
    /// One row of a weight.
    static ROW: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// ‖W_i‖² [outputs]. Quantized weights count as what they are dequantized to.
pub fn row_squares(weight: Weight, squares: ViewMut<f32>) {
    assert_eq!(squares.0.len(), weight.outputs());
    parallel_chunks(squares.0, ROWS, |task, squares| {
        ROW.with_borrow_mut(|row| {
            row.resize(weight.inputs(), 0.0);
            for (index, square) in squares.iter_mut().enumerate() {
                weight.row(task * ROWS + index, row);
                *square = dot(row, row);
            }
        });
    });
}

/// 1 / n [outputs], from ‖W_i‖² [outputs].
pub fn inverse_lengths(
    precision: Precision,
    weight: Weight,
    lora: Lora,
    squares: View<f32>,
    inverse: ViewMut<f32>,
) {
    let _timer = crate::timing::Operation::Adapter.start();
    let (rank, outputs, scale) = (lora.rank, weight.outputs(), lora.scale);
    assert!(squares.0.len() == outputs && inverse.0.len() == outputs && lora.b.0.len() == outputs * rank);
    let a = Operand::rows_of(lora.a, weight.inputs());
    PRODUCTS.with_borrow_mut(|[with_weight, with_itself]| {
        for (buffer, length) in [(&mut *with_weight, rank * outputs), (&mut *with_itself, rank * rank)] {
            if buffer.len() < length {
                *buffer = Buffer::zeros(length);
            }
        }
        let left = Left::new(precision, a);
        let product = with_weight.first_mut(rank * outputs);
        sum_of_products(1.0, &[(&left, weight.operand.transposed())], Output::Overwrite, product);
        let left = Left::new(Precision::F32, a);
        let product = with_itself.first_mut(rank * rank);
        sum_of_products(1.0, &[(&left, a.transposed())], Output::Overwrite, product);
        let (with_weight, with_itself) = (with_weight.first(rank * outputs), with_itself.first(rank * rank));
        parallel_chunks(inverse.0, ROWS, |task, inverse| {
            for (index, inverse) in inverse.iter_mut().enumerate() {
                let row = task * ROWS + index;
                let b = &lora.b.0[row * rank..][..rank];
                let mut square = squares.0[row];
                for (place, (b_r, itself)) in b.iter().zip(with_itself.0.chunks_exact(rank)).enumerate() {
                    let weight = with_weight.0[place * outputs + row];
                    square += scale * b_r * (2.0 * weight + scale * dot(itself, b));
                }
                *inverse = 1.0 / square.max(0.0).sqrt().max(SHORTEST);
            }
        });
    });
}

/// y [T, N] *= magnitude · inverse, both [N].
pub fn scale_columns<T: Value>(magnitude: View<f32>, inverse: View<f32>, y: ViewMut<T>) {
    let _timer = crate::timing::Operation::Adapter.start();
    parallel_chunks(y.0, ROWS * magnitude.0.len(), |_, y| {
        y.chunks_exact_mut(magnitude.0.len()).for_each(|y| scale_row(magnitude.0, inverse.0, y));
    });
}

/// y [T, N] = (y +) x [T, N] · magnitude · inverse.
pub fn scaled_columns<X: Value, T: Value>(
    x: View<X>,
    magnitude: View<f32>,
    inverse: View<f32>,
    output: Output,
    y: ViewMut<T>,
) {
    let _timer = crate::timing::Operation::Adapter.start();
    let width = magnitude.0.len();
    assert_eq!(x.0.len(), y.0.len());
    let keep = if output == Output::Add { 1.0 } else { 0.0 };
    parallel_chunks(y.0, ROWS * width, |task, y| {
        for (row, y) in y.chunks_exact_mut(width).enumerate() {
            let x = &x.0[(task * ROWS + row) * width..][..width];
            scaled_row(x, magnitude.0, inverse.0, keep, y);
        }
    });
}

/// dm [N] += Σ over rows of dy · u / n, where u [T, N] is y before it was scaled.
pub fn magnitude_gradient<Y: Value>(dy: View<Y>, u: View<f32>, inverse: View<f32>, dmagnitude: ViewMut<f32>) {
    let _timer = crate::timing::Operation::Adapter.start();
    let width = inverse.0.len();
    assert!(dy.0.len() == u.0.len() && dy.0.len().is_multiple_of(width) && dmagnitude.0.len() == width);
    let dmagnitude = SharedSlice::new(dmagnitude.0);
    parallel_for(width.div_ceil(COLUMNS), |task| {
        let (start, count) = (task * COLUMNS, COLUMNS.min(width - task * COLUMNS));
        // SAFETY: each block of columns belongs to one task.
        let sum = unsafe { dmagnitude.range(start, count) };
        for (dy, u) in dy.0.chunks_exact(width).zip(u.0.chunks_exact(width)) {
            let columns = start..start + count;
            add_products(&dy[columns.clone()], &u[columns.clone()], &inverse.0[columns], sum);
        }
    });
}

by_cpu_level! {
    fn scale_row<[T: Value]>(magnitude: &[f32], inverse: &[f32], y: &mut [T]) {
        for (y, (magnitude, inverse)) in y.iter_mut().zip(magnitude.iter().zip(inverse)) {
            *y = T::from_f32(y.to_f32() * (magnitude * inverse));
        }
    }
}

by_cpu_level! {
    fn scaled_row<[X: Value, T: Value]>(x: &[X], magnitude: &[f32], inverse: &[f32], keep: f32, y: &mut [T]) {
        for ((y, x), (magnitude, inverse)) in y.iter_mut().zip(x).zip(magnitude.iter().zip(inverse)) {
            *y = T::from_f32(keep * y.to_f32() + x.to_f32() * (magnitude * inverse));
        }
    }
}

by_cpu_level! {
    fn add_products<[Y: Value]>(dy: &[Y], u: &[f32], inverse: &[f32], sum: &mut [f32]) {
        for ((sum, inverse), (dy, u)) in sum.iter_mut().zip(inverse).zip(dy.iter().zip(u)) {
            *sum += dy.to_f32() * u * inverse;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{close, finite_difference, normals};
    use crate::linear::{Input, Layer};

    const T: usize = 9;
    const INPUTS: usize = 20;
    const OUTPUTS: usize = 70;
    const RANK: usize = 3;
    const SCALE: f32 = 1.5;

    fn lengths(w: &[f64], a: &[f64], b: &[f64]) -> Vec<f64> {
        let sum = |row: usize, column: usize| {
            let product: f64 = (0..RANK).map(|r| b[row * RANK + r] * a[r * INPUTS + column]).sum();
            w[row * INPUTS + column] + f64::from(SCALE) * product
        };
        (0..OUTPUTS)
            .map(|row| (0..INPUTS).map(|column| sum(row, column).powi(2)).sum::<f64>().sqrt())
            .collect()
    }

    #[test]
    fn lengths_are_those_of_the_sum_that_is_never_made() {
        let (w, a, b) = (normals(1, OUTPUTS * INPUTS), normals(2, RANK * INPUTS), normals(3, OUTPUTS * RANK));
        let lora = Lora { a: View(&a), b: View(&b), rank: RANK, scale: SCALE };
        let weight = Weight::new(View(&w), OUTPUTS, INPUTS);
        let (mut squares, mut inverse) = (vec![0.0; OUTPUTS], vec![0.0; OUTPUTS]);
        row_squares(weight, ViewMut(&mut squares));
        inverse_lengths(Precision::F32, weight, lora, View(&squares), ViewMut(&mut inverse));
        let found: Vec<f32> = inverse.iter().map(|inverse| 1.0 / inverse).collect();
        close(&found, |inputs| lengths(inputs[0], inputs[1], inputs[2]), &[&w, &a, &b], 1e-6);
    }

    /// Of y = m / n · u, the gradients of m and of u.
    #[test]
    fn the_scale_and_its_gradients() {
        let (u, m, inverse) = (normals(1, T * OUTPUTS), normals(2, OUTPUTS), normals(3, OUTPUTS));
        let dy = normals(4, T * OUTPUTS);
        let wide: Vec<f64> = inverse.iter().map(|value| f64::from(*value)).collect();
        let twin = |inputs: &[&[f64]]| -> Vec<f64> {
            let factor = |column: usize| inputs[1][column] * wide[column];
            inputs[0].iter().enumerate().map(|(index, u)| u * factor(index % OUTPUTS)).collect()
        };
        let mut y = u.clone();
        scale_columns(View(&m), View(&inverse), ViewMut(&mut y));
        close(&y, twin, &[&u, &m], 1e-6);
        let mut sum = u.clone();
        scaled_columns(View(&u), View(&m), View(&inverse), Output::Add, ViewMut(&mut sum));
        assert!(sum.iter().zip(u.iter().zip(&y)).all(|(sum, (u, y))| (sum - (u + y)).abs() < 1e-5));
        let (mut du, mut dm) = (vec![7.0; u.len()], vec![0.0; OUTPUTS]);
        scaled_columns(View(&dy), View(&m), View(&inverse), Output::Overwrite, ViewMut(&mut du));
        magnitude_gradient(View(&dy), View(&u), View(&inverse), ViewMut(&mut dm));
        finite_difference(twin, &[&u, &m], &dy, &[&du, &dm], 1e-5);
    }

    /// A fresh adapter, B = 0 and m = ‖W‖, changes nothing.
    #[test]
    fn a_fresh_one_is_the_weight_itself() {
        let (w, a, b) = (normals(1, OUTPUTS * INPUTS), normals(2, RANK * INPUTS), vec![0.0; OUTPUTS * RANK]);
        let x = normals(5, T * INPUTS);
        let lora = Lora { a: View(&a), b: View(&b), rank: RANK, scale: SCALE };
        let weight = Weight::new(View(&w), OUTPUTS, INPUTS);
        let (mut squares, mut inverse) = (vec![0.0; OUTPUTS], vec![0.0; OUTPUTS]);
        row_squares(weight, ViewMut(&mut squares));
        inverse_lengths(Precision::F32, weight, lora, View(&squares), ViewMut(&mut inverse));
        let magnitude: Vec<f32> = squares.iter().map(|square| square.sqrt()).collect();
        let mut y = vec![0.0; T * OUTPUTS];
        let input = Input::new(Precision::F32, View(&x), INPUTS);
        let none = View::<f32>(&[]);
        input.forward(Layer { weight, adapter: None }, none, Output::Overwrite, ViewMut(&mut y));
        let plain = y.clone();
        scale_columns(View(&magnitude), View(&inverse), ViewMut(&mut y));
        assert!(plain.iter().zip(&y).all(|(plain, y)| (plain - y).abs() <= 1e-5 * plain.abs()));
    }
}
