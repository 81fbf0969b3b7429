//! Products of packed operands on all threads.
//!
//! An operand that several products share is packed once: [`Left`] for outputs and for sums over several inputs,
//! [`Right`] for gradients of weights. Of the other operand each task packs the part it needs, into its thread's cache. An
//! output element belongs to one task and is summed in an order that depends on shapes only.

use std::cell::{OnceCell, RefCell};
use std::ops::Range;

use super::kernel::{Kernel, Place, Segment, Tile, with_kernel};
use super::{Data, DataMut, Operand, Output, Storage, few_rows};
use crate::buffer::{Buffer, ViewMut};
use crate::linear::Precision;
use crate::team::{SharedSlice, parallel_for};
use crate::value::Value;

/// Words of the inner dimension in one pass over C.
const PASS: usize = 1152;
/// Words that a task packs for itself, 448 KiB: with a panel of the other operand they stay in the L2 cache.
const TASK_WORDS: usize = 112 << 10;
/// Panels of one task at most.
const TASK_PANELS: usize = 3;
/// The same where a task takes whole blocks.
const MOST_PANELS_OF_BLOCKS: usize = 4;
/// Tasks come in multiples of this, so that a few threads have equally many. Where there are fewer panels, tasks share them
/// and each has a part of the other operand's.
const EVEN_TASKS: usize = 4;
/// Panels, and words, of one packing task where rows of memory are taken as they are.
const PACK_PANELS: usize = 8;
const PACK_WORDS: usize = 32;
/// Words of rows that are dequantized at a time, so that they are still in the cache when they are packed.
const DEQUANTIZED_WORDS: usize = 256;
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
        let mut all = [Term::NONE; MOST_TERMS];
        for (term, (a, b)) in all.iter_mut().zip(terms) {
            *term = Term { packed: a.words::<K>(), own: b.transposed() };
        }
        multiply::<K, false>(alpha, &all[..terms.len()], output, c, [m, n]);
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
            let transposed = self.operand.transposed();
            let packed = self.words.get_or_init(|| Words::of::<K>(transposed, K::B_WIDTH, pack::<K, false>));
            multiply::<K, true>(alpha, &[Term { packed: packed.slice(), own: a }], output, c, [m, n]);
        });
    }
}

/// One product of a sum: an operand that is packed as a whole, and one of which each task packs its own part.
#[derive(Clone, Copy)]
struct Term<'a> {
    packed: &'a [u32],
    /// A [M, K] or Bᵀ [N, K].
    own: Operand<'a>,
}

impl Term<'_> {
    const NONE: Self = Self { packed: &[], own: Operand::NONE };

    /// Panels of `width` that blocks span which lie across them; not more than fit into the cache.
    fn panels_of_blocks(&self, width: usize) -> usize {
        match self.own.storage {
            Storage::Blocks { kind, .. } if self.own.column_stride != 1 => {
                (kind.block_elements() / width).clamp(1, MOST_PANELS_OF_BLOCKS)
            }
            _ => 1,
        }
    }

    fn words<K: Kernel>(&self) -> usize {
        self.own.columns.div_ceil(K::DEPTH)
    }
}

/// C [M, N] = (C +) alpha · Σ A · B, where tasks own rows of C and pack those of A, or own columns and pack those of B.
fn multiply<K: Kernel, const OWN_A: bool>(
    alpha: f32,
    terms: &[Term],
    output: Output,
    c: SharedC,
    [m, n]: [usize; 2],
) {
    let (a, b) = ((K::A_WIDTH, m), (K::B_WIDTH, n));
    let ((own_width, own_length), (other_width, other_length)) = if OWN_A { (a, b) } else { (b, a) };
    let depth = terms.iter().map(Term::words::<K>).sum();
    let passes = passes(depth, c);
    let longest = depth.div_ceil(passes);
    // Panels in which whole blocks lie, so that no two tasks dequantize the same.
    let unit = terms.iter().map(|term| term.panels_of_blocks(own_width)).max().unwrap_or(1);
    let units = own_length.div_ceil(unit * own_width);
    let at_once = (TASK_WORDS / longest.max(1) / own_width).clamp(1, TASK_PANELS).div_ceil(unit);
    let tasks = units.div_ceil(at_once).next_multiple_of(EVEN_TASKS).min(units);
    let others = other_length.div_ceil(other_width);
    let parts = EVEN_TASKS.div_ceil(tasks).min(others);
    parallel_for(tasks * parts, |index| {
        let (task, part) = (index / parts, index % parts);
        let others = others * part / parts..others * (part + 1) / parts;
        // The larger tasks come first, so that threads end together.
        let start = |task: usize| (units / tasks * task + task.min(units % tasks)) * unit * own_width;
        let (first, end) = (start(task), start(task + 1).min(own_length));
        let length = end - first;
        let block = match OWN_A {
            true => Block { row: first, rows: length, column: 0, columns: n },
            false => Block { row: 0, rows: m, column: first, columns: length },
        };
        let padded = length.next_multiple_of(own_width);
        let mut scratch = Words::take(longest * padded);
        for pass in 0..passes {
            let pass_words = depth * pass / passes..depth * (pass + 1) / passes;
            let mut pairs = [Pair::NONE; MOST_TERMS];
            let mut rest = scratch.slice_mut();
            let mut before = 0;
            for (pair, term) in pairs.iter_mut().zip(terms) {
                // The part of this term's inner dimension that belongs to the pass.
                let stride = term.words::<K>();
                let start = pass_words.start.saturating_sub(before).min(stride);
                let words = pass_words.end.saturating_sub(before).min(stride) - start;
                before += stride;
                let (from, to) = (start * K::DEPTH, ((start + words) * K::DEPTH).min(term.own.columns));
                let (packed, tail) = rest.split_at_mut(words * padded);
                rest = tail;
                pack::<K, OWN_A>(term.own.block(first, length, from.min(to), to - from.min(to)), packed);
                let own = Panels { data: packed, stride: words, first: 0 };
                let shared = Panels { data: term.packed, stride, first: start };
                let (a, b) = if OWN_A { (own, shared) } else { (shared, own) };
                *pair = Pair { a, b, words };
            }
            let add = output == Output::Add || pass > 0;
            tiles::<K, OWN_A>(alpha, &pairs[..terms.len()], add, c, block, others.clone());
        }
    });
}

