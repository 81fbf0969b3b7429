//! Stochastic gradient descent, without momentum: no state at all.

use super::CHUNK;
use crate::buffer::{View, ViewMut};
use crate::team::parallel_chunks;

/// The numbers of one step.
#[derive(Clone, Copy, Debug)]
pub struct SgdStep {
    /// Learning rate of this step.
    pub learning_rate: f32,
    /// Weight decay; without momentum, added to the gradient and decoupled from it are the same.
    pub weight_decay: f32,
    /// Factor on the gradient: clipping.
    pub gradient_scale: f32,
}

/// parameter ← parameter · (1 − lr · decay) − lr · gradient.
pub fn sgd_step(step: &SgdStep, gradient: View<f32>, parameter: ViewMut<f32>) {
    let _timer = crate::timing::Operation::Optimizer.start();
    assert_eq!(gradient.0.len(), parameter.0.len());
    parallel_chunks(parameter.0, CHUNK, |task, parameter| {
        update(step, &gradient.0[task * CHUNK..][..parameter.len()], parameter);
    });
}

by_cpu_level! {
    fn update(step: &SgdStep, gradient: &[f32], parameter: &mut [f32]) {
        let keep = 1.0 - step.learning_rate * step.weight_decay;
        let rate = step.learning_rate * step.gradient_scale;
        for (gradient, parameter) in gradient.iter().zip(parameter) {
            *parameter = *parameter * keep - rate * gradient;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{close, normals};

    #[test]
    fn a_step_follows_the_formula() {
        let length = CHUNK + 21;
        let (start, gradient) = (normals(1, length), normals(2, length));
        let mut p = start.clone();
        let step = SgdStep { learning_rate: 0.1, weight_decay: 0.3, gradient_scale: 0.5 };
        sgd_step(&step, View(&gradient), ViewMut(&mut p));
        let twin = |inputs: &[&[f64]]| {
            let pairs = inputs[0].iter().zip(inputs[1]);
            pairs.map(|(p, g)| p - 0.1 * (0.5 * g + 0.3 * p)).collect()
        };
        close(&p, twin, &[&start, &gradient], 1e-6);
    }
}
