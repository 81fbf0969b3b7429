//! The run folder: logs, state, results and the loss chart of one training run, in the layouts of the Hugging Face Trainer
//! and LLaMA-Factory.
//!
//! It does not write checkpoints (weights, optimizer); it only adds its `trainer_state.json` to them.

mod loss_chart;
mod python_text;
#[cfg(test)]
mod tests;
mod trainer_log;
mod trainer_state;

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use danlu_report::ReportError;
use fs_err as fs;
use serde_json::{Value, json};

use self::python_text::log_line;
use self::trainer_log::TrainerLogLine;
pub use self::trainer_state::{LogEntry, TrainerState};
use crate::objective::distillation::Parts;
use crate::objective::rewards::Rewards;
use crate::tensorboard::EventFile;

const TRAIN_LOG: &str = "train.log";
const TRAINER_LOG: &str = "trainer_log.jsonl";
const TRAINER_STATE: &str = "trainer_state.json";

/// What stays the same over a run.
#[derive(Debug, Clone, PartialEq)]
pub struct RunFacts {
    /// Optimizer steps of the whole run.
    pub total_steps: u64,
    /// Passes over the dataset.
    pub num_train_epochs: f64,
    /// Samples per batch.
    pub train_batch_size: usize,
    /// Steps between two log lines.
    pub logging_steps: u64,
    /// Steps between two validations.
    pub eval_steps: u64,
    /// Steps between two checkpoints.
    pub save_steps: u64,
    /// Draw the loss chart.
    pub plot_loss: bool,
    /// Where TensorBoard's files go, if they are written.
    pub event_folder: Option<PathBuf>,
}

/// One log line of the training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepLog {
    /// Finished optimizer steps.
    pub step: u64,
    /// Mean loss per trained token since the last log line.
    pub loss: f64,
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Gradient norm of this step before clipping.
    pub grad_norm: f64,
    /// Passes over the dataset so far, with a fraction.
    pub epoch: f64,
    /// Tokens read since the beginning of the run.
    pub tokens_seen: u64,
    /// Tokens per second since the last log line.
    pub tokens_per_second: f64,
    /// Time that it took to come here; that of steps which a kill or a rollback gave up does not count.
    pub elapsed: Duration,
    /// Of preference tuning, since the last log line.
    pub rewards: Option<Rewards>,
    /// Of distillation, since the last log line.
    pub parts: Option<Parts>,
}

/// One validation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EvalLog {
    /// Finished optimizer steps.
    pub step: u64,
    /// Passes over the dataset so far.
    pub epoch: f64,
    /// Mean loss per scored token.
    pub eval_loss: f64,
    /// Share of the scored tokens that the model finds the most probable ones; not of preferences.
    pub accuracy: Option<f64>,
    /// Rewards, of preference tuning.
    pub rewards: Option<Rewards>,
    /// Validation samples.
    pub samples: u64,
    /// Time of this validation.
    pub runtime: Duration,
    /// As in [`StepLog`].
    pub elapsed: Duration,
}

/// The end of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FinishLog {
    /// Finished optimizer steps.
    pub step: u64,
    /// Passes over the dataset.
    pub epoch: f64,
    /// Mean loss over the whole run.
    pub train_loss: f64,
    /// Samples trained, repeated ones counted again.
    pub samples: u64,
    /// Steps taken; not those that a rollback passed over.
    pub steps: u64,
    /// Tokens read since the beginning of the run.
    pub tokens_seen: u64,
    /// As in [`StepLog`].
    pub elapsed: Duration,
}

/// Why the run folder could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum RunFolderError {
    /// A file could not be read or written; the message carries its path.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The chart could not be written.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// A `trainer_state.json` that is not one.
    #[error("`{}`: not a trainer state: {problem}; resume from another checkpoint", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        problem: String,
    },
}

