//! Packing for [`super`]: a matrix [rows, K] in panels of WIDTH rows, `packed[panel][k / 2][row % WIDTH]` = the bf16
//! pair (k, k + 1), zero beyond the edges.
//!
//! Rows contiguous in k are transposed in registers, 16 × 16 words at a time. Where the other index is contiguous, two
//! rows of memory are interleaved, over several panels at once, so that every cache line is read while it is there.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::{Data, Operand};
use crate::buffer::Buffer;
use crate::team::{SharedSlice, parallel_for};

/// Panels, and pairs, of one task where rows of memory are interleaved.
const TASK_PANELS: usize = 8;
const TASK_PAIRS: usize = 32;

/// Packs a matrix, making room for it, on all threads.
pub(super) fn pack<const WIDTH: usize>(matrix: Operand, packed: &mut Buffer<u32>) {
    let (panels, pairs) = (matrix.rows.div_ceil(WIDTH), matrix.columns.div_ceil(2));
    let words = panels * pairs * WIDTH;
    if packed.len() < words {
        *packed = Buffer::zeros(words.next_power_of_two());
    }
    let packed = SharedSlice::new(&mut packed.host_mut()[..words]);
    let source = Source::new(matrix);
    let (task_panels, task_pairs) = if source.transposes { (1, pairs) } else { (TASK_PANELS, TASK_PAIRS) };
    let pair_tasks = pairs.div_ceil(task_pairs);
    parallel_for(panels.div_ceil(task_panels) * pair_tasks, |task| {
        let part = |index: usize, size: usize, end: usize| index * size..end.min((index + 1) * size);
        let (panels, pairs) =
            (part(task / pair_tasks, task_panels, panels), part(task % pair_tasks, task_pairs, pairs));
        // SAFETY: parts of different tasks are disjoint; the processor has AVX-512 BF16.
        unsafe { pack_part::<WIDTH>(source, panels, pairs, packed.pointer(0)) };
    });
}

/// Packs a matrix on the calling thread.
pub(super) fn pack_here<const WIDTH: usize>(matrix: Operand, packed: &mut [u32]) {
    let (panels, pairs) = (matrix.rows.div_ceil(WIDTH), matrix.columns.div_ceil(2));
    assert!(packed.len() >= panels * pairs * WIDTH);
    // SAFETY: the parts lie inside `packed` by the assertion; the processor has AVX-512 BF16.
    unsafe { pack_part::<WIDTH>(Source::new(matrix), 0..panels, 0..pairs, packed.as_mut_ptr()) };
}

/// A matrix whose elements are known to lie in its memory.
#[derive(Clone, Copy)]
struct Source<'a> {
    matrix: Operand<'a>,
    transposes: bool,
}

impl<'a> Source<'a> {
    fn new(matrix: Operand<'a>) -> Self {
        let Operand { rows, columns, row_stride, column_stride, data } = matrix;
        let length = match data {
            Data::F32(values) => values.len(),
            Data::Bf16(values) => values.len(),
        };
        assert!(row_stride == 1 || column_stride == 1, "one index of a matrix must be contiguous");
        assert!(
            rows == 0 || columns == 0 || (rows - 1) * row_stride + (columns - 1) * column_stride < length
        );
        Self { matrix, transposes: column_stride == 1 }
    }

