//! The penalty on going on with a repetition ("don't repeat yourself", DRY): the longer the end of the text equals an
//! earlier stretch, the less probable the token that came behind that stretch becomes.

use std::collections::HashMap;

use super::Sampling;

/// No logit is taken further down by a penalty than this, so that logits stay finite.
const LARGEST: f32 = 1e30;

/// The penalty and its memory.
#[derive(Default)]
pub(super) struct Dry {
    /// Tokens that a repetition cannot span, in order.
    breakers: Vec<u32>,
    /// For each distance from the end, how many tokens that end there equal those at the end.
    matches: Vec<usize>,
    longest: HashMap<u32, usize>,
}

impl Dry {
    pub(super) fn new(mut breakers: Vec<u32>) -> Self {
        breakers.sort_unstable();
        Self { breakers, ..Self::default() }
    }

    fn breaks(&self, id: u32) -> bool {
        self.breakers.binary_search(&id).is_ok()
    }

    /// Subtracts multiplier · base^(length − allowed length) where going on would make a repetition of length + 1 tokens.
    pub(super) fn apply(&mut self, logits: &mut [f32], previous: &[u32], options: &Sampling) {
        let last = usize::try_from(options.dry_penalty_last_n).unwrap_or(usize::MAX);
        let text = &previous[previous.len() - last.min(previous.len())..];
        // A repetition reaches back to the newest breaker at most.
        let limit = text.iter().rev().take_while(|id| !self.breaks(**id)).count();
        if options.dry_multiplier == 0.0 || limit < options.dry_allowed_length.max(1) {
            return;
        }
        self.find_matches(text);
        self.longest.clear();
        for (distance, &length) in self.matches.iter().enumerate().skip(1) {
            let (next, length) = (text[text.len() - distance], length.min(limit));
            if length >= options.dry_allowed_length.max(1) && !self.breaks(next) {
                let longest = self.longest.entry(next).or_default();
                *longest = (*longest).max(length);
            }
        }
        for (&id, &length) in &self.longest {
            if let Some(logit) = logits.get_mut(id as usize) {
                let beyond = (length - options.dry_allowed_length) as f32;
                *logit -= (options.dry_multiplier * options.dry_base.powf(beyond)).min(LARGEST);
            }
        }
    }

    /// The Z function of the text read backwards, which takes linear time.
    fn find_matches(&mut self, text: &[u32]) {
        let at = |index: usize| text[text.len() - 1 - index];
        let matches = &mut self.matches;
        matches.clear();
        matches.resize(text.len(), 0);
        let (mut first, mut end) = (0, 0);
        for index in 1..text.len() {
            let mut length = if index < end { matches[index - first].min(end - index) } else { 0 };
            while index + length < text.len() && at(length) == at(index + length) {
                length += 1;
            }
            if index + length > end {
                (first, end) = (index, index + length);
            }
            matches[index] = length;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use danlu_kernels::random::Random;

    fn options() -> Sampling {
        Sampling { dry_multiplier: 0.8, ..Sampling::default() }
    }

    /// By its description: every earlier stretch is compared token by token.
    fn plainly(previous: &[u32], vocabulary: usize, breakers: &[u32], options: &Sampling) -> Vec<f32> {
        let mut penalties = vec![0.0_f32; vocabulary];
        let end = previous.len();
        for next in 1..end {
            let mut length = 0;
            while length < next
                && previous[next - 1 - length] == previous[end - 1 - length]
                && !breakers.contains(&previous[end - 1 - length])
            {
                length += 1;
            }
            let id = previous[next];
            if length >= options.dry_allowed_length && !breakers.contains(&id) {
                let beyond = (length - options.dry_allowed_length) as f32;
                let penalty = options.dry_multiplier * options.dry_base.powf(beyond);
                penalties[id as usize] = penalties[id as usize].max(penalty);
            }
        }
        penalties
    }

    #[test]
    fn penalties_equal_those_of_comparing_every_stretch() {
        let mut random = Random::new(&[11]);
        for round in 0..200 {
            let previous: Vec<u32> = (0..60).map(|_| random.below(4) as u32).collect();
            let breakers = if round % 2 == 0 { vec![3] } else { vec![] };
            let mut logits = vec![0.0; 4];
            Dry::new(breakers.clone()).apply(&mut logits, &previous, &options());
            for (found, expected) in logits.iter().zip(plainly(&previous, 4, &breakers, &options())) {
                assert!((found + expected).abs() <= 1e-5 * expected, "{found} against {expected}");
            }
        }
    }

    #[test]
    fn a_window_and_an_endless_repetition_are_kept_in_bounds() {
        let mut logits = vec![0.0; 3];
        let window = Sampling { dry_penalty_last_n: 3, ..options() };
        Dry::default().apply(&mut logits, &[0, 1, 2, 0, 1], &window);
        assert_eq!(logits, [0.0; 3]);
        Dry::default().apply(&mut logits, &[0, 1, 2, 0, 1], &options());
        assert_eq!(logits, [0.0, 0.0, -0.8]);
        Dry::default().apply(&mut logits, &[1; 2000], &options());
        assert!(logits[1].is_finite() && logits[1] < -1e29);
    }
}
