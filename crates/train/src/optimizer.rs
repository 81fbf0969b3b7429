//! AdamW over the flat memory of trained parameters: norm, clipping, update.

use danlu_kernels::optimizer::adamw::{AdamwStep, adamw_step};
use danlu_kernels::reduce::sum_of_squares;
use danlu_kernels::{Buffer, View};
use danlu_model::Parameters;

use crate::recipe::TrainingOptions;

/// The optimizer's state and constants.
pub struct Adamw {
    pub(crate) first_moment: Buffer<f32>,
    pub(crate) second_moment: Buffer<f32>,
    beta1: f32,
    beta2: f32,
    epsilon: f32,
    weight_decay: f32,
    max_grad_norm: f64,
}

impl Adamw {
    /// Zero moments for `elements` trained elements.
    pub fn new(elements: usize, options: &TrainingOptions) -> Self {
        Self {
            first_moment: Buffer::zeros(elements),
            second_moment: Buffer::zeros(elements),
            beta1: options.adam_beta1 as f32,
            beta2: options.adam_beta2 as f32,
            epsilon: options.adam_epsilon as f32,
            weight_decay: options.weight_decay as f32,
            max_grad_norm: options.max_grad_norm,
        }
    }

    /// Clips the gradient to `max_grad_norm` (0: not at all) and updates the parameters; matrices decay, norms do not.
    /// Returns the norm before clipping. Nothing changes if that is not finite.
    pub fn step(
        &mut self,
        parameters: &mut Parameters,
        gradients: &Buffer<f32>,
        learning_rate: f64,
        step: u64,
    ) -> f64 {
        let norm = sum_of_squares(gradients.first(gradients.len())).sqrt();
        if !norm.is_finite() {
            return norm;
        }
        let clips = self.max_grad_norm > 0.0;
        let gradient_scale = if clips { (self.max_grad_norm / (norm + 1e-6)).min(1.0) as f32 } else { 1.0 };
        let list = parameters.list().to_vec();
        // Neighbours with the same decay are one piece of flat memory.
        for run in list.chunk_by(|a, b| a.decays() == b.decays()) {
            let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
            let range = first.range.start..last.range.end;
            let update = AdamwStep {
                learning_rate: learning_rate as f32,
                beta1: self.beta1,
                beta2: self.beta2,
                epsilon: self.epsilon,
                weight_decay: if first.decays() { self.weight_decay } else { 0.0 },
                step,
                gradient_scale,
            };
            let gradient: View<f32> = gradients.view(range.clone());
            adamw_step(
                &update,
                gradient,
                self.first_moment.view_mut(range.clone()),
                self.second_moment.view_mut(range.clone()),
                parameters.values_mut().view_mut(range),
            );
        }
        norm
    }
}
