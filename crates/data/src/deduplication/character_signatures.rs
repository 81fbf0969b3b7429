//! MinHash over the set of a text's characters with the permutations of `datasketch`, as Baby-Llama2 cleans its corpora.
//!
//! The values of a signature are those of `datasketch`, one by one. It knows no shingles, and verifies nothing.

use std::sync::OnceLock;

use rayon::prelude::*;
use sha1::{Digest, Sha1};

use super::min_hash::Bands;
use super::random_state::RandomState;

/// Which permutations of hashes `datasketch` takes the least value of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Permutations {
    /// `legacy`: the only ones before datasketch 2.
    Legacy,
    /// `affine32`: what datasketch 2 does unless asked otherwise.
    Affine32,
}

/// Signatures of the set of a text's characters.
///
/// Only so many characters count that each can have its values in a table, whose least are taken. Texts with many of the
/// frequent characters are spared most of that: for each value the frequent characters stand in a list by their values,
/// and the first that is in the text tells the least of them.
pub struct CharacterSignatures {
    permutations: Permutations,
    /// `a` and `b` of each value.
    factors: Vec<(u64, u64)>,
    /// The values of each character that counts, made when it is first met; with the sign turned, because CPUs of the
    /// oldest kind compare only signed numbers many at a time.
    values: Vec<OnceLock<Box<[i32; VALUES]>>>,
    lists: OnceLock<Box<Lists>>,
}

/// The frequent characters by their values.
struct Lists {
    /// Bits of their places.
    frequent: Places,
    /// The hash of the character at each place.
    hashes: Vec<u32>,
    /// For each value their places, the one with the least value first.
    places: Vec<u16>,
}

/// A bit for each place, and one behind them for all characters that do not count.
type Places = [u64; PLACES / 64 + 1];

/// Baby-Llama2's `num_perm`.
const VALUES: usize = 256;
/// What `datasketch` makes of that and of the threshold 0.85.
const BANDS: Bands = Bands { bands: 13, rows: 19 };
/// Frequent characters of a text from which on lists are faster than the table.
const LONG: u32 = 128;
/// Characters that are frequent.
const FREQUENT: usize = 3072;
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

    /// Learns from some texts which characters are frequent. That decides the speed, and nothing else.
    pub fn learn<'a>(&self, texts: impl Iterator<Item = &'a str>) {
        self.lists.get_or_init(|| {
            let mut counts: Vec<(u32, u16)> = (0..PLACES as u16).map(|place| (0, place)).collect();
            for text in texts {
                each(&places(text), |place| counts[place].0 += 1);
            }
            counts.retain(|(count, _)| *count > 0);
            counts.sort_unstable_by_key(|&(count, place)| (std::cmp::Reverse(count), place));
            Box::new(self.lists(counts.iter().take(FREQUENT).map(|(_, place)| *place).collect()))
        });
    }

    fn lists(&self, listed: Vec<u16>) -> Lists {
        let mut frequent = [0; _];
        listed.iter().for_each(|&place| set(&mut frequent, place.into()));
        let hashes: Vec<u32> = (0..PLACES).map(|place| self.hash(character(place))).collect();
        let list = |at: usize| {
            let mut list = listed.clone();
            list.sort_unstable_by_key(|&place| self.value(at, hashes[usize::from(place)]));
            list
        };
        let places = (0..VALUES).into_par_iter().flat_map_iter(list).collect();
        Lists { frequent, hashes, places }
    }

    /// The signature of a text; of one without any character that counts, the greatest values.
    fn signature(&self, text: &str) -> [u32; VALUES] {
        let mut places = places(text);
        let mut least = [i32::MAX; VALUES];
        if let Some(lists) = self.lists.get() {
            let frequent = |(places, frequent): (&u64, &u64)| (places & frequent).count_ones();
            if places.iter().zip(&lists.frequent).map(frequent).sum::<u32>() >= LONG {
                least = self.first_of_lists(lists, &places);
                places.iter_mut().zip(&lists.frequent).for_each(|(places, frequent)| *places &= !frequent);
            }
        }
        each(&places, |place| {
            let row = self.values[place].get_or_init(|| Box::new(self.values_at(place)));
            least.iter_mut().zip(row.iter()).for_each(|(least, &value)| *least = (*least).min(value));
        });
        least.map(|value| value as u32 ^ SIGN)
    }

    /// The least values of the frequent characters at these places, of which there is one at least.
    fn first_of_lists(&self, lists: &Lists, places: &Places) -> [i32; VALUES] {
        let is_met = |place: u16| places[usize::from(place / 64)] >> (place % 64) & 1 == 1;
        let mut all = lists.places.chunks_exact(lists.places.len() / VALUES).enumerate();
        std::array::from_fn(|_| {
            let first = all.next().and_then(|(at, list)| {
                let place = list.iter().find(|place| is_met(**place))?;
                Some(self.value(at, lists.hashes[usize::from(*place)]))
            });
            (first.unwrap_or(u32::MAX) ^ SIGN) as i32
        })
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

    fn values_at(&self, place: usize) -> [i32; VALUES] {
        let hash = self.hash(character(place));
        std::array::from_fn(|at| (self.value(at, hash) ^ SIGN) as i32)
    }

    /// Appends the keys of the bands of a text.
    pub fn push_keys(&self, keys: &mut Vec<u64>, text: &str) {
        BANDS.push_keys(keys, &self.signature(text));
    }
}

