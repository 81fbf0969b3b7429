//! What is logged of preferences, under trl's names.

use super::PairTerm;
use super::answers::Answer;

/// Sums over answers and pairs; means are taken when they are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
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

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Mean {
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
        let named = [
            (["rewards/chosen", "eval_rewards/chosen"], self.chosen.value()),
            (["rewards/rejected", "eval_rewards/rejected"], self.rejected.value()),
            (["rewards/accuracies", "eval_rewards/accuracies"], self.accuracy()),
            (["rewards/margins", "eval_rewards/margins"], self.margin()),
            (["logps/chosen", "eval_logps/chosen"], self.logps_chosen.value()),
            (["logps/rejected", "eval_logps/rejected"], self.logps_rejected.value()),
            (["sft_loss", "eval_sft_loss"], self.sft_loss.value()),
            (["odds_ratio_loss", "eval_odds_ratio_loss"], self.odds_ratio_loss.value()),
            (["kl", "eval_kl"], self.divergence.value()),
        ];
        named.into_iter().filter_map(|(names, value)| Some((names, value?)))
    }
}
