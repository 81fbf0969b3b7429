//! ggml's super-blocks of 256: `Q2_K` to `Q6_K`, made of sub-blocks whose scales are quantized themselves.
//!
//! | type | value of quant q in sub-block j |
//! |---|---|
//! | `Q2_K` | d·scale[j]·q − m·minimum[j], 16 sub-blocks |
//! | `Q3_K` | d·(scale[j] − 32)·(q − 4), 16 sub-blocks |
//! | `Q4_K`, `Q5_K` | d·scale[j]·q − m·minimum[j], 8 sub-blocks |
//! | `Q6_K` | d·scale[j]·(q − 32), 16 sub-blocks |

use std::array::from_fn;

use bytemuck::{Pod, Zeroable};

use super::BlockType;
use super::affine::Parts;
use super::plain::half_to_f32;

pub(super) const ELEMENTS: usize = 256;

/// The quants of one super-block, not yet packed.
pub(super) type Quants = [u8; ELEMENTS];

/// Low nibbles of `scales` are the scales, high nibbles the minima.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q2K {
    pub scales: [u8; 16],
    pub two_bits: [u8; 64],
    pub d: [u8; 2],
    pub m: [u8; 2],
}

/// The third bits of the quants lie apart; scales as [`unpack_sixteen_scales`] says.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q3K {
    pub one_bit: [u8; 32],
    pub two_bits: [u8; 64],
    pub scales: [u8; 12],
    pub d: [u8; 2],
}

/// Scales and minima as [`unpack_scales_and_minima`] says.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q4K {
    pub d: [u8; 2],
    pub m: [u8; 2],
    pub scales: [u8; 12],
    pub nibbles: [u8; 128],
}

/// As [`Q4K`], with the fifth bits of the quants.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q5K {
    pub d: [u8; 2],
    pub m: [u8; 2],
    pub scales: [u8; 12],
    pub one_bit: [u8; 32],
    pub nibbles: [u8; 128],
}

/// Nibbles and the two upper bits of the quants; the scales are signed.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q6K {
    pub nibbles: [u8; 128],
    pub two_bits: [u8; 64],
    pub scales: [u8; 16],
    pub d: [u8; 2],
}

by_cpu_level! {
    pub(super) fn q2_k_to_f32(blocks: &[Q2K], out: &mut [f32]) {
        for (values, block) in out.chunks_exact_mut(ELEMENTS).zip(blocks) {
            let (d, m) = (half_to_f32(block.d), half_to_f32(block.m));
            let (pairs, _) = block.scales.as_chunks::<2>();
            for (k, values) in values.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                let scales = pairs[k].map(|pair| d * f32::from(pair & 15));
                let minima = pairs[k].map(|pair| m * f32::from(pair >> 4));
                for ((i, value), quant) in values.iter_mut().enumerate().zip(two_bits(&block.two_bits, k)) {
                    *value = of_sixteen(scales, i) * f32::from(quant) - of_sixteen(minima, i);
                }
            }
        }
    }
}

by_cpu_level! {
    pub(super) fn q3_k_to_f32(blocks: &[Q3K], out: &mut [f32]) {
        for (values, block) in out.chunks_exact_mut(ELEMENTS).zip(blocks) {
            let d = half_to_f32(block.d);
            let scales = unpack_sixteen_scales(&block.scales).map(|scale| d * f32::from(scale as i8 - 32));
            let (pairs, _) = scales.as_chunks::<2>();
            for (k, values) in values.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                let quants = two_bits(&block.two_bits, k).zip(one_bit(&block.one_bit, k));
                for ((i, value), (low, third)) in values.iter_mut().enumerate().zip(quants) {
                    *value = of_sixteen(pairs[k], i) * f32::from((low | third << 2) as i8 - 4);
                }
            }
        }
    }
}

by_cpu_level! {
    pub(super) fn q4_k_to_f32(blocks: &[Q4K], out: &mut [f32]) {
        for (values, block) in out.chunks_exact_mut(ELEMENTS).zip(blocks) {
            let (d, m) = (half_to_f32(block.d), half_to_f32(block.m));
            let (scales, minima) = unpack_scales_and_minima(&block.scales);
            for (j, values) in values.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                let (scale, minimum) = (d * f32::from(scales[j]), m * f32::from(minima[j]));
                for (value, quant) in values.iter_mut().zip(nibbles(&block.nibbles, j)) {
                    *value = scale * f32::from(quant) - minimum;
                }
            }
        }
    }
}

