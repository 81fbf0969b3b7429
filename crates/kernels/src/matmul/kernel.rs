//! What a CPU level contributes to a product: how operands are packed, and the tile that is computed in registers.

use half::bf16;

use super::Data;
use crate::value::{Value, round_to_bf16};

/// Packing and tiles of one CPU level and precision.
///
/// A matrix [rows, K] is packed in panels of WIDTH rows: `packed[panel][word][row % WIDTH]`, zero beyond the edges; a
/// word of 32 bits holds [`DEPTH`](Self::DEPTH) consecutive values of the inner dimension. A stands in panels of
/// [`A_WIDTH`](Self::A_WIDTH) rows, Bᵀ in panels of [`B_WIDTH`](Self::B_WIDTH).
pub(super) trait Kernel {
    const A_WIDTH: usize;
    const B_WIDTH: usize;
    const DEPTH: usize;
    /// Whether words hold bf16, so that a matrix to pack may as well be rounded before.
    const TAKES_BF16: bool;

    /// Packs A into panels `stride` words apart, the first at `packed`.
    ///
    /// # Safety
    /// The processor must have this level, `packed` must hold the panels, and nobody else may touch them.
    unsafe fn pack_a(a: Source, packed: *mut u32, stride: usize);

    /// The same for Bᵀ.
    ///
    /// # Safety
    /// As above.
    unsafe fn pack_b(b: Source, packed: *mut u32, stride: usize);

    /// C tile [≤ A_WIDTH, ≤ B_WIDTH] = (C +) alpha · Σ over segments of A panel · B panel.
    ///
    /// # Safety
    /// The processor must have this level, each segment must be `words` steps of a panel of A and of B, and the tile
    /// must lie in memory that nobody else touches.
    unsafe fn tile(segments: &[Segment], tile: Tile);
}

/// Runs `$body` with `$kernel` as the [`Kernel`] of this processor for a precision: where it does not multiply bf16,
/// operands are rounded while they are packed.
macro_rules! with_kernel {
    ($precision:expr, $kernel:ident => $body:expr) => {
        match ($crate::cpu::level(), $precision) {
            #[cfg(target_arch = "x86_64")]
            ($crate::cpu::Level::Avx512Bf16, $crate::linear::Precision::Bf16) => {
                type $kernel = $crate::matmul::avx512::Bf16;
                $body
            }
            #[cfg(target_arch = "x86_64")]
            ($crate::cpu::Level::Avx512 | $crate::cpu::Level::Avx512Bf16, $crate::linear::Precision::F32) => {
                type $kernel = $crate::matmul::avx512::F32<false>;
                $body
            }
            #[cfg(target_arch = "x86_64")]
            ($crate::cpu::Level::Avx512, $crate::linear::Precision::Bf16) => {
                type $kernel = $crate::matmul::avx512::F32<true>;
                $body
            }
            #[cfg(target_arch = "x86_64")]
            ($crate::cpu::Level::Avx2, $crate::linear::Precision::F32) => {
                type $kernel = $crate::matmul::plain::Avx2<false>;
                $body
            }
            #[cfg(target_arch = "x86_64")]
            ($crate::cpu::Level::Avx2, $crate::linear::Precision::Bf16) => {
                type $kernel = $crate::matmul::plain::Avx2<true>;
                $body
            }
            (_, $crate::linear::Precision::F32) => {
                type $kernel = $crate::matmul::plain::Portable<false>;
                $body
            }
            (_, $crate::linear::Precision::Bf16) => {
                type $kernel = $crate::matmul::plain::Portable<true>;
                $body
            }
        }
    };
}
pub(super) use with_kernel;

/// Steps of one product in a tile's sum.
#[derive(Clone, Copy)]
pub(super) struct Segment {
    pub(super) a: *const u32,
    pub(super) b: *const u32,
    pub(super) words: usize,
}

impl Segment {
    pub(super) const NONE: Self = Self { a: std::ptr::null(), b: std::ptr::null(), words: 0 };
}

/// Where a tile stands and what happens to it.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub(super) c: Place,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) row_stride: usize,
    pub(super) alpha: f32,
    pub(super) add: bool,
}

