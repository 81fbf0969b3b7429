//! `pred/{dataset}.jsonl` and `pred_e/{dataset}.jsonl`: an answer a line, in the order of the rows, as LongBench's scripts write and
//! read them. A line is written as soon as there is its answer.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use danlu_data::Source;
use fs_err as fs;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::rows::Row;
use crate::{Error, Result};

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
}

impl Prediction {
    /// The prediction for a row.
    #[must_use]
    pub fn of(row: &Row, pred: String) -> Self {
        let Row { answers, all_classes, length, .. } = row.clone();
        Self { pred, answers, all_classes, length }
    }
}

/// A file of predictions that grows.
pub struct Predictions {
    file: fs::File,
    path: PathBuf,
    /// Rows that have an answer.
    done: usize,
}

impl Predictions {
    /// Opens the file, which need not be there; half a line at its end, from a run that was killed, is taken away.
    ///
    /// # Errors
    /// A file that cannot be read or written, or that has answers to other rows.
    pub fn open(path: &Path, rows: &[Row]) -> Result<Self> {
        let mut file = fs::OpenOptions::new().create(true).read(true).append(true).open(path)?;
        let bytes = fs::read(path)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |place| place + 1);
        file.file().set_len(whole as u64)?;
        file.flush()?;
        let done = read_predictions(path)?;
        for (index, prediction) in done.iter().enumerate() {
            let is_of_row = rows.get(index).is_some_and(|row| {
                (&row.answers, &row.all_classes, &row.length)
                    == (&prediction.answers, &prediction.all_classes, &prediction.length)
            });
            if !is_of_row {
                return Err(Error::Row {
                    at: Source { path: Arc::from(path), line: index as u64 + 1 },
                    problem: "is not of the row with this number: give the data that it was made from, or another folder"
                        .into(),
                });
            }
        }
        Ok(Self { file, path: path.to_owned(), done: done.len() })
    }

    /// How many rows have their answer.
    #[must_use]
    pub fn done(&self) -> usize {
        self.done
    }

    /// Adds the answer of the next row.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn push(&mut self, prediction: &Prediction) -> Result<()> {
        let mut line = serde_json::to_string(prediction).map_err(std::io::Error::from)?;
        line.push('\n');
        // In one piece, so that a kill leaves a whole line or half of the last.
        self.file.write_all(line.as_bytes())?;
        self.done += 1;
        Ok(())
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Reads a file of predictions.
///
/// # Errors
/// A file that cannot be read, or a line that is no prediction.
pub fn read_predictions(path: &Path) -> Result<Vec<Prediction>> {
    let text = fs::read_to_string(path)?;
    let prediction = |(index, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|cause| Error::Row {
            at: Source { path: Arc::from(path), line: index as u64 + 1 },
            problem: format!(
                "expected a prediction, {{\"pred\": …, \"answers\": […], \"all_classes\": …, \"length\": …}}: {cause}"
            ),
        })
    };
    text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(prediction).collect()
}
