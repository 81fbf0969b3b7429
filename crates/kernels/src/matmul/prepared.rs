//! Small products on the calling thread, C = (C +) alpha · A · B, whose B is used many times: attention's.
//!
//! B is packed once; a few rows of A do not pay for that and read it as it lies.

use super::kernel::{Kernel, Place, Segment, Source, Tile, with_kernel};
use super::{Data, Output};
use crate::linear::Precision;
use crate::reduce::dot;
use crate::value::Value;

/// Fewer rows of A than this do not pay for packing B.
const FEWEST_ROWS: usize = 8;

/// A matrix inside a slice: element (i, j) is `values[i * strides[0] + j * strides[1]]`.
#[derive(Clone, Copy)]
pub(crate) struct Strided<'a> {
    data: Data<'a>,
    strides: [usize; 2],
}

impl<'a> Strided<'a> {
    /// Rows `stride` apart.
    pub(crate) fn rows<T: Value>(values: &'a [T], stride: usize) -> Self {
        Self { data: T::data(values), strides: [stride, 1] }
    }

    pub(crate) fn transposed(self) -> Self {
        Self { data: self.data, strides: [self.strides[1], self.strides[0]] }
    }

    fn source(self, shape: [usize; 2]) -> Source<'a> {
        Source::new(self.data, shape, self.strides)
    }
}

/// How the products of one call are computed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Direct,
    Packed(Precision),
}

impl Method {
    /// For products whose A has at least `rows` rows most of the time.
    pub(crate) fn new(precision: Precision, rows: usize) -> Self {
        if rows < FEWEST_ROWS { Self::Direct } else { Self::Packed(precision) }
    }

    /// Scratch words that preparing B [k, n] takes.
    pub(crate) fn right_scratch(self, [k, n]: [usize; 2]) -> usize {
        match self {
            Self::Direct => 0,
            Self::Packed(precision) => {
                with_kernel!(precision, K => n.next_multiple_of(K::B_WIDTH) * k.div_ceil(K::DEPTH))
            }
        }
    }

    /// Scratch words that a product with A [m, k] takes.
    pub(crate) fn left_scratch(self, [m, k]: [usize; 2]) -> usize {
        match self {
            Self::Direct => 0,
            Self::Packed(precision) => {
                with_kernel!(precision, K => m.next_multiple_of(K::A_WIDTH) * k.div_ceil(K::DEPTH))
            }
        }
    }

    /// Makes B [k, n] ready for products.
    pub(crate) fn right<'a>(self, b: Strided<'a>, shape: [usize; 2], scratch: &'a mut [f32]) -> Prepared<'a> {
        let [k, n] = shape;
        assert!(k > 0 && n > 0);
        match self {
            Self::Direct => Prepared::Strided(b),
            Self::Packed(precision) => {
                let words: &mut [u32] = bytemuck::cast_slice_mut(scratch);
                assert!(words.len() >= self.right_scratch(shape));
                let source = b.transposed().source([n, k]);
                with_kernel!(precision, K => {
                    // SAFETY: the kernel is this processor's; the panels fit by the assertion.
                    unsafe { K::pack_b(source, words.as_mut_ptr(), k.div_ceil(K::DEPTH)) };
                });
                Prepared::Packed { precision, words, shape }
            }
        }
    }
}

/// What of a product counts where queries see the keys up to their own. Whole tiles that do not are left out.
#[derive(Clone, Copy)]
pub(crate) enum Seen {
    /// Of row i of C the first `n + i + 1` columns; the others are unspecified.
    Columns(usize),
    /// Of row i of A the first `n + i + 1` columns; the others are zero.
    Depth(usize),
    /// Of column j of A the first `n + j + 1` rows; the others are zero.
    ByColumns(usize),
}

