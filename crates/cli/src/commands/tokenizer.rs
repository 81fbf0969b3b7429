//! `danlu tokenizer`: training a vocabulary, and looking at what one does.

use std::path::PathBuf;

use anyhow::Result;
use danlu_hub::Want;
use danlu_model::open_tokenizer;
use danlu_tokenizer::Tokenizer;

use crate::hub::{self, Fetch};
use crate::printer::Printer;

mod decode;
mod encode;
mod info;
mod train;

/// What to do with a vocabulary.
#[derive(Debug, clap::Subcommand)]
pub enum Args {
    /// Train a byte-level BPE vocabulary on texts
    ///
    /// zh: 在文本上训练字节级 BPE 词表
    Train(train::Args),
    /// Text to token ids
    ///
    /// zh: 文本转为词元编号
    Encode(encode::Args),
    /// Token ids to text
    ///
    /// zh: 词元编号转为文本
    Decode(decode::Args),
    /// Size, special tokens and template of a vocabulary
    ///
    /// zh: 词表大小、特殊词元与模板
    Info(TokenizerPath),
}

/// Which vocabulary.
#[derive(Debug, clap::Args)]
pub struct TokenizerPath {
    /// Model or tokenizer folder, tokenizer.json, tokenizer.model, or GGUF file
    ///
    /// zh: 模型或分词器文件夹、tokenizer.json、tokenizer.model 或 GGUF 文件
    #[arg(long, value_name = "PATH")]
    tokenizer: PathBuf,
}

/// Runs `danlu tokenizer`.
///
/// # Errors
/// Files that cannot be used, ids outside the vocabulary.
pub fn run(args: Args, printer: &Printer) -> Result<()> {
    match args {
        Args::Train(args) => train::run(&args, printer),
        Args::Encode(args) => encode::run(&args, printer),
        Args::Decode(args) => decode::run(&args, printer),
        Args::Info(args) => info::run(&args, printer),
    }
}

fn open(path: &TokenizerPath, printer: &Printer) -> Result<Tokenizer> {
    Ok(open_tokenizer(&hub::place(&path.tokenizer, Want::Tokenizer, Fetch::Allowed, printer)?)?)
}

/// The text of a token on one line; bytes that are no whole character alone are spelled out.
fn readable(piece: &[u8]) -> String {
    let mut text = String::new();
    for chunk in piece.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() {
                text.extend(character.escape_default());
            } else {
                text.push(character);
            }
        }
        text.extend(chunk.invalid().iter().map(|byte| format!("<0x{byte:02X}>")));
    }
    text
}
