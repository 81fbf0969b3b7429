//! Tiles of 1 to 12 rows by 16 outputs where bytes are multiplied in fours (AVX-512 VNNI).

use std::arch::x86_64::*;

use super::rounded::PART;
use super::{AHEAD, LANES, MOST_ROWS, Tile};

/// The sums of the next rows of at most `left`; how many.
pub(super) fn tile(tile: Tile, left: usize, sums: &mut [[f32; LANES]; MOST_ROWS]) -> usize {
    let affine = tile.layout.affine;
    let (in_k_blocks, halves, minima) = (affine.elements > PART, affine.part < PART, affine.offset.is_none());
    macro_rules! rows {
        ($($constants:tt)*) => {
            // SAFETY: called only where AVX-512 VNNI was detected; the layout is the type's own.
            unsafe {
                match left {
                    MOST_ROWS.. => rows::<$($constants)*, MOST_ROWS>(tile, sums),
                    8.. => rows::<$($constants)*, 8>(tile, sums),
                    4.. => rows::<$($constants)*, 4>(tile, sums),
                    2.. => rows::<$($constants)*, 2>(tile, sums),
                    _ => rows::<$($constants)*, 1>(tile, sums),
                }
            }
        };
    }
    match (affine.bits, in_k_blocks, halves, minima) {
        (4, false, _, false) => rows!(4, false, false, false),
        (4, false, _, true) => rows!(4, false, false, true),
        (_, false, _, false) => rows!(8, false, false, false),
        (_, false, _, true) => rows!(8, false, false, true),
        (4, true, true, false) => rows!(4, true, true, false),
        (4, true, true, true) => rows!(4, true, true, true),
        (4, true, false, _) => rows!(4, true, false, true),
        (_, true, true, _) => rows!(8, true, true, false),
        (_, true, false, _) => rows!(8, true, false, true),
    }
}

/// # Safety
/// The processor has the features, and `tile` the layout of the constants and `ROWS` rows.
// Only a loop by number is unrolled, with all codes in registers.
#[allow(clippy::needless_range_loop)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn rows<
    const BITS: usize,
    const K: bool,
    const HALVES: bool,
    const MINIMA: bool,
    const ROWS: usize,
>(
    tile: Tile,
    sums: &mut [[f32; LANES]; MOST_ROWS],
) -> usize {
    let Tile { layout, group, rounded, first_row } = tile;
    let parts = rounded.parts;
    let parts_of_block = if K { 8 } else { 1 };
    let offset = _mm512_set1_ps(f32::from(layout.affine.offset.unwrap_or(0)));
    let low_bits = _mm512_set1_epi8(15);
    let mut totals = [_mm512_setzero_ps(); ROWS];
    // SAFETY: codes and scales of `parts` parts lie in the group, digits and scales of `ROWS` rows in `rounded`; what is
    // prefetched need not exist.
    unsafe {
        let mut codes = group.as_ptr();
        let mut scales = codes.add(layout.code_bytes);
        let digits = rounded.digits.as_ptr().add(first_row * parts * 64);
        let row_scales = rounded.scales.as_ptr().add(first_row * parts);
        let row_sums = rounded.sums.as_ptr().add(first_row * parts);
        let half_sums = rounded.half_sums.as_ptr().add(first_row * parts * 2);
        let half = |at: *const u8| _mm512_cvtph_ps(_mm256_loadu_si256(at.cast()));
        for block in 0..parts / parts_of_block {
            let block_scale = half(scales);
            scales = scales.add(2 * LANES);
            let mut block_minimum = _mm512_setzero_ps();
            if MINIMA {
                block_minimum = half(scales);
                scales = scales.add(2 * LANES);
            }
            for part in block * parts_of_block..(block + 1) * parts_of_block {
                let mut fours = [_mm512_setzero_si512(); 8];
                if BITS == 4 {
                    for pair in 0..4 {
                        let both = _mm512_loadu_si512(codes.add(pair * 64).cast());
                        _mm_prefetch::<_MM_HINT_T1>(codes.wrapping_add(pair * 64 + AHEAD).cast());
                        fours[2 * pair] = _mm512_and_si512(both, low_bits);
                        fours[2 * pair + 1] = _mm512_and_si512(_mm512_srli_epi16::<4>(both), low_bits);
                    }
                } else {
                    for (four, codes_of) in fours.iter_mut().enumerate() {
                        *codes_of = _mm512_loadu_si512(codes.add(four * 64).cast());
                        _mm_prefetch::<_MM_HINT_T1>(codes.wrapping_add(four * 64 + AHEAD).cast());
                    }
                }
                codes = codes.add(PART * LANES * BITS / 8);
                for piece in 0..if HALVES { 2 } else { 1 } {
                    let (mut scale, mut minimum) = (block_scale, block_minimum);
                    if K {
                        let factors = _mm512_cvtepi8_epi32(_mm_loadu_si128(scales.cast()));
                        scale = _mm512_mul_ps(scale, _mm512_cvtepi32_ps(factors));
                        scales = scales.add(LANES);
                        if MINIMA {
                            let factors = _mm512_cvtepu8_epi32(_mm_loadu_si128(scales.cast()));
                            minimum = _mm512_mul_ps(minimum, _mm512_cvtepi32_ps(factors));
                            scales = scales.add(LANES);
                        }
                    }
                    if !MINIMA {
                        minimum = _mm512_mul_ps(scale, offset);
                    }
                    let (first, end) = if HALVES { (4 * piece, 4 * piece + 4) } else { (0, 8) };
                    for (row, total) in totals.iter_mut().enumerate() {
                        let at = row * parts + part;
                        let digits = digits.add(at * 64).cast::<i32>();
                        let (mut high, mut low) = (_mm512_setzero_si512(), _mm512_setzero_si512());
                        for four in first..end {
                            let digit = |at: usize| _mm512_set1_epi32(digits.add(at).read_unaligned());
                            high = _mm512_dpbusd_epi32(high, fours[four], digit(four));
                            low = _mm512_dpbusd_epi32(low, fours[four], digit(8 + four));
                        }
                        let dot = _mm512_add_epi32(_mm512_slli_epi32::<7>(high), low);
                        let of_row = _mm512_set1_ps(*row_scales.add(at));
                        let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(dot), of_row);
                        let sum = if HALVES { *half_sums.add(2 * at + piece) } else { *row_sums.add(at) };
                        *total = _mm512_fmadd_ps(scaled, scale, *total);
                        *total = _mm512_fnmadd_ps(minimum, _mm512_set1_ps(sum), *total);
                    }
                }
            }
        }
        for (sums, total) in sums.iter_mut().zip(totals) {
            _mm512_storeu_ps(sums.as_mut_ptr(), total);
        }
    }
    ROWS
}
