//! `training_loss.svg` and `training_loss.png`: training and validation loss over the steps.

use std::path::Path;

use danlu_report::{LineChart, ReportError, Series};
use serde_json::Value;

use super::LogEntry;

pub(super) fn write(folder: &Path, history: &[LogEntry]) -> Result<(), ReportError> {
    let points = |name: &str| -> Vec<(f64, f64)> {
        let number = |entry: &LogEntry, name: &str| entry.get(name).and_then(Value::as_f64);
        history.iter().filter_map(|entry| Some((number(entry, "step")?, number(entry, name)?))).collect()
    };
    let mut series = vec![Series { name: "train".into(), points: points("loss"), smooth: true }];
    let validation = points("eval_loss");
    if !validation.is_empty() {
        series.push(Series { name: "validation".into(), points: validation, smooth: false });
    }
    let chart = LineChart {
        title: "training loss".into(),
        x_label: "step".into(),
        y_label: "loss per token".into(),
        series,
    };
    chart.write_svg(&folder.join("training_loss.svg"))?;
    chart.write_png(&folder.join("training_loss.png"))
}
