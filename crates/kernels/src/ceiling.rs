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
#[cfg(target_arch = "x86_64")]
const ACCUMULATORS: usize = 16;

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
    {
        use crate::cpu::Level;
        match (crate::cpu::level(), precision) {
            // SAFETY: the level says that the processor has the instructions.
            (Level::Avx512Bf16, Precision::Bf16) => return unsafe { bf16_dot_products() },
            // SAFETY: the level says that the processor has the instructions.
            (Level::Avx512 | Level::Avx512Bf16, _) => return unsafe { avx512_multiply_adds() },
            // SAFETY: the level says that the processor has the instructions.
            (Level::Avx2, _) => return unsafe { avx2_multiply_adds() },
            (Level::Portable, _) => {}
        }
    }
    _ = precision;
    multiplies_and_adds()
}

/// In twelve vectors of four, which every processor of today has.
fn multiplies_and_adds() -> usize {
    let factors = black_box([0.5f32; 8]);
    let mut sums = [[0.0f32; 8]; 6];
    for _ in 0..STEPS {
        for row in &mut sums {
            for (sum, factor) in row.iter_mut().zip(&factors) {
                *sum = *sum * factor + factor;
            }
        }
    }
    black_box(sums);
    2 * 6 * 8 * STEPS
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2_multiply_adds() -> usize {
    use std::arch::x86_64::*;
    let factor = _mm256_set1_ps(black_box(0.5));
    let mut sums = [_mm256_setzero_ps(); ACCUMULATORS - 4];
    for _ in 0..STEPS {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(*sum, factor, factor);
        }
    }
    black_box(sums);
    2 * 8 * sums.len() * STEPS
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512_multiply_adds() -> usize {
    use std::arch::x86_64::*;
    let factor = _mm512_set1_ps(black_box(0.5));
    let mut sums = [_mm512_setzero_ps(); ACCUMULATORS];
    for _ in 0..STEPS {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, factor, factor);
        }
    }
    black_box(sums);
    2 * 16 * sums.len() * STEPS
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
    4 * 16 * sums.len() * STEPS
}
