//! Packing for [`super`].
//!
//! Rows contiguous in K are transposed in registers, 16 × 16 words at a time. Where the other index is contiguous, rows
//! of memory are taken as they are (or two interleaved to pairs), over several panels at once, so that every cache line
//! is read while it is there. What is whole has code of its own, without masks and with every index static, so that the
//! words stay in registers.

use std::arch::x86_64::*;

use half::bf16;

use super::super::Data;
use super::super::kernel::Source;
use super::{mask, round, widen};
use crate::value::Value;

/// Values, and words, of the inner dimension that are asked for ahead: rows lie too far from each other for the processor
/// to guess that they follow.
const AHEAD_ALONG: usize = 512;
const AHEAD_ACROSS: usize = 16;

/// Asks for the cache lines of `count` values, which may lie beyond the end.
#[inline(always)]
fn prefetch<T: Value>(from: *const T, count: usize) {
    for line in (0..count * size_of::<T>()).step_by(64) {
        // SAFETY: every x86-64 has the instruction, and it reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(from.cast::<i8>().wrapping_add(line)) };
    }
}

/// How values of the inner dimension become words. Functions need the level of their kernel, and read exactly the values
/// that they are told of.
pub(super) trait WordKind<T> {
    const DEPTH: usize;

    /// The first `count` ≤ 16 · DEPTH values, in order, zeros beyond.
    unsafe fn along_k(from: *const T, count: usize) -> __m512i;

    /// Words of the first `count` ≤ 16 values of one row and, in pairs, of the second, or zeros.
    unsafe fn across_k(first: *const T, second: Option<*const T>, count: usize) -> __m512i;
}

/// Two values rounded to bf16.
pub(super) struct Pairs;

impl WordKind<f32> for Pairs {
    const DEPTH: usize = 2;

    #[inline(always)]
    unsafe fn along_k(from: *const f32, count: usize) -> __m512i {
        // SAFETY: the masks read exactly what the caller knows to be there.
        unsafe {
            let low = _mm512_maskz_loadu_ps(mask(count), from);
            let high = _mm512_maskz_loadu_ps(mask(count.saturating_sub(16)), from.wrapping_add(16));
            std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low))
        }
    }

    #[inline(always)]
    unsafe fn across_k(first: *const f32, second: Option<*const f32>, count: usize) -> __m512i {
        // SAFETY: as above.
        unsafe {
            let load = |from: *const f32| _mm512_maskz_loadu_ps(mask(count), from);
            let second = second.map_or(_mm512_setzero_ps(), load);
            interleaved(std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second, load(first))))
        }
    }
}

impl WordKind<bf16> for Pairs {
    const DEPTH: usize = 2;

    #[inline(always)]
    unsafe fn along_k(from: *const bf16, count: usize) -> __m512i {
        let lanes = if count >= 32 { !0 } else { (1u32 << count) - 1 };
        // SAFETY: as above.
        unsafe { _mm512_maskz_loadu_epi16(lanes, from.cast()) }
    }

    #[inline(always)]
    unsafe fn across_k(first: *const bf16, second: Option<*const bf16>, count: usize) -> __m512i {
        // SAFETY: as above.
        unsafe {
            let load = |from: *const bf16| _mm256_maskz_loadu_epi16(mask(count), from.cast());
            let second = second.map_or(_mm256_setzero_si256(), load);
            interleaved(_mm512_inserti64x4::<1>(_mm512_castsi256_si512(load(first)), second))
        }
    }
}

/// Lane 2i takes value i of the first half, lane 2i + 1 value i of the second.
#[inline(always)]
unsafe fn interleaved(halves: __m512i) -> __m512i {
    // SAFETY: the caller's level.
    unsafe {
        let order = _mm512_set_epi16(
            31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3,
            18, 2, 17, 1, 16, 0,
        );
        _mm512_permutexvar_epi16(order, halves)
    }
}

/// One f32 value, rounded to bf16 or not.
pub(super) struct Values<const ROUND: bool>;

impl<const ROUND: bool> WordKind<f32> for Values<ROUND> {
    const DEPTH: usize = 1;

    #[inline(always)]
    unsafe fn along_k(from: *const f32, count: usize) -> __m512i {
        // SAFETY: as above.
        unsafe {
            let values = _mm512_maskz_loadu_ps(mask(count), from);
            if ROUND {
                return _mm512_and_si512(round(values), _mm512_set1_epi32(0xffff_0000_u32 as i32));
            }
            _mm512_castps_si512(values)
        }
    }

    #[inline(always)]
    unsafe fn across_k(first: *const f32, _: Option<*const f32>, count: usize) -> __m512i {
        // SAFETY: as above.
        unsafe { Self::along_k(first, count) }
    }
}

impl<const ROUND: bool> WordKind<bf16> for Values<ROUND> {
    const DEPTH: usize = 1;

    #[inline(always)]
    unsafe fn along_k(from: *const bf16, count: usize) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_castps_si512(widen(_mm256_maskz_loadu_epi16(mask(count), from.cast()))) }
    }

    #[inline(always)]
    unsafe fn across_k(first: *const bf16, _: Option<*const bf16>, count: usize) -> __m512i {
        // SAFETY: as above.
        unsafe { Self::along_k(first, count) }
    }
}

