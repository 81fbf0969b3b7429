//! Adafactor (Shazeer & Stern 2018, arXiv:1804.04235): of a matrix's second moment only row and column means are kept.
//!
//! As the Hugging Face Trainer runs it: no first moment, the learning rate of the schedule (`relative_step` and
//! `scale_parameter` off), β₂ = 1 − t^−0.8, updates clipped to a root mean square of 1.

use super::CHUNK;
use crate::buffer::{View, ViewMut};
use crate::reduce::dot;
use crate::team::{SharedSlice, parallel_chunks, parallel_for};

/// Added to every squared gradient.
const EPSILON: f32 = 1e-30;
const DECAY_RATE: f64 = -0.8;
/// Largest root mean square of an update, before the learning rate.
const CLIP_THRESHOLD: f64 = 1.0;
/// Columns of one task, and of one pass over its rows.
const COLUMNS: usize = 128;
/// Rows of one task.
const ROWS: usize = 32;

/// The numbers of one step.
#[derive(Clone, Copy, Debug)]
pub struct AdafactorStep {
    /// Learning rate of this step.
    pub learning_rate: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Number of this step, from 1.
    pub step: u64,
    /// Factor on the gradient: clipping.
    pub gradient_scale: f32,
}

impl AdafactorStep {
    fn beta2(&self) -> f32 {
        (1.0 - (self.step as f64).powf(DECAY_RATE)) as f32
    }

    /// The factor on updates whose squares sum up to `squares`.
    fn rate(&self, squares: f64, elements: usize) -> f32 {
        let root_mean_square = (squares / elements.max(1) as f64).sqrt();
        (f64::from(self.learning_rate) / (root_mean_square / CLIP_THRESHOLD).max(1.0)) as f32
    }

    fn keep(&self) -> f32 {
        1.0 - self.learning_rate * self.weight_decay
    }
}

/// The update of a matrix [N, M] with the means of its squared gradients, `row_means` [N] and `column_means` [M]:
/// parameter ← parameter · (1 − lr · decay) − lr · u / max(1, rms(u)), u = gradient / √(row · column / mean(row)).
pub fn adafactor_matrix_step(
    step: &AdafactorStep,
    gradient: View<f32>,
    row_means: ViewMut<f32>,
    column_means: ViewMut<f32>,
    parameter: ViewMut<f32>,
) {
    let (rows, columns) = (row_means.0.len(), column_means.0.len());
    assert!(gradient.0.len() == rows * columns && parameter.0.len() == rows * columns);
    if parameter.0.is_empty() {
        return;
    }
    let (beta2, scale, gradient) = (step.beta2(), step.gradient_scale, gradient.0);
    parallel_chunks(row_means.0, ROWS, |task, means| {
        for (mean, gradient) in means.iter_mut().zip(gradient[task * ROWS * columns..].chunks_exact(columns))
        {
            let now = scale * scale * squares(gradient) / columns as f32 + EPSILON;
            *mean = *mean * beta2 + now * (1.0 - beta2);
        }
    });
    parallel_chunks(column_means.0, COLUMNS, |task, means| {
        let mut sums = [0.0f64; COLUMNS];
        for row in gradient.chunks_exact(columns) {
            add_squares(&row[task * COLUMNS..][..means.len()], &mut sums);
        }
        for (mean, sum) in means.iter_mut().zip(sums) {
            let now = (f64::from(scale * scale) * sum / rows as f64) as f32 + EPSILON;
            *mean = *mean * beta2 + now * (1.0 - beta2);
        }
    });
    let (row_means, column_means) = (&*row_means.0, &*column_means.0);
    let mean = (row_means.iter().map(|&mean| f64::from(mean)).sum::<f64>() / rows as f64) as f32;

    let mut sums = vec![0.0f64; rows.div_ceil(ROWS)];
    parallel_chunks(&mut sums, 1, |task, sum| {
        let range = task * ROWS..rows.min((task + 1) * ROWS);
        let gradient = &gradient[range.start * columns..range.end * columns];
        sum[0] = update_squares(scale, mean, &row_means[range], column_means, gradient);
    });
    let rate = step.rate(sums.iter().sum(), rows * columns) * scale;
    let parameter = SharedSlice::new(parameter.0);
    parallel_for(rows.div_ceil(ROWS), |task| {
        let range = task * ROWS..rows.min((task + 1) * ROWS);
        let start = range.start * columns;
        // SAFETY: each group of rows belongs to one task.
        let parameter = unsafe { parameter.range(start, range.len() * columns) };
        let gradient = &gradient[start..start + parameter.len()];
        update(step.keep(), rate, mean, &row_means[range], column_means, gradient, parameter);
    });
}

