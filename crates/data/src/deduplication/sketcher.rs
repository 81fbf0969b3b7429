//! Rows → the words by which duplicates are found, for every method.

use rayon::prelude::*;

use super::Method;
use super::character_signatures::CharacterSignatures;
use super::fingerprints;
use super::min_hash::{Bands, ShingleSignatures};
use super::passes::Row;
use super::row_text::normalise;
use crate::error::{DataError, Result};

/// What makes the words of a row.
pub enum Sketcher {
    Nothing,
    Text,
    SimHash,
    Shingles(ShingleSignatures),
    Characters(CharacterSignatures),
}

impl Sketcher {
    pub fn new(method: &Method) -> Result<Self> {
        // Beyond these nothing is gained.
        const LONGEST_NGRAM: usize = 64;
        const MOST_VALUES: usize = 4096;
        Ok(match *method {
            Method::Nothing => Self::Nothing,
            Method::Exact => Self::Text,
            Method::SimHash => Self::SimHash,
            Method::BabyLlama2(permutations) => {
                Self::Characters(CharacterSignatures::baby_llama2(permutations))
            }
            Method::MinHash { ngram, threshold, num_perm, verify } => {
                let wrong = |option, problem: String| Err(DataError::Option { option, problem });
                if !(1..=LONGEST_NGRAM).contains(&ngram) {
                    return wrong(
                        "ngram",
                        format!("found {ngram}: expected 1 to {LONGEST_NGRAM} characters"),
                    );
                }
                if !(threshold > 0.0 && threshold <= 1.0) {
                    return wrong(
                        "threshold",
                        format!("found {threshold}: expected a similarity above 0 and up to 1, such as 0.8"),
                    );
                }
                if !(8..=MOST_VALUES).contains(&num_perm) {
                    return wrong("num-perm", format!("found {num_perm}: expected 8 to {MOST_VALUES}"));
                }
                let bands = if verify {
                    Bands::to_verify(threshold, num_perm)
                } else {
                    Bands::to_decide(threshold, num_perm)
                };
                Self::Shingles(ShingleSignatures { ngram, values: num_perm, bands })
            }
        })
    }

    /// Words of a row.
    pub fn width(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Text | Self::SimHash => 2,
            Self::Shingles(signatures) => signatures.bands.bands,
            Self::Characters(signatures) => signatures.bands().bands,
        }
    }

    /// The words of each row, and the length of its text in bytes.
    pub fn sketch(&self, rows: &[Row], pool: &rayon::ThreadPool) -> Vec<(Vec<u64>, u32)> {
        let sketch = |scratch: &mut Vec<u64>, row: &Row| {
            let mut words = Vec::with_capacity(self.width());
            let text = row.text();
            let mut push = |bits: u128| words.extend([(bits >> 64) as u64, bits as u64]);
            match self {
                Self::Nothing => {}
                Self::Text => push(fingerprints::of_text(text)),
                Self::SimHash => push(fingerprints::sim_hash(text)),
                Self::Shingles(signatures) => signatures.push_keys(&mut words, &normalise(text), scratch),
                Self::Characters(signatures) => signatures.push_keys(&mut words, text),
            }
            (words, u32::try_from(text.len()).unwrap_or(u32::MAX))
        };
        pool.install(|| {
            if let Self::Characters(signatures) = self {
                signatures.learn(rows.iter().map(Row::text));
            }
            rows.par_iter().map_init(Vec::new, sketch).collect()
        })
    }
}
