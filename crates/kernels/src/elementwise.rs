//! Copies, sums and roundings of whole buffers.

use half::bf16;

use crate::buffer::{View, ViewMut};
use crate::team::parallel_chunks;
use crate::value::Value;

/// Elements of one task.
const CHUNK: usize = 1 << 14;

/// y = x.
pub fn copy<T: Value>(x: View<T>, y: ViewMut<T>) {
    let _timer = crate::timing::Operation::Copy.start();
    assert_eq!(x.0.len(), y.0.len());
    parallel_chunks(y.0, CHUNK, |task, y| y.copy_from_slice(&x.0[task * CHUNK..][..y.len()]));
}

/// y = 0.
pub fn clear(y: ViewMut<f32>) {
    let _timer = crate::timing::Operation::Copy.start();
    parallel_chunks(y.0, CHUNK, |_, y| y.fill(0.0));
}

/// y = x, rounded to nearest even.
pub fn round_to_bf16(x: View<f32>, y: ViewMut<bf16>) {
    let _timer = crate::timing::Operation::Copy.start();
    assert_eq!(x.0.len(), y.0.len());
    parallel_chunks(y.0, CHUNK, |task, y| {
        for (y, x) in y.iter_mut().zip(&x.0[task * CHUNK..]) {
            *y = bf16::from_f32(*x);
        }
    });
}

/// y [N, D] = the rows `rows` of x [T, D].
pub fn gather_rows(x: View<f32>, rows: &[u32], y: ViewMut<f32>) {
    let _timer = crate::timing::Operation::Copy.start();
    if rows.is_empty() {
        return;
    }
    let width = y.0.len() / rows.len();
    assert_eq!(y.0.len(), width * rows.len());
    parallel_chunks(y.0, width, |row, y| y.copy_from_slice(&x.0[rows[row] as usize * width..][..width]));
}

/// y [N, D]: row n is multiplied by `factors[n]`.
pub fn scale_rows(y: ViewMut<f32>, factors: &[f32]) {
    let _timer = crate::timing::Operation::Copy.start();
    if factors.is_empty() {
        return;
    }
    let width = y.0.len() / factors.len();
    assert_eq!(y.0.len(), width * factors.len());
    parallel_chunks(y.0, width, |row, y| y.iter_mut().for_each(|value| *value *= factors[row]));
}

/// y [T, D], cleared, gets x [N, D] at the distinct rows `rows`.
pub fn scatter_rows(x: View<f32>, rows: &[u32], mut y: ViewMut<f32>) {
    let _timer = crate::timing::Operation::Copy.start();
    clear(y.reborrow());
    if rows.is_empty() {
        return;
    }
    let width = x.0.len() / rows.len();
    for (x, &row) in x.0.chunks_exact(width).zip(rows) {
        y.0[row as usize * width..][..width].copy_from_slice(x);
    }
}
