//! MinHash signatures and their bands: rows that share a band are likely to have a high Jaccard similarity.
//!
//! One permutation hashing over shingles (Li, Owen, Zhang 2012, with the optimal densification of Shrivastava 2017), where
//! one hash of a shingle serves all values. It verifies nothing.

use super::row_text::{mix, push_shingles};

/// How many bands, of how many values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bands {
    /// Number of bands.
    pub bands: usize,
    /// Values of a band, all of which must be equal.
    pub rows: usize,
}

impl Bands {
    /// The longest bands with which at least 99.5 % of the pairs 0.05 above `threshold` (or half way to 1) share one:
    /// what they find below the threshold is verified and given up.
    pub fn to_verify(threshold: f64, values: usize) -> Self {
        const FOUND: f64 = 0.995;
        let similarity = (threshold + 0.05).min((1.0 + threshold) / 2.0);
        let bands = |rows| Self { bands: values / rows, rows };
        let finds = |bands: &Self| bands.probability(similarity) >= FOUND;
        (1..=values).rev().map(bands).find(finds).unwrap_or(bands(1))
    }

    /// The bands with the least sum of wrong decisions below and above `threshold`, as `datasketch` chooses them.
    pub fn to_decide(threshold: f64, values: usize) -> Self {
        let mut best = (f64::INFINITY, Self { bands: 1, rows: 1 });
        for bands in 1..=values {
            for rows in 1..=values / bands {
                let candidate = Self { bands, rows };
                let found = integral(|similarity| candidate.probability(similarity), 0.0, threshold);
                let missed = integral(|similarity| 1.0 - candidate.probability(similarity), threshold, 1.0);
                let error = (found + missed) / 2.0;
                if error < best.0 {
                    best = (error, candidate);
                }
            }
        }
        best.1
    }

    /// Probability that two rows of this similarity share a band.
    pub fn probability(&self, similarity: f64) -> f64 {
        1.0 - (1.0 - similarity.powi(self.rows as i32)).powi(self.bands as i32)
    }

    /// A key for each band of a signature.
    pub fn push_keys(&self, keys: &mut Vec<u64>, signature: &[u32]) {
        for (band, values) in signature.chunks_exact(self.rows).take(self.bands).enumerate() {
            keys.push(values.iter().fold(mix(band as u64 + 1), |key, &value| mix(key ^ u64::from(value))));
        }
    }
}

/// Simpson's rule.
fn integral(function: impl Fn(f64) -> f64, from: f64, to: f64) -> f64 {
    const PIECES: usize = 64;
    let width = (to - from) / PIECES as f64;
    let weight = |point| match point {
        0 | PIECES => 1.0,
        point if point % 2 == 1 => 4.0,
        _ => 2.0,
    };
    (0..=PIECES).map(|point| weight(point) * function(from + width * point as f64)).sum::<f64>() * width / 3.0
}

/// Signatures of the shingles of a text.
#[derive(Debug, Clone)]
pub struct ShingleSignatures {
    /// Characters of a shingle.
    pub ngram: usize,
    /// Values of a signature.
    pub values: usize,
    /// Its bands.
    pub bands: Bands,
}

impl ShingleSignatures {
    /// Appends the keys of the bands of a text that is [normalised](super::row_text::normalise).
    pub fn push_keys(&self, keys: &mut Vec<u64>, text: &str, shingles: &mut Vec<u64>) {
        /// The value of a bin that no shingle fell into.
        const NONE: u32 = u32::MAX;
        shingles.clear();
        push_shingles(shingles, text, self.ngram);
        // The upper half of a hash says its bin, the lower is the value of which the bin keeps the least.
        let bin = |hash: u64| (((hash >> 32) * self.values as u64) >> 32) as usize;
        let mut least = vec![NONE; self.values];
        for &hash in &*shingles {
            let least = &mut least[bin(hash)];
            *least = (*least).min((hash as u32).min(NONE - 1));
        }
        let lender = |empty: usize| {
            let mut choice = mix(empty as u64 + 1);
            while least[bin(choice)] == NONE {
                choice = mix(choice.wrapping_add(empty as u64 + 1));
            }
            least[bin(choice)]
        };
        let filled =
            least.iter().enumerate().map(|(bin, &value)| if value == NONE { lender(bin) } else { value });
        let signature: Vec<u32> = filled.collect();
        self.bands.push_keys(keys, &signature);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_follow_from_the_threshold() {
        for (threshold, bands, rows) in [(0.5, 25, 5), (0.6, 18, 7), (0.7, 14, 9), (0.8, 9, 13), (0.9, 5, 25)]
        {
            assert_eq!(
                Bands::to_decide(threshold, 128),
                Bands { bands, rows },
                "datasketch's for {threshold}"
            );
        }
        for threshold in [0.3, 0.5, 0.7, 0.8, 0.9, 0.97] {
            for values in [64, 128, 256] {
                let bands = Bands::to_verify(threshold, values);
                let above = (threshold + 0.05f64).min((1.0 + threshold) / 2.0);
                assert!(bands.probability(above) >= 0.995, "{threshold} {values} {bands:?}");
                assert!(bands.bands * bands.rows <= values);
            }
        }
    }
}
