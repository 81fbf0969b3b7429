//! Strengths of models by maximum likelihood in the model of Bradley and Terry (1952): model i beats model j with
//! probability σ(θᵢ − θⱼ), and a tie is half a win for each.
//!
//! Newton's method, so that the optimum is met to the last digits. Points, anchors and intervals are not its business.

use super::Winner;
use super::votes::Vote;

/// Steps of Newton's method; a dozen are usual.
const STEPS: usize = 100;
/// Steps shorter than this in every strength end the search.
const SMALLEST_STEP: f64 = 1e-13;
const HALVINGS: usize = 40;

/// How often each model beat each other one.
#[derive(Debug, Clone)]
pub(super) struct Tally {
    models: usize,
    /// Row beats column.
    wins: Vec<u32>,
    /// Symmetric.
    ties: Vec<u32>,
}

impl Tally {
    pub(super) fn new(models: usize, votes: impl IntoIterator<Item = Vote>) -> Self {
        let mut tally = Self { models, wins: vec![0; models * models], ties: vec![0; models * models] };
        for Vote { a, b, winner } in votes {
            match winner {
                Winner::A => tally.wins[a * models + b] += 1,
                Winner::B => tally.wins[b * models + a] += 1,
                Winner::Tie => {
                    tally.ties[a * models + b] += 1;
                    tally.ties[b * models + a] += 1;
                }
            }
        }
        tally
    }

    pub(super) fn wins(&self, model: usize, other: usize) -> u32 {
        self.wins[model * self.models + other]
    }

    pub(super) fn ties(&self, model: usize, other: usize) -> u32 {
        self.ties[model * self.models + other]
    }

    pub(super) fn votes(&self, model: usize, other: usize) -> u32 {
        self.wins(model, other) + self.wins(other, model) + self.ties(model, other)
    }

    /// All votes on one model.
    pub(super) fn votes_on(&self, model: usize) -> u32 {
        (0..self.models).map(|other| self.votes(model, other)).sum()
    }

    /// Wins with half of the ties.
    fn points(&self, model: usize, other: usize) -> f64 {
        f64::from(self.wins(model, other)) + f64::from(self.ties(model, other)) / 2.0
    }

    /// A number for each model, the same for models that are compared directly or through others.
    pub(super) fn groups(&self) -> Vec<usize> {
        let mut groups = vec![usize::MAX; self.models];
        let mut count = 0;
        for model in 0..self.models {
            if groups[model] == usize::MAX {
                let reached = self.reached_from(model, |model, other| self.votes(model, other) > 0);
                (0..self.models).filter(|other| reached[*other]).for_each(|other| groups[other] = count);
                count += 1;
            }
        }
        groups
    }

    /// Whether the likelihood has a maximum: in every group each model beats, or ties with, each other one at least through
    /// others (Ford 1957).
    pub(super) fn has_maximum(&self, groups: &[usize]) -> bool {
        let is_first = |model: &usize| !groups[..*model].contains(&groups[*model]);
        (0..self.models).filter(is_first).all(|first| {
            let below = self.reached_from(first, |model, other| self.points(model, other) > 0.0);
            let above = self.reached_from(first, |model, other| self.points(other, model) > 0.0);
            let mut members = (0..self.models).filter(|other| groups[*other] == groups[first]);
            members.all(|other| below[other] && above[other])
        })
    }

    fn reached_from(&self, start: usize, leads: impl Fn(usize, usize) -> bool) -> Vec<bool> {
        let mut reached = vec![false; self.models];
        reached[start] = true;
        let mut waiting = vec![start];
        while let Some(model) = waiting.pop() {
            for (other, is_reached) in reached.iter_mut().enumerate() {
                if !*is_reached && leads(model, other) {
                    *is_reached = true;
                    waiting.push(other);
                }
            }
        }
        reached
    }

    /// The strengths of greatest likelihood, with mean 0 in each group. `prior` is the number of ties that each model is
    /// thought to have had with an imagined model of strength 0; without one, the likelihood must have a maximum.
    pub(super) fn strengths(&self, groups: &[usize], prior: f64, start: &[f64]) -> Vec<f64> {
        let mut strengths = start.to_vec();
        let mut likelihood = self.log_likelihood(&strengths, prior);
        for _ in 0..STEPS {
            let Some(step) = self.newton_step(&strengths, groups, prior) else { break };
            let longest = step.iter().fold(0.0, |longest: f64, part| longest.max(part.abs()));
            let mut share = 1.0;
            for _ in 0..HALVINGS {
                let next: Vec<f64> =
                    strengths.iter().zip(&step).map(|(strength, part)| strength + share * part).collect();
                let found = self.log_likelihood(&next, prior);
                // Near the maximum the likelihood is flat to the last digit.
                if found >= likelihood - 1e-12 * likelihood.abs() {
                    (strengths, likelihood) = (next, found);
                    break;
                }
                share /= 2.0;
            }
            if longest * share < SMALLEST_STEP {
                break;
            }
        }
        centred(strengths, groups)
    }

    fn log_likelihood(&self, strengths: &[f64], prior: f64) -> f64 {
        let mut sum = 0.0;
        for (model, strength) in strengths.iter().enumerate() {
            for (other, other_strength) in strengths.iter().enumerate() {
                let points = self.points(model, other);
                if points > 0.0 {
                    sum += points * log_sigmoid(strength - other_strength);
                }
            }
            sum += prior / 2.0 * (log_sigmoid(*strength) + log_sigmoid(-strength));
        }
        sum
    }

