//! `danlu tokenizer encode`: text to token ids, one text or a corpus.

use std::path::PathBuf;

use anyhow::Result;
use danlu_tokenizer::SpecialTokens;
use serde_json::json;

use super::corpus::{self, CorpusArgs};
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
    #[arg(long, allow_hyphen_values = true, required_unless_present = "input")]
    text: Option<String>,
    /// Files or folders of .txt, .jsonl, .json, .csv, .tsv, .parquet, .arrow or .xlsx to write as token files, in the place
    /// of one text
    ///
    /// zh: 要写成词元文件的 .txt、.jsonl、.json、.csv、.tsv、.parquet、.arrow、.xlsx 文件或文件夹，代替单个文本
    #[arg(long, value_name = "PATH", num_args = 1.., conflicts_with = "text")]
    input: Vec<PathBuf>,
    #[command(flatten)]
    corpus: CorpusArgs,
    /// Add no BOS or EOS, and take special tokens that the text spells out as text
    ///
    /// zh: 不添加 BOS 与 EOS，文本中写出的特殊词元按普通文本处理
    #[arg(long, conflicts_with = "input")]
    no_special_tokens: bool,
}

/// Runs `danlu tokenizer encode`.
///
/// # Errors
/// A tokenizer or corpus that cannot be used, token files that cannot be written.
pub fn run(args: &Args, printer: &Printer) -> Result<()> {
    let tokenizer = open(&args.tokenizer, printer)?;
    let Some(text) = &args.text else { return corpus::run(&args.input, &args.corpus, &tokenizer, printer) };
    let ids = if args.no_special_tokens {
        tokenizer.encode(text, SpecialTokens::AsText)?
    } else {
        let bos = tokenizer.bos_id().filter(|_| tokenizer.adds_bos());
        let eos = tokenizer.eos_id().filter(|_| tokenizer.adds_eos());
        let text = tokenizer.encode(text, SpecialTokens::Parse)?;
        bos.into_iter().chain(text).chain(eos).collect()
    };
    for &id in &ids {
        let piece = tokenizer.token_bytes(id).unwrap_or_default();
        printer.line(format_args!("{id:>7}  `{}`", readable(&piece)))?;
    }
    Ok(printer.json(&json!({ "ids": ids }))?)
}
