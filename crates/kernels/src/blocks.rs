//! Stored weights: the plain types and ggml's block types, read to f32 and written from f32, bit for bit as
//! llama.cpp's reference does (`dequantize_row_*`, `quantize_row_*_ref`, and `ggml_quantize_chunk` with an importance
//! matrix), compiled without contraction of products and sums; and [`nf4`], as bitsandbytes has it.
//!
//! It knows blocks, not files: the caller names the type. It does not multiply.

pub(crate) mod affine;
pub mod grouped;
mod k;
mod k_quantize;
mod lanes;
mod legacy;
pub mod nf4;
mod plain;
mod search;

use std::mem::offset_of;
use std::sync::{Mutex, PoisonError};

use crate::team::parallel_chunks;

/// How weights lie in memory, all little-endian. The block types are those of ggml, and one of bitsandbytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BlockType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an IEEE single.
    Bf16,
    /// 4 bits and a scale for 32 elements.
    Q4_0,
    /// 4 bits, a scale and a minimum for 32 elements.
    Q4_1,
    /// 5 bits and a scale for 32 elements.
    Q5_0,
    /// 5 bits, a scale and a minimum for 32 elements.
    Q5_1,
    /// 8 bits and a scale for 32 elements.
    Q8_0,
    /// 2 bits; quantized scales and minima for 16 elements.
    Q2K,
    /// 3 bits; quantized scales for 16 elements.
    Q3K,
    /// 4 bits; quantized scales and minima for 32 elements.
    Q4K,
    /// 5 bits; quantized scales and minima for 32 elements.
    Q5K,
    /// 6 bits; quantized scales for 16 elements.
    Q6K,
    /// 4 bits, quantiles of the normal distribution, and an f32 magnitude for 64 elements.
    Nf4,
}

impl BlockType {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Nf4,
    ];

    /// The name that llama.cpp prints, or bitsandbytes' in capitals.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q2K => "Q2_K",
            Self::Q3K => "Q3_K",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
            Self::Nf4 => "NF4",
        }
    }

    /// Elements in one block; 1 for the plain types.
    pub fn block_elements(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => legacy::ELEMENTS,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K => k::ELEMENTS,
            Self::Nf4 => nf4::ELEMENTS,
        }
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q4_0 => size_of::<legacy::Q4_0>(),
            Self::Q4_1 => size_of::<legacy::Q4_1>(),
            Self::Q5_0 => size_of::<legacy::Q5_0>(),
            Self::Q5_1 => size_of::<legacy::Q5_1>(),
            Self::Q8_0 => size_of::<legacy::Q8_0>(),
            Self::Q2K => size_of::<k::Q2K>(),
            Self::Q3K => size_of::<k::Q3K>(),
            Self::Q4K => size_of::<k::Q4K>(),
            Self::Q5K => size_of::<k::Q5K>(),
            Self::Q6K => size_of::<k::Q6K>(),
            Self::Nf4 => size_of::<nf4::Nf4>(),
        }
    }

    /// Bytes that `elements` take; `None` if they are not whole blocks.
    pub fn bytes_for(self, elements: usize) -> Option<usize> {
        // Cannot overflow for elements that are in memory: no block takes more bytes than its elements as f32.
        elements
            .is_multiple_of(self.block_elements())
            .then(|| elements / self.block_elements() * self.block_bytes())
    }
}

/// The bytes given are not the bytes that the output needs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DequantizeError {
    /// The output ends inside a block.
    #[error("{elements} elements are not whole {} blocks of {}", kind.name(), kind.block_elements())]
    PartialBlock { kind: BlockType, elements: usize },
    /// Too few or too many bytes.
    #[error("{elements} elements of {} take {expected} bytes, but {found} were given", kind.name())]
    Length { kind: BlockType, elements: usize, expected: usize, found: usize },
}

/// Writes the values of `bytes` to `out`, whose length says how many elements there are.
///
/// `bytes` needs no alignment. Fails, with `out` untouched, when `out` is not whole blocks or `bytes` has another
/// length than they take.
pub fn dequantize(kind: BlockType, bytes: &[u8], out: &mut [f32]) -> Result<(), DequantizeError> {
    let elements = out.len();
    let expected = kind.bytes_for(elements).ok_or(DequantizeError::PartialBlock { kind, elements })?;
    if bytes.len() != expected {
        return Err(DequantizeError::Length { kind, elements, expected, found: bytes.len() });
    }
    use bytemuck::cast_slice as blocks;
    match kind {
        BlockType::F32 => plain::copy_to_f32(bytes, out),
        BlockType::F16 => plain::f16_to_f32(bytes, out),
        BlockType::Bf16 => plain::bf16_to_f32(bytes, out),
        BlockType::Q4_0 => legacy::q4_0_to_f32(blocks(bytes), out),
        BlockType::Q4_1 => legacy::q4_1_to_f32(blocks(bytes), out),
        BlockType::Q5_0 => legacy::q5_0_to_f32(blocks(bytes), out),
        BlockType::Q5_1 => legacy::q5_1_to_f32(blocks(bytes), out),
        BlockType::Q8_0 => legacy::q8_0_to_f32(blocks(bytes), out),
        BlockType::Q2K => k::q2_k_to_f32(blocks(bytes), out),
        BlockType::Q3K => k::q3_k_to_f32(blocks(bytes), out),
        BlockType::Q4K => k::q4_k_to_f32(blocks(bytes), out),
        BlockType::Q5K => k::q5_k_to_f32(blocks(bytes), out),
        BlockType::Q6K => k::q6_k_to_f32(blocks(bytes), out),
        BlockType::Nf4 => nf4::nf4_to_f32(blocks(bytes), out),
    }
    Ok(())
}

