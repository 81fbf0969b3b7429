//! `danlu tokenizer convert`: a vocabulary into another format, with the same ids.

use std::path::PathBuf;

use anyhow::Result;
use danlu_formats::write_file_atomically;
use danlu_hub::Want;
use danlu_model::{open_tokenizer, write_gguf_vocabulary};
use serde_json::json;

use crate::failure::wrong_input;
use crate::hub::{self, Fetch};
use crate::printer::Printer;

/// What to convert.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Model or tokenizer folder, or any vocabulary file: tokenizer.json, sentencepiece's .model, tiktoken's ranks,
    /// llama2.c's tokenizer.bin, GGUF
    ///
    /// zh: 模型或分词器文件夹，或任一种词表文件：tokenizer.json、sentencepiece 的 .model、tiktoken 词表、llama2.c 的 tokenizer.bin、GGUF
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// What to write: X.json, X.model, X.bin (llama2.c) or X.gguf (vocabulary only); any other name is a Hugging Face folder
    ///
    /// zh: 输出，按名称决定格式：X.json、X.model、X.bin（llama2.c）、X.gguf（仅含词表）；其他名称为 Hugging Face 文件夹
    #[arg(value_name = "OUT")]
    output: PathBuf,
}

/// Runs `danlu tokenizer convert`.
///
/// # Errors
/// A vocabulary that cannot be used, that the format cannot hold, or an output that is there already.
pub fn run(args: &Args, printer: &Printer) -> Result<()> {
    let Args { input, output } = args;
    let tokenizer = open_tokenizer(&hub::place(input, Want::Tokenizer, Fetch::Allowed, printer)?)?;
    if output.exists() && !(output.is_dir() && output.read_dir()?.next().is_none()) {
        return Err(wrong_input(format!("`{}` is there already: give another name", output.display())));
    }
    let size = tokenizer.vocabulary_size();
    let mut notes = Vec::new();
    let format = match output.extension().and_then(|end| end.to_str()) {
        Some("json") => {
            write_file_atomically(output, &tokenizer.to_tokenizer_json()?)?;
            "tokenizer.json"
        }
        Some("model") => {
            write_file_atomically(output, &tokenizer.to_sentencepiece()?)?;
            "sentencepiece"
        }
        Some("bin") => {
            write_file_atomically(output, &tokenizer.to_llama2c(size)?)?;
            "llama2.c"
        }
        Some("gguf") => {
            write_gguf_vocabulary(output, tokenizer.to_gguf(size)?)?;
            notes.extend(tokenizer.differences_in_llama_cpp().into_iter().map(str::to_owned));
            "GGUF"
        }
        _ => {
            let refused = tokenizer.save_for_transformers(output)?;
            notes.extend(refused.map(|reason| super::without_json(&reason)));
            "Hugging Face folder"
        }
    };
    for note in &notes {
        printer.note(note);
    }
    printer.line(format_args!("`{}`: {format}, {size} tokens", output.display()))?;
    Ok(printer.json(&json!({ "out": output, "format": format, "tokens": size, "notes": notes }))?)
}
