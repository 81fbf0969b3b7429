//! Matrix product with AVX-512 BF16 dot products.
//!
//! Both operands are packed into panels of (k, k+1) pairs, one 32-bit word each: A in panels of 14 rows, B in panels of
//! 32 columns, so that one step of the micro-kernel multiplies 14 broadcast pairs with two vectors of 16 pairs into 28
//! accumulators. Rows contiguous in k are transposed in registers, 16 × 16 words at a time; rows contiguous in the
//! other index are interleaved. Whole K up to 2048 is one pass, so an output element has one sum in a fixed order.

use std::arch::x86_64::*;
use std::cell::RefCell;

use super::{Data, Operand, Output};
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

/// The lowest `count` of 16 lanes.
fn mask(count: usize) -> __mmask16 {
    if count >= 16 { !0 } else { (1 << count) - 1 }
}

/// Packs a matrix [rows, K] into panels of WIDTH rows: `packed[panel][k / 2][row % WIDTH]` = pair (k, k + 1), zero
/// beyond the edges.
fn pack<const WIDTH: usize>(matrix: Operand, packed: &mut Buffer<u32>) {
    let pairs = matrix.columns.div_ceil(2);
    let panels = matrix.rows.div_ceil(WIDTH);
    let words = panels * pairs * WIDTH;
    if packed.len() < words {
        *packed = Buffer::zeros(words.next_power_of_two());
    }
    assert!(matrix.row_stride == 1 || matrix.column_stride == 1, "one index of a matrix must be contiguous");
    let packed = SharedSlice::new(packed.host_mut());
    parallel_for(panels, |panel| {
        let row = panel * WIDTH;
        let part = matrix.block(row, WIDTH.min(matrix.rows - row), 0, matrix.columns);
        // SAFETY: panels of different tasks are disjoint; the processor has AVX-512 BF16.
        unsafe {
            let panel = packed.range(panel * pairs * WIDTH, pairs * WIDTH);
            if matrix.column_stride == 1 {
                pack_transposing::<WIDTH>(part, panel);
            } else {
                pack_interleaving::<WIDTH>(part, panel);
            }
        }
    });
}

/// Packs one panel whose rows are contiguous in k.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn pack_transposing<const WIDTH: usize>(rows: Operand, panel: &mut [u32]) {
    let depth = rows.columns;
    let pairs = depth.div_ceil(2);
    for k in (0..depth).step_by(32) {
        let count = 32.min(depth - k);
        for group in (0..WIDTH).step_by(16) {
            let mut words = [_mm512_setzero_si512(); 16];
            for (index, word) in words.iter_mut().enumerate().take(rows.rows.saturating_sub(group)) {
                let offset = (group + index) * rows.row_stride + k;
                *word = match rows.data {
                    Data::F32(values) => load_f32(&values[offset..offset + count]),
                    Data::Bf16(values) => load_bf16(&values[offset..offset + count]),
                };
            }
            transpose(&mut words);
            let lanes = mask(WIDTH - group);
            for (index, word) in words.iter().enumerate().take(count.div_ceil(2)) {
                let target = &mut panel[(k / 2 + index) * WIDTH + group..];
                assert!(target.len() >= 16.min(WIDTH - group) && k / 2 + index < pairs);
                // SAFETY: the mask keeps the store inside the panel's row, which the assertion covers.
                unsafe { _mm512_mask_storeu_epi32(target.as_mut_ptr().cast(), lanes, *word) };
            }
        }
    }
}

/// Packs one panel whose columns are contiguous: rows k and k + 1 are interleaved.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn pack_interleaving<const WIDTH: usize>(rows: Operand, panel: &mut [u32]) {
    let depth = rows.columns;
    // Lane 2i takes word i of the first vector, lane 2i + 1 word i of the second.
    let mut order = [0u16; 32];
    for lane in 0..16 {
        order[2 * lane] = lane as u16;
        order[2 * lane + 1] = 16 + lane as u16;
    }
    // SAFETY: `order` holds 64 bytes.
    let order = unsafe { _mm512_loadu_si512(order.as_ptr().cast()) };
    for (pair, target) in panel.chunks_exact_mut(WIDTH).enumerate() {
        for group in (0..WIDTH).step_by(16) {
            let count = rows.rows.saturating_sub(group).min(16);
            let at = |k: usize| (2 * pair + k) * rows.column_stride + group;
            let both = 2 * pair + 1 < depth;
            let word = match rows.data {
                _ if count == 0 => _mm512_setzero_si512(),
                Data::F32(values) => {
                    let first = load_lanes(&values[at(0)..at(0) + count]);
                    let second =
                        if both { load_lanes(&values[at(1)..at(1) + count]) } else { _mm512_setzero_ps() };
                    // SAFETY: both types are 512 bits of plain data.
                    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second, first)) }
                }
                Data::Bf16(values) => {
                    let first = load_bf16(&values[at(0)..at(0) + count]);
                    let second =
                        if both { load_bf16(&values[at(1)..at(1) + count]) } else { _mm512_setzero_si512() };
                    _mm512_inserti64x4::<1>(first, _mm512_castsi512_si256(second))
                }
            };
            let target = &mut target[group..];
            assert!(target.len() >= 16.min(WIDTH - group));
            let word = _mm512_permutexvar_epi16(order, word);
            // SAFETY: the mask keeps the store inside the panel's row.
            unsafe { _mm512_mask_storeu_epi32(target.as_mut_ptr().cast(), mask(WIDTH - group), word) };
        }
    }
}

/// Up to 16 values, zeros beyond.
#[target_feature(enable = "avx512f")]
fn load_lanes(values: &[f32]) -> __m512 {
    // SAFETY: the mask reads exactly the slice.
    unsafe { _mm512_maskz_loadu_ps(mask(values.len()), values.as_ptr()) }
}

/// Up to 32 values rounded to bf16, in order, zeros beyond.
#[target_feature(enable = "avx512f,avx512bf16")]
fn load_f32(values: &[f32]) -> __m512i {
    let (low, high) = values.split_at(values.len().min(16));
    // SAFETY: both types are 512 bits of plain data.
    unsafe {
        std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(load_lanes(high), load_lanes(low)))
    }
}

/// Up to 32 values, in order, zeros beyond.
#[target_feature(enable = "avx512f,avx512bw")]
fn load_bf16(values: &[half::bf16]) -> __m512i {
    let lanes = if values.len() >= 32 { !0 } else { (1u32 << values.len()) - 1 };
    // SAFETY: the mask reads exactly the slice.
    unsafe { _mm512_maskz_loadu_epi16(lanes, values.as_ptr().cast()) }
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
