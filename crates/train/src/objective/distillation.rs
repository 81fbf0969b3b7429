//! Distillation (Hinton et al. 2015, arXiv:1503.02531): a student learns what a teacher finds probable, beside the data.
//!
//! With q = the teacher's probabilities of its K most probable tokens at temperature T, normalised again, and p = the student's
//! probabilities of all tokens at temperature T, the loss of a target y of weight w is
//!
//! w · (α · T² · KL(q ‖ p) + (1 − α) · (−log p₁(y))), p₁ being p at temperature 1,
//!
//! divided as in language modelling by the weights of the whole step. The sum over K tokens with renormalised q is that of axolotl's
//! and DistillKit's offline distillation; T² keeps the size of the gradient (1 / T² of it) as it is. Coefficients are known before the
//! forward. What the teacher says is made by [`teacher`](super::teacher). Validations are plain cross-entropy.

use danlu_data::Slice;
use danlu_kernels::cross_entropy::{Score, SoftTargets};
use serde::{Deserialize, Serialize};

use super::language_modelling;
use crate::recipe::DistillationOptions;

/// How much of the teacher is learned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distillation {
    /// α, the share of the teacher.
    pub alpha: f64,
    /// T.
    pub temperature: f64,
}

/// What the teacher finds probable at the targets of a slice.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SoftSlice {
    /// Tokens, [N, K].
    pub ids: Vec<u32>,
    /// log p of each, [N, K].
    pub log_probabilities: Vec<f32>,
}

/// The two parts of the loss, summed with the weights of their targets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Parts {
    /// KL(q ‖ p), without α and T².
    pub divergence: f64,
    /// Cross-entropy, without 1 − α.
    pub cross_entropy: f64,
}

/// ∂loss by what the model says of each target of a slice.
#[derive(Clone, Debug, PartialEq)]
pub struct Coefficients {
    /// ∂loss / ∂log p.
    pub hard: Vec<f32>,
    /// ∂loss / ∂KL.
    pub soft: Vec<f32>,
}

impl SoftSlice {
    /// It as the head takes it.
    pub fn targets<'a>(
        &'a self,
        distillation: Distillation,
        coefficients: &'a Coefficients,
    ) -> SoftTargets<'a> {
        SoftTargets {
            ids: &self.ids,
            log_probabilities: &self.log_probabilities,
            temperature: distillation.temperature as f32,
            coefficients: &coefficients.soft,
        }
    }
}

impl Parts {
    /// Of a slice whose scores have divergences.
    pub fn of(slice: &Slice, scores: &[Score]) -> Self {
        let terms = slice.targets.iter().zip(scores);
        let divergence =
            terms.map(|(target, score)| f64::from(target.weight) * f64::from(score.divergence)).sum();
        Self { divergence, cross_entropy: language_modelling::weighted_loss(slice, scores) }
    }

    /// Adds those of others.
    pub fn join(&mut self, other: &Self) {
        self.divergence += other.divergence;
        self.cross_entropy += other.cross_entropy;
    }

    /// Per unit of weight.
    pub fn mean(&self, weight: f64) -> Self {
        let weight = weight.max(f64::MIN_POSITIVE);
        Self { divergence: self.divergence / weight, cross_entropy: self.cross_entropy / weight }
    }

    /// Names in the logs of training.
    pub fn named(&self) -> [(&'static str, f64); 2] {
        [("kl", self.divergence), ("ce", self.cross_entropy)]
    }
}

impl Distillation {
    /// That of a recipe with a teacher.
    pub fn of(options: &DistillationOptions) -> Option<Self> {
        options.teacher_model_name_or_path.as_ref()?;
        Some(Self { alpha: options.distillation_alpha, temperature: options.distillation_temperature })
    }

    fn factor(self) -> f64 {
        self.alpha * self.temperature * self.temperature
    }

    /// Those of every target of a slice, in a step whose targets weigh so much.
    pub fn coefficients(self, slice: &Slice, step_weight: f64) -> Coefficients {
        let of = |factor: f64| -> Vec<f32> {
            slice
                .targets
                .iter()
                .map(|target| (factor * f64::from(target.weight) / step_weight) as f32)
                .collect()
        };
        Coefficients { hard: of(self.alpha - 1.0), soft: of(self.factor()) }
    }

    /// The loss of these parts.
    pub fn loss(self, parts: &Parts) -> f64 {
        self.factor() * parts.divergence + (1.0 - self.alpha) * parts.cross_entropy
    }
}
