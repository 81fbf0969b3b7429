//! Choosing the next token. In order: bias, the penalties of repetition (Hugging Face's), presence and frequency (OpenAI's),
//! DRY; temperature; then top-k, top-p, min-p, typical-p, each over what the last has left, as in Hugging Face's `generate`, or
//! mirostat instead of these four, as in llama.cpp.

mod candidates;
mod dry;
mod mirostat;
mod options;
mod penalties;

use danlu_kernels::random::Random;

use crate::constraint::Vocabulary;
use candidates::Candidates;
use dry::Dry;
use mirostat::Mirostat;
use penalties::Penalties;

pub use options::Sampling;
pub use penalties::penalize;

/// Chooses tokens with one stream of random numbers. Its memory is of one answer.
pub struct Sampler {
    options: Sampling,
    random: Random,
    penalties: Penalties,
    dry: Dry,
    mirostat: Mirostat,
    candidates: Candidates,
}

impl Sampler {
    /// A sampler at the start of its stream, for which no token is one of DRY's sequence breakers.
    pub fn new(options: Sampling) -> Self {
        let random = Random::new(&[options.seed, 3]);
        let mirostat = Mirostat::new(options.mirostat_tau, options.mirostat_eta);
        let (penalties, candidates) = (Penalties::default(), Candidates::default());
        Self { options, random, penalties, dry: Dry::default(), mirostat, candidates }
    }

    /// Makes a token a sequence breaker if its text has one of theirs.
    #[must_use]
    pub fn with_vocabulary(self, vocabulary: &Vocabulary) -> Self {
        let breakers = match self.options.needs_vocabulary() {
            true => vocabulary.tokens_with(&self.options.dry_sequence_breakers),
            false => Vec::new(),
        };
        Self { dry: Dry::new(breakers), ..self }
    }

    /// The next token, given its logits [V] and all tokens so far, of which the prompt's come first. A logit of −∞ makes a token
    /// impossible, unless all are.
    pub fn next(&mut self, logits: &mut [f32], previous: &[u32], prompt_tokens: usize) -> u32 {
        self.penalties.apply(logits, previous, prompt_tokens, &self.options);
        self.dry.apply(logits, previous, &self.options);
        if self.options.temperature == 0.0 {
            return most_probable(logits);
        }
        self.choose_candidates(logits);
        let whole = self.candidates.total();
        match self.options.mirostat {
            1 => self.mirostat.keep_by_zipf(&mut self.candidates, logits.len()),
            2 => self.mirostat.keep_by_surprise(&mut self.candidates),
            _ => {}
        }
        let Some(drawn) = self.candidates.at(self.random.uniform()) else { return most_probable(logits) };
        if self.options.mirostat > 0 {
            self.mirostat.drawn(drawn.weight / whole);
        }
        drawn.id
    }

    /// Fills the candidates with what the options leave.
    fn choose_candidates(&mut self, logits: &[f32]) {
        let Sampling { temperature, top_k, top_p, min_p, typical_p, mirostat, .. } = self.options;
        if mirostat > 0 {
            return self.candidates.fill(logits, temperature, 0);
        }
        self.candidates.fill(logits, temperature, top_k);
        self.candidates.keep_top_p(top_p);
        self.candidates.keep_min_p(min_p);
        self.candidates.keep_typical(typical_p);
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
                ..Sampling::default()
            };
            let mut sampler = Sampler::new(options);
            sampler.penalties.apply(&mut logits, &previous, 0, &sampler.options);
            sampler.choose_candidates(&logits);
            let mut found = vec![0.0; logits.len()];
            for (id, probability) in sampler.candidates.probabilities() {
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
        let pick = |options: &Sampling| Sampler::new(options.clone()).next(&mut logits.clone(), &[], 0);
        assert_eq!(pick(&Sampling { temperature: 0.0, ..Sampling::default() }), 1);
        assert_eq!(pick(&Sampling { top_k: 1, ..Sampling::default() }), 1);
        let draw = |seed| {
            let mut sampler =
                Sampler::new(Sampling { seed, temperature: 2.0, top_p: 1.0, ..Sampling::default() });
            (0..50).map(|_| sampler.next(&mut logits.clone(), &[], 0)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn a_sequence_breaker_ends_what_counts_as_a_repetition() {
        let vocabulary = Vocabulary::new([b"a".to_vec(), b"b\n".to_vec(), b"c".to_vec()]);
        let options = Sampling { temperature: 0.0, dry_multiplier: 5.0, ..Sampling::default() };
        let next = |previous: &[u32], sampler: Sampler| {
            let mut sampler = sampler.with_vocabulary(&vocabulary);
            sampler.next(&mut [1.0, 0.0, 2.0], previous, 0)
        };
        assert_eq!(next(&[0, 0, 2, 0, 0], Sampler::new(options.clone())), 0);
        assert_eq!(next(&[0, 1, 2, 0, 1], Sampler::new(options)), 2);
    }
}