/// The address of a tile's first element.
#[derive(Clone, Copy)]
pub(super) enum Place {
    F32(*mut f32),
    Bf16(*mut bf16),
}

/// A matrix [rows, K] to pack, whose elements are known to lie in its memory.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) data: Data<'a>,
    pub(super) rows: usize,
    pub(super) depth: usize,
    /// From one row, or one value of K, to the next; the other index is contiguous.
    pub(super) stride: usize,
    /// Whether rows are contiguous in K.
    pub(super) along_k: bool,
}

impl<'a> Source<'a> {
    pub(super) fn new(data: Data<'a>, [rows, depth]: [usize; 2], strides: [usize; 2]) -> Self {
        let [row_stride, column_stride] = strides;
        assert!(row_stride == 1 || column_stride == 1, "one index of a matrix must be contiguous");
        let last = rows.saturating_sub(1) * row_stride + depth.saturating_sub(1) * column_stride;
        assert!(rows == 0 || depth == 0 || last < data.len());
        let along_k = column_stride == 1;
        Self { data, rows, depth, stride: if along_k { row_stride } else { column_stride }, along_k }
    }
}

/// The sums of a tile in memory, written to C.
///
/// # Safety
/// The tile must lie in memory that nobody else touches.
#[inline(always)]
pub(super) unsafe fn store<const WIDTH: usize>(sums: &[[f32; WIDTH]], tile: Tile) {
    // SAFETY: the caller's promise.
    unsafe {
        match tile.c {
            Place::F32(c) => store_as(sums, tile, c),
            Place::Bf16(c) => store_as(sums, tile, c),
        }
    }
}

#[inline(always)]
unsafe fn store_as<T: Value, const WIDTH: usize>(sums: &[[f32; WIDTH]], tile: Tile, c: *mut T) {
    for (row, sums) in sums.iter().enumerate().take(tile.rows) {
        // SAFETY: the row lies inside the tile.
        let c = unsafe { std::slice::from_raw_parts_mut(c.add(row * tile.row_stride), tile.columns) };
        for (c, sum) in c.iter_mut().zip(sums) {
            let old = if tile.add { c.to_f32() } else { 0.0 };
            *c = T::from_f32(old + tile.alpha * sum);
        }
    }
}

/// Packing in plain Rust, one value a word.
///
/// # Safety
/// As [`Kernel::pack_a`].
#[inline(always)]
pub(super) unsafe fn pack_values<const WIDTH: usize, const ROUND: bool>(
    source: Source,
    packed: *mut u32,
    stride: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match source.data {
            Data::F32(values) => pack_as::<_, WIDTH, ROUND>(values, source, packed, stride),
            Data::Bf16(values) => pack_as::<_, WIDTH, false>(values, source, packed, stride),
        }
    }
}

#[inline(always)]
unsafe fn pack_as<T: Value, const WIDTH: usize, const ROUND: bool>(
    values: &[T],
    source: Source,
    packed: *mut u32,
    panel_stride: usize,
) {
    let word = |value: T| {
        let value = value.to_f32();
        if ROUND { round_to_bf16(value).to_bits() } else { value.to_bits() }
    };
    let Source { rows, depth, stride, along_k, .. } = source;
    for panel in 0..rows.div_ceil(WIDTH) {
        let first = panel * WIDTH;
        let count = WIDTH.min(rows - first);
        // SAFETY: the panel lies inside `packed` by the caller's promise.
        let panel = unsafe {
            std::slice::from_raw_parts_mut(packed.add(panel * panel_stride * WIDTH), depth * WIDTH)
        };
        if count < WIDTH {
            panel.fill(0);
        }
        if along_k {
            for row in 0..count {
                let values = &values[(first + row) * stride..][..depth];
                for (step, &value) in panel.chunks_exact_mut(WIDTH).zip(values) {
                    step[row] = word(value);
                }
            }
        } else {
            for (index, step) in panel.chunks_exact_mut(WIDTH).enumerate() {
                let values = &values[index * stride + first..][..count];
                for (word_at, &value) in step.iter_mut().zip(values) {
                    *word_at = word(value);
                }
            }
        }
    }
}
