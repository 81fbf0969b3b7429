//! `danlu quickstart`: from nothing to a model that answers, in one folder.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;

use crate::printer::Printer;
use crate::quickstart::{self, FULL_MINUTES, Settings};

/// Where the quickstart works, and how much.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder for everything that is made; that of an earlier quickstart is replaced
    ///
    /// zh: 存放全部产物的文件夹；若为先前快速上手的文件夹则替换
    #[arg(long, value_name = "DIR", default_value = "runs/quickstart")]
    dir: PathBuf,
    /// Scale the training to about so many minutes on 2 cores, with scoring on top; below the default the model may learn
    /// too little to answer
    ///
    /// zh: 按双核约需的分钟数调整训练量，评分另需时间；小于默认值时模型可能来不及学会回答
    #[arg(long, value_name = "N", default_value_t = FULL_MINUTES, value_parser = minutes)]
    minutes: f64,
    /// Seed of data and training; the same seed gives the same scores
    ///
    /// zh: 数据与训练的随机种子；种子相同则得分相同
    #[arg(long, value_name = "S", default_value_t = 42)]
    seed: u64,
}

/// Runs `danlu quickstart`.
///
/// # Errors
/// A folder that is not the quickstart's, a disk that is full, or that the user stopped it.
pub fn run(args: Args, printer: &Printer) -> Result<()> {
    let outcome =
        quickstart::run(&Settings { dir: args.dir, minutes: args.minutes, seed: args.seed }, printer)?;
    Ok(printer.json(&json!({
        "score_before": outcome.score_before,
        "score_after": outcome.score_after,
        "seconds": outcome.seconds,
        "model": outcome.model,
    }))?)
}

fn minutes(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(minutes) if minutes.is_finite() && minutes > 0.0 => Ok(minutes),
        _ => Err("expected a number above 0".into()),
    }
}
