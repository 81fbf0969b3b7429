//! MinHash signatures and their bands: rows that share a band are likely to have a high Jaccard similarity.
//!
//! Two kinds: one permutation hashing over shingles (Li, Owen, Zhang 2012, with the optimal densification of
//! Shrivastava 2017), where one hash of a shingle serves all values; and the permutations of `datasketch` over the
//! set of a text's characters, as Baby-Llama2 cleans its corpora. It verifies nothing.

use std::sync::OnceLock;

use sha1::{Digest, Sha1};

use super::random_state::RandomState;
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
    fn push_keys(&self, keys: &mut Vec<u64>, signature: &[u32]) {
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

/// Which permutations of hashes `datasketch` takes the least value of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Permutations {
    /// `legacy`: the only ones before datasketch 2.
    Legacy,
    /// `affine32`: what datasketch 2 does unless asked otherwise.
    Affine32,
}

/// Signatures of the set of a text's characters, value by value those of `datasketch`.
///
/// Only so many characters count that each can have its values in a table, whose least are taken for short texts. For
/// long ones each value has a list of the characters with the least values: the first that is in the text tells it.
pub struct CharacterSignatures {
    permutations: Permutations,
    /// `a` and `b` of each value.
    factors: Vec<(u64, u64)>,
    /// The values of each character that counts, made when it is first met; with the sign turned, because CPUs of the
    /// oldest kind compare only signed numbers many at a time.
    values: Vec<OnceLock<Box<[i32; VALUES]>>>,
    lists: OnceLock<Lists>,
}

/// The characters by their values.
struct Lists {
    /// The hash of the character at each place.
    hashes: Vec<u32>,
    /// For each value the places of the characters with the least, ascending.
    places: Vec<u16>,
}

/// Baby-Llama2's `num_perm`.
const VALUES: usize = 256;
/// What `datasketch` makes of that and of the threshold 0.85.
const BANDS: Bands = Bands { bands: 13, rows: 19 };
/// Different characters of a text from which on lists are faster than the table.
const LONG: usize = 288;
/// Characters of a list.
const LISTED: usize = 1024;
const SIGN: u32 = 1 << 31;
const MERSENNE_PRIME: u64 = (1 << 61) - 1;
const FIRST_HAN: char = '\u{4e00}';
const LAST_HAN: char = '\u{9fa5}';
/// Place of the first Han character among those that count, behind ASCII.
const HAN: usize = 128;
/// All places.
const PLACES: usize = HAN + (LAST_HAN as usize - FIRST_HAN as usize) + 1;

impl CharacterSignatures {
    /// With the settings of Baby-Llama2.
    pub fn baby_llama2(permutations: Permutations) -> Self {
        let mut random = RandomState::new(1);
        let factors = match permutations {
            Permutations::Legacy => {
                let pair = |_| (random.between(1, MERSENNE_PRIME), random.between(0, MERSENNE_PRIME));
                (0..VALUES).map(pair).collect()
            }
            Permutations::Affine32 => {
                let a: Vec<u32> = (0..VALUES).map(|_| random.next_u32() << 1 | 1).collect();
                a.into_iter().map(|a| (u64::from(a), u64::from(random.next_u32()))).collect()
            }
        };
        let values = (0..PLACES).map(|_| OnceLock::new()).collect();
        Self { permutations, factors, values, lists: OnceLock::new() }
    }

    /// The bands that follow from threshold and number of permutations.
    pub fn bands(&self) -> Bands {
        BANDS
    }

    /// Place of a character among those that Baby-Llama2's pattern keeps: Han, letters, digits, `_`, and by mistake `[`, `|`.
    fn place(character: char) -> Option<usize> {
        match character {
            FIRST_HAN..=LAST_HAN => Some(HAN + (character as usize - FIRST_HAN as usize)),
            'A'..='Z' | 'a'..='z' | '0'..='9' | '_' | '[' | '|' => Some(character as usize),
            _ => None,
        }
    }

    /// The character at a place.
    fn character(place: usize) -> Option<char> {
        let code = if place < HAN { place } else { place - HAN + FIRST_HAN as usize };
        char::from_u32(code as u32).filter(|&character| Self::place(character).is_some())
    }

    /// The signature of a text; of one without any character that counts, the greatest values.
    fn signature(&self, text: &str, seen: &mut Vec<u64>) -> Vec<u32> {
        seen.clear();
        seen.resize(PLACES.div_ceil(64), 0);
        let mut met: Vec<u16> = Vec::with_capacity(512);
        for place in text.chars().filter_map(Self::place) {
            let bit = 1 << (place % 64);
            if seen[place / 64] & bit == 0 {
                seen[place / 64] |= bit;
                met.push(place as u16);
            }
        }
        if met.len() < LONG { self.least_of_rows(&met) } else { self.first_of_lists(&met, seen) }
    }

    /// The least values of characters, out of the table.
    fn least_of_rows(&self, met: &[u16]) -> Vec<u32> {
        let mut least = [i32::MAX; VALUES];
        for &place in met {
            let row = self.values[usize::from(place)].get_or_init(|| Box::new(self.values_at(place)));
            least.iter_mut().zip(row.iter()).for_each(|(least, &value)| *least = (*least).min(value));
        }
        least.iter().map(|&value| value as u32 ^ SIGN).collect()
    }

