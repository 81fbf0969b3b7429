//! Scales that fit a block of values best, as ggml's reference searches them: the candidates, the order of every sum
//! and every comparison are its own, because the stored bytes depend on the last bit of them.
//!
//! Each lane is a block of its own; `values[i]` and `weights[i]` hold element i of sixteen blocks, `quants[i]` takes it.

use super::lanes::{LANES, Lanes, flat, flat_mut};

/// A block with no value or scale above this is all zero.
pub(super) const ALL_ZERO: f32 = 1e-15;

/// What stands for the distance of a value from its quantized one.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Distance {
    Absolute,
    Squared,
}

/// The steps that [`affine`] tries: `levels + first + step * i` for i in 0 ..= `last`, over the range of the values.
#[derive(Clone, Copy)]
pub(super) struct Candidates {
    pub first: f32,
    pub step: f32,
    pub last: u8,
    pub distance: Distance,
}

by_cpu_level! {
    /// Scale and minimum (both of value = scale · quant − minimum), with quants in 0 ..= `levels`.
    ///
    /// For each candidate the values are rounded, scale and minimum fitted to the quants by weighted least squares,
    /// and kept if the weighted distance is less than before. The minimum is never negative.
    pub(super) fn affine(
        values: &[Lanes],
        weights: &[Lanes],
        levels: f32,
        candidates: Candidates,
        quants: &mut [[u8; LANES]],
    ) -> (Lanes, Lanes) {
        let mut whole = [Lanes::ZERO; 32];
        let whole = &mut whole[..values.len()];
        let (mut low, mut high) = (values[0], values[0]);
        let mut sum_w = weights[0];
        let mut sum_wx = sum_w * values[0];
        for (&x, &w) in values.iter().zip(weights).skip(1) {
            low = x.lesser(low);
            high = x.greater(high);
            sum_w = sum_w + w;
            sum_wx = sum_wx + w * x;
        }
        low = Lanes::ZERO.less_than(low).select(Lanes::ZERO, low);
        let constant = high.equals(low);

        let mut inverse = Lanes::splat(levels) / (high - low);
        let mut scale = Lanes::splat(1.0) / inverse;
        let mut best = Lanes::ZERO;
        for (&x, &w) in values.iter().zip(weights) {
            let quant = (inverse * (x - low)).rounded(0.0, levels);
            best = best + w * distance(scale * quant + low - x, candidates.distance);
        }
        // The quants follow from these two; `low` moves on with each better fit.
        let (mut best_inverse, mut best_low) = (inverse, low);
        for candidate in 0..=candidates.last {
            let steps = candidates.first + candidates.step * f32::from(candidate) + levels;
            inverse = Lanes::splat(steps) / (high - low);
            let (mut sum_q, mut sum_qq, mut sum_qx) = (Lanes::ZERO, Lanes::ZERO, Lanes::ZERO);
            for ((&x, &w), quant) in values.iter().zip(weights).zip(whole.iter_mut()) {
                *quant = (inverse * (x - low)).rounded(0.0, levels);
                let wq = w * *quant;
                sum_q = sum_q + wq;
                sum_qq = sum_qq + wq * *quant;
                sum_qx = sum_qx + wq * x;
            }
            let determinant = sum_w * sum_qq - sum_q * sum_q;
            let mut new_scale = (sum_w * sum_qx - sum_wx * sum_q) / determinant;
            let mut new_low = (sum_qq * sum_wx - sum_q * sum_qx) / determinant;
            let above_zero = Lanes::ZERO.less_than(new_low);
            new_scale = above_zero.select(sum_qx / sum_qq, new_scale);
            new_low = above_zero.select(Lanes::ZERO, new_low);
            let mut error = Lanes::ZERO;
            for ((&x, &w), &quant) in values.iter().zip(weights).zip(whole.iter()) {
                error = error + w * distance(new_scale * quant + new_low - x, candidates.distance);
            }
            let better = Lanes::ZERO.less_than(determinant).and(error.less_than(best));
            best = better.select(error, best);
            scale = better.select(new_scale, scale);
            best_inverse = better.select(inverse, best_inverse);
            best_low = better.select(low, best_low);
            low = better.select(new_low, low);
        }
        for (quants, &x) in quants.iter_mut().zip(values) {
            let found = (best_inverse * (x - best_low)).rounded(0.0, levels);
            *quants = constant.select(Lanes::ZERO, found).bytes();
        }
        (constant.select(Lanes::ZERO, scale), -low)
    }
}

