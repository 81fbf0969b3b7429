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
/// Columns of one pass over the rows of a task: long enough for the processor to fetch ahead.
const COLUMNS: usize = 1024;
/// Rows of one task.
const ROWS: usize = 64;

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

/// Elements of scratch that the step of a matrix [N, M] takes: sums over the rows of each task.
pub fn adafactor_scratch(rows: usize, columns: usize) -> usize {
    rows.div_ceil(ROWS) * columns
}

/// The update of a matrix [N, M] with the means of its squared gradients, `row_means` [N] and `column_means` [M]:
/// parameter ← parameter · (1 − lr · decay) − lr · u / max(1, rms(u)), u = gradient / √(row · column / mean(row)).
pub fn adafactor_matrix_step(
    step: &AdafactorStep,
    gradient: View<f32>,
    row_means: ViewMut<f32>,
    column_means: ViewMut<f32>,
    scratch: ViewMut<f32>,
    parameter: ViewMut<f32>,
) {
    let _timer = crate::timing::Operation::Optimizer.start();
    let (rows, columns) = (row_means.0.len(), column_means.0.len());
    assert!(gradient.0.len() == rows * columns && parameter.0.len() == rows * columns);
    if parameter.0.is_empty() {
        return;
    }
    let (beta2, scale, gradient) = (step.beta2(), step.gradient_scale, gradient.0);
    let tasks = rows.div_ceil(ROWS);
    let task_sums = &mut scratch.0[..tasks * columns];
    let shared_means = SharedSlice::new(&mut *row_means.0);
    parallel_chunks(task_sums, columns, |task, column_sums| {
        let (start, count) = (task * ROWS, ROWS.min(rows - task * ROWS));
        // SAFETY: each group of rows belongs to one task.
        let row_means = unsafe { shared_means.range(start, count) };
        let gradient = &gradient[start * columns..(start + count) * columns];
        sum_squares(beta2, scale, gradient, row_means, column_sums);
    });
    let task_sums = &*task_sums;
    parallel_chunks(column_means.0, 256, |block, means| {
        for (column, mean) in (block * 256..).zip(means) {
            let sum: f64 = task_sums[column..].iter().step_by(columns).map(|&sum| f64::from(sum)).sum();
            let now = (f64::from(scale * scale) * sum / rows as f64) as f32 + EPSILON;
            *mean = *mean * beta2 + now * (1.0 - beta2);
        }
    });
    let (row_means, column_means) = (&*row_means.0, &*column_means.0);
    let mean = (row_means.iter().map(|&mean| f64::from(mean)).sum::<f64>() / rows as f64) as f32;

    let mut sums = vec![0.0f64; tasks];
    parallel_chunks(&mut sums, 1, |task, sum| {
        let range = task * ROWS..rows.min((task + 1) * ROWS);
        let gradient = &gradient[range.start * columns..range.end * columns];
        sum[0] = update_squares(scale, mean, &row_means[range], column_means, gradient);
    });
    let rate = step.rate(sums.iter().sum(), rows * columns) * scale;
    let parameter = SharedSlice::new(parameter.0);
    parallel_for(tasks, |task| {
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
    let _timer = crate::timing::Operation::Optimizer.start();
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
    /// Updates the means of some rows; writes Σ g² of their columns.
    fn sum_squares(beta2: f32, scale: f32, gradient: &[f32], row_means: &mut [f32], column_sums: &mut [f32]) {
        const LANES: usize = 16;
        column_sums.fill(0.0);
        let columns = column_sums.len();
        let (sums, sums_rest) = column_sums.as_chunks_mut::<LANES>();
        for (mean, row) in row_means.iter_mut().zip(gradient.chunks_exact(columns)) {
            let mut lanes = [0.0f32; LANES];
            let (row, row_rest) = row.as_chunks::<LANES>();
            for (sums, row) in sums.iter_mut().zip(row) {
                for lane in 0..LANES {
                    let square = row[lane] * row[lane];
                    lanes[lane] += square;
                    sums[lane] += square;
                }
            }
            for ((lane, sum), gradient) in lanes.iter_mut().zip(&mut *sums_rest).zip(row_rest) {
                *lane += gradient * gradient;
                *sum += gradient * gradient;
            }
            let now = scale * scale * lanes.iter().sum::<f32>() / columns as f32 + EPSILON;
            *mean = *mean * beta2 + now * (1.0 - beta2);
        }
    }
}

by_cpu_level! {
    /// Σ u² of some rows.
    fn update_squares(scale: f32, mean: f32, row_means: &[f32], column_means: &[f32], gradient: &[f32]) -> f64 {
        let columns = column_means.len();
        let mut sum = 0.0;
        for start in (0..columns).step_by(COLUMNS) {
            let (mut factors, mut update) = ([0.0f32; COLUMNS], [0.0f32; COLUMNS]);
            let count = COLUMNS.min(columns - start);
            inverse_roots(&column_means[start..], &mut factors[..count]);
            for (row_mean, row) in row_means.iter().zip(gradient.chunks_exact(columns)) {
                let row_factor = scale / (row_mean / mean).sqrt();
                let elements = update.iter_mut().zip(&factors).zip(&row[start..start + count]);
                for ((update, factor), gradient) in elements {
                    *update = row_factor * factor * gradient;
                }
                sum += f64::from(dot(&update[..count], &update[..count]));
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
        for (rows, columns) in [(1, 1), (1, 7), (9, 1), (2 * ROWS + 5, COLUMNS + 19)] {
            let start = normals(1, rows * columns);
            let gradients: Vec<Vec<f32>> = (2..5).map(|key| normals(key, rows * columns)).collect();
            let (mut p, mut row, mut column) = (start.clone(), vec![0.0; rows], vec![0.0; columns]);
            let mut scratch = vec![f32::NAN; adafactor_scratch(rows, columns)];
            for (number, gradient) in (1..).zip(&gradients) {
                let (row, column) = (ViewMut(&mut row), ViewMut(&mut column));
                let (scratch, p) = (ViewMut(&mut scratch), ViewMut(&mut p));
                adafactor_matrix_step(&step(number), View(gradient), row, column, scratch, p);
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
        let (row, column) = (ViewMut(&mut row), ViewMut(&mut column));
        let (mut scratch, p_view) = ([0.0; 3], ViewMut(&mut p));
        adafactor_matrix_step(&step(1), View(&[0.0; 6]), row, column, ViewMut(&mut scratch), p_view);
        assert!(p.iter().all(|&p| (p - 0.999).abs() < 1e-6), "{p:?}");
    }
}