by_cpu_level! {
    pub(super) fn q5_k_to_f32(blocks: &[Q5K], out: &mut [f32]) {
        for (values, block) in out.chunks_exact_mut(ELEMENTS).zip(blocks) {
            let (d, m) = (half_to_f32(block.d), half_to_f32(block.m));
            let (scales, minima) = unpack_scales_and_minima(&block.scales);
            for (j, values) in values.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                let (scale, minimum) = (d * f32::from(scales[j]), m * f32::from(minima[j]));
                let (low, fifth) = (nibbles(&block.nibbles, j), one_bit(&block.one_bit, j));
                for ((value, low), fifth) in values.iter_mut().zip(low).zip(fifth) {
                    *value = scale * f32::from(low | fifth << 4) - minimum;
                }
            }
        }
    }
}

by_cpu_level! {
    pub(super) fn q6_k_to_f32(blocks: &[Q6K], out: &mut [f32]) {
        for (values, block) in out.chunks_exact_mut(ELEMENTS).zip(blocks) {
            let d = half_to_f32(block.d);
            let scales = block.scales.map(|scale| d * f32::from(scale as i8));
            let (pairs, _) = scales.as_chunks::<2>();
            for (k, values) in values.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                let quants = nibbles_of_half(&block.nibbles, k).zip(two_bits(&block.two_bits, k));
                for ((i, value), (low, upper)) in values.iter_mut().enumerate().zip(quants) {
                    *value = of_sixteen(pairs[k], i) * f32::from((low | upper << 4) as i8 - 32);
                }
            }
        }
    }
}

/// Of two neighbouring sub-blocks of 16, that of element i. (The compiler makes better vectors of loops over 32.)
/// The parts of a block of a K type.
pub(super) fn parts(kind: BlockType, block: &[u8], parts: &mut Parts) {
    use bytemuck::from_bytes as of;
    let Parts { codes, scale, minimum, scale_factors, minimum_factors } = parts;
    let mut put = |k: usize, values: &mut dyn Iterator<Item = u8>| {
        for (code, value) in codes[32 * k..][..32].iter_mut().zip(values) {
            *code = value;
        }
    };
    match kind {
        BlockType::Q2K => {
            let block: &Q2K = of(block);
            (*scale, *minimum) = (half_to_f32(block.d), half_to_f32(block.m));
            *scale_factors = block.scales.map(|pair| (pair & 15) as i8);
            *minimum_factors = block.scales.map(|pair| pair >> 4);
            (0..8).for_each(|k| put(k, &mut two_bits(&block.two_bits, k)));
        }
        BlockType::Q3K => {
            let block: &Q3K = of(block);
            *scale = half_to_f32(block.d);
            *scale_factors = unpack_sixteen_scales(&block.scales).map(|scale| scale as i8 - 32);
            for k in 0..8 {
                let quants = two_bits(&block.two_bits, k).zip(one_bit(&block.one_bit, k));
                put(k, &mut quants.map(|(low, third)| low | third << 2));
            }
        }
        BlockType::Q4K => {
            let block: &Q4K = of(block);
            (*scale, *minimum) = (half_to_f32(block.d), half_to_f32(block.m));
            let (scales, minima) = unpack_scales_and_minima(&block.scales);
            scale_factors[..8].copy_from_slice(&scales.map(|scale| scale as i8));
            minimum_factors[..8].copy_from_slice(&minima);
            (0..8).for_each(|k| put(k, &mut nibbles(&block.nibbles, k)));
        }
        BlockType::Q5K => {
            let block: &Q5K = of(block);
            (*scale, *minimum) = (half_to_f32(block.d), half_to_f32(block.m));
            let (scales, minima) = unpack_scales_and_minima(&block.scales);
            scale_factors[..8].copy_from_slice(&scales.map(|scale| scale as i8));
            minimum_factors[..8].copy_from_slice(&minima);
            for k in 0..8 {
                let quants = nibbles(&block.nibbles, k).zip(one_bit(&block.one_bit, k));
                put(k, &mut quants.map(|(low, fifth)| low | fifth << 4));
            }
        }
        BlockType::Q6K => {
            let block: &Q6K = of(block);
            *scale = half_to_f32(block.d);
            *scale_factors = block.scales.map(|scale| scale as i8);
            for k in 0..8 {
                let quants = nibbles_of_half(&block.nibbles, k).zip(two_bits(&block.two_bits, k));
                put(k, &mut quants.map(|(low, upper)| low | upper << 4));
            }
        }
        _ => {}
    }
}

#[inline(always)]
fn of_sixteen(pair: [f32; 2], i: usize) -> f32 {
    if i < 16 { pair[0] } else { pair[1] }
}

