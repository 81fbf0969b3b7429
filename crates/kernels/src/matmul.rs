//! Matrix products: C = alpha · A · B, or added to C.
//!
//! Operands rest as f32, bf16, blocks of a quantized type or columns quantized in groups, with either index contiguous, and
//! are packed into panels for the [`kernel`] of the CPU level; blocks are dequantized then, part by part. In
//! [`Precision::Bf16`] their values are rounded to bf16 and products are summed in f32. A few rows against a large weight
//! take a path that reads the weight once ([`few_rows`]).

#[cfg(target_arch = "x86_64")]
mod avx512;
mod few_rows;
mod kernel;
mod packed;
mod plain;
mod prepared;

use std::cell::RefCell;

use self::kernel::Source;
pub use self::packed::{Left, Right, sum_of_products};
pub(crate) use self::prepared::{Method, Seen, Strided};
use crate::blocks::grouped::Grouped;
#[cfg(target_arch = "x86_64")]
use crate::blocks::nf4::{self, nf4_to_bf16};
use crate::blocks::{BlockType, dequantize};
use crate::buffer::{View, ViewMut};
use crate::int8::Packed;
use crate::linear::Precision;
use crate::value::{Data, DataMut, Value};

/// A matrix operand in memory.
#[derive(Clone, Copy)]
pub struct Operand<'a> {
    pub(crate) storage: Storage<'a>,
    /// Where element (0, 0) stands, in elements.
    start: usize,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) row_stride: usize,
    pub(crate) column_stride: usize,
}

