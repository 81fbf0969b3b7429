//! What a run will do, before it does it.

use danlu_data::DatasetReport;
use danlu_kernels::cpu;
use danlu_kernels::cross_entropy::positions_at_once;
use danlu_kernels::matmul::packed_at_once;
use danlu_model::{Activations, Keep, Model, Parameters, Precision};
use serde::Serialize;

use crate::error::{Result, TrainError};
use crate::flops::flops_per_token;
use crate::machine;
use crate::objective::teacher::Reading;
use crate::optimizer::optimizer_bytes;
use crate::prepare::Prepared;
use crate::recipe::{Optim, Preference, Recompute, TrainingOptions};
use crate::trainer::capacity;

/// What `recompute: auto` chooses from: the first that fits, from fast to small.
pub const RECOMPUTE: [Recompute; 3] = [Recompute::Cheap, Recompute::Mlp, Recompute::Block];

/// Program, libraries and thread stacks.
const PROGRAM_BYTES: usize = 49 << 20;
/// What the second operand of a product takes while it is packed block by block.
const PACKED_BLOCK_BYTES: usize = 4 << 20;

/// What a run will do and what it will take.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// Elements of all weights, adapters included.
    pub parameters: usize,
    /// Elements that are trained.
    pub trainable_parameters: usize,
    /// `f32` or `bf16`.
    pub precision: &'static str,
    /// What is counted: `samples` or `pairs`.
    pub unit: &'static str,
    /// How many there are to train on.
    pub training_samples: usize,
    /// How many there are to validate with.
    pub validation_samples: usize,
    /// Tokens of one pass over the training samples.
    pub tokens_per_epoch: u64,
    /// Tokens that get a loss in one pass.
    pub trained_tokens_per_epoch: u64,
    /// Optimizer steps of one pass.
    pub steps_per_epoch: u64,
    /// Optimizer steps of the run.
    pub total_steps: u64,
    /// Tokens that the run reads.
    pub tokens: u64,
    /// Floating-point operations that a token needs.
    pub flops_per_token: f64,
    /// The key that says when the run ends: `max_steps` or `num_train_epochs`.
    pub ended_by: &'static str,
    /// Steps of rising learning rate.
    pub warmup_steps: u64,
    /// What weight decay applies to.
    pub decay_groups: DecayGroups,
    /// Tokens whose log-probabilities preference tuning computes before the first step.
    pub reference_tokens: u64,
    /// What the teacher of a distillation does before the first step.
    pub teacher: Option<Reading>,
    /// What the backward computes again: `cheap`, `mlp` or `block`.
    pub recompute: Recompute,
    /// Predicted memory by part, in bytes.
    pub memory: Memory,
    /// What the choice of optimizer costs.
    pub choices: Choices,
    /// How rows became samples.
    pub data: DatasetReport,
    /// The step that the run continues from.
    pub resume_from: Option<std::path::PathBuf>,
    /// What the user should know.
    pub notices: Vec<String>,
}

/// Tensors that are treated alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TensorGroup {
    /// How many.
    pub tensors: usize,
    /// Their elements.
    pub parameters: usize,
}

/// What weight decay applies to: matrices, not norms and biases, as in the Hugging Face Trainer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct DecayGroups {
    /// The recipe's `weight_decay`.
    pub weight_decay: f64,
    /// What decays.
    pub decay: TensorGroup,
    /// What does not.
    pub no_decay: TensorGroup,
}

impl DecayGroups {
    fn of(options: &TrainingOptions, parameters: &Parameters) -> Self {
        let (mut decay, mut no_decay) = (TensorGroup::default(), TensorGroup::default());
        for parameter in parameters.list() {
            let group = if parameter.decays() { &mut decay } else { &mut no_decay };
            group.tensors += 1;
            group.parameters += parameter.range.len();
        }
        Self { weight_decay: options.weight_decay, decay, no_decay }
    }
}

/// What gradients and optimizers would take for this model, in bytes.
#[derive(Clone, Debug, Serialize)]
pub struct Choices {
    /// All gradients at once.
    pub gradients: usize,
    /// Gradients with `fused_backward`.
    pub gradients_fused_backward: usize,
    /// State and scratch of each optimizer.
    pub optimizers: Vec<OptimizerChoice>,
    /// Activations of the largest slice by what is computed again.
    pub activations: Vec<RecomputeChoice>,
}

/// What the activations would take.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct RecomputeChoice {
    /// Its name in recipes.
    pub recompute: Recompute,
    /// Bytes.
    pub bytes: usize,
}

/// What one optimizer would take.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct OptimizerChoice {
    /// Its name in recipes.
    pub optim: Optim,
    /// Bytes.
    pub bytes: usize,
}

