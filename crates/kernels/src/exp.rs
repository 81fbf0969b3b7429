//! `exp` for f32 without branches, so that loops over it vectorise. Relative error below 2e-7.

const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 in two parts, the first with trailing zeros so that its product with a small integer is exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;
/// Adding it rounds to an integer, which then stands in the low bits.
const ROUNDER: f32 = 12_582_912.0;

/// e^x, with multiplications and additions in one instruction where the CPU level has it; 0 far below the range of f32 and
/// e^88.3 above it; NaN stays NaN.
#[inline(always)]
pub fn exp<const FUSED: bool>(x: f32) -> f32 {
    let multiply_add = |a: f32, b: f32, c: f32| if FUSED { a.mul_add(b, c) } else { a * b + c };
    let clamped = x.clamp(-87.3, 88.3);
    let shifted = multiply_add(clamped, LOG2_E, ROUNDER);
    let n = shifted - ROUNDER;
    let r = multiply_add(n, -LN_2_LOW, multiply_add(n, -LN_2_HIGH, clamped));
    // Minimax polynomial of e^r on [-ln 2 / 2, ln 2 / 2].
    let mut p = 1.987_569_1e-4;
    p = multiply_add(p, r, 1.398_199_9e-3);
    p = multiply_add(p, r, 8.333_452e-3);
    p = multiply_add(p, r, 4.166_579_6e-2);
    p = multiply_add(p, r, 1.666_666_5e-1);
    p = multiply_add(p, r, 0.5);
    let e_r = multiply_add(p * r, r, r) + 1.0;
    let n = shifted.to_bits().wrapping_sub(ROUNDER.to_bits());
    let value = e_r * f32::from_bits(n.wrapping_add(127) << 23);
    if x < -87.3 { 0.0 } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_the_exponential_over_its_range() {
        let mut worst = 0.0f64;
        for step in -870_000..=883_000 {
            let x = step as f32 * 1e-4;
            let exact = f64::from(x).exp();
            for value in [exp::<false>(x), exp::<true>(x)] {
                worst = worst.max(((f64::from(value) - exact) / exact).abs());
            }
        }
        assert!(worst < 2e-7, "{worst}");
        for exp in [exp::<false>, exp::<true>] {
            assert_eq!(exp(-200.0), 0.0);
            assert_eq!(exp(f32::NEG_INFINITY), 0.0);
            assert_eq!(exp(0.0), 1.0);
            assert!(exp(f32::NAN).is_nan());
        }
    }
}
