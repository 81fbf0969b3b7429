//! Values of a row: found by column, also by a dotted path into objects and lists, and read as text or truth.

use serde_json::{Map, Value};

use crate::error::{RowProblem, nearest};
use crate::records::kind_of;

pub(super) type Fields = Map<String, Value>;
pub(super) type Result<T> = std::result::Result<T, RowProblem>;

/// Characters of a wrong value that a message shows.
const SHOWN_CHARS: usize = 40;

/// The value of a column, or of a path such as `answer.text` where no column is called so.
pub(super) fn get<'a>(fields: &'a Fields, column: &str) -> Option<&'a Value> {
    fields.get(column).or_else(|| {
        let mut parts = column.split('.');
        let first = fields.get(parts.next()?)?;
        parts.try_fold(first, |value, part| value.get(part))
    })
}

/// As [`get`]; null counts as absent.
pub(super) fn present<'a>(fields: &'a Fields, column: &str) -> Option<&'a Value> {
    get(fields, column).filter(|value| !value.is_null())
}

pub(super) fn required<'a>(fields: &'a Fields, column: &str) -> Result<&'a Value> {
    get(fields, column).ok_or_else(|| missing(fields, column))
}

pub(super) fn missing(fields: &Fields, column: &str) -> RowProblem {
    let available: Vec<String> = fields.keys().cloned().collect();
    let nearest = nearest(column, &available).cloned();
    RowProblem::MissingColumn { column: column.to_owned(), available, nearest }
}

pub(super) fn wrong_type(field: &str, expected: &'static str, found: &Value) -> RowProblem {
    let mut description = kind_of(found).to_owned();
    if !found.is_null() {
        description = format!("{description} `{}`", shortened(&found.to_string()));
    }
    RowProblem::WrongType { field: field.to_owned(), expected, found: description }
}

/// The start of a text, for messages.
pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

pub(super) fn text(value: &Value, field: &str) -> Result<String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(_) | Value::Bool(_) => Ok(value.to_string()),
        _ => Err(wrong_type(field, "text", value)),
    }
}

/// The text of a column that a row may lack or leave null.
pub(super) fn optional_text(fields: &Fields, column: &Option<String>) -> Result<String> {
    match column.as_ref().and_then(|name| Some((name, present(fields, name)?))) {
        Some((name, value)) => text(value, name),
        None => Ok(String::new()),
    }
}

/// Whether a value is true or false; CSV has them as text.
pub(super) fn is_truth(value: &Value) -> bool {
    truth(value, "").is_ok()
}

pub(super) fn truth(value: &Value, field: &str) -> Result<bool> {
    let words = |text: &str| ["true", "false"].iter().position(|word| text.eq_ignore_ascii_case(word));
    match value {
        Value::Bool(truth) => Some(*truth),
        Value::String(text) => words(text).map(|index| index == 0),
        _ => None,
    }
    .ok_or_else(|| wrong_type(field, "`true` or `false`", value))
}
