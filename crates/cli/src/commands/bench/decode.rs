//! `danlu bench decode`: how fast a model reads a prompt and generates. Given tokens are fed, as llama.cpp's own bench does,
//! so that no choice of tokens and no text is timed.
//!
//! Generation is bound by memory, whose speed changes from minute to minute on shared machines: it is read just before and
//! after, and only ratios of medians of runs in turn should be quoted.

use std::num::NonZeroUsize;
use std::time::Instant;

use anyhow::Result;
use danlu_kernels::bandwidth::Bandwidth;
use danlu_kernels::team;
use danlu_model::Generator;
use serde_json::json;

use super::median;
use crate::models::{ActivationArgs, ModelArgs};
use crate::printer::Printer;

/// Megabytes and seconds of a reading of the memory's speed.
const BANDWIDTH: (usize, f64) = (256, 0.5);

/// What to run.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    activations: ActivationArgs,
    /// Tokens of the prompt
    ///
    /// zh: 提示的词元数
    #[arg(long, value_name = "N", default_value = "512", value_parser = crate::commands::generate::one_or_more)]
    prompt_tokens: NonZeroUsize,
    /// Tokens behind it, one at a time
    ///
    /// zh: 其后逐个运行的词元数
    #[arg(long, value_name = "N", default_value = "128", value_parser = crate::commands::generate::one_or_more)]
    new_tokens: NonZeroUsize,
    /// Runs, of which the medians count; one more goes before them
    ///
    /// zh: 运行次数，取中位数；此前另有一次预热
    #[arg(long, value_name = "N", default_value = "5", value_parser = crate::commands::generate::one_or_more)]
    runs: NonZeroUsize,
}

/// Runs the command.
///
/// # Errors
/// A model that cannot be used, or one whose context is shorter than the tokens.
pub fn run(args: &Args, printer: &Printer) -> Result<()> {
    let located = args.model.locate(printer)?;
    let opened = args.model.open_to_generate(&located, args.activations, printer)?;
    let (prompt, new) = (args.prompt_tokens.get(), args.new_tokens.get());
    let vocabulary = opened.model.config().vocab_size;
    let gigabytes_per_second = || Bandwidth::new(BANDWIDTH.0).all_threads(BANDWIDTH.1) / 1e9;
    let before = gigabytes_per_second();
    let mut generator = Generator::new(&opened.model, prompt + new);
    let (mut reading, mut generating) = (Vec::new(), Vec::new());
    for run in 0..=args.runs.get() {
        // Another first token each time, so that nothing is remembered of the last run.
        let mut ids: Vec<u32> = (0..prompt).map(|index| ((run + index * 7919) % vocabulary) as u32).collect();
        let start = Instant::now();
        generator.next_logits(&ids)?;
        let read = Instant::now();
        for index in 0..new {
            ids.push((index * 104_729 % vocabulary) as u32);
            generator.next_logits(&ids)?;
        }
        if run > 0 {
            reading.push((read - start).as_secs_f64() / prompt as f64);
            generating.push(read.elapsed().as_secs_f64() / new as f64);
        }
    }
    let after = gigabytes_per_second();
    let [reading, generating] = [reading, generating].map(|mut seconds| 1.0 / median(&mut seconds));
    let row = |what: &str, speed: f64| vec![what.to_owned(), format!("{speed:.1}")];
    printer.table(&["", "tokens/s"], &[row("prompt", reading), row("generation", generating)])?;
    printer.note(format_args!("memory is read at {before:.1} GB/s before and {after:.1} GB/s after"));
    printer.json(&json!({
        "prompt_tokens_per_s": reading,
        "generation_tokens_per_s": generating,
        "threads": team::threads(),
        "read_gb_per_s": [before, after],
    }))?;
    Ok(())
}