/// Writes the files of a run as it goes on. Every log call appends one whole line to each log.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    facts: RunFacts,
    history: Vec<LogEntry>,
    train_log: fs::File,
    trainer_log: fs::File,
    events: Option<EventFile>,
    /// Step and value of the best validation.
    best: Option<(u64, f64)>,
}

impl StepLog {
    /// The line that the Hugging Face Trainer prints for it.
    pub fn line(&self) -> String {
        log_line(&step_values(self))
    }
}

impl EvalLog {
    /// The line that the Hugging Face Trainer prints for it.
    pub fn line(&self) -> String {
        log_line(&eval_values(self))
    }
}

impl RunFolder {
    /// Begins a run in `path`, which is created; logs of an earlier run there start anew.
    ///
    /// # Errors
    /// When the folder or a log cannot be written.
    pub fn create(path: &Path, facts: RunFacts) -> Result<Self, RunFolderError> {
        fs::create_dir_all(path)?;
        Ok(Self {
            path: path.to_owned(),
            events: facts.event_folder.as_deref().map(EventFile::create).transpose()?,
            facts,
            history: Vec::new(),
            best: None,
            train_log: fs::File::create(path.join(TRAIN_LOG))?,
            trainer_log: fs::File::create(path.join(TRAINER_LOG))?,
        })
    }

    /// Continues a run from `checkpoint` of the step `steps.start`; the first step that is taken is the one behind `steps.end`.
    /// Log lines of later steps are cut off, and a last line that a kill left torn; what was noted of steps up to
    /// `steps.end` stays.
    ///
    /// # Errors
    /// When the checkpoint's `trainer_state.json` cannot be read or a log cannot be written.
    pub fn resume(
        path: &Path,
        checkpoint: &Path,
        facts: RunFacts,
        steps: Range<u64>,
    ) -> Result<Self, RunFolderError> {
        fs::create_dir_all(path)?;
        let state = TrainerState::read_of(checkpoint)?;
        let (trainer_log, first) =
            keep_lines(&path.join(TRAINER_LOG), |line| trainer_log::is_within(line, steps.start))?;
        // A line of this log names no step. Where the run came from another folder, the logs here begin later than its history.
        let begin = first.map_or(0, |line| trainer_log::step_of(&line).unwrap_or(0));
        let is_here = |entry: &&LogEntry| entry.get("step").and_then(Value::as_u64) >= Some(begin);
        let entries = state.log_history.iter().filter(is_here).count();
        let mut place = 0;
        let (train_log, _) = keep_lines(&path.join(TRAIN_LOG), |line| {
            let is_entry = python_text::is_log_line(line);
            place += usize::from(is_entry);
            if is_entry { place <= entries } else { step_of_note(line).is_none_or(|step| step <= steps.end) }
        })?;
        let mut events = facts.event_folder.as_deref().map(EventFile::create).transpose()?;
        if let Some(events) = &mut events {
            events.replace_from(steps.start + 1)?;
        }
        Ok(Self {
            path: path.to_owned(),
            events,
            facts,
            history: state.log_history,
            best: None,
            train_log,
            trainer_log,
        })
    }

    /// Everything that was logged.
    pub fn history(&self) -> &[LogEntry] {
        &self.history
    }

    /// Notes the step and value of the best validation for `trainer_state.json`.
    pub fn note_best(&mut self, best: Option<(u64, f64)>) {
        self.best = best;
    }

    /// What was logged of the last validation, or of that of `step`.
    pub fn last_evaluation(&self, step: Option<u64>) -> Option<LogEntry> {
        let is_wanted = |entry: &&LogEntry| {
            entry.contains_key("eval_loss") && step.is_none_or(|step| entry.get("step") == Some(&json!(step)))
        };
        self.history.iter().rfind(is_wanted).cloned()
    }

