//! `result.json`: the score of each data set, 0 to 100 with two decimals, as LongBench's `eval.py` writes it.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::predictions::{Prediction, read_predictions};
use super::scores::score;
use super::tasks::{TASKS, Task};
use crate::metrics::python;
use crate::{Error, Result};

/// Lengths by which LongBench-E groups texts, each up to its bound.
const BUCKETS: [(&str, u64); 3] = [("0-4k", 4000), ("4-8k", 8000), ("8k+", u64::MAX)];

/// What one data set scored.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskScore {
    /// The data set.
    pub task: Task,
    /// Predictions that were scored.
    pub rows: usize,
    /// Of them, rows that the model's context has no room for; they score what nothing scores.
    pub unasked: usize,
    /// A number; of LongBench-E one for each group of lengths, and null for a group without texts.
    pub score: Value,
}

/// What all data sets scored.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Results {
    /// In the order of [`TASKS`].
    pub tasks: Vec<TaskScore>,
}

impl Results {
    /// Scores the predictions in a folder, those of the data sets that are there.
    ///
    /// # Errors
    /// A file that cannot be read, or none.
    pub fn of_folder(folder: &Path, is_e: bool) -> Result<Self> {
        let mut results = Self::default();
        for task in TASKS {
            let path = folder.join(format!("{}.jsonl", task.name));
            if !path.is_file() {
                continue;
            }
            let predictions = read_predictions(&path)?;
            if is_e && let Some(place) = predictions.iter().position(|row| row.length.as_u64().is_none()) {
                let problem =
                    format!("row {}: expected `length`, a whole number, which `--e` sorts by", place + 1);
                return Err(Error::File { path, problem });
            }
            if !predictions.is_empty() {
                let score = if is_e { by_length(&task, &predictions) } else { whole(&task, &predictions) };
                let unasked = predictions.iter().filter(|prediction| prediction.unasked).count();
                results.tasks.push(TaskScore { task, rows: predictions.len(), unasked, score });
            }
        }
        if results.tasks.is_empty() {
            let problem = "has no predictions, such as `dureader.jsonl`".into();
            return Err(Error::File { path: folder.into(), problem });
        }
        Ok(results)
    }

    /// The content of `result.json`.
    #[must_use]
    pub fn json(&self) -> Value {
        Value::Object(self.tasks.iter().map(|task| (task.task.name.to_owned(), task.score.clone())).collect())
    }
}

fn scored(task: &Task, prediction: &Prediction) -> f64 {
    let classes = prediction.all_classes.as_deref().unwrap_or_default();
    score(task, &prediction.pred, &prediction.answers, classes)
}

fn whole(task: &Task, predictions: &[Prediction]) -> Value {
    let total: f64 = predictions.iter().map(|prediction| scored(task, prediction)).sum();
    json!(python::round_to_hundredths(100.0 * total / predictions.len() as f64))
}

/// numpy's rounding, which `eval.py` uses here: to even after multiplying.
fn by_length(task: &Task, predictions: &[Prediction]) -> Value {
    let mut from = 0;
    let bucket = |(name, to): (&str, u64)| {
        let range = std::mem::replace(&mut from, to)..to;
        let of_length =
            |prediction: &&Prediction| range.contains(&prediction.length.as_u64().unwrap_or_default());
        let scores: Vec<f64> =
            predictions.iter().filter(of_length).map(|prediction| scored(task, prediction)).collect();
        let mean = 100.0 * (scores.iter().sum::<f64>() / scores.len() as f64);
        (name.to_owned(), json!((mean * 100.0).round_ties_even() / 100.0))
    };
    Value::Object(BUCKETS.into_iter().map(bucket).collect::<Map<_, _>>())
}
