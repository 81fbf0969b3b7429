//! ggml's blocks of 32: `Q4_0 Q4_1 Q5_0 Q5_1 Q8_0`, in which a f16 scale `d` (and for `_1` a f16 minimum `m`) precedes
//! the quants.
//!
//! Nibble j of the low halves is element j, of the high halves element 16 + j. In `Q5` the fifth bits are those of one
//! u32 before the nibbles, bit j for element j.

use std::array::from_fn;

use bytemuck::{Pod, Zeroable};

use super::lanes::{LANES, Lanes, put_into_lane};
use super::plain::{f32_to_half, half_to_f32};
use super::search::{Candidates, Distance, affine, symmetric};

pub(super) const ELEMENTS: usize = 32;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q4_0 {
    pub d: [u8; 2],
    pub nibbles: [u8; 16],
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q4_1 {
    pub d: [u8; 2],
    pub m: [u8; 2],
    pub nibbles: [u8; 16],
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q5_0 {
    pub d: [u8; 2],
    pub fifth_bits: [u8; 4],
    pub nibbles: [u8; 16],
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q5_1 {
    pub d: [u8; 2],
    pub m: [u8; 2],
    pub fifth_bits: [u8; 4],
    pub nibbles: [u8; 16],
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q8_0 {
    pub d: [u8; 2],
    pub quants: [u8; 32],
}

by_cpu_level! {
    pub(super) fn q4_0_to_f32(blocks: &[Q4_0], out: &mut [f32]) {
        for (values, block) in out.as_chunks_mut::<ELEMENTS>().0.iter_mut().zip(blocks) {
            let scale = half_to_f32(block.d);
            for (value, quant) in values.iter_mut().zip(from_nibbles(&block.nibbles)) {
                *value = f32::from(quant as i8 - 8) * scale;
            }
        }
    }
}

by_cpu_level! {
    pub(super) fn q4_1_to_f32(blocks: &[Q4_1], out: &mut [f32]) {
        for (values, block) in out.as_chunks_mut::<ELEMENTS>().0.iter_mut().zip(blocks) {
            let (scale, minimum) = (half_to_f32(block.d), half_to_f32(block.m));
            for (value, quant) in values.iter_mut().zip(from_nibbles(&block.nibbles)) {
                *value = f32::from(quant) * scale + minimum;
            }
        }
    }
}

by_cpu_level! {
    pub(super) fn q5_0_to_f32(blocks: &[Q5_0], out: &mut [f32]) {
        for (values, block) in out.as_chunks_mut::<ELEMENTS>().0.iter_mut().zip(blocks) {
            let scale = half_to_f32(block.d);
            let fifth = fifth_bits(block.fifth_bits);
            for ((value, quant), fifth) in values.iter_mut().zip(from_nibbles(&block.nibbles)).zip(fifth) {
                *value = f32::from((quant | fifth) as i8 - 16) * scale;
            }
        }
    }
}

by_cpu_level! {
    pub(super) fn q5_1_to_f32(blocks: &[Q5_1], out: &mut [f32]) {
        for (values, block) in out.as_chunks_mut::<ELEMENTS>().0.iter_mut().zip(blocks) {
            let (scale, minimum) = (half_to_f32(block.d), half_to_f32(block.m));
            let fifth = fifth_bits(block.fifth_bits);
            for ((value, quant), fifth) in values.iter_mut().zip(from_nibbles(&block.nibbles)).zip(fifth) {
                *value = f32::from(quant | fifth) * scale + minimum;
            }
        }
    }
}

by_cpu_level! {
    pub(super) fn q8_0_to_f32(blocks: &[Q8_0], out: &mut [f32]) {
        for (values, block) in out.as_chunks_mut::<ELEMENTS>().0.iter_mut().zip(blocks) {
            let scale = half_to_f32(block.d);
            for (value, quant) in values.iter_mut().zip(&block.quants) {
                *value = f32::from(*quant as i8) * scale;
            }
        }
    }
}

#[inline(always)]
fn from_nibbles(nibbles: &[u8; 16]) -> [u8; ELEMENTS] {
    let mut quants = [0; ELEMENTS];
    let (low, high) = quants.split_at_mut(16);
    for ((low, high), pair) in low.iter_mut().zip(high).zip(nibbles) {
        (*low, *high) = (pair & 15, pair >> 4);
    }
    quants
}

#[inline(always)]
fn to_nibbles(quants: &[u8; ELEMENTS]) -> [u8; 16] {
    let (low, high) = quants.split_at(16);
    from_fn(|j| low[j] & 15 | high[j] << 4)
}

/// 16 for each element whose fifth bit is set, else 0.
#[inline(always)]
fn fifth_bits(bytes: [u8; 4]) -> [u8; ELEMENTS] {
    let bits = u32::from_le_bytes(bytes);
    from_fn(|j| ((bits >> j) as u8 & 1) << 4)
}

#[inline(always)]
fn to_fifth_bits(quants: &[u8; ELEMENTS]) -> [u8; 4] {
    let mut bits = 0;
    for (j, quant) in quants.iter().enumerate() {
        bits |= u32::from(quant >> 4 & 1) << j;
    }
    bits.to_le_bytes()
}

by_cpu_level! {
    pub(super) fn f32_to_q4_0(values: &[f32], blocks: &mut [Q4_0]) {
        for (values, block) in values.as_chunks::<ELEMENTS>().0.iter().zip(blocks) {
            let scale = largest(values) / -8.0;
            let quants = quants(values, scale, |x, inverse| (x * inverse + 8.5) as i8 as u8, 15);
            *block = Q4_0 { d: f32_to_half(scale), nibbles: to_nibbles(&quants) };
        }
    }
}

by_cpu_level! {
    pub(super) fn f32_to_q4_1(values: &[f32], blocks: &mut [Q4_1]) {
        for (values, block) in values.as_chunks::<ELEMENTS>().0.iter().zip(blocks) {
            let (minimum, maximum) = range(values);
            let scale = (maximum - minimum) / 15.0;
            let quants = quants(values, scale, |x, inverse| ((x - minimum) * inverse + 0.5) as u8, 15);
            *block = Q4_1 { d: f32_to_half(scale), m: f32_to_half(minimum), nibbles: to_nibbles(&quants) };
        }
    }
}

by_cpu_level! {
    pub(super) fn f32_to_q5_0(values: &[f32], blocks: &mut [Q5_0]) {
        for (values, block) in values.as_chunks::<ELEMENTS>().0.iter().zip(blocks) {
            let scale = largest(values) / -16.0;
            let quants = quants(values, scale, |x, inverse| (x * inverse + 16.5) as i8 as u8, 31);
            let (fifth_bits, nibbles) = (to_fifth_bits(&quants), to_nibbles(&quants));
            *block = Q5_0 { d: f32_to_half(scale), fifth_bits, nibbles };
        }
    }
}

by_cpu_level! {
    pub(super) fn f32_to_q5_1(values: &[f32], blocks: &mut [Q5_1]) {
        for (values, block) in values.as_chunks::<ELEMENTS>().0.iter().zip(blocks) {
            let (minimum, maximum) = range(values);
            let scale = (maximum - minimum) / 31.0;
            let quants = quants(values, scale, |x, inverse| ((x - minimum) * inverse + 0.5) as u8, 31);
            let (fifth_bits, nibbles) = (to_fifth_bits(&quants), to_nibbles(&quants));
            *block = Q5_1 { d: f32_to_half(scale), m: f32_to_half(minimum), fifth_bits, nibbles };
        }
    }
}

by_cpu_level! {
    pub(super) fn f32_to_q8_0(values: &[f32], blocks: &mut [Q8_0]) {
        for (values, block) in values.as_chunks::<ELEMENTS>().0.iter().zip(blocks) {
            let scale = largest(values).abs() / 127.0;
            let quants = quants(values, scale, |x, inverse| (x * inverse).round() as i8 as u8, 255);
            *block = Q8_0 { d: f32_to_half(scale), quants };
        }
    }
}

/// Each value through `round`, which is given the scale's inverse, and at most `highest`.
#[inline(always)]
fn quants(
    values: &[f32; ELEMENTS],
    scale: f32,
    round: impl Fn(f32, f32) -> u8,
    highest: u8,
) -> [u8; ELEMENTS] {
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    if inverse.is_infinite() {
        // The scale is 0 as f16; these are the quants that the reference happens to give.
        return [0; ELEMENTS];
    }
    values.map(|x| round(x, inverse).min(highest))
}

/// The value of largest magnitude, the first where several are; 0 if all are zero.
#[inline(always)]
fn largest(values: &[f32; ELEMENTS]) -> f32 {
    let magnitude = values.iter().fold(0, |largest, x| largest.max(x.abs().to_bits()));
    values.iter().copied().find(|x| x.abs().to_bits() == magnitude && magnitude > 0).unwrap_or(0.0)
}

/// The least and the greatest value.
#[inline(always)]
fn range(values: &[f32; ELEMENTS]) -> (f32, f32) {
    let (mut low, mut high) = ([f32::MAX; 8], [f32::MIN; 8]);
    for eight in values.as_chunks::<8>().0 {
        for ((x, low), high) in eight.iter().zip(&mut low).zip(&mut high) {
            *low = if x < low { *x } else { *low };
            *high = if x > high { *x } else { *high };
        }
    }
    let low = low.into_iter().fold(f32::MAX, |low, x| if x < low { x } else { low });
    let high = high.into_iter().fold(f32::MIN, |high, x| if x > high { x } else { high });
    // Of zeros of both signs the reference takes the first.
    let first = |wanted: f32| {
        if wanted == 0.0 { values.iter().copied().find(|x| *x == 0.0).unwrap_or(wanted) } else { wanted }
    };
    (first(low), first(high))
}

/// A type whose blocks may be quantized with the importance of each column.
pub(super) trait Weighted: Sized {
    /// Sixteen blocks at once: the first as many as `blocks` has lanes.
    fn quantize(values: &[Lanes], weights: &[Lanes], blocks: &mut [Self]);
}

impl Weighted for Q4_0 {
    fn quantize(values: &[Lanes], weights: &[Lanes], blocks: &mut [Self]) {
        let mut quants = [[0; LANES]; ELEMENTS];
        let scale = symmetric(values, weights, 8.0, &mut quants);
        for (lane, block) in blocks.iter_mut().enumerate() {
            let quants = quants.map(|quants| quants[lane]);
            *block = Self { d: f32_to_half(scale.0[lane]), nibbles: to_nibbles(&quants) };
        }
    }
}

impl Weighted for Q4_1 {
    fn quantize(values: &[Lanes], weights: &[Lanes], blocks: &mut [Self]) {
        let mut quants = [[0; LANES]; ELEMENTS];
        let (scale, minimum) = affine(values, weights, 15.0, WEIGHTED, &mut quants);
        for (lane, block) in blocks.iter_mut().enumerate() {
            let quants = quants.map(|quants| quants[lane]);
            let (d, m) = (f32_to_half(scale.0[lane]), f32_to_half(-minimum.0[lane]));
            *block = Self { d, m, nibbles: to_nibbles(&quants) };
        }
    }
}

impl Weighted for Q5_0 {
    fn quantize(values: &[Lanes], weights: &[Lanes], blocks: &mut [Self]) {
        let mut quants = [[0; LANES]; ELEMENTS];
        let scale = symmetric(values, weights, 16.0, &mut quants);
        for (lane, block) in blocks.iter_mut().enumerate() {
            let quants = quants.map(|quants| quants[lane]);
            let (fifth_bits, nibbles) = (to_fifth_bits(&quants), to_nibbles(&quants));
            *block = Self { d: f32_to_half(scale.0[lane]), fifth_bits, nibbles };
        }
    }
}

impl Weighted for Q5_1 {
    fn quantize(values: &[Lanes], weights: &[Lanes], blocks: &mut [Self]) {
        let mut quants = [[0; LANES]; ELEMENTS];
        let (scale, minimum) = affine(values, weights, 31.0, WEIGHTED, &mut quants);
        for (lane, block) in blocks.iter_mut().enumerate() {
            let quants = quants.map(|quants| quants[lane]);
            let (d, m) = (f32_to_half(scale.0[lane]), f32_to_half(-minimum.0[lane]));
            let (fifth_bits, nibbles) = (to_fifth_bits(&quants), to_nibbles(&quants));
            *block = Self { d, m, fifth_bits, nibbles };
        }
    }
}

/// Quantizes rows with the `importance` of each column: the weight of an error is
/// importance · √(mean square of the row + x²).
pub(super) fn f32_to_weighted<B: Weighted>(values: &[f32], importance: &[f32], blocks: &mut [B]) {
    let row_length = importance.len();
    let mut tile = [Lanes::ZERO; ELEMENTS];
    let mut weights = [Lanes::ZERO; ELEMENTS];
    let mut mean_squares = Lanes::ZERO;
    let mut mean_square = 0.0;
    for (number, blocks) in blocks.chunks_mut(LANES).enumerate() {
        for lane in 0..blocks.len() {
            let start = (number * LANES + lane) * ELEMENTS;
            let column = start % row_length;
            if column == 0 {
                let sum = values[start..start + row_length].iter().fold(0.0, |sum, x| sum + x * x);
                mean_square = sum / row_length as f32;
            }
            mean_squares.0[lane] = mean_square;
            put_into_lane(&mut tile, lane, &values[start..]);
            put_into_lane(&mut weights, lane, &importance[column..]);
        }
        weigh(&tile, mean_squares, &mut weights);
        B::quantize(&tile, &weights, blocks);
    }
}

/// The candidates for values with weights from an importance.
pub(super) const WEIGHTED: Candidates =
    Candidates { first: -0.9, step: 0.05, last: 36, distance: Distance::Squared };

by_cpu_level! {
    /// Turns importance into weights: times √(`mean_square` + x²).
    pub(super) fn weigh(values: &[Lanes], mean_square: Lanes, weights: &mut [Lanes]) {
        for (w, &x) in weights.iter_mut().zip(values) {
            *w = *w * (mean_square + x * x).sqrt();
        }
    }
}