    /// Writes a sentence into `train.log` and returns it as it stands there. One that is about a step begins with it,
    /// `step 12: `, and is cut off where a run goes on from an earlier one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn note(&mut self, step: Option<u64>, text: &str) -> Result<String, RunFolderError> {
        let line = step.map_or_else(|| text.to_owned(), |step| format!("step {step}: {text}"));
        append(&mut self.train_log, &line)?;
        Ok(line)
    }

    /// Logs a training step.
    ///
    /// # Errors
    /// When a log cannot be written.
    pub fn log_step(&mut self, log: &StepLog) -> Result<(), RunFolderError> {
        let values = step_values(log);
        let line = TrainerLogLine {
            loss: Some(log.loss),
            accuracy: log.rewards.and_then(|rewards| rewards.accuracy()),
            learning_rate: Some(log.learning_rate),
            throughput: Some(log.tokens_per_second),
            total_tokens: Some(log.tokens_seen),
            ..self.trainer_log_line(log.step, log.epoch, log.elapsed)
        };
        self.log(log.step, &values, &line)
    }

    /// Logs a validation, and returns its values by name.
    ///
    /// # Errors
    /// When a log cannot be written.
    pub fn log_eval(&mut self, log: &EvalLog) -> Result<BTreeMap<&'static str, f64>, RunFolderError> {
        let values = eval_values(log);
        let line = TrainerLogLine {
            eval_loss: Some(log.eval_loss),
            ..self.trainer_log_line(log.step, log.epoch, log.elapsed)
        };
        self.log(log.step, &values, &line)?;
        Ok(values.into_iter().collect())
    }

    /// Logs that the run goes on behind `step` from the checkpoint of an earlier one.
    ///
    /// # Errors
    /// When a log cannot be written.
    pub fn log_rollback(
        &mut self,
        step: u64,
        checkpoint: u64,
        epoch: f64,
        elapsed: Duration,
    ) -> Result<(), RunFolderError> {
        let values = [("rolled_back_to_step", checkpoint as f64), ("epoch", epoch)];
        let line = TrainerLogLine {
            rolled_back_to_step: Some(checkpoint),
            ..self.trainer_log_line(step, epoch, elapsed)
        };
        self.log(step, &values, &line)
    }

    /// Writes `trainer_state.json` into `folder` (a checkpoint that is being written) and the run folder, and draws the chart.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save_state(
        &self,
        folder: &Path,
        step: u64,
        epoch: f64,
        tokens_seen: u64,
    ) -> Result<(), RunFolderError> {
        let mut state = TrainerState::new(&self.facts, step, epoch, tokens_seen, &self.history);
        if let Some((best_step, value)) = self.best {
            let path = self.path.join(format!("checkpoint-{best_step}"));
            state.best_metric = Some(value);
            // The checkpoint that is being written is not there yet.
            let is_there = best_step == step && folder != self.path || path.is_dir();
            state.best_model_checkpoint = is_there.then(|| path.display().to_string());
        }
        state.write(&folder.join(TRAINER_STATE))?;
        state.write(&self.path.join(TRAINER_STATE))?;
        if self.facts.plot_loss {
            loss_chart::write(&self.path, &self.history)?;
        }
        Ok(())
    }

    /// Logs the end of the run and writes `train_results.json`, `eval_results.json` (with `eval`, the validation of the result),
    /// `all_results.json`, `trainer_state.json` and the chart.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn finish(&mut self, log: &FinishLog, eval: Option<LogEntry>) -> Result<(), RunFolderError> {
        let seconds = log.elapsed.as_secs_f64();
        let values = [
            ("train_runtime", seconds),
            ("train_samples_per_second", per_second(log.samples, seconds)),
            ("train_steps_per_second", per_second(log.steps, seconds)),
            ("train_loss", log.train_loss),
            ("epoch", log.epoch),
        ];
        let line = self.trainer_log_line(log.step, log.epoch, log.elapsed);
        self.log(log.step, &values, &line)?;
        self.save_state(&self.path, log.step, log.epoch, log.tokens_seen)?;

        let mut all = results(&values);
        self.write_results("train_results.json", &all)?;
        if let Some(mut eval_results) = eval {
            eval_results.remove("step");
            if let Some(perplexity) = eval_results.get("eval_perplexity").cloned() {
                eval_results.insert("perplexity".into(), perplexity);
            }
            self.write_results("eval_results.json", &eval_results)?;
            all.append(&mut eval_results);
        }
        self.write_results("all_results.json", &all)
    }

    fn trainer_log_line(&self, step: u64, epoch: f64, elapsed: Duration) -> TrainerLogLine {
        TrainerLogLine::new(step, self.facts.total_steps, epoch, elapsed)
    }

    fn log(
        &mut self,
        step: u64,
        values: &[(&str, f64)],
        line: &TrainerLogLine,
    ) -> Result<(), RunFolderError> {
        let mut entry = results(values);
        entry.insert("step".into(), json!(step));
        self.history.push(entry);
        if let Some(events) = &mut self.events {
            events.scalars(step, values.iter().copied())?;
        }
        append(&mut self.train_log, &log_line(values))?;
        append(&mut self.trainer_log, &json!(line).to_string())?;
        Ok(())
    }

    fn write_results(&self, name: &str, results: &BTreeMap<String, Value>) -> Result<(), RunFolderError> {
        let mut text = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
        serde::Serialize::serialize(results, &mut serializer).map_err(std::io::Error::from)?;
        text.push(b'\n');
        Ok(write_whole(&self.path.join(name), &text)?)
    }
}

