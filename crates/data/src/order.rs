//! Which samples an optimizer step takes: a shuffle for each epoch that is a function of (seed, epoch) alone, so
//! that a run resumes at any step without stored random state.

use std::sync::Arc;

use crate::packing::{Packing, PackingReport};

/// The order of an epoch: a permutation of `0..samples`, by Fisher–Yates over SplitMix64 (Steele et al. 2014)
/// used as a counter-based generator.
pub fn epoch_order(samples: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..samples).collect();
    for last in (1..samples).rev() {
        let random = random(seed, epoch, last as u64);
        // Multiply and shift instead of a remainder: bias below samples / 2^64.
        let chosen = (u128::from(random) * (last as u128 + 1)) >> 64;
        order.swap(last, chosen as usize);
    }
    order
}

/// The draw of this number in an epoch, as a 64-bit number.
pub(crate) fn random(seed: u64, epoch: u64, draw: u64) -> u64 {
    split_mix((split_mix(split_mix(seed) ^ epoch)).wrapping_add(draw))
}

pub(crate) fn split_mix(counter: u64) -> u64 {
    let mut bits = counter.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

/// Steps among whose samples `group_by_length` sorts, as many as the Hugging Face Trainer's sampler takes.
const STEPS_OF_SIMILAR_LENGTH: usize = 50;

/// What a step takes so many of.
#[derive(Debug, Clone)]
enum Units {
    /// Samples as they come.
    Samples,
    /// Samples of similar length together: their lengths.
    Sorted(Arc<[u32]>),
    /// Blocks of packed samples.
    Blocks(Arc<Packing>),
}

/// The samples of each optimizer step. Steps do not cross epochs: the last step of an epoch may be smaller.
#[derive(Debug, Clone)]
pub struct StepOrder {
    units: Units,
    /// Number of units in an epoch.
    count: usize,
    units_per_step: usize,
    /// Samples that a unit without blocks is made of, which lie behind each other.
    samples_per_unit: usize,
    seed: u64,
    /// The epoch whose order is held.
    epoch: u64,
    order: Vec<usize>,
    /// The samples of the blocks or groups of the last step.
    taken: Vec<usize>,
}

impl StepOrder {
    /// `samples_per_step` is batch size times accumulation; it and `samples` count as at least 1.
    pub fn new(samples: usize, samples_per_step: usize, seed: u64) -> Self {
        Self::of(Units::Samples, samples, samples_per_step, seed)
    }

    /// Steps of samples of similar length: the samples of every 50 steps are sorted by it.
    pub fn by_length(lengths: &[u32], samples_per_step: usize, seed: u64) -> Self {
        Self::of(Units::Sorted(lengths.into()), lengths.len(), samples_per_step, seed)
    }

    /// Steps of so many blocks.
    pub fn packed(packing: Packing, blocks_per_step: usize, seed: u64) -> Self {
        let blocks = packing.blocks();
        Self::of(Units::Blocks(Arc::new(packing)), blocks, blocks_per_step, seed)
    }

    fn of(units: Units, count: usize, units_per_step: usize, seed: u64) -> Self {
        let units_per_step = units_per_step.max(1);
        let (order, taken) = (Vec::new(), Vec::new());
        let (count, samples_per_unit) = (count.max(1), 1);
        let mut steps = Self { units, count, units_per_step, samples_per_unit, seed, epoch: 0, order, taken };
        steps.begin(0);
        steps
    }

    fn begin(&mut self, epoch: u64) {
        self.epoch = epoch;
        self.order = epoch_order(self.count, self.seed, epoch);
        if let Units::Sorted(lengths) = &self.units {
            for steps in self.order.chunks_mut(self.units_per_step.saturating_mul(STEPS_OF_SIMILAR_LENGTH)) {
                steps.sort_by_key(|&index| std::cmp::Reverse(lengths.get(index)));
            }
        }
    }

    /// The same order of groups of so many samples, such as the two of a pair, in place of samples.
    #[must_use]
    pub fn of_groups(self, samples: usize) -> Self {
        Self { samples_per_unit: samples.max(1), ..self }
    }

    /// Optimizer steps that an epoch takes.
    pub fn steps_per_epoch(&self) -> u64 {
        self.count.div_ceil(self.units_per_step) as u64
    }

    /// The epoch (from 0) that a step (from 0) belongs to.
    pub fn epoch_of(&self, step: u64) -> u64 {
        step / self.steps_per_epoch()
    }

    /// How full the blocks are, where samples are packed.
    pub fn packing(&self) -> Option<PackingReport> {
        match &self.units {
            Units::Blocks(packing) => Some(packing.report()),
            _ => None,
        }
    }

    /// A number that tells orders of another kind, or other blocks, apart; 0 for samples as they come.
    pub fn fingerprint(&self) -> u64 {
        match &self.units {
            Units::Samples => 0,
            Units::Sorted(_) => split_mix(1),
            Units::Blocks(packing) => {
                let PackingReport { blocks, budget, .. } = packing.report();
                split_mix(split_mix(budget) ^ blocks)
            }
        }
    }

    /// Indices of the samples of a step (from 0), any step at any time.
    pub fn step(&mut self, step: u64) -> &[usize] {
        let epoch = self.epoch_of(step);
        if epoch != self.epoch {
            self.begin(epoch);
        }
        let start = (step % self.steps_per_epoch()) as usize * self.units_per_step;
        let units = &self.order[start..self.count.min(start.saturating_add(self.units_per_step))];
        self.taken.clear();
        match &self.units {
            Units::Blocks(packing) => {
                let blocks = units.iter().flat_map(|&block| packing.block(block));
                self.taken.extend(blocks.map(|&index| index as usize));
            }
            _ if self.samples_per_unit == 1 => return units,
            _ => {
                let group = |&unit: &usize| unit * self.samples_per_unit..(unit + 1) * self.samples_per_unit;
                self.taken.extend(units.iter().flat_map(group));
            }
        }
        &self.taken
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
    fn groups_stay_together() {
        let (mut pairs, mut units) = (StepOrder::new(9, 4, 3).of_groups(2), StepOrder::new(9, 4, 3));
        for step in 0..6 {
            let expected: Vec<usize> =
                units.step(step).iter().flat_map(|unit| [2 * unit, 2 * unit + 1]).collect();
            assert_eq!(pairs.step(step), expected);
        }
        assert_eq!(pairs.steps_per_epoch(), 3);
    }

    #[test]
    fn packed_steps_take_every_sample_once_an_epoch() {
        let lengths: Vec<u32> = (0..200).map(|index| 1 + index * 37 % 90).collect();
        let mut steps = StepOrder::packed(Packing::best_fit(&lengths, 100, 3), 4, 3);
        let count = steps.steps_per_epoch();
        let mut epochs = Vec::new();
        for epoch in 0..2 {
            let mut taken: Vec<usize> =
                (epoch * count..(epoch + 1) * count).flat_map(|step| steps.step(step).to_vec()).collect();
            epochs.push(taken.clone());
            taken.sort_unstable();
            assert_eq!(taken, (0..200).collect::<Vec<_>>());
        }
        assert_ne!(epochs[0], epochs[1], "every epoch has its own order");
        assert_eq!(steps.clone().step(count + 3).to_vec(), steps.step(count + 3));
        assert!(steps.packing().unwrap().efficiency > 0.9);
    }

    #[test]
    fn steps_by_length_hold_samples_of_similar_length() {
        let lengths: Vec<u32> = (0..4000).map(|index| index * 769 % 1000).collect();
        let spread = |steps: &mut StepOrder| -> u32 {
            let of_step = |step| {
                let of_step: Vec<u32> = steps.step(step).iter().map(|&index| lengths[index]).collect();
                of_step.iter().max().unwrap() - of_step.iter().min().unwrap()
            };
            (0..500).map(of_step).sum()
        };
        let mut sorted = StepOrder::by_length(&lengths, 8, 1);
        assert!(10 * spread(&mut sorted) < spread(&mut StepOrder::new(4000, 8, 1)));
        let mut taken: Vec<usize> = (0..500).flat_map(|step| sorted.step(step).to_vec()).collect();
        taken.sort_unstable();
        assert_eq!(taken, (0..4000).collect::<Vec<_>>());
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
