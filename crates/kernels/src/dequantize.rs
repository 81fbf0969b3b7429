//! Stored weights to f32: plain types and the block types of GGUF, bit for bit as llama.cpp's reference does.
//!
//! It knows blocks, not files: the caller names the type. It does not quantize and does not multiply.

use half::f16;
use half::slice::HalfFloatSliceExt;

/// How weights lie in memory, all little-endian. The block types are those of ggml, of 32 elements each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BlockType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an IEEE single.
    Bf16,
    /// 34 bytes: f16 scale `d`, then 32 signed bytes `q`; the value is `q * d`.
    Q8_0,
    /// 18 bytes: f16 scale `d`, then 16 bytes with two nibbles `q` each; the value is `(q - 8) * d`.
    /// Low nibbles are elements 0–15, high nibbles 16–31.
    Q4_0,
    /// 20 bytes: f16 scale `d`, f16 minimum `m`, then nibbles as in `Q4_0`; the value is `q * d + m`.
    Q4_1,
}

impl BlockType {
    /// The name that llama.cpp prints.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
        }
    }

    /// Elements in one block; 1 for the plain types.
    pub fn block_elements(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 => 32,
        }
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
        }
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
    if !elements.is_multiple_of(kind.block_elements()) {
        return Err(DequantizeError::PartialBlock { kind, elements });
    }
    // Cannot overflow: no block takes more bytes than its elements take as f32 in `out`.
    let expected = elements / kind.block_elements() * kind.block_bytes();
    if bytes.len() != expected {
        return Err(DequantizeError::Length { kind, elements, expected, found: bytes.len() });
    }
    match kind {
        BlockType::F32 => {
            for (value, element) in out.iter_mut().zip(bytes.as_chunks().0) {
                *value = f32::from_le_bytes(*element);
            }
        }
        BlockType::F16 => f16_to_f32(bytes, out),
        BlockType::Bf16 => {
            for (value, element) in out.iter_mut().zip(bytes.as_chunks().0) {
                *value = f32::from_bits(u32::from(u16::from_le_bytes(*element)) << 16);
            }
        }
        BlockType::Q8_0 => {
            for (values, block) in out.as_chunks_mut::<32>().0.iter_mut().zip(bytes.as_chunks::<34>().0) {
                let [d0, d1, quants @ ..] = block;
                let scale = f16::from_le_bytes([*d0, *d1]).to_f32();
                for (value, quant) in values.iter_mut().zip(quants) {
                    *value = f32::from(*quant as i8) * scale;
                }
            }
        }
        BlockType::Q4_0 => {
            for (values, block) in out.as_chunks_mut::<32>().0.iter_mut().zip(bytes.as_chunks::<18>().0) {
                let [d0, d1, nibbles @ ..] = block;
                let scale = f16::from_le_bytes([*d0, *d1]).to_f32();
                let (low, high) = values.split_at_mut(16);
                for ((low, high), pair) in low.iter_mut().zip(high).zip(nibbles) {
                    *low = f32::from((pair & 0x0f) as i8 - 8) * scale;
                    *high = f32::from((pair >> 4) as i8 - 8) * scale;
                }
            }
        }
        BlockType::Q4_1 => {
            for (values, block) in out.as_chunks_mut::<32>().0.iter_mut().zip(bytes.as_chunks::<20>().0) {
                let [d0, d1, m0, m1, nibbles @ ..] = block;
                let scale = f16::from_le_bytes([*d0, *d1]).to_f32();
                let minimum = f16::from_le_bytes([*m0, *m1]).to_f32();
                let (low, high) = values.split_at_mut(16);
                for ((low, high), pair) in low.iter_mut().zip(high).zip(nibbles) {
                    *low = f32::from(pair & 0x0f) * scale + minimum;
                    *high = f32::from(pair >> 4) * scale + minimum;
                }
            }
        }
    }
    Ok(())
}

