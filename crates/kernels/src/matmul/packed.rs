//! Products of packed operands on all threads.
//!
//! An operand that several products share is packed once: [`Left`] for outputs and for sums over several inputs,
//! [`Right`] for gradients of weights. The other operand is packed block by block. An output element belongs to one task
//! and is summed in an order that depends on shapes only.

use std::cell::{OnceCell, RefCell};
use std::ops::Range;

use super::kernel::{Kernel, Place, Segment, Tile, with_kernel};
use super::{Data, DataMut, Operand, Output, few_rows};
use crate::buffer::{Buffer, ViewMut};
use crate::linear::Precision;
use crate::team::{SharedSlice, parallel_for};
use crate::value::Value;

/// Words of the inner dimension in one pass over C: a panel of B and the rows of A of a task then stay in the L2 cache.
const PASS: usize = 1152;
/// Words of A that one task goes over: 448 KiB.
const TASK_A_WORDS: usize = 112 << 10;
/// Rows of A, and columns of B, of one task at most.
const TASK_ROWS: usize = 112;
const TASK_COLUMNS: usize = 256;
/// Packed words of the operand that is packed block by block: 4 MiB.
const BLOCK_WORDS: usize = 1 << 20;
/// Panels, and words, of one packing task where rows of memory are taken as they are.
const PACK_PANELS: usize = 8;
const PACK_WORDS: usize = 32;
/// Products in one sum.
const MOST_TERMS: usize = 8;

/// The left operand A [M, K] of products, packed when it is first needed.
pub struct Left<'a> {
    precision: Precision,
    operand: Operand<'a>,
    words: OnceCell<Words>,
}

impl<'a> Left<'a> {
    /// A, whose values are rounded as the precision says.
    pub fn new(precision: Precision, operand: Operand<'a>) -> Self {
        Self { precision, operand, words: OnceCell::new() }
    }

    fn words<K: Kernel>(&self) -> &[u32] {
        self.words.get_or_init(|| Words::of::<K>(self.operand, K::A_WIDTH, pack::<K, true>)).slice()
    }
}

/// C [M, N] = (C +) alpha · Σ A · B over `terms`, each A [M, K] with its own K and B [K, N]; C is row-major.
///
/// # Panics
/// If the shapes or precisions disagree, or there are more than eight terms.
pub fn sum_of_products<T: Value>(alpha: f32, terms: &[(&Left, Operand)], output: Output, c: ViewMut<T>) {
    let Some((first, b)) = terms.first() else { return };
    let (precision, m, n) = (first.precision, first.operand.rows, b.columns);
    assert!(terms.len() <= MOST_TERMS);
    for (a, b) in terms {
        assert!(a.precision == precision && a.operand.rows == m && b.columns == n);
        assert_eq!(a.operand.columns, b.rows, "inner dimensions of a matrix product");
    }
    assert_eq!(c.0.len(), m * n, "output of a matrix product");
    if m == 0 || n == 0 {
        return;
    }
    // Term by term only where nothing is rounded between them.
    let once = terms.len() == 1 || matches!(T::data(&[]), Data::F32(_));
    if once && terms.iter().all(|(a, b)| few_rows::suits(&a.operand, b)) {
        for (index, (a, b)) in terms.iter().enumerate() {
            let output = if index == 0 { output } else { Output::Add };
            few_rows::matmul(precision, alpha, a.operand, *b, output, &mut *c.0);
        }
        return;
    }
    let c = SharedC::new(T::data_mut(c.0), n);
    with_kernel!(precision, K => {
        let words_of = |b: &Operand| b.rows.div_ceil(K::DEPTH);
        let depth = terms.iter().map(|(_, b)| words_of(b)).sum();
        for pass in passes(depth, c) {
            let columns_at_once = (BLOCK_WORDS / pass.len().max(1) / K::B_WIDTH).max(1) * K::B_WIDTH;
            let mut packed = Words::take(pass.len() * columns_at_once.min(n.next_multiple_of(K::B_WIDTH)));
            for column in (0..n).step_by(columns_at_once) {
                let columns = columns_at_once.min(n - column);
                let mut pairs = [Pair::NONE; MOST_TERMS];
                let mut rest = packed.slice_mut();
                let mut before = 0;
                for (pair, (a, b)) in pairs.iter_mut().zip(terms) {
                    // The part of this term's inner dimension that belongs to the pass.
                    let first = pass.start.saturating_sub(before).min(words_of(b));
                    let words = pass.end.saturating_sub(before).min(words_of(b)) - first;
                    before += words_of(b);
                    let rows = (words * K::DEPTH).min(b.rows.saturating_sub(first * K::DEPTH));
                    let block = b.block((first * K::DEPTH).min(b.rows), rows, column, columns).transposed();
                    let (b_words, tail) = rest.split_at_mut(words * columns.next_multiple_of(K::B_WIDTH));
                    rest = tail;
                    pack::<K, false>(block, b_words);
                    *pair = Pair {
                        a: Panels { data: a.words::<K>(), stride: words_of(b), first },
                        b: Panels { data: b_words, stride: words, first: 0 },
                        words,
                    };
                }
                let block = Block { row: 0, rows: m, column, columns };
                let add = output == Output::Add || pass.start > 0;
                multiply::<K>(alpha, &pairs[..terms.len()], add, c, block);
            }
        }
    });
}

