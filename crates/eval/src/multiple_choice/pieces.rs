//! Questions in pieces: what is asked together, written together, and asked again as a whole after a kill.
//!
//! A piece is a function of the questions alone. Packing decides the last bits of a log-likelihood, so whole pieces are
//! what makes an evaluation that was cut off end with the same numbers as one that was not.

use super::questions::{Questions, Subject};
use super::{Backend, Options};

/// Most questions of a piece; all are of one subject. Reasons are long, and written one after another.
const PIECE: usize = 64;

/// Most questions that are asked together.
pub(super) fn size(backend: Backend, options: &Options) -> usize {
    match backend {
        // Each answer is kept as it comes; options are scored only when the lengths of all their prompts are known.
        Backend::Server(_) if options.reasoning.is_some() => usize::MAX,
        Backend::Server(_) => PIECE,
        Backend::Opened(_) => kept(backend, options),
    }
}

/// Questions whose answers stay only together.
pub(super) fn kept(backend: Backend, options: &Options) -> usize {
    match backend {
        Backend::Opened(_) if options.reasoning.is_none() => PIECE,
        _ => 1,
    }
}

/// The questions behind the first `done` ones in pieces of at most `most`, in their order, each with the place in its subject that
/// it begins at.
pub(super) fn pieces(
    questions: &Questions,
    most: usize,
    done: usize,
) -> impl Iterator<Item = (usize, Questions)> {
    let mut rest = done;
    questions.subjects.iter().flat_map(move |subject| {
        let first = rest.min(subject.questions.len());
        rest -= first;
        subject.questions[first..].chunks(most).enumerate().map(move |(number, part)| {
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
            (first + most * number, part)
        })
    })
}
