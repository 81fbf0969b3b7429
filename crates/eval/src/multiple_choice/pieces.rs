//! Questions in pieces: what is asked together, written together, and asked again as a whole after a kill.
//!
//! A piece is a function of the questions alone. Packing decides the last bits of a log-likelihood, so whole pieces are
//! what makes an evaluation that was cut off end with the same numbers as one that was not.

use super::Options;
use super::questions::{Questions, Subject};

/// Most questions of a piece; all are of one subject. Reasons are long, and written one after another.
const PIECE: usize = 64;

/// The questions in pieces, in their order, each with the place in its subject that it begins at.
pub(super) fn pieces<'q>(
    questions: &'q Questions,
    options: &Options,
) -> impl Iterator<Item = (usize, Questions)> + 'q {
    let most = if options.reasoning.is_some() { 1 } else { PIECE };
    questions.subjects.iter().flat_map(move |subject| {
        subject.questions.chunks(most).enumerate().map(move |(number, part)| {
            let subject = Subject {
                key: subject.key.clone(),
                name: subject.name.clone(),
                examples: subject.examples.clone(),
                questions: part.to_vec(),
            };
            let part = Questions {
                benchmark: questions.benchmark,
                split: questions.split.clone(),
                subjects: vec![subject],
                shots: questions.shots,
                missing: Vec::new(),
            };
            (most * number, part)
        })
    })
}
