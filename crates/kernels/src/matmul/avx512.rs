//! AVX-512 kernels: 14 × 32 sums in 28 registers, over bf16 pairs where the processor multiplies them, else over f32.
//!
//! One step of a tile multiplies 14 broadcast words of A with two vectors of 16 words of B.

/// Runs the block for each index, which is a constant.
macro_rules! each_row {
    ($row:ident in [$($index:literal)*] => $body:block) => {
        $({
            const $row: usize = $index;
            $body
        })*
    };
}

/// Runs the tile's function for as many vectors and rows as it has at its edges: of 256 tokens the last four are a tile.
macro_rules! of_size {
    ($run:ident, $segments:expr, $tile:expr) => {
        match ($tile.columns > 16, $tile.rows) {
            (true, ..=4) => $run::<2, 4>($segments, $tile),
            (true, ..=8) => $run::<2, 8>($segments, $tile),
            (true, _) => $run::<2, ROWS>($segments, $tile),
            (false, ..=4) => $run::<1, 4>($segments, $tile),
            (false, ..=8) => $run::<1, 8>($segments, $tile),
            (false, _) => $run::<1, ROWS>($segments, $tile),
        }
    };
}

mod pack;

use std::arch::x86_64::*;

use half::bf16;

use self::pack::{Pairs, Values, pack_words};
use super::kernel::{Kernel, Place, Segment, Source, Tile};

const ROWS: usize = 14;
const COLUMNS: usize = 32;

/// Dot products of bf16 pairs, summed in f32.
pub(super) struct Bf16;

impl Kernel for Bf16 {
    const A_WIDTH: usize = ROWS;
    const B_WIDTH: usize = COLUMNS;
    const DEPTH: usize = 2;
    const TAKES_BF16: bool = true;

    unsafe fn pack_a(a: Source, packed: *mut u32, stride: usize) {
        // SAFETY: the caller's promise.
        unsafe { pack_pairs::<ROWS>(a, packed, stride) };
    }

    unsafe fn pack_b(b: Source, packed: *mut u32, stride: usize) {
        // SAFETY: the caller's promise.
        unsafe { pack_pairs::<COLUMNS>(b, packed, stride) };
    }

