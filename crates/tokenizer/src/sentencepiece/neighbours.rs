//! Which characters stand beside each other inside of pieces: between two that never do, a text can be cut before
//! anything is joined, and gives the same pieces.

use std::hash::Hasher;

/// Bits of the table: 128 KiB, in which half a million pairs are still told apart well.
const BITS: u32 = 20;
/// 2⁶⁴ over the golden ratio.
const MIX: u64 = 0x9E37_79B9_7F4A_7C15;

/// A quick hash for the texts of pieces, which are short and looked up for every character; the table they are looked up
/// in holds only what the vocabulary's file holds.
#[derive(Debug, Clone, Default)]
pub(super) struct PieceHash(u64);

impl Hasher for PieceHash {
    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.0 = (self.0.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(MIX);
        }
    }

    fn finish(&self) -> u64 {
        // The table takes both ends of the number.
        self.0 ^ self.0 >> 29
    }
}

/// A set of pairs of characters that may say yes too often, never no.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Neighbours(Box<[u64]>);

impl Neighbours {
    pub(super) fn new() -> Self {
        Self(vec![0; (1 << BITS) / 64].into())
    }

    /// Adds the neighbours within a piece.
    pub(super) fn add(&mut self, piece: &str) {
        for (left, right) in piece.chars().zip(piece.chars().skip(1)) {
            let bit = bit(left, right);
            self.0[bit / 64] |= 1 << (bit % 64);
        }
    }

    /// Whether two characters can stand in one piece.
    fn may_join(&self, left: char, right: char) -> bool {
        let bit = bit(left, right);
        self.0[bit / 64] >> (bit % 64) & 1 == 1
    }

    /// Gives the stretches of a text that no piece crosses the ends of, and their character where it is only one.
    pub(super) fn for_each_stretch<'a>(&self, text: &'a str, mut stretch: impl FnMut(&'a str, Option<char>)) {
        let mut characters = text.char_indices();
        let Some((_, first)) = characters.next() else { return };
        let (mut start, mut last, mut only) = (0, first, Some(first));
        for (at, next) in characters {
            if self.may_join(last, next) {
                only = None;
            } else {
                stretch(&text[start..at], only);
                (start, only) = (at, Some(next));
            }
            last = next;
        }
        stretch(&text[start..], only);
    }
}

fn bit(left: char, right: char) -> usize {
    let pair = u64::from(u32::from(left)) << 32 | u64::from(u32::from(right));
    (pair.wrapping_mul(MIX) >> (64 - BITS)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_piece_crosses_the_end_of_a_stretch() {
        let mut neighbours = Neighbours::new();
        ["数控", "加工", "控机"].into_iter().for_each(|piece| neighbours.add(piece));
        let mut stretches = Vec::new();
        neighbours.for_each_stretch("数控机床加工a", |stretch, only| stretches.push((stretch, only)));
        assert_eq!(stretches, [("数控机", None), ("床", Some('床')), ("加工", None), ("a", Some('a'))]);
        neighbours.for_each_stretch("", |_, _| panic!("nothing has no stretches"));
    }
}
