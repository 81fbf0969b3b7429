//! Products of quantized weights with activations rounded to integers, for generation: y = x · Wᵀ.
//!
//! A weight rests repacked: 16 outputs side by side, in fours of inputs, so that one instruction multiplies four inputs of
//! all 16. Integers are summed exactly in each 32 (or 16) inputs, then scaled and summed in f32 in the order of the inputs:
//! an output does not depend on how many rows there are, on threads, or on which instructions made the integer sums.
//!
//! It has no backward: training and evaluation multiply dequantized weights ([`crate::matmul`]).

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod plain;
mod rounded;

use self::rounded::PART;
pub(crate) use self::rounded::Rounded;
use crate::blocks::BlockType;
use crate::blocks::affine::Affine;
use crate::buffer::{View, ViewMut};
#[cfg(target_arch = "x86_64")]
use crate::cpu::{Level, level};
use crate::matmul::Output;
use crate::team::{SharedSlice, parallel_chunks, parallel_for};
use crate::value::Value;

/// Outputs side by side.
const LANES: usize = 16;
/// Bytes of codes that are asked for ahead of their use: the processor's own asking is too late for short rows.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 12 << 10;
/// Activation rows of a tile at most.
const MOST_ROWS: usize = 12;
/// Activation rows in one pass over a weight: so many digits stay in the L2 cache.
const PASS_BYTES: usize = 384 << 10;
/// Tasks of a region, so that threads that are slowed down take fewer.
const TASKS: usize = 16;

/// A repacked weight [outputs, inputs].
#[derive(Clone, Copy)]
pub struct Packed<'a> {
    layout: Layout,
    bytes: &'a [u8],
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
}

/// How 16 outputs lie in memory: all codes, [inputs / 32, 8 fours, 16 outputs, 4], of 4 bits two fours in one; then for
/// each block the f16 scales, the f16 minima if there are, and for each of its parts the factors of both.
#[derive(Clone, Copy)]
struct Layout {
    affine: Affine,
    code_bytes: usize,
    group_bytes: usize,
}

impl Layout {
    /// `None` where values are not evenly spaced, or rows are not whole blocks.
    fn new(kind: BlockType, inputs: usize) -> Option<Self> {
        let affine = kind.affine().filter(|affine| inputs.is_multiple_of(affine.elements))?;
        let code_bytes = inputs * LANES * affine.bits / 8;
        let kinds = 1 + usize::from(affine.offset.is_none());
        let factors = if affine.elements > PART { affine.elements / affine.part } else { 0 };
        let block = kinds * LANES * (2 + factors);
        let group_bytes = (code_bytes + inputs / affine.elements * block).next_multiple_of(64);
        Some(Self { affine, code_bytes, group_bytes })
    }
}

/// Whether weights of this type with so many inputs can be repacked.
pub fn can_be_repacked(kind: BlockType, inputs: usize) -> bool {
    Layout::new(kind, inputs).is_some()
}

/// Bytes of a weight repacked; `None` for types that cannot be.
pub fn packed_bytes(kind: BlockType, outputs: usize, inputs: usize) -> Option<usize> {
    Some(Layout::new(kind, inputs)?.group_bytes * outputs.div_ceil(LANES))
}

/// Repacks a weight of blocks [outputs, inputs].
///
/// # Panics
/// If the type cannot be repacked, or lengths are not those of the weight.
pub fn pack(kind: BlockType, blocks: View<u8>, [outputs, inputs]: [usize; 2], packed: ViewMut<u8>) {
    let (blocks, packed) = (blocks.0, packed.0);
    let layout = Layout::new(kind, inputs);
    assert_eq!(packed_bytes(kind, outputs, inputs), Some(packed.len()), "bytes of a repacked weight");
    assert_eq!(kind.bytes_for(outputs * inputs), Some(blocks.len()), "bytes of a weight");
    let Some(layout) = layout else { return };
    let Affine { elements, bits, part, offset } = layout.affine;
    let row_bytes = blocks.len() / outputs.max(1);
    parallel_chunks(packed, layout.group_bytes, |group, packed| {
        let (codes, scales) = packed.split_at_mut(layout.code_bytes);
        for lane in 0..LANES.min(outputs - group * LANES) {
            let row = &blocks[(group * LANES + lane) * row_bytes..][..row_bytes];
            let mut at = 0;
            for (index, block) in row.chunks_exact(kind.block_bytes()).enumerate() {
                let parts = kind.parts(block);
                for (i, &code) in parts.codes[..elements].iter().enumerate() {
                    let (four, byte) = ((index * elements + i) / 4, lane * 4 + i % 4);
                    match bits {
                        4 => codes[four / 2 * 64 + byte] |= code << (four % 2 * 4),
                        _ => codes[four * 64 + byte] = code,
                    }
                }
                let mut put = |bytes: &[u8]| {
                    scales[at + lane * bytes.len()..][..bytes.len()].copy_from_slice(bytes);
                    at += LANES * bytes.len();
                };
                put(&half::f16::from_f32(parts.scale).to_le_bytes());
                if offset.is_none() {
                    put(&half::f16::from_f32(parts.minimum).to_le_bytes());
                }
                let factors = if elements > PART { elements / part } else { 0 };
                for factor in 0..factors {
                    put(&parts.scale_factors[factor].to_le_bytes());
                    if offset.is_none() {
                        put(&[parts.minimum_factors[factor]]);
                    }
                }
            }
        }
    });
}

