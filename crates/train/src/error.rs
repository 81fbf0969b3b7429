//! What can go wrong in a training run.

use std::path::PathBuf;

use crate::guard::Skipped;

/// Result of this room.
pub type Result<T, E = TrainError> = std::result::Result<T, E>;

/// Why a run could not be prepared or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The model or its files.
    #[error(transparent)]
    Model(#[from] danlu_model::Error),
    /// The dataset.
    #[error(transparent)]
    Data(#[from] danlu_data::DataError),
    /// The vocabulary or the chat template.
    #[error(transparent)]
    Tokenizer(#[from] danlu_tokenizer::Error),
    /// A file of a checkpoint.
    #[error(transparent)]
    Format(#[from] danlu_formats::Error),
    /// A file of the run folder.
    #[error(transparent)]
    RunFolder(#[from] crate::run_folder::RunFolderError),
    /// The recipe.
    #[error(transparent)]
    Recipe(#[from] crate::recipe::RecipeError),
    /// Reading or writing; the message carries the path.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// Values of the recipe that do not go together, or not with what they name.
    #[error("`{key}`: {problem}")]
    Option {
        /// The key.
        key: &'static str,
        /// What is wrong, what was expected, what to do.
        problem: String,
    },
    /// A checkpoint that does not belong to this run.
    #[error("cannot resume from `{}`: {problem}", path.display())]
    Resume {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// Several steps in a row could not be taken.
    #[error(
        "{reason} at step {step} ({steps} steps in a row); lower `learning_rate`, or raise `warmup_steps` (the last \
         checkpoint is unharmed)"
    )]
    Diverged {
        /// Why the last of them could not.
        reason: Skipped,
        /// It, from 1.
        step: u64,
        /// How many there were.
        steps: u64,
    },
    /// Somebody asked to stop before there was anything to keep.
    #[error("stopped before the first step: nothing was saved")]
    Stopped,
    /// Somebody asked to stop while the teacher of a distillation was reading.
    #[error(
        "stopped while the teacher was reading: what it has read is kept, and the same command goes on from there"
    )]
    TeacherStopped,
    /// More memory than there is.
    #[error(
        "training this takes at least {needed} GB of memory, and this machine has {memory} GB; choose a smaller model, \
         or `finetuning_type: lora` for one that exists"
    )]
    Memory {
        /// Weights, gradients and moments, in GB.
        needed: u64,
        /// What the machine has, in GB.
        memory: u64,
    },
    /// A trained parameter that the backward reached not once or more than once.
    #[error(
        "parameter `{name}` did not get its gradient exactly once: this is a defect of the program, not of your data"
    )]
    MissingGradient {
        /// Its name.
        name: String,
    },
}
