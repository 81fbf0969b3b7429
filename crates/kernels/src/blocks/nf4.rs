//! bitsandbytes' NF4: 64 elements with their largest magnitude, each one of sixteen quantiles of the normal
//! distribution (<https://arxiv.org/abs/2305.14314>); and the double quantization of those magnitudes.
//!
//! The first of two elements is the high nibble. At rest the magnitude is an f32, the one that double quantization
//! gives back, so that a value is that of bitsandbytes. It agrees with the backends that search the nearest code (CUDA's
//! and the one in PyTorch); the native CPU library looks codes of magnitudes up in a table that is coarser than they are.

use std::sync::LazyLock;

use bytemuck::{Pod, Zeroable};

/// Elements of one block.
pub const ELEMENTS: usize = 64;
/// Magnitudes that share the scale of their second quantization.
pub const NESTED_ELEMENTS: usize = 256;

/// What the sixteen nibbles mean, times the magnitude of the block.
pub const CODEBOOK: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Below it a magnitude counts as this.
const SMALLEST: f32 = 1e-38;

/// One block.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Nf4 {
    /// Largest magnitude, little-endian.
    pub absmax: [u8; 4],
    /// Elements 2i and 2i + 1 are the high and the low nibble of byte i.
    pub nibbles: [u8; ELEMENTS / 2],
}

/// Bytes as blocks.
///
/// # Panics
/// If they are not whole blocks.
pub fn blocks(bytes: &[u8]) -> &[Nf4] {
    bytemuck::cast_slice(bytes)
}

/// The 256 values of the signed dynamic 8-bit type, ascending (<https://arxiv.org/abs/1511.04561>).
pub static DYNAMIC_MAP: LazyLock<[f32; 256]> = LazyLock::new(|| {
    let mut map = vec![0.0, 1.0];
    for exponent in 0..7 {
        let items = 1usize << exponent;
        let power = 10f64.powi(exponent - 6) as f32;
        let boundaries = linspace(items + 1);
        for pair in boundaries.windows(2) {
            let value = power * ((pair[0] + pair[1]) / 2.0);
            map.extend([value, -value]);
        }
    }
    map.sort_by(f32::total_cmp);
    let mut sorted = [0.0; 256];
    sorted.copy_from_slice(&map);
    sorted
});

/// `count` numbers from 0.1 to 1 at equal distances, each reckoned from the nearer end as PyTorch does.
fn linspace(count: usize) -> Vec<f32> {
    let (start, end) = (0.1f32, 1.0f32);
    let step = (end - start) / (count - 1) as f32;
    let at = |i: usize| match i < count / 2 {
        true => step.mul_add(i as f32, start),
        false => (-step).mul_add((count - 1 - i) as f32, end),
    };
    (0..count).map(at).collect()
}

/// Magnitudes of blocks after their second quantization.
#[derive(Clone, Debug, PartialEq)]
pub struct DoubleQuantized {
    /// Index into [`DYNAMIC_MAP`] for each.
    pub codes: Vec<u8>,
    /// The scale of each [`NESTED_ELEMENTS`] of them.
    pub absmax: Vec<f32>,
    /// Their mean, which is taken off before.
    pub offset: f32,
}

impl DoubleQuantized {
    /// Quantizes magnitudes. The offset is their mean, rounded once; PyTorch's own sum differs in the last bits by the
    /// number of threads and the processor.
    pub fn of(magnitudes: &[f32]) -> Self {
        let sum: f64 = magnitudes.iter().map(|value| f64::from(*value)).sum();
        Self::with_offset(magnitudes, (sum / magnitudes.len().max(1) as f64) as f32)
    }

    /// As [`DoubleQuantized::of`] with this offset.
    pub fn with_offset(magnitudes: &[f32], offset: f32) -> Self {
        let mut codes = Vec::with_capacity(magnitudes.len());
        let mut absmax = Vec::with_capacity(magnitudes.len().div_ceil(NESTED_ELEMENTS));
        let bounds = bounds(&DYNAMIC_MAP[..]);
        for magnitudes in magnitudes.chunks(NESTED_ELEMENTS) {
            let largest = magnitudes.iter().fold(0f32, |largest, value| largest.max((value - offset).abs()));
            let inverse = 1.0 / largest.max(SMALLEST);
            let code = |value: &f32| {
                let scaled = ((value - offset) * inverse).clamp(-1.0, 1.0);
                bounds.partition_point(|bound| *bound < scaled) as u8
            };
            codes.extend(magnitudes.iter().map(code));
            absmax.push(largest);
        }
        Self { codes, absmax, offset }
    }

