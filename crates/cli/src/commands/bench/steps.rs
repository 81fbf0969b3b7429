//! Models and optimizer steps that are measured or estimated: what `danlu bench train`, `danlu bench sft` and
//! `danlu doctor` have in common.

use std::path::Path;

use anyhow::Result;
use clap::ValueEnum;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use danlu_formats::{AdapterConfig, ModuleSelection};
use danlu_kernels::blocks::BlockType;
use danlu_model::{Activations, Config, Gradients, Keep, Model, Precision};
use danlu_train::machine;
use danlu_train::objective::Objective;
use danlu_train::objective::step::Step;
use danlu_train::optimizer::Optimizer;
use danlu_train::optimizer_step::take_step;
use danlu_train::recipe::TrainingOptions;

use crate::failure::wrong_input;

const LEARNING_RATE: f64 = 1e-4;

/// What frozen layers rest in under [`Mode::Qlora`], as under a recipe's `quantization_bit: 4`.
pub const FOUR_BITS: BlockType = BlockType::Nf4;

/// The types that they can rest in: bitsandbytes' and those of GGUF files.
const BASES: [&str; 11] =
    ["nf4", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k"];

/// Reads the type that frozen layers rest in.
pub fn base_type() -> impl TypedValueParser<Value = BlockType> {
    let kind = |name: &str| BlockType::ALL.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(name));
    PossibleValuesParser::new(BASES).map(move |name| kind(&name).unwrap_or(FOUR_BITS))
}

/// What learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// All weights
    Full,
    /// An adapter on every linear layer of frozen weights
    Lora,
    /// The same, the frozen layers quantized; embedding and head are not
    Qlora,
}

/// The shape of a Llama.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub vocab: usize,
    pub hidden: usize,
    pub layers: usize,
    pub intermediate: usize,
    pub heads: usize,
    pub kv_heads: usize,
    /// Whether the embedding is the head too.
    pub tied: bool,
    /// Tokens of the longest sequence.
    pub context: usize,
}

impl Shape {
    /// A configuration of this shape.
    ///
    /// # Errors
    /// Numbers that make no model.
    pub fn config(&self) -> Result<Config> {
        let config = Config {
            vocab_size: self.vocab,
            hidden_size: self.hidden,
            intermediate_size: self.intermediate,
            num_hidden_layers: self.layers,
            num_attention_heads: self.heads,
            num_key_value_heads: self.kv_heads,
            // Elements are rotated in pairs.
            head_dim: (self.hidden / self.heads.max(1)) & !1,
            max_position_embeddings: self.context.max(4096),
            tie_word_embeddings: self.tied,
            ..Config::default()
        };
        config.check(Path::new("bench"))?;
        Ok(config)
    }

    /// A model with random weights, of which `mode` says what is trained; `base` is what frozen layers rest in under
    /// [`Mode::Qlora`].
    ///
    /// # Errors
    /// As [`config`](Self::config), or a rank of 0.
    pub fn model(&self, mode: Mode, base: BlockType, precision: Precision, rank: usize) -> Result<Model> {
        let config = self.config()?;
        Ok(match mode {
            Mode::Full => Model::zeros(config, precision).initialize(1),
            Mode::Lora => with_adapters(Model::random(config, precision, None, 1), rank)?,
            Mode::Qlora => with_adapters(Model::random(config, precision, Some(base), 1), rank)?,
        })
    }
}

/// `model`, frozen until now, with a fresh adapter on every linear layer.
///
/// # Errors
/// A rank of 0.
pub fn with_adapters(mut model: Model, rank: usize) -> Result<Model> {
    if rank == 0 {
        return Err(wrong_input("`--rank`: expected at least 1, found 0"));
    }
    let target_modules = Some(ModuleSelection::Pattern("all-linear".into()));
    let lora_alpha = 2.0 * rank as f64;
    let config = AdapterConfig { r: rank, lora_alpha, target_modules, ..AdapterConfig::default() };
    model.add_adapter(&config, Some(1))?;
    Ok(model)
}

/// A model in training.
pub struct Training {
    model: Model,
    optimizer: Optimizer,
    gradients: Gradients,
    activations: Activations,
    step: u64,
}

impl Training {
    /// Trains `model` on slices of up to `capacity` tokens.
    pub fn new(model: Model, capacity: usize) -> Self {
        let optimizer = Optimizer::new(&model, &TrainingOptions::default());
        Self {
            gradients: optimizer.gradients(&model),
            optimizer,
            activations: Activations::new(&model, capacity, Keep::ForBackward),
            model,
            step: 0,
        }
    }

    /// One optimizer step: forward, loss, backward, clipping, AdamW; returns the loss.
    ///
    /// # Errors
    /// A token that is not in the vocabulary, or a loss that is not finite.
    pub fn step(&mut self, slices: &Step) -> Result<f64> {
        self.step += 1;
        let Self { model, optimizer, gradients, activations, .. } = self;
        optimizer.begin(LEARNING_RATE, self.step);
        let judge = &|_| None;
        Ok(take_step(model, &Objective::default(), slices, activations, gradients, optimizer, judge)?.loss)
    }
}

/// Megabytes that this process had at most; 0 where the system does not tell.
pub fn peak_megabytes() -> u64 {
    machine::peak().unwrap_or(0) >> 20
}