/// Packs a matrix in words of this kind.
///
/// # Safety
/// As [`super::super::kernel::Kernel::pack_a`].
#[inline(always)]
pub(super) unsafe fn pack_words<W: WordKind<f32> + WordKind<bf16>, const WIDTH: usize>(
    source: Source,
    packed: *mut u32,
    stride: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match source.data {
            Data::F32(values) => pack_values::<W, f32, WIDTH>(values, source, packed, stride),
            Data::Bf16(values) => pack_values::<W, bf16, WIDTH>(values, source, packed, stride),
        }
    }
}

#[inline(always)]
unsafe fn pack_values<W: WordKind<T>, T: Value, const WIDTH: usize>(
    values: &[T],
    source: Source,
    packed: *mut u32,
    stride: usize,
) {
    // SAFETY: the place lies within `packed` for a panel and a word of the matrix.
    let place = |panel: usize, word: usize| unsafe { packed.add((panel * stride + word) * WIDTH) };
    // SAFETY: the caller's promise; masks keep every load inside the values that `Source` found in memory, and every store
    // inside its word's place.
    unsafe {
        if source.along_k {
            for panel in 0..source.rows.div_ceil(WIDTH) {
                transposing::<W, T, WIDTH>(values, source, panel, place);
            }
        } else {
            interleaving::<W, T, WIDTH>(values, source, place);
        }
    }
}

/// Rows contiguous in K.
#[inline(always)]
unsafe fn transposing<W: WordKind<T>, T: Value, const WIDTH: usize>(
    values: &[T],
    source: Source,
    panel: usize,
    place: impl Fn(usize, usize) -> *mut u32,
) {
    let Source { rows, depth, stride, .. } = source;
    let along = AHEAD_ALONG.min(depth);
    for first in (0..depth.div_ceil(W::DEPTH)).step_by(16) {
        let begin = W::DEPTH * first;
        let count = (depth - begin).min(16 * W::DEPTH);
        // What comes later in these rows, or in those of the next panel.
        let ahead = if begin + along < depth { along } else { (along + WIDTH * stride).wrapping_sub(depth) };
        for group in (0..WIDTH).step_by(16) {
            let (row, width) = (panel * WIDTH + group, (WIDTH - group).min(16));
            let present = rows.saturating_sub(row).min(width);
            let from = values.as_ptr().wrapping_add(row * stride + begin);
            let to = place(panel, first).wrapping_add(group);
            // SAFETY: rows and values that are present lie in memory.
            unsafe {
                if present == width && count == 16 * W::DEPTH {
                    whole_block::<W, T, WIDTH>(from, stride, ahead, width, to);
                } else {
                    part_of_block::<W, T, WIDTH>(from, stride, [present, width], count, to);
                }
            }
        }
    }
}

/// `width` rows of 16 words.
#[inline(always)]
unsafe fn whole_block<W: WordKind<T>, T: Value, const WIDTH: usize>(
    from: *const T,
    stride: usize,
    ahead: usize,
    width: usize,
    to: *mut u32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut lines = [_mm512_setzero_si512(); 16];
        each_row!(ROW in [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15] => {
            if ROW < width {
                let from = from.wrapping_add(ROW * stride);
                prefetch(from.wrapping_add(ahead), 16 * W::DEPTH);
                lines[ROW] = W::along_k(from, 16 * W::DEPTH);
            }
        });
        transpose(&mut lines);
        each_row!(WORD in [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15] => {
            _mm512_mask_storeu_epi32(to.wrapping_add(WORD * WIDTH).cast(), mask(width), lines[WORD]);
        });
    }
}

/// Fewer rows than the panel has, or `count` values of them.
#[inline(always)]
unsafe fn part_of_block<W: WordKind<T>, T: Value, const WIDTH: usize>(
    from: *const T,
    stride: usize,
    [present, width]: [usize; 2],
    count: usize,
    to: *mut u32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut lines = [_mm512_setzero_si512(); 16];
        for (index, line) in lines.iter_mut().enumerate().take(present) {
            *line = W::along_k(from.wrapping_add(index * stride), count);
        }
        transpose(&mut lines);
        for (index, line) in lines.iter().enumerate().take(count.div_ceil(W::DEPTH)) {
            _mm512_mask_storeu_epi32(to.wrapping_add(index * WIDTH).cast(), mask(width), *line);
        }
    }
}

/// The other index contiguous.
#[inline(always)]
unsafe fn interleaving<W: WordKind<T>, T: Value, const WIDTH: usize>(
    values: &[T],
    source: Source,
    place: impl Fn(usize, usize) -> *mut u32,
) {
    let Source { rows, depth, stride, .. } = source;
    for word in 0..depth.div_ceil(W::DEPTH) {
        let first = values.as_ptr().wrapping_add(W::DEPTH * word * stride);
        let second = (W::DEPTH * word + 1 < depth).then_some(first.wrapping_add(stride));
        for row in 0..W::DEPTH {
            prefetch(first.wrapping_add((W::DEPTH * AHEAD_ACROSS + row) * stride), rows);
        }
        for panel in 0..rows.div_ceil(WIDTH) {
            for group in (0..WIDTH).step_by(16) {
                let row = panel * WIDTH + group;
                let width = (WIDTH - group).min(16);
                let count = rows.saturating_sub(row).min(width);
                let (first, second) =
                    (first.wrapping_add(row), second.map(|second| second.wrapping_add(row)));
                // SAFETY: as above.
                unsafe {
                    let line = match count {
                        0 => _mm512_setzero_si512(),
                        // The same with a mask that is known.
                        _ if count == width => W::across_k(first, second, width),
                        _ => W::across_k(first, second, count),
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
