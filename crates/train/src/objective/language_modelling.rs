//! Language modelling: the mean negative log-likelihood of the trained tokens of a whole optimizer step.
//!
//! loss = −Σ wᵢ · log pᵢ / Σ w, with both sums over the step and not over a slice or a micro-batch, so that
//! accumulation changes nothing (transformers #34191). Coefficients are known before the forward.

use danlu_data::Slice;
use danlu_kernels::cross_entropy::Score;

/// ∂loss / ∂log p of every target of a slice: −w / Σ w.
pub fn coefficients(slice: &Slice, step_weight: f64) -> Vec<f32> {
    slice.targets.iter().map(|target| (-f64::from(target.weight) / step_weight) as f32).collect()
}

/// Σ w · (−log p) of a slice, before the division by the step's weight.
pub fn weighted_loss(slice: &Slice, scores: &[Score]) -> f64 {
    let terms = slice.targets.iter().zip(scores);
    terms.map(|(target, score)| -f64::from(target.weight) * f64::from(score.log_probability)).sum()
}
