//! AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) over flat memory, in PyTorch's order of operations.

use super::CHUNK;
use crate::buffer::{View, ViewMut};
use crate::team::{SharedSlice, parallel_chunks};

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
    let _timer = crate::timing::Operation::Optimizer.start();
    let length = parameter.0.len();
    assert!(gradient.0.len() == length && first_moment.0.len() == length && second_moment.0.len() == length);
    let rates = Rates::of(step);
    let (first, second) = (SharedSlice::new(first_moment.0), SharedSlice::new(second_moment.0));
    parallel_chunks(parameter.0, CHUNK, |task, parameter| {
        let (start, count) = (task * CHUNK, parameter.len());
        // SAFETY: each chunk belongs to one task.
        let (first, second) = unsafe { (first.range(start, count), second.range(start, count)) };
        update(step, rates, &gradient.0[start..start + count], first, second, parameter);
    });
}

/// What is the same for all elements: 1 − lr · decay, lr / (1 − β₁ᵗ), √(1 − β₂ᵗ).
#[derive(Clone, Copy)]
pub(super) struct Rates {
    pub(super) keep: f32,
    pub(super) step_size: f32,
    pub(super) root_correction2: f32,
}

impl Rates {
    pub(super) fn of(step: &AdamwStep) -> Self {
        let power = step.step.min(1 << 30) as i32;
        let [correction1, correction2] =
            [step.beta1, step.beta2].map(|beta| 1.0 - f64::from(beta).powi(power));
        Self {
            keep: 1.0 - step.learning_rate * step.weight_decay,
            step_size: (f64::from(step.learning_rate) / correction1) as f32,
            root_correction2: correction2.sqrt() as f32,
        }
    }
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
            element(step, rates, *gradient, first, second, parameter);
        }
    }
}

/// The formula for one element.
#[inline(always)]
pub(super) fn element(
    step: &AdamwStep,
    rates: Rates,
    gradient: f32,
    first: &mut f32,
    second: &mut f32,
    parameter: &mut f32,
) {
    let gradient = gradient * step.gradient_scale;
    *first += (gradient - *first) * (1.0 - step.beta1);
    *second = *second * step.beta2 + gradient * gradient * (1.0 - step.beta2);
    let denominator = second.sqrt() / rates.root_correction2 + step.epsilon;
    *parameter = *parameter * rates.keep - rates.step_size * (*first / denominator);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{close, normals};

    #[test]
    fn three_steps_follow_the_formula() {
        let length = CHUNK + 37;
        let (mut m, mut v, start) = (vec![0.0; length], vec![0.0; length], normals(1, length));
        let mut p = start.clone();
        let gradients: Vec<Vec<f32>> = (2..5).map(|key| normals(key, length)).collect();
        for (index, gradient) in gradients.iter().enumerate() {
            let step = AdamwStep {
                learning_rate: 0.01,
                beta1: 0.9,
                beta2: 0.95,
                epsilon: 1e-8,
                weight_decay: 0.1,
                step: index as u64 + 1,
                gradient_scale: 0.5,
            };
            adamw_step(&step, View(gradient), ViewMut(&mut m), ViewMut(&mut v), ViewMut(&mut p));
        }
        let twin = |inputs: &[&[f64]]| {
            let mut p = inputs[0].to_vec();
            for (index, p) in p.iter_mut().enumerate() {
                let (mut m, mut v) = (0.0, 0.0);
                for (power, gradients) in (1..).zip(&inputs[1..]) {
                    let gradient = 0.5 * gradients[index];
                    m = 0.9 * m + 0.1 * gradient;
                    v = 0.95 * v + 0.05 * gradient * gradient;
                    let (m_hat, v_hat) = (m / (1.0 - 0.9f64.powi(power)), v / (1.0 - 0.95f64.powi(power)));
                    *p = *p * (1.0 - 0.01 * 0.1) - 0.01 * m_hat / (v_hat.sqrt() + 1e-8);
                }
            }
            p
        };
        close(&p, twin, &[&start, &gradients[0], &gradients[1], &gradients[2]], 1e-6);
    }
}
