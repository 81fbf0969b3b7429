//! What decides the answers: questions, prompts, vocabulary. Stated in results, and compared where an evaluation goes on.

use std::fmt::Write;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::questions::{LETTERS, Question, Questions, Subject};
use super::{Backend, Options};
use crate::Result;

/// The settings of an evaluation, but for where its model and its questions are.
///
/// # Errors
/// A model without a vocabulary.
pub fn settings<'a>(
    backend: impl Into<Backend<'a>>,
    questions: &Questions,
    options: &Options,
) -> Result<Map<String, Value>> {
    let template = options.template.map(|template| {
        let text = format!("{}\n{}", template.source(), json!(template.variables()));
        json!({"sha256": hexadecimal(&Sha256::digest(text)), "day": template.day()})
    });
    let of_model = match backend.into() {
        Backend::Opened(opened) => vec![
            ("tokenizer".into(), opened.tokenizer()?.fingerprint().into()),
            ("context_length".into(), opened.model.config().context_length().into()),
        ],
        Backend::Server(_) => vec![("server_chat".into(), options.server_chat.into())],
    };
    let of_questions = [
        ("danlu".into(), env!("CARGO_PKG_VERSION").into()),
        ("benchmark".into(), json!(questions.benchmark)),
        ("split".into(), questions.split.clone().into()),
        ("questions".into(), questions.len().into()),
        ("questions_sha256".into(), hash(questions, |subject| &subject.questions).into()),
        ("examples_sha256".into(), hash(questions, |subject| &subject.examples).into()),
        ("scoring".into(), options.decides()),
        ("shots".into(), questions.shots.into()),
        ("template".into(), json!(template)),
        ("one_turn".into(), options.one_turn.into()),
        ("reasoning".into(), json!(options.reasoning)),
    ];
    Ok(of_questions.into_iter().chain(of_model).collect())
}

/// SHA-256 of the questions, or of the examples before them, with the right answers: one line of JSON for each.
fn hash(questions: &Questions, part: fn(&Subject) -> &[Question]) -> String {
    let mut hash = Sha256::new();
    for subject in &questions.subjects {
        hash.update(format!("{}\n", json!([subject.key, part(subject).len()])));
        for question in part(subject) {
            let right = question.right.map(|right| LETTERS[right]);
            let line = json!([question.question, question.options, right, question.explanation]);
            hash.update(format!("{line}\n"));
        }
    }
    hexadecimal(&hash.finalize())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        _ = write!(text, "{byte:02x}");
        text
    })
}
