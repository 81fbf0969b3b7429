//! From samples to what an objective sees of an optimizer step: slices, and of preferences what is known beside them.

use std::sync::Arc;

use danlu_data::slices::StepSlices;
use danlu_data::{Sample, SampleSet, SliceSize, grouped_slices, slice_sizes};

use super::distillation::SoftSlice;
use super::kto;
use super::reference::SetReference;
use crate::recipe::Preference;

/// Samples of a part; even, so that pairs stay whole.
const AT_ONCE: usize = 256;
/// Answers to one prompt that are passed over for that of another.
const MOST_ANSWERS: usize = 64;

/// Samples, to take steps of.
#[derive(Clone)]
pub struct Steps {
    /// The samples.
    pub samples: SampleSet,
    /// Whether they are compared or judged.
    pub preference: Option<Preference>,
    /// Longest sample.
    pub cutoff_len: usize,
    /// Their log-probabilities at the beginning of the run; none as long as they are not known.
    pub reference: Arc<SetReference>,
}

/// An optimizer step, or a part of a pass over samples.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// The samples, in order.
    pub slices: StepSlices,
    /// What the loss is divided by.
    pub units: f64,
    /// The reference of each sequence, if the objective has one.
    pub reference: Vec<f64>,
    /// The prompts with answers of other rows, of KTO.
    pub mismatched: StepSlices,
    /// Their reference.
    pub mismatched_reference: Vec<f64>,
    /// What the teacher says of each slice, of distillation.
    pub soft: Vec<SoftSlice>,
}

impl Step {
    /// A step of language modelling.
    pub fn of(slices: StepSlices) -> Self {
        Self { units: slices.step_weight, slices, ..Self::default() }
    }

    /// The number of the first sequence of a slice among those of the step.
    pub fn first_sequence(&self, slice: usize) -> usize {
        self.slices.slices[..slice].iter().map(|slice| slice.sequence_starts.len() - 1).sum()
    }
}

impl Steps {
    /// The step of these samples; pairs are whole.
    pub fn step(&self, indices: &[usize]) -> Step {
        let samples = indices.iter().map(|&index| self.samples.get(index));
        let Some(preference) = self.preference else { return Step::of(grouped_slices(samples, 1)) };
        let group = preference.group();
        let slices = grouped_slices(samples, group);
        let first_targets = |slice: &danlu_data::Slice| -> f64 {
            let starts = slice.sequence_starts.windows(2);
            let first = starts.filter_map(|bounds| {
                slice.targets.get(slice.targets.partition_point(|target| target.position < bounds[0]))
            });
            first.map(|target| f64::from(target.weight).abs()).sum()
        };
        let of = |values: &[f64]| indices.iter().filter_map(|&index| values.get(index)).copied().collect();
        Step {
            units: slices.slices.iter().map(first_targets).sum::<f64>() / group as f64,
            slices,
            reference: of(&self.reference.answers),
            mismatched: match preference {
                Preference::Judged => grouped_slices(indices.iter().map(|&index| self.mismatched(index)), 1),
                Preference::Pairs(_) => StepSlices::default(),
            },
            mismatched_reference: of(&self.reference.mismatched),
            soft: Vec::new(),
        }
    }

    /// What the slices of the step of these samples hold, without making them.
    pub fn sizes(&self, indices: &[usize]) -> Vec<SliceSize> {
        let mut sizes = slice_sizes(indices.iter().map(|&index| self.samples.size(index)), self.group());
        if self.preference == Some(Preference::Judged) {
            let mismatched = indices.iter().map(|&index| {
                let sample = self.mismatched(index);
                SliceSize { tokens: sample.input_length(), targets: sample.trained_tokens() }
            });
            sizes.extend(slice_sizes(mismatched, 1));
        }
        sizes
    }

    /// Samples that stay together.
    pub fn group(&self) -> usize {
        self.preference.map_or(1, Preference::group)
    }

    /// All samples in order, in parts that take little memory; pairs are whole.
    pub fn parts(&self) -> impl Iterator<Item = Step> {
        let starts = (0..self.samples.len()).step_by(AT_ONCE);
        starts.map(|start| {
            let end = self.samples.len().min(start + AT_ONCE);
            self.step(&(start..end).collect::<Vec<_>>())
        })
    }

    /// The prompt of a sample with the answer of the nearest one before it that answers another prompt, such as not the other
    /// answer of a pair; the first goes on from the last.
    fn mismatched(&self, index: usize) -> Sample {
        let (count, sample) = (self.samples.len(), self.samples.get(index));
        let before = |distance| self.samples.get((index + count - distance % count) % count);
        let other =
            (1..count.min(MOST_ANSWERS)).map(before).find(|other| !kto::is_same_prompt(&sample, other));
        kto::mismatched(&sample, &other.unwrap_or_else(|| before(1)), self.cutoff_len)
    }

    /// Tokens of the longest sample, or of all samples that stay together.
    pub fn longest(&self) -> usize {
        let group = self.group();
        let lengths = self.samples.lengths();
        let together =
            lengths.chunks(group).map(|group| group.iter().sum::<u32>() as usize).max().unwrap_or(0);
        match self.preference {
            Some(Preference::Judged) => {
                let mismatched = (0..self.samples.len()).map(|index| self.mismatched(index).ids.len());
                mismatched.max().unwrap_or(0).max(together)
            }
            _ => together,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use danlu_data::Source;

    use super::*;

    #[test]
    fn no_prompt_is_mismatched_with_an_answer_of_its_own() {
        let sample = |ids: [u32; 3], weight| Sample {
            ids: ids.into(),
            loss_weights: vec![0.0, 0.0, weight],
            source: Source { path: Path::new("pairs").into(), line: 1 },
        };
        let pairs = [
            sample([1, 2, 3], 1.0),
            sample([1, 2, 4], -1.0),
            sample([5, 6, 7], 1.0),
            sample([5, 6, 8], -1.0),
        ];
        let steps = Steps {
            samples: pairs.into_iter().collect(),
            preference: Some(Preference::Judged),
            cutoff_len: 8,
            reference: Arc::default(),
        };
        let mismatched: Vec<_> = (0..4).map(|index| steps.mismatched(index).ids).collect();
        assert_eq!(mismatched, [[1, 2, 8], [1, 2, 8], [5, 6, 4], [5, 6, 4]]);
    }
}