/// Predicted memory of a run, in bytes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Memory {
    /// Weights, as they rest.
    pub weights: usize,
    /// Gradients of what is trained, as far as they exist at once.
    pub gradients: usize,
    /// State of the optimizer, and its scratch.
    pub optimizer: usize,
    /// What the backward keeps of the largest slice.
    pub activations: usize,
    /// Operands of products as they are packed.
    pub packed: usize,
    /// Logits in memory at a time.
    pub logits: usize,
    /// Samples.
    pub samples: usize,
    /// Keys and values of the texts that are answered at each validation, and what answering takes beside them.
    pub answers: usize,
    /// What preparing took at most: reading the data, learning a vocabulary. Measured, where the system tells.
    pub preparation: usize,
    /// What the teacher of a distillation takes while it reads, before the weights are there.
    pub teacher: usize,
    /// All of these but the last two, and the program; or one of the last, if it is more.
    pub peak: usize,
}

/// `trainable params: 1,024 || all params: 4,096 || trainable%: 25.0000 (f32)`.
pub(crate) fn trainable_line(trainable: usize, all: usize, precision: &str) -> String {
    let share = 100.0 * trainable as f64 / all.max(1) as f64;
    let [trainable, all] = [trainable, all].map(grouped);
    format!("trainable params: {trainable} || all params: {all} || trainable%: {share:.4} ({precision})")
}

/// 1,234,567
pub fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let first = (digits.len() - 1) % 3 + 1;
    let mut text = digits[..first].to_owned();
    for start in (first..digits.len()).step_by(3) {
        text.push(',');
        text += &digits[start..start + 3];
    }
    text
}

impl Plan {
    /// What is trained, in the line that PEFT prints, with the precision.
    pub fn trainable_line(&self) -> String {
        trainable_line(self.trainable_parameters, self.parameters, self.precision)
    }

    /// The plan of what was prepared.
    pub fn of(prepared: &Prepared) -> Self {
        let order = &prepared.order;
        let slices = largest_slice(prepared);
        let group = prepared.recipe.preference().map_or(1, Preference::group);
        Self {
            parameters: prepared.model.parameter_count(),
            trainable_parameters: prepared.model.parameters().len(),
            precision: prepared.precision(),
            unit: if group == 1 { "samples" } else { "pairs" },
            training_samples: prepared.training.len() / group,
            validation_samples: prepared.validation.len() / group,
            tokens_per_epoch: prepared.training.tokens(),
            trained_tokens_per_epoch: prepared.training.trained_tokens(),
            steps_per_epoch: order.steps_per_epoch(),
            total_steps: prepared.total_steps,
            tokens: tokens_of_run(prepared),
            flops_per_token: flops_per_token(&prepared.model, mean_length(prepared)),
            ended_by: if prepared.recipe.training.max_steps > 0 { "max_steps" } else { "num_train_epochs" },
            warmup_steps: prepared.schedule.warmup_steps,
            decay_groups: DecayGroups::of(&prepared.recipe.training, prepared.model.parameters()),
            reference_tokens: prepared.reference_tokens(),
            teacher: prepared.teacher.as_ref().map(|teacher| teacher.reading),
            recompute: prepared.recompute,
            memory: Memory::of_run(prepared, slices, prepared.recompute),
            choices: choices(prepared, slices),
            data: prepared.report.clone(),
            resume_from: prepared.resume_from.clone(),
            notices: prepared.notices.clone(),
        }
    }
}

/// Tokens of all steps: passes are alike.
fn tokens_of_run(prepared: &Prepared) -> u64 {
    let passes = prepared.total_steps as f64 / prepared.order.steps_per_epoch().max(1) as f64;
    (passes * prepared.training.tokens() as f64) as u64
}

/// Tokens of a sample on average.
fn mean_length(prepared: &Prepared) -> usize {
    (prepared.training.tokens() / prepared.training.len().max(1) as u64) as usize
}

fn choices(prepared: &Prepared, slices: [usize; 2]) -> Choices {
    let model = &prepared.model;
    let choice = |optim| OptimizerChoice { optim, bytes: optimizer_bytes(optim, model.parameters()) };
    let activations = |recompute| RecomputeChoice {
        recompute,
        bytes: Memory::of_run(prepared, slices, recompute).activations,
    };
    Choices {
        gradients: model.parameters().len() * size_of::<f32>(),
        gradients_fused_backward: model.passing_gradient_elements() * size_of::<f32>(),
        optimizers: Optim::ALL.map(choice).to_vec(),
        activations: RECOMPUTE.map(activations).to_vec(),
    }
}

/// Bytes of the gradients and of the optimizer that the options ask for.
pub(crate) fn training_bytes(options: &TrainingOptions, model: &Model) -> [usize; 2] {
    let elements = match options.fused_backward {
        true => model.passing_gradient_elements(),
        false => model.parameters().len(),
    };
    [elements * size_of::<f32>(), optimizer_bytes(options.optim, model.parameters())]
}