/// Why values cannot be quantized.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum QuantizeError {
    /// The rows would end inside a block.
    #[error("rows of {row_length} elements are not whole {} blocks of {}", kind.name(), kind.block_elements())]
    PartialBlock { kind: BlockType, row_length: usize },
    /// The values are not whole rows.
    #[error("{elements} elements are not whole rows of {row_length}")]
    PartialRow { elements: usize, row_length: usize },
    /// The output has not the length that the blocks take.
    #[error("{elements} elements of {} take {expected} bytes, but there is room for {found}", kind.name())]
    Length { kind: BlockType, elements: usize, expected: usize, found: usize },
    /// Not one number per column.
    #[error("the importance should have one number for each of the {row_length} columns, but has {found}")]
    ImportanceLength { row_length: usize, found: usize },
    /// An importance that is no weight.
    #[error("the importance of column {column} is {value}, which is not a finite number from 0")]
    Importance { column: usize, value: f32 },
    /// A value that no block can hold.
    #[error("element {column} of row {row} is {value:?}, which {} cannot hold", kind.name())]
    Value { kind: BlockType, row: usize, column: usize, value: f32 },
    /// The block's scale is beyond the range of its f16.
    #[error("the values of row {row} from element {column} are too large for {}, whose scales are f16", kind.name())]
    Scale { kind: BlockType, row: usize, column: usize },
}

/// Writes `values`, rows of `row_length`, as blocks to `out`.
///
/// `importance` has one weight for each column (an importance matrix's row of squared activations); without it errors
/// are weighed as the reference does. `Q8_0`, `Nf4` and the plain types have no use for it. Rows do not depend on each other
/// or on how many are given at once. Fails for values that are not finite or beyond the type's range, and then has
/// written some of `out` or nothing.
pub fn quantize(
    kind: BlockType,
    values: &[f32],
    row_length: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), QuantizeError> {
    check(kind, values, row_length, importance, out)?;
    quantize_rows(kind, values, row_length, importance, out, 0)
}