    unsafe fn tile(segments: &[Segment], tile: Tile) {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
        unsafe fn run<const HALVES: usize, const USED: usize>(segments: &[Segment], tile: Tile) {
            // SAFETY: the caller's promise.
            unsafe {
                prefetch(tile);
                let mut sums = [[_mm512_setzero_ps(); HALVES]; ROWS];
                for segment in segments {
                    for step in 0..segment.words {
                        let b = segment.b.add(step * COLUMNS);
                        let mut columns = [_mm512_setzero_si512(); HALVES];
                        for (half, columns) in columns.iter_mut().enumerate() {
                            *columns = _mm512_loadu_si512(b.add(16 * half).cast());
                        }
                        let a = segment.a.add(step * ROWS);
                        for (row, sums) in sums.iter_mut().enumerate().take(USED) {
                            let pair: __m512bh = std::mem::transmute(_mm512_set1_epi32(*a.add(row) as i32));
                            for (sum, columns) in sums.iter_mut().zip(&columns) {
                                let columns: __m512bh = std::mem::transmute(*columns);
                                *sum = _mm512_dpbf16_ps(*sum, pair, columns);
                            }
                        }
                    }
                }
                store(&sums, tile);
            }
        }
        // SAFETY: the caller's promise.
        unsafe { of_size!(run, segments, tile) };
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn pack_pairs<const WIDTH: usize>(source: Source, packed: *mut u32, stride: usize) {
    // SAFETY: the caller's promise.
    unsafe { pack_words::<Pairs, WIDTH>(source, packed, stride) };
}

/// Fused multiply-adds of f32, operands rounded to bf16 or not.
pub(super) struct F32<const ROUND: bool>;

impl<const ROUND: bool> Kernel for F32<ROUND> {
    const A_WIDTH: usize = ROWS;
    const B_WIDTH: usize = COLUMNS;
    const DEPTH: usize = 1;
    const TAKES_BF16: bool = false;

    unsafe fn pack_a(a: Source, packed: *mut u32, stride: usize) {
        // SAFETY: the caller's promise.
        unsafe { pack_f32::<ROWS, ROUND>(a, packed, stride) };
    }

    unsafe fn pack_b(b: Source, packed: *mut u32, stride: usize) {
        // SAFETY: the caller's promise.
        unsafe { pack_f32::<COLUMNS, ROUND>(b, packed, stride) };
    }

    unsafe fn tile(segments: &[Segment], tile: Tile) {
        // SAFETY: the caller's promise.
        unsafe { f32_tile(segments, tile) };
    }
}

/// Not generic, so that it is compiled here and as this crate is, whoever calls it.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn f32_tile(segments: &[Segment], tile: Tile) {
    // SAFETY: the caller's promise.
    unsafe { of_size!(multiply_add, segments, tile) };
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn multiply_add<const HALVES: usize, const USED: usize>(segments: &[Segment], tile: Tile) {
    // SAFETY: the caller's promise.
    unsafe {
        prefetch(tile);
        let mut sums = [[_mm512_setzero_ps(); HALVES]; ROWS];
        for segment in segments {
            for step in 0..segment.words {
                let b = segment.b.add(step * COLUMNS).cast::<f32>();
                let mut columns = [_mm512_setzero_ps(); HALVES];
                for (half, columns) in columns.iter_mut().enumerate() {
                    *columns = _mm512_loadu_ps(b.add(16 * half));
                }
                let a = segment.a.add(step * ROWS).cast::<f32>();
                for (row, sums) in sums.iter_mut().enumerate().take(USED) {
                    let value = _mm512_set1_ps(*a.add(row));
                    for (sum, columns) in sums.iter_mut().zip(&columns) {
                        *sum = _mm512_fmadd_ps(value, *columns, *sum);
                    }
                }
            }
        }
        store(&sums, tile);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn pack_f32<const WIDTH: usize, const ROUND: bool>(source: Source, packed: *mut u32, stride: usize) {
    // SAFETY: the caller's promise.
    unsafe { pack_words::<Values<ROUND>, WIDTH>(source, packed, stride) };
}

/// C comes from far away, and its values are wanted last.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
fn prefetch(tile: Tile) {
    let (c, bytes) = match tile.c {
        Place::F32(c) => (c.cast::<i8>(), size_of::<f32>()),
        Place::Bf16(c) => (c.cast::<i8>(), size_of::<bf16>()),
    };
    for row in 0..tile.rows {
        let address = c.wrapping_add(row * tile.row_stride * bytes);
        _mm_prefetch::<_MM_HINT_ET0>(address);
        _mm_prefetch::<_MM_HINT_ET0>(address.wrapping_add(COLUMNS / 2 * bytes));
    }
}

/// The lowest `count` of 16 lanes.
#[inline(always)]
fn mask(count: usize) -> __mmask16 {
    if count >= 16 { !0 } else { (1 << count) - 1 }
}

/// Every index is static, so that the sums stay in registers.
#[inline(always)]
unsafe fn store<const HALVES: usize>(sums: &[[__m512; HALVES]; ROWS], tile: Tile) {
    // SAFETY: the caller's promise.
    unsafe {
        match (tile.c, tile.add) {
            (Place::F32(c), false) => rows::<f32, false, HALVES>(sums, tile, c),
            (Place::F32(c), true) => rows::<f32, true, HALVES>(sums, tile, c),
            (Place::Bf16(c), false) => rows::<bf16, false, HALVES>(sums, tile, c),
            (Place::Bf16(c), true) => rows::<bf16, true, HALVES>(sums, tile, c),
        }
    }
}

#[inline(always)]
unsafe fn rows<T: Stored, const ADD: bool, const HALVES: usize>(
    sums: &[[__m512; HALVES]; ROWS],
    tile: Tile,
    c: *mut T,
) {
    let masks = [mask(tile.columns), mask(tile.columns.saturating_sub(16))];
    // SAFETY: the caller's level; rows and masks cut what is not the tile's.
    unsafe {
        let alpha = _mm512_set1_ps(tile.alpha);
        each_row!(ROW in [0 1 2 3 4 5 6 7 8 9 10 11 12 13] => {
            if ROW < tile.rows {
                let c = c.wrapping_add(ROW * tile.row_stride);
                for half in 0..HALVES {
                    let (c, lanes) = (c.wrapping_add(16 * half), masks[half]);
                    let value = match ADD {
                        true => _mm512_fmadd_ps(alpha, sums[ROW][half], T::load(c, lanes)),
                        false => _mm512_mul_ps(alpha, sums[ROW][half]),
                    };
                    T::store(c, lanes, value);
                }
            }
        });
    }
}

/// How 16 lanes stand in memory.
trait Stored {
    unsafe fn load(from: *const Self, lanes: __mmask16) -> __m512;
    unsafe fn store(to: *mut Self, lanes: __mmask16, values: __m512);
}

impl Stored for f32 {
    #[inline(always)]
    unsafe fn load(from: *const Self, lanes: __mmask16) -> __m512 {
        // SAFETY: the caller's level and lanes.
        unsafe { _mm512_maskz_loadu_ps(lanes, from) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut Self, lanes: __mmask16, values: __m512) {
        // SAFETY: the caller's level and lanes.
        unsafe { _mm512_mask_storeu_ps(to, lanes, values) }
    }
}

impl Stored for bf16 {
    #[inline(always)]
    unsafe fn load(from: *const Self, lanes: __mmask16) -> __m512 {
        // SAFETY: the caller's level and lanes.
        unsafe { widen(_mm256_maskz_loadu_epi16(lanes, from.cast())) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut Self, lanes: __mmask16, values: __m512) {
        // SAFETY: the caller's level and lanes.
        unsafe {
            let halves = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(round(values)));
            _mm256_mask_storeu_epi16(to.cast(), lanes, halves);
        }
    }
}

/// bf16 to f32.
#[inline(always)]
unsafe fn widen(values: __m256i) -> __m512 {
    // SAFETY: the caller's level.
    unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(values))) }
}

/// Rounds to the nearest bf16, ties to even; the lower halves of the words are unspecified.
#[inline(always)]
unsafe fn round(values: __m512) -> __m512i {
    // SAFETY: the caller's level.
    unsafe {
        let bits = _mm512_castps_si512(values);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)))
    }
}
