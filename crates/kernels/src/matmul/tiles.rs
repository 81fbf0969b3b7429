//! Matrix product on any processor: tiles cut by shape, each through the `gemm` crate on one thread.

use std::cell::RefCell;

use half::bf16;

use super::prepared::Strided;
use super::{Data, Operand, Output};
use crate::linear::Precision;
use crate::team::{SharedSlice, parallel_chunks, parallel_for};

const TILE_ROWS: usize = 128;
const TILE_COLUMNS: usize = 256;
/// Values of one operand that are rounded at a time.
const ROUNDED: usize = 1 << 20;

thread_local! {
    static SCRATCH: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

pub(super) fn matmul(
    precision: Precision,
    alpha: f32,
    a: Operand,
    b: Operand,
    output: Output,
    c: &mut [f32],
) {
    let ldc = b.columns;
    let shared = SharedSlice::new(c);
    if let (Precision::F32, Data::F32(_), Data::F32(_)) = (precision, a.data, b.data) {
        return product(alpha, a, b, output, shared, 0, ldc);
    }
    let k = a.columns;
    let rows_at_once = (ROUNDED / k).max(TILE_ROWS);
    let columns_at_once = (ROUNDED / k).max(TILE_COLUMNS);
    SCRATCH.with_borrow_mut(|[a_scratch, b_scratch]| {
        for column in (0..b.columns).step_by(columns_at_once) {
            let columns = columns_at_once.min(b.columns - column);
            // The copy is [columns, K]: a weight's own layout.
            let b_copy =
                rounded(precision, b.block(0, k, column, columns).transposed(), b_scratch).transposed();
            for row in (0..a.rows).step_by(rows_at_once) {
                let rows = rows_at_once.min(a.rows - row);
                let a_copy = rounded(precision, a.block(row, rows, 0, k), a_scratch);
                product(alpha, a_copy, b_copy, output, shared, row * ldc + column, ldc);
            }
        }
    });
}

/// A row-major f32 copy of `operand`, rounded to bf16 if the precision says so.
fn rounded<'s>(precision: Precision, operand: Operand, scratch: &'s mut Vec<f32>) -> Operand<'s> {
    let (rows, columns) = (operand.rows, operand.columns);
    scratch.resize(scratch.len().max(rows * columns), 0.0);
    let copy = &mut scratch[..rows * columns];
    parallel_chunks(copy, columns, |row, values| {
        let start = row * operand.row_stride;
        for (column, value) in values.iter_mut().enumerate() {
            let offset = start + column * operand.column_stride;
            *value = match (operand.data, precision) {
                (Data::F32(source), Precision::F32) => source[offset],
                (Data::F32(source), Precision::Bf16) => bf16::from_f32(source[offset]).to_f32(),
                (Data::Bf16(source), _) => source[offset].to_f32(),
            };
        }
    });
    Operand { data: Data::F32(copy), rows, columns, row_stride: columns, column_stride: 1 }
}

/// C tile by tile; C starts at element `start` of `c` with rows `ldc` apart.
fn product(
    alpha: f32,
    a: Operand,
    b: Operand,
    output: Output,
    c: SharedSlice<f32>,
    start: usize,
    ldc: usize,
) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    let (Data::F32(a_values), Data::F32(b_values)) = (a.data, b.data) else { return };
    let column_tiles = n.div_ceil(TILE_COLUMNS);
    parallel_for(m.div_ceil(TILE_ROWS) * column_tiles, |task| {
        let (row, column) = (task / column_tiles * TILE_ROWS, task % column_tiles * TILE_COLUMNS);
        let (rows, columns) = (TILE_ROWS.min(m - row), TILE_COLUMNS.min(n - column));
        let a = Strided { values: &a_values[row * a.row_stride..], strides: [a.row_stride, a.column_stride] };
        let b = Strided {
            values: &b_values[column * b.column_stride..],
            strides: [b.row_stride, b.column_stride],
        };
        let first = start + row * ldc + column;
        assert!(first + (rows - 1) * ldc + columns <= c.len());
        // SAFETY: the tile lies inside C by the assertion, and tiles of different tasks are disjoint.
        unsafe { gemm_tile([rows, columns, k], alpha, a, b, output, c.pointer(first), ldc) };
    });
}

/// # Safety
/// C must hold m rows of n values, `ldc` apart, that nothing else touches.
pub(super) unsafe fn gemm_tile(
    [m, n, k]: [usize; 3],
    alpha: f32,
    a: Strided,
    b: Strided,
    output: Output,
    c: *mut f32,
    ldc: usize,
) {
    assert!(m > 0 && n > 0 && k > 0 && a.holds(m, k) && b.holds(k, n));
    let [[a_row, a_column], [b_row, b_column]] =
        [a.strides, b.strides].map(|strides| strides.map(|s| s as isize));
    // SAFETY: A and B are in bounds by the assertion, C by the caller's promise.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c,
            1,
            ldc as isize,
            output == Output::Add,
            a.values.as_ptr(),
            a_column,
            a_row,
            b.values.as_ptr(),
            b_column,
            b_row,
            1.0,
            alpha,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
