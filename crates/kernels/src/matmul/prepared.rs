//! Small products on the calling thread, C = (C +) alpha · A · B, whose B is used many times: attention's.
//!
//! With AVX-512 BF16 and in that precision B is packed once; otherwise the products go through the `gemm` crate in f32.

use super::tiles::gemm_tile;
use super::{Data, Operand, Output};
use crate::linear::Precision;

/// Fewer rows of A than this do not pay for packing B.
const FEWEST_ROWS: usize = 8;

/// A matrix inside a slice: element (i, j) is `values[i * strides[0] + j * strides[1]]`.
#[derive(Clone, Copy)]
pub(crate) struct Strided<'a> {
    pub(super) values: &'a [f32],
    pub(super) strides: [usize; 2],
}

impl<'a> Strided<'a> {
    /// Rows `stride` apart.
    pub(crate) fn rows(values: &'a [f32], stride: usize) -> Self {
        Self { values, strides: [stride, 1] }
    }

    pub(crate) fn transposed(self) -> Self {
        Self { values: self.values, strides: [self.strides[1], self.strides[0]] }
    }

    pub(super) fn holds(&self, rows: usize, columns: usize) -> bool {
        (rows - 1) * self.strides[0] + (columns - 1) * self.strides[1] < self.values.len()
    }

    #[cfg(target_arch = "x86_64")]
    fn operand(self, rows: usize, columns: usize) -> Operand<'a> {
        let [row_stride, column_stride] = self.strides;
        Operand { data: Data::F32(self.values), rows, columns, row_stride, column_stride }
    }
}

/// How the products of one call are computed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Gemm,
    #[cfg(target_arch = "x86_64")]
    Bf16Panels,
}

impl Method {
    /// For products whose A has at least `rows` rows most of the time.
    pub(crate) fn new(precision: Precision, rows: usize) -> Self {
        #[cfg(target_arch = "x86_64")]
        if precision == Precision::Bf16
            && rows >= FEWEST_ROWS
            && crate::cpu::level() == crate::cpu::Level::Avx512Bf16
        {
            return Self::Bf16Panels;
        }
        _ = (precision, rows);
        Self::Gemm
    }

    /// Scratch, in f32 values, that preparing B [k, n] takes.
    pub(crate) fn right_scratch(self, [k, n]: [usize; 2]) -> usize {
        match self {
            Self::Gemm => 0,
            #[cfg(target_arch = "x86_64")]
            Self::Bf16Panels => super::avx512_bf16::right_words(k, n),
        }
    }

    /// Scratch, in f32 values, that a product with A [m, k] takes.
    pub(crate) fn left_scratch(self, [m, k]: [usize; 2]) -> usize {
        match self {
            Self::Gemm => 0,
            #[cfg(target_arch = "x86_64")]
            Self::Bf16Panels => super::avx512_bf16::left_words(m, k),
        }
    }

    /// Makes B [k, n] ready for products.
    pub(crate) fn right<'a>(self, b: Strided<'a>, [k, n]: [usize; 2], scratch: &'a mut [f32]) -> Right<'a> {
        assert!(k > 0 && n > 0 && b.holds(k, n));
        match self {
            Self::Gemm => Right::Strided(b),
            #[cfg(target_arch = "x86_64")]
            Self::Bf16Panels => {
                let words = bytemuck::cast_slice_mut(scratch);
                super::avx512_bf16::pack_right(b.operand(k, n), words);
                Right::Bf16Panels { words, shape: [k, n] }
            }
        }
    }
}

/// A prepared B.
#[derive(Clone, Copy)]
pub(crate) enum Right<'a> {
    Strided(Strided<'a>),
    #[cfg(target_arch = "x86_64")]
    Bf16Panels {
        words: &'a [u32],
        shape: [usize; 2],
    },
}

impl Right<'_> {
    /// C [m, n] (+)= alpha · A [m, k] · the first k rows and n columns of B; C is contiguous.
    pub(crate) fn product(
        &self,
        [m, n, k]: [usize; 3],
        alpha: f32,
        a: Strided,
        output: Output,
        c: &mut [f32],
        scratch: &mut [f32],
    ) {
        assert!(c.len() == m * n && m > 0 && k > 0 && a.holds(m, k));
        match self {
            // SAFETY: C is m · n long.
            Self::Strided(b) => unsafe { gemm_tile([m, n, k], alpha, a, *b, output, c.as_mut_ptr(), n) },
            #[cfg(target_arch = "x86_64")]
            Self::Bf16Panels { words, shape } => {
                let scratch = bytemuck::cast_slice_mut(scratch);
                super::avx512_bf16::matmul_here(alpha, a.operand(m, k), words, *shape, n, output, c, scratch);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::normals;

    #[test]
    fn parts_of_a_prepared_operand_give_the_plain_product() {
        let [k_all, n_all] = [37, 70];
        let b = normals(1, k_all * n_all);
        for precision in [Precision::F32, Precision::Bf16] {
            let method = Method::new(precision, 20);
            for transposed in [false, true] {
                let strided = Strided::rows(&b, if transposed { k_all } else { n_all });
                let strided = if transposed { strided.transposed() } else { strided };
                let mut scratch = vec![7.0; method.right_scratch([k_all, n_all])];
                let right = method.right(strided, [k_all, n_all], &mut scratch);
                for [m, n, k] in [[1, 1, 1], [20, 70, 37], [15, 33, 8], [14, 32, 9], [29, 5, 36]] {
                    let a = normals(2, m * k);
                    let mut c = vec![1.0; m * n];
                    let mut left = vec![7.0; method.left_scratch([m, k])];
                    right.product([m, n, k], 0.5, Strided::rows(&a, k), Output::Add, &mut c, &mut left);
                    for (index, c) in c.iter().enumerate() {
                        let (row, column) = (index / n, index % n);
                        let at = |i: usize| b[i * strided.strides[0] + column * strided.strides[1]];
                        let exact: f64 = (0..k).map(|i| f64::from(a[row * k + i]) * f64::from(at(i))).sum();
                        let bound = if precision == Precision::F32 { 1e-5 } else { 2e-2 };
                        let error = (f64::from(*c) - 1.0 - 0.5 * exact).abs();
                        assert!(error < bound * (k as f64).sqrt(), "{m}x{n}x{k} {precision:?}: {error}");
                    }
                }
            }
        }
    }
}