/// The right operand B [K, N] of products, packed.
pub struct Right<'a> {
    precision: Precision,
    operand: Operand<'a>,
    words: OnceCell<Words>,
}

impl<'a> Right<'a> {
    /// B, whose values are rounded as the precision says.
    pub fn new(precision: Precision, operand: Operand<'a>) -> Self {
        Self { precision, operand, words: OnceCell::new() }
    }

    /// C [M, N] = (C +) alpha · A [M, K] · B; C is row-major.
    ///
    /// # Panics
    /// If the shapes disagree.
    pub fn product<T: Value>(&self, alpha: f32, a: Operand, output: Output, c: ViewMut<T>) {
        let (m, n) = (a.rows, self.operand.columns);
        assert_eq!(a.columns, self.operand.rows, "inner dimensions of a matrix product");
        assert_eq!(c.0.len(), m * n, "output of a matrix product");
        if m == 0 || n == 0 {
            return;
        }
        let c = SharedC::new(T::data_mut(c.0), n);
        with_kernel!(self.precision, K => {
            let words = a.columns.div_ceil(K::DEPTH);
            let transposed = self.operand.transposed();
            let b = self.words.get_or_init(|| Words::of::<K>(transposed, K::B_WIDTH, pack::<K, false>)).slice();
            let rows_at_once = (BLOCK_WORDS / words.max(1) / K::A_WIDTH).max(1) * K::A_WIDTH;
            let mut packed = Words::take(words * rows_at_once.min(m.next_multiple_of(K::A_WIDTH)));
            for row in (0..m).step_by(rows_at_once) {
                let rows = rows_at_once.min(m - row);
                let packed = &mut packed.slice_mut()[..words * rows.next_multiple_of(K::A_WIDTH)];
                pack::<K, true>(a.block(row, rows, 0, a.columns), packed);
                for pass in passes(words, c) {
                    let pair = Pair {
                        a: Panels { data: packed, stride: words, first: pass.start },
                        b: Panels { data: b, stride: words, first: pass.start },
                        words: pass.len(),
                    };
                    let add = output == Output::Add || pass.start > 0;
                    multiply::<K>(alpha, &[pair], add, c, Block { row, rows, column: 0, columns: n });
                }
            }
        });
    }
}

/// Steps of one pass over C after the other; sums that rest as bf16 are rounded once, after a single pass.
fn passes(depth: usize, c: SharedC) -> impl Iterator<Item = Range<usize>> {
    let count = match c.values {
        SharedValues::F32(_) => depth.div_ceil(PASS).max(1),
        SharedValues::Bf16(_) => 1,
    };
    (0..count).map(move |pass| depth * pass / count..depth * (pass + 1) / count)
}

