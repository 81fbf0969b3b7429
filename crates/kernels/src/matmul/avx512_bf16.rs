//! Matrix product with AVX-512 BF16 dot products.
//!
//! Both operands are packed into panels of (k, k+1) pairs, one 32-bit word each: A in panels of 14 rows, B in panels of
//! 32 columns, so that one step of the micro-kernel multiplies 14 broadcast pairs with two vectors of 16 pairs into 28
//! accumulators. Whole K up to 2048 is one pass, so an output element has one sum in a fixed order.

mod pack;

use std::arch::x86_64::*;
use std::cell::RefCell;

use self::pack::{mask, pack, pack_here};
use super::{Operand, Output};
use crate::buffer::Buffer;
use crate::team::{SharedSlice, parallel_for};

/// Rows of A in a panel.
const A_WIDTH: usize = 14;
/// Columns of B in a panel.
const B_WIDTH: usize = 32;
/// Inner dimension of one pass.
const PASS: usize = 2048;
/// Packed words of A, and of B, that are kept at a time: 4 MiB each.
const PACKED_WORDS: usize = 1 << 20;
/// Panels of A that one task keeps in its L2 cache (112 rows).
const TASK_A_PANELS: usize = 8;
/// Panels of B in one task.
const TASK_B_PANELS: usize = 8;

thread_local! {
    static PACKED: RefCell<[Buffer<u32>; 2]> = RefCell::new([Buffer::zeros(0), Buffer::zeros(0)]);
}

pub(super) fn matmul(alpha: f32, a: Operand, b: Operand, output: Output, c: &mut [f32]) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    let c = SharedSlice::new(c);
    PACKED.with_borrow_mut(|[a_packed, b_packed]| {
        for start in (0..k).step_by(PASS) {
            let depth = PASS.min(k - start);
            let pairs = depth.div_ceil(2);
            let a_rows = (PACKED_WORDS / pairs / A_WIDTH).max(1) * A_WIDTH;
            let b_columns = (PACKED_WORDS / pairs / B_WIDTH).max(1) * B_WIDTH;
            let output = if start > 0 { Output::Add } else { output };
            for row in (0..m).step_by(a_rows) {
                let rows = a_rows.min(m - row);
                pack::<A_WIDTH>(a.block(row, rows, start, depth), a_packed);
                for column in (0..n).step_by(b_columns) {
                    let columns = b_columns.min(n - column);
                    pack::<B_WIDTH>(b.block(start, depth, column, columns).transposed(), b_packed);
                    let block = Block { pairs, rows, columns, first: row * n + column, row_stride: n };
                    multiply(alpha, a_packed.host(), b_packed.host(), output, c, block);
                }
            }
        }
    });
}

/// Words that [`pack_right`] fills for B [k, n].
pub(super) fn right_words(k: usize, n: usize) -> usize {
    n.div_ceil(B_WIDTH) * k.div_ceil(2) * B_WIDTH
}

/// Words that [`matmul_here`] packs A [m, k] into.
pub(super) fn left_words(m: usize, k: usize) -> usize {
    m.div_ceil(A_WIDTH) * k.div_ceil(2) * A_WIDTH
}

/// Packs B for [`matmul_here`] on the calling thread.
pub(super) fn pack_right(b: Operand, words: &mut [u32]) {
    pack_here::<B_WIDTH>(b.transposed(), words);
}

/// C [m, n] (+)= alpha · A [m, k] · the first k rows and n columns of a packed B of shape `b_shape`, on the calling
/// thread; `scratch` takes the packed A.
#[allow(clippy::too_many_arguments)]
pub(super) fn matmul_here(
    alpha: f32,
    a: Operand,
    b: &[u32],
    b_shape: [usize; 2],
    n: usize,
    output: Output,
    c: &mut [f32],
    scratch: &mut [u32],
) {
    let (m, k) = (a.rows, a.columns);
    let (pairs, b_pairs) = (k.div_ceil(2), b_shape[0].div_ceil(2));
    assert!(k <= b_shape[0] && n <= b_shape[1] && b.len() >= right_words(b_shape[0], b_shape[1]));
    assert!(c.len() == m * n);
    pack_here::<A_WIDTH>(a, scratch);
    for (b_panel, column) in (0..n).step_by(B_WIDTH).enumerate() {
        for (a_panel, row) in (0..m).step_by(A_WIDTH).enumerate() {
            let tile = Tile {
                rows: A_WIDTH.min(m - row),
                columns: B_WIDTH.min(n - column),
                row_stride: n,
                alpha,
                add: output == Output::Add,
            };
            // SAFETY: the processor has AVX-512 BF16 (checked by the caller's level); `pack_here` has found room for A,
            // the assertions for B and C.
            unsafe {
                let a = scratch.as_ptr().add(a_panel * pairs * A_WIDTH);
                let b = b.as_ptr().add(b_panel * b_pairs * B_WIDTH);
                micro_kernel(pairs, a, b, c.as_mut_ptr().add(row * n + column), tile);
            }
        }
    }
}