#[inline(always)]
fn distance(difference: Lanes, distance: Distance) -> Lanes {
    match distance {
        Distance::Absolute => difference.abs(),
        Distance::Squared => difference * difference,
    }
}

by_cpu_level! {
    /// The scale of value = scale · (quant − `half`), with quants in 0 .. 2 · `half`.
    ///
    /// The value of largest magnitude goes to about −`half`, in steps of a tenth around it; what is kept maximises
    /// (Σ w·x·q)² / Σ w·q², with which the least squares of that candidate fall.
    pub(super) fn symmetric(
        values: &[Lanes],
        weights: &[Lanes],
        half: f32,
        quants: &mut [[u8; LANES]],
    ) -> Lanes {
        let (largest, magnitude) = largest(values);
        let zero = magnitude.less_than(Lanes::splat(ALL_ZERO));
        let mut products = [Lanes::ZERO; 32];
        let products = &mut products[..values.len()];
        for ((product, x), w) in flat_mut(products).iter_mut().zip(flat(values)).zip(flat(weights)) {
            *product = w * x;
        }
        let mut best_inverse = Lanes::splat(-half) / largest;
        let (sum_qx, sum_qq) = symmetric_sums(values, weights, products, best_inverse, half);
        let mut scale = sum_qq.equals(Lanes::ZERO).select(Lanes::ZERO, sum_qx / sum_qq);
        let mut best = scale * sum_qx;
        for candidate in (-9i8..=9).filter(|candidate| *candidate != 0) {
            let inverse = Lanes::splat(-(half + 0.1 * f32::from(candidate))) / largest;
            let (sum_qx, sum_qq) = symmetric_sums(values, weights, products, inverse, half);
            let better =
                Lanes::ZERO.less_than(sum_qq).and((best * sum_qq).less_than(sum_qx * sum_qx));
            let new_scale = sum_qx / sum_qq;
            scale = better.select(new_scale, scale);
            best = better.select(new_scale * sum_qx, best);
            best_inverse = better.select(inverse, best_inverse);
        }
        for (quants, &x) in quants.iter_mut().zip(values) {
            let found = (best_inverse * x).rounded(-half, half - 1.0) + Lanes::splat(half);
            *quants = zero.select(Lanes::ZERO, found).bytes();
        }
        zero.select(Lanes::ZERO, scale)
    }
}

/// Σ w·x·q and Σ w·q² of one candidate.
#[inline(always)]
fn symmetric_sums(
    values: &[Lanes],
    weights: &[Lanes],
    products: &[Lanes],
    inverse: Lanes,
    half: f32,
) -> (Lanes, Lanes) {
    let (mut sum_qx, mut sum_qq) = (Lanes::ZERO, Lanes::ZERO);
    for ((&x, &w), &wx) in values.iter().zip(weights).zip(products) {
        let quant = (inverse * x).rounded(-half, half - 1.0);
        sum_qx = sum_qx + wx * quant;
        sum_qq = sum_qq + w * quant * quant;
    }
    (sum_qx, sum_qq)
}

by_cpu_level! {
    /// As [`symmetric`] with weights x², but from one candidate, whose quants are then moved one by one.
    pub(super) fn symmetric_by_descent(values: &[Lanes], half: f32, quants: &mut [[u8; LANES]]) -> Lanes {
        let (largest, magnitude) = largest(values);
        let zero = magnitude.less_than(Lanes::splat(ALL_ZERO));
        let inverse = Lanes::splat(-half) / largest;
        let (mut weights, mut whole) = ([Lanes::ZERO; 16], [Lanes::ZERO; 16]);
        for ((&x, w), quant) in values.iter().zip(&mut weights).zip(&mut whole) {
            *w = x * x;
            *quant = (inverse * x).rounded(-half, half - 1.0);
        }
        let scale = descend(values, &weights, (-half, half - 1.0), &mut whole, false);
        for (quants, quant) in quants.iter_mut().zip(whole) {
            *quants = zero.select(Lanes::ZERO, quant + Lanes::splat(half)).bytes();
        }
        zero.select(Lanes::ZERO, scale)
    }
}

