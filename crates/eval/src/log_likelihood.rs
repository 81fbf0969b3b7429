//! Log-likelihoods of many continuations: packed without padding, what is shared is computed once.
//!
//! Requests after the same text are answered from one sequence. Sequences that begin alike, such as the questions of a
//! subject after its examples, follow a prefix that runs once. It knows ids only; which texts they are is said by those
//! who ask.

use std::ops::Range;

use danlu_model::{Activations, Keep, Model, PackedTokens, Resident, Target};

use crate::Result;

/// Tokens of a forward, unless a single sequence is longer.
const SLICE_TOKENS: usize = 1024;
/// Keys that the sequences of a forward see in all, unless a single one sees more: those of a prefix are copied for each.
const SLICE_KEYS: usize = 16 * SLICE_TOKENS;
/// A beginning of fewer tokens does not pay for a forward of its own.
const SHORTEST_PREFIX: usize = 16;

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

/// A sequence and the requests that are answered from it.
struct Shared<'a> {
    inputs: &'a [u32],
    requests: Vec<usize>,
    /// Tokens to predict.
    targets: usize,
    /// Inputs before the first that predicts one.
    silent: usize,
}

/// Sequences that begin with the same `prefix` tokens.
#[derive(Debug, PartialEq, Eq)]
struct Group {
    prefix: usize,
    sequences: Range<usize>,
}

/// log p(continuation | prompt) of each request, natural logarithm, summed over the continuation's tokens.
/// `progress` is told how many requests of how many are answered.
pub(crate) fn log_likelihoods(
    model: &Model,
    requests: &[Request],
    mut progress: impl FnMut(usize, usize),
) -> Result<Vec<f64>> {
    let depends_on_length = model.config().angles_depend_on_length();
    let sequences = share(requests, depends_on_length);
    let mut groups = match depends_on_length {
        true => (0..sequences.len()).map(|index| Group { prefix: 0, sequences: index..index + 1 }).collect(),
        false => groups(&sequences),
    };
    // Those that can be packed together stand side by side.
    groups.sort_by_key(|group| group.prefix == 0);
    // Tokens and targets of a slice live in buffers of this many rows, and positions reach as far.
    let capacity = sequences
        .iter()
        .map(|sequence| sequence.inputs.len().max(sequence.targets))
        .fold(SLICE_TOKENS, usize::max);
    let mut scorer = Scorer {
        model,
        requests,
        sequences: &sequences,
        capacity,
        activations: Activations::new(model, capacity, Keep::Nothing),
        sums: vec![0.0; requests.len()],
        answered: 0,
    };
    let mut rest = &groups[..];
    while let Some(first) = rest.first() {
        let mut tokens = 0;
        let together = rest.iter().take_while(|group| {
            tokens += group.prefix;
            (group.prefix > 0) == (first.prefix > 0) && tokens <= capacity
        });
        let (now, later) = rest.split_at(together.count());
        rest = later;
        scorer.score(now, &mut progress)?;
    }
    Ok(scorer.sums)
}

/// Joins requests whose inputs begin the inputs of another, such as the four letters after one question. Sequences that
/// begin alike stand side by side. Where a token's angles depend on how long its sequence is, only inputs that are the same
/// are joined.
fn share(requests: &[Request], depends_on_length: bool) -> Vec<Shared<'_>> {
    let mut order: Vec<usize> = (0..requests.len()).collect();
    order.sort_by_key(|&index| requests[index].inputs());
    let mut sequences: Vec<Shared> = Vec::new();
    // In this order the inputs that begin with others come right behind them.
    for index in order.into_iter().rev() {
        let request = &requests[index];
        let (inputs, targets, silent) =
            (request.inputs(), request.ids.len() - request.start, request.start - 1);
        let holds = |sequence: &&mut Shared| match depends_on_length {
            true => sequence.inputs == inputs,
            false => sequence.inputs.starts_with(inputs),
        };
        match sequences.last_mut().filter(holds) {
            Some(sequence) => {
                sequence.requests.push(index);
                sequence.targets += targets;
                sequence.silent = sequence.silent.min(silent);
            }
            None => sequences.push(Shared { inputs, requests: vec![index], targets, silent }),
        }
    }
    sequences
}

