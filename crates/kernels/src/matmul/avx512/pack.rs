//! Packing for [`super`].
//!
//! Rows contiguous in K are transposed in registers, 16 × 16 words at a time. Where the other index is contiguous, rows
//! of memory are taken as they are (or two interleaved to pairs), over several panels at once, so that every cache line
//! is read while it is there.

use std::arch::x86_64::*;

use half::bf16;

use super::super::Data;
use super::super::kernel::Source;
use super::{mask, round, widen};

/// Values, and words, of the inner dimension that are asked for ahead: rows lie too far from each other for the processor
/// to guess that they follow.
const AHEAD_ALONG: usize = 512;
const AHEAD_ACROSS: usize = 16;

/// Asks for the cache lines of `count` values from `offset` on, which may lie beyond the end.
#[inline(always)]
fn prefetch(data: Data, offset: usize, count: usize) {
    let (start, bytes) = match data {
        Data::F32(values) => (values.as_ptr().wrapping_add(offset).cast::<i8>(), count * size_of::<f32>()),
        Data::Bf16(values) => (values.as_ptr().wrapping_add(offset).cast(), count * size_of::<bf16>()),
    };
    for line in (0..bytes).step_by(64) {
        // SAFETY: every x86-64 has the instruction, and it reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(start.wrapping_add(line)) };
    }
}

/// How values of the inner dimension become words. Functions need the level of their kernel.
pub(super) trait WordKind {
    const DEPTH: usize;

    /// The first `count` ≤ 16 · DEPTH values from `offset` on, in order, zeros beyond.
    unsafe fn along_k(data: Data, offset: usize, count: usize) -> __m512i;

    /// Words of the first `count` ≤ 16 values from `first` on and, in pairs, those from `second` on, or zeros.
    unsafe fn across_k(data: Data, first: usize, second: Option<usize>, count: usize) -> __m512i;
}

/// Two values rounded to bf16.
pub(super) struct Pairs;

impl WordKind for Pairs {
    const DEPTH: usize = 2;

    #[inline(always)]
    unsafe fn along_k(data: Data, offset: usize, count: usize) -> __m512i {
        // SAFETY: the masks read exactly values that `Source` found inside the memory.
        unsafe {
            match data {
                Data::F32(values) => {
                    let from = values.as_ptr().add(offset);
                    let low = _mm512_maskz_loadu_ps(mask(count), from);
                    let high = _mm512_maskz_loadu_ps(mask(count.saturating_sub(16)), from.wrapping_add(16));
                    std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low))
                }
                Data::Bf16(values) => {
                    let lanes = if count >= 32 { !0 } else { (1u32 << count) - 1 };
                    _mm512_maskz_loadu_epi16(lanes, values.as_ptr().add(offset).cast())
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn across_k(data: Data, first: usize, second: Option<usize>, count: usize) -> __m512i {
        let lanes = mask(count);
        // SAFETY: as above.
        unsafe {
            let words = match data {
                Data::F32(values) => {
                    let load = |offset: usize| _mm512_maskz_loadu_ps(lanes, values.as_ptr().add(offset));
                    let second = second.map_or(_mm512_setzero_ps(), load);
                    std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second, load(first)))
                }
                Data::Bf16(values) => {
                    let load =
                        |offset: usize| _mm256_maskz_loadu_epi16(lanes, values.as_ptr().add(offset).cast());
                    let second = second.map_or(_mm256_setzero_si256(), load);
                    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(load(first)), second)
                }
            };
            // Lane 2i takes word i of the first half, lane 2i + 1 word i of the second.
            let order = _mm512_set_epi16(
                31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19,
                3, 18, 2, 17, 1, 16, 0,
            );
            _mm512_permutexvar_epi16(order, words)
        }
    }
}

/// One f32 value, rounded to bf16 or not.
pub(super) struct Values<const ROUND: bool>;

impl<const ROUND: bool> WordKind for Values<ROUND> {
    const DEPTH: usize = 1;

