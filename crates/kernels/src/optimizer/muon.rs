//! Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon): momentum, made orthogonal.
//!
//! The update of a matrix is its Nesterov momentum with all singular values brought near 1, by five Newton–Schulz steps
//! X ← aX + b(XXᵀ)X + c(XXᵀ)²X. As in `torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"` (Liu et al. 2025,
//! arXiv:2502.16982): the learning rate times 0.2 · √max(rows, columns) gives updates of the size that AdamW's have, so
//! that one learning rate and one weight decay serve both.

use super::CHUNK;
use crate::buffer::{View, ViewMut};
use crate::linear::Precision;
use crate::matmul::{Operand, Output, matmul};
use crate::reduce::sum_of_squares;
use crate::team::{SharedSlice, parallel_chunks};

const MOMENTUM: f32 = 0.95;
const NEWTON_SCHULZ: [f32; 3] = [3.4445, -4.775, 2.0315];
const ITERATIONS: usize = 5;
/// Smallest norm that X is divided by.
const SMALLEST_NORM: f64 = 1e-7;
/// Size of an update relative to its learning rate, as AdamW's usually are.
const ROOT_MEAN_SQUARE: f32 = 0.2;

/// The numbers of one step.
#[derive(Clone, Copy, Debug)]
pub struct MuonStep {
    /// Learning rate of this step, as AdamW would have it.
    pub learning_rate: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Factor on the gradient: clipping.
    pub gradient_scale: f32,
    /// Rounding of the operands of the Newton–Schulz products.
    pub precision: Precision,
}

/// Elements of scratch that the step of a matrix [N, M] takes: X twice, XXᵀ and its polynomial.
pub fn muon_scratch(rows: usize, columns: usize) -> usize {
    let smaller = rows.min(columns);
    2 * rows * columns + 2 * smaller * smaller
}

/// m ← 0.95 m + 0.05 g;
/// parameter ← parameter · (1 − lr · decay) − lr · 0.2 · √max(N, M) · orthogonal(0.95 m + 0.05 g), for a matrix [N, M].
pub fn muon_step(
    step: &MuonStep,
    shape: [usize; 2],
    gradient: View<f32>,
    momentum: ViewMut<f32>,
    scratch: ViewMut<f32>,
    parameter: ViewMut<f32>,
) {
    let _timer = crate::timing::Operation::Optimizer.start();
    let ([rows, columns], elements) = (shape, parameter.0.len());
    assert!(elements == rows * columns && gradient.0.len() == elements && momentum.0.len() == elements);
    assert!(scratch.0.len() >= muon_scratch(rows, columns));
    if elements == 0 {
        return;
    }
    let (mut x, rest) = scratch.split_at(elements);
    let (mut next, rest) = rest.split_at(elements);
    let momentum = SharedSlice::new(momentum.0);
    parallel_chunks(x.0, CHUNK, |task, x| {
        let (start, count) = (task * CHUNK, x.len());
        // SAFETY: each chunk belongs to one task.
        let momentum = unsafe { momentum.range(start, count) };
        nesterov(step.gradient_scale, &gradient.0[start..start + count], momentum, x);
    });
    let mut norm = sum_of_squares(x.as_view()).sqrt().max(SMALLEST_NORM);
    let (mut gram, mut polynomial) = rest.split_at(rows.min(columns).pow(2));
    for _ in 0..ITERATIONS {
        // Only the first X needs to be divided by its norm.
        let inverse = (1.0 / norm) as f32;
        newton_schulz(step.precision, shape, inverse, x.as_view(), &mut gram, &mut polynomial, &mut next);
        std::mem::swap(&mut x, &mut next);
        norm = 1.0;
    }
    let keep = 1.0 - step.learning_rate * step.weight_decay;
    let rate = step.learning_rate * ROOT_MEAN_SQUARE * (rows.max(columns) as f32).sqrt();
    parallel_chunks(parameter.0, CHUNK, |task, parameter| {
        update(keep, rate, &x.0[task * CHUNK..][..parameter.len()], parameter);
    });
}