/// Panels of a packed operand, `stride` words each, of which the words from `first` on are used.
#[derive(Clone, Copy)]
struct Panels<'a> {
    data: &'a [u32],
    stride: usize,
    first: usize,
}

impl Panels<'_> {
    /// Where panel `index` of this width begins.
    fn panel(&self, index: usize, width: usize) -> *const u32 {
        self.data[(index * self.stride + self.first) * width..].as_ptr()
    }

    /// Whether so many panels have so many words.
    fn hold(&self, panels: usize, words: usize, width: usize) -> bool {
        self.first + words <= self.stride && self.data.len() >= panels * self.stride * width
    }
}

/// The operands of one product: all rows of a block of A, all columns of a block of B, `words` of the inner dimension.
#[derive(Clone, Copy)]
struct Pair<'a> {
    a: Panels<'a>,
    b: Panels<'a>,
    words: usize,
}

impl Pair<'_> {
    const NONE: Self = {
        let none = Panels { data: &[], stride: 0, first: 0 };
        Self { a: none, b: none, words: 0 }
    };
}

/// The part of C that a product fills.
#[derive(Clone, Copy)]
struct Block {
    row: usize,
    rows: usize,
    column: usize,
    columns: usize,
}

/// C, whose tiles belong to tasks.
#[derive(Clone, Copy)]
struct SharedC<'a> {
    values: SharedValues<'a>,
    row_stride: usize,
}

