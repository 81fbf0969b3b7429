//! AdamW whose moments rest in 8 bits, block by block (Dettmers et al. 2022, arXiv:2110.02861).
//!
//! A block is [`BLOCK`] elements with one f32 scale, its largest magnitude. Codes map to shares of the scale by powers,
//! so that encoding is a square root and vectorises, and small values keep their relative precision:
//!
//! - first moment: s = (code − 128) / 127, value = scale · s · |s|;
//! - second moment: t = (code + 1) / 256, value = scale · t⁴. It is never zero where the block has a gradient, for a
//!   zero below the root would make a step of unlimited size.
//!
//! The update itself uses the new moments before they are rounded.

use super::adamw::{AdamwStep, Rates, element};
use crate::buffer::{View, ViewMut};
use crate::team::{SharedSlice, parallel_chunks};

/// Elements that share a scale.
pub const BLOCK: usize = 256;
/// Parameters with fewer elements keep f32 moments, as bitsandbytes does: norms cost nothing and need the precision.
pub const FEWEST_ELEMENTS: usize = 4096;

/// Blocks of one task.
const BLOCKS: usize = 32;

/// A moment at rest.
pub struct Codes<'a> {
    /// One for each element.
    pub codes: ViewMut<'a, u8>,
    /// One for each block.
    pub scales: ViewMut<'a, f32>,
}

/// The step of [`adamw_step`](super::adamw::adamw_step) on moments in 8 bits; all zero before the first step.
pub fn adamw_8bit_step(
    step: &AdamwStep,
    gradient: View<f32>,
    first_moment: Codes,
    second_moment: Codes,
    parameter: ViewMut<f32>,
) {
    let _timer = crate::timing::Operation::Optimizer.start();
    let length = parameter.0.len();
    assert_eq!(gradient.0.len(), length);
    for moment in [&first_moment, &second_moment] {
        assert!(moment.codes.0.len() == length && moment.scales.0.len() == length.div_ceil(BLOCK));
    }
    let rates = Rates::of(step);
    let [first, second] = [first_moment, second_moment]
        .map(|moment| (SharedSlice::new(moment.codes.0), SharedSlice::new(moment.scales.0)));
    parallel_chunks(parameter.0, BLOCKS * BLOCK, |task, parameter| {
        for (index, parameter) in parameter.chunks_mut(BLOCK).enumerate() {
            let block = task * BLOCKS + index;
            let (start, count) = (block * BLOCK, parameter.len());
            // SAFETY: each block belongs to one task.
            let [first, second] = [first, second].map(|(codes, scales)| unsafe {
                (codes.range(start, count), &mut scales.range(block, 1)[0])
            });
            update(step, rates, &gradient.0[start..start + count], first, second, parameter);
        }
    });
}

by_cpu_level! {
    fn update(
        step: &AdamwStep,
        rates: Rates,
        gradient: &[f32],
        first: (&mut [u8], &mut f32),
        second: (&mut [u8], &mut f32),
        parameter: &mut [f32],
    ) {
        let ((first_codes, first_scale), (second_codes, second_scale)) = (first, second);
        let (mut m, mut v) = ([0.0f32; BLOCK], [0.0f32; BLOCK]);
        let (m, v) = (&mut m[..parameter.len()], &mut v[..parameter.len()]);
        for (m, code) in m.iter_mut().zip(&*first_codes) {
            *m = *first_scale * signed_share(*code);
        }
        for (v, code) in v.iter_mut().zip(&*second_codes) {
            *v = *second_scale * share(*code);
        }
        for (((gradient, m), v), parameter) in gradient.iter().zip(&mut *m).zip(&mut *v).zip(parameter) {
            element(step, rates, *gradient, m, v, parameter);
        }
        *first_scale = largest_magnitude(m);
        let inverse = inverse(*first_scale);
        for (m, code) in m.iter().zip(first_codes) {
            *code = signed_code(m * inverse);
        }
        *second_scale = largest_magnitude(v);
        let inverse = self::inverse(*second_scale);
        for (v, code) in v.iter().zip(second_codes) {
            *code = unsigned_code(v * inverse);
        }
    }
}