fn step_values(log: &StepLog) -> Vec<(&'static str, f64)> {
    let mut values =
        vec![("loss", log.loss), ("grad_norm", log.grad_norm), ("learning_rate", log.learning_rate)];
    let rewards = log.rewards.iter().flat_map(Rewards::named);
    values.extend(rewards.map(|([name, _], value)| (name, value)));
    values.extend(log.parts.iter().flat_map(Parts::named));
    values.push(("epoch", log.epoch));
    values
}

fn eval_values(log: &EvalLog) -> Vec<(&'static str, f64)> {
    let seconds = log.runtime.as_secs_f64();
    let rewards = log.rewards.iter().flat_map(Rewards::named);
    let mut values = vec![("eval_loss", log.eval_loss)];
    if let Some(accuracy) = log.accuracy {
        values.push(("eval_perplexity", log.eval_loss.exp()));
        values.push(("eval_accuracy", accuracy));
    }
    values.push(("eval_runtime", seconds));
    values.push(("eval_samples_per_second", per_second(log.samples, seconds)));
    values.extend(rewards.map(|([_, name], value)| (name, value)));
    values.push(("epoch", log.epoch));
    values
}

fn results(values: &[(&str, f64)]) -> BTreeMap<String, Value> {
    values.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect()
}

fn per_second(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

/// One write call, so that a kill leaves at most one torn line.
fn append(file: &mut fs::File, line: &str) -> std::io::Result<()> {
    file.write_all(format!("{line}\n").as_bytes())
}

/// The step that a note of `train.log` is about, if it is about one.
fn step_of_note(note: &str) -> Option<u64> {
    note.strip_prefix("step ")?.split_once(": ")?.0.parse().ok()
}

/// Keeps these of the whole lines of a log and opens it for appending; also returns the first of them. A log that is missing
/// starts anew.
fn keep_lines(
    path: &Path,
    is_kept: impl FnMut(&&str) -> bool,
) -> Result<(fs::File, Option<String>), RunFolderError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let kept: Vec<&str> = lines.filter(is_kept).collect();
    write_whole(path, kept.concat().as_bytes())?;
    Ok((fs::OpenOptions::new().append(true).open(path)?, kept.first().map(ToString::to_string)))
}

/// Writes beside `path` and renames, so that a reader never sees half a file.
fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".partial");
    let partial = path.with_file_name(name);
    fs::write(&partial, bytes)?;
    fs::rename(&partial, path)
}