/// next = aY + b(YYᵀ)Y + c(YYᵀ)²Y for Y = inverse · x, over the smaller of YYᵀ and YᵀY.
fn newton_schulz(
    precision: Precision,
    [rows, columns]: [usize; 2],
    inverse: f32,
    x: View<f32>,
    gram: &mut ViewMut<f32>,
    polynomial: &mut ViewMut<f32>,
    next: &mut ViewMut<f32>,
) {
    let [a, b, c] = NEWTON_SCHULZ;
    let size = rows.min(columns);
    let x = Operand::new(x, rows, columns);
    let (left, right) = if rows <= columns { (x, x.transposed()) } else { (x.transposed(), x) };
    matmul(precision, inverse * inverse, left, right, Output::Overwrite, gram.reborrow());
    let (gram, polynomial) = (gram.as_view(), ViewMut(&mut polynomial.0[..size * size]));
    parallel_chunks(polynomial.0, size, |row, polynomial| {
        for (value, gram) in polynomial.iter_mut().zip(&gram.0[row * size..]) {
            *value = b * gram;
        }
        polynomial[row] += a;
    });
    let gram = Operand::new(gram, size, size);
    matmul(precision, c, gram, gram, Output::Add, ViewMut(&mut *polynomial.0));
    let polynomial = Operand::new(View(&*polynomial.0), size, size);
    let (left, right) = if rows <= columns { (polynomial, x) } else { (x, polynomial) };
    matmul(precision, inverse, left, right, Output::Overwrite, next.reborrow());
}

by_cpu_level! {
    fn nesterov(gradient_scale: f32, gradient: &[f32], momentum: &mut [f32], x: &mut [f32]) {
        for ((gradient, momentum), x) in gradient.iter().zip(momentum).zip(x) {
            let gradient = gradient * gradient_scale;
            *momentum += (gradient - *momentum) * (1.0 - MOMENTUM);
            *x = gradient + (*momentum - gradient) * MOMENTUM;
        }
    }
}

by_cpu_level! {
    fn update(keep: f32, rate: f32, x: &[f32], parameter: &mut [f32]) {
        for (x, parameter) in x.iter().zip(parameter) {
            *parameter = *parameter * keep - rate * x;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{close, normals};

    fn product(a: &[f64], b: &[f64], inner: usize) -> Vec<f64> {
        let columns = b.len() / inner;
        let sum = |row: &[f64], column: usize| (0..inner).map(|k| row[k] * b[k * columns + column]).sum();
        a.chunks(inner).flat_map(|row| (0..columns).map(move |column| sum(row, column))).collect()
    }

    fn transposed(x: &[f64], columns: usize) -> Vec<f64> {
        (0..columns).flat_map(|column| x.iter().skip(column).step_by(columns).copied()).collect()
    }

    fn twin(inputs: &[&[f64]], rows: usize, columns: usize) -> Vec<f64> {
        let mut p = inputs[0].to_vec();
        let mut m = vec![0.0; p.len()];
        for gradient in &inputs[1..] {
            let mut x = Vec::new();
            for (m, gradient) in m.iter_mut().zip(*gradient) {
                *m = 0.95 * *m + 0.05 * 0.5 * gradient;
                x.push(0.95 * *m + 0.05 * 0.5 * gradient);
            }
            let norm = x.iter().map(|x| x * x).sum::<f64>().sqrt();
            x.iter_mut().for_each(|x| *x /= norm);
            for _ in 0..5 {
                let gram = product(&x, &transposed(&x, columns), columns);
                let cubic = product(&gram, &x, rows);
                let quintic = product(&gram, &cubic, rows);
                for ((x, cubic), quintic) in x.iter_mut().zip(cubic).zip(quintic) {
                    *x = 3.4445 * *x - 4.775 * cubic + 2.0315 * quintic;
                }
            }
            let rate = 0.01 * 0.2 * (rows.max(columns) as f64).sqrt();
            p.iter_mut().zip(x).for_each(|(p, x)| *p = *p * (1.0 - 0.01 * 0.1) - rate * x);
        }
        p
    }

    #[test]
    fn three_steps_follow_the_formula_for_every_shape() {
        for (rows, columns) in [(1, 1), (1, 9), (13, 1), (20, 33), (70, 31), (40, 40)] {
            let elements = rows * columns;
            let start = normals(1, elements);
            let gradients: Vec<Vec<f32>> = (2..5).map(|key| normals(key, elements)).collect();
            for (precision, bound) in [(Precision::F32, 1e-4), (Precision::Bf16, 0.05)] {
                let (mut p, mut momentum) = (start.clone(), vec![0.0; elements]);
                let mut scratch = vec![f32::NAN; muon_scratch(rows, columns)];
                let step =
                    MuonStep { learning_rate: 0.01, weight_decay: 0.1, gradient_scale: 0.5, precision };
                for gradient in &gradients {
                    let (momentum, scratch) = (ViewMut(&mut momentum), ViewMut(&mut scratch));
                    muon_step(&step, [rows, columns], View(gradient), momentum, scratch, ViewMut(&mut p));
                }
                let twin = |inputs: &[&[f64]]| twin(inputs, rows, columns);
                close(&p, twin, &[&start, &gradients[0], &gradients[1], &gradients[2]], bound);
            }
        }
    }
}
