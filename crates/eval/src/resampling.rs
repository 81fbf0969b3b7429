//! Drawing with replacement, for bootstrap intervals: a seed gives the same draws on every machine.
//!
//! It knows nothing of what is drawn.

/// A stream of random numbers (SplitMix64: Steele, Lea, Flood 2014).
pub(crate) struct Draws {
    state: u64,
}

impl Draws {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// A number from 0 to `bound - 1`; 0 when `bound` is 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^= bits >> 31;
        ((u128::from(bits) * bound as u128) >> 64) as usize
    }
}

/// The interval that holds the middle 95 % of `values`; none of no values.
pub(crate) fn middle_95_percent(mut values: Vec<f64>) -> Option<(f64, f64)> {
    values.sort_by(f64::total_cmp);
    (!values.is_empty()).then(|| (quantile(&values, 0.025), quantile(&values, 0.975)))
}

/// Between the nearest two of `sorted` by linear interpolation, as numpy and pandas do it. `sorted` is not empty.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_numpy() {
        // numpy.quantile([1, 2, 4, 8], [0.025, 0.975])
        let (low, high) = middle_95_percent(vec![8.0, 1.0, 4.0, 2.0]).unwrap();
        assert!((low - 1.075).abs() < 1e-12 && (high - 7.7).abs() < 1e-12, "{low} {high}");
        assert_eq!(middle_95_percent(vec![3.0]), Some((3.0, 3.0)));
        assert_eq!(middle_95_percent(Vec::new()), None);
    }

    #[test]
    fn draws_are_even_and_belong_to_their_seed() {
        let counts = |seed: u64| {
            let mut draws = Draws::new(seed);
            let mut counts = [0_u32; 5];
            (0..10_000).for_each(|_| counts[draws.below(5)] += 1);
            counts
        };
        assert!(counts(1).iter().all(|count| (1_850..2_150).contains(count)), "{:?}", counts(1));
        assert_eq!(counts(1), counts(1));
        assert_ne!(counts(1), counts(2));
    }
}