    /// The magnitudes that they stand for.
    pub fn magnitudes(&self) -> impl Iterator<Item = f32> {
        let scales = self.absmax.iter().flat_map(|scale| std::iter::repeat_n(*scale, NESTED_ELEMENTS));
        self.codes
            .iter()
            .zip(scales)
            .map(|(code, scale)| DYNAMIC_MAP[usize::from(*code)] * scale + self.offset)
    }
}

/// Puts the magnitudes of `blocks`, all of one tensor, through the second quantization and back.
pub fn double_quantize(blocks: &mut [u8]) {
    let blocks: &mut [Nf4] = bytemuck::cast_slice_mut(blocks);
    let magnitudes: Vec<f32> = blocks.iter().map(|block| f32::from_le_bytes(block.absmax)).collect();
    let quantized = DoubleQuantized::of(&magnitudes);
    for (block, magnitude) in blocks.iter_mut().zip(quantized.magnitudes()) {
        block.absmax = magnitude.to_le_bytes();
    }
}

/// The midpoints between neighbours of an ascending list.
fn bounds(ascending: &[f32]) -> Vec<f32> {
    ascending.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0).collect()
}

/// Between nibble i and i + 1.
const BOUNDS: [f32; 15] = {
    let mut bounds = [0.0; 15];
    let mut i = 0;
    while i < 15 {
        bounds[i] = (CODEBOOK[i] + CODEBOOK[i + 1]) / 2.0;
        i += 1;
    }
    bounds
};

by_cpu_level! {
    pub(super) fn f32_to_nf4(values: &[f32], blocks: &mut [Nf4]) {
        for (values, block) in values.as_chunks::<ELEMENTS>().0.iter().zip(blocks) {
            let bits = values.iter().fold(0, |largest, value| value.abs().to_bits().max(largest));
            let absmax = f32::from_bits(bits);
            let inverse = 1.0 / if absmax < SMALLEST { SMALLEST } else { absmax };
            let mut nibbles = [0u8; ELEMENTS];
            for (nibble, value) in nibbles.iter_mut().zip(values) {
                let scaled = value * inverse;
                let mut above = 0u32;
                for bound in BOUNDS {
                    above += u32::from(bound < scaled);
                }
                *nibble = above as u8;
            }
            for (byte, pair) in block.nibbles.iter_mut().zip(nibbles.as_chunks::<2>().0) {
                *byte = pair[0] << 4 | pair[1];
            }
            block.absmax = absmax.to_le_bytes();
        }
    }
}

pub(super) fn nf4_to_f32(blocks: &[Nf4], out: &mut [f32]) {
    let out = out.as_chunks_mut::<ELEMENTS>().0;
    #[cfg(target_arch = "x86_64")]
    match crate::cpu::level() {
        crate::cpu::Level::Avx512Bf16 | crate::cpu::Level::Avx512 => {
            // SAFETY: `level` reports AVX-512 and AVX2 only where their instructions were detected.
            return unsafe { x86::avx512(blocks, out) };
        }
        // SAFETY: as above.
        crate::cpu::Level::Avx2 => return unsafe { x86::avx2(blocks, out) },
        crate::cpu::Level::Portable => {}
    }
    for (values, block) in out.iter_mut().zip(blocks) {
        let absmax = f32::from_le_bytes(block.absmax);
        for (pair, byte) in values.as_chunks_mut::<2>().0.iter_mut().zip(block.nibbles) {
            *pair = [byte >> 4, byte & 15].map(|nibble| CODEBOOK[usize::from(nibble)] * absmax);
        }
    }
}

/// The values rounded to bf16, where the processor has the instructions: half of what is written, and a third of the work.
///
/// # Safety
/// The processor must have the level `avx512bf16`.
#[cfg(target_arch = "x86_64")]
pub(crate) unsafe fn nf4_to_bf16(blocks: &[Nf4], out: &mut [half::bf16]) {
    // SAFETY: the caller's promise.
    unsafe { x86::avx512_bf16(blocks, out.as_chunks_mut::<ELEMENTS>().0) };
}

