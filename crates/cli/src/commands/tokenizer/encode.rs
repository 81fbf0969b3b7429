//! `danlu tokenizer encode`: text to token ids.

use anyhow::Result;
use danlu_tokenizer::SpecialTokens;
use serde_json::json;

use super::{TokenizerPath, open, readable};
use crate::printer::Printer;

/// What to encode.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    tokenizer: TokenizerPath,
    /// The text
    ///
    /// zh: 文本
    #[arg(long, allow_hyphen_values = true)]
    text: String,
    /// Add no BOS or EOS, and take special tokens that the text spells out as text
    ///
    /// zh: 不添加 BOS 与 EOS，文本中写出的特殊词元按普通文本处理
    #[arg(long)]
    no_special_tokens: bool,
}

/// Runs `danlu tokenizer encode`.
///
/// # Errors
/// A tokenizer that cannot be used.
pub fn run(args: &Args, printer: &Printer) -> Result<()> {
    let tokenizer = open(&args.tokenizer, printer)?;
    let ids = if args.no_special_tokens {
        tokenizer.encode(&args.text, SpecialTokens::AsText)?
    } else {
        let bos = tokenizer.bos_id().filter(|_| tokenizer.adds_bos());
        let eos = tokenizer.eos_id().filter(|_| tokenizer.adds_eos());
        let text = tokenizer.encode(&args.text, SpecialTokens::Parse)?;
        bos.into_iter().chain(text).chain(eos).collect()
    };
    for &id in &ids {
        let piece = tokenizer.token_bytes(id).unwrap_or_default();
        printer.line(format_args!("{id:>7}  `{}`", readable(&piece)))?;
    }
    Ok(printer.json(&json!({ "ids": ids }))?)
}
