//! `danlu doctor`: what this machine has, how fast it is, and which models can be trained on it.
//!
//! Memory is what `danlu plan` would say, speed a share of what the processor was just measured to do; no model is read
//! and none is trained.

use std::num::NonZero;

use anyhow::Result;
use danlu_kernels::bandwidth::Bandwidth;
use danlu_kernels::cpu::Level;
use danlu_kernels::{Precision, ceiling, cpu, team};
use danlu_model::Model;
use danlu_train::flops::{EXPECTED_SHARE, flops_per_token};
use danlu_train::machine;
use danlu_train::plan::{Memory, RECOMPUTE};
use danlu_train::recipe::{Recompute, TrainingOptions};
use serde_json::{Value, json};

use crate::commands::bench::steps::{FOUR_BITS, Mode, Shape, with_adapters};
use crate::models::count;
use crate::printer::Printer;

/// Seconds of each of the four measurements.
const SECONDS: f64 = 0.25;
/// Megabytes to read: more than caches hold, little enough for any machine.
const READ_MEGABYTES: usize = 256;
/// Tokens of a sequence, and of the slice that memory is counted for.
const SEQUENCE: usize = 512;
const SLICE: usize = 1024;
const RANK: usize = 16;

/// Shapes of known models, from small to large.
const MODELS: [(&str, Shape); 6] = [
    ("danlu pretrain-zh-26m", shape(8192, 512, 8, 1344, [8, 2], true)),
    ("SmolLM2-135M", shape(49_152, 576, 30, 1536, [9, 3], true)),
    ("Qwen2.5-0.5B", shape(151_936, 896, 24, 4864, [14, 2], true)),
    ("TinyLlama-1.1B", shape(32_000, 2048, 22, 5632, [32, 4], false)),
    ("Llama-3.2-3B", shape(128_256, 3072, 28, 8192, [24, 8], true)),
    ("Llama-2-7B", shape(32_000, 4096, 32, 11_008, [32, 32], false)),
];

const fn shape(
    vocab: usize,
    hidden: usize,
    layers: usize,
    intermediate: usize,
    [heads, kv_heads]: [usize; 2],
    tied: bool,
) -> Shape {
    Shape { vocab, hidden, layers, intermediate, heads, kv_heads, tied, context: SLICE }
}

/// Say what this machine can do: processor, memory, speed, and which models can be trained on it.
///
/// zh: 说明本机的能力：处理器、内存、速度，以及能训练哪些模型。
#[derive(Debug, clap::Args)]
pub struct Args {}

/// What was found out about the machine.
struct Machine {
    memory: Option<u64>,
    available: Option<u64>,
    /// What trainings compute with here.
    precision: Precision,
    /// Floating-point operations per second in that precision.
    ceiling: f64,
}

