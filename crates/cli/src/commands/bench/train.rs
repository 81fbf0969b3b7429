//! `danlu bench train`: whole optimizer steps on random tokens: forward, loss, backward, clipping, AdamW.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use clap::ValueEnum;
use danlu_data::{Sample, Source, step_slices};
use danlu_kernels::ceiling;
use danlu_kernels::random::Random;
use danlu_model::{Activations, Config, Keep, LoraOptions, Model, Module, Precision};
use danlu_train::machine;
use danlu_train::optimizer::Optimizer;
use danlu_train::recipe::TrainingOptions;
use danlu_train::trainer::{StepResult, take_step};
use serde_json::json;

use super::{Arithmetic, median};
use crate::failure::wrong_input;
use crate::models::count;
use crate::printer::Printer;

/// The model and the steps.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What learns
    ///
    /// zh: 训练哪些权重
    #[arg(long, value_enum, default_value = "full")]
    mode: Mode,
    /// Arithmetic
    ///
    /// zh: 运算精度
    #[arg(long, value_enum, default_value = "bf16")]
    precision: Arithmetic,
    /// Hidden size
    ///
    /// zh: 隐藏层宽度
    #[arg(long, default_value_t = 512)]
    hidden: usize,
    /// Decoder blocks
    ///
    /// zh: 解码层数
    #[arg(long, default_value_t = 8)]
    layers: usize,
    /// Intermediate size of the feed-forward layers
    ///
    /// zh: 前馈层宽度
    #[arg(long, default_value_t = 1408)]
    intermediate: usize,
    /// Attention heads
    ///
    /// zh: 注意力头数
    #[arg(long, default_value_t = 8)]
    heads: usize,
    /// Key/value heads
    ///
    /// zh: 键值头数
    #[arg(long, default_value_t = 8)]
    kv_heads: usize,
    /// Vocabulary size
    ///
    /// zh: 词表大小
    #[arg(long, default_value_t = 6400)]
    vocab: usize,
    /// Sequences of a step
    ///
    /// zh: 每步的序列数
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Tokens of a sequence
    ///
    /// zh: 每条序列的词元数
    #[arg(long, default_value_t = 512)]
    seq: usize,
    /// Steps; the first is not counted
    ///
    /// zh: 步数；第一步不计
    #[arg(long, default_value_t = 6)]
    steps: usize,
    /// Rank of the adapters of `--mode lora`
    ///
    /// zh: `--mode lora` 的适配器秩
    #[arg(long, default_value_t = 16)]
    rank: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// All weights
    Full,
    /// An adapter on every linear layer of frozen weights
    Lora,
}

/// Runs the command.
pub fn run(args: &Args, printer: &Printer) -> Result<()> {
    let config = args.config()?;
    let precision = Precision::from(args.precision);
    let limit = ceiling::flops_per_second(precision, 1.0);
    let model = match args.mode {
        Mode::Full => Model::zeros(config, precision).initialize(1),
        Mode::Lora => {
            let mut model = Model::random(config, precision, 1);
            let options =
                LoraOptions { rank: args.rank, alpha: 2.0 * args.rank as f64, modules: Module::ALL.to_vec() };
            model.add_adapters(&options, 1)?;
            model
        }
    };
    printer.note(format_args!(
        "{} parameters, {} of them trained, {} × {} tokens a step",
        count(model.parameter_count()),
        count(model.parameters().len()),
        args.batch,
        args.seq
    ));
    let flops = args.flops_per_token(&model);
    let peak_mb = || machine::peak().unwrap_or(0) >> 20;
    let set_up_peak = peak_mb();
    machine::forget_peak();
    let Steps { mut seconds, loss } = steps(args, model)?;
    let step = median(&mut seconds[1..]);
    let tokens_per_second = (args.batch * args.seq) as f64 / step;
    let share = flops * tokens_per_second / limit;
    let train_peak = peak_mb();
    printer.line(format_args!(
        "{tokens_per_second:.0} tokens/s, {step:.3} s a step, {:.0} % of the {:.0} GFLOP/s that the processor could do, \
         {train_peak} MB",
        100.0 * share,
        limit / 1e9
    ))?;
    printer.json(&json!({
        "tokens_per_s": tokens_per_second, "step_s": step, "peak_rss_mb": train_peak.max(set_up_peak), "train_peak_mb": train_peak,
        "loss": loss, "share_of_ceiling": share,
    }))?;
    Ok(())
}

impl Args {
    fn config(&self) -> Result<Config> {
        let config = Config {
            vocab_size: self.vocab,
            hidden_size: self.hidden,
            intermediate_size: self.intermediate,
            num_hidden_layers: self.layers,
            num_attention_heads: self.heads,
            num_key_value_heads: self.kv_heads,
            head_dim: self.hidden / self.heads.max(1),
            max_position_embeddings: self.seq.max(4096),
            rope_theta: 10_000.0,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: false,
            initializer_range: 0.02,
            bos_token_id: None,
            eos_token_ids: Vec::new(),
            pad_token_id: None,
        };
        config.check(Path::new("bench"))?;
        if self.batch == 0 || self.seq < 2 || self.steps < 2 || self.rank == 0 {
            return Err(wrong_input(
                "expected a batch and a rank of 1 or more, 2 or more tokens, and 2 or more steps",
            ));
        }
        Ok(config)
    }

    /// What the method needs for a token, forward and backward: each linear layer's products once, and the seven of
    /// causal attention (two forward, five backward) on half a square. Nothing that is computed again counts.
    fn flops_per_token(&self, model: &Model) -> f64 {
        let config = model.config();
        let block = |name: &str| name.ends_with("proj.weight");
        let matrices = model.tensors().filter(|(name, _)| block(name) || name.starts_with("lm_head"));
        let base: usize = matrices.map(|(_, shape)| shape.iter().product::<usize>()).sum();
        let linear = match self.mode {
            // forward, gradient of the input, gradient of the weight
            Mode::Full => 6.0 * base as f64,
            // frozen weights have no gradient
            Mode::Lora => 4.0 * base as f64 + 6.0 * model.parameters().len() as f64,
        };
        let attention = 2.0 * config.query_size() as f64 * (self.seq + 1) as f64 / 2.0;
        linear + 7.0 * attention * config.num_hidden_layers as f64
    }
}

struct Steps {
    seconds: Vec<f64>,
    loss: f64,
}

fn steps(args: &Args, mut model: Model) -> Result<Steps> {
    let mut random = Random::new(&[2]);
    let mut sample = |_| Sample {
        ids: (0..args.seq)
            .map(|_| ((random.uniform() * args.vocab as f64) as u32).min(args.vocab as u32 - 1))
            .collect(),
        loss_weights: vec![1.0; args.seq],
        source: Source { path: Path::new("bench").into(), line: 0 },
    };
    let samples: Vec<Sample> = (0..args.batch).map(&mut sample).collect();
    let slices = step_slices(&samples);
    let longest = slices.slices.iter().map(|slice| slice.ids.len()).max().unwrap_or(1);
    let mut optimizer = Optimizer::new(&model, &TrainingOptions::default());
    let mut gradients = optimizer.gradients(&model);
    let mut activations = Activations::new(&model, longest, Keep::ForBackward);
    let mut seconds = Vec::new();
    let mut loss = 0.0;
    for step in 1..=args.steps as u64 {
        let start = Instant::now();
        optimizer.begin(1e-4, step);
        StepResult { loss, .. } =
            take_step(&mut model, &slices, &mut activations, &mut gradients, &mut optimizer)?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    Ok(Steps { seconds, loss })
}
