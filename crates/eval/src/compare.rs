//! Two results on the same questions, side by side: differences with paired bootstrap intervals, McNemar's exact test, and the
//! questions that only one of them got right.
//!
//! It reads what evaluations leave behind ([`results`]) and computes no score itself.

mod report;
pub mod results;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::resampling::{Draws, middle_95_percent};
use crate::{Error, Result};

pub use results::{Answered, Results};

/// The metric of questions that are right or wrong.
const ACCURACY: &str = "accuracy";
/// The same by log-likelihoods that are not divided by length.
const UNNORMALIZED: &str = "accuracy_unnormalized";
/// Differences that only rounding makes.
const NOTHING: f64 = 1e-12;

/// How results are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Rounds of the bootstrap.
    pub rounds: usize,
    /// Seed of its draws.
    pub seed: u64,
    /// How many wins, and how many losses, are listed.
    pub list: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { rounds: 10_000, seed: 42, list: 0 }
    }
}

/// What two results on the same questions say. Differences are `b` less `a`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The first result.
    pub a: String,
    /// The second one.
    pub b: String,
    /// Questions in both.
    pub questions: usize,
    /// Each metric that both have; accuracy first.
    pub metrics: Vec<MetricDifference>,
    /// Of questions that are right or wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mc_nemar: Option<McNemar>,
    /// By group of subjects, where a summary beside the results tells the groups; of the first metric.
    pub groups: Vec<PartDifference>,
    /// By subject, where there is more than one; of the first metric.
    pub subjects: Vec<PartDifference>,
    /// Questions on which `b` was better, the largest differences first; of the first metric.
    pub wins: Vec<Listed>,
    /// Questions on which `a` was better.
    pub losses: Vec<Listed>,
    /// Rounds of the bootstrap.
    pub rounds: usize,
    /// Seed of its draws.
    pub seed: u64,
}

/// One metric.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MetricDifference {
    /// Its name.
    pub metric: String,
    /// Mean of the first result.
    pub a: f64,
    /// Mean of the second one.
    pub b: f64,
    /// `b` less `a`.
    pub difference: f64,
    /// Lower end of the difference's 95 % interval, of draws of the questions with replacement.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// How often the draws differ from the difference by as much as it differs from 0.
    pub p_value: f64,
    /// Questions on which `b` was better.
    pub wins: usize,
    /// Questions on which `a` was better.
    pub losses: usize,
}

/// Questions by who got them right, with McNemar's exact test.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct McNemar {
    /// Right in both.
    pub both: usize,
    /// Right in `a` alone.
    pub only_a: usize,
    /// Right in `b` alone.
    pub only_b: usize,
    /// Right in none.
    pub neither: usize,
    /// Two-sided: how likely a split of the questions that only one got right would be as uneven if both were as good.
    pub p_value: f64,
}

/// A subject, or a group of them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PartDifference {
    /// Its name.
    pub name: String,
    /// Its questions.
    pub questions: usize,
    /// Mean of the first result.
    pub a: f64,
    /// Mean of the second one.
    pub b: f64,
    /// `b` less `a`.
    pub difference: f64,
    /// Questions on which `b` was better.
    pub wins: usize,
    /// Questions on which `a` was better.
    pub losses: usize,
    /// McNemar's exact test, or the sign test where questions have scores: of wins against losses.
    pub p_value: f64,
}

/// A question on which the results differ.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Listed {
    /// Subject and number, or the number of the row.
    pub question: String,
    /// Its text, where the results hold it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The right answer or the reference.
    pub right: String,
    /// What the first result says.
    pub a: String,
    /// What the second one says.
    pub b: String,
    /// `b` less `a`.
    pub difference: f64,
}