/// Places of the characters of a text that Baby-Llama2's pattern keeps: Han, letters, digits, `_`, and by mistake `[`, `|`.
fn places(text: &str) -> Places {
    /// Those before [`HAN`].
    const ASCII: [u64; HAN / 64] = {
        let mut kept = [0; HAN / 64];
        let mut byte = 0u8;
        while byte < HAN as u8 {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'[' | b'|') {
                kept[byte as usize / 64] |= 1 << (byte % 64);
            }
            byte += 1;
        }
        kept
    };
    let mut places = [0; _];
    for character in text.chars() {
        let code = character as usize;
        // Without a branch that depends on the text.
        let other = HAN + code.wrapping_sub(FIRST_HAN as usize).min(PLACES - HAN);
        set(&mut places, if code < HAN { code } else { other });
    }
    places.iter_mut().zip(ASCII).for_each(|(places, kept)| *places &= kept);
    places[PLACES / 64] &= !(1 << (PLACES % 64));
    places
}

fn set(places: &mut Places, place: usize) {
    places[place / 64] |= 1 << (place % 64);
}

/// Calls `found` with each place.
fn each(places: &Places, mut found: impl FnMut(usize)) {
    for (word, &bits) in places.iter().enumerate() {
        let mut bits = bits;
        while bits != 0 {
            found(word * 64 + bits.trailing_zeros() as usize);
            bits &= bits - 1;
        }
    }
}

/// The character at a place.
fn character(place: usize) -> char {
    let code = if place < HAN { place } else { place - HAN + FIRST_HAN as usize };
    char::from_u32(code as u32).unwrap_or(char::REPLACEMENT_CHARACTER)
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
        let signature = legacy.signature("你好世界");
        assert_eq!(
            signature[..8],
            [806269767, 811904739, 179893992, 555755059, 681326424, 791980127, 1869787534, 1322757515]
        );
        assert_eq!(legacy.bands(), Bands::to_decide(0.85, 256));
        // What is left of a text by the pattern.
        assert_eq!(legacy.signature("你好，[世|界]_a-1！"), legacy.signature("你好[世|界_a1"));
        assert_eq!(legacy.signature("！。"), [u32::MAX; 256]);
    }

    /// Recorded from datasketch 2.0.0.
    #[test]
    fn affine_permutations_are_those_of_datasketch_2() {
        let affine = CharacterSignatures::baby_llama2(Permutations::Affine32);
        assert_eq!(affine.factors[..2], [(3582191691, 533320336), (4270784983, 1003401116)]);
        let signature = affine.signature("你好世界");
        assert_eq!(
            signature[..8],
            [203958916, 3699001824, 375719467, 314351288, 203001690, 328443445, 646753519, 1365149111]
        );
    }

    #[test]
    fn lists_and_table_give_the_same_values() {
        for permutations in [Permutations::Legacy, Permutations::Affine32] {
            let table = CharacterSignatures::baby_llama2(permutations);
            let listed = CharacterSignatures::baby_llama2(permutations);
            let text = |step: usize, count: usize| ('一'..).step_by(step).take(count).collect::<String>();
            // What is frequent here are every seventh of the first characters, `a` and `Z`.
            listed.learn([text(7, 900).as_str(), "aZ，é"].into_iter());
            for (step, count) in [(1, 9), (1, 500), (7, 300), (7, 2000), (37, 560), (1, 20000)] {
                let text = text(step, count) + "，bZ😀";
                assert_eq!(listed.signature(&text), table.signature(&text), "{step} {count}");
            }
        }
    }
}