#[inline(always)]
fn signed_share(code: u8) -> f32 {
    let root = (f32::from(code) - 128.0) * (1.0 / 127.0);
    root * root.abs()
}

#[inline(always)]
fn signed_code(share: f32) -> u8 {
    rounded(128.0 + (127.0 * share.abs().sqrt()).copysign(share))
}

#[inline(always)]
fn share(code: u8) -> f32 {
    let root = (f32::from(code) + 1.0) * (1.0 / 256.0);
    let square = root * root;
    square * square
}

#[inline(always)]
fn unsigned_code(share: f32) -> u8 {
    rounded((256.0 * share.sqrt().sqrt() - 1.0).max(0.0))
}

/// The nearest integer to a number from 0 to 255: behind 2²³ a float's last bits count ones. A conversion would not
/// vectorise.
#[inline(always)]
fn rounded(value: f32) -> u8 {
    (value + 8_388_608.0).to_bits() as u8
}

/// 1 / scale; zero where that is not finite, so that a block of zeros stays one.
#[inline(always)]
fn inverse(scale: f32) -> f32 {
    if scale >= f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 }
}

#[inline(always)]
fn largest_magnitude(values: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            let value = chunk[lane].abs();
            lanes[lane] = if value > lanes[lane] { value } else { lanes[lane] };
        }
    }
    lanes.iter().chain(rest).fold(0.0, |largest, value| value.abs().max(largest))
}

#[cfg(test)]
mod tests {
    use super::super::adamw::adamw_step;
    use super::*;
    use crate::check::normals;

    fn step(number: u64) -> AdamwStep {
        AdamwStep {
            learning_rate: 0.01,
            beta1: 0.9,
            beta2: 0.99,
            epsilon: 1e-8,
            weight_decay: 0.1,
            step: number,
            gradient_scale: 0.5,
        }
    }

    #[test]
    fn every_code_is_the_nearest_to_its_own_value() {
        for code in 1..=255 {
            assert_eq!(signed_code(signed_share(code)), code);
        }
        for code in 0..=255 {
            assert_eq!(unsigned_code(share(code)), code);
        }
        assert_eq!((signed_code(0.0), signed_share(128)), (128, 0.0));
        assert_eq!((unsigned_code(0.0), share(255), signed_share(255), signed_share(1)), (0, 1.0, 1.0, -1.0));
        assert_eq!((signed_code(-1.0), signed_code(1.000_001), unsigned_code(1.000_001)), (1, 255, 255));
    }

    /// The same step with plain loops over blocks: decode, AdamW in f32, encode by search.
    fn twin(number: u64, gradient: &[f32], moments: &mut [(Vec<u8>, Vec<f32>); 2], p: &mut [f32]) {
        let shares: [fn(u8) -> f32; 2] = [signed_share, share];
        for (block, p) in p.chunks_mut(BLOCK).enumerate() {
            let range = block * BLOCK..block * BLOCK + p.len();
            let mut values = [0, 1].map(|moment| -> Vec<f32> {
                let (codes, scales) = &moments[moment];
                codes[range.clone()].iter().map(|&code| scales[block] * shares[moment](code)).collect()
            });
            let [m, v] = &mut values;
            adamw_step(&step(number), View(&gradient[range.clone()]), ViewMut(m), ViewMut(v), ViewMut(p));
            for moment in 0..2 {
                let scale = values[moment].iter().fold(0.0f32, |scale, value| scale.max(value.abs()));
                moments[moment].1[block] = scale;
                for (code, value) in moments[moment].0[range.clone()].iter_mut().zip(&values[moment]) {
                    // Nearest in the root, which is what the codes divide evenly.
                    let root = |share: f32| share.abs().powf([0.5, 0.25][moment]).copysign(share);
                    let distance = |code: u8| (root(shares[moment](code)) - root(value / scale)).abs();
                    *code = (0..=255).min_by(|&a, &b| distance(a).total_cmp(&distance(b))).unwrap();
                }
            }
        }
    }

