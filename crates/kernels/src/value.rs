//! The types that activations and weights rest in: f32 and bf16.

use half::bf16;

use crate::buffer::Element;

/// A number at rest; arithmetic is f32.
pub trait Value: Element {
    /// Widened; exact.
    fn to_f32(self) -> f32;
    /// Rounded to nearest, ties to even.
    fn from_f32(value: f32) -> Self;
    #[doc(hidden)]
    fn data(values: &[Self]) -> Data<'_>;
    #[doc(hidden)]
    fn data_mut(values: &mut [Self]) -> DataMut<'_>;
}

impl Value for f32 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }

    fn data(values: &[Self]) -> Data<'_> {
        Data::F32(values)
    }

    fn data_mut(values: &mut [Self]) -> DataMut<'_> {
        DataMut::F32(values)
    }
}

impl Value for bf16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        bf16::from_bits((round_to_bf16(value).to_bits() >> 16) as u16)
    }

    fn data(values: &[Self]) -> Data<'_> {
        Data::Bf16(values)
    }

    fn data_mut(values: &mut [Self]) -> DataMut<'_> {
        DataMut::Bf16(values)
    }
}

/// Values at rest, to read.
#[doc(hidden)]
#[derive(Clone, Copy)]
pub enum Data<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

impl Data<'_> {
    /// Without the first `start` values.
    pub(crate) fn from(self, start: usize) -> Self {
        match self {
            Data::F32(values) => Data::F32(&values[start.min(values.len())..]),
            Data::Bf16(values) => Data::Bf16(&values[start.min(values.len())..]),
        }
    }

    pub(crate) fn len(self) -> usize {
        match self {
            Data::F32(values) => values.len(),
            Data::Bf16(values) => values.len(),
        }
    }
}

/// Values at rest, to write.
#[doc(hidden)]
pub enum DataMut<'a> {
    F32(&'a mut [f32]),
    Bf16(&'a mut [bf16]),
}

/// The nearest bf16, ties to even, without a branch for the vectoriser. Of the NaNs only those that arithmetic makes
/// are sure to stay NaN.
#[inline(always)]
pub(crate) fn round_to_bf16(value: f32) -> f32 {
    let bits = value.to_bits();
    f32::from_bits(bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_that_of_the_format() {
        let mut random = crate::random::Random::new(&[1]);
        let ties = [1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, 0.0, -0.0, f32::MAX, f32::INFINITY, -f32::INFINITY];
        for value in (0..10_000).map(|_| random.normal()).chain(ties) {
            let rounded = <bf16 as Value>::from_f32(value);
            assert_eq!(rounded, bf16::from_f32(value), "{value}");
            assert_eq!(Value::to_f32(rounded).to_bits(), rounded.to_f32().to_bits());
        }
        assert!(Value::to_f32(<bf16 as Value>::from_f32(f32::NAN)).is_nan());
        assert!(Value::to_f32(<bf16 as Value>::from_f32(f32::INFINITY - f32::INFINITY)).is_nan());
    }
}
