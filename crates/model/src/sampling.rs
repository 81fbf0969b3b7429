//! Choosing the next token, in the order of Hugging Face's `generate`: repetition penalty, temperature, top-k, top-p.

use danlu_kernels::random::Random;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How tokens are chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most probable token.
    pub temperature: f32,
    /// Keep this many of the most probable tokens; 0 keeps all. Ties of the last are kept.
    pub top_k: usize,
    /// Keep the most probable tokens that together reach this probability; 1 keeps all.
    pub top_p: f32,
    /// Divides (above zero) or multiplies (below) the logits of tokens that occurred; 1 changes nothing.
    pub repetition_penalty: f32,
    /// Seed of the random choice.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.7, top_k: 50, top_p: 0.9, repetition_penalty: 1.0, seed: 42 }
    }
}

impl Sampling {
    /// A sentence on the first value out of range.
    pub fn check(&self) -> Result<(), String> {
        let checks = [
            ("temperature", self.temperature, self.temperature >= 0.0, "0 or more"),
            ("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0 and at most 1"),
            ("repetition_penalty", self.repetition_penalty, self.repetition_penalty > 0.0, "above 0"),
        ];
        match checks.iter().find(|(_, value, holds, _)| !(*holds && value.is_finite())) {
            Some((name, value, _, range)) => {
                Err(format!("`{name}`: expected a number {range}, found {value}"))
            }
            None => Ok(()),
        }
    }
}

/// Chooses tokens with one stream of random numbers.
pub struct Sampler {
    options: Sampling,
    random: Random,
}

impl Sampler {
    /// A sampler at the start of its stream.
    pub fn new(options: Sampling) -> Self {
        let random = Random::new(&[options.seed, 3]);
        Self { options, random }
    }

    /// The next token, given its logits and all tokens so far, the prompt included.
    pub fn next(&mut self, logits: &mut [f32], previous: &[u32]) -> u32 {
        penalize(logits, previous, self.options.repetition_penalty);
        if self.options.temperature == 0.0 {
            return most_probable(logits);
        }
        let candidates = probabilities(logits, &self.options);
        let mut left = self.random.uniform();
        for &(id, probability) in &candidates {
            left -= probability;
            if left < 0.0 {
                return id;
            }
        }
        candidates.last().map_or(0, |&(id, _)| id)
    }
}

/// Divides the logits [V] of tokens that occurred by the penalty, or multiplies them where they are below zero. A token that
/// occurred often is penalized once.
pub fn penalize(logits: &mut [f32], previous: &[u32], penalty: f32) {
    if penalty == 1.0 {
        return;
    }
    let mut seen = vec![false; logits.len()];
    for &id in previous {
        if let Some(seen) = seen.get_mut(id as usize).filter(|seen| !**seen) {
            *seen = true;
            let logit = &mut logits[id as usize];
            *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
        }
    }
}

fn most_probable(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = id;
        }
    }
    best as u32
}

/// The kept tokens, most probable first, with their probabilities.
fn probabilities(logits: &[f32], options: &Sampling) -> Vec<(u32, f64)> {
    let mut sorted: Vec<(u32, f64)> = logits
        .iter()
        .enumerate()
        .map(|(id, &logit)| (id as u32, f64::from(logit) / f64::from(options.temperature)))
        .collect();
    let order = |a: &(u32, f64), b: &(u32, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if options.top_k > 0 && options.top_k < sorted.len() {
        let (_, &mut (_, last), _) = sorted.select_nth_unstable_by(options.top_k - 1, order);
        sorted.retain(|&(_, logit)| logit >= last);
    }
    sorted.sort_unstable_by(order);
    normalize(&mut sorted);
    if options.top_p < 1.0 {
        // A token goes when it and all less probable ones sum to at most 1 − top_p; one always stays.
        let mut tail = 0.0;
        let mut kept = sorted.len();
        while kept > 1 {
            tail += sorted[kept - 1].1;
            if tail > 1.0 - f64::from(options.top_p) {
                break;
            }
            kept -= 1;
        }
        sorted.truncate(kept);
        let sum: f64 = sorted.iter().map(|&(_, probability)| probability).sum();
        sorted.iter_mut().for_each(|(_, probability)| *probability /= sum);
    }
    sorted
}

/// Softmax of sorted logits.
fn normalize(sorted: &mut [(u32, f64)]) {
    let largest = sorted.first().map_or(0.0, |&(_, logit)| logit);
    sorted.iter_mut().for_each(|(_, logit)| *logit = (*logit - largest).exp());
    let sum: f64 = sorted.iter().map(|&(_, probability)| probability).sum();
    sorted.iter_mut().for_each(|(_, probability)| *probability /= sum);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// Recorded by `tools/golden/sampling.py`.
    #[test]
    fn probabilities_equal_those_of_transformers() {
        let golden: Value = serde_json::from_str(include_str!("../tests/golden/sampling.json")).unwrap();
        let numbers = |value: &Value| {
            value.as_array().unwrap().iter().map(|n| n.as_f64().unwrap() as f32).collect::<Vec<_>>()
        };
        let cases = golden["cases"].as_array().unwrap();
        assert!(cases.len() > 20);
        for case in cases {
            let mut logits = numbers(&case["logits"]);
            let previous: Vec<u32> = numbers(&case["previous_ids"]).iter().map(|&id| id as u32).collect();
            let options = Sampling {
                temperature: case["temperature"].as_f64().unwrap() as f32,
                top_k: case["top_k"].as_u64().unwrap() as usize,
                top_p: case["top_p"].as_f64().unwrap() as f32,
                repetition_penalty: case["repetition_penalty"].as_f64().unwrap() as f32,
                seed: 0,
            };
            penalize(&mut logits, &previous, options.repetition_penalty);
            let mut found = vec![0.0; logits.len()];
            for (id, probability) in probabilities(&logits, &options) {
                found[id as usize] = probability as f32;
            }
            for (found, expected) in found.iter().zip(numbers(&case["probabilities"])) {
                assert!((found - expected).abs() < 1e-6, "{}: {found} against {expected}", case["name"]);
            }
        }
    }

    #[test]
    fn temperature_zero_equals_top_k_one_and_a_seed_repeats() {
        let logits = [0.1, 2.0, -1.0, 1.9];
        let pick = |options: &Sampling| Sampler::new(options.clone()).next(&mut logits.clone(), &[]);
        assert_eq!(pick(&Sampling { temperature: 0.0, ..Sampling::default() }), 1);
        assert_eq!(pick(&Sampling { top_k: 1, ..Sampling::default() }), 1);
        let draw = |seed| {
            let mut sampler =
                Sampler::new(Sampling { seed, temperature: 2.0, top_p: 1.0, ..Sampling::default() });
            (0..50).map(|_| sampler.next(&mut logits.clone(), &[])).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn values_out_of_range_are_named() {
        let error = Sampling { top_p: 0.0, ..Sampling::default() }.check().unwrap_err();
        assert_eq!(error, "`top_p`: expected a number above 0 and at most 1, found 0");
        assert!(Sampling { temperature: f32::NAN, ..Sampling::default() }.check().is_err());
    }
}
