//! Contrastive preference optimization (Xu et al. 2024, arXiv:2401.08417): DPO with a uniform reference, and the plain loss
//! of the wanted answer beside it, which `pref_ftx` weighs. No reference.
//!
//! loss = −log σ(β (log p(chosen) − log p(rejected))). The reward of an answer is β log p.

use super::answers::Answer;
use super::{PairTerm, dpo};

/// The term of a pair, without the plain loss.
pub fn term(beta: f64, smoothing: f64, pair: &[Answer; 2]) -> PairTerm {
    dpo::sigmoid(beta, smoothing, pair, [0.0; 2])
}