    /// Solves H · step = gradient, where H is the negative second derivative. Without a prior it says nothing about the mean
    /// of a group, which is then held by adding 1/n in the direction that moves all of the group.
    fn newton_step(&self, strengths: &[f64], groups: &[usize], prior: f64) -> Option<Vec<f64>> {
        let count = self.models;
        let hold = if prior > 0.0 { 0.0 } else { 1.0 / count as f64 };
        let mut hessian = vec![0.0; count * count];
        let mut gradient = vec![0.0; count];
        for model in 0..count {
            for other in 0..count {
                if groups[model] == groups[other] {
                    hessian[model * count + other] += hold;
                }
                let votes = f64::from(self.votes(model, other));
                if model == other || votes == 0.0 {
                    continue;
                }
                let expected = sigmoid(strengths[model] - strengths[other]);
                gradient[model] += self.points(model, other) - votes * expected;
                let curvature = votes * expected * (1.0 - expected);
                hessian[model * count + model] += curvature;
                hessian[model * count + other] -= curvature;
            }
            let expected = sigmoid(strengths[model]);
            gradient[model] += prior * (0.5 - expected);
            hessian[model * count + model] += prior * expected * (1.0 - expected);
        }
        solve(hessian, gradient)
    }
}

/// Strengths less the mean of their group.
fn centred(mut strengths: Vec<f64>, groups: &[usize]) -> Vec<f64> {
    let count = groups.iter().max().map_or(0, |last| last + 1);
    let mut sums = vec![(0.0, 0.0); count];
    for (strength, group) in strengths.iter().zip(groups) {
        sums[*group].0 += strength;
        sums[*group].1 += 1.0;
    }
    for (strength, group) in strengths.iter_mut().zip(groups) {
        *strength -= sums[*group].0 / sums[*group].1;
    }
    strengths
}

/// Cholesky's way, in place; none where the matrix is not positive definite.
fn solve(mut matrix: Vec<f64>, mut right: Vec<f64>) -> Option<Vec<f64>> {
    let count = right.len();
    for row in 0..count {
        for column in 0..=row {
            let inner: f64 =
                (0..column).map(|index| matrix[row * count + index] * matrix[column * count + index]).sum();
            let rest = matrix[row * count + column] - inner;
            matrix[row * count + column] = match row == column {
                true if rest > 0.0 => rest.sqrt(),
                true => return None,
                false => rest / matrix[column * count + column],
            };
        }
        let inner: f64 = (0..row).map(|index| matrix[row * count + index] * right[index]).sum();
        right[row] = (right[row] - inner) / matrix[row * count + row];
    }
    for row in (0..count).rev() {
        let inner: f64 = (row + 1..count).map(|index| matrix[index * count + row] * right[index]).sum();
        right[row] = (right[row] - inner) / matrix[row * count + row];
    }
    Some(right)
}

fn sigmoid(value: f64) -> f64 {
    1.0 / (1.0 + (-value).exp())
}

fn log_sigmoid(value: f64) -> f64 {
    value.min(0.0) - (-value.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(models: usize, votes: &[(usize, usize, Winner)]) -> Tally {
        Tally::new(models, votes.iter().map(|&(a, b, winner)| Vote { a, b, winner }))
    }

    #[test]
    fn two_models_are_as_far_apart_as_their_odds() {
        use Winner::{A, B, Tie};
        let tally = tally(2, &[(0, 1, A), (1, 0, B), (0, 1, Tie), (0, 1, Tie), (0, 1, B)]);
        let strengths = tally.strengths(&tally.groups(), 0.0, &[0.0; 2]);
        assert!((strengths[0] - strengths[1] - (3.0_f64 / 2.0).ln()).abs() < 1e-12, "{strengths:?}");
        assert!((strengths[0] + strengths[1]).abs() < 1e-12);
    }

    #[test]
    fn a_maximum_needs_a_way_back_from_every_model() {
        use Winner::{A, Tie};
        let only_wins = tally(3, &[(0, 1, A), (1, 2, A), (2, 1, A)]);
        assert!(!only_wins.has_maximum(&only_wins.groups()));
        let with_tie = tally(3, &[(0, 1, Tie), (1, 2, A), (2, 1, A)]);
        assert!(with_tie.has_maximum(&with_tie.groups()));
        let in_two = tally(4, &[(0, 1, Tie), (2, 3, Tie)]);
        assert_eq!(in_two.groups(), [0, 0, 1, 1]);
        assert!(in_two.has_maximum(&in_two.groups()));
        let absent = tally(3, &[(0, 1, Tie)]);
        assert!(!absent.has_maximum(&[0, 0, 0]));
    }

    #[test]
    fn strengths_far_apart_are_found() {
        let votes = |count: usize, winner: Winner| std::iter::repeat_n((0, 1, winner), count);
        let votes: Vec<_> = votes(1_000_000, Winner::A).chain(votes(1, Winner::B)).collect();
        let tally = tally(2, &votes);
        let strengths = tally.strengths(&tally.groups(), 0.0, &[0.0; 2]);
        assert!((strengths[0] - strengths[1] - 1e6_f64.ln()).abs() < 1e-9, "{strengths:?}");
    }

    #[test]
    fn a_prior_keeps_a_model_that_always_wins_finite() {
        let tally = tally(2, &[(0, 1, Winner::A); 8]);
        let strengths = tally.strengths(&tally.groups(), 1.0, &[0.0; 2]);
        // 8 σ(-2θ) = σ(θ) - ½
        let rest = 8.0 * sigmoid(-2.0 * strengths[0]) - (sigmoid(strengths[0]) - 0.5);
        assert!(rest.abs() < 1e-9 && strengths[0] > 0.5, "{strengths:?}");
    }
}
