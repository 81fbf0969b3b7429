//! Random masks and noise of training, drawn from counters: a bit is a function of its row's key, the site and its place
//! in the row, so that neither threads nor the split of a step into slices change it.
//!
//! A row's key stands for seed, step, sample and token ([`row_key`]); nothing is kept between forward and backward.

use crate::buffer::{View, ViewMut};
use crate::random::{GOLDEN, mix};
use crate::team::parallel_chunks;
use crate::value::Value;

/// Rows of one task.
const ROWS: usize = 8;
/// Elements that share 64 random bits.
const LANES: usize = 4;
/// Values of the bits of one element.
const STEPS: f32 = 65536.0;

/// The key of a token: those of its sample, and its position.
pub fn row_key(sample: &[u64], position: u64) -> u64 {
    sample.iter().chain([&position]).fold(GOLDEN, |key, &part| mix(key ^ mix(part.wrapping_add(GOLDEN))))
}

/// y [T, N] = x [T, N] where an element is kept, divided by the share that is kept, and 0 where it is dropped.
///
/// Inverted dropout (Srivastava et al. 2014): the expectation of y is x.
pub fn dropout<T: Value>(x: View<T>, keys: &[u64], site: u64, rate: f32, y: ViewMut<T>) {
    let _timer = crate::timing::Operation::Adapter.start();
    let width = width(x.0.len(), keys);
    assert_eq!(x.0.len(), y.0.len());
    parallel_chunks(y.0, ROWS * width, |task, y| {
        for (row, y) in y.chunks_exact_mut(width).enumerate() {
            let row = task * ROWS + row;
            drop_row(&x.0[row * width..][..width], mix(keys[row] ^ mix(site)), rate, y);
        }
    });
}

/// y [T, N] += what [`dropout`] makes of x [T, N]: its backward.
pub fn add_dropout<T: Value>(x: View<f32>, keys: &[u64], site: u64, rate: f32, y: ViewMut<T>) {
    let _timer = crate::timing::Operation::Adapter.start();
    let width = width(x.0.len(), keys);
    assert_eq!(x.0.len(), y.0.len());
    parallel_chunks(y.0, ROWS * width, |task, y| {
        for (row, y) in y.chunks_exact_mut(width).enumerate() {
            let row = task * ROWS + row;
            add_dropped_row(&x.0[row * width..][..width], mix(keys[row] ^ mix(site)), rate, y);
        }
    });
}

/// x [T, N] += uniform noise in ± `scale`(t).
pub fn add_noise(keys: &[u64], site: u64, scale: impl Fn(usize) -> f32 + Sync, x: ViewMut<f32>) {
    let _timer = crate::timing::Operation::Embedding.start();
    let width = width(x.0.len(), keys);
    parallel_chunks(x.0, ROWS * width, |task, x| {
        for (row, x) in x.chunks_exact_mut(width).enumerate() {
            let row = task * ROWS + row;
            noise_row(mix(keys[row] ^ mix(site)), scale(row), x);
        }
    });
}

fn width(elements: usize, keys: &[u64]) -> usize {
    assert!(!keys.is_empty() && elements.is_multiple_of(keys.len()));
    (elements / keys.len()).max(1)
}

/// 64 bits for the elements `block · LANES ..` of a row.
#[inline(always)]
fn bits(key: u64, block: usize) -> u64 {
    mix(key.wrapping_add((block as u64 + 1).wrapping_mul(GOLDEN)))
}

/// Elements below it are dropped, and what the others are multiplied by.
#[inline(always)]
fn threshold(rate: f32) -> (u64, f32) {
    let threshold = (rate * STEPS).round().clamp(0.0, STEPS - 1.0);
    (threshold as u64, STEPS / (STEPS - threshold))
}

by_cpu_level! {
    fn drop_row<[T: Value]>(x: &[T], key: u64, rate: f32, y: &mut [T]) {
        let (threshold, factor) = threshold(rate);
        for (block, (x, y)) in x.chunks(LANES).zip(y.chunks_mut(LANES)).enumerate() {
            let bits = bits(key, block);
            for (lane, (x, y)) in x.iter().zip(y).enumerate() {
                let kept = if bits >> (16 * lane) & 0xffff >= threshold { factor } else { 0.0 };
                *y = T::from_f32(x.to_f32() * kept);
            }
        }
    }
}