/// `recompute` as it is, or for `auto` the first that fits into the memory.
///
/// # Errors
/// If the run does not fit into `max_memory`, or a teacher not into the machine.
pub(crate) fn choose_recompute(prepared: &Prepared) -> Result<Recompute> {
    let training = &prepared.recipe.training;
    let most = training.max_memory().ok().flatten();
    let limit = most.or_else(machine::memory).unwrap_or(u64::MAX);
    let teacher = prepared.teacher.as_ref().map_or(0, |teacher| teacher.reading.memory) as u64;
    if teacher > limit {
        let key = most.map_or("teacher_model_name_or_path", |_| "max_memory");
        let problem = format!(
            "the teacher needs about {} MB while it reads, more than the {} MB that it may take; choose a smaller or a \
             quantized one",
            teacher.div_ceil(1_000_000),
            limit / 1_000_000
        );
        return Err(TrainError::Option { key, problem });
    }
    let candidates = match training.recompute {
        Recompute::Auto => &RECOMPUTE[..],
        chosen => &[chosen],
    };
    let slices = largest_slice(prepared);
    let peak = |&recompute: &Recompute| Memory::of_run(prepared, slices, recompute).training();
    if let Some(&fits) = candidates.iter().find(|candidate| peak(candidate) as u64 <= limit) {
        return Ok(fits);
    }
    let last = candidates.last().copied().unwrap_or(Recompute::Block);
    if most.is_none() {
        return Ok(last);
    }
    let problem = format!(
        "the run needs about {} MB even so, more than `max_memory` allows ({} MB); lower `cutoff_len`, or \
         choose another `optim` (`danlu plan` lists what each takes)",
        peak(&last).div_ceil(1_000_000),
        limit / 1_000_000
    );
    Err(TrainError::Option { key: "max_memory", problem })
}

/// Most tokens, and most targets, of a slice.
fn largest_slice(prepared: &Prepared) -> [usize; 2] {
    let (mut order, training) = (prepared.order.clone(), prepared.steps(&prepared.training));
    let mut slices: Vec<_> =
        (0..order.steps_per_epoch()).flat_map(|step| training.sizes(order.step(step))).collect();
    let validation: Vec<usize> = (0..prepared.validation.len()).collect();
    slices.extend(prepared.steps(&prepared.validation).sizes(&validation));
    let tokens = slices.iter().map(|slice| slice.tokens).max().unwrap_or(0);
    let targets = slices.iter().map(|slice| slice.targets).max().unwrap_or(0);
    [tokens.min(capacity(prepared)), targets]
}

/// Bytes of the operands that are packed as a whole: of the largest group of layers with one input, and of the head.
fn packed_bytes(model: &Model, tokens: usize, positions: usize) -> usize {
    let config = model.config();
    let (d, f) = (config.hidden_size, config.intermediate_size);
    let (q, kv) = (config.query_size(), config.key_value_size());
    let element = match (model.precision(), cpu::level()) {
        (Precision::Bf16, cpu::Level::Avx512Bf16) => 2,
        _ => 4,
    };
    let block = tokens * (d + (2 * f).max(q + 2 * kv));
    (block + positions * (packed_at_once::<f32>(config.vocab_size) + d)) * element + PACKED_BLOCK_BYTES
}

/// Memory of forwards alone, of slices of at most so many tokens and targets, beside so many bytes of samples.
pub(crate) fn forward_bytes(model: &Model, [tokens, targets]: [usize; 2], samples: usize) -> usize {
    let vocabulary = model.config().vocab_size;
    let positions = targets.min(positions_at_once(vocabulary));
    let activations = Activations::new(model, tokens, Keep::Nothing).bytes();
    let logits = positions * vocabulary * size_of::<f32>();
    PROGRAM_BYTES
        + model.weight_bytes()
        + activations
        + packed_bytes(model, tokens, positions)
        + logits
        + samples
}

impl Memory {
    fn of_run(prepared: &Prepared, slices: [usize; 2], recompute: Recompute) -> Self {
        let samples = prepared.training.bytes();
        let (model, options) = (&prepared.model, &prepared.recipe.training);
        let mut memory = Self::of(model, options, recompute.keep(), slices, samples);
        memory.answers = prepared.prompts.bytes(model);
        memory.preparation = machine::peak().unwrap_or(0) as usize;
        memory.teacher = prepared.teacher.as_ref().map_or(0, |teacher| teacher.reading.memory);
        memory.peak = memory.training().max(memory.preparation).max(memory.teacher);
        memory
    }

    /// Without the preparation.
    fn training(&self) -> usize {
        let Self { weights, gradients, optimizer, activations, packed, logits, samples, answers, .. } = self;
        PROGRAM_BYTES + weights + gradients + optimizer + activations + packed + logits + samples + answers
    }

    /// Memory to train `model` on slices of at most so many tokens and targets, beside so many bytes of samples.
    pub fn of(
        model: &Model,
        options: &TrainingOptions,
        keep: Keep,
        [tokens, targets]: [usize; 2],
        samples: usize,
    ) -> Self {
        let vocabulary = model.config().vocab_size;
        let [gradients, optimizer] = training_bytes(options, model);
        let weights = model.weight_bytes();
        let activations = Activations::new(model, tokens, keep).bytes();
        let logits = targets.min(positions_at_once(vocabulary)) * vocabulary * size_of::<f32>();
        let packed = packed_bytes(model, tokens, targets.min(positions_at_once(vocabulary)));
        let mut memory = Self {
            weights,
            gradients,
            optimizer,
            activations,
            packed,
            logits,
            samples,
            answers: 0,
            preparation: 0,
            teacher: 0,
            peak: 0,
        };
        memory.peak = memory.training();
        memory
    }
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
