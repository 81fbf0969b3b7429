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
        for (values, block) in out.as_chunks_mut().0.iter_mut().zip(blocks) {
            let (d, m) = (half_to_f32(block.d), half_to_f32(block.m));
            let scales = block.scales.map(|pair| d * f32::from(pair & 15));
            let minima = block.scales.map(|pair| m * f32::from(pair >> 4));
            affine_to_f32(values, &from_two_bits(&block.two_bits), scales, minima);
        }
    }
}

by_cpu_level! {
    pub(super) fn q3_k_to_f32(blocks: &[Q3K], out: &mut [f32]) {
        for (values, block) in out.as_chunks_mut().0.iter_mut().zip(blocks) {
            let d = half_to_f32(block.d);
            let scales = unpack_sixteen_scales(&block.scales).map(|scale| d * f32::from(scale as i8 - 32));
            let (low, third) = (from_two_bits(&block.two_bits), from_one_bit(&block.one_bit));
            symmetric_to_f32(values, from_fn(|i| (low[i] | third[i] << 2) as i8 - 4), scales);
        }
    }
}

by_cpu_level! {
    pub(super) fn q4_k_to_f32(blocks: &[Q4K], out: &mut [f32]) {
        for (values, block) in out.as_chunks_mut().0.iter_mut().zip(blocks) {
            let (d, m) = (half_to_f32(block.d), half_to_f32(block.m));
            let (scales, minima) = unpack_scales_and_minima(&block.scales);
            let (scales, minima) = (scales.map(|scale| d * f32::from(scale)), minima.map(|minimum| m * f32::from(minimum)));
            affine_to_f32(values, &from_nibbles::<32>(&block.nibbles), scales, minima);
        }
    }
}

by_cpu_level! {
    pub(super) fn q5_k_to_f32(blocks: &[Q5K], out: &mut [f32]) {
        for (values, block) in out.as_chunks_mut().0.iter_mut().zip(blocks) {
            let (d, m) = (half_to_f32(block.d), half_to_f32(block.m));
            let (scales, minima) = unpack_scales_and_minima(&block.scales);
            let (scales, minima) = (scales.map(|scale| d * f32::from(scale)), minima.map(|minimum| m * f32::from(minimum)));
            let (low, fifth) = (from_nibbles::<32>(&block.nibbles), from_one_bit(&block.one_bit));
            affine_to_f32(values, &from_fn(|i| low[i] | fifth[i] << 4), scales, minima);
        }
    }
}

by_cpu_level! {
    pub(super) fn q6_k_to_f32(blocks: &[Q6K], out: &mut [f32]) {
        for (values, block) in out.as_chunks_mut().0.iter_mut().zip(blocks) {
            let d = half_to_f32(block.d);
            let scales = block.scales.map(|scale| d * f32::from(scale as i8));
            let (low, upper) = (from_nibbles::<64>(&block.nibbles), from_two_bits(&block.two_bits));
            symmetric_to_f32(values, from_fn(|i| (low[i] | upper[i] << 4) as i8 - 32), scales);
        }
    }
}

/// scale · quant − minimum of each sub-block.
#[inline(always)]
fn affine_to_f32<const SUB_BLOCKS: usize>(
    values: &mut [f32; ELEMENTS],
    quants: &Quants,
    scales: [f32; SUB_BLOCKS],
    minima: [f32; SUB_BLOCKS],
) {
    let length = ELEMENTS / SUB_BLOCKS;
    let sub_blocks = values.chunks_exact_mut(length).zip(quants.chunks_exact(length));
    for ((values, quants), (scale, minimum)) in sub_blocks.zip(scales.into_iter().zip(minima)) {
        for (value, quant) in values.iter_mut().zip(quants) {
            *value = scale * f32::from(*quant) - minimum;
        }
    }
}

/// scale · quant of each sub-block of 16.
#[inline(always)]
fn symmetric_to_f32(values: &mut [f32; ELEMENTS], quants: [i8; ELEMENTS], scales: [f32; 16]) {
    let sub_blocks = values.chunks_exact_mut(16).zip(quants.chunks_exact(16));
    for ((values, quants), scale) in sub_blocks.zip(scales) {
        for (value, quant) in values.iter_mut().zip(quants) {
            *value = scale * f32::from(*quant);
        }
    }
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

/// Byte 32·h + i holds elements 128·h + i + {0, 32, 64, 96}, lowest bits first.
#[inline(always)]
fn from_two_bits(bytes: &[u8; 64]) -> Quants {
    let mut quants = [0; ELEMENTS];
    for (half, bytes) in quants.as_chunks_mut::<128>().0.iter_mut().zip(bytes.as_chunks::<32>().0) {
        for (k, quants) in half.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            *quants = bytes.map(|byte| byte >> (2 * k) & 3);
        }
    }
    quants
}

#[inline(always)]
pub(super) fn to_two_bits(quants: &Quants) -> [u8; 64] {
    let mut bytes = [0; 64];
    for (bytes, half) in bytes.as_chunks_mut::<32>().0.iter_mut().zip(quants.as_chunks::<128>().0) {
        *bytes = from_fn(|i| half[i] | half[i + 32] << 2 | half[i + 64] << 4 | half[i + 96] << 6);
    }
    bytes
}

/// Byte i holds elements i + 32·k at bit k.
#[inline(always)]
fn from_one_bit(bytes: &[u8; 32]) -> Quants {
    let mut bits = [0; ELEMENTS];
    for (k, bits) in bits.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        *bits = bytes.map(|byte| byte >> k & 1);
    }
    bits
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

/// Byte `APART`·g + i holds elements 2·`APART`·g + i and, in its high nibble, the one `APART` elements further.
#[inline(always)]
fn from_nibbles<const APART: usize>(bytes: &[u8; 128]) -> Quants {
    let mut quants = [0; ELEMENTS];
    for (group, bytes) in quants.chunks_exact_mut(2 * APART).zip(bytes.as_chunks::<APART>().0) {
        let (low, high) = group.split_at_mut(APART);
        low.copy_from_slice(&bytes.map(|byte| byte & 15));
        high.copy_from_slice(&bytes.map(|byte| byte >> 4));
    }
    quants
}

#[inline(always)]
pub(super) fn to_nibbles<const APART: usize>(quants: &Quants) -> [u8; 128] {
    let mut bytes = [0; 128];
    for (bytes, group) in bytes.as_chunks_mut::<APART>().0.iter_mut().zip(quants.chunks_exact(2 * APART)) {
        *bytes = from_fn(|i| group[i] | group[i + APART] << 4);
    }
    bytes
}
