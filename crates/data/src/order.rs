//! Which samples an optimizer step takes: a shuffle for each epoch that is a function of (seed, epoch) alone, so
//! that a run resumes at any step without stored random state.

/// The order of an epoch: a permutation of `0..samples`, by Fisher–Yates over SplitMix64 (Steele et al. 2014)
/// used as a counter-based generator.
pub fn epoch_order(samples: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let key = split_mix(split_mix(seed) ^ epoch);
    let mut order: Vec<usize> = (0..samples).collect();
    for last in (1..samples).rev() {
        let random = split_mix(key.wrapping_add(last as u64));
        // Multiply and shift instead of a remainder: bias below samples / 2^64.
        let chosen = (u128::from(random) * (last as u128 + 1)) >> 64;
        order.swap(last, chosen as usize);
    }
    order
}

fn split_mix(counter: u64) -> u64 {
    let mut bits = counter.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

/// The samples of each optimizer step. Steps do not cross epochs: the last step of an epoch may be smaller.
#[derive(Debug, Clone)]
pub struct StepOrder {
    samples: usize,
    samples_per_step: usize,
    seed: u64,
    /// The epoch whose order is held.
    epoch: u64,
    order: Vec<usize>,
}

impl StepOrder {
    /// `samples_per_step` is batch size times accumulation; it and `samples` count as at least 1.
    pub fn new(samples: usize, samples_per_step: usize, seed: u64) -> Self {
        let samples = samples.max(1);
        let order = epoch_order(samples, seed, 0);
        Self { samples, samples_per_step: samples_per_step.max(1), seed, epoch: 0, order }
    }

    /// Optimizer steps that an epoch takes.
    pub fn steps_per_epoch(&self) -> u64 {
        self.samples.div_ceil(self.samples_per_step) as u64
    }

    /// The epoch (from 0) that a step (from 0) belongs to.
    pub fn epoch_of(&self, step: u64) -> u64 {
        step / self.steps_per_epoch()
    }

    /// Indices of the samples of a step (from 0), any step at any time.
    pub fn step(&mut self, step: u64) -> &[usize] {
        let epoch = self.epoch_of(step);
        if epoch != self.epoch {
            self.order = epoch_order(self.samples, self.seed, epoch);
            self.epoch = epoch;
        }
        let start = (step % self.steps_per_epoch()) as usize * self.samples_per_step;
        &self.order[start..self.samples.min(start.saturating_add(self.samples_per_step))]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_epoch_is_a_permutation(samples in 0_usize..300, seed: u64, epoch: u64) {
            let mut order = epoch_order(samples, seed, epoch);
            prop_assert_eq!(&order, &epoch_order(samples, seed, epoch));
            order.sort_unstable();
            prop_assert_eq!(order, (0..samples).collect::<Vec<_>>());
        }

        #[test]
        fn steps_take_every_sample_once_an_epoch(samples in 1_usize..100, per_step in 1_usize..20, seed: u64) {
            let mut steps = StepOrder::new(samples, per_step, seed);
            let count = steps.steps_per_epoch();
            for epoch in 0..2 {
                let taken: Vec<usize> =
                    (epoch * count..(epoch + 1) * count).flat_map(|step| steps.step(step).to_vec()).collect();
                prop_assert_eq!(taken, epoch_order(samples, seed, epoch));
            }
        }

        #[test]
        fn a_resumed_run_takes_the_same_samples(step in 0_u64..200, seed: u64) {
            let mut from_start = StepOrder::new(37, 8, seed);
            for earlier in 0..step {
                from_start.step(earlier);
            }
            let mut resumed = StepOrder::new(37, 8, seed);
            prop_assert_eq!(from_start.step(step), resumed.step(step));
        }
    }

    #[test]
    fn seeds_and_epochs_give_different_orders_without_preference() {
        let orders: HashSet<Vec<usize>> =
            (0..20).flat_map(|seed| (0..20).map(move |epoch| epoch_order(50, seed, epoch))).collect();
        assert_eq!(orders.len(), 400);
        let mut first_counts = [0; 4];
        for epoch in 0..4000 {
            first_counts[epoch_order(4, 7, epoch)[0]] += 1;
        }
        assert!(first_counts.iter().all(|count| (900..1100).contains(count)), "{first_counts:?}");
    }
}
