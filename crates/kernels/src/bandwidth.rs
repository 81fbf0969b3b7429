//! How fast this machine reads its main memory: what work that is not bound by arithmetic is judged by.
//!
//! Nothing but measurements uses it.

use std::hint::black_box;
use std::time::Instant;

use crate::buffer::Buffer;
use crate::team::{parallel_chunks, parallel_for, threads};

/// f32 values that are summed side by side: enough that no sum waits for the one before.
const LANES: usize = 128;

/// Memory to read, larger than any cache.
pub struct Bandwidth {
    memory: Buffer<f32>,
}

impl Bandwidth {
    /// Takes `megabytes` of memory (at least 1), every page of it touched.
    pub fn new(megabytes: usize) -> Self {
        let mut memory = Buffer::zeros(megabytes.max(1) << 18);
        let share = memory.len().div_ceil(threads());
        parallel_chunks(memory.host_mut(), share, |_, part| part.fill(1.0));
        Self { memory }
    }

    /// Bytes per second that one thread reads, measured for about `seconds`: the best of several rounds.
    pub fn one_thread(&self, seconds: f64) -> f64 {
        self.bytes_per_second(1, seconds)
    }

    /// The same of all threads together, each on its own part.
    pub fn all_threads(&self, seconds: f64) -> f64 {
        self.bytes_per_second(threads(), seconds)
    }

    fn bytes_per_second(&self, readers: usize, seconds: f64) -> f64 {
        let (begin, mut best) = (Instant::now(), 0.0f64);
        let share = self.memory.len() / readers;
        let memory = self.memory.host();
        while best == 0.0 || begin.elapsed().as_secs_f64() < seconds {
            let start = Instant::now();
            parallel_for(readers, |reader| read(&memory[reader * share..][..share]));
            let bytes = readers * share * size_of::<f32>();
            best = best.max(bytes as f64 / start.elapsed().as_secs_f64());
        }
        best
    }
}

by_cpu_level! {
    fn read(values: &[f32]) {
        let mut sums = [0.0f32; LANES];
        for block in values.as_chunks::<LANES>().0 {
            for lane in 0..LANES {
                sums[lane] += block[lane];
            }
        }
        black_box(sums);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn something_is_measured() {
        let bandwidth = Bandwidth::new(4);
        for measured in [bandwidth.one_thread(0.001), bandwidth.all_threads(0.001)] {
            assert!(measured.is_finite() && measured > 1e6, "{measured}");
        }
    }
}