/// [`quantize`] on the team of threads, with the same bytes.
pub fn quantize_in_parallel(
    kind: BlockType,
    values: &[f32],
    row_length: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), QuantizeError> {
    /// Elements of one task, about.
    const PIECE: usize = 1 << 16;
    check(kind, values, row_length, importance, out)?;
    if values.is_empty() {
        return Ok(());
    }
    let rows = (PIECE / row_length).max(1);
    let row_bytes = row_length / kind.block_elements() * kind.block_bytes();
    let failed: Mutex<Option<(usize, QuantizeError)>> = Mutex::new(None);
    parallel_chunks(out, rows * row_bytes, |task, out| {
        let first_row = task * rows;
        let values = &values[first_row * row_length..][..out.len() / row_bytes * row_length];
        if let Err(error) = quantize_rows(kind, values, row_length, importance, out, first_row) {
            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
            // The first in order, whichever thread was first.
            if failed.as_ref().is_none_or(|(earlier, _)| task < *earlier) {
                *failed = Some((task, error));
            }
        }
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some((_, error)) => Err(error),
        None => Ok(()),
    }
}

/// That lengths fit together and the importance is one.
fn check(
    kind: BlockType,
    values: &[f32],
    row_length: usize,
    importance: Option<&[f32]>,
    out: &[u8],
) -> Result<(), QuantizeError> {
    let elements = values.len();
    if !row_length.is_multiple_of(kind.block_elements()) {
        return Err(QuantizeError::PartialBlock { kind, row_length });
    }
    if !elements.is_multiple_of(row_length) {
        return Err(QuantizeError::PartialRow { elements, row_length });
    }
    let expected = elements / kind.block_elements() * kind.block_bytes();
    if out.len() != expected {
        return Err(QuantizeError::Length { kind, elements, expected, found: out.len() });
    }
    let Some(importance) = importance else { return Ok(()) };
    if importance.len() != row_length {
        return Err(QuantizeError::ImportanceLength { row_length, found: importance.len() });
    }
    match importance.iter().position(|weight| !(0.0..=f32::MAX).contains(weight)) {
        Some(column) => Err(QuantizeError::Importance { column, value: importance[column] }),
        None => Ok(()),
    }
}

/// The work itself, on rows that were checked; `first_row` is for messages.
fn quantize_rows(
    kind: BlockType,
    values: &[f32],
    row_length: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
    first_row: usize,
) -> Result<(), QuantizeError> {
    let place = |index: usize| (first_row + index / row_length, index % row_length);
    let limit = largest_magnitude(kind);
    if !all_within(values, limit)
        && let Some(index) = values.iter().position(|value| value.is_nan() || value.abs() > limit)
    {
        let (row, column) = place(index);
        return Err(QuantizeError::Value { kind, row, column, value: values[index] });
    }
    use bytemuck::cast_slice_mut as blocks;
    use legacy::f32_to_weighted as weighted;
    match (kind, importance) {
        (BlockType::F32, _) => plain::copy_from_f32(values, out),
        (BlockType::F16, _) => plain::f32_to_f16(values, out),
        (BlockType::Bf16, _) => plain::f32_to_bf16(values, out),
        (BlockType::Q8_0, _) => legacy::f32_to_q8_0(values, blocks(out)),
        (BlockType::Nf4, _) => nf4::f32_to_nf4(values, blocks(out)),
        (BlockType::Q4_0, None) => legacy::f32_to_q4_0(values, blocks(out)),
        (BlockType::Q4_1, None) => legacy::f32_to_q4_1(values, blocks(out)),
        (BlockType::Q5_0, None) => legacy::f32_to_q5_0(values, blocks(out)),
        (BlockType::Q5_1, None) => legacy::f32_to_q5_1(values, blocks(out)),
        (BlockType::Q4_0, Some(weights)) => weighted::<legacy::Q4_0>(values, weights, blocks(out)),
        (BlockType::Q4_1, Some(weights)) => weighted::<legacy::Q4_1>(values, weights, blocks(out)),
        (BlockType::Q5_0, Some(weights)) => weighted::<legacy::Q5_0>(values, weights, blocks(out)),
        (BlockType::Q5_1, Some(weights)) => weighted::<legacy::Q5_1>(values, weights, blocks(out)),
        (BlockType::Q2K, _) => k_quantize::quantize::<k::Q2K>(values, importance, blocks(out)),
        (BlockType::Q3K, _) => k_quantize::quantize::<k::Q3K>(values, importance, blocks(out)),
        (BlockType::Q4K, _) => k_quantize::quantize::<k::Q4K>(values, importance, blocks(out)),
        (BlockType::Q5K, _) => k_quantize::quantize::<k::Q5K>(values, importance, blocks(out)),
        (BlockType::Q6K, _) => k_quantize::quantize::<k::Q6K>(values, importance, blocks(out)),
    }
    let halves = scale_offsets(kind);
    let infinite = |block: &[u8]| halves.iter().any(|offset| block[offset + 1] & 0x7c == 0x7c);
    match out.chunks_exact(kind.block_bytes()).position(infinite) {
        Some(block) => {
            let (row, column) = place(block * kind.block_elements());
            Err(QuantizeError::Scale { kind, row, column })
        }
        None => Ok(()),
    }
}

/// Beyond it a value is infinite, or would need a scale that is.
fn largest_magnitude(kind: BlockType) -> f32 {
    match kind {
        BlockType::F32 | BlockType::Nf4 => f32::MAX,
        BlockType::F16 => 65520f32.next_down(),
        BlockType::Bf16 => f32::from_bits(0x7f7f_8000).next_down(),
        // What the largest f16 makes of the largest scale and quant, in Q6_K; other types see less, by their scales.
        _ => 65504.0 * 128.0 * 32.0,
    }
}

/// Where the f16 numbers of a block lie.
fn scale_offsets(kind: BlockType) -> &'static [usize] {
    match kind {
        BlockType::F32 | BlockType::F16 | BlockType::Bf16 | BlockType::Nf4 => &[],
        BlockType::Q4_0 => &[offset_of!(legacy::Q4_0, d)],
        BlockType::Q4_1 => &[offset_of!(legacy::Q4_1, d), offset_of!(legacy::Q4_1, m)],
        BlockType::Q5_0 => &[offset_of!(legacy::Q5_0, d)],
        BlockType::Q5_1 => &[offset_of!(legacy::Q5_1, d), offset_of!(legacy::Q5_1, m)],
        BlockType::Q8_0 => &[offset_of!(legacy::Q8_0, d)],
        BlockType::Q2K => &[offset_of!(k::Q2K, d), offset_of!(k::Q2K, m)],
        BlockType::Q3K => &[offset_of!(k::Q3K, d)],
        BlockType::Q4K => &[offset_of!(k::Q4K, d), offset_of!(k::Q4K, m)],
        BlockType::Q5K => &[offset_of!(k::Q5K, d), offset_of!(k::Q5K, m)],
        BlockType::Q6K => &[offset_of!(k::Q6K, d)],
    }
}

by_cpu_level! {
    /// Whether no magnitude is above `limit`; NaN is above all.
    fn all_within(values: &[f32], limit: f32) -> bool {
        // As integers, of which the compiler may take the maximum in any order.
        values.iter().fold(0, |largest, value| value.abs().to_bits().max(largest)) <= limit.to_bits()
    }
}

#[cfg(test)]
mod tests;
