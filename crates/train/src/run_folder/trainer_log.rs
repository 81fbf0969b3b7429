//! `trainer_log.jsonl` of LLaMA-Factory: one JSON object per log entry, which its web page and others read live.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

/// One line, keys in LLaMA-Factory's order.
#[derive(Debug, Clone, Serialize)]
pub(super) struct TrainerLogLine {
    pub current_steps: u64,
    pub total_steps: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_loss: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    #[serde(rename = "lr", skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    #[serde(serialize_with = "two_decimals")]
    pub epoch: f64,
    #[serde(serialize_with = "two_decimals")]
    pub percentage: f64,
    pub elapsed_time: String,
    pub remaining_time: String,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "two_decimals_if_any")]
    pub throughput: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rolled_back_to_step: Option<u64>,
}

impl TrainerLogLine {
    pub(super) fn new(step: u64, total_steps: u64, epoch: f64, elapsed: Duration) -> Self {
        let done = step as f64 / total_steps.max(1) as f64;
        let seconds = elapsed.as_secs();
        let remaining = if step == 0 { 0.0 } else { seconds as f64 * (1.0 / done - 1.0) };
        Self {
            current_steps: step,
            total_steps,
            loss: None,
            eval_loss: None,
            accuracy: None,
            learning_rate: None,
            epoch,
            percentage: done * 100.0,
            elapsed_time: clock(seconds),
            remaining_time: clock(remaining.max(0.0).round() as u64),
            throughput: None,
            total_tokens: None,
            rolled_back_to_step: None,
        }
    }
}

/// Whether a line is of a step up to `step`, and not that of the end of a run, which goes on now.
pub(super) fn is_within(line: &str, step: u64) -> bool {
    let Ok(line) = serde_json::from_str::<Value>(line) else { return false };
    let is_end = ["loss", "eval_loss", "rolled_back_to_step"].iter().all(|key| line.get(key).is_none());
    !is_end && line["current_steps"].as_u64().is_some_and(|current| current <= step)
}

/// The step of a line.
pub(super) fn step_of(line: &str) -> Option<u64> {
    serde_json::from_str::<Value>(line).ok()?["current_steps"].as_u64()
}

/// Seconds as Python's `timedelta` prints them: `1:02:03`, `2 days, 1:02:03`.
fn clock(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    let days = match days {
        0 => String::new(),
        1 => "1 day, ".into(),
        _ => format!("{days} days, "),
    };
    format!("{days}{hours}:{minutes:02}:{:02}", seconds % 60)
}

fn two_decimals<S: serde::Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((value * 100.0).round() / 100.0)
}

fn two_decimals_if_any<S: serde::Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    two_decimals(&value.unwrap_or_default(), serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_python_prints_them() {
        for (seconds, text) in
            [(9, "0:00:09"), (3_723, "1:02:03"), (90_000, "1 day, 1:00:00"), (200_000, "2 days, 7:33:20")]
        {
            assert_eq!(clock(seconds), text);
        }
    }
}
