//! `danlu train`: runs a recipe and shows how it goes.

use std::collections::BTreeMap;
use std::path::Path;

use danlu_train::guard::Skipped;
use danlu_train::objective::rewards::Rewards;
use danlu_train::recipe::{ResumeFrom, embedded};
use danlu_train::run_folder::{EvalLog, StepLog};
use danlu_train::samples::Answer;
use danlu_train::{
    Load, Observer, Outcome, Plan, Prepared, Progress, Recipe, TrainError, checkpoint, machine, prepare,
    prepare_watched, train,
};
use serde_json::json;

use crate::commands::plan;
use crate::hub::{self, Fetch};
use crate::printer::{self, Printer};
use crate::stop;
use crate::tokenizing::watched;

/// How often a run goes back to the same checkpoint.
const MOST_ROLLBACKS: u32 = 3;

/// Train as a recipe says: pretraining or fine-tuning, all weights or a LoRA adapter.
///
/// zh: 按配方训练：预训练或微调，全参数或 LoRA 适配器。
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Recipe file, or the name of an embedded recipe; without it the embedded ones are listed.
    ///
    /// zh: 配方文件或内置配方名；省略则列出内置配方。
    pub recipe: Option<String>,
    /// Keys of the recipe to change, such as `learning_rate=1e-4`.
    ///
    /// zh: 要改动的配方键，例如 `learning_rate=1e-4`。
    #[arg(value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
}

/// Runs the command.
pub fn run(args: Args, printer: &Printer) -> anyhow::Result<()> {
    let Some(name) = args.recipe else { return list(printer) };
    let loaded = Recipe::load(&name, &args.overrides)?;
    loaded.notices.iter().for_each(|notice| printer.note(notice));
    let mut recipe = loaded.recipe;
    hub::settle(&mut recipe, Fetch::Allowed, printer)?;
    printer.note("reading model and data");
    let prepared = watched(None, printer, |watch| prepare_watched(recipe, Load::Weights, watch))?;
    let plan = Plan::of(&prepared);
    plan::describe(&plan).iter().for_each(|line| printer.note(line));
    let output_dir = prepared.recipe.output.output_dir.clone();
    let mut observer = Shown { bar: printer.progress("training", prepared.total_steps) };
    stop::answer_with("stopping after this step, with a checkpoint; Ctrl-C again stops at once, without");
    let outcome = train_on(prepared, &mut observer)?;
    drop(observer);
    if let Some(checkpoint) = &outcome.interrupted {
        printer.note(format_args!(
            "stopped; saved `{}`; the same command with `resume_from_checkpoint=true` goes on from there",
            checkpoint.display()
        ));
        return Err(stop::Interrupted.into());
    }
    let mut summary = match outcome.train_loss {
        Some(loss) => format!("trained {} steps, mean loss {loss:.4}", outcome.steps),
        None => format!("all {} steps were done before", outcome.steps),
    };
    if let Some(loss) = outcome.eval_loss {
        summary += &format!(", validation loss {loss:.4}");
        match &outcome.eval_rewards {
            Some(rewards) => summary += &shown_rewards(rewards),
            None => summary += &format!(" (perplexity {:.2})", loss.exp()),
        }
    }
    if outcome.skipped_steps > 0 {
        summary += &format!(", {} steps changed nothing (`train.log` says why)", outcome.skipped_steps);
    }
    if let Some(step) = outcome.best_step {
        summary += &format!("; the result is the state of step {step}, the best");
    }
    printer.line(summary)?;
    printer.line(format_args!("saved in `{}`", output_dir.display()))?;
    printer.json(&json!({
        "output_dir": output_dir,
        "steps": outcome.steps,
        "train_loss": outcome.train_loss,
        "eval_loss": outcome.eval_loss,
        "best_step": outcome.best_step,
        "skipped_steps": outcome.skipped_steps,
        "eval_rewards": outcome.eval_rewards.map(|rewards| {
            rewards.named().map(|([name, _], value)| (name, value)).collect::<BTreeMap<_, _>>()
        }),
        "peak_rss_mb": machine::peak().map(|bytes| bytes >> 20),
    }))?;
    Ok(())
}