/// The sixteen values are looked up within registers.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m128i, __m256bh, __m256i, _mm_and_si128, _mm_loadu_si64, _mm_loadu_si128, _mm_set1_epi8,
        _mm_srli_epi16, _mm_srli_si128, _mm_unpacklo_epi8, _mm256_blendv_ps, _mm256_castsi256_ps,
        _mm256_cvtepu8_epi32, _mm256_loadu_ps, _mm256_mul_ps, _mm256_permutevar8x32_ps, _mm256_set1_ps,
        _mm256_slli_epi32, _mm256_storeu_ps, _mm512_broadcast_i64x4, _mm512_cvtepu8_epi32,
        _mm512_cvtneps_pbh, _mm512_loadu_ps, _mm512_mul_ps, _mm512_or_si512, _mm512_permutexvar_epi16,
        _mm512_permutexvar_ps, _mm512_set1_ps, _mm512_slli_epi32, _mm512_srli_epi32, _mm512_storeu_ps,
        _mm512_storeu_si512,
    };

    use super::{CODEBOOK, ELEMENTS, Nf4};

    /// The sixteen nibbles of eight bytes in the order of their elements.
    #[target_feature(enable = "sse2")]
    fn indices(bytes: &[u8; 8]) -> __m128i {
        // SAFETY: eight bytes are there.
        let packed = unsafe { _mm_loadu_si64(bytes.as_ptr()) };
        let mask = _mm_set1_epi8(15);
        let (high, low) = (_mm_and_si128(_mm_srli_epi16::<4>(packed), mask), _mm_and_si128(packed, mask));
        _mm_unpacklo_epi8(high, low)
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    pub fn avx512(blocks: &[Nf4], out: &mut [[f32; ELEMENTS]]) {
        // SAFETY: the table has sixteen values.
        let table = unsafe { _mm512_loadu_ps(CODEBOOK.as_ptr()) };
        for (values, block) in out.iter_mut().zip(blocks) {
            let absmax = _mm512_set1_ps(f32::from_le_bytes(block.absmax));
            for (values, bytes) in values.as_chunks_mut::<16>().0.iter_mut().zip(block.nibbles.as_chunks().0)
            {
                let quantiles = _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(indices(bytes)), table);
                // SAFETY: there is room for sixteen values.
                unsafe { _mm512_storeu_ps(values.as_mut_ptr(), _mm512_mul_ps(quantiles, absmax)) };
            }
        }
    }

    /// A block's sixteen values are rounded once, and lie twice in the table: only the lower four bits of an index count.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    pub fn avx512_bf16(blocks: &[Nf4], out: &mut [[half::bf16; ELEMENTS]]) {
        // SAFETY: the codebook has sixteen values.
        let codebook = unsafe { _mm512_loadu_ps(CODEBOOK.as_ptr()) };
        for (values, block) in out.iter_mut().zip(blocks) {
            let absmax = _mm512_set1_ps(f32::from_le_bytes(block.absmax));
            let rounded = _mm512_cvtneps_pbh(_mm512_mul_ps(codebook, absmax));
            // SAFETY: both are 256 bits.
            let table = _mm512_broadcast_i64x4(unsafe { std::mem::transmute::<__m256bh, __m256i>(rounded) });
            for (values, bytes) in
                values.as_chunks_mut::<32>().0.iter_mut().zip(block.nibbles.chunks_exact(16))
            {
                // SAFETY: sixteen bytes are there.
                let pairs = _mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) });
                // The first of two elements is the high nibble.
                let indices = _mm512_or_si512(_mm512_srli_epi32::<4>(pairs), _mm512_slli_epi32::<16>(pairs));
                // SAFETY: there is room for 32 values.
                unsafe {
                    _mm512_storeu_si512(values.as_mut_ptr().cast(), _mm512_permutexvar_epi16(indices, table));
                }
            }
        }
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn avx2(blocks: &[Nf4], out: &mut [[f32; ELEMENTS]]) {
        // SAFETY: the table has twice eight values.
        let [lower, upper] = [0, 8].map(|first| unsafe { _mm256_loadu_ps(CODEBOOK[first..].as_ptr()) });
        for (values, block) in out.iter_mut().zip(blocks) {
            let absmax = _mm256_set1_ps(f32::from_le_bytes(block.absmax));
            for (values, bytes) in values.as_chunks_mut::<16>().0.iter_mut().zip(block.nibbles.as_chunks().0)
            {
                let indices = indices(bytes);
                let halves = [indices, _mm_srli_si128::<8>(indices)];
                for (values, indices) in values.as_chunks_mut::<8>().0.iter_mut().zip(halves) {
                    let indices = _mm256_cvtepu8_epi32(indices);
                    let [from_lower, from_upper] =
                        [lower, upper].map(|table| _mm256_permutevar8x32_ps(table, indices));
                    // The sign of a lane chooses, and the fourth bit of the index is moved there.
                    let is_upper = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(indices));
                    let quantiles = _mm256_blendv_ps(from_lower, from_upper, is_upper);
                    // SAFETY: there is room for eight values.
                    unsafe { _mm256_storeu_ps(values.as_mut_ptr(), _mm256_mul_ps(quantiles, absmax)) };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