/// Goes through an aligned buffer, because `half` asks the CPU for its conversion instruction once per slice then, not
/// once per element.
fn f16_to_f32(bytes: &[u8], out: &mut [f32]) {
    let mut buffer = [f16::ZERO; 256];
    for (values, bytes) in out.chunks_mut(buffer.len()).zip(bytes.chunks(2 * buffer.len())) {
        let buffer = &mut buffer[..values.len()];
        for (element, bytes) in buffer.iter_mut().zip(bytes.as_chunks().0) {
            *element = f16::from_le_bytes(*bytes);
        }
        buffer.convert_to_f32_slice(values);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;
    use proptest::prelude::*;

    const KINDS: [BlockType; 6] =
        [BlockType::F32, BlockType::F16, BlockType::Bf16, BlockType::Q8_0, BlockType::Q4_0, BlockType::Q4_1];

    fn values(kind: BlockType, bytes: &[u8], elements: usize) -> Vec<f32> {
        let mut out = vec![f32::NAN; elements];
        dequantize(kind, bytes, &mut out).unwrap();
        out
    }

    #[test]
    fn plain_types_are_exact() {
        let f32_bytes: Vec<u8> =
            [1.5f32, -0.0, f32::INFINITY, 1e-45].iter().flat_map(|v| v.to_le_bytes()).collect();
        let exact = values(BlockType::F32, &f32_bytes, 4);
        assert_eq!(
            exact.iter().map(|v| v.to_bits()).collect::<Vec<_>>(),
            [0x3fc0_0000, 0x8000_0000, 0x7f80_0000, 1]
        );
        // 0x3c01 is 1 + 2^-10, 0x0001 the smallest subnormal 2^-24, 0xfbff the lowest finite half.
        assert_eq!(
            values(BlockType::F16, &[0x01, 0x3c, 0x01, 0x00, 0xff, 0xfb], 3),
            [1.000_976_6, 5.960_464_5e-8, -65504.0]
        );
        assert_eq!(values(BlockType::Bf16, &[0x80, 0x3f, 0x49, 0xc0], 2), [1.0, -3.140_625]);
    }

    #[test]
    fn every_half_is_converted_as_the_half_crate_does_one_by_one() {
        let bits: Vec<u16> = (0..=u16::MAX).filter(|bits| !f16::from_bits(*bits).is_nan()).collect();
        let bytes: Vec<u8> = bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        for (value, bits) in values(BlockType::F16, &bytes, bits.len()).iter().zip(&bits) {
            assert_eq!(value.to_bits(), f16::from_bits(*bits).to_f32().to_bits());
        }
        for (value, bits) in values(BlockType::Bf16, &bytes, bits.len()).iter().zip(&bits) {
            if !bf16::from_bits(*bits).is_nan() {
                assert_eq!(value.to_bits(), bf16::from_bits(*bits).to_f32().to_bits());
            }
        }
    }

    #[test]
    fn q8_0_block_by_hand() {
        // Scale 0.25, quants -16..16.
        let mut block = vec![0x00, 0x34];
        block.extend((-16i8..16).map(|q| q as u8));
        let expected: Vec<f32> = (-16i8..16).map(|q| f32::from(q) * 0.25).collect();
        assert_eq!(values(BlockType::Q8_0, &block, 32), expected);
    }

    #[test]
    fn q4_0_block_by_hand() {
        // Scale -0.5; byte j holds j in the low nibble (element j) and 15 - j in the high one (element j + 16).
        let mut block = vec![0x00, 0xb8];
        block.extend((0..16u8).map(|j| j | ((15 - j) << 4)));
        let expected: Vec<f32> = (0..16).chain((0..16).rev()).map(|q| (q as f32 - 8.0) * -0.5).collect();
        assert_eq!(values(BlockType::Q4_0, &block, 32), expected);
    }

    #[test]
    fn q4_1_blocks_by_hand() {
        // Two blocks: scale 2, minimum -3; scale 0, minimum 1.
        let nibbles: Vec<u8> = (0..16u8).map(|j| j | ((15 - j) << 4)).collect();
        let mut bytes = vec![0x00, 0x40, 0x00, 0xc2];
        bytes.extend(&nibbles);
        bytes.extend([0x00, 0x00, 0x00, 0x3c]);
        bytes.extend(&nibbles);
        let first = (0..16).chain((0..16).rev()).map(|q| q as f32 * 2.0 - 3.0);
        let expected: Vec<f32> = first.chain(std::iter::repeat_n(1.0, 32)).collect();
        assert_eq!(values(BlockType::Q4_1, &bytes, 64), expected);
    }

    #[test]
    fn errors_say_what_was_expected() {
        let partial = dequantize(BlockType::Q4_0, &[0; 18], &mut [0.0; 33]).unwrap_err();
        assert_eq!(partial.to_string(), "33 elements are not whole Q4_0 blocks of 32");
        let length = dequantize(BlockType::Q8_0, &[0; 18], &mut [0.0; 32]).unwrap_err();
        assert_eq!(length.to_string(), "32 elements of Q8_0 take 34 bytes, but 18 were given");
    }

    proptest! {
        #[test]
        fn only_exact_sizes_are_accepted(kind in 0..KINDS.len(), elements in 0usize..600, extra in -3i64..4) {
            let kind = KINDS[kind];
            let exact = elements / kind.block_elements() * kind.block_bytes();
            let bytes = vec![1u8; (exact as i64 + extra).max(0) as usize];
            let mut out = vec![7.0f32; elements];
            let whole = elements % kind.block_elements() == 0 && bytes.len() == exact;
            prop_assert_eq!(dequantize(kind, &bytes, &mut out).is_ok(), whole);
            // Every element is written, or none.
            prop_assert!(out.iter().all(|value| (*value == 7.0) != whole));
        }

        #[test]
        fn blocks_do_not_depend_on_their_neighbours(kind in 0..KINDS.len(), seed: Vec<u8>) {
            let kind = KINDS[kind];
            let blocks = seed.len() / kind.block_bytes();
            let bytes = &seed[..blocks * kind.block_bytes()];
            let all = values(kind, bytes, blocks * kind.block_elements());
            for (block, expected) in bytes.chunks(kind.block_bytes()).zip(all.chunks(kind.block_elements())) {
                let alone = values(kind, block, kind.block_elements());
                prop_assert!(alone.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits()));
            }
        }
    }
}
