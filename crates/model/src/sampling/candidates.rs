//! The tokens among which one is drawn, and the ways to leave some out: top-k, top-p, min-p, typical-p.
//!
//! Only as much is sorted as is looked at: the vocabulary never is as a whole unless probabilities are nearly equal.

use std::cmp::Ordering;

/// How many of the most probable tokens are sorted first; eight times as many when they do not reach.
const FIRST_SORTED: usize = 64;

/// A token that may be drawn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) id: u32,
    /// Proportional to the probability; 1 for the most probable token.
    pub(super) weight: f64,
}

/// Tokens that may be drawn; their memory is kept from token to token.
#[derive(Default)]
pub(super) struct Candidates {
    all: Vec<Candidate>,
    /// How many stand first, the most probable in front, and no later one is more probable.
    sorted: usize,
    total: f64,
    /// Logits, while the k-th largest is looked for.
    largest: Vec<f32>,
    /// Distances from the average information, and where.
    deviations: Vec<(f64, u32)>,
}

impl Candidates {
    /// Takes the `top_k` tokens of the largest logits [V] with all ties of the last, or all tokens for 0. A token of logit −∞
    /// cannot be drawn.
    pub(super) fn fill(&mut self, logits: &[f32], temperature: f32, top_k: usize) {
        let least = match top_k {
            0 => f32::NEG_INFINITY,
            top_k if top_k >= logits.len() => f32::NEG_INFINITY,
            top_k => self.kth_largest(logits, top_k),
        };
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let (largest, temperature) = (f64::from(largest), f64::from(temperature));
        let kept =
            logits.iter().enumerate().filter(|(_, logit)| **logit >= least && **logit > f32::NEG_INFINITY);
        self.all.clear();
        self.all.extend(kept.map(|(id, &logit)| Candidate {
            id: id as u32,
            weight: ((f64::from(logit) - largest) / temperature).exp(),
        }));
        self.sorted = 0;
        self.add_up();
    }

    /// One pass with a small heap of candidates for the k largest.
    fn kth_largest(&mut self, logits: &[f32], k: usize) -> f32 {
        let largest = &mut self.largest;
        largest.clear();
        let mut least = f32::NEG_INFINITY;
        for &logit in logits {
            if logit > least || largest.len() < k {
                largest.push(logit);
                if largest.len() >= 4 * k.max(64) {
                    least = shorten(largest, k);
                }
            }
        }
        shorten(largest, k)
    }

    /// Probability mass, in units of the weights.
    pub(super) fn total(&self) -> f64 {
        self.total
    }

    fn add_up(&mut self) {
        self.total = self.all.iter().map(|candidate| candidate.weight).sum();
    }

    /// Sorts until so many stand in order.
    pub(super) fn sort(&mut self, count: usize) {
        let count = count.min(self.all.len());
        if count > self.sorted {
            sort_first(&mut self.all[self.sorted..], count - self.sorted, |a, b| {
                b.weight.total_cmp(&a.weight).then(a.id.cmp(&b.id))
            });
            self.sorted = count;
        }
    }

    /// Those that stand in order.
    pub(super) fn sorted(&self) -> &[Candidate] {
        &self.all[..self.sorted]
    }

    /// The candidate of this rank, the most probable first.
    fn ranked(&mut self, rank: usize) -> Option<Candidate> {
        if rank >= self.sorted {
            self.sort((8 * self.sorted).max(FIRST_SORTED));
        }
        self.all.get(rank).copied()
    }

    /// Keeps so many of the most probable.
    pub(super) fn keep_first(&mut self, count: usize) {
        self.sort(count);
        self.all.truncate(count);
        self.add_up();
    }

    /// Keeps the weights that reach the bound; leaves all, and says so, where none does.
    pub(super) fn keep_above(&mut self, bound: f64) -> bool {
        if !self.all.iter().any(|candidate| candidate.weight >= bound) {
            return false;
        }
        self.all.retain(|candidate| candidate.weight >= bound);
        self.sorted = self.sorted.min(self.all.len());
        self.add_up();
        true
    }

