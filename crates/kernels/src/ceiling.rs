//! What this processor could do at best: dot products that never leave its registers.
//!
//! A matrix product is judged by its share of this; nothing but measurements uses it.

use std::hint::black_box;
use std::time::Instant;

use crate::linear::Precision;
use crate::team::{parallel_for, threads};

/// Steps of the loop between two looks at the clock.
const STEPS: usize = 100_000;
/// Independent accumulators: enough to hide the latency of a multiply-add on every processor so far.
const ACCUMULATORS: usize = 16;
/// f32 values of an accumulator.
const LANES: usize = 16;

/// Floating-point operations per second of all threads, measured for about `seconds`: the best of several rounds.
pub fn flops_per_second(precision: Precision, seconds: f64) -> f64 {
    let (threads, begin) = (threads(), Instant::now());
    let mut best = 0.0f64;
    while begin.elapsed().as_secs_f64() < seconds {
        let start = Instant::now();
        let per_thread = std::sync::atomic::AtomicUsize::new(0);
        parallel_for(threads, |_| {
            let operations = round(precision);
            per_thread.store(operations, std::sync::atomic::Ordering::Relaxed);
        });
        let operations = per_thread.into_inner() * threads;
        best = best.max(operations as f64 / start.elapsed().as_secs_f64());
    }
    best
}

/// One round on this thread; returns its operations.
fn round(precision: Precision) -> usize {
    #[cfg(target_arch = "x86_64")]
    if precision == Precision::Bf16 && crate::cpu::level() == crate::cpu::Level::Avx512Bf16 {
        // SAFETY: the level says that the processor has AVX-512 BF16.
        return unsafe { bf16_dot_products() };
    }
    _ = precision;
    multiply_adds(black_box(0.5));
    2 * LANES * ACCUMULATORS * STEPS
}

by_cpu_level! {
    fn multiply_adds(factor: f32) {
        let mut sums = [[0.0f32; LANES]; ACCUMULATORS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                for value in sum {
                    *value = value.mul_add(factor, factor);
                }
            }
        }
        black_box(sums);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
fn bf16_dot_products() -> usize {
    use std::arch::x86_64::*;
    // SAFETY: both types are 512 bits of plain data.
    let ones = unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(black_box(0x3f80_3f80))) };
    let mut sums = [_mm512_setzero_ps(); ACCUMULATORS];
    for _ in 0..STEPS {
        for sum in &mut sums {
            *sum = _mm512_dpbf16_ps(*sum, ones, ones);
        }
    }
    black_box(sums);
    4 * LANES * ACCUMULATORS * STEPS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn something_is_measured() {
        for precision in [Precision::F32, Precision::Bf16] {
            let measured = flops_per_second(precision, 0.001);
            assert!(measured.is_finite() && measured > 1e6, "{measured}");
        }
    }
}
