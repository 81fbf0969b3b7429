//! The values that a user gives for choosing tokens, and their ranges. They change nothing unless they are given.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How tokens are chosen. Names are those of Hugging Face's `generate`, and of llama.cpp's server where that has none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most probable token.
    pub temperature: f32,
    /// Keep this many of the most probable tokens; 0 keeps all. Ties of the last are kept.
    pub top_k: usize,
    /// Keep the most probable tokens that together reach this probability; 1 keeps all.
    pub top_p: f32,
    /// Keep the tokens at least this fraction as probable as the most probable one; 0 keeps all (arXiv 2407.01082).
    pub min_p: f32,
    /// Keep the tokens of nearly average information that together reach this probability; 1 keeps all (arXiv 2202.00666).
    pub typical_p: f32,
    /// Divides (above zero) or multiplies (below) the logits of tokens that occurred; 1 changes nothing.
    pub repetition_penalty: f32,
    /// Subtracted from the logits of tokens that the answer already has (OpenAI's API).
    pub presence_penalty: f32,
    /// Subtracted from the logits of tokens once for each time that the answer already has them (OpenAI's API).
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens; −100 bans a token (OpenAI's API).
    pub logit_bias: BTreeMap<u32, f32>,
    /// Steers the surprise of the answer instead of top-k, top-p, min-p and typical-p: 0 does not, 1 and 2 are its versions
    /// (arXiv 2007.14966).
    pub mirostat: u8,
    /// The surprise, in bits a token, that mirostat holds.
    pub mirostat_tau: f32,
    /// How fast mirostat corrects itself.
    pub mirostat_eta: f32,
    /// Weight of the penalty on going on with a repetition; 0 switches it off ("don't repeat yourself", DRY).
    pub dry_multiplier: f32,
    /// What the penalty is multiplied by for each token that the repetition is longer.
    pub dry_base: f32,
    /// Tokens of a repetition that are free.
    pub dry_allowed_length: usize,
    /// Tokens that are searched for repetitions, the prompt's included: −1 for all, 0 for none.
    pub dry_penalty_last_n: i64,
    /// Texts that a repetition cannot span.
    pub dry_sequence_breakers: Vec<String>,
    /// Seed of the random choice.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.7,
            top_k: 50,
            top_p: 0.9,
            min_p: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: BTreeMap::new(),
            mirostat: 0,
            mirostat_tau: 5.0,
            mirostat_eta: 0.1,
            dry_multiplier: 0.0,
            dry_base: 1.75,
            dry_allowed_length: 2,
            dry_penalty_last_n: -1,
            dry_sequence_breakers: ["\n", ":", "\"", "*"].map(String::from).to_vec(),
            seed: 42,
        }
    }
}

impl Sampling {
    /// A sentence on the first value out of range.
    pub fn check(&self) -> Result<(), String> {
        let fraction = |value: f32| value > 0.0 && value <= 1.0;
        let checks = [
            ("temperature", self.temperature, self.temperature >= 0.0, "0 or more"),
            ("top_p", self.top_p, fraction(self.top_p), "above 0 and at most 1"),
            ("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "from 0 to 1"),
            ("typical_p", self.typical_p, fraction(self.typical_p), "above 0 and at most 1"),
            ("repetition_penalty", self.repetition_penalty, self.repetition_penalty > 0.0, "above 0"),
            ("presence_penalty", self.presence_penalty, true, "that is finite"),
            ("frequency_penalty", self.frequency_penalty, true, "that is finite"),
            ("mirostat", f32::from(self.mirostat), self.mirostat <= 2, "0, 1 or 2"),
            ("mirostat_tau", self.mirostat_tau, self.mirostat_tau >= 0.0, "0 or more"),
            ("mirostat_eta", self.mirostat_eta, self.mirostat_eta >= 0.0, "0 or more"),
            ("dry_multiplier", self.dry_multiplier, self.dry_multiplier >= 0.0, "0 or more"),
            ("dry_base", self.dry_base, self.dry_base >= 1.0, "1 or more"),
        ];
        if let Some((name, value, _, range)) =
            checks.iter().find(|(_, value, holds, _)| !(*holds && value.is_finite()))
        {
            return Err(format!("`{name}`: expected a number {range}, found {value}"));
        }
        if self.dry_penalty_last_n < -1 {
            let found = self.dry_penalty_last_n;
            return Err(format!("`dry_penalty_last_n`: expected a whole number, -1 or more, found {found}"));
        }
        if self.dry_sequence_breakers.iter().any(String::is_empty) {
            return Err("`dry_sequence_breakers`: expected texts, found an empty one".into());
        }
        match self.logit_bias.iter().find(|(_, bias)| !(-100.0..=100.0).contains(*bias)) {
            Some((id, bias)) => {
                Err(format!("`logit_bias` of token {id}: expected a number from -100 to 100, found {bias}"))
            }
            None => Ok(()),
        }
    }

    /// Whether the vocabulary is needed to find the tokens of `dry_sequence_breakers`.
    pub fn needs_vocabulary(&self) -> bool {
        self.dry_multiplier > 0.0 && self.dry_penalty_last_n != 0 && !self.dry_sequence_breakers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_out_of_range_are_named() {
        let error = Sampling { top_p: 0.0, ..Sampling::default() }.check().unwrap_err();
        assert_eq!(error, "`top_p`: expected a number above 0 and at most 1, found 0");
        assert!(Sampling { temperature: f32::NAN, ..Sampling::default() }.check().is_err());
        let error = Sampling { mirostat: 3, ..Sampling::default() }.check().unwrap_err();
        assert_eq!(error, "`mirostat`: expected a number 0, 1 or 2, found 3");
        let error = Sampling { logit_bias: [(7, -101.0)].into(), ..Sampling::default() }.check().unwrap_err();
        assert_eq!(error, "`logit_bias` of token 7: expected a number from -100 to 100, found -101");
        assert!(Sampling { presence_penalty: f32::INFINITY, ..Sampling::default() }.check().is_err());
        assert!(Sampling { dry_penalty_last_n: -2, ..Sampling::default() }.check().is_err());
    }

    #[test]
    fn a_request_with_the_names_of_llama_cpp_is_read() {
        let text = r#"{"temperature": 1, "min_p": 0.1, "logit_bias": {"15": -100}, "mirostat": 2, "dry_multiplier": 0.8}"#;
        let sampling: Sampling = serde_json::from_str(text).unwrap();
        assert_eq!(sampling.logit_bias[&15], -100.0);
        assert_eq!((sampling.top_k, sampling.mirostat), (50, 2));
        sampling.check().unwrap();
    }
}
