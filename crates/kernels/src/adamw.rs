//! AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) over flat memory, in PyTorch's order of operations.

use crate::buffer::{View, ViewMut};
use crate::team::{SharedSlice, parallel_chunks};

/// Elements of one task.
const CHUNK: usize = 1 << 14;

/// The numbers of one step.
#[derive(Clone, Copy, Debug)]
pub struct AdamwStep {
    /// Learning rate of this step.
    pub learning_rate: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Number of this step, from 1.
    pub step: u64,
    /// Factor on the gradient: clipping.
    pub gradient_scale: f32,
}

/// parameter ← parameter · (1 − lr · decay) − lr · m̂ / (√v̂ + ε), with both moments updated on the way.
pub fn adamw_step(
    step: &AdamwStep,
    gradient: View<f32>,
    first_moment: ViewMut<f32>,
    second_moment: ViewMut<f32>,
    parameter: ViewMut<f32>,
) {
    let length = parameter.0.len();
    assert!(gradient.0.len() == length && first_moment.0.len() == length && second_moment.0.len() == length);
    let correction1 = 1.0 - f64::from(step.beta1).powi(step.step.min(1 << 30) as i32);
    let correction2 = 1.0 - f64::from(step.beta2).powi(step.step.min(1 << 30) as i32);
    let rates = Rates {
        keep: 1.0 - step.learning_rate * step.weight_decay,
        step_size: (f64::from(step.learning_rate) / correction1) as f32,
        root_correction2: correction2.sqrt() as f32,
    };
    let (first, second) = (SharedSlice::new(first_moment.0), SharedSlice::new(second_moment.0));
    parallel_chunks(parameter.0, CHUNK, |task, parameter| {
        let (start, count) = (task * CHUNK, parameter.len());
        // SAFETY: each chunk belongs to one task.
        let (first, second) = unsafe { (first.range(start, count), second.range(start, count)) };
        update(step, rates, &gradient.0[start..start + count], first, second, parameter);
    });
}

#[derive(Clone, Copy)]
struct Rates {
    keep: f32,
    step_size: f32,
    root_correction2: f32,
}

by_cpu_level! {
    fn update(
        step: &AdamwStep,
        rates: Rates,
        gradient: &[f32],
        first: &mut [f32],
        second: &mut [f32],
        parameter: &mut [f32],
    ) {
        for (((gradient, first), second), parameter) in gradient.iter().zip(first).zip(second).zip(parameter) {
            let gradient = gradient * step.gradient_scale;
            *first += (gradient - *first) * (1.0 - step.beta1);
            *second = *second * step.beta2 + gradient * gradient * (1.0 - step.beta2);
            let denominator = second.sqrt() / rates.root_correction2 + step.epsilon;
            *parameter = *parameter * rates.keep - rates.step_size * (*first / denominator);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_steps_follow_the_formula() {
        let gradients = [0.5f32, -2.0, 1e-3];
        let (mut m, mut v, mut p) = ([0.0f32], [0.0f32], [1.0f32]);
        let (mut m64, mut v64, mut p64) = (0.0f64, 0.0f64, 1.0f64);
        for (index, gradient) in gradients.into_iter().enumerate() {
            let step = AdamwStep {
                learning_rate: 0.01,
                beta1: 0.9,
                beta2: 0.95,
                epsilon: 1e-8,
                weight_decay: 0.1,
                step: index as u64 + 1,
                gradient_scale: 0.5,
            };
            adamw_step(&step, View(&[gradient]), ViewMut(&mut m), ViewMut(&mut v), ViewMut(&mut p));
            let gradient = f64::from(gradient) * 0.5;
            m64 = 0.9 * m64 + 0.1 * gradient;
            v64 = 0.95 * v64 + 0.05 * gradient * gradient;
            let power = index as i32 + 1;
            let (m_hat, v_hat) = (m64 / (1.0 - 0.9f64.powi(power)), v64 / (1.0 - 0.95f64.powi(power)));
            p64 = p64 * (1.0 - 0.01 * 0.1) - 0.01 * m_hat / (v_hat.sqrt() + 1e-8);
            assert!((f64::from(p[0]) - p64).abs() < 1e-6, "{} against {p64}", p[0]);
        }
    }
}