/// Neighbours with a common beginning, as many as save tokens by it.
fn groups(sequences: &[Shared]) -> Vec<Group> {
    let mut groups = Vec::new();
    let mut start = 0;
    while start < sequences.len() {
        let (mut end, mut prefix, mut saved) = (start + 1, sequences[start].silent, 0);
        while let Some(next) = sequences.get(end) {
            let common = common_beginning(sequences[end - 1].inputs, next.inputs);
            let common = common.min(prefix).min(next.silent);
            if common < SHORTEST_PREFIX || common * (end - start) < saved {
                break;
            }
            (prefix, saved) = (common, common * (end - start));
            end += 1;
        }
        groups.push(Group { prefix: if end - start > 1 { prefix } else { 0 }, sequences: start..end });
        start = end;
    }
    groups
}

fn common_beginning(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

struct Scorer<'a> {
    model: &'a Model,
    requests: &'a [Request],
    sequences: &'a [Shared<'a>],
    capacity: usize,
    activations: Activations,
    sums: Vec<f64>,
    answered: usize,
}

impl Scorer<'_> {
    /// Groups that all have a prefix, or all have none.
    fn score(&mut self, groups: &[Group], progress: &mut impl FnMut(usize, usize)) -> Result<()> {
        let sequences = self.sequences;
        let prefix_of = |group: &Group| &sequences[group.sequences.start].inputs[..group.prefix];
        let prefixes = PackedTokens::new(groups.iter().map(prefix_of).filter(|prefix| !prefix.is_empty()));
        if !prefixes.is_empty() {
            self.model.forward_prefixes(&prefixes, &mut self.activations)?;
        }
        // The sequences of a slice are about equally long.
        let members = groups.iter().enumerate();
        let mut members: Vec<(usize, usize, usize)> = members
            .flat_map(|(index, group)| group.sequences.clone().map(move |at| (at, index, group.prefix)))
            .collect();
        members.sort_by_key(|&(at, _, prefix)| std::cmp::Reverse(sequences[at].inputs.len() - prefix));
        let mut rest = &members[..];
        while !rest.is_empty() {
            let (mut tokens, mut targets, mut keys) = (0, 0, 0);
            let fits = |&&(at, _, prefix): &&(usize, usize, usize)| {
                let first = keys == 0;
                tokens += sequences[at].inputs.len() - prefix;
                targets += sequences[at].targets;
                keys += sequences[at].inputs.len();
                tokens <= self.capacity && targets <= self.capacity && (first || keys <= SLICE_KEYS)
            };
            let (slice, after) = rest.split_at(rest.iter().take_while(fits).count());
            rest = after;
            self.score_slice(&prefixes, slice)?;
            self.answered += slice.iter().map(|&(at, ..)| sequences[at].requests.len()).sum::<usize>();
            progress(self.answered, self.requests.len());
        }
        Ok(())
    }

    /// Sequences, each with the index and the length of its prefix.
    fn score_slice(&mut self, prefixes: &PackedTokens, slice: &[(usize, usize, usize)]) -> Result<()> {
        let own =
            |&(at, index, prefix): &(usize, usize, usize)| (index, &self.sequences[at].inputs[prefix..]);
        let tokens = match prefixes.is_empty() {
            true => PackedTokens::new(slice.iter().map(own).map(|(_, ids)| ids)),
            false => PackedTokens::following(prefixes, slice.iter().map(own)),
        };
        let mut targets = Vec::new();
        let mut owners = Vec::new();
        let mut first_row = 0;
        for &(at, _, prefix) in slice {
            for &index in &self.sequences[at].requests {
                let Request { ids, start } = &self.requests[index];
                for (place, &id) in ids.iter().enumerate().skip(*start) {
                    targets.push(Target { position: (first_row + place - 1 - prefix) as u32, id });
                    owners.push(index);
                }
            }
            first_row += self.sequences[at].inputs.len() - prefix;
        }
        self.model.forward(&tokens, &mut self.activations, &mut Resident)?;
        let scores = self.model.score(&tokens, &targets, &mut self.activations);
        for (owner, score) in owners.into_iter().zip(scores) {
            self.sums[owner] += f64::from(score.log_probability);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use danlu_model::{Config, Precision, Rest, RopeScaling, open};
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
        let subject = (prop::collection::vec(0_u32..3, 1..30), prop::collection::vec(one, 1..8));
        let subject = subject.prop_map(|(beginning, requests)| {
            let behind = |Request { ids, start }: Request| Request {
                ids: [&beginning[..], &ids].concat(),
                start: beginning.len() + start,
            };
            requests.concat().into_iter().map(behind).collect::<Vec<_>>()
        });
        prop::collection::vec(subject, 1..3).prop_map(|subjects| subjects.concat())
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
            let sequences = share(&requests, false);
            let mut seen = vec![0; requests.len()];
            for sequence in &sequences {
                for &index in &sequence.requests {
                    seen[index] += 1;
                    prop_assert!(sequence.inputs.starts_with(requests[index].inputs()));
                }
            }
            prop_assert!(seen.iter().all(|&count| count == 1));
            let groups = groups(&sequences);
            prop_assert!(groups.iter().flat_map(|group| group.sequences.clone()).eq(0..sequences.len()));
            for group in &groups {
                let members = &sequences[group.sequences.clone()];
                let prefix = &members[0].inputs[..group.prefix];
                prop_assert!(members.iter().all(|member| member.inputs.starts_with(prefix)));
                prop_assert!(members.iter().all(|member| member.silent >= group.prefix));
            }
        }
    }

    #[test]
    fn questions_of_a_subject_share_their_examples() {
        let request = |subject: u32, question: u32| Request {
            ids: [vec![subject; 40], vec![question; 5 + question as usize], vec![7]].concat(),
            start: 45 + question as usize,
        };
        let requests: Vec<Request> = [(1, 2), (1, 3), (1, 4), (2, 1), (2, 3)]
            .map(|(subject, question)| request(subject, question))
            .into();
        let found: Vec<(usize, usize)> = groups(&share(&requests, false))
            .iter()
            .map(|group| (group.prefix, group.sequences.len()))
            .collect();
        assert_eq!(found, [(40, 2), (40, 3)]);
    }

    #[test]
    fn four_letters_need_one_sequence() {
        let letters: Vec<Request> =
            (0..4).map(|letter| Request { ids: vec![7, 8, 9, letter], start: 3 }).collect();
        assert_eq!([false, true].map(|depends_on_length| share(&letters, depends_on_length).len()), [1, 1]);
    }

    #[test]
    fn dynamic_angles_are_those_of_each_request() {
        let config = Config {
            vocab_size: 97,
            hidden_size: 32,
            intermediate_size: 64,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 8,
            max_position_embeddings: 16,
            initializer_range: 0.3,
            rope_scaling: RopeScaling::Dynamic { factor: 4.0 },
            ..Config::default()
        };
        let model = Model::zeros(config, Precision::F32).initialize(7);
        // Each is the beginning of the next, beyond the original context.
        let ids: Vec<u32> = (0..40).map(|place| 7 * place % 90).collect();
        let requests: Vec<Request> =
            [20, 28, 40].map(|length| Request { ids: ids[..length].to_vec(), start: 18 }).into();
        let together = log_likelihoods(&model, &requests, |_, _| {}).unwrap();
        for (request, together) in requests.iter().zip(together) {
            let alone = log_likelihoods(&model, std::slice::from_ref(request), |_, _| {}).unwrap()[0];
            assert!((together - alone).abs() < 1e-5 * alone.abs(), "{together} against {alone}");
        }
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
