//! The samples of an optimizer step → slices: whole samples side by side without padding, about as many tokens as
//! one forward and backward pass takes. The cut is a function of the step's samples alone, so that the way a step
//! is split into micro-batches cannot change a bit of the result.

use std::borrow::Borrow;

use crate::sample::Sample;

/// A slice is closed before it would exceed this; only a single longer sample or pair makes a longer slice.
pub const SLICE_TOKENS: usize = 1024;

/// A position at which the model's prediction is compared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target {
    /// Index into [`Slice::ids`] of the last input that the prediction sees.
    pub position: usize,
    /// The id to predict: the sample's id after the one at `position`.
    pub id: u32,
    /// Weight of its loss, not 0; negative in an unwanted answer.
    pub weight: f32,
}

/// Inputs of one forward and backward pass.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Slice {
    /// Input ids of all sequences, one after another, shape `[T]`. Of each sample only the ids before its last
    /// trained one are inputs; those after it see nothing that is learned.
    pub ids: Vec<u32>,
    /// Where each sequence starts, and the end of the last: `sequences + 1` ascending indices into `ids`.
    pub sequence_starts: Vec<usize>,
    /// Only the positions with weight, in ascending order: the head runs on these alone.
    pub targets: Vec<Target>,
}

/// An optimizer step, ready for the model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepSlices {
    /// Slices in the order in which gradients are added.
    pub slices: Vec<Slice>,
    /// Sum of the weights of all targets: what the loss of language modelling is divided by.
    pub step_weight: f64,
}

impl Slice {
    /// Its inputs and targets, counted.
    pub fn size(&self) -> SliceSize {
        SliceSize { tokens: self.ids.len(), targets: self.targets.len() }
    }
}

impl StepSlices {
    /// Input tokens of the step.
    pub fn tokens(&self) -> usize {
        self.slices.iter().map(|slice| slice.ids.len()).sum()
    }
}

/// What a slice holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SliceSize {
    /// Inputs.
    pub tokens: usize,
    /// Targets among them.
    pub targets: usize,
}

impl SliceSize {
    fn has_room_for(&self, tokens: usize) -> bool {
        self.tokens + tokens <= SLICE_TOKENS
    }
}

/// The sizes of the slices that [`grouped_slices`] cuts samples of these sizes into.
pub fn slice_sizes(samples: impl IntoIterator<Item = SliceSize>, group: usize) -> Vec<SliceSize> {
    let mut slices: Vec<SliceSize> = Vec::new();
    let mut samples = samples.into_iter();
    loop {
        let members: Vec<SliceSize> = samples.by_ref().take(group.max(1)).collect();
        if members.is_empty() {
            return slices;
        }
        let tokens = members.iter().map(|sample| sample.tokens).sum();
        let targets: usize = members.iter().map(|sample| sample.targets).sum();
        match slices.last_mut().filter(|slice| slice.has_room_for(tokens)) {
            _ if targets == 0 => {}
            Some(slice) => {
                slice.tokens += tokens;
                slice.targets += targets;
            }
            None => slices.push(SliceSize { tokens, targets }),
        }
    }
}

/// Cuts the samples of one optimizer step into slices. Samples in which nothing is trained are left out.
pub fn step_slices<S: Borrow<Sample>>(samples: impl IntoIterator<Item = S>) -> StepSlices {
    grouped_slices(samples, 1)
}

/// The same, with every `group` of samples, such as the two of a pair, in one slice.
pub fn grouped_slices<S: Borrow<Sample>>(samples: impl IntoIterator<Item = S>, group: usize) -> StepSlices {
    let mut step = StepSlices::default();
    let mut samples = samples.into_iter();
    loop {
        let members: Vec<S> = samples.by_ref().take(group.max(1)).collect();
        if members.is_empty() {
            return step;
        }
        step.push(members.iter().map(Borrow::borrow));
    }
}

