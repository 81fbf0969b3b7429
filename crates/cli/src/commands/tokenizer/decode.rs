//! `danlu tokenizer decode`: token ids to text.

use anyhow::Result;
use serde_json::json;

use super::{TokenizerPath, open};
use crate::printer::Printer;

/// What to decode.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    tokenizer: TokenizerPath,
    /// Token ids, separated by commas
    ///
    /// zh: 词元编号，以逗号分隔
    #[arg(long, value_delimiter = ',', required = true, value_parser = |id: &str| id.trim().parse::<u32>())]
    ids: Vec<u32>,
    /// Leave special tokens out
    ///
    /// zh: 略去特殊词元
    #[arg(long)]
    skip_special_tokens: bool,
}

/// Runs `danlu tokenizer decode`.
///
/// # Errors
/// A tokenizer that cannot be used, ids outside the vocabulary.
pub fn run(args: &Args, printer: &Printer) -> Result<()> {
    let tokenizer = open(&args.tokenizer, printer)?;
    let text = tokenizer.decode(&args.ids, args.skip_special_tokens)?;
    printer.line(&text)?;
    Ok(printer.json(&json!({ "text": text }))?)
}