/// Compares `b` with `a`.
///
/// # Errors
/// Results on different questions, or without a metric that both have.
pub fn compare(a: &Results, b: &Results, options: &Options) -> Result<Comparison> {
    let pairs = results::matched(a, b)?;
    let mut names: Vec<&String> = a.metrics().into_iter().filter(|name| b.metrics().contains(name)).collect();
    names.sort_by_key(|name| *name != ACCURACY);
    if names.is_empty() {
        let problem = format!(
            "has no metric of `{}`: expected `correct` or the same `scores` in both",
            a.path.display()
        );
        return Err(Error::File { path: b.path.clone(), problem });
    }
    let scores = |name: &str, (one, other): &(&Answered, &Answered)| {
        (one.scores.get(name).copied().unwrap_or(0.0), other.scores.get(name).copied().unwrap_or(0.0))
    };
    // Letters all have one length.
    names.retain(|name| {
        let is_another = |pair| scores(UNNORMALIZED, pair) != scores(ACCURACY, pair);
        *name != UNNORMALIZED || pairs.iter().any(is_another)
    });
    let differences: Vec<Vec<f64>> = names
        .iter()
        .map(|name| pairs.iter().map(|pair| scores(name, pair)).map(|(one, other)| other - one).collect())
        .collect();
    let drawn = drawn_means(&differences, pairs.len(), options);
    let count = pairs.len() as f64;
    let metrics = names.iter().zip(&differences).zip(drawn).map(|((name, differences), drawn)| {
        let sum = pairs.iter().map(|pair| scores(name, pair));
        let (sum_a, sum_b) = sum.fold((0.0, 0.0), |sum, pair| (sum.0 + pair.0, sum.1 + pair.1));
        let difference = differences.iter().sum::<f64>() / count;
        let as_far = drawn.iter().filter(|mean| (*mean - difference).abs() >= difference.abs() - NOTHING);
        let p_value = (as_far.count() + 1) as f64 / (drawn.len() + 1) as f64;
        let (low, high) = middle_95_percent(drawn).unwrap_or((difference, difference));
        MetricDifference {
            metric: (*name).clone(),
            a: sum_a / count,
            b: sum_b / count,
            difference,
            low,
            high,
            p_value,
            wins: differences.iter().filter(|difference| **difference > NOTHING).count(),
            losses: differences.iter().filter(|difference| **difference < -NOTHING).count(),
        }
    });
    let metrics: Vec<MetricDifference> = metrics.collect();
    let first = names[0].as_str();
    let mc_nemar = (first == ACCURACY).then(|| {
        let with = |right_a: bool, right_b: bool| {
            let found = pairs.iter().map(|pair| scores(first, pair));
            found.filter(|(one, other)| (*one > 0.5) == right_a && (*other > 0.5) == right_b).count()
        };
        let (only_a, only_b) = (with(true, false), with(false, true));
        McNemar {
            both: with(true, true),
            only_a,
            only_b,
            neither: with(false, false),
            p_value: sign_test(only_a, only_b),
        }
    });
    let parts = |name: &dyn Fn(&Answered) -> String| {
        let mut parts: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
        for pair in &pairs {
            parts.entry(name(pair.0)).or_default().push(scores(first, pair));
        }
        let several = parts.len() > 1;
        let parts = parts.into_iter().filter(|_| several);
        parts.map(|(name, scores)| of_part(name, &scores)).collect::<Vec<_>>()
    };
    let listed = |sign: f64| {
        let mut found: Vec<(f64, &(&Answered, &Answered))> =
            differences[0].iter().map(|difference| difference * sign).zip(&pairs).collect();
        found.retain(|(difference, _)| *difference > NOTHING);
        found.sort_by(|one, other| other.0.total_cmp(&one.0));
        let line = |(difference, (one, other)): (f64, &(&Answered, &Answered))| Listed {
            question: one.name(),
            text: one.text.clone().or_else(|| other.text.clone()),
            right: one.right.clone(),
            a: one.answer.clone(),
            b: other.answer.clone(),
            difference: difference * sign,
        };
        found.into_iter().take(options.list).map(line).collect()
    };
    Ok(Comparison {
        a: a.path.display().to_string(),
        b: b.path.display().to_string(),
        questions: pairs.len(),
        metrics,
        mc_nemar,
        groups: parts(&|question| a.group_of(question)),
        subjects: parts(&|question| question.subject.clone().unwrap_or_default()),
        wins: listed(1.0),
        losses: listed(-1.0),
        rounds: options.rounds,
        seed: options.seed,
    })
}

/// Means of each list of differences over draws of the questions with replacement; every list has the same draws.
fn drawn_means(differences: &[Vec<f64>], questions: usize, options: &Options) -> Vec<Vec<f64>> {
    let mut draws = Draws::new(options.seed);
    let mut means = vec![Vec::with_capacity(options.rounds); differences.len()];
    for _ in 0..options.rounds {
        let mut sums = vec![0.0; differences.len()];
        for _ in 0..questions {
            let drawn = draws.below(questions);
            for (sum, differences) in sums.iter_mut().zip(differences) {
                *sum += differences[drawn];
            }
        }
        for (means, sum) in means.iter_mut().zip(sums) {
            means.push(sum / questions as f64);
        }
    }
    means
}

fn of_part(name: String, scores: &[(f64, f64)]) -> PartDifference {
    let count = scores.len() as f64;
    let mean = |score: fn(&(f64, f64)) -> f64| scores.iter().map(score).sum::<f64>() / count;
    let (a, b) = (mean(|pair| pair.0), mean(|pair| pair.1));
    let wins = scores.iter().filter(|(one, other)| other - one > NOTHING).count();
    let losses = scores.iter().filter(|(one, other)| one - other > NOTHING).count();
    PartDifference {
        name,
        questions: scores.len(),
        a,
        b,
        difference: b - a,
        wins,
        losses,
        p_value: sign_test(wins, losses),
    }
}

/// Two-sided exact binomial test of `one` against `other` with equal chances: twice the smaller tail, at most 1.
fn sign_test(one: usize, other: usize) -> f64 {
    let count = one + other;
    // Terms C(n, k) / 2ⁿ by their logarithms, which do not overflow.
    let mut log_term = -(count as f64) * std::f64::consts::LN_2;
    let mut tail = log_term.exp();
    for chosen in 1..=one.min(other) {
        log_term += ((count - chosen + 1) as f64 / chosen as f64).ln();
        tail += log_term.exp();
    }
    (2.0 * tail).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exact_test_is_that_of_scipy() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/arena.json");
        let recorded: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let cases = recorded["mc_nemar"].as_array().unwrap();
        for case in cases {
            let count = |place: usize| case[place].as_u64().unwrap() as usize;
            let (found, expected) = (sign_test(count(0), count(1)), case[2].as_f64().unwrap());
            assert!((found - expected).abs() < 1e-12 * expected.max(1e-3), "{case}: {found}");
        }
        assert!(cases.len() > 5 && sign_test(0, 100_000) >= 0.0);
        assert_eq!(sign_test(50_000, 50_000), 1.0);
    }
}
