//! `danlu bench`: how fast this machine computes, against what its processor could do at best.
//!
//! It measures the program's own code on random weights and data; peers are measured by their own scripts, in turn.

mod attention;
mod bandwidth;
mod decode;
mod matmul;
mod sft;
pub mod steps;
mod train;

use std::time::Instant;

use anyhow::Result;
use clap::ValueEnum;
use danlu_kernels::Precision;

use crate::printer::Printer;

/// What to measure.
#[derive(Debug, clap::Subcommand)]
pub enum Args {
    /// Reading of main memory, by one thread and by all
    ///
    /// zh: 主内存的读取，单线程与全部线程
    Bandwidth(bandwidth::Args),
    /// Matrix products of a linear layer, by shape
    ///
    /// zh: 线性层的矩阵乘法，按形状
    Matmul(matmul::Args),
    /// Attention, by the sequences that are packed together
    ///
    /// zh: 注意力，按打包在一起的序列
    Attention(attention::Args),
    /// Reading a prompt and generating, with a model
    ///
    /// zh: 用模型读入提示与逐词生成
    Decode(decode::Args),
    /// Steps of training on random data
    ///
    /// zh: 随机数据上的训练步
    Train(train::Args),
    /// Fine-tuning on the rows of a real file, at their real lengths
    ///
    /// zh: 在真实文件的各行上微调，按其真实长度
    Sft(sft::Args),
}

/// Arithmetic that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Arithmetic {
    F32,
    Bf16,
}

impl From<Arithmetic> for Precision {
    fn from(arithmetic: Arithmetic) -> Self {
        match arithmetic {
            Arithmetic::F32 => Self::F32,
            Arithmetic::Bf16 => Self::Bf16,
        }
    }
}

/// Runs the command.
pub fn run(args: Args, printer: &Printer) -> Result<()> {
    match args {
        Args::Matmul(args) => matmul::run(&args, printer),
        Args::Bandwidth(args) => bandwidth::run(&args, printer),
        Args::Attention(args) => attention::run(&args, printer),
        Args::Decode(args) => decode::run(&args, printer),
        Args::Train(args) => train::run(&args, printer),
        Args::Sft(args) => sft::run(&args, printer),
    }
}

/// Seconds of a call: the median of at least `least` calls and of as many as `seconds` allow.
fn median_seconds(least: usize, seconds: f64, mut call: impl FnMut()) -> f64 {
    call();
    let begin = Instant::now();
    let mut times = Vec::new();
    while times.len() < least || begin.elapsed().as_secs_f64() < seconds {
        let start = Instant::now();
        call();
        times.push(start.elapsed().as_secs_f64());
    }
    median(&mut times)
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}
