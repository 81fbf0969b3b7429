//! `danlu merge`: a base and its adapters become one model folder.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use clap::ValueEnum;
use danlu_formats::{AtomicFolder, Dtype};
use danlu_hub::Want;
use danlu_model::{Comparison, Error, MergeOptions, Merged, compare_merged, merge};
use danlu_train::machine;
use fs_err as fs;
use serde_json::json;

use crate::failure::wrong_input;
use crate::hub::{self, Fetch};
use crate::models::base_of;
use crate::printer::Printer;
use crate::stop;

/// Make one model of a base and its adapters.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model: a folder, or a GGUF file (default: the one that the first adapter names)
    ///
    /// zh: 基础模型：文件夹或 GGUF 文件（默认：第一个适配器所记的模型）
    #[arg(long, value_name = "PATH")]
    base: Option<PathBuf>,
    /// PEFT adapter folder; several, separated by commas or given again, are added up
    ///
    /// zh: PEFT 适配器文件夹；可给出多个（以逗号分隔或重复此项），效果相加
    #[arg(long, value_name = "PATH", value_delimiter = ',', required = true)]
    adapter: Vec<PathBuf>,
    /// Folder for the merged model
    ///
    /// zh: 合并后模型的文件夹
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Type of the written weights (default: the base's own; a quantized base needs one)
    ///
    /// zh: 写出权重的类型（默认：与基础模型相同；量化的基础模型必须指定）
    #[arg(long, value_enum)]
    dtype: Option<DtypeChoice>,
    /// Bytes of weights in one file, such as 5GB
    ///
    /// zh: 单个权重文件的大小，例如 5GB
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = shard_bytes)]
    max_shard_size: usize,
    /// Compare the logits of a fixed text before and after, in f32; a difference beyond rounding is an error
    ///
    /// zh: 以 f32 比较固定文本在合并前后的 logits；差异超出舍入误差即报错
    #[arg(long)]
    verify: bool,
    /// Replace the folder if there is one
    ///
    /// zh: 文件夹已存在时替换
    #[arg(long)]
    overwrite: bool,
}

/// Types that weights are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DtypeChoice {
    F32,
    F16,
    Bf16,
}

impl DtypeChoice {
    fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::Bf16 => Dtype::Bf16,
        }
    }
}

fn shard_bytes(text: &str) -> Result<usize, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic()).trim();
    let unit = text[digits.len()..].trim();
    let factor: usize = match unit.to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return Err("expected a number of bytes with KB, MB or GB, such as 5GB".into()),
    };
    let number = digits.parse::<usize>().ok().and_then(|number| number.checked_mul(factor));
    number.filter(|bytes| *bytes > 0).ok_or_else(|| "expected a size above 0, such as 5GB".into())
}

/// Runs `danlu merge`.
///
/// # Errors
/// A model or adapter that cannot be read or do not fit each other, a folder that cannot be written, a merged model that
/// computes something else.
pub fn run(args: &Args, printer: &Printer) -> Result<()> {
    let start = Instant::now();
    let place = |path: &PathBuf| hub::place(path, Want::Model, Fetch::Allowed, printer);
    let adapters = args.adapter.iter().map(place).collect::<Result<Vec<_>>>()?;
    let base = match &args.base {
        Some(base) => place(base)?,
        None => base_of(&adapters[0])?,
    };
    check_out(args, &base)?;
    let adapters: Vec<&Path> = adapters.iter().map(PathBuf::as_path).collect();
    let options =
        MergeOptions { dtype: args.dtype.map(DtypeChoice::dtype), max_shard_bytes: args.max_shard_size };
    // From here on Ctrl-C ends the work in order, and removes what is half written.
    if stop::requested() {
        return Err(stop::Interrupted.into());
    }
    let folder = AtomicFolder::create(&args.out)?;
    let mut progress = None;
    let merged = merge(&base, &adapters, folder.path(), &options, &mut |written, all| {
        let bar = progress.get_or_insert_with(|| printer.progress("merging", all as u64));
        bar.set(written as u64, format_args!("{} MB", written >> 20));
        !stop::requested()
    });
    drop(progress);
    let merged = merged.map_err(|error| match error {
        Error::Cancelled => stop::Interrupted.into(),
        error => anyhow::Error::from(error),
    })?;
    let comparison = match args.verify {
        true => Some(verified(compare_merged(&base, &adapters, folder.path())?, &merged)?),
        false => None,
    };
    if stop::requested() {
        return Err(stop::Interrupted.into());
    }
    folder.commit()?;
    report(args, &base, &merged, comparison, start, printer)
}

