//! `danlu tokenizer`: training a vocabulary, and looking at what one does.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Result;
use danlu_hub::Want;
use danlu_model::open_tokenizer;
use danlu_tokenizer::Tokenizer;
use fs_err as fs;

use crate::failure::wrong_input;
use crate::hub::{self, Fetch};
use crate::printer::Printer;

mod compare;
mod convert;
mod corpus;
mod decode;
mod encode;
mod extend;
mod info;
mod texts;
mod train;

/// What to do with a vocabulary.
#[derive(Debug, clap::Subcommand)]
pub enum Args {
    /// Train a vocabulary on texts
    ///
    /// zh: 在文本上训练词表
    Train(train::Args),
    /// Append the pieces of another vocabulary, or words, to one
    ///
    /// zh: 在词表后追加另一个词表的词元或词语
    Extend(extend::Args),
    /// Turn a vocabulary into another format with the same ids
    ///
    /// zh: 把词表转换为另一种格式，编号不变
    Convert(convert::Args),
    /// Text to token ids
    ///
    /// zh: 文本转为词元编号
    Encode(encode::Args),
    /// Token ids to text
    ///
    /// zh: 词元编号转为文本
    Decode(decode::Args),
    /// How two vocabularies cut the same text
    ///
    /// zh: 比较两个词表对同一文本的切分
    Compare(compare::Args),
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
        Args::Extend(args) => extend::run(&args, printer),
        Args::Convert(args) => convert::run(&args, printer),
        Args::Encode(args) => encode::run(&args, printer),
        Args::Decode(args) => decode::run(&args, printer),
        Args::Compare(args) => compare::run(&args, printer),
        Args::Info(args) => info::run(&args, printer),
    }
}

fn open(path: &TokenizerPath, printer: &Printer) -> Result<Tokenizer> {
    open_at(&path.tokenizer, printer)
}

fn open_at(path: &Path, printer: &Printer) -> Result<Tokenizer> {
    Ok(open_tokenizer(&hub::place(path, Want::Tokenizer, Fetch::Allowed, printer)?)?)
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

/// What to know of a folder whose vocabulary no `tokenizer.json` can say.
fn without_json(reason: &str) -> String {
    format!(
        "only tokenizer.model is written, which transformers 5 cuts texts with in a way of its own; tokenizer.json would need \
         what it cannot say: {reason}"
    )
}

/// Refuses a folder that holds anything: a model would be lost with the vocabulary that it was trained with.
fn refuse_occupied(folder: &Path) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    let entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    let names: Vec<PathBuf> = entries.iter().map(|entry| entry.file_name().into()).collect();
    let is_any = |known: &[&str]| names.iter().any(|name| known.iter().any(|known| name == Path::new(known)));
    let is_weights =
        |name: &PathBuf| name.extension().is_some_and(|end| end == "safetensors" || end == "gguf");
    let held = if is_any(&["config.json", "adapter_config.json"]) || names.iter().any(is_weights) {
        "a model"
    } else if is_any(&["tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json"]) {
        "a vocabulary"
    } else if !names.is_empty() {
        "other files"
    } else {
        return Ok(());
    };
    Err(wrong_input(format!("`{}` holds {held}; choose another folder with `--out`", folder.display())))
}
