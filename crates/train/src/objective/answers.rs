//! Answers as wholes: what the scores of a slice say of each of its sequences.

use std::ops::Range;

use danlu_data::Slice;
use danlu_kernels::cross_entropy::Score;

/// An answer and how probable the model finds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// log p of all its tokens together.
    pub log_probability: f64,
    /// The weight of its row, negative if it is unwanted.
    pub weight: f64,
    /// Its tokens among the slice's targets; at least one.
    pub targets: Range<usize>,
}

impl Answer {
    /// Number of its tokens.
    pub fn tokens(&self) -> f64 {
        self.targets.len() as f64
    }

    /// log p of a token on average.
    pub fn mean(&self) -> f64 {
        self.log_probability / self.tokens()
    }
}

/// The answers of a slice, one for each sequence.
pub fn answers(slice: &Slice, scores: &[Score]) -> Vec<Answer> {
    let mut start = 0;
    let answer = |bounds: &[usize]| {
        let count = slice.targets[start..].iter().take_while(|target| target.position < bounds[1]).count();
        let targets = start..start + count;
        start = targets.end;
        let log_probabilities = scores[targets.clone()].iter().map(|score| f64::from(score.log_probability));
        Answer {
            log_probability: log_probabilities.sum(),
            weight: f64::from(slice.targets[targets.start].weight),
            targets,
        }
    };
    slice.sequence_starts.windows(2).map(answer).collect()
}