/// The folder is new or may be replaced, and is none of those that are read.
fn check_out(args: &Args, base: &Path) -> Result<()> {
    let out = args.out.display();
    let same = |path: &Path| match (fs::canonicalize(path), fs::canonicalize(&args.out)) {
        (Ok(path), Ok(out)) => path.starts_with(out),
        _ => false,
    };
    if let Some(read) = args.adapter.iter().map(PathBuf::as_path).chain([base]).find(|path| same(path)) {
        let read = read.display();
        return Err(wrong_input(format!("`{out}` holds `{read}`, which is read: choose another `--out`")));
    }
    let is_empty = |path: &Path| fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    if args.out.exists() && !args.overwrite && !is_empty(&args.out) {
        return Err(wrong_input(format!(
            "`{out}` is there already: choose another `--out`, or replace it with `--overwrite`"
        )));
    }
    Ok(())
}

/// Refuses a difference that rounding the weights once cannot explain.
fn verified(comparison: Comparison, merged: &Merged) -> Result<Comparison> {
    let share = match merged.dtype {
        Dtype::Bf16 => 0.1,
        Dtype::F16 => 0.02,
        _ => 1e-3,
    };
    let Comparison { largest_difference: difference, largest_logit: logit, .. } = comparison;
    if difference <= share * logit {
        return Ok(comparison);
    }
    Err(anyhow::anyhow!(
        "the merged model differs from base and adapter: its logits by up to {difference}, of {logit} at most; expected \
         less than {}, nothing was written",
        share * logit
    ))
}

fn report(
    args: &Args,
    base: &Path,
    merged: &Merged,
    comparison: Option<Comparison>,
    start: Instant,
    printer: &Printer,
) -> Result<()> {
    let seconds = start.elapsed().as_secs_f64();
    let peak = machine::peak().map(|bytes| bytes >> 20);
    let adapters: Vec<String> = args.adapter.iter().map(|path| path.display().to_string()).collect();
    printer.line(format_args!("{} + {} → {}", base.display(), adapters.join(" + "), args.out.display()))?;
    printer.line(format_args!(
        "{} of {} tensors changed · {} · {} MB · {seconds:.1} s{}",
        merged.changed,
        merged.tensors,
        merged.dtype,
        merged.bytes >> 20,
        peak.map_or_else(String::new, |peak| format!(" · at most {peak} MB resident")),
    ))?;
    let [before, after] = merged.vocab_size;
    if before != after {
        printer.line(format_args!("vocabulary: {before} → {after} rows"))?;
    }
    if merged.is_untied {
        printer.line("the head is no longer the embedding: `tie_word_embeddings` is false now")?;
    }
    if let Some(owner) = &merged.tokenizer_of {
        printer.line(format_args!("tokenizer: that of {}", owner.display()))?;
    }
    if let Some(Comparison { tokens, largest_difference, largest_logit, same_best }) = comparison {
        printer.line(format_args!(
            "verified on {tokens} tokens: logits differ by at most {largest_difference:.2e} (the largest is \
             {largest_logit:.1}), {same_best} of {tokens} next tokens are the same"
        ))?;
    }
    let verified = comparison.map(|comparison| {
        json!({
            "tokens": comparison.tokens,
            "largest_difference": comparison.largest_difference,
            "largest_logit": comparison.largest_logit,
            "same_best": comparison.same_best,
        })
    });
    Ok(printer.json(&json!({
        "model": args.out,
        "base": base,
        "adapters": args.adapter,
        "tensors": merged.tensors,
        "changed": merged.changed,
        "bytes": merged.bytes,
        "dtype": merged.dtype.to_string(),
        "vocab_size": after,
        "untied": merged.is_untied,
        "tokenizer_of": merged.tokenizer_of,
        "seconds": seconds,
        "peak_rss_mb": peak,
        "verified": verified,
    }))?)
}
