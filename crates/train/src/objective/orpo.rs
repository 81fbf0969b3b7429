//! Odds ratio preference optimization (Hong et al. 2024, arXiv:2403.07691): learns the wanted answer and, beside it, to give
//! it higher odds than the unwanted one. No reference.
//!
//! With a = log p per token and log odds(a) = a − log(1 − eᵃ): loss = −a(chosen) − β log σ(log odds(chosen) − log odds(
//! rejected)). The first term is that of the answer alone, as LLaMA-Factory has it; trl also learns the prompt there.

use super::answers::Answer;
use super::{PairTerm, log_sigmoid, sigmoid};

/// The least distance of a mean log-probability from 0: odds of a certain answer would be infinite.
const LEAST: f64 = 1e-7;

/// The term of a pair.
pub fn term(beta: f64, pair: &[Answer; 2]) -> PairTerm {
    let means = [pair[0].mean(), pair[1].mean()].map(|mean| mean.min(-LEAST));
    // log(1 − eᵃ), exact near 0 too.
    let [chosen, rejected] = means.map(|mean| mean - (-mean.exp_m1()).ln());
    let ratio = chosen - rejected;
    let odds_ratio_loss = -log_sigmoid(ratio);
    // ∂ log odds / ∂a = 1 / (1 − eᵃ)
    let pull = means.map(|mean| beta * sigmoid(-ratio) / -mean.exp_m1());
    PairTerm {
        loss: odds_ratio_loss.mul_add(beta, -means[0]),
        slopes: [-(1.0 + pull[0]) / pair[0].tokens(), pull[1] / pair[1].tokens()],
        rewards: means.map(|mean| beta * mean),
        log_probabilities: means,
        odds_ratio_loss: Some(odds_ratio_loss),
    }
}
