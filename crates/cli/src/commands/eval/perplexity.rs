//! `danlu eval ppl`: perplexity of a text.

use std::path::PathBuf;

use anyhow::Result;
use danlu_eval::perplexity::{self, Windows};
use danlu_model::open_tokenizer;

use super::server::{ServerArgs, with_advice};
use crate::failure::wrong_input;
use crate::models::ModelArgs;
use crate::printer::Printer;

/// Which text, and how it is cut.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    server: ServerArgs,
    /// Text file, UTF-8
    ///
    /// zh: 文本文件，UTF-8 编码
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Tokens that the model sees at a time (default: its context, at most 4096; with --url 2047)
    ///
    /// zh: 模型一次看到的词元数（默认：其上下文长度，至多 4096；用 --url 时为 2047）
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
    let windows = Windows { window: args.window, stride: args.stride };
    let result = match args.server.open()? {
        None => {
            let opened = args.model.open(printer)?;
            let ids = perplexity::read_ids(opened.tokenizer()?, &args.text)?;
            let mut bar = printer.progress("tokens", ids.len() as u64 - 1);
            let told = |done, _| bar.set(done as u64, "");
            perplexity::of_ids(&opened.model, &ids, windows, told)?
        }
        Some(server) => {
            let tokenizer = args.model.given_tokenizer(printer)?.ok_or_else(|| {
                wrong_input("`--url` needs `--tokenizer` here: expected the model's own, whose ids the server is told")
            })?;
            let ids = perplexity::read_ids(&open_tokenizer(&tokenizer)?, &args.text)?;
            let mut bar = printer.progress("tokens", ids.len() as u64 - 1);
            let told = |done, _| bar.set(done as u64, "");
            perplexity::by_server(&server, &ids, windows, told)
                .map_err(|error| with_advice(error, "give a smaller `--window`"))?
        }
    };
    printer.line(format_args!(
        "perplexity {:.4} · nll {:.6} · {} tokens · windows of {} tokens, {} apart",
        result.perplexity, result.nll, result.tokens, result.window, result.stride
    ))?;
    Ok(printer.json(&serde_json::to_value(&result)?)?)
}