    /// The first `count` ≤ 32 values from `offset` on as bf16, in order, zeros beyond.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    #[inline]
    fn load_32(self, offset: usize, count: usize) -> __m512i {
        // SAFETY: the masks read exactly values that `new` found inside the memory; both types are plain data.
        unsafe {
            match self.matrix.data {
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

    /// The first `count` ≤ 16 values from `first` on as bf16, and behind them those from `second` on, or zeros.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    #[inline]
    fn load_2_x_16(self, first: usize, second: Option<usize>, count: usize) -> __m512i {
        let lanes = mask(count);
        // SAFETY: as above.
        unsafe {
            match self.matrix.data {
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
            }
        }
    }
}

/// The lowest `count` of 16 lanes.
pub(super) fn mask(count: usize) -> __mmask16 {
    if count >= 16 { !0 } else { (1 << count) - 1 }
}

/// Packs some panels and pairs of a matrix; `packed` is where the first panel of all begins.
///
/// # Safety
/// `packed` must hold all panels of the matrix, and nobody else may touch these parts of them.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn pack_part<const WIDTH: usize>(
    source: Source,
    panels: Range<usize>,
    pairs: Range<usize>,
    packed: *mut u32,
) {
    let all_pairs = source.matrix.columns.div_ceil(2);
    // SAFETY: panel and pair lie within the matrix, so the place does within `packed`.
    let place = |panel: usize, pair: usize| unsafe { packed.add((panel * all_pairs + pair) * WIDTH) };
    // SAFETY: the caller's promise; masks keep every store inside its pair.
    unsafe {
        if source.transposes {
            for panel in panels {
                transposing::<WIDTH>(source, panel, pairs.clone(), place);
            }
        } else {
            interleaving::<WIDTH>(source, panels, pairs, place);
        }
    }
}

/// Rows contiguous in k.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
#[inline]
unsafe fn transposing<const WIDTH: usize>(
    source: Source,
    panel: usize,
    pairs: Range<usize>,
    place: impl Fn(usize, usize) -> *mut u32,
) {
    let Operand { rows, columns, row_stride, .. } = source.matrix;
    for first in pairs.clone().step_by(16) {
        let count = (columns - 2 * first).min(32);
        for group in (0..WIDTH).step_by(16) {
            let row = panel * WIDTH + group;
            let mut words = [_mm512_setzero_si512(); 16];
            for (index, word) in
                words.iter_mut().enumerate().take(rows.saturating_sub(row).min(WIDTH - group))
            {
                let offset = (row + index) * row_stride + 2 * first;
                *word = source.load_32(offset, count);
            }
            transpose(&mut words);
            let lanes = mask(WIDTH - group);
            for (index, word) in words.iter().enumerate().take(count.div_ceil(2)) {
                // SAFETY: the mask keeps the store inside the pair.
                unsafe {
                    _mm512_mask_storeu_epi32(place(panel, first + index).add(group).cast(), lanes, *word)
                };
            }
        }
    }
}

/// Columns contiguous: rows k and k + 1 of memory are interleaved.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
#[inline]
unsafe fn interleaving<const WIDTH: usize>(
    source: Source,
    panels: Range<usize>,
    pairs: Range<usize>,
    place: impl Fn(usize, usize) -> *mut u32,
) {
    let Operand { rows, columns, column_stride, .. } = source.matrix;
    // Lane 2i takes word i of the first half, lane 2i + 1 word i of the second.
    let order = _mm512_set_epi16(
        31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18,
        2, 17, 1, 16, 0,
    );
    for pair in pairs {
        let first = 2 * pair * column_stride;
        let second = (2 * pair + 1 < columns).then_some(first + column_stride);
        for panel in panels.clone() {
            for group in (0..WIDTH).step_by(16) {
                let row = panel * WIDTH + group;
                let width = (WIDTH - group).min(16);
                let count = rows.saturating_sub(row).min(width);
                let words = match count {
                    0 => _mm512_setzero_si512(),
                    _ => source.load_2_x_16(first + row, second.map(|second| second + row), count),
                };
                let words = _mm512_permutexvar_epi16(order, words);
                // SAFETY: the mask keeps the store inside the pair.
                unsafe { _mm512_mask_storeu_epi32(place(panel, pair).add(group).cast(), mask(width), words) };
            }
        }
    }
}

/// Transposes a 16 × 16 matrix of words in registers.
#[target_feature(enable = "avx512f")]
fn transpose(words: &mut [__m512i; 16]) {
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
