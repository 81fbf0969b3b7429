//! Entity extraction: precision, recall and F1 of the entities that answers name, by type and in all.
//!
//! An answer names one entity a line, `entity_type`; `没有` (or nothing) names none. An entity counts once a row, and only if
//! text and type are both right. Nothing is generated here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use danlu_data::Source;
use fs_err as fs;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{Error, Result};

/// What says that there is no entity.
pub const NONE: &str = "没有";
/// The type of a line that names none.
pub const NO_TYPE: &str = "(no type)";

const QUESTIONS: [&str; 3] = ["instruct", "instruction", "prompt"];
const QUERIES: [&str; 2] = ["query", "input"];
const ANSWERS: [&str; 5] = ["answer", "output", "response", "label", "completion"];
const PREDICTIONS: [&str; 6] = ["prediction", "predict", "Output", "text", "output", "answer"];

/// A row with its right answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What is asked: instruction, line break, text.
    pub question: String,
    /// The right answer.
    pub answer: String,
    /// Its number, from 1.
    pub number: usize,
}

/// An entity: text and type.
pub type Entity = (String, String);

/// The entities that an answer names.
#[must_use]
pub fn entities(answer: &str) -> BTreeSet<Entity> {
    let lines = answer.lines().map(str::trim).filter(|line| !line.is_empty() && *line != NONE);
    lines
        .map(|line| match line.rsplit_once('_') {
            Some((text, kind)) if !kind.trim().is_empty() => (text.trim().to_owned(), kind.trim().to_owned()),
            _ => (line.trim_end_matches('_').to_owned(), NO_TYPE.to_owned()),
        })
        .collect()
}

/// Counts of one kind of entity, and what follows from them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Counts {
    /// Entities that are right.
    pub right: u64,
    /// Entities that the predictions name.
    pub predicted: u64,
    /// Entities that there are.
    pub expected: u64,
    /// Share of the predicted that are right.
    pub precision: f64,
    /// Share of the expected that are found.
    pub recall: f64,
    /// Their harmonic mean.
    pub f1: f64,
}

impl Counts {
    fn add(&mut self, right: u64, predicted: u64, expected: u64) {
        self.right += right;
        self.predicted += predicted;
        self.expected += expected;
        let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        self.precision = share(self.right, self.predicted);
        self.recall = share(self.right, self.expected);
        self.f1 = share(2 * self.right, self.predicted + self.expected);
    }
}

/// How good predictions are.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Score {
    /// Rows that were scored.
    pub rows: u64,
    /// Over all entities of all rows (micro).
    pub micro: Counts,
    /// By type.
    pub types: BTreeMap<String, Counts>,
    /// Rows in which there are entities.
    pub rows_with_entities: u64,
    /// Over the entities of those rows alone.
    pub with_entities: Counts,
    /// Rows in which there are none.
    pub rows_without_entities: u64,
    /// Share of those for which none was predicted.
    pub rightly_none: f64,
    /// Share of all rows with exactly the right entities.
    pub exact: f64,
}

/// Compares answers with predictions, pair by pair.
#[must_use]
pub fn score<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Score {
    let mut score = Score::default();
    let (mut rightly_none, mut exact) = (0_u64, 0_u64);
    for (answer, prediction) in pairs {
        let (expected, predicted) = (entities(answer), entities(prediction));
        let right = expected.intersection(&predicted).count() as u64;
        let counts = (right, predicted.len() as u64, expected.len() as u64);
        score.rows += 1;
        score.micro.add(counts.0, counts.1, counts.2);
        for entity in expected.union(&predicted) {
            let (is_expected, is_predicted) = (expected.contains(entity), predicted.contains(entity));
            let of_type = score.types.entry(entity.1.clone()).or_default();
            of_type.add(
                u64::from(is_expected && is_predicted),
                u64::from(is_predicted),
                u64::from(is_expected),
            );
        }
        exact += u64::from(expected == predicted);
        if expected.is_empty() {
            score.rows_without_entities += 1;
            rightly_none += u64::from(predicted.is_empty());
        } else {
            score.rows_with_entities += 1;
            score.with_entities.add(counts.0, counts.1, counts.2);
        }
    }
    score.rightly_none = rightly_none as f64 / score.rows_without_entities.max(1) as f64;
    score.exact = exact as f64 / score.rows.max(1) as f64;
    score
}

/// Reads rows: JSON lines or a JSON array of `instruct`, `query`, `answer`, or the like, whatever the file's ending.
///
/// # Errors
/// A file that cannot be read, a row without an answer or a question.
pub fn read_rows(path: &Path) -> Result<Vec<Row>> {
    let objects = objects(path)?;
    let row = |(index, (line, object)): (usize, (u64, Map<String, Value>))| {
        let missing = |what: &str, names: &[&str]| Error::Row {
            at: Source { path: Arc::from(path), line },
            problem: format!("has no {what}: expected one of `{}`", names.join("`, `")),
        };
        let answer = text_of(&object, &ANSWERS).ok_or_else(|| missing("answer", &ANSWERS))?;
        let question = text_of(&object, &QUESTIONS).ok_or_else(|| missing("question", &QUESTIONS))?;
        let query = text_of(&object, &QUERIES).filter(|query| !query.is_empty());
        let question = query.map_or_else(|| question.clone(), |query| format!("{question}\n{query}"));
        Ok(Row { question, answer, number: index + 1 })
    };
    objects.into_iter().enumerate().map(row).collect()
}