/// The update of a vector, whose second moment is kept element by element.
pub fn adafactor_vector_step(
    step: &AdafactorStep,
    gradient: View<f32>,
    second_moment: ViewMut<f32>,
    parameter: ViewMut<f32>,
) {
    let length = parameter.0.len();
    assert!(gradient.0.len() == length && second_moment.0.len() == length);
    let (beta2, scale, gradient) = (step.beta2(), step.gradient_scale, gradient.0);
    let mut sums = vec![0.0f64; length.div_ceil(CHUNK)];
    let moments = SharedSlice::new(second_moment.0);
    parallel_chunks(&mut sums, 1, |task, sum| {
        let (start, count) = (task * CHUNK, CHUNK.min(length - task * CHUNK));
        // SAFETY: each chunk belongs to one task.
        let moments = unsafe { moments.range(start, count) };
        sum[0] = vector_moments(beta2, scale, &gradient[start..start + count], moments);
    });
    let rate = step.rate(sums.iter().sum(), length) * scale;
    parallel_chunks(parameter.0, CHUNK, |task, parameter| {
        let (start, count) = (task * CHUNK, parameter.len());
        // SAFETY: the moments are only read from here on.
        let moments = unsafe { moments.range(start, count) };
        vector_update(step.keep(), rate, &gradient[start..start + count], moments, parameter);
    });
}

by_cpu_level! {
    fn squares(x: &[f32]) -> f32 {
        dot(x, x)
    }
}

by_cpu_level! {
    fn add_squares(x: &[f32], sums: &mut [f64; COLUMNS]) {
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum += f64::from(*x) * f64::from(*x);
        }
    }
}

by_cpu_level! {
    /// Σ u² of some rows.
    fn update_squares(scale: f32, mean: f32, row_means: &[f32], column_means: &[f32], gradient: &[f32]) -> f64 {
        let columns = column_means.len();
        let mut sum = 0.0;
        for start in (0..columns).step_by(COLUMNS) {
            let mut factors = [0.0f32; COLUMNS];
            let factors = &mut factors[..COLUMNS.min(columns - start)];
            inverse_roots(&column_means[start..], factors);
            for (row_mean, row) in row_means.iter().zip(gradient.chunks_exact(columns)) {
                let row_factor = scale / (row_mean / mean).sqrt();
                let mut lanes = [0.0f32; 16];
                for (index, (gradient, factor)) in row[start..].iter().zip(&*factors).enumerate() {
                    let update = row_factor * factor * gradient;
                    lanes[index % 16] += update * update;
                }
                sum += f64::from(lanes.iter().sum::<f32>());
            }
        }
        sum
    }
}

by_cpu_level! {
    fn update(
        keep: f32,
        rate: f32,
        mean: f32,
        row_means: &[f32],
        column_means: &[f32],
        gradient: &[f32],
        parameter: &mut [f32],
    ) {
        let columns = column_means.len();
        for start in (0..columns).step_by(COLUMNS) {
            let mut factors = [0.0f32; COLUMNS];
            let factors = &mut factors[..COLUMNS.min(columns - start)];
            inverse_roots(&column_means[start..], factors);
            let rows = gradient.chunks_exact(columns).zip(parameter.chunks_exact_mut(columns));
            for (row_mean, (gradient, parameter)) in row_means.iter().zip(rows) {
                let row_factor = rate / (row_mean / mean).sqrt();
                let elements = gradient[start..].iter().zip(&mut parameter[start..]).zip(&*factors);
                for ((gradient, parameter), factor) in elements {
                    *parameter = *parameter * keep - row_factor * factor * gradient;
                }
            }
        }
    }
}

by_cpu_level! {
    /// Updates the moments; Σ u².
    fn vector_moments(beta2: f32, scale: f32, gradient: &[f32], moments: &mut [f32]) -> f64 {
        let mut sum = 0.0;
        for (gradient, moment) in gradient.iter().zip(moments) {
            let gradient = gradient * scale;
            *moment = *moment * beta2 + (gradient * gradient + EPSILON) * (1.0 - beta2);
            sum += f64::from(gradient * gradient / *moment);
        }
        sum
    }
}

by_cpu_level! {
    fn vector_update(keep: f32, rate: f32, gradient: &[f32], moments: &[f32], parameter: &mut [f32]) {
        for ((gradient, moment), parameter) in gradient.iter().zip(moments).zip(parameter) {
            *parameter = *parameter * keep - rate * gradient / moment.sqrt();
        }
    }
}