/// How many passes over C a product takes; sums that rest as bf16 are rounded once, after a single pass.
fn passes(depth: usize, c: SharedC) -> usize {
    match c.values {
        SharedValues::F32(_) => depth.div_ceil(PASS).max(1),
        SharedValues::Bf16(_) => 1,
    }
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

/// The operands of one product: the panels of A and of B of a task, `words` of the inner dimension.
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

/// The part of C that a task fills.
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

/// The tiles of one task: each of these panels of the other operand meets all of the task's own.
fn tiles<K: Kernel, const OWN_A: bool>(
    alpha: f32,
    pairs: &[Pair],
    add: bool,
    c: SharedC,
    block: Block,
    others: Range<usize>,
) {
    let (a_panels, b_panels) = (block.rows.div_ceil(K::A_WIDTH), block.columns.div_ceil(K::B_WIDTH));
    let fits = |pair: &Pair| {
        pair.a.hold(a_panels, pair.words, K::A_WIDTH) && pair.b.hold(b_panels, pair.words, K::B_WIDTH)
    };
    assert!(pairs.len() <= MOST_TERMS && pairs.iter().all(fits) && c.holds(block));
    let (most, own) = if OWN_A { (b_panels, a_panels) } else { (a_panels, b_panels) };
    for other in others.start..others.end.min(most) {
        for own in 0..own {
            let (a_panel, b_panel) = if OWN_A { (own, other) } else { (other, own) };
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
            // SAFETY: the kernel is this processor's, the panels lie inside the packed operands and the tile inside C
            // by the assertions, and tiles of different tasks are disjoint.
            unsafe { K::tile(&segments[..pairs.len()], tile) };
        }
    }
}

/// Packs a matrix in panels of A's width or of B's.
fn pack<K: Kernel, const IS_A: bool>(matrix: Operand, packed: &mut [u32]) {
    let width = if IS_A { K::A_WIDTH } else { K::B_WIDTH };
    let (panels, words) = (matrix.rows.div_ceil(width), matrix.columns.div_ceil(K::DEPTH));
    assert!(packed.len() >= panels * words * width);
    let packed = SharedSlice::new(packed);
    let (task_panels, task_words) = match (matrix.column_stride, matrix.storage) {
        (1, Storage::Values(_)) => (1, words.max(1)),
        (1, _) => (1, DEQUANTIZED_WORDS),
        _ => (PACK_PANELS, PACK_WORDS),
    };
    let word_tasks = words.div_ceil(task_words);
    parallel_for(panels.div_ceil(task_panels) * word_tasks, |task| {
        let (panel, word) = (task / word_tasks * task_panels, task % word_tasks * task_words);
        let (row, column) = (panel * width, word * K::DEPTH);
        let rows = (task_panels * width).min(matrix.rows - row);
        let columns = (task_words * K::DEPTH).min(matrix.columns - column);
        let part = matrix.block(row, rows, column, columns);
        let place = packed.pointer((panel * words + word) * width);
        // SAFETY: the kernel is this processor's, the panels fit by the assertion, parts of different tasks are disjoint.
        part.with_values(K::TAKES_BF16, |source| unsafe {
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