/// Eight scales and eight minima of six bits: the first four of each in the low bits of their byte; of the others, the
/// low four bits share a byte and the upper two are the high bits of the first four's bytes.
#[inline(always)]
fn unpack_scales_and_minima(bytes: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut minima) = ([0; 8], [0; 8]);
    for j in 0..4 {
        let (first, second, shared) = (bytes[j], bytes[4 + j], bytes[8 + j]);
        (scales[j], minima[j]) = (first & 63, second & 63);
        scales[4 + j] = shared & 15 | first >> 6 << 4;
        minima[4 + j] = shared >> 4 | second >> 6 << 4;
    }
    (scales, minima)
}

pub(super) fn pack_scales_and_minima(scales: &[u8; 8], minima: &[u8; 8]) -> [u8; 12] {
    let mut bytes = [0; 12];
    for j in 0..4 {
        bytes[j] = scales[j] | scales[4 + j] >> 4 << 6;
        bytes[4 + j] = minima[j] | minima[4 + j] >> 4 << 6;
        bytes[8 + j] = scales[4 + j] & 15 | minima[4 + j] << 4;
    }
    bytes
}

/// Sixteen scales of six bits: the low four bits as nibbles of eight bytes, the upper two as fields of four bytes.
#[inline(always)]
fn unpack_sixteen_scales(bytes: &[u8; 12]) -> [u8; 16] {
    from_fn(|j| bytes[j % 8] >> (4 * (j / 8)) & 15 | (bytes[8 + j % 4] >> (2 * (j / 4)) & 3) << 4)
}

pub(super) fn pack_sixteen_scales(scales: &[u8; 16]) -> [u8; 12] {
    let mut bytes = [0; 12];
    for (j, scale) in scales.iter().enumerate() {
        bytes[j % 8] |= (scale & 15) << (4 * (j / 8));
        bytes[8 + j % 4] |= scale >> 4 << (2 * (j / 4));
    }
    bytes
}

/// Elements 32·k ..; byte 32·h + i holds elements 128·h + i + {0, 32, 64, 96}, lowest bits first.
#[inline(always)]
fn two_bits(bytes: &[u8; 64], k: usize) -> impl Iterator<Item = u8> {
    bytes[k / 4 * 32..][..32].iter().map(move |byte| byte >> (k % 4 * 2) & 3)
}

#[inline(always)]
pub(super) fn to_two_bits(quants: &Quants) -> [u8; 64] {
    let mut bytes = [0; 64];
    for (bytes, half) in bytes.as_chunks_mut::<32>().0.iter_mut().zip(quants.as_chunks::<128>().0) {
        *bytes = from_fn(|i| half[i] | half[i + 32] << 2 | half[i + 64] << 4 | half[i + 96] << 6);
    }
    bytes
}

/// Elements 32·k ..; byte i holds elements i + 32·k at bit k.
#[inline(always)]
fn one_bit(bytes: &[u8; 32], k: usize) -> impl Iterator<Item = u8> {
    bytes.iter().map(move |byte| byte >> k & 1)
}

#[inline(always)]
pub(super) fn to_one_bit(bits: &Quants) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (k, bits) in bits.as_chunks::<32>().0.iter().enumerate() {
        for (byte, bit) in bytes.iter_mut().zip(bits) {
            *byte |= bit << k;
        }
    }
    bytes
}

/// Elements 32·k ..; byte 32·g + i holds elements 64·g + i and, in its high nibble, 64·g + i + 32.
#[inline(always)]
fn nibbles(bytes: &[u8; 128], k: usize) -> impl Iterator<Item = u8> {
    bytes[k / 2 * 32..][..32].iter().map(move |byte| byte >> (k % 2 * 4) & 15)
}

#[inline(always)]
pub(super) fn to_nibbles(quants: &Quants) -> [u8; 128] {
    let mut bytes = [0; 128];
    for (bytes, group) in bytes.as_chunks_mut::<32>().0.iter_mut().zip(quants.as_chunks::<64>().0) {
        *bytes = from_fn(|i| group[i] | group[i + 32] << 4);
    }
    bytes
}

/// Elements 32·k .., as `Q6_K` has them: byte 64·h + i holds elements 128·h + i and 128·h + i + 64.
#[inline(always)]
fn nibbles_of_half(bytes: &[u8; 128], k: usize) -> impl Iterator<Item = u8> {
    bytes[k / 4 * 64 + k % 2 * 32..][..32].iter().map(move |byte| byte >> (k % 4 / 2 * 4) & 15)
}

#[inline(always)]
pub(super) fn to_nibbles_of_half(quants: &Quants) -> [u8; 128] {
    let mut bytes = [0; 128];
    for (bytes, half) in bytes.as_chunks_mut::<64>().0.iter_mut().zip(quants.as_chunks::<128>().0) {
        *bytes = from_fn(|i| half[i] | half[i + 64] << 4);
    }
    bytes
}