    #[test]
    fn steps_equal_the_twin_within_a_code() {
        let length = BLOCKS * BLOCK + 3 * BLOCK + 77;
        let zeros = || (vec![0u8; length], vec![0.0f32; length.div_ceil(BLOCK)]);
        let (mut fast, mut plain) = ([zeros(), zeros()], [zeros(), zeros()]);
        let mut p = normals(1, length);
        let mut expected = p.clone();
        for number in 1..=3 {
            let gradient = normals(10 + number, length);
            let [(first_codes, first_scales), (second_codes, second_scales)] = &mut fast;
            let first = Codes { codes: ViewMut(first_codes), scales: ViewMut(first_scales) };
            let second = Codes { codes: ViewMut(second_codes), scales: ViewMut(second_scales) };
            adamw_8bit_step(&step(number), View(&gradient), first, second, ViewMut(&mut p));
            twin(number, &gradient, &mut plain, &mut expected);
            for (fast, plain) in fast.iter().zip(&plain) {
                assert!(fast.0.iter().zip(&plain.0).all(|(fast, plain)| fast.abs_diff(*plain) <= 1));
            }
        }
        let error = p.iter().zip(&expected).map(|(fast, plain)| (fast - plain).abs()).fold(0.0, f32::max);
        assert!(error < 1e-3, "{error}");
    }

    /// The rounded moments lead nearly where the exact ones do: within a tenth of the way.
    #[test]
    fn a_run_stays_near_that_with_exact_moments() {
        let length = 5000;
        let (start, target) = (normals(1, length), normals(2, length));
        let run = |eight_bits: bool| {
            let mut p = start.clone();
            let (mut m, mut v) = (vec![0.0; length], vec![0.0; length]);
            let blocks = length.div_ceil(BLOCK);
            let (mut m_codes, mut v_codes) = (vec![0; length], vec![0; length]);
            let (mut m_scales, mut v_scales) = (vec![0.0; blocks], vec![0.0; blocks]);
            for number in 1..=60 {
                let noise = normals(100 + number, length);
                let gradient: Vec<f32> =
                    (0..length).map(|index| p[index] - target[index] + 0.3 * noise[index]).collect();
                let (gradient, p) = (View(&gradient), ViewMut(&mut p));
                if eight_bits {
                    let first = Codes { codes: ViewMut(&mut m_codes), scales: ViewMut(&mut m_scales) };
                    let second = Codes { codes: ViewMut(&mut v_codes), scales: ViewMut(&mut v_scales) };
                    adamw_8bit_step(&step(number), gradient, first, second, p);
                } else {
                    adamw_step(&step(number), gradient, ViewMut(&mut m), ViewMut(&mut v), p);
                }
            }
            p
        };
        let (rounded, exact) = (run(true), run(false));
        let distance =
            |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt();
        assert!(distance(&rounded, &exact) < 0.1 * distance(&start, &exact));
    }

    #[test]
    fn blocks_without_gradients_stay_where_they_are() {
        let mut p = normals(1, 600);
        let before = p.clone();
        let (mut codes, mut scales) = ([vec![0; 600], vec![0; 600]], [vec![0.0; 3], vec![0.0; 3]]);
        let [m, v] = &mut codes;
        let [m_scales, v_scales] = &mut scales;
        let first = Codes { codes: ViewMut(m), scales: ViewMut(m_scales) };
        let second = Codes { codes: ViewMut(v), scales: ViewMut(v_scales) };
        let still = AdamwStep { weight_decay: 0.0, ..step(1) };
        adamw_8bit_step(&still, View(&[0.0; 600]), first, second, ViewMut(&mut p));
        assert_eq!(p, before);
    }
}