    /// Leaves a token out when it and all less probable ones sum to at most 1 − top_p; one always stays.
    pub(super) fn keep_top_p(&mut self, top_p: f32) {
        if top_p >= 1.0 {
            return;
        }
        let out = (1.0 - f64::from(top_p)) * self.total;
        let (mut rank, mut before) = (0, 0.0);
        while let Some(candidate) = self.ranked(rank) {
            if rank > 0 && self.total - before <= out {
                break;
            }
            before += candidate.weight;
            rank += 1;
        }
        self.keep_first(rank);
    }

    /// Leaves tokens out that are less probable than this fraction of the most probable one.
    pub(super) fn keep_min_p(&mut self, min_p: f32) {
        if min_p > 0.0 {
            let largest = self.all.iter().map(|candidate| candidate.weight).fold(0.0, f64::max);
            self.keep_above(f64::from(min_p) * largest);
        }
    }

    /// Keeps the tokens whose information is nearest to the average until they reach `typical_p`, with all ties of the last.
    pub(super) fn keep_typical(&mut self, typical_p: f32) {
        if typical_p >= 1.0 {
            return;
        }
        let total = self.total;
        let information = |weight: f64| -(weight / total).ln();
        let held = self.all.iter().filter(|candidate| candidate.weight > 0.0);
        let entropy: f64 =
            held.map(|candidate| candidate.weight / total * information(candidate.weight)).sum();
        let deviations = &mut self.deviations;
        deviations.clear();
        let all = self.all.iter().enumerate();
        deviations.extend(
            all.map(|(place, candidate)| ((information(candidate.weight) - entropy).abs(), place as u32)),
        );
        let (mut sorted, mut reached, mut rank, mut last) = (0, 0.0, 0, f64::INFINITY);
        while rank < deviations.len() && reached < f64::from(typical_p) * total {
            if rank == sorted {
                let more = (7 * sorted).max(FIRST_SORTED).min(deviations.len() - sorted);
                sort_first(&mut deviations[sorted..], more, |a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
                sorted += more;
            }
            let (deviation, place) = deviations[rank];
            (last, rank) = (deviation, rank + 1);
            reached += self.all[place as usize].weight;
        }
        self.all.retain(|candidate| (information(candidate.weight) - entropy).abs() <= last);
        self.sorted = 0;
        self.add_up();
    }

    /// The token at which the mass of the more probable ones reaches this fraction; none where there is no candidate.
    pub(super) fn at(&mut self, fraction: f64) -> Option<Candidate> {
        let mut left = fraction * self.total;
        let mut last = None;
        let mut rank = 0;
        while let Some(candidate) = self.ranked(rank) {
            left -= candidate.weight;
            last = Some(candidate);
            if left < 0.0 {
                break;
            }
            rank += 1;
        }
        last
    }

    /// All that are kept, with their probabilities.
    #[cfg(test)]
    pub(super) fn probabilities(&self) -> impl Iterator<Item = (u32, f64)> {
        self.all.iter().map(|candidate| (candidate.id, candidate.weight / self.total))
    }
}

/// Brings the `count` first of an order to the front, sorted.
fn sort_first<T>(values: &mut [T], count: usize, order: impl Fn(&T, &T) -> Ordering) {
    if count > 0 && count < values.len() {
        values.select_nth_unstable_by(count - 1, &order);
    }
    values[..count].sort_unstable_by(order);
}

/// Leaves the k largest, and gives the least of them.
fn shorten(largest: &mut Vec<f32>, k: usize) -> f32 {
    if k < largest.len() {
        largest.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
        largest.truncate(k);
    }
    largest.iter().copied().fold(f32::INFINITY, f32::min)
}

#[cfg(test)]
mod tests {
    use super::*;
    use danlu_kernels::random::Random;

