//! `danlu bench train`: whole optimizer steps on random tokens: forward, loss, backward, clipping, AdamW.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use danlu_data::{Sample, Source, step_slices};
use danlu_kernels::blocks::BlockType;
use danlu_kernels::random::Random;
use danlu_kernels::timing::{Times, measured};
use danlu_kernels::{Precision, ceiling};
use danlu_model::Model;
use danlu_train::flops::flops_per_token;
use danlu_train::machine;
use danlu_train::objective::step::Step;
use serde_json::{Map, json};

use super::steps::{Mode, Shape, Training, base_type, peak_megabytes};
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
    /// What the frozen layers of `--mode qlora` rest in
    ///
    /// zh: `--mode qlora` 冻结层的存放类型
    #[arg(long, value_name = "TYPE", value_parser = base_type(), default_value = "nf4")]
    base: BlockType,
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
    /// Rank of the adapters of `--mode lora` and `--mode qlora`
    ///
    /// zh: `--mode lora` 与 `--mode qlora` 的适配器秩
    #[arg(long, default_value_t = 16)]
    rank: usize,
}

/// Runs the command.
pub fn run(args: &Args, printer: &Printer) -> Result<()> {
    if args.batch == 0 || args.seq < 2 || args.steps < 2 {
        return Err(wrong_input("expected a batch of 1 or more, 2 or more tokens, and 2 or more steps"));
    }
    let precision = Precision::from(args.precision);
    let shape = args.shape();
    shape.config()?;
    let limit = ceiling::flops_per_second(precision, 1.0);
    let model = shape.model(args.mode, args.base, precision, args.rank)?;
    printer.note(format_args!(
        "{} parameters, {} of them trained, {} × {} tokens a step",
        count(model.parameter_count()),
        count(model.parameters().len()),
        args.batch,
        args.seq
    ));
    let flops = flops_per_token(&model, args.seq);
    let set_up_peak = peak_megabytes();
    machine::forget_peak();
    let Steps { mut seconds, times, loss } = steps(args, model)?;
    let counted = seconds.len() as f64;
    let mean = seconds.iter().sum::<f64>() / counted;
    let step = median(&mut seconds);
    let tokens_per_second = (args.batch * args.seq) as f64 / step;
    let share = flops * tokens_per_second / limit;
    let train_peak = peak_megabytes();
    printer.line(format_args!(
        "{tokens_per_second:.0} tokens/s, {step:.3} s a step, {:.0} % of the {:.0} GFLOP/s that the processor could do, \
         {train_peak} MB",
        100.0 * share,
        limit / 1e9
    ))?;
    let parts: Vec<(&str, f64)> = times
        .iter()
        .map(|(operation, seconds)| (operation.name(), seconds / counted))
        .chain([("other", mean - times.total() / counted)])
        .filter(|(_, seconds)| *seconds > 0.0)
        .collect();
    let row = |&(name, seconds): &(&str, f64)| {
        vec![name.to_owned(), format!("{:.1}", 1e3 * seconds), format!("{:.1} %", 100.0 * seconds / mean)]
    };
    printer.line("")?;
    printer
        .table(&["where a step's time goes", "ms", "share"], &parts.iter().map(row).collect::<Vec<_>>())?;
    let parts: Map<_, _> =
        parts.into_iter().map(|(name, seconds)| (name.to_owned(), json!(seconds))).collect();
    printer.json(&json!({
        "tokens_per_s": tokens_per_second, "step_s": step, "peak_rss_mb": train_peak.max(set_up_peak), "train_peak_mb": train_peak,
        "loss": loss, "share_of_ceiling": share, "ceiling_gflops": limit / 1e9, "step_s_by_operation": parts,
    }))?;
    Ok(())
}

impl Args {
    fn shape(&self) -> Shape {
        Shape {
            vocab: self.vocab,
            hidden: self.hidden,
            layers: self.layers,
            intermediate: self.intermediate,
            heads: self.heads,
            kv_heads: self.kv_heads,
            tied: false,
            context: self.seq,
        }
    }

    /// One step of random tokens, every one of them learned.
    fn slices(&self) -> Step {
        let mut random = Random::new(&[2]);
        let mut sample = |_| Sample {
            ids: (0..self.seq).map(|_| random.below(self.vocab as u64) as u32).collect(),
            loss_weights: vec![1.0; self.seq],
            source: Source { path: Path::new("bench").into(), line: 0 },
        };
        Step::of(step_slices((0..self.batch).map(&mut sample).collect::<Vec<Sample>>()))
    }
}

/// What the steps after the first took.
struct Steps {
    seconds: Vec<f64>,
    times: Times,
    /// Of the last step.
    loss: f64,
}

fn steps(args: &Args, model: Model) -> Result<Steps> {
    let slices = args.slices();
    let longest = slices.slices.slices.iter().map(|slice| slice.ids.len()).max().unwrap_or(1);
    let mut training = Training::new(model, longest);
    training.step(&slices)?;
    let mut steps = Steps { seconds: Vec::new(), times: Times::default(), loss: 0.0 };
    for _ in 1..args.steps {
        let start = Instant::now();
        let (loss, times) = measured(|| training.step(&slices));
        steps.seconds.push(start.elapsed().as_secs_f64());
        steps.times.add(&times);
        steps.loss = loss?;
    }
    Ok(steps)
}
