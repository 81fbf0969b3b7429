//! Mirostat (arXiv 2007.14966): keeps the surprise of an answer near a target by cutting off what would surprise more than
//! a bound, which follows the surprise of the tokens that were drawn.

use super::candidates::Candidates;

/// Tokens from which version 1 estimates how fast probabilities fall, as the paper has it.
const ESTIMATED_FROM: usize = 100;

/// The bound that moves.
pub(super) struct Mirostat {
    tau: f64,
    eta: f64,
    /// Surprise, in bits, above which tokens are cut off.
    mu: f64,
}

impl Mirostat {
    pub(super) fn new(tau: f32, eta: f32) -> Self {
        Self { tau: tau.into(), eta: eta.into(), mu: 2.0 * f64::from(tau) }
    }

    /// Version 1: as many of the most probable tokens as have the target's surprise if probabilities fall by Zipf's law.
    pub(super) fn keep_by_zipf(&self, candidates: &mut Candidates, vocabulary: usize) {
        candidates.sort(ESTIMATED_FROM);
        let head = candidates.sorted();
        let (mut products, mut squares) = (0.0, 0.0);
        for (rank, pair) in head.windows(2).take(ESTIMATED_FROM - 1).enumerate() {
            let step = ((rank + 2) as f64 / (rank + 1) as f64).ln();
            products += step * (pair[0].weight / pair[1].weight).ln();
            squares += step * step;
        }
        let exponent = products / squares;
        let beyond = exponent - 1.0;
        let kept = (beyond * self.mu.exp2() / (1.0 - (vocabulary as f64).powf(-beyond))).powf(1.0 / exponent);
        // Where the estimate is no number (equal probabilities, a single token) nothing is known to cut off.
        if kept.is_finite() {
            candidates.keep_first((kept.round() as usize).max(1));
        }
    }

    /// Version 2: the tokens that surprise no more than the bound, one at least.
    pub(super) fn keep_by_surprise(&self, candidates: &mut Candidates) {
        let bound = candidates.total() * (-self.mu).exp2();
        if !candidates.keep_above(bound) {
            candidates.keep_first(1);
        }
    }

    /// Moves the bound by how much the drawn token's surprise, before the cut, was above the target.
    pub(super) fn drawn(&mut self, probability: f64) {
        self.mu -= self.eta * (-probability.log2() - self.tau);
    }
}

#[cfg(test)]
mod tests {
    use crate::{Sampler, Sampling};

    /// The mean surprise of an answer whose logits fall by Zipf's law.
    fn mean_surprise(mirostat: u8, tau: f32) -> f64 {
        let logits: Vec<f32> = (1..=2000).map(|rank| -1.1 * (rank as f32).ln()).collect();
        let total: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
        let options = Sampling { temperature: 1.0, mirostat, mirostat_tau: tau, ..Sampling::default() };
        let mut sampler = Sampler::new(options);
        let surprise = |id: u32| -(f64::from(logits[id as usize]).exp() / total).log2();
        let all: Vec<f64> = (0..2000).map(|_| surprise(sampler.next(&mut logits.clone(), &[], 0))).collect();
        all[500..].iter().sum::<f64>() / 1500.0
    }

    #[test]
    fn both_versions_hold_the_surprise_that_is_asked_for() {
        for mirostat in [1, 2] {
            for tau in [3.0, 4.5] {
                let found = mean_surprise(mirostat, tau);
                assert!((found - f64::from(tau)).abs() < 0.1, "{mirostat}: {found} against {tau}");
            }
        }
    }

    #[test]
    fn equal_and_single_tokens_are_chosen_among() {
        for mirostat in [1, 2] {
            let options = Sampling { temperature: 1.0, mirostat, ..Sampling::default() };
            let mut sampler = Sampler::new(options);
            assert!(sampler.next(&mut [0.5; 7], &[], 0) < 7);
            let lone = &mut [f32::NEG_INFINITY, 1.0, f32::NEG_INFINITY];
            assert_eq!(sampler.next(lone, &[], 0), 1);
        }
    }
}