impl StepSlices {
    /// Adds samples that belong together to the last slice, or to a new one if they do not fit.
    fn push<'a>(&mut self, samples: impl Iterator<Item = &'a Sample> + Clone) {
        let input_length: usize = samples.clone().map(Sample::input_length).sum();
        if input_length == 0 {
            return;
        }
        let has_room = |slice: &&mut Slice| slice.size().has_room_for(input_length);
        let slice = match self.slices.last_mut().filter(has_room) {
            Some(slice) => slice,
            None => {
                self.slices.push(Slice { sequence_starts: vec![0], ..Slice::default() });
                let last = self.slices.len() - 1;
                &mut self.slices[last]
            }
        };
        for sample in samples.filter(|sample| sample.input_length() > 0) {
            let (start, input_length) = (slice.ids.len(), sample.input_length());
            slice.ids.extend_from_slice(&sample.ids[..input_length]);
            slice.sequence_starts.push(slice.ids.len());
            for index in (1..=input_length).filter(|&index| sample.loss_weights[index] != 0.0) {
                let weight = sample.loss_weights[index];
                slice.targets.push(Target { position: start + index - 1, id: sample.ids[index], weight });
                self.step_weight += f64::from(weight);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::records::Source;
    use crate::sample_store::SampleSet;

    fn sample(ids: Vec<u32>, loss_weights: Vec<f32>) -> Sample {
        Sample { ids, loss_weights, source: Source { path: Path::new("rows.jsonl").into(), line: 1 } }
    }

    fn samples() -> impl Strategy<Value = Vec<Sample>> {
        let weight = prop_oneof![Just(0.0_f32), Just(1.0), Just(0.5)];
        let one = prop::collection::vec((0_u32..1000, weight), 1..700).prop_map(|pairs| {
            let (ids, mut weights): (Vec<u32>, Vec<f32>) = pairs.into_iter().unzip();
            weights[0] = 0.0;
            sample(ids, weights)
        });
        prop::collection::vec(one, 0..12)
    }

    /// Every target of a step as (context within its sequence, id, weight).
    fn targets(step: &StepSlices) -> Vec<(Vec<u32>, u32, f32)> {
        let mut found = Vec::new();
        for slice in &step.slices {
            for target in &slice.targets {
                let start = *slice.sequence_starts.iter().rfind(|&&start| start <= target.position).unwrap();
                found.push((slice.ids[start..=target.position].to_vec(), target.id, target.weight));
            }
        }
        found
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn slices_hold_each_target_exactly_once_with_its_context(samples in samples()) {
            let step = step_slices(&samples);
            let mut expected = Vec::new();
            for sample in &samples {
                for index in 1..sample.ids.len() {
                    if sample.loss_weights[index] > 0.0 {
                        expected.push((sample.ids[..index].to_vec(), sample.ids[index], sample.loss_weights[index]));
                    }
                }
            }
            prop_assert_eq!(step.step_weight, expected.iter().map(|target| f64::from(target.2)).sum::<f64>());
            prop_assert_eq!(targets(&step), expected);
        }

        #[test]
        fn sizes_are_those_of_the_slices(samples in samples()) {
            let set: SampleSet = samples.iter().cloned().collect();
            for group in [1, 2] {
                let found = slice_sizes((0..set.len()).map(|index| set.size(index)), group);
                let slices: Vec<SliceSize> =
                    grouped_slices(&samples, group).slices.iter().map(Slice::size).collect();
                prop_assert_eq!(found, slices);
            }
        }

        #[test]
        fn slices_are_whole_samples_of_limited_length(samples in samples()) {
            let step = step_slices(&samples);
            for slice in &step.slices {
                prop_assert_eq!(slice.sequence_starts[0], 0);
                prop_assert_eq!(*slice.sequence_starts.last().unwrap(), slice.ids.len());
                prop_assert!(slice.sequence_starts.windows(2).all(|pair| pair[0] < pair[1]));
                prop_assert!(slice.ids.len() <= SLICE_TOKENS || slice.sequence_starts.len() == 2);
            }
            for pair in step.slices.windows(2) {
                let next_sample = pair[1].sequence_starts[1];
                prop_assert!(pair[0].ids.len() + next_sample > SLICE_TOKENS);
            }
        }

        #[test]
        fn slices_do_not_depend_on_the_split_into_micro_batches(samples in samples(), batch_size in 1_usize..6) {
            let micro_batches = samples.chunks(batch_size);
            prop_assert_eq!(step_slices(micro_batches.flatten()), step_slices(&samples));
        }
    }

    #[test]
    fn the_answers_of_a_pair_are_in_one_slice() {
        let samples: Vec<Sample> = [600, 300, 200, 500, 900, 900]
            .map(|length| sample(vec![1; length], (0..length).map(|index| index.min(1) as f32).collect()))
            .into();
        let lengths = |group| -> Vec<usize> {
            grouped_slices(&samples, group).slices.iter().map(|slice| slice.ids.len()).collect()
        };
        // Of each sample the last id is no input.
        assert_eq!(lengths(1), [599 + 299, 199 + 499, 899, 899]);
        assert_eq!(lengths(2), [599 + 299, 199 + 499, 899 + 899]);
        let starts = grouped_slices(&samples, 2).slices[2].sequence_starts.clone();
        assert_eq!(starts, [0, 899, 2 * 899]);
    }

    #[test]
    fn inputs_end_before_the_last_trained_id() {
        let step = step_slices([&sample(vec![1, 2, 3, 4, 5], vec![0.0, 0.0, 1.0, 1.0, 0.0])]);
        let targets =
            vec![Target { position: 1, id: 3, weight: 1.0 }, Target { position: 2, id: 4, weight: 1.0 }];
        assert_eq!(step.slices, [Slice { ids: vec![1, 2, 3], sequence_starts: vec![0, 3], targets }]);
        assert_eq!(step.tokens(), 3);
    }
}
