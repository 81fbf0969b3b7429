//! What a finished take leaves beside its lines: `summary.json`, `submission.json` for answers that are withheld, and a
//! CSV file for each subject.
//!
//! Names and keys are those of the older projects; scores are fractions throughout. Each file is there whole or not at
//! all.

use std::path::Path;

use danlu_data::RecordWriter;
use danlu_formats::write_file_atomically;
use serde::Serialize;
use serde_json::{Map, Value};

use super::Answer;
use super::folder::write_json;
use super::questions::{LETTERS, Questions};
use crate::Result;

/// Writes `summary.json` into the folder of a take.
///
/// # Errors
/// A place that cannot be written.
pub fn write_summary(folder: &Path, summary: &Map<String, Value>) -> Result<()> {
    write_json(&folder.join("summary.json"), summary)
}

/// Writes `submission.json`: for each subject the letters by the place of the question, as benchmarks with withheld answers
/// take them; questions that do not fit the model's context are left out.
///
/// # Errors
/// A place that cannot be written.
pub fn write_submission(folder: &Path, questions: &Questions, answers: &[Answer]) -> Result<()> {
    let mut rest = answers.iter();
    let mut submission: Map<String, Value> = Map::new();
    for subject in &questions.subjects {
        let letters = subject.questions.iter().zip(&mut rest).enumerate();
        let letters = letters
            .filter_map(|(index, (_, answer))| Some((index.to_string(), LETTERS[answer.chosen?].into())));
        submission.insert(subject.key.clone(), Value::Object(letters.collect()));
    }
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
    submission.serialize(&mut serializer).map_err(std::io::Error::from)?;
    text.push(b'\n');
    Ok(write_file_atomically(folder.join("submission.json"), &text)?)
}

/// Writes `{subject}_{split}.csv` for each subject: the questions, the letter that the model chose (`model_output`), and
/// whether it is right (`correctness`, 1 or 0; empty where the answer is withheld).
///
/// # Errors
/// A place that cannot be written.
pub fn write_csv(folder: &Path, questions: &Questions, answers: &[Answer]) -> Result<()> {
    let (mut rest, split) = (answers.iter(), &questions.split);
    for subject in &questions.subjects {
        // A subject's own name may hold what leads to another folder.
        let name = subject.key.replace(['/', '\\'], "_");
        let name = name.trim_start_matches('.');
        let mut writer = RecordWriter::create(&folder.join(format!("{name}_{split}.csv")))?;
        for (index, (question, answer)) in subject.questions.iter().zip(&mut rest).enumerate() {
            let id = question.id.clone().unwrap_or_else(|| index.to_string());
            let right = question.right.map_or("", |right| LETTERS[right]);
            let correctness =
                question.right.map_or("", |right| if answer.chosen == Some(right) { "1" } else { "0" });
            let head = [("id", id.as_str()), ("question", &question.question)];
            let options = LETTERS.into_iter().zip(question.options.iter().map(String::as_str));
            let tail = [
                ("answer", right),
                ("model_output", answer.chosen.map_or("", |chosen| LETTERS[chosen])),
                ("correctness", correctness),
            ];
            let row = head.into_iter().chain(options).chain(tail);
            writer.write(&row.map(|(name, value)| (name.to_owned(), Value::from(value))).collect())?;
        }
        writer.finish()?;
    }
    Ok(())
}
