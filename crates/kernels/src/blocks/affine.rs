//! Blocks as what they are made of: value = scale · code − minimum, the code unsigned, for products of integers.
//!
//! Scales are told as they are stored, so that nothing is rounded: a scale and a minimum of the whole block, and in K-blocks
//! a small integer that multiplies each of them in every 16 or 32 elements.

use super::legacy::{self, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};
use super::plain::half_to_f32;
use super::{BlockType, k};

/// How the values of a type are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Affine {
    /// Elements of a block.
    pub(crate) elements: usize,
    /// Bits that hold every code, 4 or 8.
    pub(crate) bits: usize,
    /// Elements with one scale.
    pub(crate) part: usize,
    /// What is taken from a code before it is scaled; `None` where blocks have minima.
    pub(crate) offset: Option<u8>,
}

/// One block.
pub(crate) struct Parts {
    pub(crate) codes: [u8; k::ELEMENTS],
    pub(crate) scale: f32,
    /// Taken off; 0 where codes have an offset.
    pub(crate) minimum: f32,
    /// Factors of the scale and of the minimum in each part; 1 in blocks of one part.
    pub(crate) scale_factors: [i8; 16],
    pub(crate) minimum_factors: [u8; 16],
}

impl BlockType {
    /// How values are made of codes; `None` for types whose values are not evenly spaced.
    pub(crate) fn affine(self) -> Option<Affine> {
        let of = |bits, part, offset| Some(Affine { elements: self.block_elements(), bits, part, offset });
        match self {
            Self::F32 | Self::F16 | Self::Bf16 | Self::Nf4 => None,
            Self::Q4_0 => of(4, 32, Some(8)),
            Self::Q4_1 => of(4, 32, None),
            Self::Q5_0 => of(8, 32, Some(16)),
            Self::Q5_1 => of(8, 32, None),
            Self::Q8_0 => of(8, 32, Some(128)),
            Self::Q2K => of(4, 16, None),
            Self::Q3K => of(4, 16, Some(4)),
            Self::Q4K => of(4, 32, None),
            Self::Q5K => of(8, 32, None),
            Self::Q6K => of(8, 16, Some(32)),
        }
    }

    /// The parts of one block of an [`affine`](Self::affine) type.
    pub(crate) fn parts(self, block: &[u8]) -> Parts {
        use bytemuck::from_bytes as of;
        let mut parts = Parts {
            codes: [0; k::ELEMENTS],
            scale: 0.0,
            minimum: 0.0,
            scale_factors: [1; 16],
            minimum_factors: [1; 16],
        };
        match self {
            Self::F32 | Self::F16 | Self::Bf16 | Self::Nf4 => {}
            Self::Q4_0 => {
                let Q4_0 { d, nibbles } = of(block);
                parts.scale = half_to_f32(*d);
                legacy::codes(nibbles, 0, &mut parts.codes);
            }
            Self::Q4_1 => {
                let Q4_1 { d, m, nibbles } = of(block);
                (parts.scale, parts.minimum) = (half_to_f32(*d), -half_to_f32(*m));
                legacy::codes(nibbles, 0, &mut parts.codes);
            }
            Self::Q5_0 => {
                let Q5_0 { d, fifth_bits, nibbles } = of(block);
                parts.scale = half_to_f32(*d);
                legacy::codes(nibbles, u32::from_le_bytes(*fifth_bits), &mut parts.codes);
            }
            Self::Q5_1 => {
                let Q5_1 { d, m, fifth_bits, nibbles } = of(block);
                (parts.scale, parts.minimum) = (half_to_f32(*d), -half_to_f32(*m));
                legacy::codes(nibbles, u32::from_le_bytes(*fifth_bits), &mut parts.codes);
            }
            Self::Q8_0 => {
                let Q8_0 { d, quants } = of(block);
                parts.scale = half_to_f32(*d);
                for (code, quant) in parts.codes.iter_mut().zip(quants) {
                    *code = quant ^ 0x80;
                }
            }
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K => k::parts(self, block, &mut parts),
        }
        parts
    }
}
