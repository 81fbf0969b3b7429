//! Changes of single logits before tokens are chosen: bias, and penalties on tokens that occurred.

use super::Sampling;

/// Divides the logits [V] of tokens that occurred by the penalty, or multiplies them where they are below zero. A token that
/// occurred often is penalized once.
pub fn penalize(logits: &mut [f32], previous: &[u32], penalty: f32) {
    Penalties::default().repetition(logits, previous, penalty);
}

/// Memory of the penalties: how often each token was met, [V], all zero between calls.
#[derive(Default)]
pub(super) struct Penalties {
    counts: Vec<u32>,
}

impl Penalties {
    /// Bias, repetition penalty over all tokens, presence and frequency penalties over those behind the prompt.
    pub(super) fn apply(
        &mut self,
        logits: &mut [f32],
        previous: &[u32],
        prompt_tokens: usize,
        options: &Sampling,
    ) {
        for (&id, &bias) in &options.logit_bias {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit = if bias <= -100.0 { f32::NEG_INFINITY } else { *logit + bias };
            }
        }
        self.repetition(logits, previous, options.repetition_penalty);
        let (presence, frequency) = (options.presence_penalty, options.frequency_penalty);
        if presence != 0.0 || frequency != 0.0 {
            let new = previous.get(prompt_tokens..).unwrap_or_default();
            self.each(logits, new, |logit, count| *logit -= presence + frequency * count as f32);
        }
    }

    fn repetition(&mut self, logits: &mut [f32], previous: &[u32], penalty: f32) {
        if penalty != 1.0 {
            self.each(logits, previous, |logit, _| {
                *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
            });
        }
    }

    /// Calls `change` once for each different token, with how often it is among `tokens`.
    fn each(&mut self, logits: &mut [f32], tokens: &[u32], mut change: impl FnMut(&mut f32, u32)) {
        self.counts.resize(logits.len(), 0);
        for &id in tokens {
            if let Some(count) = self.counts.get_mut(id as usize) {
                *count += 1;
            }
        }
        for &id in tokens {
            if let Some(count) = self.counts.get_mut(id as usize).filter(|count| **count > 0) {
                change(&mut logits[id as usize], std::mem::take(count));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presence_and_frequency_count_only_the_answer() {
        let options = Sampling { presence_penalty: 0.5, frequency_penalty: 0.25, ..Sampling::default() };
        let mut logits = [1.0; 5];
        Penalties::default().apply(&mut logits, &[0, 1, 1, 2, 2, 2, 3], 2, &options);
        assert_eq!(logits, [1.0, 0.25, -0.25, 0.25, 1.0]);
        let mut again = [1.0; 5];
        let mut penalties = Penalties::default();
        penalties.apply(&mut again.clone(), &[0, 1, 1, 2, 2, 2, 3], 2, &options);
        penalties.apply(&mut again, &[0, 1, 1, 2, 2, 2, 3], 2, &options);
        assert_eq!(again, logits);
    }

    #[test]
    fn a_bias_of_minus_one_hundred_bans_and_others_add() {
        let options =
            Sampling { logit_bias: [(0, -100.0), (1, 2.5), (9, 1.0)].into(), ..Sampling::default() };
        let mut logits = [1.0, -1.0, 0.0];
        Penalties::default().apply(&mut logits, &[], 0, &options);
        assert_eq!(logits, [f32::NEG_INFINITY, 1.5, 0.0]);
    }
}
