//! A recipe run with a bar, and what is told about it afterwards.

use std::path::Path;

use anyhow::Result;
use danlu_train::run_folder::TrainerState;
use danlu_train::{Load, Observer, Progress, Recipe, prepare_watched, train};
use serde_json::Value;

use crate::printer::{self, Printer};
use crate::stop;
use crate::tokenizing::watched;

/// A finished run.
pub struct Trained {
    /// Elements of all weights.
    pub parameters: usize,
    /// Optimizer steps.
    pub steps: u64,
    /// Tokens that were read.
    pub tokens: u64,
    /// Training loss per token by step.
    pub training_loss: Vec<(f64, f64)>,
    /// Validation loss per token by step.
    pub validation_loss: Vec<(f64, f64)>,
}

/// Runs a recipe file.
///
/// # Errors
/// What training says, or that the user stopped it; then a checkpoint is in the run folder.
pub fn run(recipe: &Path, what: &str, printer: &Printer) -> Result<Trained> {
    let loaded = Recipe::load::<&str>(recipe, &[])?;
    let prepared = watched(None, printer, |watch| prepare_watched(loaded.recipe, Load::Weights, watch))?;
    let parameters = prepared.model.parameter_count();
    let output_dir = prepared.recipe.output.output_dir.clone();
    let mut observer = Watched { bar: printer.progress(what, prepared.total_steps) };
    let outcome = train(prepared, &mut observer)?;
    drop(observer);
    if let Some(checkpoint) = &outcome.interrupted {
        printer.note(format_args!(
            "stopped; saved `{}`; `danlu train {} resume_from_checkpoint=true` goes on from there",
            checkpoint.display(),
            recipe.display()
        ));
    }
    if stop::requested() {
        return Err(stop::Interrupted.into());
    }
    stop::clear();
    let state = TrainerState::read(&output_dir.join("trainer_state.json"))?;
    let curve = |name: &str| -> Vec<(f64, f64)> {
        let number =
            |entry: &danlu_train::run_folder::LogEntry, name: &str| entry.get(name).and_then(Value::as_f64);
        state
            .log_history
            .iter()
            .filter_map(|entry| Some((number(entry, "step")?, number(entry, name)?)))
            .collect()
    };
    Ok(Trained {
        parameters,
        steps: outcome.steps,
        tokens: state.num_input_tokens_seen,
        training_loss: curve("loss"),
        validation_loss: curve("eval_loss"),
    })
}

impl Trained {
    /// Loss at the beginning and at the end.
    pub fn losses(&self) -> String {
        let value = |point: Option<&(f64, f64)>| point.map_or(f64::NAN, |point| point.1);
        format!(
            "loss {:.2} → {:.2}, validation {:.2}",
            value(self.training_loss.first()),
            value(self.training_loss.last()),
            value(self.validation_loss.last())
        )
    }
}

struct Watched {
    bar: printer::Progress,
}

impl Observer for Watched {
    fn step(&mut self, progress: &Progress) {
        let message = format!("loss {:.2}, {:.0} tokens/s", progress.loss, progress.tokens_per_second);
        self.bar.set(progress.step, message);
    }

    fn stops(&mut self) -> bool {
        stop::requested()
    }
}
