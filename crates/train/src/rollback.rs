//! Going back: where the recipe says so, a run that could not take several steps in a row goes on from its last checkpoint,
//! behind the samples that did the harm.

use crate::checkpoint;
use crate::error::{Result, TrainError};
use crate::observer::Observer;
use crate::prepare::{Load, PassedOver, Prepared, prepare};
use crate::recipe::ResumeFrom;
use crate::trainer::{Outcome, run};

/// How often a run goes back to the same checkpoint.
const MOST_ROLLBACKS: u32 = 3;

/// Runs what was prepared.
///
/// # Errors
/// A disk that is full, a loss that is not a number, a checkpoint that does not fit. Checkpoints before it are unharmed.
pub fn train(mut prepared: Prepared, observer: &mut dyn Observer) -> Result<Outcome> {
    let recipe = prepared.recipe.clone();
    let (mut last, mut times) = (None, 0);
    loop {
        let error = match run(prepared, observer) {
            Err(error) if recipe.training.rollback => error,
            ended => return ended,
        };
        let TrainError::Diverged { step, .. } = error else { return Err(error) };
        // A checkpoint of a later step is that of a run that was given up.
        let mut earlier = checkpoint::list(&recipe.output.output_dir)?;
        earlier.retain(|(saved, _)| *saved < step);
        let Some((_, newest)) = earlier.pop() else { return Err(error) };
        times = if last.as_ref() == Some(&newest) { times + 1 } else { 1 };
        if times > MOST_ROLLBACKS {
            return Err(error);
        }
        let told = format!("{error}; going on from `{}` behind step {step}", newest.display());
        observer.noted(&told);
        let mut again = recipe.clone();
        again.output.resume_from_checkpoint = Some(ResumeFrom::Folder(newest.clone()));
        last = Some(newest);
        prepared = prepare(again, Load::Weights)?;
        prepared.passed_over = Some(PassedOver { until: step, told });
    }
}
