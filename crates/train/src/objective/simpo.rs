//! Simple preference optimization (Meng et al. 2024, arXiv:2405.14734): the difference of the log-probabilities per token,
//! which has to exceed a margin. No reference.
//!
//! With a = log p per token: loss = −log σ(β (a(chosen) − a(rejected)) − γ). The reward of an answer is β a.

use super::answers::Answer;
use super::{PairTerm, smoothed_log_sigmoid};

/// The term of a pair.
pub fn term(beta: f64, gamma: f64, smoothing: f64, pair: &[Answer; 2]) -> PairTerm {
    let means = [pair[0].mean(), pair[1].mean()];
    let (loss, slope) = smoothed_log_sigmoid(beta * (means[0] - means[1]) - gamma, smoothing);
    PairTerm {
        loss,
        slopes: [beta * slope / pair[0].tokens(), -beta * slope / pair[1].tokens()],
        rewards: means.map(|mean| beta * mean),
        log_probabilities: means,
        odds_ratio_loss: None,
    }
}
