//! NumPy's `RandomState`: MT19937 with its seeding and bounded integers, so that hashes equal those of Python programs.

const WORDS: usize = 624;
const SHIFT: usize = 397;

/// The generator behind `numpy.random.RandomState(seed)`.
pub struct RandomState {
    words: [u32; WORDS],
    next: usize,
}

impl RandomState {
    /// Seeded as Matsumoto and Nishimura's `init_genrand`.
    pub fn new(seed: u32) -> Self {
        let mut words = [seed; WORDS];
        for index in 1..WORDS {
            let last = words[index - 1];
            words[index] = (last ^ (last >> 30)).wrapping_mul(1_812_433_253).wrapping_add(index as u32);
        }
        Self { words, next: WORDS }
    }

    /// 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.next == WORDS {
            for index in 0..WORDS {
                let pair =
                    (self.words[index] & 0x8000_0000) | (self.words[(index + 1) % WORDS] & 0x7fff_ffff);
                let twist = if pair & 1 == 1 { 0x9908_b0df } else { 0 };
                self.words[index] = self.words[(index + SHIFT) % WORDS] ^ (pair >> 1) ^ twist;
            }
            self.next = 0;
        }
        let mut word = self.words[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    /// `randint(low, high, dtype=uint64)`: bits under a mask are drawn until they are within the range.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        let range = high - low - 1;
        let mask = u64::MAX >> range.leading_zeros();
        loop {
            let value = ((u64::from(self.next_u32()) << 32) | u64::from(self.next_u32())) & mask;
            if value <= range {
                return low + value;
            }
        }
    }
}
