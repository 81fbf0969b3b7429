//! Going back: where the recipe says so, a run that could not take several steps in a row goes on from its last checkpoint,
//! behind the samples that did the harm.

use crate::checkpoint;
use crate::error::{Result, TrainError};
use crate::observer::Observer;
use crate::prepare::{Load, PassedOver, Prepared, prepare};
use crate::recipe::ResumeFrom;
use crate::trainer::{Outcome, run};

/// How often a process goes back without a step in between that it could take.
const MOST_ROLLBACKS: usize = 3;

/// Runs what was prepared.
///
/// # Errors
/// A disk that is full, a loss that is not a number, a checkpoint that does not fit. Checkpoints before it are unharmed.
pub fn train(mut prepared: Prepared, observer: &mut dyn Observer) -> Result<Outcome> {
    let recipe = prepared.recipe.clone();
    let (mut last, mut passed_over) = (None, Vec::<PassedOver>::new());
    let (mut until, mut in_vain) = (None, 0);
    loop {
        let error = match run(prepared, observer) {
            Err(error) if recipe.training.rollback => error,
            ended => return ended,
        };
        let TrainError::Diverged { step, steps, .. } = error else { return Err(error) };
        in_vain = if until == Some(step - steps) { in_vain + 1 } else { 0 };
        // A checkpoint of a later step is that of a run that was given up.
        let mut earlier = checkpoint::list(&recipe.output.output_dir)?;
        earlier.retain(|(saved, _)| *saved < step);
        let Some((_, newest)) = earlier.pop().filter(|_| in_vain < MOST_ROLLBACKS) else { return Err(error) };
        if last.as_ref() != Some(&newest) {
            passed_over.clear();
        }
        let told = format!("{error}; going on from `{}` behind step {step}", newest.display());
        observer.noted(&told);
        let mut again = recipe.clone();
        again.output.resume_from_checkpoint = Some(ResumeFrom::Folder(newest.clone()));
        (last, until) = (Some(newest), Some(step));
        prepared = prepare(again, Load::Weights)?;
        passed_over.push(PassedOver { until: step, told });
        prepared.passed_over = passed_over.clone();
    }
}
