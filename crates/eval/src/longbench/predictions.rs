//! `pred/{dataset}.jsonl` and `pred_e/{dataset}.jsonl`: an answer a line, in the order of the rows, as LongBench's scripts write and
//! read them.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::rows::Row;
use crate::Result;
use crate::line_file::{LineFile, of_rows, read_lines};

const EXPECTED: &str = "a prediction, {\"pred\": …, \"answers\": […], \"all_classes\": …, \"length\": …}";

/// An answer, and what it is compared with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// The answer.
    pub pred: String,
    /// The right answers.
    pub answers: Vec<String>,
    /// The classes that an answer may name.
    #[serde(default)]
    pub all_classes: Option<Vec<String>>,
    /// Length of the text that was asked about.
    #[serde(default)]
    pub length: Value,
    /// Whether the model's context has no room for the row, so that it was not asked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unasked: bool,
}

impl Prediction {
    /// The prediction for a row.
    #[must_use]
    pub fn of(row: &Row, pred: String) -> Self {
        let Row { answers, all_classes, length, .. } = row.clone();
        Self { pred, answers, all_classes, length, unasked: false }
    }

    /// What stands for the answer to a row that the model's context has no room for.
    #[must_use]
    pub fn of_unasked(row: &Row) -> Self {
        Self { unasked: true, ..Self::of(row, String::new()) }
    }

    fn is_of(&self, row: &Row) -> bool {
        (&self.answers, &self.all_classes, &self.length) == (&row.answers, &row.all_classes, &row.length)
    }
}

/// Opens a file of predictions to add to it, and tells how many rows have theirs.
///
/// # Errors
/// A file that cannot be read or written, or that has answers to other rows.
pub fn open_predictions(path: &Path, rows: &[Row]) -> Result<(LineFile, usize)> {
    let (file, done) = LineFile::open(path, EXPECTED, |predictions: &[Prediction]| {
        of_rows(path, predictions, rows, Prediction::is_of)
    })?;
    Ok((file, done.len()))
}

/// Reads a file of predictions.
///
/// # Errors
/// A file that cannot be read, or a line that is no prediction.
pub fn read_predictions(path: &Path) -> Result<Vec<Prediction>> {
    read_lines(path, EXPECTED)
}
