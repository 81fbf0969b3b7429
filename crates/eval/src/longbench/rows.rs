//! The rows of a data set of LongBench: JSON lines as they are published.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use danlu_data::Source;
use fs_err as fs;
use serde::Deserialize;
use serde_json::Value;

use super::scores::number_behind;
use super::tasks::{Metric, Task};
use crate::{Error, Result};

/// A question about a long text.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Row {
    /// The question; empty where the prompt has none.
    #[serde(default)]
    pub input: String,
    /// The long text.
    pub context: String,
    /// The right answers.
    pub answers: Vec<String>,
    /// The classes that an answer may name.
    #[serde(default)]
    pub all_classes: Option<Vec<String>>,
    /// Length of the text, in words or, in Chinese, in characters.
    #[serde(default)]
    pub length: Value,
}

/// Where the file of a data set is: in the folder, or in its `data`, as the published archive unpacks.
#[must_use]
pub fn data_file(folder: &Path, task: &Task, is_e: bool) -> Option<PathBuf> {
    let name = format!("{}{}.jsonl", task.name, if is_e { "_e" } else { "" });
    [folder.join(&name), folder.join("data").join(&name)].into_iter().find(|path| path.is_file())
}

/// Reads the rows of a data set.
///
/// # Errors
/// A file that cannot be read, or a row without what its score needs.
pub fn read_rows(path: &Path, task: &Task, is_e: bool) -> Result<Vec<Row>> {
    let text = fs::read_to_string(path)?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let row = |(index, line): (usize, &str)| {
        let error =
            |problem| Error::Row { at: Source { path: Arc::from(path), line: index as u64 + 1 }, problem };
        let row: Row = serde_json::from_str(line).map_err(|cause| {
            error(format!(
                "expected a row of LongBench, {{\"input\": …, \"context\": …, \"answers\": […], \"all_classes\": …, \"length\": …}}: {cause}"
            ))
        })?;
        match problem(&row, task, is_e) {
            Some(problem) => Err(error(problem)),
            None => Ok(row),
        }
    };
    let rows = lines.map(row).collect::<Result<Vec<_>>>()?;
    if rows.is_empty() {
        return Err(Error::File { path: path.into(), problem: "has no rows".into() });
    }
    Ok(rows)
}

fn problem(row: &Row, task: &Task, is_e: bool) -> Option<String> {
    if row.answers.is_empty() {
        return Some("`answers`: expected at least one".into());
    }
    if is_e && row.length.as_u64().is_none() {
        return Some(format!("`length`: expected a number, found `{}`", row.length));
    }
    let word = match task.metric {
        Metric::Classification if row.all_classes.as_ref().is_none_or(Vec::is_empty) => {
            return Some("`all_classes`: expected the classes that an answer may name".into());
        }
        Metric::Retrieval => "Paragraph ",
        Metric::RetrievalZh => "段落",
        _ => return None,
    };
    let wrong = row.answers.iter().find(|answer| number_behind(answer, word).is_none());
    wrong.map(|answer| format!("`answers`: expected `{word}` and a number, found `{answer}`"))
}
