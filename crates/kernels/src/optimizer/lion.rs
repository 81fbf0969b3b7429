//! Lion (Chen et al. 2023, arXiv:2302.06675): steps of equal size for every element, one moment.

use super::CHUNK;
use crate::buffer::{View, ViewMut};
use crate::team::{SharedSlice, parallel_chunks};

/// The numbers of one step.
#[derive(Clone, Copy, Debug)]
pub struct LionStep {
    /// Learning rate of this step.
    pub learning_rate: f32,
    /// Share of the moment in the direction of this step.
    pub beta1: f32,
    /// Decay of the moment.
    pub beta2: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Factor on the gradient: clipping.
    pub gradient_scale: f32,
}

/// parameter ← parameter · (1 − lr · decay) − lr · sign(β₁ m + (1 − β₁) g), then m ← β₂ m + (1 − β₂) g.
pub fn lion_step(step: &LionStep, gradient: View<f32>, moment: ViewMut<f32>, parameter: ViewMut<f32>) {
    let _timer = crate::timing::Operation::Optimizer.start();
    let length = parameter.0.len();
    assert!(gradient.0.len() == length && moment.0.len() == length);
    let moment = SharedSlice::new(moment.0);
    parallel_chunks(parameter.0, CHUNK, |task, parameter| {
        let (start, count) = (task * CHUNK, parameter.len());
        // SAFETY: each chunk belongs to one task.
        let moment = unsafe { moment.range(start, count) };
        update(step, &gradient.0[start..start + count], moment, parameter);
    });
}

by_cpu_level! {
    fn update(step: &LionStep, gradient: &[f32], moment: &mut [f32], parameter: &mut [f32]) {
        let keep = 1.0 - step.learning_rate * step.weight_decay;
        for ((gradient, moment), parameter) in gradient.iter().zip(moment).zip(parameter) {
            let gradient = gradient * step.gradient_scale;
            let direction = *moment * step.beta1 + gradient * (1.0 - step.beta1);
            // Zero has no sign: nothing moves where there was never a gradient.
            let sign = f32::from(direction > 0.0) - f32::from(direction < 0.0);
            *parameter = *parameter * keep - step.learning_rate * sign;
            *moment = *moment * step.beta2 + gradient * (1.0 - step.beta2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{close, normals};

    #[test]
    fn three_steps_follow_the_formula() {
        let length = CHUNK + 5;
        let mut gradients: Vec<Vec<f32>> = (2..5).map(|key| normals(key, length)).collect();
        gradients.iter_mut().for_each(|gradient| gradient[7] = 0.0);
        let (start, mut moment) = (normals(1, length), vec![0.0; length]);
        let mut p = start.clone();
        let step =
            LionStep { learning_rate: 0.01, beta1: 0.9, beta2: 0.99, weight_decay: 0.1, gradient_scale: 0.5 };
        for gradient in &gradients {
            lion_step(&step, View(gradient), ViewMut(&mut moment), ViewMut(&mut p));
        }
        let twin = |inputs: &[&[f64]]| {
            let mut p = inputs[0].to_vec();
            for (index, p) in p.iter_mut().enumerate() {
                let mut m = 0.0;
                for gradients in &inputs[1..] {
                    let gradient: f64 = 0.5 * gradients[index];
                    let direction: f64 = 0.9 * m + 0.1 * gradient;
                    let sign = if direction == 0.0 { 0.0 } else { direction.signum() };
                    *p = *p * (1.0 - 0.01 * 0.1) - 0.01 * sign;
                    m = 0.99 * m + 0.01 * gradient;
                }
            }
            p
        };
        close(&p, twin, &[&start, &gradients[0], &gradients[1], &gradients[2]], 1e-6);
    }
}
