//! What decides the answers: questions, prompts, vocabulary. Stated in results, and compared where an evaluation goes on.

use std::fmt::Write;

use danlu_model::Opened;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::Options;
use super::questions::{LETTERS, Question, Questions, Subject};
use crate::Result;

/// The settings of an evaluation, but for where its model and its questions are.
///
/// # Errors
/// A model without a vocabulary.
pub fn settings(opened: &Opened, questions: &Questions, options: &Options) -> Result<Map<String, Value>> {
    let template = options.template.map(|template| {
        let text = format!("{}\n{}", template.source(), json!(template.variables()));
        json!({"sha256": hexadecimal(&Sha256::digest(text)), "day": template.day()})
    });
    Ok(Map::from_iter([
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
        ("tokenizer".into(), opened.tokenizer()?.fingerprint().into()),
        ("context_length".into(), opened.model.config().context_length().into()),
    ]))
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
