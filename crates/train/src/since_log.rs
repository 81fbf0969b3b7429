//! What the next line of the log sums up: the steps since the last one.
//!
//! It is part of a checkpoint, so that a resumed run logs what an uninterrupted one does.

use serde::{Deserialize, Serialize};

use crate::objective::distillation::Parts;
use crate::objective::rewards::Rewards;
use crate::objective::step::Step;

/// Sums over steps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SinceLog {
    weighted_loss: f64,
    pub(crate) weight: f64,
    tokens: usize,
    pub(crate) rewards: Rewards,
    pub(crate) parts: Parts,
    /// Of the steps alone, without validations and checkpoints.
    seconds: f64,
}

impl SinceLog {
    pub(crate) fn add(&mut self, loss: f64, rewards: &Rewards, parts: &Parts, step: &Step, seconds: f64) {
        self.seconds += seconds;
        self.weighted_loss += loss * step.units;
        self.weight += step.units;
        self.tokens += step.slices.tokens();
        self.rewards.join(rewards);
        self.parts.join(parts);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tokens == 0
    }

    pub(crate) fn mean_loss(&self) -> f64 {
        if self.weight > 0.0 { self.weighted_loss / self.weight } else { 0.0 }
    }

    pub(crate) fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.seconds.max(1e-9)
    }
}
