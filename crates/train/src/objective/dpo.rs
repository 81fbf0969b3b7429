//! Direct preference optimization (Rafailov et al. 2023, arXiv:2305.18290), IPO (Azar et al. 2023, arXiv:2310.12036) and
//! the hinge of SLiC (Zhao et al. 2023, arXiv:2305.10425), as trl computes them.
//!
//! With r = log p − log p of the reference, of each answer as a whole, and δ = r(chosen) − r(rejected):
//! sigmoid: −log σ(β δ), and with label smoothing ε −(1 − ε) log σ(β δ) − ε log σ(−β δ); hinge: max(0, 1 − β δ); IPO, with
//! r per token: (δ − 1 / (2 β))². The reward of an answer is β r.

use super::answers::Answer;
use super::{PairTerm, smoothed_log_sigmoid};

/// DPO with label smoothing.
pub fn sigmoid(beta: f64, smoothing: f64, pair: &[Answer; 2], reference: [f64; 2]) -> PairTerm {
    let ratios = ratios(pair, reference);
    let (loss, slope) = smoothed_log_sigmoid(beta * (ratios[0] - ratios[1]), smoothing);
    term(beta, pair, ratios, loss, [beta * slope, -beta * slope])
}

/// Identity preference optimization.
pub fn ipo(beta: f64, pair: &[Answer; 2], reference: [f64; 2]) -> PairTerm {
    let ratios = ratios(pair, reference);
    let [chosen, rejected] = [pair[0].tokens(), pair[1].tokens()];
    let distance = ratios[0] / chosen - ratios[1] / rejected - 1.0 / (2.0 * beta);
    term(beta, pair, ratios, distance * distance, [2.0 * distance / chosen, -2.0 * distance / rejected])
}

/// The hinge.
pub fn hinge(beta: f64, pair: &[Answer; 2], reference: [f64; 2]) -> PairTerm {
    let ratios = ratios(pair, reference);
    let loss = (1.0 - beta * (ratios[0] - ratios[1])).max(0.0);
    let slope = if loss > 0.0 { beta } else { 0.0 };
    term(beta, pair, ratios, loss, [-slope, slope])
}

fn ratios(pair: &[Answer; 2], reference: [f64; 2]) -> [f64; 2] {
    [pair[0].log_probability - reference[0], pair[1].log_probability - reference[1]]
}

fn term(beta: f64, pair: &[Answer; 2], ratios: [f64; 2], loss: f64, slopes: [f64; 2]) -> PairTerm {
    PairTerm {
        loss,
        slopes,
        rewards: ratios.map(|ratio| beta * ratio),
        log_probabilities: [pair[0].log_probability, pair[1].log_probability],
        odds_ratio_loss: None,
    }
}