/// Runs the command.
///
/// # Errors
/// Standard output cannot be written.
pub fn run(_: &Args, printer: &Printer) -> Result<()> {
    let level = cpu::level();
    let forced = std::env::var("DANLU_ISA").ok();
    let processor = machine::processor().unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let (cores, threads) = (cpu::cores(), team::threads());
    let logical = std::thread::available_parallelism().map_or(1, NonZero::get);
    let [bf16, f32] =
        [Precision::Bf16, Precision::F32].map(|precision| ceiling::flops_per_second(precision, SECONDS));
    let bandwidth = Bandwidth::new(READ_MEGABYTES);
    let [one, all] = [bandwidth.one_thread(SECONDS), bandwidth.all_threads(SECONDS)];
    drop(bandwidth);
    let has_bf16 = level == Level::Avx512Bf16;
    let machine = Machine {
        memory: machine::memory(),
        available: machine::available_memory(),
        precision: if has_bf16 { Precision::Bf16 } else { Precision::F32 },
        ceiling: if has_bf16 { bf16 } else { f32 },
    };

    let by_force = forced.as_ref().map_or_else(String::new, |_| ", as `DANLU_ISA` says".to_owned());
    let megabytes = |bytes: Option<u64>| {
        bytes.map_or_else(|| "unknown".to_owned(), |bytes| (bytes / 1_000_000).to_string())
    };
    let lines = [
        format!(
            "processor    {processor}, {cores} cores, {logical} logical processors, {threads} threads for computing"
        ),
        format!("instructions {}{by_force}", level.name()),
        format!("arithmetic   bf16 {:.0} GFLOP/s, f32 {:.0} GFLOP/s at best", bf16 / 1e9, f32 / 1e9),
        format!("memory       {} MB, {} MB free", megabytes(machine.memory), megabytes(machine.available)),
        format!("reading      {:.1} GB/s by one thread, {:.1} GB/s by all", one / 1e9, all / 1e9),
        format!(
            "\nTraining in {}, slices of {SLICE} tokens, sequences of {SEQUENCE}, adapters of rank {RANK} on every layer; \
             speed at {:.0} % of the best arithmetic:\n",
            machine.precision_name(),
            100.0 * EXPECTED_SHARE
        ),
    ];
    lines.iter().try_for_each(|line| printer.line(line))?;
    let mut rows = Vec::new();
    let mut results = Vec::new();
    for (name, shape) in &MODELS {
        for (mode, method) in [(Mode::Full, "full"), (Mode::Lora, "lora"), (Mode::Qlora, "qlora")] {
            let (row, result) = machine.training(name, shape, mode, method)?;
            rows.push(row);
            results.push(result);
        }
    }
    printer
        .table(&["shape of", "parameters", "method", "memory MB", "fits", "recompute", "tokens/s"], &rows)?;
    Ok(printer.json(&json!({
        "processor": processor, "cores": cores, "logical_processors": logical, "threads": threads,
        "level": level.name(), "forced_level": forced,
        "bf16_gflops": bf16 / 1e9, "f32_gflops": f32 / 1e9,
        "memory_bytes": machine.memory, "available_bytes": machine.available,
        "read_gb_per_s": { "one_thread": one / 1e9, "all_threads": all / 1e9 },
        "precision": machine.precision_name(), "share_of_ceiling": EXPECTED_SHARE, "slice_tokens": SLICE,
        "sequence_tokens": SEQUENCE, "lora_rank": RANK, "trainings": results,
    }))?)
}

impl Machine {
    fn precision_name(&self) -> &'static str {
        if self.precision == Precision::Bf16 { "bf16" } else { "f32" }
    }

    /// One line of the table, and the same for programs.
    fn training(&self, name: &str, shape: &Shape, mode: Mode, method: &str) -> Result<(Vec<String>, Value)> {
        let config = shape.config()?;
        let model = match mode {
            Mode::Full => Model::zeros(config, self.precision),
            Mode::Lora => with_adapters(Model::frozen_zeros(config, self.precision, None), RANK)?,
            Mode::Qlora => with_adapters(Model::frozen_zeros(config, self.precision, Some(FOUR_BITS)), RANK)?,
        };
        let peak =
            |keep| Memory::of(&model, &TrainingOptions::default(), keep, [SLICE, SLICE], 0).peak as u64;
        let fits_here =
            |&recompute: &Recompute| self.memory.is_none_or(|memory| peak(recompute.keep()) <= memory);
        let recompute = RECOMPUTE.into_iter().find(fits_here).unwrap_or(Recompute::Block);
        let memory = peak(recompute.keep());
        let fits = match (self.available, self.memory) {
            (Some(available), _) if memory <= available => "yes",
            (Some(_), Some(total)) if memory <= total => "if more is freed",
            (Some(_), Some(_)) => "no",
            _ => "unknown",
        };
        let speed = EXPECTED_SHARE * self.ceiling / flops_per_token(&model, SEQUENCE);
        let parameters = shape_parameters(&model, mode);
        let speed_text = if speed < 10.0 { format!("{speed:.1}") } else { format!("{speed:.0}") };
        let row = vec![
            name.to_owned(),
            count(parameters),
            method.to_owned(),
            memory.div_ceil(1_000_000).to_string(),
            fits.to_owned(),
            recompute.name().to_owned(),
            speed_text,
        ];
        let result = json!({
            "shape": name, "parameters": parameters, "method": method, "peak_bytes": memory, "fits": fits, "recompute": recompute.name(),
            "tokens_per_s": speed,
        });
        Ok((row, result))
    }
}

/// Parameters of the model without its adapters.
fn shape_parameters(model: &Model, mode: Mode) -> usize {
    match mode {
        Mode::Full => model.parameter_count(),
        Mode::Lora | Mode::Qlora => model.parameter_count() - model.parameters().len(),
    }
}
