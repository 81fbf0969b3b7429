//! Kernels in plain Rust: f32 sums that the compiler keeps in vector registers. One source serves AVX2 and processors
//! of which nothing is known.

use super::kernel::{Kernel, Segment, Source, Tile, pack_values, store};

/// AVX2 and FMA: 6 × 16 sums in twelve registers.
#[cfg(target_arch = "x86_64")]
pub(super) struct Avx2<const ROUND: bool>;

#[cfg(target_arch = "x86_64")]
impl<const ROUND: bool> Kernel for Avx2<ROUND> {
    const A_WIDTH: usize = 6;
    const B_WIDTH: usize = 16;
    const DEPTH: usize = 1;
    const TAKES_BF16: bool = false;

    unsafe fn pack_a(a: Source, packed: *mut u32, stride: usize) {
        // SAFETY: the caller's promise.
        unsafe { avx2_pack::<6, ROUND>(a, packed, stride) };
    }

    unsafe fn pack_b(b: Source, packed: *mut u32, stride: usize) {
        // SAFETY: the caller's promise.
        unsafe { avx2_pack::<16, ROUND>(b, packed, stride) };
    }

    unsafe fn tile(segments: &[Segment], tile: Tile) {
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn run(segments: &[Segment], tile: Tile) {
            // SAFETY: the caller's promise.
            unsafe { store(&sums::<6, 16, true>(segments), tile) };
        }
        // SAFETY: the caller's promise.
        unsafe { run(segments, tile) };
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2_pack<const WIDTH: usize, const ROUND: bool>(source: Source, packed: *mut u32, stride: usize) {
    // SAFETY: the caller's promise.
    unsafe { pack_values::<WIDTH, ROUND>(source, packed, stride) };
}

/// The compiler's baseline: 6 × 8 sums.
pub(super) struct Portable<const ROUND: bool>;

impl<const ROUND: bool> Kernel for Portable<ROUND> {
    const A_WIDTH: usize = 6;
    const B_WIDTH: usize = 8;
    const DEPTH: usize = 1;
    const TAKES_BF16: bool = false;

    unsafe fn pack_a(a: Source, packed: *mut u32, stride: usize) {
        // SAFETY: the caller's promise.
        unsafe { pack_values::<6, ROUND>(a, packed, stride) };
    }

    unsafe fn pack_b(b: Source, packed: *mut u32, stride: usize) {
        // SAFETY: the caller's promise.
        unsafe { pack_values::<8, ROUND>(b, packed, stride) };
    }

    unsafe fn tile(segments: &[Segment], tile: Tile) {
        // SAFETY: the caller's promise.
        unsafe { store(&sums::<6, 8, { cfg!(target_arch = "aarch64") }>(segments), tile) };
    }
}

/// Σ over segments and steps of A's column times B's row.
///
/// # Safety
/// Every segment must be `words` steps of panels of these widths.
#[inline(always)]
unsafe fn sums<const ROWS: usize, const COLUMNS: usize, const FUSED: bool>(
    segments: &[Segment],
) -> [[f32; COLUMNS]; ROWS] {
    let mut sums = [[0.0f32; COLUMNS]; ROWS];
    for segment in segments {
        let (mut a, mut b) = (segment.a.cast::<[f32; ROWS]>(), segment.b.cast::<[f32; COLUMNS]>());
        for _ in 0..segment.words {
            // SAFETY: the caller's promise; words hold the bits of f32 values.
            let (a_step, b_step) = unsafe { (a.read_unaligned(), b.read_unaligned()) };
            for row in 0..ROWS {
                for column in 0..COLUMNS {
                    let sum = &mut sums[row][column];
                    *sum = match FUSED {
                        true => a_step[row].mul_add(b_step[column], *sum),
                        false => *sum + a_step[row] * b_step[column],
                    };
                }
            }
            // SAFETY: at most one past the panel.
            (a, b) = unsafe { (a.add(1), b.add(1)) };
        }
    }
    sums
}