by_cpu_level! {
    fn add_dropped_row<[T: Value]>(x: &[f32], key: u64, rate: f32, y: &mut [T]) {
        let (threshold, factor) = threshold(rate);
        for (block, (x, y)) in x.chunks(LANES).zip(y.chunks_mut(LANES)).enumerate() {
            let bits = bits(key, block);
            for (lane, (x, y)) in x.iter().zip(y).enumerate() {
                let kept = if bits >> (16 * lane) & 0xffff >= threshold { factor } else { 0.0 };
                *y = T::from_f32(y.to_f32() + x * kept);
            }
        }
    }
}

by_cpu_level! {
    fn noise_row(key: u64, scale: f32, x: &mut [f32]) {
        for (block, x) in x.chunks_mut(LANES).enumerate() {
            let bits = bits(key, block);
            for (lane, x) in x.iter_mut().enumerate() {
                let uniform = ((bits >> (16 * lane) & 0xffff) as f32 + 0.5) * (2.0 / STEPS) - 1.0;
                *x += scale * uniform;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: usize = 21;
    const N: usize = 501;

    fn keys(step: u64) -> Vec<u64> {
        (0..T as u64).map(|position| row_key(&[7, step, 2], position)).collect()
    }

    fn mask(keys: &[u64], site: u64, rate: f32) -> Vec<f32> {
        let mut y = vec![9.0; keys.len() * N];
        dropout(View(&vec![1.0; keys.len() * N]), keys, site, rate, ViewMut(&mut y));
        y
    }

    #[test]
    fn the_share_that_is_kept_is_the_rate_and_the_mean_stays() {
        for rate in [0.05, 0.3, 0.9] {
            let y = mask(&keys(1), 3, rate);
            let dropped = y.iter().filter(|value| **value == 0.0).count() as f32 / y.len() as f32;
            assert!((dropped - rate).abs() < 0.02, "{dropped} of {rate}");
            assert!(y.iter().all(|value| *value == 0.0 || (value * (1.0 - rate) - 1.0).abs() < 1e-3));
        }
        assert!(mask(&keys(1), 3, 0.0).iter().all(|value| *value == 1.0));
    }

    #[test]
    fn a_row_has_its_mask_wherever_it_stands_and_another_at_every_site_and_step() {
        let whole = mask(&keys(1), 3, 0.5);
        let part = mask(&keys(1)[5..9], 3, 0.5);
        assert_eq!(part, whole[5 * N..9 * N]);
        let half = |other: &[f32]| {
            let same = whole.iter().zip(other).filter(|(one, other)| one == other).count();
            (same as f32 / whole.len() as f32 - 0.5).abs() < 0.02
        };
        assert!(half(&mask(&keys(1), 4, 0.5)) && half(&mask(&keys(2), 3, 0.5)));
        assert!(half(&[&whole[N..], &whole[..N]].concat()), "rows are as strangers");
        assert!(half(&[&whole[1..], &whole[..1]].concat()), "elements too");
    }

    #[test]
    fn the_backward_has_the_mask_of_the_forward() {
        let (keys, ones) = (keys(4), vec![1.0; T * N]);
        let mut sum = vec![2.0; T * N];
        add_dropout(View(&ones), &keys, 1, 0.25, ViewMut(&mut sum));
        let forward = mask(&keys, 1, 0.25);
        assert!(sum.iter().zip(&forward).all(|(sum, kept)| *sum == 2.0 + kept));
    }

    #[test]
    fn noise_is_uniform_and_as_large_as_its_row_asks() {
        let mut x = vec![0.0; T * N];
        add_noise(&keys(1), 0, |row| row as f32, ViewMut(&mut x));
        assert!(x[..N].iter().all(|value| *value == 0.0));
        let last = &x[(T - 1) * N..];
        let (mean, largest) =
            (last.iter().sum::<f32>() / N as f32, last.iter().fold(0.0f32, |a, b| a.max(b.abs())));
        assert!(mean.abs() < 2.0 && (19.0..20.0).contains(&largest), "{mean} {largest}");
    }
}
