//! Element and block types that tensor files hold: their names and sizes, not their arithmetic.

use std::fmt;

/// How the elements of a tensor are stored. All are little-endian.
///
/// Plain types occur in safetensors and GGUF; block types (`Q…`) only in GGUF, as ggml defines them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    Bool,
    U8,
    I8,
    F8E4M3,
    F8E5M2,
    U16,
    I16,
    F16,
    Bf16,
    U32,
    I32,
    F32,
    U64,
    I64,
    F64,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
}

/// Type, name in files and messages, elements in a block, bytes of a block, type number in GGUF.
type Row = (Dtype, &'static str, usize, usize, Option<u32>);

const TABLE: [Row; 25] = [
    (Dtype::Bool, "BOOL", 1, 1, None),
    (Dtype::U8, "U8", 1, 1, None),
    (Dtype::I8, "I8", 1, 1, Some(24)),
    (Dtype::F8E4M3, "F8_E4M3", 1, 1, None),
    (Dtype::F8E5M2, "F8_E5M2", 1, 1, None),
    (Dtype::U16, "U16", 1, 2, None),
    (Dtype::I16, "I16", 1, 2, Some(25)),
    (Dtype::F16, "F16", 1, 2, Some(1)),
    (Dtype::Bf16, "BF16", 1, 2, Some(30)),
    (Dtype::U32, "U32", 1, 4, None),
    (Dtype::I32, "I32", 1, 4, Some(26)),
    (Dtype::F32, "F32", 1, 4, Some(0)),
    (Dtype::U64, "U64", 1, 8, None),
    (Dtype::I64, "I64", 1, 8, Some(27)),
    (Dtype::F64, "F64", 1, 8, Some(28)),
    (Dtype::Q4_0, "Q4_0", 32, 18, Some(2)),
    (Dtype::Q4_1, "Q4_1", 32, 20, Some(3)),
    (Dtype::Q5_0, "Q5_0", 32, 22, Some(6)),
    (Dtype::Q5_1, "Q5_1", 32, 24, Some(7)),
    (Dtype::Q8_0, "Q8_0", 32, 34, Some(8)),
    (Dtype::Q2K, "Q2_K", 256, 84, Some(10)),
    (Dtype::Q3K, "Q3_K", 256, 110, Some(11)),
    (Dtype::Q4K, "Q4_K", 256, 144, Some(12)),
    (Dtype::Q5K, "Q5_K", 256, 176, Some(13)),
    (Dtype::Q6K, "Q6_K", 256, 210, Some(14)),
];

impl Dtype {
    fn row(self) -> &'static Row {
        // The table is in the order of the enum, which a test checks.
        &TABLE[self as usize]
    }

    /// The name that the files' own tools use: `BF16`, `Q4_K`.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Elements that are stored together: 1 for plain types, 32 or 256 for block types.
    pub fn block_elements(self) -> usize {
        self.row().2
    }

    /// Bytes of one block (of one element for plain types).
    pub fn block_bytes(self) -> usize {
        self.row().3
    }

    /// Bytes that `elements` take; `None` if they are not whole blocks or the number overflows.
    pub fn bytes_for(self, elements: usize) -> Option<usize> {
        if !elements.is_multiple_of(self.block_elements()) {
            return None;
        }
        (elements / self.block_elements()).checked_mul(self.block_bytes())
    }

    /// The type with this number (`ggml_type`) in a GGUF file.
    pub(crate) fn from_gguf(id: u32) -> Option<Self> {
        TABLE.iter().find(|row| row.4 == Some(id)).map(|row| row.0)
    }

    /// The number (`ggml_type`) in a GGUF file; `None` for types that GGUF does not have.
    pub(crate) fn to_gguf(self) -> Option<u32> {
        self.row().4
    }

    pub(crate) fn from_safetensors(dtype: safetensors::Dtype) -> Option<Self> {
        let name = dtype.to_string();
        TABLE.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    /// `None` for block types, which safetensors does not have.
    pub(crate) fn to_safetensors(self) -> Option<safetensors::Dtype> {
        Some(match self {
            Self::Bool => safetensors::Dtype::BOOL,
            Self::U8 => safetensors::Dtype::U8,
            Self::I8 => safetensors::Dtype::I8,
            Self::F8E4M3 => safetensors::Dtype::F8_E4M3,
            Self::F8E5M2 => safetensors::Dtype::F8_E5M2,
            Self::U16 => safetensors::Dtype::U16,
            Self::I16 => safetensors::Dtype::I16,
            Self::F16 => safetensors::Dtype::F16,
            Self::Bf16 => safetensors::Dtype::BF16,
            Self::U32 => safetensors::Dtype::U32,
            Self::I32 => safetensors::Dtype::I32,
            Self::F32 => safetensors::Dtype::F32,
            Self::U64 => safetensors::Dtype::U64,
            Self::I64 => safetensors::Dtype::I64,
            Self::F64 => safetensors::Dtype::F64,
            Self::Q4_0
            | Self::Q4_1
            | Self::Q5_0
            | Self::Q5_1
            | Self::Q8_0
            | Self::Q2K
            | Self::Q3K
            | Self::Q4K
            | Self::Q5K
            | Self::Q6K => return None,
        })
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_enum_and_agrees_with_safetensors() {
        for (index, row) in TABLE.iter().enumerate() {
            assert_eq!(row.0 as usize, index);
            if let Some(dtype) = row.0.to_safetensors() {
                assert_eq!(Dtype::from_safetensors(dtype), Some(row.0));
                assert_eq!(dtype.bitsize(), row.3 * 8);
            }
            if let Some(id) = row.4 {
                assert_eq!(Dtype::from_gguf(id), Some(row.0));
            }
        }
    }

    #[test]
    fn sizes_are_whole_blocks() {
        assert_eq!(Dtype::Q4_1.bytes_for(64), Some(40));
        assert_eq!(Dtype::Q4_1.bytes_for(63), None);
        assert_eq!(Dtype::Q6K.bytes_for(512), Some(420));
        assert_eq!(Dtype::F32.bytes_for(usize::MAX / 2), None);
    }
}