by_cpu_level! {
    /// The scale of value = scale · quant for values that are not negative, with quants in 0 ..= `levels`.
    pub(super) fn positive(values: &[Lanes], weights: &[Lanes], levels: f32, quants: &mut [[u8; LANES]]) -> Lanes {
        let largest = values.iter().fold(Lanes::ZERO, |largest, &x| largest.greater(x));
        let zero = largest.less_than(Lanes::splat(ALL_ZERO));
        let mut inverse = Lanes::splat(levels) / largest;
        let mut best = positive_error(values, weights, levels, inverse);
        for candidate in (-4i8..=4).filter(|candidate| *candidate != 0) {
            let new_inverse = Lanes::splat(0.1 * f32::from(candidate) + levels) / largest;
            let error = positive_error(values, weights, levels, new_inverse);
            let better = error.less_than(best);
            best = better.select(error, best);
            inverse = better.select(new_inverse, inverse);
        }
        let mut whole = [Lanes::ZERO; 16];
        let whole = &mut whole[..values.len()];
        for (quant, &x) in whole.iter_mut().zip(values) {
            *quant = (inverse * x).rounded(0.0, levels);
        }
        let scale = descend(values, weights, (0.0, levels), whole, true);
        for (quants, quant) in quants.iter_mut().zip(whole) {
            *quants = zero.select(Lanes::ZERO, *quant).bytes();
        }
        zero.select(Lanes::ZERO, scale)
    }
}

/// The weighted squared error of one candidate.
#[inline(always)]
fn positive_error(values: &[Lanes], weights: &[Lanes], levels: f32, inverse: Lanes) -> Lanes {
    let scale = Lanes::splat(1.0) / inverse;
    let mut error = Lanes::ZERO;
    for (&x, &w) in values.iter().zip(weights) {
        let difference = x - scale * (inverse * x).rounded(0.0, levels);
        error = error + w * difference * difference;
    }
    error
}

/// The value of largest magnitude, the first where several are, and its magnitude.
#[inline(always)]
fn largest(values: &[Lanes]) -> (Lanes, Lanes) {
    let (mut largest, mut magnitude) = (Lanes::ZERO, Lanes::ZERO);
    for &x in values {
        largest = magnitude.less_than(x.abs()).select(x, largest);
        magnitude = x.abs().greater(magnitude);
    }
    (largest, magnitude)
}

/// Moves each quant to where the others' scale would round its value, as long as that raises (Σ w·x·q)² / Σ w·q²; at
/// most five rounds. Where `others_needed`, not those whose others are all zero. Gives the scale Σ w·x·q / Σ w·q².
#[inline(always)]
fn descend(
    values: &[Lanes],
    weights: &[Lanes],
    (low, high): (f32, f32),
    quants: &mut [Lanes],
    others_needed: bool,
) -> Lanes {
    let (mut sum_qx, mut sum_qq) = (Lanes::ZERO, Lanes::ZERO);
    for ((&x, &w), &quant) in values.iter().zip(weights).zip(quants.iter()) {
        sum_qx = sum_qx + w * x * quant;
        sum_qq = sum_qq + w * quant * quant;
    }
    for _ in 0..5 {
        let mut changed = false;
        for ((&x, &w), quant) in values.iter().zip(weights).zip(quants.iter_mut()) {
            let (wx, old) = (w * x, *quant);
            let others_qx = sum_qx - wx * old;
            let others_qq = sum_qq - w * old * old;
            let new = (x * others_qq / others_qx).rounded(low, high);
            let new_qx = others_qx + wx * new;
            let new_qq = others_qq + w * new * new;
            let mut better = Lanes::ZERO
                .less_than(others_qx)
                .and(Lanes::ZERO.less_than(new_qq))
                .and((sum_qx * sum_qx * new_qq).less_than(new_qx * new_qx * sum_qq))
                .and(new.differs(old));
            if others_needed {
                better = better.and(Lanes::ZERO.less_than(others_qq));
            }
            *quant = better.select(new, old);
            sum_qx = better.select(new_qx, sum_qx);
            sum_qq = better.select(new_qq, sum_qq);
            changed |= better.any();
        }
        // A lane without a change in one round has none in the next.
        if !changed {
            break;
        }
    }
    Lanes::ZERO.less_than(sum_qq).select(sum_qx / sum_qq, Lanes::ZERO)
}