/// Reads predictions in the order of the rows: JSON lines or an array, of texts or of objects with `prediction`, `predict` (as
/// LLaMA-Factory writes it), `Output` or `text`.
///
/// # Errors
/// A file that cannot be read, or an object without any of these.
pub fn read_predictions(path: &Path) -> Result<Vec<String>> {
    let prediction = |(line, value): (u64, Value)| match &value {
        Value::String(text) => Ok(text.clone()),
        Value::Object(object) => text_of(object, &PREDICTIONS).ok_or_else(|| Error::Row {
            at: Source { path: Arc::from(path), line },
            problem: format!("has no prediction: expected one of `{}`", PREDICTIONS.join("`, `")),
        }),
        _ => Err(Error::Row {
            at: Source { path: Arc::from(path), line },
            problem: format!("expected a text or an object, found `{value}`"),
        }),
    };
    values(path)?.into_iter().map(prediction).collect()
}

fn text_of(object: &Map<String, Value>, names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| object.get(*name)?.as_str().map(str::to_owned))
}

fn objects(path: &Path) -> Result<Vec<(u64, Map<String, Value>)>> {
    let object = |(line, value)| match value {
        Value::Object(object) => Ok((line, object)),
        other => Err(Error::Row {
            at: Source { path: Arc::from(path), line },
            problem: format!(
                "expected an object such as {{\"instruct\": …, \"query\": …, \"answer\": …}}, found `{other}`"
            ),
        }),
    };
    values(path)?.into_iter().map(object).collect()
}

/// The values of JSON lines or of an array, with their lines (of an array: the number).
fn values(path: &Path) -> Result<Vec<(u64, Value)>> {
    let text = fs::read_to_string(path)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let error =
        |line: u64, problem: String| Error::Row { at: Source { path: Arc::from(path), line }, problem };
    let values: Vec<(u64, Value)> = if text.trim_start().starts_with('[') {
        let values: Vec<Value> =
            serde_json::from_str(text).map_err(|cause| error(cause.line() as u64, cause.to_string()))?;
        values.into_iter().enumerate().map(|(index, value)| (index as u64 + 1, value)).collect()
    } else {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let parse = |(index, line): (usize, &str)| {
            let line_number = index as u64 + 1;
            let value = serde_json::from_str(line);
            value.map(|value| (line_number, value)).map_err(|cause| {
                error(
                    line_number,
                    format!("not a JSON object (column {}): expected JSON lines or an array", cause.column()),
                )
            })
        };
        lines.map(parse).collect::<Result<_>>()?
    };
    if values.is_empty() {
        return Err(Error::File { path: path.into(), problem: "has no rows".into() });
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_004_ner_scoring_splits_at_line_breaks_and_knows_none() {
        assert_eq!(entities("没有"), BTreeSet::new());
        assert_eq!(entities(" \n"), BTreeSet::new());
        let expected = [("北京", "地名"), ("日", "地名"), ("a_b", "人名")];
        let expected = expected.map(|(text, kind)| (text.to_owned(), kind.to_owned())).into();
        assert_eq!(entities("日_地名\n北京_地名\r\n北京_地名\na_b_人名\n"), expected);
        assert_eq!(entities("北京"), [("北京".to_owned(), NO_TYPE.to_owned())].into());
    }

    #[test]
    fn counts_are_those_of_the_definitions() {
        let pairs = [
            ("日_地名\n北京_地名\n李明_人名", "北京_地名\n李明_地名"),
            ("没有", "没有"),
            ("没有", "上海_地名"),
            ("王芳_人名", "王芳_人名"),
        ];
        let score = score(pairs);
        assert_eq!((score.micro.right, score.micro.predicted, score.micro.expected), (2, 4, 4));
        assert_eq!((score.micro.precision, score.micro.recall, score.micro.f1), (0.5, 0.5, 0.5));
        let places = score.types["地名"];
        assert_eq!((places.right, places.predicted, places.expected), (1, 3, 2));
        assert_eq!((places.precision, places.recall, places.f1), (1.0 / 3.0, 0.5, 0.4));
        assert_eq!(score.types["人名"].f1, 2.0 / 3.0);
        assert_eq!((score.rows_with_entities, score.rows_without_entities), (2, 2));
        assert_eq!((score.with_entities.predicted, score.rightly_none, score.exact), (3, 0.5, 0.5));
    }

    #[test]
    fn always_none_finds_nothing() {
        let score = score([("日_地名", "没有"), ("没有", "没有"), ("没有", "没有")]);
        assert_eq!((score.micro.f1, score.with_entities.recall, score.rightly_none), (0.0, 0.0, 1.0));
    }
}
