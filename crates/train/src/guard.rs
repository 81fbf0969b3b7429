//! Guards of a run: a step whose loss or gradient is not a number, or whose loss jumps far above the recent ones, changes
//! nothing. After several such steps in a row the run ends.
//!
//! It only judges; the caller leaves out the update. What it remembers is part of a checkpoint, so that a resumed run
//! judges alike.

use std::collections::VecDeque;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainError};
use crate::recipe::TrainingOptions;

/// Losses that a jump is measured by.
const RECENT: usize = 32;
/// As many must be known before anything counts as a jump.
const ENOUGH: usize = 8;

/// Why a step's update was left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Skipped {
    /// The loss is not a finite number.
    Loss,
    /// The norm of the gradient is not a finite number.
    Gradient,
    /// The loss is above what the guard allows.
    Spike {
        /// The loss.
        loss: f64,
        /// What it was on average before.
        mean: f64,
    },
}

impl fmt::Display for Skipped {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loss => formatter.write_str("the loss is not a finite number"),
            Self::Gradient => formatter.write_str("the gradient norm is not a finite number"),
            Self::Spike { loss, mean } => {
                write!(formatter, "the loss jumped to {loss:.4} from {mean:.4} on average")
            }
        }
    }
}

/// What a guard remembers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// Losses of the last steps that were not skipped.
    recent: VecDeque<f32>,
    /// Steps that were skipped since the last one that was not.
    in_a_row: u64,
    /// Steps that were skipped since the beginning of the run.
    pub skipped: u64,
}

/// Judges the steps of a run.
pub struct Guard {
    memory: Memory,
    factor: Option<f64>,
    most_in_a_row: u64,
    fused_backward: bool,
}

impl Guard {
    /// A guard as the options ask for it.
    pub fn new(options: &TrainingOptions, memory: Memory) -> Self {
        Self {
            memory,
            factor: options.loss_spike_factor,
            most_in_a_row: options.max_skipped_steps,
            fused_backward: options.fused_backward,
        }
    }

    /// What to keep in a checkpoint.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Whether a step of this loss may change anything.
    pub fn judge(&self, loss: f64) -> Option<Skipped> {
        if !loss.is_finite() {
            return Some(Skipped::Loss);
        }
        let recent = &self.memory.recent;
        let factor = self.factor.filter(|_| recent.len() >= ENOUGH)?;
        let mean = recent.iter().map(|&loss| f64::from(loss)).sum::<f64>() / recent.len() as f64;
        (loss > factor * mean).then_some(Skipped::Spike { loss, mean })
    }

    /// Counts steps that are not taken at all, and begins a new row.
    pub fn pass_over(&mut self, steps: u64) {
        self.memory.skipped += steps;
        self.memory.in_a_row = 0;
    }

    /// Notes how `step` went.
    ///
    /// # Errors
    /// Too many skipped steps in a row, or one whose update had happened in part already.
    pub fn note(&mut self, step: u64, loss: f64, skipped: Option<Skipped>) -> Result<()> {
        let memory = &mut self.memory;
        let Some(reason) = skipped else {
            memory.in_a_row = 0;
            if memory.recent.len() == RECENT {
                memory.recent.pop_front();
            }
            memory.recent.push_back(loss as f32);
            return Ok(());
        };
        memory.in_a_row += 1;
        memory.skipped += 1;
        if memory.in_a_row > self.most_in_a_row || self.fused_backward {
            return Err(TrainError::Diverged { reason, step, steps: memory.in_a_row });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(factor: Option<f64>) -> Guard {
        let options =
            TrainingOptions { loss_spike_factor: factor, max_skipped_steps: 2, ..TrainingOptions::default() };
        Guard::new(&options, Memory::default())
    }

    #[test]
    fn a_jump_is_measured_by_the_recent_losses() {
        let mut guard = guard(Some(2.0));
        for step in 0..40 {
            let loss = if step < 20 { 8.0 } else { 1.0 };
            assert_eq!(guard.judge(loss), None);
            guard.note(step, loss, None).unwrap();
        }
        // Twelve of 8 and twenty of 1 are remembered.
        assert_eq!(guard.judge(7.2), None);
        assert_eq!(guard.judge(7.3), Some(Skipped::Spike { loss: 7.3, mean: 3.625 }));
        assert_eq!(guard.judge(f64::NAN), Some(Skipped::Loss));
        let memory = serde_json::to_string(guard.memory()).unwrap();
        assert_eq!(&serde_json::from_str::<Memory>(&memory).unwrap(), guard.memory());
    }

    #[test]
    fn the_first_losses_and_a_guard_that_is_off_allow_every_jump() {
        let mut off = guard(None);
        let mut on = guard(Some(1.5));
        for step in 0..7 {
            off.note(step, 1.0, None).unwrap();
            on.note(step, 1.0, None).unwrap();
        }
        assert_eq!((off.judge(1e9), on.judge(1e9)), (None, None));
        on.note(7, 1.0, None).unwrap();
        assert!(on.judge(1e9).is_some());
    }

    #[test]
    fn several_skipped_steps_in_a_row_end_the_run() {
        let mut guard = guard(None);
        let skip = Some(Skipped::Loss);
        for step in [1, 2] {
            guard.note(step, f64::NAN, skip).unwrap();
        }
        guard.note(3, 1.0, None).unwrap();
        guard.note(4, f64::NAN, skip).unwrap();
        guard.note(5, f64::NAN, skip).unwrap();
        let error = guard.note(6, f64::NAN, skip).unwrap_err().to_string();
        assert!(error.contains("is not a finite number at step 6 (3 steps in a row)"), "{error}");
        assert_eq!(guard.memory().skipped, 5);
    }
}
