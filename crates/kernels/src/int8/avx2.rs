//! Tiles of 1 to 4 rows by 16 outputs in AVX2: codes are widened to words, which are multiplied in pairs.

use std::arch::x86_64::*;

use super::rounded::PART;
use super::{AHEAD, LANES, MOST_ROWS, Tile};

/// The sums of the next rows of at most `left`; how many.
pub(super) fn tile(tile: Tile, left: usize, sums: &mut [[f32; LANES]; MOST_ROWS]) -> usize {
    let affine = tile.layout.affine;
    let halves = affine.part < PART;
    macro_rules! rows {
        ($($constants:tt)*) => {
            // SAFETY: called only where AVX2, FMA and F16C were detected; the layout is the type's own.
            unsafe {
                match left {
                    4.. => rows::<$($constants)*, 4>(tile, sums),
                    2.. => rows::<$($constants)*, 2>(tile, sums),
                    _ => rows::<$($constants)*, 1>(tile, sums),
                }
            }
        };
    }
    match (affine.bits, halves) {
        (4, false) => rows!(4, false),
        (4, true) => rows!(4, true),
        (_, false) => rows!(8, false),
        (_, true) => rows!(8, true),
    }
}

/// # Safety
/// The processor has the features, and `tile` the layout of the constants and `ROWS` rows of words.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn rows<const BITS: usize, const HALVES: bool, const ROWS: usize>(
    tile: Tile,
    sums: &mut [[f32; LANES]; MOST_ROWS],
) -> usize {
    let Tile { layout, group, rounded, first_row } = tile;
    let parts = rounded.parts;
    let in_k_blocks = layout.affine.elements > PART;
    let parts_of_block = layout.affine.elements / PART;
    let offset = layout.affine.offset.map(|offset| _mm256_set1_ps(f32::from(offset)));
    let low_bits = _mm_set1_epi8(15);
    let mut totals = [[_mm256_setzero_ps(); 2]; ROWS];
    // SAFETY: codes and scales of `parts` parts lie in the group, digits and scales of `ROWS` rows in `rounded`; what is
    // prefetched need not exist.
    unsafe {
        let mut codes = group.as_ptr();
        let mut scales = codes.add(layout.code_bytes);
        let digits = rounded.digits.as_ptr().add(first_row * parts * 64);
        let row_scales = rounded.scales.as_ptr().add(first_row * parts);
        let row_sums = rounded.sums.as_ptr().add(first_row * parts);
        let half_sums = rounded.half_sums.as_ptr().add(first_row * parts * 2);
        let half = |at: *const u8| _mm256_cvtph_ps(_mm_loadu_si128(at.cast()));
        let both_halves = |at: *const u8| [half(at), half(at.add(LANES))];
        // Codes of four outputs, as words.
        let words = |codes: *const u8, four: usize, quarter: usize| {
            let bytes = match BITS {
                4 => {
                    let both = _mm_loadu_si128(codes.add(four / 2 * 64 + quarter * 16).cast());
                    let own = if four.is_multiple_of(2) { both } else { _mm_srli_epi16::<4>(both) };
                    _mm_and_si128(own, low_bits)
                }
                _ => _mm_loadu_si128(codes.add(four * 64 + quarter * 16).cast()),
            };
            _mm256_cvtepu8_epi16(bytes)
        };
        for block in 0..parts / parts_of_block {
            let block_scale = both_halves(scales);
            scales = scales.add(2 * LANES);
            let mut block_minimum = [_mm256_setzero_ps(); 2];
            if offset.is_none() {
                block_minimum = both_halves(scales);
                scales = scales.add(2 * LANES);
            }
            for part in block * parts_of_block..(block + 1) * parts_of_block {
                let part_bytes = PART * LANES * BITS / 8;
                for line in (0..part_bytes).step_by(64) {
                    _mm_prefetch::<_MM_HINT_T1>(codes.wrapping_add(line + AHEAD).cast());
                }
                for piece in 0..if HALVES { 2 } else { 1 } {
                    let (mut scale, mut minimum) = (block_scale, block_minimum);
                    if in_k_blocks {
                        for (half, scale) in scale.iter_mut().enumerate() {
                            let factors = _mm256_cvtepi8_epi32(_mm_loadl_epi64(scales.add(8 * half).cast()));
                            *scale = _mm256_mul_ps(*scale, _mm256_cvtepi32_ps(factors));
                        }
                        scales = scales.add(LANES);
                        if offset.is_none() {
                            for (half, minimum) in minimum.iter_mut().enumerate() {
                                let factors =
                                    _mm256_cvtepu8_epi32(_mm_loadl_epi64(scales.add(8 * half).cast()));
                                *minimum = _mm256_mul_ps(*minimum, _mm256_cvtepi32_ps(factors));
                            }
                            scales = scales.add(LANES);
                        }
                    }
                    if let Some(offset) = offset {
                        minimum = scale.map(|scale| _mm256_mul_ps(scale, offset));
                    }
                    let (first, end) = if HALVES { (4 * piece, 4 * piece + 4) } else { (0, 8) };
                    for half in 0..2 {
                        let mut dots = [[_mm256_setzero_si256(); 2]; ROWS];
                        for four in first..end {
                            let codes = [words(codes, four, 2 * half), words(codes, four, 2 * half + 1)];
                            for (row, dots) in dots.iter_mut().enumerate() {
                                let own = digits.add((row * parts + part) * 64).cast::<i64>().add(four);
                                let own = _mm256_set1_epi64x(own.read_unaligned());
                                for (dot, codes) in dots.iter_mut().zip(codes) {
                                    *dot = _mm256_add_epi32(*dot, _mm256_madd_epi16(codes, own));
                                }
                            }
                        }
                        for (row, [first, second]) in dots.into_iter().enumerate() {
                            let at = row * parts + part;
                            // Pairs of both are joined within 128 bits, and then put in order.
                            let dot =
                                _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_hadd_epi32(first, second));
                            let of_row = _mm256_set1_ps(*row_scales.add(at));
                            let scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(dot), of_row);
                            let sum = if HALVES { *half_sums.add(2 * at + piece) } else { *row_sums.add(at) };
                            let total = &mut totals[row][half];
                            *total = _mm256_fmadd_ps(scaled, scale[half], *total);
                            *total = _mm256_fnmadd_ps(minimum[half], _mm256_set1_ps(sum), *total);
                        }
                    }
                }
                codes = codes.add(part_bytes);
            }
        }
        for (sums, total) in sums.iter_mut().zip(totals) {
            _mm256_storeu_ps(sums.as_mut_ptr(), total[0]);
            _mm256_storeu_ps(sums.as_mut_ptr().add(8), total[1]);
        }
    }
    ROWS
}