#[derive(Clone, Copy)]
enum SharedValues<'a> {
    F32(SharedSlice<'a, f32>),
    Bf16(SharedSlice<'a, half::bf16>),
}

impl<'a> SharedC<'a> {
    fn new(values: DataMut<'a>, row_stride: usize) -> Self {
        let values = match values {
            DataMut::F32(values) => SharedValues::F32(SharedSlice::new(values)),
            DataMut::Bf16(values) => SharedValues::Bf16(SharedSlice::new(values)),
        };
        Self { values, row_stride }
    }

    fn holds(&self, block: Block) -> bool {
        let length = match self.values {
            SharedValues::F32(values) => values.len(),
            SharedValues::Bf16(values) => values.len(),
        };
        block.column + block.columns <= self.row_stride
            && (block.row + block.rows) * self.row_stride <= length
    }

    fn place(&self, row: usize, column: usize) -> Place {
        let offset = row * self.row_stride + column;
        match self.values {
            SharedValues::F32(values) => Place::F32(values.pointer(offset)),
            SharedValues::Bf16(values) => Place::Bf16(values.pointer(offset)),
        }
    }
}

fn multiply<K: Kernel>(alpha: f32, pairs: &[Pair], add: bool, c: SharedC, block: Block) {
    let (a_panels, b_panels) = (block.rows.div_ceil(K::A_WIDTH), block.columns.div_ceil(K::B_WIDTH));
    let fits = |pair: &Pair| {
        pair.a.hold(a_panels, pair.words, K::A_WIDTH) && pair.b.hold(b_panels, pair.words, K::B_WIDTH)
    };
    assert!(pairs.len() <= MOST_TERMS && pairs.iter().all(fits) && c.holds(block));
    let depth: usize = pairs.iter().map(|pair| pair.words).sum();
    let task_a = (TASK_A_WORDS / K::A_WIDTH / depth.max(1)).clamp(1, TASK_ROWS / K::A_WIDTH);
    let task_b = TASK_COLUMNS / K::B_WIDTH;
    let b_tasks = b_panels.div_ceil(task_b);
    parallel_for(a_panels.div_ceil(task_a) * b_tasks, |task| {
        let (a_start, b_start) = (task / b_tasks * task_a, task % b_tasks * task_b);
        for b_panel in b_start..b_panels.min(b_start + task_b) {
            for a_panel in a_start..a_panels.min(a_start + task_a) {
                let (row, column) = (a_panel * K::A_WIDTH, b_panel * K::B_WIDTH);
                let mut segments = [Segment::NONE; MOST_TERMS];
                for (segment, pair) in segments.iter_mut().zip(pairs) {
                    *segment = Segment {
                        a: pair.a.panel(a_panel, K::A_WIDTH),
                        b: pair.b.panel(b_panel, K::B_WIDTH),
                        words: pair.words,
                    };
                }
                let tile = Tile {
                    c: c.place(block.row + row, block.column + column),
                    rows: K::A_WIDTH.min(block.rows - row),
                    columns: K::B_WIDTH.min(block.columns - column),
                    row_stride: c.row_stride,
                    alpha,
                    add,
                };
                // SAFETY: the kernel is this processor's, the panels lie inside the packed operands and the tile inside
                // C by the assertions, and tiles of different tasks are disjoint.
                unsafe { K::tile(&segments[..pairs.len()], tile) };
            }
        }
    });
}

/// Packs a matrix on all threads, in panels of A's width or of B's.
fn pack<K: Kernel, const IS_A: bool>(matrix: Operand, packed: &mut [u32]) {
    let width = if IS_A { K::A_WIDTH } else { K::B_WIDTH };
    let (panels, words) = (matrix.rows.div_ceil(width), matrix.columns.div_ceil(K::DEPTH));
    assert!(packed.len() >= panels * words * width);
    let packed = SharedSlice::new(packed);
    let (task_panels, task_words) =
        if matrix.column_stride == 1 { (1, words.max(1)) } else { (PACK_PANELS, PACK_WORDS) };
    let word_tasks = words.div_ceil(task_words);
    parallel_for(panels.div_ceil(task_panels) * word_tasks, |task| {
        let (panel, word) = (task / word_tasks * task_panels, task % word_tasks * task_words);
        let (row, column) = (panel * width, word * K::DEPTH);
        let rows = (task_panels * width).min(matrix.rows - row);
        let columns = (task_words * K::DEPTH).min(matrix.columns - column);
        let part = matrix.block(row, rows, column, columns);
        let place = packed.pointer((panel * words + word) * width);
        // SAFETY: the kernel is this processor's, the panels fit by the assertion, parts of different tasks are disjoint.
        part.with_values(|source| unsafe {
            match IS_A {
                true => K::pack_a(source, place, words),
                false => K::pack_b(source, place, words),
            }
        });
    });
}

thread_local! {
    static POOL: RefCell<Vec<Buffer<u32>>> = const { RefCell::new(Vec::new()) };
}

/// Memory for packed words, kept by the thread for the next product.
struct Words {
    /// Some until it is dropped.
    buffer: Option<Buffer<u32>>,
    length: usize,
}

impl Words {
    /// `length` words with unspecified contents.
    fn take(length: usize) -> Self {
        POOL.with_borrow_mut(|pool| {
            let enough = (0..pool.len()).filter(|&index| pool[index].len() >= length);
            let buffer = match enough.min_by_key(|&index| pool[index].len()) {
                Some(index) => pool.swap_remove(index),
                None => {
                    // The largest that was too small makes room for what is needed.
                    let largest = (0..pool.len()).max_by_key(|&index| pool[index].len());
                    largest.map(|index| pool.swap_remove(index));
                    Buffer::zeros(length)
                }
            };
            Self { buffer: Some(buffer), length }
        })
    }

    /// A packed matrix.
    fn of<K: Kernel>(matrix: Operand, width: usize, pack: impl FnOnce(Operand, &mut [u32])) -> Self {
        let mut words = Self::take(matrix.rows.next_multiple_of(width) * matrix.columns.div_ceil(K::DEPTH));
        pack(matrix, words.slice_mut());
        words
    }

    fn slice(&self) -> &[u32] {
        self.buffer.as_ref().map_or(&[], |buffer| &buffer.host()[..self.length])
    }

    fn slice_mut(&mut self) -> &mut [u32] {
        self.buffer.as_mut().map_or(&mut [], |buffer| &mut buffer.host_mut()[..self.length])
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        POOL.with_borrow_mut(|pool| pool.extend(self.buffer.take()));
    }
}
