//! A packed row of tokens: sequences one behind the other, without padding.

use std::ops::Range;

use danlu_kernels::attention::Sequence;

/// Tokens of one or more sequences and where each begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackedTokens {
    ids: Vec<u32>,
    positions: Vec<u32>,
    sequences: Vec<Sequence>,
    /// The rows of the prefix that each sequence follows; empty if none does.
    follows: Vec<Range<usize>>,
    training: Option<TrainingPlace>,
}

/// Where packed tokens are in a training: what its randomness is a function of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainingPlace {
    /// The optimizer step.
    pub step: u64,
    /// The number of the first sequence among those of the step.
    pub first_sequence: u64,
}

/// A token to predict: the hidden state at `position` (in the packed row) gives the probability of `id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Row of the hidden state: the token before the predicted one.
    pub position: u32,
    /// The predicted token.
    pub id: u32,
}

impl PackedTokens {
    /// Packs sequences; empty ones are left out. Positions restart at each.
    pub fn new<'a>(sequences: impl IntoIterator<Item = &'a [u32]>) -> Self {
        let mut packed = Self::default();
        for ids in sequences {
            packed.push(ids);
        }
        packed
    }

    /// Packs sequences that go on behind the sequence of `prefixes` with this index; their keys are that one's and their
    /// own. Empty ones are left out. For a forward after [`Model::forward_prefixes`](crate::Model::forward_prefixes).
    ///
    /// # Panics
    /// If there is no such prefix.
    pub fn following<'a>(prefixes: &Self, sequences: impl IntoIterator<Item = (usize, &'a [u32])>) -> Self {
        let mut packed = Self::default();
        for (prefix, ids) in sequences {
            let prefix = prefixes.sequences[prefix].keys.clone();
            packed.push_behind(prefix.len(), ids);
            if !ids.is_empty() {
                packed.follows.push(prefix);
            }
        }
        packed
    }

    /// Adds tokens of a sequence that has `keys` in a cache, theirs the last.
    pub(crate) fn push_cached(&mut self, ids: &[u32], keys: Range<usize>) {
        let queries = self.ids.len()..self.ids.len() + ids.len();
        self.ids.extend_from_slice(ids);
        self.positions.extend((keys.len() - ids.len()) as u32..keys.len() as u32);
        self.sequences.push(Sequence { queries, keys });
    }

    fn push(&mut self, ids: &[u32]) {
        self.push_behind(0, ids);
    }

    fn push_behind(&mut self, past: usize, ids: &[u32]) {
        if ids.is_empty() {
            return;
        }
        let queries = self.ids.len()..self.ids.len() + ids.len();
        let first_key = self.sequences.last().map_or(0, |last| last.keys.end);
        self.ids.extend_from_slice(ids);
        self.positions.extend(past as u32..(past + ids.len()) as u32);
        self.sequences.push(Sequence { queries, keys: first_key..first_key + past + ids.len() });
    }

    /// The same as tokens to train on: a forward drops and disturbs what the model's settings say.
    #[must_use]
    pub fn in_training(mut self, place: TrainingPlace) -> Self {
        self.training = Some(place);
        self
    }

    pub(crate) fn training_place(&self) -> Option<TrainingPlace> {
        self.training
    }

    pub(crate) fn follows(&self) -> &[Range<usize>] {
        &self.follows
    }

    /// All tokens.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Each token's position in its sequence.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// The sequences.
    pub fn sequences(&self) -> &[Sequence] {
        &self.sequences
    }

    /// T: number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}
