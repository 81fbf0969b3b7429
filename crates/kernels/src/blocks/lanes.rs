//! Sixteen numbers side by side. The quantizers put sixteen blocks beside each other, one to a lane, so that every sum
//! within a block is taken in its own order, as the reference takes it, and the compiler still has vectors.

use std::array::from_fn;
use std::ops::{Add, Div, Mul, Neg, Sub};

pub(super) const LANES: usize = 16;

/// One number of each of sixteen blocks.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Lanes(pub [f32; LANES]);

/// A truth value for each lane: all bits or none.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Mask([u32; LANES]);

/// Added to a number of at most 2²², it rounds it to a whole one, ties to even, which then is the low bits of the sum.
const SHIFT: f32 = 12_582_912.0;

/// The whole number next to `value`, ties to even. Far out of range it wraps as the reference's does.
#[inline(always)]
pub(super) fn nearest(value: f32) -> i32 {
    ((value + SHIFT).to_bits() & 0x007f_ffff) as i32 - 0x0040_0000
}

/// Puts one block's values into its lane of `tile`.
#[inline(always)]
pub(super) fn put_into_lane(tile: &mut [Lanes], lane: usize, values: &[f32]) {
    for (row, value) in tile.iter_mut().zip(values) {
        row.0[lane] = *value;
    }
}

impl Lanes {
    pub(super) const ZERO: Self = Self([0.0; LANES]);

    #[inline(always)]
    pub(super) fn splat(value: f32) -> Self {
        Self([value; LANES])
    }

    #[inline(always)]
    fn each(self, other: Self, operation: impl Fn(f32, f32) -> f32) -> Self {
        Self(from_fn(|lane| operation(self.0[lane], other.0[lane])))
    }

    #[inline(always)]
    pub(super) fn abs(self) -> Self {
        Self(self.0.map(f32::abs))
    }

    #[inline(always)]
    pub(super) fn sqrt(self) -> Self {
        Self(self.0.map(f32::sqrt))
    }

    #[inline(always)]
    pub(super) fn trunc(self) -> Self {
        Self(self.0.map(f32::trunc))
    }

    /// Ties away from zero.
    #[inline(always)]
    pub(super) fn round(self) -> Self {
        Self(self.0.map(f32::round))
    }

    /// The least of all lanes.
    #[inline(always)]
    pub(super) fn least(self) -> f32 {
        self.fold(|a, b| if a < b { a } else { b })
    }

    /// The greatest of all lanes.
    #[inline(always)]
    pub(super) fn greatest(self) -> f32 {
        self.fold(|a, b| if a > b { a } else { b })
    }

    /// Halves upon each other until one is left.
    #[inline(always)]
    fn fold(self, operation: impl Fn(f32, f32) -> f32) -> f32 {
        let eight: [f32; 8] = from_fn(|lane| operation(self.0[lane], self.0[lane + 8]));
        let four: [f32; 4] = from_fn(|lane| operation(eight[lane], eight[lane + 4]));
        operation(operation(four[0], four[1]), operation(four[2], four[3]))
    }

    /// The lesser; `other` where they are equal, which tells the zeros apart.
    #[inline(always)]
    pub(super) fn lesser(self, other: Self) -> Self {
        self.each(other, |a, b| if a < b { a } else { b })
    }

    /// The greater; `other` where they are equal.
    #[inline(always)]
    pub(super) fn greater(self, other: Self) -> Self {
        self.each(other, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    pub(super) fn less_than(self, other: Self) -> Mask {
        Mask(from_fn(|lane| if self.0[lane] < other.0[lane] { u32::MAX } else { 0 }))
    }

    #[inline(always)]
    pub(super) fn equals(self, other: Self) -> Mask {
        Mask(from_fn(|lane| if self.0[lane] == other.0[lane] { u32::MAX } else { 0 }))
    }

    #[inline(always)]
    pub(super) fn differs(self, other: Self) -> Mask {
        Mask(from_fn(|lane| if self.0[lane] != other.0[lane] { u32::MAX } else { 0 }))
    }

    /// [`nearest`] within `low..=high`.
    #[inline(always)]
    pub(super) fn rounded(self, low: f32, high: f32) -> Self {
        let sum = Self((self + Self::splat(SHIFT)).0.map(|sum| {
            // Changes nothing within range; beyond it, this is how the reference wraps.
            f32::from_bits(sum.to_bits() & 0x007f_ffff | SHIFT.to_bits() & 0xff80_0000)
        }));
        sum.greater(Self::splat(low + SHIFT)).lesser(Self::splat(high + SHIFT)) - Self::splat(SHIFT)
    }

    /// Whole numbers in 0 ..= 255.
    #[inline(always)]
    pub(super) fn bytes(self) -> [u8; LANES] {
        (self + Self::splat(SHIFT)).0.map(|sum| sum.to_bits() as u8)
    }
}

impl Mask {
    #[inline(always)]
    pub(super) fn and(self, other: Self) -> Self {
        Self(from_fn(|lane| self.0[lane] & other.0[lane]))
    }

    #[inline(always)]
    pub(super) fn any(self) -> bool {
        self.0.iter().fold(0, |all, lane| all | lane) != 0
    }

    /// `yes` where the mask is set, else `no`.
    #[inline(always)]
    pub(super) fn select(self, yes: Lanes, no: Lanes) -> Lanes {
        Lanes(from_fn(|lane| {
            let mask = self.0[lane];
            f32::from_bits(yes.0[lane].to_bits() & mask | no.0[lane].to_bits() & !mask)
        }))
    }
}

impl Add for Lanes {
    type Output = Self;
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.each(other, |a, b| a + b)
    }
}

impl Sub for Lanes {
    type Output = Self;
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.each(other, |a, b| a - b)
    }
}

impl Mul for Lanes {
    type Output = Self;
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.each(other, |a, b| a * b)
    }
}

impl Div for Lanes {
    type Output = Self;
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self.each(other, |a, b| a / b)
    }
}

impl Neg for Lanes {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        Self(self.0.map(|value| -value))
    }
}
