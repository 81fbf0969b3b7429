//! Log-likelihoods of many continuations: packed without padding, what is shared is computed once.
//!
//! It knows ids only; which texts they are is said by those who ask.

use danlu_model::{Activations, Keep, Model, PackedTokens, Resident, Target};

use crate::Result;

/// Tokens of a forward, unless a single sequence is longer.
const SLICE_TOKENS: usize = 1024;

/// A continuation of a prompt; neither is empty, and together they exceed the model's context by at most the one
/// last id, which is no input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// Prompt and continuation.
    pub(crate) ids: Vec<u32>,
    /// Where the continuation begins.
    pub(crate) start: usize,
}

impl Request {
    /// What the model must see: all but the last id.
    fn inputs(&self) -> &[u32] {
        &self.ids[..self.ids.len() - 1]
    }
}

/// A sequence of a slice and the requests that are answered from it.
struct Shared<'a> {
    inputs: &'a [u32],
    requests: Vec<usize>,
}

/// log p(continuation | prompt) of each request, natural logarithm, summed over the continuation's tokens.
/// `progress` is told how many requests of how many are answered.
pub(crate) fn log_likelihoods(
    model: &Model,
    requests: &[Request],
    mut progress: impl FnMut(usize, usize),
) -> Result<Vec<f64>> {
    let sequences = share(requests);
    let targets_of = |sequence: &Shared| -> usize {
        sequence.requests.iter().map(|&index| requests[index].ids.len() - requests[index].start).sum()
    };
    // Both tokens and targets of a slice live in buffers of this many rows.
    let capacity = sequences
        .iter()
        .map(|sequence| sequence.inputs.len().max(targets_of(sequence)))
        .fold(SLICE_TOKENS, usize::max);
    let mut activations = Activations::new(model, capacity, Keep::Nothing);
    let mut sums = vec![0.0; requests.len()];
    let mut answered = 0;
    let mut rest = &sequences[..];
    while !rest.is_empty() {
        let (mut tokens, mut targets) = (0, 0);
        let fits = |sequence: &&Shared| {
            tokens += sequence.inputs.len();
            targets += targets_of(sequence);
            tokens <= capacity && targets <= capacity
        };
        let (slice, after) = rest.split_at(rest.iter().take_while(fits).count());
        rest = after;
        score_slice(model, requests, slice, &mut activations, &mut sums)?;
        answered += slice.iter().map(|sequence| sequence.requests.len()).sum::<usize>();
        progress(answered, requests.len());
    }
    Ok(sums)
}

/// Joins requests whose inputs begin the inputs of another, such as the four letters after one question, and puts the
/// longest sequences first, so that those of a slice are about equally long.
fn share(requests: &[Request]) -> Vec<Shared<'_>> {
    let mut order: Vec<usize> = (0..requests.len()).collect();
    order.sort_by_key(|&index| requests[index].inputs());
    let mut sequences: Vec<Shared> = Vec::new();
    // In this order the inputs that begin with others come right behind them.
    for index in order.into_iter().rev() {
        let inputs = requests[index].inputs();
        match sequences.last_mut().filter(|sequence| sequence.inputs.starts_with(inputs)) {
            Some(sequence) => sequence.requests.push(index),
            None => sequences.push(Shared { inputs, requests: vec![index] }),
        }
    }
    sequences.sort_by_key(|sequence| std::cmp::Reverse(sequence.inputs.len()));
    sequences
}

fn score_slice(
    model: &Model,
    requests: &[Request],
    slice: &[Shared],
    activations: &mut Activations,
    sums: &mut [f64],
) -> Result<()> {
    let tokens = PackedTokens::new(slice.iter().map(|sequence| sequence.inputs));
    let mut targets = Vec::new();
    let mut owners = Vec::new();
    let mut first_row = 0;
    for sequence in slice {
        for &index in &sequence.requests {
            let Request { ids, start } = &requests[index];
            for (place, &id) in ids.iter().enumerate().skip(*start) {
                targets.push(Target { position: (first_row + place - 1) as u32, id });
                owners.push(index);
            }
        }
        first_row += sequence.inputs.len();
    }
    model.forward(&tokens, activations, &mut Resident)?;
    for (owner, score) in owners.into_iter().zip(model.score(&tokens, &targets, activations)) {
        sums[owner] += f64::from(score.log_probability);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use danlu_model::{Precision, Rest, open};
    use proptest::prelude::*;

    use super::*;

    fn model() -> Model {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../model/tests/golden/gqa-untied"));
        open(folder, Precision::F32, Rest::Frozen).unwrap().model
    }

    fn requests() -> impl Strategy<Value = Vec<Request>> {
        // Few different ids and short prompts: many requests share their beginning.
        let continuations = prop::collection::vec(prop::collection::vec(0_u32..3, 1..5), 1..5);
        let one =
            (prop::collection::vec(0_u32..3, 1..12), continuations).prop_map(|(prompt, continuations)| {
                let join = |continuation: Vec<u32>| Request {
                    ids: [&prompt[..], &continuation].concat(),
                    start: prompt.len(),
                };
                continuations.into_iter().map(join).collect::<Vec<_>>()
            });
        prop::collection::vec(one, 1..8).prop_map(|requests| requests.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn packed_and_shared_equals_one_by_one(requests in requests()) {
            let model = model();
            let packed = log_likelihoods(&model, &requests, |_, _| {}).unwrap();
            for (request, packed) in requests.iter().zip(packed) {
                let alone = log_likelihoods(&model, std::slice::from_ref(request), |_, _| {}).unwrap()[0];
                prop_assert!((packed - alone).abs() < 1e-5 * alone.abs(), "{packed} against {alone}");
            }
        }

        #[test]
        fn every_request_is_in_one_sequence_that_begins_with_it(requests in requests()) {
            let sequences = share(&requests);
            let mut seen = vec![0; requests.len()];
            for sequence in &sequences {
                for &index in &sequence.requests {
                    seen[index] += 1;
                    prop_assert!(sequence.inputs.starts_with(requests[index].inputs()));
                }
            }
            prop_assert!(seen.iter().all(|&count| count == 1));
            prop_assert!(sequences.is_sorted_by_key(|sequence| std::cmp::Reverse(sequence.inputs.len())));
        }
    }

    #[test]
    fn four_letters_need_one_sequence() {
        let letters: Vec<Request> =
            (0..4).map(|letter| Request { ids: vec![7, 8, 9, letter], start: 3 }).collect();
        assert_eq!(share(&letters).len(), 1);
    }

    #[test]
    fn more_than_one_slice_is_scored_and_counted() {
        let model = model();
        let requests: Vec<Request> = (0..60)
            .map(|index| Request { ids: (0..40).map(|place| (index + place * 7) % 90).collect(), start: 20 })
            .collect();
        let mut calls = Vec::new();
        let sums = log_likelihoods(&model, &requests, |done, total| calls.push((done, total))).unwrap();
        assert!(calls.len() > 1 && calls.last() == Some(&(60, 60)), "{calls:?}");
        assert!(sums.iter().all(|&sum| sum < 0.0));
    }
}
