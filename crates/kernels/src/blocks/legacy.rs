//! ggml's blocks of 32: `Q4_0 Q4_1 Q5_0 Q5_1 Q8_0`, in which an f16 scale `d`, and for `_1` an f16 minimum `m`,
//! precedes the quants q.
//!
//! | type | value |
//! |---|---|
//! | `Q4_0`, `Q5_0` | (q − 8)·d, (q − 16)·d |
//! | `Q4_1`, `Q5_1` | q·d + m |
//! | `Q8_0` | q·d, q signed |
//!
//! The low nibble of byte i is element i, the high nibble element 16 + i. In `Q5` the fifth bits are those of one u32
//! before the nibbles, bit i for element i.

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
            let twice = twice(&block.nibbles);
            for (i, value) in values.iter_mut().enumerate() {
                *value = f32::from(nibble(&twice, i) as i8 - 8) * scale;
            }
        }
    }
}

by_cpu_level! {
    pub(super) fn q4_1_to_f32(blocks: &[Q4_1], out: &mut [f32]) {
        for (values, block) in out.as_chunks_mut::<ELEMENTS>().0.iter_mut().zip(blocks) {
            let (scale, minimum) = (half_to_f32(block.d), half_to_f32(block.m));
            let twice = twice(&block.nibbles);
            for (i, value) in values.iter_mut().enumerate() {
                *value = f32::from(nibble(&twice, i)) * scale + minimum;
            }
        }
    }
}

by_cpu_level! {
    pub(super) fn q5_0_to_f32(blocks: &[Q5_0], out: &mut [f32]) {
        for (values, block) in out.as_chunks_mut::<ELEMENTS>().0.iter_mut().zip(blocks) {
            let scale = half_to_f32(block.d);
            let (twice, fifth_bits) = (twice(&block.nibbles), u32::from_le_bytes(block.fifth_bits));
            for (i, value) in values.iter_mut().enumerate() {
                *value = f32::from((nibble(&twice, i) | fifth_bit(fifth_bits, i)) as i8 - 16) * scale;
            }
        }
    }
}

