//! Validation: the loss of samples that are not trained on, with what is known beside it.
//!
//! When a run validates and where the numbers go is said in [`crate::trainer`].

use std::time::{Duration, Instant};

use danlu_model::{Activations, Model};

use crate::error::Result;
use crate::objective::rewards::Rewards;
use crate::objective::step::Steps;
use crate::objective::{Objective, Tally};
use crate::optimizer_step::{divergence, mismatched_ratios, score};
use crate::recipe::Preference;

/// What a validation came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Validation {
    /// Mean loss.
    pub(crate) loss: f64,
    /// Of texts: share of the tokens with a loss that the model finds the most probable ones.
    pub(crate) accuracy: Option<f64>,
    /// Of preferences.
    pub(crate) rewards: Option<Rewards>,
    /// Samples, or pairs of them.
    pub(crate) samples: u64,
    pub(crate) runtime: Duration,
}

/// Validates with all samples of `steps`; tokens without loss count for nothing.
///
/// # Errors
/// Tokens that the model does not take.
pub(crate) fn validate(
    model: &Model,
    objective: &Objective,
    steps: &Steps,
    activations: &mut Activations,
) -> Result<Validation> {
    let start = Instant::now();
    let mut tally = Tally::default();
    let mut ratios = Vec::new();
    if objective.preference == Some(Preference::Judged) {
        for part in steps.parts() {
            ratios.extend(mismatched_ratios(model, &part, activations)?);
        }
    }
    let divergence = divergence(&ratios, &mut tally);
    let (mut units, mut right, mut count) = (0.0, 0, 0);
    for part in steps.parts() {
        units += part.units;
        for (index, slice) in part.slices.slices.iter().enumerate() {
            let scores = score(model, slice, activations)?;
            objective.weigh(&part, index, &scores, divergence, &mut tally);
            let pairs = slice.targets.iter().zip(&scores);
            right += pairs.filter(|(target, score)| target.id == score.argmax).count();
            count += scores.len();
        }
    }
    let is_of_texts = objective.preference.is_none();
    Ok(Validation {
        loss: tally.loss / units.max(f64::MIN_POSITIVE),
        accuracy: is_of_texts.then(|| right as f64 / count.max(1) as f64),
        rewards: objective.preference.map(|_| tally.rewards),
        samples: (steps.samples.len() / steps.group()) as u64,
        runtime: start.elapsed(),
    })
}
