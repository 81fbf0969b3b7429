//! `danlu plan`: what a recipe would do, before anything runs.

use danlu_train::plan::{Choices, OptimizerChoice};
use danlu_train::{Load, Plan, Recipe, machine, prepare_watched};

use crate::hub::{self, Fetch};
use crate::printer::Printer;
use crate::tokenizing::watched;

/// Say what a recipe would do: parameters, tokens, steps, memory, what is cut.
///
/// zh: 预告配方将做什么：参数量、词元数、步数、内存，以及哪些数据会被截断。
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Recipe file, or the name of an embedded recipe.
    ///
    /// zh: 配方文件或内置配方名。
    pub recipe: String,
    /// Keys of the recipe to change, such as `cutoff_len=512`.
    ///
    /// zh: 要改动的配方键，例如 `cutoff_len=512`。
    #[arg(value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
}

/// Runs the command.
pub fn run(args: Args, printer: &Printer) -> anyhow::Result<()> {
    let loaded = Recipe::load(&args.recipe, &args.overrides)?;
    loaded.notices.iter().for_each(|notice| printer.note(notice));
    let mut recipe = loaded.recipe;
    hub::settle(&mut recipe, Fetch::Never, printer)?;
    let plan = Plan::of(&watched(None, printer, |watch| prepare_watched(recipe, Load::Shapes, watch))?);
    describe(&plan).iter().try_for_each(|line| printer.line(line))?;
    let (header, rows) = choices(&plan.choices);
    printer.line("")?;
    printer.table(&header, &rows)?;
    printer.json(&serde_json::to_value(&plan)?)?;
    Ok(())
}

/// The plan in lines.
pub fn describe(plan: &Plan) -> Vec<String> {
    let memory = &plan.memory;
    let share = 100.0 * plan.trainable_parameters as f64 / plan.parameters.max(1) as f64;
    let mut lines = plan.notices.clone();
    lines.push(format!(
        "trainable params: {} || all params: {} || trainable%: {share:.4} ({})",
        grouped(plan.trainable_parameters),
        grouped(plan.parameters),
        plan.precision
    ));
    lines.extend(plan.data.to_string().lines().map(str::to_owned));
    lines.push(format!(
        "{} {} to train on, {} to validate with",
        grouped(plan.training_samples),
        plan.unit,
        grouped(plan.validation_samples)
    ));
    if plan.reference_tokens > 0 {
        lines.push(format!(
            "before the first step: the log-probabilities of the model as it is, {} tokens forward alone",
            grouped(plan.reference_tokens as usize)
        ));
    }
    lines.push(format!(
        "{} steps ({} a pass), {} of them warmup",
        grouped(plan.total_steps as usize),
        grouped(plan.steps_per_epoch as usize),
        plan.warmup_steps
    ));
    lines.push(format!(
        "memory: about {} MB (weights {}, gradients {}, optimizer {}, activations {}, packed {}, logits {}, \
         samples {}; preparing the data {})",
        megabytes(memory.peak),
        megabytes(memory.weights),
        megabytes(memory.gradients),
        megabytes(memory.optimizer),
        megabytes(memory.activations),
        megabytes(memory.packed),
        megabytes(memory.logits),
        megabytes(memory.samples),
        megabytes(memory.preparation)
    ));
    let activations = plan.choices.activations.iter();
    let activations: Vec<String> = activations
        .map(|choice| format!("{} {}", choice.recompute.name(), megabytes(choice.bytes)))
        .collect();
    lines.push(format!(
        "activations in MB by `recompute`: {} (chosen: {})",
        activations.join(", "),
        plan.recompute.name()
    ));
    if let Some(machine) = machine::memory().map(|bytes| bytes as usize).filter(|bytes| memory.peak > *bytes)
    {
        lines.push(format!("warning: this machine has {} MB", megabytes(machine)));
    }
    if let Some(checkpoint) = &plan.resume_from {
        lines.push(format!("continues from `{}`", checkpoint.display()));
    }
    lines
}

/// What each optimizer would cost, in MB.
fn choices(choices: &Choices) -> ([&'static str; 4], Vec<Vec<String>>) {
    let row = |choice: &OptimizerChoice| {
        let gradients = [0, choices.gradients, choices.gradients_fused_backward];
        let costs = gradients.map(|gradients| grouped(megabytes(choice.bytes + gradients)));
        [choice.optim.name().to_owned()].into_iter().chain(costs).collect()
    };
    let header = ["optim", "optimizer MB", "and gradients MB", "the same with fused_backward MB"];
    (header, choices.optimizers.iter().map(row).collect())
}

/// 1,234,567
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let first = (digits.len() - 1) % 3 + 1;
    let mut text = digits[..first].to_owned();
    for start in (first..digits.len()).step_by(3) {
        text.push(',');
        text += &digits[start..start + 3];
    }
    text
}

fn megabytes(bytes: usize) -> usize {
    bytes.div_ceil(1_000_000)
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn thousands_are_grouped() {
        let numbers = [0, 12, 123, 1234, 123_456, 1_234_567];
        assert_eq!(numbers.map(grouped), ["0", "12", "123", "1,234", "123,456", "1,234,567"]);
    }
}