/// Where a packed block's product stands in C.
struct Block {
    pairs: usize,
    rows: usize,
    columns: usize,
    first: usize,
    row_stride: usize,
}

fn multiply(alpha: f32, a: &[u32], b: &[u32], output: Output, c: SharedSlice<f32>, block: Block) {
    let Block { pairs, rows, columns, first, row_stride } = block;
    let (a_panels, b_panels) = (rows.div_ceil(A_WIDTH), columns.div_ceil(B_WIDTH));
    let b_tasks = b_panels.div_ceil(TASK_B_PANELS);
    assert!(a.len() >= a_panels * pairs * A_WIDTH && b.len() >= b_panels * pairs * B_WIDTH);
    assert!(first + (rows - 1) * row_stride + columns <= c.len());
    parallel_for(a_panels.div_ceil(TASK_A_PANELS) * b_tasks, |task| {
        let (a_start, b_start) = (task / b_tasks * TASK_A_PANELS, task % b_tasks * TASK_B_PANELS);
        for b_panel in b_start..b_panels.min(b_start + TASK_B_PANELS) {
            for a_panel in a_start..a_panels.min(a_start + TASK_A_PANELS) {
                let (row, column) = (a_panel * A_WIDTH, b_panel * B_WIDTH);
                let tile = Tile {
                    rows: A_WIDTH.min(rows - row),
                    columns: B_WIDTH.min(columns - column),
                    row_stride,
                    alpha,
                    add: output == Output::Add,
                };
                // SAFETY: the processor has AVX-512 BF16 (checked by the caller's level), the panels lie inside `a`
                // and `b` and the tile inside `c` by the assertions, and tiles of different tasks are disjoint.
                unsafe {
                    let a = a.as_ptr().add(a_panel * pairs * A_WIDTH);
                    let b = b.as_ptr().add(b_panel * pairs * B_WIDTH);
                    micro_kernel(pairs, a, b, c.pointer(first + row * row_stride + column), tile);
                }
            }
        }
    });
}

#[derive(Clone, Copy)]
struct Tile {
    rows: usize,
    columns: usize,
    row_stride: usize,
    alpha: f32,
    add: bool,
}

/// C tile [≤ 14, ≤ 32] = (C +) alpha · A panel · B panel.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn micro_kernel(pairs: usize, a: *const u32, b: *const u32, c: *mut f32, tile: Tile) {
    // SAFETY: the caller gives panels of `pairs` steps and a tile of C within bounds; masks cut partial columns.
    unsafe {
        // C comes from far away, and its values are wanted last.
        for row in 0..tile.rows {
            let address = c.wrapping_add(row * tile.row_stride);
            _mm_prefetch::<_MM_HINT_ET0>(address.cast());
            _mm_prefetch::<_MM_HINT_ET0>(address.wrapping_add(16).cast());
        }
        let mut sums = [[_mm512_setzero_ps(); 2]; A_WIDTH];
        for step in 0..pairs {
            let b_step = b.add(step * B_WIDTH);
            let b0: __m512bh = std::mem::transmute(_mm512_loadu_si512(b_step.cast()));
            let b1: __m512bh = std::mem::transmute(_mm512_loadu_si512(b_step.add(16).cast()));
            let a_step = a.add(step * A_WIDTH);
            for (row, sum) in sums.iter_mut().enumerate() {
                let pair: __m512bh = std::mem::transmute(_mm512_set1_epi32(*a_step.add(row) as i32));
                sum[0] = _mm512_dpbf16_ps(sum[0], pair, b0);
                sum[1] = _mm512_dpbf16_ps(sum[1], pair, b1);
            }
        }
        let masks = [mask(tile.columns), mask(tile.columns.saturating_sub(16))];
        let alpha = _mm512_set1_ps(tile.alpha);
        for (row, sum) in sums.iter().enumerate().take(tile.rows) {
            for half in 0..2 {
                let address = c.add(row * tile.row_stride + half * 16);
                let old =
                    if tile.add { _mm512_maskz_loadu_ps(masks[half], address) } else { _mm512_setzero_ps() };
                _mm512_mask_storeu_ps(address, masks[half], _mm512_fmadd_ps(alpha, sum[half], old));
            }
        }
    }
}
