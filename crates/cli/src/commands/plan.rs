//! `danlu plan`: what a recipe would do, before anything runs.

use std::fmt;

use danlu_kernels::{Precision, ceiling};
use danlu_train::flops::EXPECTED_SHARE;
use danlu_train::objective::teacher::Reading;
use danlu_train::plan::{Choices, DecayGroups, OptimizerChoice, TensorGroup, grouped};
use danlu_train::{Load, Plan, Recipe, machine, prepare_watched};
use serde_json::json;

use crate::hub::{self, Fetch};
use crate::printer::Printer;
use crate::tokenizing::watched;

/// Seconds in which the processor shows what it can do.
const SECONDS: f64 = 0.05;

/// Say what a recipe would do: parameters, tokens, steps, memory, time, what is cut.
///
/// zh: 预告配方将做什么：参数量、词元数、步数、内存、时间，以及哪些数据会被截断。
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
    let time = Time::of(&plan);
    printer.line(&time)?;
    let (header, rows) = choices(&plan.choices);
    printer.line("")?;
    printer.table(&header, &rows)?;
    let mut result = serde_json::to_value(&plan)?;
    result["time"] = json!({
        "seconds": time.seconds,
        "tokens_per_s": time.tokens_per_second,
        "teacher_seconds": time.teacher_seconds,
    });
    printer.json(&result)?;
    Ok(())
}

/// How long a run will take, by what the processor has just shown to do.
struct Time {
    tokens: u64,
    tokens_per_second: f64,
    seconds: f64,
    /// Of the teacher, before the first step.
    teacher_seconds: Option<f64>,
    ceiling: f64,
}

impl Time {
    fn of(plan: &Plan) -> Self {
        let precision = if plan.precision == "bf16" { Precision::Bf16 } else { Precision::F32 };
        let ceiling = ceiling::flops_per_second(precision, SECONDS);
        let tokens_per_second = EXPECTED_SHARE * ceiling / plan.flops_per_token.max(1.0);
        let seconds = plan.tokens as f64 / tokens_per_second.max(f64::MIN_POSITIVE);
        let teacher_seconds = plan.teacher.filter(|teacher| teacher.tokens > 0).map(|teacher| {
            teacher.tokens as f64 * teacher.flops_per_token
                / (EXPECTED_SHARE * ceiling).max(f64::MIN_POSITIVE)
        });
        Self { tokens: plan.tokens, tokens_per_second, seconds, teacher_seconds, ceiling }
    }
}

impl fmt::Display for Time {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let teacher = self
            .teacher_seconds
            .map(|seconds| format!(", before it about {} for the teacher", duration(seconds)));
        write!(
            formatter,
            "time: about {} for {} tokens, {:.0} tokens/s{}, at {:.0} % of the {:.0} GFLOP/s just measured; validations and \
             checkpoints come on top",
            duration(self.seconds),
            grouped(self.tokens as usize),
            self.tokens_per_second,
            teacher.unwrap_or_default(),
            100.0 * EXPECTED_SHARE,
            self.ceiling / 1e9,
        )
    }
}

fn duration(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 120.0 => format!("{seconds:.0} seconds"),
        seconds if seconds < 7200.0 => format!("{:.0} minutes", seconds / 60.0),
        seconds if seconds < 172_800.0 => format!("{:.1} hours", seconds / 3600.0),
        seconds => format!("{:.1} days", seconds / 86_400.0),
    }
}

/// What the teacher of a distillation does before the first step.
fn describe_teacher(teacher: &Reading) -> String {
    let Reading { top_k, positions, kept, tokens, bytes, memory, .. } = *teacher;
    let what = format!(
        "the teacher's {top_k} most probable tokens at {} positions ({} MB on disk)",
        grouped(positions as usize),
        megabytes(bytes as usize)
    );
    if tokens == 0 {
        return format!("{what} are there from before: the teacher is not asked again");
    }
    let before = if kept > 0 {
        format!(", {} of them are there from before", grouped(kept as usize))
    } else {
        String::new()
    };
    format!(
        "before the first step: {what}{before}; it reads {} tokens, forward alone, in about {} MB of memory, without the student",
        grouped(tokens as usize),
        megabytes(memory)
    )
}

/// The plan in lines.
pub fn describe(plan: &Plan) -> Vec<String> {
    let memory = &plan.memory;
    let mut lines = plan.notices.clone();
    lines.push(plan.trainable_line());
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
    lines.extend(plan.teacher.as_ref().map(describe_teacher));
    let passes = plan.total_steps as f64 / plan.steps_per_epoch.max(1) as f64;
    let warmup = match plan.warmup_steps {
        steps if steps > plan.total_steps => format!("all within the warmup of {}", grouped(steps as usize)),
        steps => format!("{steps} of them warmup"),
    };
    lines.push(format!(
        "{} steps ({} a pass), {warmup}; `{}` ends the run, after {passes:.2} passes",
        grouped(plan.total_steps as usize),
        grouped(plan.steps_per_epoch as usize),
        plan.ended_by
    ));
    let DecayGroups { decay, no_decay, weight_decay } = &plan.decay_groups;
    let group = |group: &TensorGroup| format!("{} tensors ({})", group.tensors, grouped(group.parameters));
    lines.push(format!("weight decay {weight_decay} on {}, none on {}", group(decay), group(no_decay)));
    let teacher = match memory.teacher {
        0 => String::new(),
        bytes => format!("; the teacher before that {}", megabytes(bytes)),
    };
    lines.push(format!(
        "memory: about {} MB (weights {}, gradients {}, optimizer {}, activations {}, packed {}, logits {}, \
         samples {}, answers {}; preparing the data {}{teacher})",
        megabytes(memory.peak),
        megabytes(memory.weights),
        megabytes(memory.gradients),
        megabytes(memory.optimizer),
        megabytes(memory.activations),
        megabytes(memory.packed),
        megabytes(memory.logits),
        megabytes(memory.samples),
        megabytes(memory.answers),
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

fn megabytes(bytes: usize) -> usize {
    bytes.div_ceil(1_000_000)
}
