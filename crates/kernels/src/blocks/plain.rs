//! Plain element types: f32, IEEE half and bf16.

use half::f16;
use half::slice::HalfFloatSliceExt;

/// The value of a half.
#[inline(always)]
pub(super) fn half_to_f32(bytes: [u8; 2]) -> f32 {
    // From the exponent's bias of 15 to that of 127; a product, so that subnormals come out right.
    const REBIAS: f32 = f32::from_bits((127 + 112) << 23);
    const INFINITY: u32 = 0x7f80_0000;
    let bits = u32::from(u16::from_le_bytes(bytes));
    let magnitude = (bits & 0x7fff) << 13;
    let special = if magnitude >= 0x0f80_0000 { INFINITY } else { 0 };
    f32::from_bits((f32::from_bits(magnitude) * REBIAS).to_bits() | special | (bits & 0x8000) << 16)
}

/// The nearest half, ties to even.
#[inline(always)]
pub(super) fn f32_to_half(value: f32) -> [u8; 2] {
    f16::from_f32(value).to_le_bytes()
}

/// Elements that go through a buffer at once, because `half` asks the CPU for its conversion instruction once per
/// slice.
const PIECE: usize = 256;

pub(super) fn f16_to_f32(bytes: &[u8], out: &mut [f32]) {
    let mut buffer = [f16::ZERO; PIECE];
    for (values, bytes) in out.chunks_mut(PIECE).zip(bytes.chunks(2 * PIECE)) {
        let buffer = &mut buffer[..values.len()];
        for (element, bytes) in buffer.iter_mut().zip(bytes.as_chunks().0) {
            *element = f16::from_le_bytes(*bytes);
        }
        buffer.convert_to_f32_slice(values);
    }
}

pub(super) fn f32_to_f16(values: &[f32], out: &mut [u8]) {
    let mut buffer = [f16::ZERO; PIECE];
    for (values, out) in values.chunks(PIECE).zip(out.chunks_mut(2 * PIECE)) {
        let buffer = &mut buffer[..values.len()];
        buffer.convert_from_f32_slice(values);
        for (element, bytes) in buffer.iter().zip(out.as_chunks_mut().0) {
            *bytes = element.to_le_bytes();
        }
    }
}

by_cpu_level! {
    pub(super) fn bf16_to_f32(bytes: &[u8], out: &mut [f32]) {
        for (value, element) in out.iter_mut().zip(bytes.as_chunks().0) {
            *value = f32::from_bits(u32::from(u16::from_le_bytes(*element)) << 16);
        }
    }
}

by_cpu_level! {
    pub(super) fn f32_to_bf16(values: &[f32], out: &mut [u8]) {
        for (value, element) in values.iter().zip(out.as_chunks_mut().0) {
            *element = ((crate::value::round_to_bf16(*value).to_bits() >> 16) as u16).to_le_bytes();
        }
    }
}

pub(super) fn copy_to_f32(bytes: &[u8], out: &mut [f32]) {
    for (value, element) in out.iter_mut().zip(bytes.as_chunks().0) {
        *value = f32::from_le_bytes(*element);
    }
}

pub(super) fn copy_from_f32(values: &[f32], out: &mut [u8]) {
    for (value, element) in values.iter().zip(out.as_chunks_mut().0) {
        *element = value.to_le_bytes();
    }
}