/// The rows of a pass, and 16 outputs of a weight.
#[derive(Clone, Copy)]
struct Tile<'a> {
    layout: Layout,
    group: &'a [u8],
    rounded: &'a Rounded,
    first_row: usize,
}

impl<'a> Packed<'a> {
    /// A weight that [`pack`] has repacked; `None` for types that cannot be.
    ///
    /// # Panics
    /// If the bytes are not those of the weight.
    pub fn new(kind: BlockType, bytes: View<'a, u8>, outputs: usize, inputs: usize) -> Option<Self> {
        let layout = Layout::new(kind, inputs)?;
        assert_eq!(bytes.0.len(), layout.group_bytes * outputs.div_ceil(LANES));
        Some(Self { layout, bytes: bytes.0, outputs, inputs })
    }

    fn group(&self, index: usize) -> &'a [u8] {
        &self.bytes[index * self.layout.group_bytes..][..self.layout.group_bytes]
    }

    /// Elements `begin ..` of row `index` as f32, as [`crate::blocks::dequantize`] gives them.
    pub(crate) fn part_of_row(&self, index: usize, begin: usize, row: &mut [f32]) {
        let (codes, scales) = self.group(index / LANES).split_at(self.layout.code_bytes);
        let Affine { elements, bits, part, offset } = self.layout.affine;
        let (lane, in_k_blocks) = (index % LANES, elements > PART);
        let kinds = if offset.is_none() { 2 } else { 1 };
        let block_bytes = kinds * LANES * (2 + if in_k_blocks { elements / part } else { 0 });
        for (i, value) in row.iter_mut().enumerate() {
            let place = begin + i;
            let block = &scales[place / elements * block_bytes..][..block_bytes];
            let half = |at: usize| half::f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
            let factors = &block[2 * LANES * kinds..];
            let factor = |kind: usize| factors[(place % elements / part * kinds + kind) * LANES + lane];
            let (four, byte) = (place / 4, lane * 4 + place % 4);
            let code = match bits {
                4 => codes[four / 2 * 64 + byte] >> (four % 2 * 4) & 15,
                _ => codes[four * 64 + byte],
            };
            let scale = half(2 * lane) * if in_k_blocks { f32::from(factor(0) as i8) } else { 1.0 };
            *value = match offset {
                Some(offset) => f32::from(i16::from(code) - i16::from(offset)) * scale,
                None => {
                    let minimum =
                        half(2 * (LANES + lane)) * if in_k_blocks { f32::from(factor(1)) } else { 1.0 };
                    f32::from(code) * scale - minimum
                }
            };
        }
    }
}

/// y [T, outputs] (+)= x [T, inputs] · Wᵀ for weights with one input, in one parallel region.
pub(crate) fn products<Y: Value>(x: &Rounded, members: &mut [(Packed, &mut [Y])], output: Output) {
    let rows = x.rows;
    let groups = |weight: &Packed| weight.outputs.div_ceil(LANES);
    let total: usize = members.iter().map(|(weight, _)| groups(weight)).sum();
    let shared: Vec<_> = members.iter_mut().map(|(weight, y)| (*weight, SharedSlice::new(y))).collect();
    for (weight, y) in &shared {
        assert!(weight.inputs == x.parts * PART && y.len() == rows * weight.outputs);
    }
    let pass = (PASS_BYTES / (x.parts * 64).max(1)).max(LANES);
    let each = total.div_ceil(TASKS).max(1);
    for first in (0..rows).step_by(pass) {
        let end = rows.min(first + pass);
        parallel_for(total.div_ceil(each), |task| {
            let (mut skipped, mut sums) = (0, [[0.0; LANES]; MOST_ROWS]);
            for (weight, y) in &shared {
                let own = skipped..skipped + groups(weight);
                skipped = own.end;
                for index in own.start.max(task * each)..own.end.min((task + 1) * each) {
                    let index = index - own.start;
                    let (column, group) = (index * LANES, weight.group(index));
                    let count = LANES.min(weight.outputs - column);
                    let tile = Tile { layout: weight.layout, group, rounded: x, first_row: first };
                    run(tile, end, &mut sums, |row, sums| {
                        // SAFETY: these columns of each row are this task's alone.
                        let y = unsafe { y.range(row * weight.outputs + column, count) };
                        for (y, sum) in y.iter_mut().zip(sums) {
                            let old = if output == Output::Add { y.to_f32() } else { 0.0 };
                            *y = Y::from_f32(old + sum);
                        }
                    });
                }
            }
        });
    }
}

/// Tells the 16 sums of each row up to `end`.
fn run(
    mut tile: Tile,
    end: usize,
    sums: &mut [[f32; LANES]; MOST_ROWS],
    mut put: impl FnMut(usize, &[f32; LANES]),
) {
    while tile.first_row < end {
        let left = end - tile.first_row;
        #[cfg(target_arch = "x86_64")]
        let done = match (tile.rounded.in_bytes, level()) {
            (true, _) => avx512::tile(tile, left, sums),
            (false, Level::Portable) => plain::tile(tile, left, sums),
            (false, _) => avx2::tile(tile, left, sums),
        };
        #[cfg(not(target_arch = "x86_64"))]
        let done = plain::tile(tile, left, sums);
        for (row, sums) in sums[..done].iter().enumerate() {
            put(tile.first_row + row, sums);
        }
        tile.first_row += done;
    }
}

#[cfg(test)]
mod tests;
