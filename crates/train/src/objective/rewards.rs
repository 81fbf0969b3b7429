//! What is logged of preferences, under trl's names.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::PairTerm;
use super::answers::Answer;

/// Names in the logs of training and of validation.
const NAMES: [[&str; 2]; 9] = [
    ["rewards/chosen", "eval_rewards/chosen"],
    ["rewards/rejected", "eval_rewards/rejected"],
    ["rewards/accuracies", "eval_rewards/accuracies"],
    ["rewards/margins", "eval_rewards/margins"],
    ["logps/chosen", "eval_logps/chosen"],
    ["logps/rejected", "eval_logps/rejected"],
    ["sft_loss", "eval_sft_loss"],
    ["odds_ratio_loss", "eval_odds_ratio_loss"],
    ["kl", "eval_kl"],
];

/// Sums over answers and pairs; means are taken when they are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rewards {
    chosen: Mean,
    rejected: Mean,
    accuracies: Mean,
    logps_chosen: Mean,
    logps_rejected: Mean,
    sft_loss: Mean,
    odds_ratio_loss: Mean,
    divergence: Mean,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Mean {
    #[serde(deserialize_with = "number_or_nan")]
    sum: f64,
    count: u64,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.join(Self { sum: value, count: 1 });
    }

    fn join(&mut self, other: Self) {
        self.sum += other.sum;
        self.count += other.count;
    }

    fn value(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

/// JSON has no sign for what is no finite number.
fn number_or_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

impl Rewards {
    pub(super) fn add_pair(&mut self, term: &PairTerm, learns_chosen: bool, chosen: &Answer) {
        self.chosen.add(term.rewards[0]);
        self.rejected.add(term.rewards[1]);
        self.accuracies.add(if term.rewards[0] > term.rewards[1] { 1.0 } else { 0.0 });
        self.logps_chosen.add(term.log_probabilities[0]);
        self.logps_rejected.add(term.log_probabilities[1]);
        if learns_chosen || term.odds_ratio_loss.is_some() {
            self.sft_loss.add(-chosen.mean());
        }
        if let Some(loss) = term.odds_ratio_loss {
            self.odds_ratio_loss.add(loss);
        }
    }

    pub(super) fn add_judged(&mut self, is_wanted: bool, reward: f64, log_probability: f64) {
        let (rewards, log_probabilities) = match is_wanted {
            true => (&mut self.chosen, &mut self.logps_chosen),
            false => (&mut self.rejected, &mut self.logps_rejected),
        };
        rewards.add(reward);
        log_probabilities.add(log_probability);
    }

    pub(crate) fn add_divergence(&mut self, divergence: f64) {
        self.divergence.add(divergence);
    }

    /// Adds those of another step.
    pub fn join(&mut self, other: &Self) {
        for (mean, other) in [
            (&mut self.chosen, other.chosen),
            (&mut self.rejected, other.rejected),
            (&mut self.accuracies, other.accuracies),
            (&mut self.logps_chosen, other.logps_chosen),
            (&mut self.logps_rejected, other.logps_rejected),
            (&mut self.sft_loss, other.sft_loss),
            (&mut self.odds_ratio_loss, other.odds_ratio_loss),
            (&mut self.divergence, other.divergence),
        ] {
            mean.join(other);
        }
    }

    /// Share of the pairs whose wanted answer has the higher reward.
    pub fn accuracy(&self) -> Option<f64> {
        self.accuracies.value()
    }

    /// Mean reward of wanted answers above that of unwanted ones.
    pub fn margin(&self) -> Option<f64> {
        Some(self.chosen.value()? - self.rejected.value()?)
    }

    /// Names in the logs of training and of validation, with the means that there are.
    pub fn named(&self) -> impl Iterator<Item = ([&'static str; 2], f64)> {
        let values = [
            self.chosen.value(),
            self.rejected.value(),
            self.accuracy(),
            self.margin(),
            self.logps_chosen.value(),
            self.logps_rejected.value(),
            self.sft_loss.value(),
            self.odds_ratio_loss.value(),
            self.divergence.value(),
        ];
        NAMES.into_iter().zip(values).filter_map(|(names, value)| Some((names, value?)))
    }
}

/// The means that a logged validation has, under their names in the logs of training.
pub fn logged(validation: &BTreeMap<String, Value>) -> BTreeMap<&'static str, f64> {
    let values = NAMES
        .into_iter()
        .filter_map(|[name, of_validation]| Some((name, validation.get(of_validation)?.as_f64()?)));
    values.collect()
}