    /// Logits [V] with many ties.
    fn logits(random: &mut Random, count: usize) -> Vec<f32> {
        (0..count).map(|_| (random.normal() * 8.0).round() / 4.0).collect()
    }

    fn softmax(logits: &[f32], kept: &[bool]) -> Vec<f64> {
        let weights: Vec<f64> =
            logits.iter().zip(kept).map(|(&l, &kept)| if kept { f64::from(l).exp() } else { 0.0 }).collect();
        let total: f64 = weights.iter().sum();
        weights.iter().map(|weight| weight / total).collect()
    }

    /// The paper's formula: sort by |−ln p − H|, keep until the mass is reached.
    fn typical(probabilities: &[f64], mass: f64) -> Vec<bool> {
        let entropy: f64 = probabilities.iter().map(|p| -p * p.ln()).sum();
        let mut order: Vec<(f64, f64)> =
            probabilities.iter().map(|&p| ((-p.ln() - entropy).abs(), p)).collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut sum = 0.0;
        let mut last = 0.0;
        for (deviation, p) in order {
            last = deviation;
            sum += p;
            if sum >= mass {
                break;
            }
        }
        probabilities.iter().map(|&p| (-p.ln() - entropy).abs() <= last + 1e-12).collect()
    }

    fn assert_close(candidates: &Candidates, expected: &[f64]) {
        let mut found = vec![0.0; expected.len()];
        candidates.probabilities().for_each(|(id, p)| found[id as usize] = p);
        for (id, (found, expected)) in found.iter().zip(expected).enumerate() {
            assert!((found - expected).abs() < 1e-9, "{id}: {found} against {expected}");
        }
    }

    #[test]
    fn each_way_to_leave_tokens_out_follows_its_formula() {
        let mut random = Random::new(&[5]);
        for round in 0..60 {
            let logits = logits(&mut random, [7, 300, 3000][round % 3]);
            let all = vec![true; logits.len()];
            let plain = softmax(&logits, &all);
            let largest = plain.iter().copied().fold(0.0, f64::max);
            let mut candidates = Candidates::default();

            candidates.fill(&logits, 1.0, 0);
            candidates.keep_min_p(0.12);
            let kept: Vec<bool> =
                plain.iter().map(|p| *p >= f64::from(0.12_f32) * largest * (1.0 - 1e-12)).collect();
            assert_close(&candidates, &softmax(&logits, &kept));

            candidates.fill(&logits, 1.0, 0);
            candidates.keep_typical(0.37);
            assert_close(&candidates, &softmax(&logits, &typical(&plain, f64::from(0.37_f32))));

            for k in [1, 5, 200, 2900] {
                candidates.fill(&logits, 1.0, k);
                let mut sorted = logits.clone();
                sorted.sort_by(|a, b| b.total_cmp(a));
                let least = sorted[k.min(sorted.len()) - 1];
                let kept: Vec<bool> = logits.iter().map(|logit| *logit >= least).collect();
                assert_close(&candidates, &softmax(&logits, &kept));
            }
        }
    }

    #[test]
    fn what_is_drawn_is_what_drawing_from_the_sorted_vocabulary_gives() {
        let mut random = Random::new(&[6]);
        let logits = logits(&mut random, 3000);
        let plain = softmax(&logits, &vec![true; logits.len()]);
        let mut order: Vec<usize> = (0..plain.len()).collect();
        order.sort_by(|a, b| plain[*b].total_cmp(&plain[*a]).then(a.cmp(b)));
        for _ in 0..100 {
            let fraction = random.uniform();
            let mut sum = 0.0;
            let expected = order.iter().find(|id| {
                sum += plain[**id];
                sum > fraction
            });
            let mut candidates = Candidates::default();
            candidates.fill(&logits, 1.0, 0);
            assert_eq!(candidates.at(fraction).unwrap().id, *expected.unwrap() as u32);
        }
    }
}