/// What a matrix rests in.
#[derive(Clone, Copy)]
pub(crate) enum Storage<'a> {
    Values(Data<'a>),
    /// Blocks of a quantized or half-precision type; rows of `width` values are whole blocks.
    Blocks {
        kind: BlockType,
        bytes: &'a [u8],
        width: usize,
    },
    /// Columns quantized in groups.
    Grouped(&'a Grouped),
    /// Repacked for products of integers.
    Packed(Packed<'a>),
}

impl<'a> Operand<'a> {
    const NONE: Self = Self {
        storage: Storage::Values(Data::F32(&[])),
        start: 0,
        rows: 0,
        columns: 0,
        row_stride: 0,
        column_stride: 1,
    };

    /// A row-major matrix [`rows`, `columns`].
    pub fn new<T: Value>(view: View<'a, T>, rows: usize, columns: usize) -> Self {
        assert_eq!(view.0.len(), rows * columns);
        let storage = Storage::Values(T::data(view.0));
        Self { storage, start: 0, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// A row-major matrix [`rows`, `columns`] of stored blocks, which are dequantized part by part while it is packed.
    ///
    /// # Panics
    /// If a row is not whole blocks, or the bytes are not those of the matrix.
    pub fn blocks(kind: BlockType, bytes: &'a [u8], rows: usize, columns: usize) -> Self {
        assert!(columns.is_multiple_of(kind.block_elements()), "rows of whole blocks");
        assert_eq!(Some(bytes.len()), kind.bytes_for(rows * columns));
        let storage = Storage::Blocks { kind, bytes, width: columns };
        Self { storage, start: 0, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// A row-major matrix of columns quantized in groups, which are dequantized part by part while it is packed.
    pub fn grouped(grouped: &'a Grouped) -> Self {
        let [rows, columns] = grouped.shape();
        let storage = Storage::Grouped(grouped);
        Self { storage, start: 0, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// A row-major matrix that is repacked for products of integers ([`crate::int8`]); here it is dequantized.
    pub(crate) fn repacked(packed: Packed<'a>) -> Self {
        let (rows, columns) = (packed.outputs, packed.inputs);
        let storage = Storage::Packed(packed);
        Self { storage, start: 0, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// Row-major rows of `columns` values, as many as there are.
    pub fn rows_of<T: Value>(view: View<'a, T>, columns: usize) -> Self {
        Self::new(view, view.0.len() / columns, columns)
    }

    /// The transposed matrix, without moving anything.
    pub fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// Rows `start .. start + rows`, columns `column .. column + columns`.
    fn block(self, start: usize, rows: usize, column: usize, columns: usize) -> Self {
        assert!(start + rows <= self.rows && column + columns <= self.columns);
        let start = self.start + start * self.row_stride + column * self.column_stride;
        Self { start, rows, columns, ..self }
    }

    /// Calls `work` with the matrix as plain values, dequantized to f32 if need be, or where that is faster and
    /// `may_round` to bf16.
    fn with_values<R>(self, may_round: bool, work: impl FnOnce(Source) -> R) -> R {
        let Self { storage, start, rows, columns, row_stride, column_stride } = self;
        let (width, block) = match storage {
            Storage::Values(data) => {
                return work(Source::new(data.from(start), [rows, columns], [row_stride, column_stride]));
            }
            Storage::Blocks { kind, width, .. } => (width, kind.block_elements()),
            Storage::Grouped(grouped) => (grouped.shape()[1], grouped.unit()),
            Storage::Packed(packed) => (packed.inputs, 1),
        };
        // Lines are what stands one behind the other in storage, whichever index that is.
        let along = column_stride == 1;
        let (lines, length) = if along { (rows, columns) } else { (columns, rows) };
        let (first_line, first) = (start / width, start % width);
        let (begin, end) = (first / block * block, (first + length).next_multiple_of(block));
        let strides = if along { [end - begin, 1] } else { [1, end - begin] };
        // Of blocks: where those of a line lie, the ones of a line soon to come being asked for.
        let ahead = (AHEAD / (end - begin).max(1)).clamp(1, MOST_LINES_AHEAD);
        let of_line = |kind: BlockType, bytes: &'a [u8], line: usize| {
            let [at, later] =
                [line, line + ahead].map(|line| (line * width + begin) / block * kind.block_bytes());
            let count = (end - begin) / block * kind.block_bytes();
            prefetch(bytes, later, count);
            &bytes[at..at + count]
        };
        #[cfg(target_arch = "x86_64")]
        if let Storage::Blocks { kind: BlockType::Nf4, bytes, .. } = storage
            && may_round
            && crate::cpu::level() == crate::cpu::Level::Avx512Bf16
        {
            return ROUNDED.with_borrow_mut(|values| {
                let values = first_of(values, lines * (end - begin));
                for (line, values) in values.chunks_exact_mut((end - begin).max(1)).enumerate() {
                    let bytes = of_line(BlockType::Nf4, bytes, first_line + line);
                    // SAFETY: the processor has the level.
                    unsafe { nf4_to_bf16(nf4::blocks(bytes), values) };
                }
                work(Source::new(Data::Bf16(values).from(first - begin), [rows, columns], strides))
            });
        }
        DEQUANTIZED.with_borrow_mut(|values| {
            let values = first_of(values, lines * (end - begin));
            for (line, values) in values.chunks_exact_mut((end - begin).max(1)).enumerate() {
                let line = first_line + line;
                match storage {
                    Storage::Values(_) => unreachable!("values were taken as they are"),
                    Storage::Blocks { kind, bytes, .. } => {
                        let done = dequantize(kind, of_line(kind, bytes, line), values);
                        assert!(done.is_ok(), "lines are whole blocks");
                    }
                    Storage::Grouped(grouped) => grouped.dequantize(line, begin, values),
                    Storage::Packed(packed) => packed.part_of_row(line, begin, values),
                }
            }
            work(Source::new(Data::F32(values).from(first - begin), [rows, columns], strides))
        })
    }

    /// A row of contiguous values, as f32.
    pub(crate) fn row(&self, index: usize, out: &mut [f32]) {
        assert!(self.column_stride == 1);
        self.block(index, 1, 0, out.len()).with_values(false, |source| match source.data {
            Data::F32(values) => widen(values, out),
            Data::Bf16(values) => widen(values, out),
        });
    }

    #[cfg(test)]
    fn at(&self, row: usize, column: usize) -> f32 {
        let mut value = [0.0];
        Self { column_stride: 1, ..self.block(row, 1, column, 1) }.row(0, &mut value);
        value[0]
    }
}

/// So many elements with unspecified values; memory that is there is not cleared again.
fn first_of<T: Value>(values: &mut Vec<T>, count: usize) -> &mut [T] {
    if values.len() < count {
        values.resize(count, T::from_f32(0.0));
    }
    &mut values[..count]
}

/// Values of lines of blocks that are asked for ahead, and lines at most: they lie too far from each other for the
/// processor to guess that they follow.
const AHEAD: usize = 2048;
const MOST_LINES_AHEAD: usize = 16;

/// Asks for the cache lines of `count` bytes from `offset` on, which may lie beyond the end.
pub(crate) fn prefetch(bytes: &[u8], offset: usize, count: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..count).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: every x86-64 has the instruction, and it reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(bytes.as_ptr().wrapping_add(offset + line).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (bytes, offset, count);
}

by_cpu_level! {
    fn widen<[T: Value]>(values: &[T], out: &mut [f32]) {
        for (out, value) in out.iter_mut().zip(values) {
            *out = value.to_f32();
        }
    }
}

thread_local! {
    /// What one task packs of a matrix of blocks.
    static DEQUANTIZED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    /// The same where it may be rounded.
    static ROUNDED: RefCell<Vec<half::bf16>> = const { RefCell::new(Vec::new()) };
}

/// What happens with C's previous values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Output {
    /// C is overwritten.
    Overwrite,
    /// The product is added to C.
    Add,
}

/// Values of the inner dimension that are packed at a time where there are many times as many: what is packed of A stays in
/// the cache until it is used.
const PART: usize = 2304;

/// Values of an inner dimension of so many that are packed at a time; sums that rest as bf16 are rounded once.
pub fn packed_at_once<T: Value>(depth: usize) -> usize {
    if depth > 4 * PART && matches!(T::data(&[]), Data::F32(_)) { PART } else { depth.max(1) }
}

/// C [M, N] = (C +) alpha · A [M, K] · B [K, N]; C is row-major.
///
/// # Panics
/// If the shapes disagree.
pub fn matmul<T: Value>(
    precision: Precision,
    alpha: f32,
    a: Operand,
    b: Operand,
    output: Output,
    c: ViewMut<T>,
) {
    assert_eq!(a.columns, b.rows, "inner dimensions of a matrix product");
    let at_once = if few_rows::suits(&a, &b) { a.columns.max(1) } else { packed_at_once::<T>(a.columns) };
    for start in (0..a.columns.max(1)).step_by(at_once) {
        let depth = at_once.min(a.columns - start);
        let (a, b) = (a.block(0, a.rows, start, depth), b.block(start, depth, 0, b.columns));
        let output = if start == 0 { output } else { Output::Add };
        sum_of_products(alpha, &[(&Left::new(precision, a), b)], output, ViewMut(&mut *c.0));
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::check::before_a_wall;
    use crate::random::Random;

    fn twin(precision: Precision, alpha: f32, a: Operand, b: Operand, output: Output, c: &mut [f32]) {
        let round = |value: f32| match precision {
            Precision::F32 => f64::from(value),
            Precision::Bf16 => bf16::from_f32(value).to_f64(),
        };
        // Laid out so that the sums of eight products at a time are vectorised: this is most of these tests' time.
        let depth = a.columns;
        let lay_out = |lines: usize, at: &dyn Fn(usize, usize) -> f32| -> Vec<f64> {
            (0..lines * depth).map(|index| round(at(index / depth, index % depth))).collect()
        };
        let rows = lay_out(a.rows, &|row, k| a.at(row, k));
        let columns = lay_out(b.columns, &|column, k| b.at(k, column));
        for (index, c) in c.iter_mut().enumerate() {
            let row = &rows[index / b.columns * depth..][..depth];
            let column = &columns[index % b.columns * depth..][..depth];
            let mut sums = [0.0; 8];
            for (row, column) in row.chunks(8).zip(column.chunks(8)) {
                for (sum, (x, y)) in sums.iter_mut().zip(row.iter().zip(column)) {
                    *sum += x * y;
                }
            }
            let old = if output == Output::Add { *c } else { 0.0 };
            *c = old + alpha * sums.iter().sum::<f64>() as f32;
        }
    }

    fn values(random: &mut Random, count: usize) -> Vec<f32> {
        (0..count).map(|_| random.normal()).collect()
    }

    fn compare(m: usize, n: usize, k: usize) {
        let mut random = Random::new(&[m as u64, n as u64, k as u64]);
        let a: &[f32] = before_a_wall(&values(&mut random, m * k));
        let b: &[f32] = before_a_wall(&values(&mut random, k * n));
        let b16: Vec<bf16> = b.iter().map(|&value| bf16::from_f32(value)).collect();
        let b16: &[bf16] = before_a_wall(&b16);
        let start = values(&mut random, m * n);
        for precision in [Precision::F32, Precision::Bf16] {
            for layout in 0..5 {
                let a_operand = match layout {
                    0 | 1 | 4 => Operand::new(View(a), m, k),
                    _ => Operand::new(View(a), k, m).transposed(),
                };
                let b_operand = match layout {
                    0 => Operand::new(View(b), n, k).transposed(),
                    1 | 2 => Operand::new(View(b), k, n),
                    3 => Operand::new(View(b16), k, n),
                    _ => Operand::new(View(b16), n, k).transposed(),
                };
                for output in [Output::Overwrite, Output::Add] {
                    let (fast, mut plain) = (before_a_wall(&start), start.clone());
                    matmul(precision, 0.5, a_operand, b_operand, output, ViewMut(&mut *fast));
                    compare_bf16(precision, a_operand, b_operand, output, &start);
                    twin(precision, 0.5, a_operand, b_operand, output, &mut plain);
                    let packed = before_a_wall(&start);
                    Right::new(precision, b_operand).product(0.5, a_operand, output, ViewMut(&mut *packed));
                    for (index, (fast, plain)) in
                        fast.iter().chain(&*packed).zip(plain.iter().chain(&plain)).enumerate()
                    {
                        let bound = 1e-5 * (k as f32).sqrt() * (1.0 + plain.abs());
                        assert!(
                            (fast - plain).abs() <= bound,
                            "{m}x{n}x{k} {precision:?} layout {layout} {output:?} at {index}: {fast} against {plain}"
                        );
                    }
                }
            }
        }
    }

    /// C that rests as bf16 is the f32 result, rounded.
    fn compare_bf16(precision: Precision, a: Operand, b: Operand, output: Output, start: &[f32]) {
        let start: Vec<bf16> = start.iter().map(|&value| Value::from_f32(value)).collect();
        let narrow = before_a_wall(&start);
        matmul(precision, 0.5, a, b, output, ViewMut(&mut *narrow));
        let mut plain: Vec<f32> = start.iter().map(|value| value.to_f32()).collect();
        matmul(precision, 0.5, a, b, output, ViewMut(&mut plain));
        for (narrow, plain) in narrow.iter().zip(&plain) {
            let bound = plain.abs() / 128.0 + 1e-5 * (a.columns as f32).sqrt();
            assert!((narrow.to_f32() - plain).abs() <= bound, "{narrow} against {plain}");
        }
    }

    #[test]
    fn every_layout_and_edge_equals_the_plain_product() {
        for (m, n, k) in [
            (1, 1, 1),
            (1, 70, 33),
            (5, 7, 3),
            (14, 32, 32),
            (15, 33, 31),
            (97, 65, 129),
            (28, 64, 2),
            (18, 49, 33),
            (19, 48, 31),
            (22, 65, 7),
            (23, 49, 5),
        ] {
            compare(m, n, k);
        }
    }

    #[test]
    fn blocks_larger_than_one_pass_are_summed() {
        compare(40, 48, 2 * 2048 + 5);
        compare(20, 40, 4 * PART + 700);
        compare(600, 9, 300);
        // One row whose values are as far apart as its rows would be.
        compare(9, 1, 2000);
        compare(1, 9, 2000);
        compare(9, 1200, 70);
    }

    #[test]
    fn a_sum_of_products_is_rounded_once_and_cut_into_passes_anywhere() {
        let mut random = Random::new(&[7]);
        for m in [3, 30] {
            let n = 37;
            let depths = [5, 0, 2305, 3];
            let a = depths.map(|k| values(&mut random, m * k));
            let b = depths.map(|k| values(&mut random, n * k));
            let operand = |index: usize| Operand::new(View(&a[index]), m, depths[index]);
            let right = |index: usize| Operand::new(View(&b[index]), n, depths[index]).transposed();
            for precision in [Precision::F32, Precision::Bf16] {
                let lefts = [0, 1, 2, 3].map(|index| Left::new(precision, operand(index)));
                let terms = [0, 1, 2, 3].map(|index| (&lefts[index], right(index)));
                let mut plain = vec![0.0; m * n];
                for index in 0..4 {
                    twin(precision, 0.5, operand(index), right(index), Output::Add, &mut plain);
                }
                let (mut wide, mut narrow) = (vec![7.0; m * n], vec![<bf16 as Value>::from_f32(7.0); m * n]);
                sum_of_products(0.5, &terms, Output::Overwrite, ViewMut(&mut wide));
                sum_of_products(0.5, &terms, Output::Overwrite, ViewMut(&mut narrow));
                for ((wide, narrow), plain) in wide.iter().zip(&narrow).zip(&plain) {
                    assert!((wide - plain).abs() <= 1e-3, "{m} {precision:?}: {wide} against {plain}");
                    let bound = plain.abs() / 256.0 + 1e-3;
                    assert!(
                        (narrow.to_f32() - plain).abs() <= bound,
                        "{m} {precision:?}: {narrow} against {plain}"
                    );
                }
            }
        }
    }

    /// A weight in blocks multiplies as its dequantized values do, bit for bit, in both directions.
    #[test]
    fn blocks_multiply_as_their_values() {
        let mut random = Random::new(&[11]);
        for (kind, outputs, inputs) in [
            (BlockType::F16, 70, 45),
            (BlockType::Q8_0, 70, 96),
            (BlockType::Q4_1, 33, 2 * 2304 + 64),
            (BlockType::Nf4, 70, 2 * 2304 + 64),
            (BlockType::Nf4, 300, 192),
        ] {
            let blocks = outputs * inputs / kind.block_elements();
            let mut bytes = Vec::new();
            for _ in 0..blocks {
                let scale = half::f16::from_f32(random.normal()).to_le_bytes();
                let rest: Vec<u8> = (0..kind.block_bytes() - 2).map(|_| random.bits() as u8 & 0x3f).collect();
                bytes.extend(scale.into_iter().chain(rest));
            }
            let mut dequantized = vec![0.0; outputs * inputs];
            dequantize(kind, &bytes, &mut dequantized).unwrap();
            let bytes: &[u8] = before_a_wall(&bytes);
            let (stored, plain) = (
                Operand::blocks(kind, bytes, outputs, inputs),
                Operand::new(View(&dequantized), outputs, inputs),
            );
            for precision in [Precision::F32, Precision::Bf16] {
                for tokens in [1, 4, 40] {
                    let (x, dy) =
                        (values(&mut random, tokens * inputs), values(&mut random, tokens * outputs));
                    let (x, dy) =
                        (Operand::new(View(&x), tokens, inputs), Operand::new(View(&dy), tokens, outputs));
                    for (left, right) in
                        [(x, [stored.transposed(), plain.transposed()]), (dy, [stored, plain])]
                    {
                        let results = right.map(|right| {
                            let mut c = vec![0.0f32; tokens * right.columns];
                            matmul(precision, 1.0, left, right, Output::Overwrite, ViewMut(&mut c));
                            c
                        });
                        assert_eq!(results[0], results[1], "{kind:?} {precision:?} {tokens}");
                    }
                }
            }
        }
    }

    /// So does one of columns in groups, in order or not.
    #[test]
    fn groups_multiply_as_their_values() {
        let mut random = Random::new(&[13]);
        let [outputs, inputs] = [70, 2 * 1152 + 160];
        for bits in [4, 8] {
            for step in [1, 37] {
                let groups: Vec<u16> =
                    (0..inputs).map(|column| (column * step % inputs / 128) as u16).collect();
                let (stored, values_of) = crate::blocks::grouped::random(bits, [outputs, inputs], &groups);
                let (stored, plain) =
                    (Operand::grouped(&stored), Operand::new(View(&values_of), outputs, inputs));
                for precision in [Precision::F32, Precision::Bf16] {
                    for tokens in [1, 40] {
                        let (x, dy) =
                            (values(&mut random, tokens * inputs), values(&mut random, tokens * outputs));
                        let (x, dy) = (
                            Operand::new(View(&x), tokens, inputs),
                            Operand::new(View(&dy), tokens, outputs),
                        );
                        for (left, right) in
                            [(x, [stored.transposed(), plain.transposed()]), (dy, [stored, plain])]
                        {
                            let results = right.map(|right| {
                                let mut c = vec![0.0f32; tokens * right.columns];
                                matmul(precision, 1.0, left, right, Output::Overwrite, ViewMut(&mut c));
                                c
                            });
                            assert_eq!(
                                results[0], results[1],
                                "{bits} bits, step {step}, {precision:?} {tokens}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn an_empty_inner_dimension_gives_zero() {
        let mut c = [1.0; 6];
        let empty: [f32; 0] = [];
        let (a, b) = (Operand::new(View(&empty), 2, 0), Operand::new(View(&empty), 0, 3));
        matmul(Precision::F32, 1.0, a, b, Output::Add, ViewMut(&mut c));
        assert_eq!(c, [1.0; 6]);
        matmul(Precision::F32, 1.0, a, b, Output::Overwrite, ViewMut(&mut c));
        assert_eq!(c, [0.0; 6]);
    }
}
