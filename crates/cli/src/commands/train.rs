//! `danlu train`: runs a recipe and shows how it goes.

use std::collections::BTreeMap;
use std::path::Path;

use danlu_train::recipe::embedded;
use danlu_train::run_folder::{EvalLog, StepLog};
use danlu_train::samples::Answer;
use danlu_train::{Load, Observer, Plan, Progress, Recipe, machine, prepare_watched, train};
use serde_json::json;

use crate::commands::plan;
use crate::hub::{self, Fetch};
use crate::printer::{self, Printer};
use crate::stop;
use crate::tokenizing::watched;

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
    stop::answer_with(
        "stopping after this step, with a checkpoint (before the first step without one); Ctrl-C again stops at once",
    );
    let outcome = train(prepared, &mut observer)?;
    drop(observer);
    if let Some(checkpoint) = &outcome.interrupted {
        printer.note(format_args!(
            "stopped; saved `{}`; the same command with `resume_from_checkpoint=true` goes on from there",
            checkpoint.display()
        ));
        return Err(stop::Interrupted.into());
    }
    let begin = match outcome.was_done {
        true => format!("nothing was left to do behind step {}", outcome.steps),
        false => format!("trained {} steps", outcome.steps),
    };
    let mut summary = format!("{begin}, mean loss {:.4}", outcome.train_loss);
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
        "eval_rewards": outcome.eval_rewards,
        "peak_rss_mb": machine::peak().map(|bytes| bytes >> 20),
    }))?;
    Ok(())
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
fn shown_rewards(rewards: &BTreeMap<&str, f64>) -> String {
    let value = |name, shown: &str| rewards.get(name).map(|value| format!(", {shown} {value:.3}"));
    let shown = [value("rewards/accuracies", "reward accuracy"), value("rewards/margins", "reward margin")];
    shown.into_iter().flatten().collect()
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

    fn noted(&mut self, text: &str) {
        self.bar.note(text);
    }

    fn answered(&mut self, answer: &Answer) {
        let on_one_line = |text: &str| text.trim().replace('\n', " ⏎ ");
        let (prompt, text) = (on_one_line(&answer.prompt), on_one_line(&answer.text));
        self.bar.note(format_args!("step {}: {prompt} → {text}", answer.step));
    }

    fn saved(&mut self, path: &Path) {
        self.bar.note(format_args!("saved `{}`", path.display()));
    }

    fn stops(&mut self) -> bool {
        stop::requested()
    }
}
