//! `trainer_state.json` of the Hugging Face Trainer, with exactly its fields, for transformers refuses others.

use std::collections::BTreeMap;
use std::path::Path;

use fs_err as fs;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{RunFacts, RunFolderError, write_whole};

/// One entry of `log_history`: `step`, `epoch` and the logged values.
pub type LogEntry = BTreeMap<String, Value>;

/// The file, fields in its alphabetical order. Fields that other programs may leave out have defaults.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainerState {
    /// The best value of what `metric_for_best_model` names.
    pub best_metric: Option<f64>,
    /// The checkpoint that has it, if one was written.
    pub best_model_checkpoint: Option<String>,
    /// Passes over the dataset so far.
    pub epoch: f64,
    /// Steps between two validations.
    pub eval_steps: f64,
    /// Finished optimizer steps.
    pub global_step: u64,
    /// Always false.
    pub is_hyper_param_search: bool,
    /// Always true.
    pub is_local_process_zero: bool,
    /// Always true.
    pub is_world_process_zero: bool,
    /// Every log entry.
    pub log_history: Vec<LogEntry>,
    /// Steps between two log entries.
    pub logging_steps: f64,
    /// Optimizer steps of the run.
    pub max_steps: i64,
    /// Tokens read so far.
    pub num_input_tokens_seen: u64,
    /// Passes over the dataset, rounded up.
    pub num_train_epochs: u64,
    /// Steps between two checkpoints.
    pub save_steps: f64,
    /// Empty.
    pub stateful_callbacks: Map<String, Value>,
    /// Not measured here.
    pub total_flos: f64,
    /// Samples per batch.
    pub train_batch_size: Option<usize>,
    /// Not used here.
    pub trial_name: Option<String>,
    /// Not used here.
    pub trial_params: Option<Value>,
}

impl TrainerState {
    pub(super) fn new(
        facts: &RunFacts,
        step: u64,
        epoch: f64,
        tokens_seen: u64,
        history: &[LogEntry],
    ) -> Self {
        Self {
            epoch,
            eval_steps: facts.eval_steps as f64,
            global_step: step,
            is_local_process_zero: true,
            is_world_process_zero: true,
            log_history: history.to_vec(),
            logging_steps: facts.logging_steps as f64,
            max_steps: facts.total_steps as i64,
            num_input_tokens_seen: tokens_seen,
            num_train_epochs: facts.num_train_epochs.ceil() as u64,
            save_steps: facts.save_steps as f64,
            train_batch_size: Some(facts.train_batch_size),
            ..Self::default()
        }
    }

    /// Reads the file, also one that the Hugging Face Trainer wrote.
    ///
    /// # Errors
    /// When it cannot be read or is not a trainer state.
    pub fn read(path: &Path) -> Result<Self, RunFolderError> {
        let problem = |problem| RunFolderError::State { path: path.to_owned(), problem };
        serde_json::from_slice(&fs::read(path)?).map_err(|error| problem(error.to_string()))
    }

    /// Reads that of a checkpoint.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_of(checkpoint: &Path) -> Result<Self, RunFolderError> {
        Self::read(&checkpoint.join(super::TRAINER_STATE))
    }

    pub(super) fn write(&self, path: &Path) -> Result<(), RunFolderError> {
        let mut text = serde_json::to_string_pretty(self).map_err(std::io::Error::from)?;
        text.push('\n');
        Ok(write_whole(path, text.as_bytes())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_of_the_hugging_face_trainer_is_read() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(
            "../../../shared/data/checkpoints/smollm-135m-lora-medical/checkpoint-1645.trainer_state.json",
        );
        if !path.is_file() {
            println!("skipped: ../shared/data is not there");
            return;
        }
        let state = TrainerState::read(&path).unwrap();
        assert_eq!((state.global_step, state.max_steps, state.log_history.len()), (1645, 1645, 3));
        assert_eq!(state.log_history[0]["loss"], 1.4248);
    }
}
