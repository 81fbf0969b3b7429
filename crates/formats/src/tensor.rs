//! A tensor in a file: name, type, shape, and a view of its bytes. It does not know what a name means.

use crate::Dtype;

/// What a file says about one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    pub name: String,
    pub dtype: Dtype,
    /// Outermost dimension first, as safetensors and PyTorch have it; a linear weight is `[outputs, inputs]`.
    pub shape: Vec<usize>,
}

impl TensorInfo {
    /// Product of the dimensions (1 for a scalar); `None` if it overflows.
    pub fn elements(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |product, dimension| product.checked_mul(*dimension))
    }

    /// Bytes in the file; `None` if it overflows or the elements are not whole blocks of the type.
    pub fn byte_length(&self) -> Option<usize> {
        self.dtype.bytes_for(self.elements()?)
    }
}

/// A tensor whose bytes lie in a mapped file.
///
/// `bytes` has exactly `info.byte_length()` bytes, row-major, little-endian, without any promised alignment.
#[derive(Debug, Clone, Copy)]
pub struct Tensor<'a> {
    pub info: &'a TensorInfo,
    pub bytes: &'a [u8],
}
