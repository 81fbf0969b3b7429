//! `danlu eval ppl`: perplexity of a text.

use std::path::PathBuf;

use anyhow::Result;
use danlu_eval::perplexity::{self, Windows};

use super::told_apart;
use crate::models::ModelArgs;
use crate::printer::Printer;

/// Which text, and how it is cut.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Text file, UTF-8
    ///
    /// zh: 文本文件，UTF-8 编码
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Tokens that the model sees at a time (default: its context, at most 4096)
    ///
    /// zh: 模型一次看到的词元数（默认：其上下文长度，至多 4096）
    #[arg(long, value_name = "N")]
    window: Option<usize>,
    /// Tokens from window to window; the others are context (default: half a window)
    ///
    /// zh: 窗口每次前移的词元数，其余作为上文（默认：半个窗口）
    #[arg(long, value_name = "N")]
    stride: Option<usize>,
}

/// Runs `danlu eval ppl`.
///
/// # Errors
/// A model or a text that cannot be used.
pub fn run(args: Args, printer: &Printer) -> Result<()> {
    let opened = args.model.open(printer)?;
    let ids = perplexity::read_ids(opened.tokenizer()?, &args.text).map_err(told_apart)?;
    let windows = Windows { window: args.window, stride: args.stride };
    let mut bar = printer.progress("tokens", ids.len() as u64 - 1);
    let result = perplexity::of_ids(&opened.model, &ids, windows, |done, _| bar.set(done as u64, ""))
        .map_err(told_apart)?;
    drop(bar);
    printer.line(format_args!(
        "perplexity {:.4} · nll {:.6} · {} tokens · windows of {} tokens, {} apart",
        result.perplexity, result.nll, result.tokens, result.window, result.stride
    ))?;
    Ok(printer.json(&serde_json::to_value(&result)?)?)
}
