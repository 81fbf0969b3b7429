//! Rows → questions: what the columns of C-Eval, CMMLU, MMLU and of one's own files mean. Every cell stays the text it is.
//!
//! | columns | in |
//! |---|---|
//! | `question,A,B,C,D,answer`, or with capitals `Question,A,B,C,D,Answer` | C-Eval, CMMLU, MMLU |
//! | `question,choices,answer`, or `options`: a list of four, and a letter or 0 to 3 | MMLU as on the hub, JSON lines |
//! | `question,choice0,choice1,choice2,choice3,answer`: 0 to 3 | MMLU |
//!
//! `explanation` is read for examples of reasoning, other columns are not.

use std::sync::Arc;

use danlu_data::{Content, Record, Source};
use serde_json::{Map, Value};

use super::questions::{LETTERS, OPTIONS, Question};
use crate::{Error, Result};

const QUESTION: [&str; 2] = ["question", "Question"];
const LISTS: [&str; 2] = ["choices", "options"];
const NUMBERED: [&str; OPTIONS] = ["choice0", "choice1", "choice2", "choice3"];
const ANSWER: [&str; 2] = ["answer", "Answer"];
/// What pandas calls a column without a name is no name.
const ID: [&str; 3] = ["id", "", "Unnamed: 0"];
/// What stands for a right option that is withheld, where options are numbered.
const WITHHELD: &str = "-1";

/// The questions of one subject. Either all have a right answer or none has.
///
/// # Errors
/// A row that lacks a column or has another answer than A to D.
pub(super) fn questions(rows: Vec<Record>) -> Result<Vec<Question>> {
    let questions: Vec<Question> = rows.into_iter().map(question).collect::<Result<_>>()?;
    let without = questions.iter().find(|question| question.right.is_none());
    match without.filter(|_| questions.iter().any(|question| question.right.is_some())) {
        None => Ok(questions),
        Some(question) => Err(Error::Row {
            at: question.source.clone(),
            problem: "column `answer` is empty: expected A, B, C or D, as the other rows have".to_owned(),
        }),
    }
}

fn question(Record { content, source }: Record) -> Result<Question> {
    let Content::Fields(fields) = content else {
        return Err(Error::Row { at: source, problem: "expected a row with columns".into() });
    };
    let row = Row { fields: &fields, source: &source };
    let question = row.required(&QUESTION)?;
    let list = LISTS.iter().find_map(|name| Some((*name, fields.get(*name)?)));
    let (options, is_numbered) = match list {
        Some((name, list)) => (row.options(name, list)?, true),
        None if fields.contains_key(NUMBERED[0]) => (row.each(NUMBERED)?, true),
        None => (row.each(LETTERS)?, false),
    };
    let right = row.right(is_numbered)?;
    let id = ID.iter().find_map(|name| cell(fields.get(*name)?));
    let explanation = fields.get("explanation").and_then(cell).filter(|text| !text.trim().is_empty());
    Ok(Question { id, question, options, right, explanation, source })
}

struct Row<'a> {
    fields: &'a Map<String, Value>,
    source: &'a Source,
}

impl Row<'_> {
    /// The text of the first of these columns that is there.
    fn required(&self, names: &[&str]) -> Result<String> {
        let Some((name, value)) = names.iter().find_map(|name| Some((name, self.fields.get(*name)?))) else {
            return Err(self.lacks(names[0]));
        };
        cell(value)
            .filter(|text| !text.trim().is_empty())
            .ok_or_else(|| self.problem(format!("column `{name}` is empty: expected a text")))
    }

    fn each(&self, names: [&str; OPTIONS]) -> Result<[String; OPTIONS]> {
        let [a, b, c, d] = names;
        Ok([self.required(&[a])?, self.required(&[b])?, self.required(&[c])?, self.required(&[d])?])
    }

    fn options(&self, name: &str, list: &Value) -> Result<[String; OPTIONS]> {
        // Options by letter, or one after another.
        let texts: Vec<Option<String>> = match list {
            Value::Array(options) => options.iter().map(cell).collect(),
            Value::Object(options) if options.len() == OPTIONS => {
                LETTERS.iter().map(|letter| options.get(*letter).and_then(cell)).collect()
            }
            _ => Vec::new(),
        };
        let texts: Vec<String> = texts.into_iter().flatten().filter(|text| !text.trim().is_empty()).collect();
        let count = texts.len();
        texts.try_into().map_err(|_| {
            self.problem(format!(
                "column `{name}` has {count} texts: expected a list of {OPTIONS}, or one for each of A, B, C and D"
            ))
        })
    }

    /// The index of the right option; none where it is withheld.
    fn right(&self, is_numbered: bool) -> Result<Option<usize>> {
        let Some(value) = ANSWER.iter().find_map(|name| self.fields.get(*name)) else { return Ok(None) };
        let answer = cell(value).unwrap_or_default();
        let answer = answer.trim();
        if answer.is_empty() || is_numbered && answer == WITHHELD {
            return Ok(None);
        }
        let by_letter = LETTERS.iter().position(|letter| *letter == answer);
        let by_number = || answer.parse().ok().filter(|index| is_numbered && *index < OPTIONS);
        match by_letter.or_else(by_number) {
            Some(right) => Ok(Some(right)),
            None => {
                let or_number = if is_numbered { ", or 0 to 3" } else { "" };
                Err(self
                    .problem(format!("column `answer`: expected A, B, C or D{or_number}, found `{answer}`")))
            }
        }
    }

    fn lacks(&self, name: &str) -> Error {
        let found: Vec<String> = self.fields.keys().map(|name| format!("`{name}`")).collect();
        let ending = self.source.path.extension().unwrap_or_default();
        let has_header = ending == "csv" || ending == "tsv";
        let (what, line) = if has_header { ("header", 1) } else { ("row", self.source.line) };
        Error::Row {
            at: Source { path: Arc::clone(&self.source.path), line },
            problem: format!(
                "the {what} lacks the column `{name}`: expected `question,A,B,C,D,answer`, found {}",
                found.join(", ")
            ),
        }
    }

    fn problem(&self, problem: String) -> Error {
        Error::Row { at: self.source.clone(), problem }
    }
}

/// A cell as the text that it is; none where it is missing, or holds more than a text.
fn cell(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(_) | Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