by_cpu_level! {
    pub(super) fn q5_1_to_f32(blocks: &[Q5_1], out: &mut [f32]) {
        for (values, block) in out.as_chunks_mut::<ELEMENTS>().0.iter_mut().zip(blocks) {
            let (scale, minimum) = (half_to_f32(block.d), half_to_f32(block.m));
            let (twice, fifth_bits) = (twice(&block.nibbles), u32::from_le_bytes(block.fifth_bits));
            for (i, value) in values.iter_mut().enumerate() {
                *value = f32::from(nibble(&twice, i) | fifth_bit(fifth_bits, i)) * scale + minimum;
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

/// The bytes of both halves, so that one loop goes over all elements.
#[inline(always)]
fn twice(nibbles: &[u8; 16]) -> [u8; ELEMENTS] {
    let mut twice = [0; ELEMENTS];
    twice[..16].copy_from_slice(nibbles);
    twice[16..].copy_from_slice(nibbles);
    twice
}

/// The low four bits of element i.
#[inline(always)]
fn nibble(twice: &[u8; ELEMENTS], i: usize) -> u8 {
    if i < 16 { twice[i] & 15 } else { twice[i] >> 4 }
}

/// 16 if the fifth bit of element i is set, else 0.
#[inline(always)]
fn fifth_bit(bits: u32, i: usize) -> u8 {
    ((bits >> i) as u8 & 1) << 4
}

/// The quants of a block of nibbles and fifth bits.
pub(super) fn codes(nibbles: &[u8; 16], fifth_bits: u32, codes: &mut [u8]) {
    let twice = twice(nibbles);
    for (i, code) in codes.iter_mut().enumerate().take(ELEMENTS) {
        *code = nibble(&twice, i) | fifth_bit(fifth_bits, i);
    }
}

/// The quants of both halves.
type Halves = [[u8; 16]; 2];

#[inline(always)]
fn to_nibbles([low, high]: &Halves) -> [u8; 16] {
    from_fn(|i| low[i] & 15 | high[i] << 4)
}

#[inline(always)]
fn to_fifth_bits([low, high]: &Halves) -> [u8; 4] {
    let mut bits = 0;
    for i in 0..16 {
        bits |= u32::from(low[i] >> 4) << i | u32::from(high[i] >> 4) << (16 + i);
    }
    bits.to_le_bytes()
}

by_cpu_level! {
    pub(super) fn f32_to_q4_0(values: &[f32], blocks: &mut [Q4_0]) {
        for (values, block) in values.as_chunks::<ELEMENTS>().0.iter().zip(blocks) {
            let values = &halves(values);
            let scale = largest(values) / -8.0;
            let quants = quants(values, scale, |x, inverse| (x * inverse + Lanes::splat(8.5)).trunc(), 15.0);
            *block = Q4_0 { d: f32_to_half(scale), nibbles: to_nibbles(&quants) };
        }
    }
}

by_cpu_level! {
    pub(super) fn f32_to_q4_1(values: &[f32], blocks: &mut [Q4_1]) {
        for (values, block) in values.as_chunks::<ELEMENTS>().0.iter().zip(blocks) {
            let (scale, minimum, quants) = above_minimum(&halves(values), 15.0);
            *block = Q4_1 { d: f32_to_half(scale), m: f32_to_half(minimum), nibbles: to_nibbles(&quants) };
        }
    }
}

by_cpu_level! {
    pub(super) fn f32_to_q5_0(values: &[f32], blocks: &mut [Q5_0]) {
        for (values, block) in values.as_chunks::<ELEMENTS>().0.iter().zip(blocks) {
            let values = &halves(values);
            let scale = largest(values) / -16.0;
            let quants = quants(values, scale, |x, inverse| (x * inverse + Lanes::splat(16.5)).trunc(), 31.0);
            let (fifth_bits, nibbles) = (to_fifth_bits(&quants), to_nibbles(&quants));
            *block = Q5_0 { d: f32_to_half(scale), fifth_bits, nibbles };
        }
    }
}

by_cpu_level! {
    pub(super) fn f32_to_q5_1(values: &[f32], blocks: &mut [Q5_1]) {
        for (values, block) in values.as_chunks::<ELEMENTS>().0.iter().zip(blocks) {
            let (scale, minimum, quants) = above_minimum(&halves(values), 31.0);
            let (fifth_bits, nibbles) = (to_fifth_bits(&quants), to_nibbles(&quants));
            *block = Q5_1 { d: f32_to_half(scale), m: f32_to_half(minimum), fifth_bits, nibbles };
        }
    }
}

by_cpu_level! {
    pub(super) fn f32_to_q8_0(values: &[f32], blocks: &mut [Q8_0]) {
        for (values, block) in values.as_chunks::<ELEMENTS>().0.iter().zip(blocks) {
            let values = &halves(values);
            let scale = largest(values).abs() / 127.0;
            let quants = quants(values, scale, |x, inverse| (x * inverse).round(), 127.0);
            *block = Q8_0 { d: f32_to_half(scale), quants: bytemuck::cast(quants) };
        }
    }
}

/// Scale, minimum and quants in 0 ..= `levels` for value = scale · quant + minimum.
#[inline(always)]
fn above_minimum(values: &[Lanes; 2], levels: f32) -> (f32, f32, Halves) {
    let (low, high) = (values[0].lesser(values[1]).least(), values[0].greater(values[1]).greatest());
    // Of zeros of both signs the reference takes the first.
    let (low, high) = (first(values, low), first(values, high));
    let scale = (high - low) / levels;
    let round = |x: Lanes, inverse| ((x - Lanes::splat(low)) * inverse + Lanes::splat(0.5)).trunc();
    (scale, low, quants(values, scale, round, levels))
}

/// Each value through `round`, which is given the scale's inverse, and at most `highest`.
#[inline(always)]
fn quants(values: &[Lanes; 2], scale: f32, round: impl Fn(Lanes, Lanes) -> Lanes, highest: f32) -> Halves {
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    if inverse.is_infinite() {
        // The scale is 0 as f16, and these are the quants that the reference happens to give.
        return [[0; 16]; 2];
    }
    let mut quants = [[0; 16]; 2];
    for (quants, &x) in quants.iter_mut().zip(values) {
        *quants = round(x, Lanes::splat(inverse)).lesser(Lanes::splat(highest)).bytes();
    }
    quants
}

/// The value of largest magnitude, the first where several are; 0 if all are zero.
#[inline(always)]
fn largest(values: &[Lanes; 2]) -> f32 {
    let (low, high) = (values[0].lesser(values[1]).least(), values[0].greater(values[1]).greatest());
    if high > -low {
        high
    } else if high < -low {
        low
    } else if high == 0.0 {
        0.0
    } else {
        values.iter().flat_map(|half| half.0).find(|x| x.abs() == high).unwrap_or(high)
    }
}

/// The first of the values that equal `wanted`.
#[inline(always)]
fn first(values: &[Lanes; 2], wanted: f32) -> f32 {
    // Only zeros are equal but not the same.
    let found = || values.iter().flat_map(|half| half.0).find(|x| *x == wanted);
    if wanted == 0.0 { found().unwrap_or(wanted) } else { wanted }
}

#[inline(always)]
fn halves(values: &[f32; ELEMENTS]) -> [Lanes; 2] {
    let [low, high] = bytemuck::cast(*values);
    [Lanes(low), Lanes(high)]
}

/// A type whose blocks may be quantized with the importance of each column.
pub(super) trait Weighted: Sized {
    /// Sixteen blocks at once: the first as many as `blocks` has lanes.
    fn quantize(values: &[Lanes], weights: &[Lanes], blocks: &mut [Self]);
}

/// The quants of one block of a tile.
fn of_lane(quants: &[[u8; LANES]; ELEMENTS], lane: usize) -> Halves {
    from_fn(|half| from_fn(|i| quants[16 * half + i][lane]))
}

impl Weighted for Q4_0 {
    fn quantize(values: &[Lanes], weights: &[Lanes], blocks: &mut [Self]) {
        let mut quants = [[0; LANES]; ELEMENTS];
        let scale = symmetric(values, weights, 8.0, &mut quants);
        for (lane, block) in blocks.iter_mut().enumerate() {
            let quants = of_lane(&quants, lane);
            *block = Self { d: f32_to_half(scale.0[lane]), nibbles: to_nibbles(&quants) };
        }
    }
}

impl Weighted for Q4_1 {
    fn quantize(values: &[Lanes], weights: &[Lanes], blocks: &mut [Self]) {
        let mut quants = [[0; LANES]; ELEMENTS];
        let (scale, minimum) = affine(values, weights, 15.0, WEIGHTED, &mut quants);
        for (lane, block) in blocks.iter_mut().enumerate() {
            let quants = of_lane(&quants, lane);
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
            let quants = of_lane(&quants, lane);
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
            let quants = of_lane(&quants, lane);
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
