//! Fingerprints of 128 bits: of the whole text, which equal texts share, and SimHash, which is near for near texts
//! (Charikar 2002; features as Baby-Llama2 takes them).

use md5::{Digest, Md5};
use sha2::Sha256;

/// Characters of a feature.
const WIDTH: usize = 3;
/// Bits in which fingerprints of near texts differ at most.
pub const NEAR: u32 = 3;
/// Blocks of a fingerprint; of texts that differ in `NEAR` bits, one block is equal.
const BLOCKS: u32 = NEAR + 1;

/// The bits of a byte, each in a byte of its own.
const SPREAD: [u64; 256] = {
    let mut spread = [0; 256];
    let mut at = 0;
    while at < 256 * 8 {
        spread[at / 8] |= (((at / 8) >> (at % 8) & 1) as u64) << (at % 8 * 8);
        at += 1;
    }
    spread
};

/// The fingerprint of a text as it is.
pub fn of_text(text: &str) -> u128 {
    let digest = Sha256::digest(text);
    digest.iter().take(16).fold(0, |bits, &byte| bits << 8 | u128::from(byte))
}

/// SimHash of the runs of three characters of the lower-case text without anything but letters, digits and `_`; each
/// run votes with its MD5, and a bit is set where more than half of the votes have it.
pub fn sim_hash(text: &str) -> u128 {
    let lower = text.to_lowercase();
    let word: String =
        lower.chars().filter(|character| character.is_alphanumeric() || *character == '_').collect();
    let starts: Vec<usize> = word.char_indices().map(|(at, _)| at).chain([word.len()]).collect();
    // A text of fewer characters is one feature, the empty one too.
    let features = starts.len().saturating_sub(WIDTH).max(1);
    let mut votes = [0u32; 128];
    // Counted in bytes, eight of a word at once, which are emptied before they overflow.
    let mut counts = [0u64; 16];
    for first in 0..features {
        let last = (first + WIDTH).min(starts.len() - 1);
        let digest: [u8; 16] = Md5::digest(&word[starts[first]..starts[last]]).into();
        for (count, &byte) in counts.iter_mut().zip(digest.iter().rev()) {
            *count += SPREAD[usize::from(byte)];
        }
        if first % 255 == 254 || first + 1 == features {
            for (votes, count) in votes.chunks_exact_mut(8).zip(&mut counts) {
                votes
                    .iter_mut()
                    .zip(count.to_le_bytes())
                    .for_each(|(votes, count)| *votes += u32::from(count));
                *count = 0;
            }
        }
    }
    let set = |bits, (bit, &votes): (usize, &u32)| bits | u128::from(votes as usize * 2 > features) << bit;
    votes.iter().enumerate().fold(0, set)
}

/// The blocks of a fingerprint, each with its number.
pub fn blocks(fingerprint: u128) -> impl Iterator<Item = u64> {
    const BITS: u32 = 128 / BLOCKS;
    (0..BLOCKS).map(move |block| {
        u64::from(block) << BITS | (fingerprint >> (block * BITS)) as u64 & ((1 << BITS) - 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_000_sim_hash_values() {
        assert_eq!(sim_hash("abcde"), 191532200435873122239555527582237685096);
        assert_eq!(sim_hash("你好，世界！"), 173146407812243662206343874545113694217);
        let long: String = ('一'..).take(1000).collect();
        let features: Vec<String> =
            long.chars().collect::<Vec<_>>().windows(3).map(|run| run.iter().collect()).collect();
        let votes = |bit: u32| {
            features.iter().filter(|run| u128::from_be_bytes(Md5::digest(run).into()) >> bit & 1 == 1).count()
        };
        let plain = (0..128).fold(0, |bits, bit| bits | u128::from(votes(bit) > 499) << bit);
        assert_eq!(sim_hash(&long), plain);
        // One feature: its MD5 itself, of nothing too.
        assert_eq!(sim_hash("！"), 0xd41d8cd98f00b204e9800998ecf8427e);
    }

    #[test]
    fn fingerprints_three_bits_apart_share_a_block() {
        let fingerprint = of_text("文");
        for bits in [0u128, 1, 1 << 127 | 1 << 64 | 1 << 32, 7 << 95] {
            let other = fingerprint ^ bits;
            assert!(blocks(fingerprint).zip(blocks(other)).any(|(a, b)| a == b));
        }
        let all: Vec<u64> = blocks(u128::MAX).collect();
        assert_eq!(all, [0xffff_ffff, 0x1_ffff_ffff, 0x2_ffff_ffff, 0x3_ffff_ffff]);
    }
}