    /// The least values of characters, each that of the first character of its list that is among them.
    fn first_of_lists(&self, met: &[u16], seen: &[u64]) -> Vec<u32> {
        let lists = self.lists.get_or_init(|| self.lists());
        let is_met = |place: u16| seen[usize::from(place / 64)] >> (place % 64) & 1 == 1;
        let hash = |place: u16| lists.hashes[usize::from(place)];
        let signature = lists.places.chunks_exact(LISTED).enumerate().map(|(at, list)| {
            let first = list.iter().find(|place| is_met(**place)).map(|&place| self.value(at, hash(place)));
            let least = || met.iter().map(|&place| self.value(at, hash(place))).min();
            first.or_else(least).unwrap_or(u32::MAX)
        });
        signature.collect()
    }

    fn lists(&self) -> Lists {
        let hashes: Vec<u32> = (0..PLACES)
            .map(|place| Self::character(place).map_or(0, |character| self.hash(character)))
            .collect();
        let known: Vec<u16> =
            (0..PLACES as u16).filter(|&place| Self::character(place.into()).is_some()).collect();
        let list = |at: usize| {
            let mut pairs: Vec<u64> = known
                .iter()
                .map(|&place| u64::from(self.value(at, hashes[usize::from(place)])) << 16 | u64::from(place))
                .collect();
            pairs.select_nth_unstable(LISTED);
            pairs.truncate(LISTED);
            pairs.sort_unstable();
            pairs.into_iter().map(|pair| pair as u16)
        };
        let places = (0..VALUES).flat_map(list).collect();
        Lists { hashes, places }
    }

    /// What a character is before its permutations: four bytes of its SHA-1.
    fn hash(&self, character: char) -> u32 {
        let digest = Sha1::digest(character.encode_utf8(&mut [0; 4]));
        let mut hash = u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]]);
        if self.permutations == Permutations::Affine32 {
            hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
            hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
            hash ^= hash >> 16;
        }
        hash
    }

    /// The value number `at` of a character with this hash.
    fn value(&self, at: usize, hash: u32) -> u32 {
        let (a, b) = self.factors[at];
        let sum = a.wrapping_mul(u64::from(hash)).wrapping_add(b);
        match self.permutations {
            Permutations::Legacy => (sum % MERSENNE_PRIME) as u32,
            Permutations::Affine32 => sum as u32,
        }
    }

    fn values_at(&self, place: u16) -> [i32; VALUES] {
        let hash = Self::character(place.into()).map_or(0, |character| self.hash(character));
        std::array::from_fn(|at| (self.value(at, hash) ^ SIGN) as i32)
    }

    /// Appends the keys of the bands of a text.
    pub fn push_keys(&self, keys: &mut Vec<u64>, text: &str, seen: &mut Vec<u64>) {
        BANDS.push_keys(keys, &self.signature(text, seen));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `spec`: the recorded first values of datasketch's signature of the characters of 你好世界.
    #[test]
    fn seed_000_min_hash_signature() {
        let legacy = CharacterSignatures::baby_llama2(Permutations::Legacy);
        assert_eq!(legacy.factors[0], (775169054918279404, 1758426461858698312));
        assert_eq!(legacy.factors[1], (2109959069025162, 965365488286768773));
        let signature = legacy.signature("你好世界", &mut Vec::new());
        assert_eq!(
            signature[..8],
            [806269767, 811904739, 179893992, 555755059, 681326424, 791980127, 1869787534, 1322757515]
        );
        assert_eq!(legacy.bands(), Bands::to_decide(0.85, 256));
        // What is left of a text by the pattern.
        assert_eq!(
            legacy.signature("你好，[世|界]_a-1！", &mut Vec::new()),
            legacy.signature("你好[世|界_a1", &mut Vec::new())
        );
        assert_eq!(legacy.signature("！。", &mut Vec::new()), [u32::MAX; 256]);
    }

    /// Recorded from datasketch 2.0.0.
    #[test]
    fn affine_permutations_are_those_of_datasketch_2() {
        let affine = CharacterSignatures::baby_llama2(Permutations::Affine32);
        assert_eq!(affine.factors[..2], [(3582191691, 533320336), (4270784983, 1003401116)]);
        let signature = affine.signature("你好世界", &mut Vec::new());
        assert_eq!(
            signature[..8],
            [203958916, 3699001824, 375719467, 314351288, 203001690, 328443445, 646753519, 1365149111]
        );
    }

    #[test]
    fn lists_and_table_give_the_same_values() {
        let affine = CharacterSignatures::baby_llama2(Permutations::Affine32);
        let text: String = ('一'..).step_by(37).take(300).collect();
        let mut seen = Vec::new();
        let signature = affine.signature(&text, &mut seen);
        let met: Vec<u16> =
            text.chars().filter_map(CharacterSignatures::place).map(|place| place as u16).collect();
        assert_eq!(signature, affine.least_of_rows(&met));
        // Where no list has any of the characters, all are looked at.
        let few = affine.first_of_lists(&met[..1], &vec![0; seen.len()]);
        assert_eq!(few, affine.least_of_rows(&met[..1]));
    }

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
