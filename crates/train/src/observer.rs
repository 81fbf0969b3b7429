//! What a run tells whoever watches it, and the one thing that it asks.

use std::path::Path;

use crate::run_folder::{EvalLog, StepLog};
use crate::samples::Answer;

/// Watches a run.
pub trait Observer {
    /// The run goes on from a checkpoint: this many steps are done already.
    fn resumed(&mut self, steps: u64) {
        _ = steps;
    }
    /// Before the first step of preference tuning: the reference of so many of all tokens is computed.
    fn reference(&mut self, tokens: u64, all: u64) {
        _ = (tokens, all);
    }
    /// Before the first step of a distillation: the teacher has read so many of the tokens that it has yet to read.
    fn teacher(&mut self, tokens: u64, all: u64) {
        _ = (tokens, all);
    }
    /// A step is done.
    fn step(&mut self, progress: &Progress) {
        _ = progress;
    }
    /// A log line was written.
    fn log(&mut self, log: &StepLog) {
        _ = log;
    }
    /// A validation is done.
    fn evaluated(&mut self, log: &EvalLog) {
        _ = log;
    }
    /// The model answered a prompt.
    fn answered(&mut self, answer: &Answer) {
        _ = answer;
    }
    /// Something happened that the user should know, in a sentence; `train.log` has it too.
    fn noted(&mut self, text: &str) {
        _ = text;
    }
    /// A checkpoint was written.
    fn saved(&mut self, path: &Path) {
        _ = path;
    }
    /// Whether the run should end after this step; a checkpoint is written first.
    fn stops(&mut self) -> bool {
        false
    }
}

/// Where a run is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Finished steps.
    pub step: u64,
    /// Steps of the run.
    pub total_steps: u64,
    /// Loss of this step.
    pub loss: f64,
    /// Tokens per second of this step.
    pub tokens_per_second: f64,
}