/// A prepared B.
#[derive(Clone, Copy)]
pub(crate) enum Prepared<'a> {
    Strided(Strided<'a>),
    Packed { precision: Precision, words: &'a [u32], shape: [usize; 2] },
}

impl Prepared<'_> {
    /// C [m, n] (+)= alpha · A [m, k] · the first k rows and n columns of B, as far as it is `seen`; C is contiguous.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn product(
        &self,
        [m, n, k]: [usize; 3],
        alpha: f32,
        a: Strided,
        seen: Seen,
        output: Output,
        c: &mut [f32],
        scratch: &mut [f32],
    ) {
        assert!(c.len() == m * n && m > 0 && k > 0);
        match *self {
            // A few rows: nothing is left out.
            Self::Strided(b) => match (a.data, b.data) {
                (Data::F32(x), Data::F32(y)) => direct([n, k], alpha, x, a.strides, y, b.strides, output, c),
                (Data::F32(x), Data::Bf16(y)) => direct([n, k], alpha, x, a.strides, y, b.strides, output, c),
                (Data::Bf16(x), Data::F32(y)) => direct([n, k], alpha, x, a.strides, y, b.strides, output, c),
                (Data::Bf16(x), Data::Bf16(y)) => {
                    direct([n, k], alpha, x, a.strides, y, b.strides, output, c)
                }
            },
            Self::Packed { precision, words: b, shape } => {
                assert!(k <= shape[0] && n <= shape[1]);
                let source = a.source([m, k]);
                let scratch: &mut [u32] = bytemuck::cast_slice_mut(scratch);
                with_kernel!(precision, K => {
                    let (words, b_words) = (k.div_ceil(K::DEPTH), shape[0].div_ceil(K::DEPTH));
                    let panels = m.div_ceil(K::A_WIDTH);
                    assert!(scratch.len() >= panels * K::A_WIDTH * words);
                    // SAFETY: the kernel is this processor's; the panels fit by the assertion.
                    unsafe { K::pack_a(source, scratch.as_mut_ptr(), words) };
                    for (b_panel, column) in (0..n).step_by(K::B_WIDTH).enumerate() {
                        for (a_panel, row) in (0..m).step_by(K::A_WIDTH).enumerate() {
                            let end = row + K::A_WIDTH;
                            let steps = match seen {
                                Seen::Columns(before) if column >= before + end => continue,
                                Seen::Columns(_) => 0..words,
                                Seen::Depth(before) => 0..words.min((before + end).div_ceil(K::DEPTH)),
                                Seen::ByColumns(before) => words.min(row.saturating_sub(before) / K::DEPTH)..words,
                            };
                            let tile = Tile {
                                c: Place::F32(c[row * n + column..].as_mut_ptr()),
                                rows: K::A_WIDTH.min(m - row),
                                columns: K::B_WIDTH.min(n - column),
                                row_stride: n,
                                alpha,
                                add: output == Output::Add,
                            };
                            let segment = Segment {
                                a: scratch[(a_panel * words + steps.start) * K::A_WIDTH..].as_ptr(),
                                b: b[(b_panel * b_words + steps.start) * K::B_WIDTH..].as_ptr(),
                                words: steps.len(),
                            };
                            // SAFETY: both panels have at least `words` steps, and the tile lies inside C.
                            unsafe { K::tile(&[segment], tile) };
                        }
                    }
                });
            }
        }
    }
}

by_cpu_level! {
    /// C rows of n values (+)= alpha · A · B, with B's inner or outer index contiguous; with the inner one, A's too.
    fn direct<[A: Value, B: Value]>(
        shape: [usize; 2],
        alpha: f32,
        a: &[A],
        a_strides: [usize; 2],
        b: &[B],
        b_strides: [usize; 2],
        output: Output,
        c: &mut [f32],
    ) {
        let [n, k] = shape;
        for (row, c) in c.chunks_exact_mut(n).enumerate() {
            if output == Output::Overwrite {
                c.fill(0.0);
            }
            let a = &a[row * a_strides[0]..];
            if b_strides[0] == 1 && a_strides[1] == 1 {
                for (column, c) in c.iter_mut().enumerate() {
                    *c += alpha * dot(&a[..k], &b[column * b_strides[1]..][..k]);
                }
            } else {
                for step in 0..k {
                    let factor = alpha * a[step * a_strides[1]].to_f32();
                    let b = &b[step * b_strides[0]..];
                    for (column, c) in c.iter_mut().enumerate() {
                        *c += factor * b[column * b_strides[1]].to_f32();
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::check::normals;

    #[test]
    fn parts_of_a_prepared_operand_give_the_plain_product() {
        let [k_all, n_all] = [37, 70];
        let b = normals(1, k_all * n_all);
        let rounded: Vec<bf16> = b.iter().map(|&value| Value::from_f32(value)).collect();
        for (precision, rows) in [(Precision::F32, 20), (Precision::Bf16, 20), (Precision::F32, 1)] {
            let method = Method::new(precision, rows);
            for (transposed, narrow) in [(false, false), (true, false), (false, true), (true, true)] {
                let stride = if transposed { k_all } else { n_all };
                let strided =
                    if narrow { Strided::rows(&rounded, stride) } else { Strided::rows(&b, stride) };
                let strided = if transposed { strided.transposed() } else { strided };
                let mut scratch = vec![7.0; method.right_scratch([k_all, n_all])];
                let right = method.right(strided, [k_all, n_all], &mut scratch);
                for [m, n, k] in [[1, 1, 1], [20, 70, 37], [15, 33, 8], [14, 32, 9], [29, 5, 36]] {
                    let a = normals(2, m * k);
                    let mut c = vec![1.0; m * n];
                    let mut left = vec![7.0; method.left_scratch([m, k])];
                    let (a_rows, all) = (Strided::rows(&a, k), Seen::Depth(k));
                    right.product([m, n, k], 0.5, a_rows, all, Output::Add, &mut c, &mut left);
                    for (index, c) in c.iter().enumerate() {
                        let (row, column) = (index / n, index % n);
                        let at = |i: usize| b[i * strided.strides[0] + column * strided.strides[1]];
                        let exact: f64 = (0..k).map(|i| f64::from(a[row * k + i]) * f64::from(at(i))).sum();
                        let bound = if precision == Precision::F32 && !narrow { 1e-5 } else { 2e-2 };
                        let error = (f64::from(*c) - 1.0 - 0.5 * exact).abs();
                        assert!(error < bound * (k as f64).sqrt(), "{m}x{n}x{k} {precision:?}: {error}");
                    }
                }
            }
        }
    }
}