#[inline(always)]
fn inverse_roots(values: &[f32], roots: &mut [f32]) {
    for (root, value) in roots.iter_mut().zip(values) {
        *root = 1.0 / value.sqrt();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{close, normals};

    fn step(number: usize) -> AdafactorStep {
        AdafactorStep { learning_rate: 0.01, weight_decay: 0.1, step: number as u64, gradient_scale: 0.5 }
    }

    /// The steps in f64, the moment of a matrix of `rows` rows factored, that of a vector (no rows) whole.
    fn twin(inputs: &[&[f64]], rows: usize) -> Vec<f64> {
        let mut p = inputs[0].to_vec();
        let columns = p.len().checked_div(rows).unwrap_or(p.len());
        let (mut row, mut column) = (vec![0.0; rows.max(1)], vec![0.0; columns]);
        for (number, gradient) in (1..).zip(&inputs[1..]) {
            let beta2 = 1.0 - f64::from(number).powf(-0.8);
            let gradient: Vec<f64> = gradient.iter().map(|gradient| 0.5 * gradient).collect();
            let square = |row: usize, column: usize| gradient[row * columns + column].powi(2) + 1e-30;
            for (index, row) in row.iter_mut().enumerate() {
                let mean = (0..columns).map(|column| square(index, column)).sum::<f64>() / columns as f64;
                *row = beta2 * *row + (1.0 - beta2) * mean;
            }
            for (index, column) in column.iter_mut().enumerate() {
                let mean = (0..row.len()).map(|row| square(row, index)).sum::<f64>() / row.len() as f64;
                *column = beta2 * *column + (1.0 - beta2) * mean;
            }
            let row_mean = row.iter().sum::<f64>() / row.len() as f64;
            let update: Vec<f64> = (0..p.len())
                .map(|i| gradient[i] / (row[i / columns] / row_mean * column[i % columns]).sqrt())
                .collect();
            let rms = (update.iter().map(|u| u * u).sum::<f64>() / p.len() as f64).sqrt();
            for (p, update) in p.iter_mut().zip(update) {
                *p = *p * (1.0 - 0.01 * 0.1) - 0.01 * update / rms.max(1.0);
            }
        }
        p
    }

    #[test]
    fn three_steps_of_matrices_follow_the_formula() {
        for (rows, columns) in [(1, 1), (1, 7), (9, 1), (2 * ROWS + 5, 2 * COLUMNS + 19)] {
            let start = normals(1, rows * columns);
            let gradients: Vec<Vec<f32>> = (2..5).map(|key| normals(key, rows * columns)).collect();
            let (mut p, mut row, mut column) = (start.clone(), vec![0.0; rows], vec![0.0; columns]);
            for (number, gradient) in (1..).zip(&gradients) {
                let means = (ViewMut(&mut row), ViewMut(&mut column));
                adafactor_matrix_step(&step(number), View(gradient), means.0, means.1, ViewMut(&mut p));
            }
            let twin = |inputs: &[&[f64]]| twin(inputs, rows);
            close(&p, twin, &[&start, &gradients[0], &gradients[1], &gradients[2]], 2e-6);
        }
    }

    #[test]
    fn three_steps_of_vectors_follow_the_formula() {
        let length = CHUNK + 3;
        let start = normals(1, length);
        let gradients: Vec<Vec<f32>> = (2..5).map(|key| normals(key, length)).collect();
        let (mut p, mut moment) = (start.clone(), vec![0.0; length]);
        for (number, gradient) in (1..).zip(&gradients) {
            let step = step(number);
            adafactor_vector_step(&step, View(gradient), ViewMut(&mut moment), ViewMut(&mut p));
        }
        let twin = |inputs: &[&[f64]]| twin(inputs, 0);
        close(&p, twin, &[&start, &gradients[0], &gradients[1], &gradients[2]], 2e-6);
    }

    #[test]
    fn a_matrix_without_gradient_only_decays() {
        let (mut p, mut row, mut column) = ([1.0; 6], [0.0; 2], [0.0; 3]);
        let means = (ViewMut(&mut row), ViewMut(&mut column));
        adafactor_matrix_step(&step(1), View(&[0.0; 6]), means.0, means.1, ViewMut(&mut p));
        assert!(p.iter().all(|&p| (p - 0.999).abs() < 1e-6), "{p:?}");
    }
}