/// Trains, and where the recipe says so goes back to the last checkpoint when several steps in a row could not be taken.
fn train_on(mut prepared: Prepared, observer: &mut Shown) -> anyhow::Result<Outcome> {
    let recipe = prepared.recipe.clone();
    let (mut last, mut times) = (None, 0);
    loop {
        let error = match train(prepared, observer) {
            Ok(outcome) => return Ok(outcome),
            Err(error) => error,
        };
        let TrainError::Diverged { step, .. } = &error else { return Err(error.into()) };
        // A checkpoint of a later step is that of a run that was given up.
        let mut earlier = checkpoint::list(&recipe.output.output_dir)?;
        earlier.retain(|(saved, _)| saved < step);
        let (true, Some((_, newest))) = (recipe.training.rollback, earlier.pop()) else {
            return Err(error.into());
        };
        times = if last.as_ref() == Some(&newest) { times + 1 } else { 1 };
        if times > MOST_ROLLBACKS {
            return Err(error.into());
        }
        let step = *step;
        observer.bar.note(format_args!("{error}; going on from `{}` behind step {step}", newest.display()));
        let mut again = recipe.clone();
        again.output.resume_from_checkpoint = Some(ResumeFrom::Folder(newest.clone()));
        last = Some(newest);
        prepared = prepare(again, Load::Weights)?;
        prepared.continue_at = Some(step);
    }
}

/// What `danlu train` without a recipe says.
fn list(printer: &Printer) -> anyhow::Result<()> {
    printer.line("usage: danlu train RECIPE|NAME [key=value …]")?;
    printer.line("a recipe is a YAML file with the keys of LLaMA-Factory; these are embedded:\n")?;
    let rows: Vec<Vec<String>> = embedded()
        .iter()
        .map(|recipe| vec![recipe.name.to_owned(), recipe.description().to_owned()])
        .collect();
    printer.table(&["name", "what it does"], &rows)?;
    printer.line("\n`danlu recipes show NAME` prints one, `danlu plan NAME` says what it would do")?;
    printer.json(&json!({ "recipes": embedded().iter().map(|recipe| recipe.name).collect::<Vec<_>>() }))?;
    Ok(())
}

/// The rewards of preference tuning, behind a loss.
fn shown_rewards(rewards: &Rewards) -> String {
    let accuracy = rewards.accuracy().map(|share| format!(", reward accuracy {share:.3}"));
    let margin = rewards.margin().map(|margin| format!(", reward margin {margin:.3}"));
    [accuracy, margin].into_iter().flatten().collect()
}

/// Shows a run on standard error.
struct Shown {
    bar: printer::Progress,
}

impl Observer for Shown {
    fn resumed(&mut self, steps: u64) {
        self.bar.skip(steps);
    }

    fn reference(&mut self, tokens: u64, all: u64) {
        self.bar.set(0, format!("reference: {tokens} of {all} tokens"));
    }

    fn teacher(&mut self, tokens: u64, all: u64) {
        self.bar.set(0, format!("teacher: {tokens} of {all} tokens"));
    }

    fn step(&mut self, progress: &Progress) {
        let message = format!("loss {:.4}, {:.0} tokens/s", progress.loss, progress.tokens_per_second);
        self.bar.set(progress.step, message);
    }

    fn log(&mut self, log: &StepLog) {
        self.bar.note(log.line());
    }

    fn evaluated(&mut self, log: &EvalLog) {
        self.bar.note(log.line());
    }

    fn skipped(&mut self, step: u64, reason: Skipped) {
        self.bar.note(format_args!("step {step} changed nothing: {reason}"));
    }

    fn answered(&mut self, answer: &Answer) {
        let on_one_line = |text: &str| text.trim().replace('\n', " ⏎ ");
        let (prompt, text) = (on_one_line(&answer.prompt), on_one_line(&answer.text));
        self.bar.note(format_args!("step {}: {prompt} → {text}", answer.step));
    }

    fn ends_early(&mut self, step: u64, reason: &str) {
        self.bar.note(format_args!("the run ends at step {step}: {reason}"));
    }

    fn saved(&mut self, path: &Path) {
        self.bar.note(format_args!("saved `{}`", path.display()));
    }

    fn stops(&mut self) -> bool {
        stop::requested()
    }
}