    #[inline(always)]
    unsafe fn along_k(data: Data, offset: usize, count: usize) -> __m512i {
        let lanes = mask(count);
        // SAFETY: as above.
        unsafe {
            match data {
                Data::F32(values) => {
                    let values = _mm512_maskz_loadu_ps(lanes, values.as_ptr().add(offset));
                    if ROUND {
                        return _mm512_and_si512(round(values), _mm512_set1_epi32(0xffff_0000_u32 as i32));
                    }
                    _mm512_castps_si512(values)
                }
                Data::Bf16(values) => {
                    let values = _mm256_maskz_loadu_epi16(lanes, values.as_ptr().add(offset).cast());
                    _mm512_castps_si512(widen(values))
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn across_k(data: Data, first: usize, _: Option<usize>, count: usize) -> __m512i {
        // SAFETY: as above.
        unsafe { Self::along_k(data, first, count) }
    }
}

/// Packs a matrix in words of this kind.
///
/// # Safety
/// As [`super::super::kernel::Kernel::pack_a`].
#[inline(always)]
pub(super) unsafe fn pack_words<W: WordKind, const WIDTH: usize>(
    source: Source,
    packed: *mut u32,
    stride: usize,
) {
    // SAFETY: the place lies within `packed` for a panel and a word of the matrix.
    let place = |panel: usize, word: usize| unsafe { packed.add((panel * stride + word) * WIDTH) };
    // SAFETY: the caller's promise; masks keep every store inside its word's place.
    unsafe {
        if source.along_k {
            for panel in 0..source.rows.div_ceil(WIDTH) {
                transposing::<W, WIDTH>(source, panel, place);
            }
        } else {
            interleaving::<W, WIDTH>(source, place);
        }
    }
}

/// Rows contiguous in K.
#[inline(always)]
unsafe fn transposing<W: WordKind, const WIDTH: usize>(
    source: Source,
    panel: usize,
    place: impl Fn(usize, usize) -> *mut u32,
) {
    let Source { data, rows, depth, stride, .. } = source;
    for first in (0..depth.div_ceil(W::DEPTH)).step_by(16) {
        let count = (depth - W::DEPTH * first).min(16 * W::DEPTH);
        for group in (0..WIDTH).step_by(16) {
            let row = panel * WIDTH + group;
            let present = rows.saturating_sub(row).min(WIDTH - group);
            // SAFETY: rows and values that are present lie in memory; the mask keeps the store inside its place.
            unsafe {
                let mut lines = [_mm512_setzero_si512(); 16];
                for (index, line) in lines.iter_mut().enumerate().take(present) {
                    let from = (row + index) * stride + W::DEPTH * first;
                    prefetch(data, from + AHEAD_ALONG, 16 * W::DEPTH);
                    *line = W::along_k(data, from, count);
                }
                transpose(&mut lines);
                let lanes = mask(WIDTH - group);
                for (index, line) in lines.iter().enumerate().take(count.div_ceil(W::DEPTH)) {
                    _mm512_mask_storeu_epi32(place(panel, first + index).add(group).cast(), lanes, *line);
                }
            }
        }
    }
}

/// The other index contiguous.
#[inline(always)]
unsafe fn interleaving<W: WordKind, const WIDTH: usize>(
    source: Source,
    place: impl Fn(usize, usize) -> *mut u32,
) {
    let Source { data, rows, depth, stride, .. } = source;
    for word in 0..depth.div_ceil(W::DEPTH) {
        let first = W::DEPTH * word * stride;
        let second = (W::DEPTH * word + 1 < depth).then_some(first + stride);
        for row in 0..W::DEPTH {
            prefetch(data, first + (W::DEPTH * AHEAD_ACROSS + row) * stride, rows);
        }
        for panel in 0..rows.div_ceil(WIDTH) {
            for group in (0..WIDTH).step_by(16) {
                let row = panel * WIDTH + group;
                let width = (WIDTH - group).min(16);
                let count = rows.saturating_sub(row).min(width);
                // SAFETY: as above.
                unsafe {
                    let line = match count {
                        0 => _mm512_setzero_si512(),
                        _ => W::across_k(data, first + row, second.map(|second| second + row), count),
                    };
                    _mm512_mask_storeu_epi32(place(panel, word).add(group).cast(), mask(width), line);
                }
            }
        }
    }
}

/// Transposes a 16 × 16 matrix of words in registers.
#[inline(always)]
unsafe fn transpose(words: &mut [__m512i; 16]) {
    // SAFETY: the caller's level.
    unsafe {
        let mut pairs = [_mm512_setzero_si512(); 16];
        for i in 0..8 {
            pairs[2 * i] = _mm512_unpacklo_epi32(words[2 * i], words[2 * i + 1]);
            pairs[2 * i + 1] = _mm512_unpackhi_epi32(words[2 * i], words[2 * i + 1]);
        }
        // quads[4 i + j]: rows 4 i .. 4 i + 4 of columns j, 4 + j, 8 + j and 12 + j, one 128-bit lane each
        let mut quads = [_mm512_setzero_si512(); 16];
        for i in 0..4 {
            quads[4 * i] = _mm512_unpacklo_epi64(pairs[4 * i], pairs[4 * i + 2]);
            quads[4 * i + 1] = _mm512_unpackhi_epi64(pairs[4 * i], pairs[4 * i + 2]);
            quads[4 * i + 2] = _mm512_unpacklo_epi64(pairs[4 * i + 1], pairs[4 * i + 3]);
            quads[4 * i + 3] = _mm512_unpackhi_epi64(pairs[4 * i + 1], pairs[4 * i + 3]);
        }
        for j in 0..4 {
            let even_low = _mm512_shuffle_i32x4::<0x88>(quads[j], quads[4 + j]);
            let odd_low = _mm512_shuffle_i32x4::<0xdd>(quads[j], quads[4 + j]);
            let even_high = _mm512_shuffle_i32x4::<0x88>(quads[8 + j], quads[12 + j]);
            let odd_high = _mm512_shuffle_i32x4::<0xdd>(quads[8 + j], quads[12 + j]);
            words[j] = _mm512_shuffle_i32x4::<0x88>(even_low, even_high);
            words[8 + j] = _mm512_shuffle_i32x4::<0xdd>(even_low, even_high);
            words[4 + j] = _mm512_shuffle_i32x4::<0x88>(odd_low, odd_high);
            words[12 + j] = _mm512_shuffle_i32x4::<0xdd>(odd_low, odd_high);
        }
    }
}
