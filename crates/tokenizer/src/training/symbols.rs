//! Words as symbols: what both trainers count in.

use std::hash::Hasher;

/// Words of symbols, each with how often it occurs.
#[derive(Default)]
pub(super) struct SymbolWords {
    pub symbols: Vec<u32>,
    pub words: Vec<Word>,
}

/// One word: `length` symbols from `start`.
pub(super) struct Word {
    pub start: usize,
    pub length: u32,
    pub count: u64,
}

impl SymbolWords {
    pub(super) fn push(&mut self, symbols: impl IntoIterator<Item = u32>, count: u64) {
        let start = self.symbols.len();
        self.symbols.extend(symbols);
        self.words.push(Word { start, length: (self.symbols.len() - start) as u32, count });
    }

    pub(super) fn of(&self, word: &Word) -> &[u32] {
        &self.symbols[word.start..][..word.length as usize]
    }
}

/// Mixes two ids; nothing here comes from outside, so that it need not resist an attack.
#[derive(Default)]
pub(super) struct PairHasher(u64);

impl Hasher for PairHasher {
    fn finish(&self) -> u64 {
        let mixed = self.0.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        mixed ^ mixed >> 32
    }

    fn write_u32(&mut self, value: u32) {
        self.0 = self.0 << 32 | u64::from(value);
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u32(u32::from(byte)));
    }
}
