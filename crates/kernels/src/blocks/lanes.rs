//! Sixteen numbers side by side. The quantizers put sixteen blocks beside each other, one to a lane, so that every sum
//! within a block is taken in its own order, as the reference takes it, and the compiler still has vectors.

use std::array::from_fn;
use std::ops::{Add, Div, Mul, Neg, Sub};

use bytemuck::{Pod, Zeroable};

pub(super) const LANES: usize = 16;

/// One number of each of sixteen blocks.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
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

/// One number for each lane. A plain loop is always part of its caller, and so compiled for the caller's instructions.
#[inline(always)]
pub(super) fn each_lane<T: Copy + Default>(of_lane: impl Fn(usize) -> T) -> [T; LANES] {
    let mut all = [T::default(); LANES];
    for (lane, number) in all.iter_mut().enumerate() {
        *number = of_lane(lane);
    }
    all
}

/// The numbers of a tile one after the other, for what is the same in every lane.
#[inline(always)]
pub(super) fn flat(tile: &[Lanes]) -> &[f32] {
    bytemuck::cast_slice(tile)
}

#[inline(always)]
pub(super) fn flat_mut(tile: &mut [Lanes]) -> &mut [f32] {
    bytemuck::cast_slice_mut(tile)
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
        Self(each_lane(|lane| operation(self.0[lane], other.0[lane])))
    }

    #[inline(always)]
    pub(super) fn abs(self) -> Self {
        Self(each_lane(|lane| self.0[lane].abs()))
    }

    #[inline(always)]
    pub(super) fn sqrt(self) -> Self {
        Self(each_lane(|lane| self.0[lane].sqrt()))
    }

    #[inline(always)]
    pub(super) fn trunc(self) -> Self {
        Self(each_lane(|lane| self.0[lane].trunc()))
    }

    /// Ties away from zero.
    #[inline(always)]
    pub(super) fn round(self) -> Self {
        Self(each_lane(|lane| self.0[lane].round()))
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
        Mask(each_lane(|lane| if self.0[lane] < other.0[lane] { u32::MAX } else { 0 }))
    }

    #[inline(always)]
    pub(super) fn equals(self, other: Self) -> Mask {
        Mask(each_lane(|lane| if self.0[lane] == other.0[lane] { u32::MAX } else { 0 }))
    }

    #[inline(always)]
    pub(super) fn differs(self, other: Self) -> Mask {
        Mask(each_lane(|lane| if self.0[lane] != other.0[lane] { u32::MAX } else { 0 }))
    }

    /// [`nearest`] within `low..=high`.
    #[inline(always)]
    pub(super) fn rounded(self, low: f32, high: f32) -> Self {
        let sum = self + Self::splat(SHIFT);
        // Changes nothing within range; beyond it, this is how the reference wraps.
        let wrap = |sum: f32| f32::from_bits(sum.to_bits() & 0x007f_ffff | SHIFT.to_bits() & 0xff80_0000);
        let sum = Self(each_lane(|lane| wrap(sum.0[lane])));
        sum.greater(Self::splat(low + SHIFT)).lesser(Self::splat(high + SHIFT)) - Self::splat(SHIFT)
    }

    /// Whole numbers in 0 ..= 255.
    #[inline(always)]
    pub(super) fn bytes(self) -> [u8; LANES] {
        let sum = self + Self::splat(SHIFT);
        each_lane(|lane| sum.0[lane].to_bits() as u8)
    }
}

impl Mask {
    #[inline(always)]
    pub(super) fn and(self, other: Self) -> Self {
        Self(each_lane(|lane| self.0[lane] & other.0[lane]))
    }

    #[inline(always)]
    pub(super) fn any(self) -> bool {
        self.0.iter().fold(0, |all, lane| all | lane) != 0
    }

    /// `yes` where the mask is set, else `no`.
    #[inline(always)]
    pub(super) fn select(self, yes: Lanes, no: Lanes) -> Lanes {
        Lanes(each_lane(|lane| {
            let mask = self.0[lane];
            f32::from_bits(yes.0[lane].to_bits() & mask | no.0[lane].to_bits() & !mask)
        }))
    }

    /// `yes` where the mask is set, else `no`.
    #[inline(always)]
    pub(super) fn select_bytes(self, yes: [u8; LANES], no: [u8; LANES]) -> [u8; LANES] {
        each_lane(|lane| {
            let mask = self.0[lane] as u8;
            yes[lane] & mask | no[lane] & !mask
        })
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
        Self(each_lane(|lane| -self.0[lane]))
    }
}
