//! `danlu tokenizer extend`: more pieces behind a vocabulary's own.

use std::path::PathBuf;

use anyhow::Result;
use danlu_formats::AtomicFolder;
use danlu_tokenizer::{Extension, Tokenizer};
use fs_err as fs;
use serde_json::json;

use super::{open_at, readable};
use crate::failure::wrong_input;
use crate::printer::Printer;

/// Refused pieces that are shown.
const SHOWN: usize = 5;

/// What to extend, and with what.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Vocabulary to extend: model or tokenizer folder, tokenizer.json, tokenizer.model, or GGUF file
    ///
    /// zh: 要扩充的词表：模型或分词器文件夹、tokenizer.json、tokenizer.model 或 GGUF 文件
    #[arg(long, value_name = "PATH")]
    base: PathBuf,
    /// What to append: another vocabulary, or a .txt file with one word a line; several are appended in turn
    ///
    /// zh: 要追加的内容：另一个词表，或每行一个词的 .txt 文件；可给出多个，依次追加
    #[arg(long, value_name = "PATH", required = true, num_args = 1..)]
    new: Vec<PathBuf>,
    /// New folder for the extended tokenizer files
    ///
    /// zh: 存放扩充后分词器文件的新文件夹
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Make the file that the scripts of Chinese-LLaMA-Alpaca and literary-alpaca2 make: every unseen piece with score 0,
    /// and no space before texts
    ///
    /// zh: 得到与 Chinese-LLaMA-Alpaca、literary-alpaca2 的合并脚本完全相同的文件：新词元分数全为 0，文本前不加空格
    #[arg(long)]
    sentencepiece_compat: bool,
}

/// Runs `danlu tokenizer extend`.
///
/// # Errors
/// Vocabularies that cannot be used or extended, an output folder that is taken.
pub fn run(args: &Args, printer: &Printer) -> Result<()> {
    super::refuse_occupied(&args.out)?;
    let base = open_at(&args.base, printer)?;
    let extension = extend(args, &base, printer)?;
    let folder = AtomicFolder::create(&args.out)?;
    extension.save(folder.path())?;
    let extended = Tokenizer::open(folder.path())?;
    let (reached, inside) = extension.reached(&extended)?;
    folder.commit()?;
    let Extension { appended, intermediate, known, refused, .. } = &extension;
    let (size, before) = (extended.vocabulary_size(), base.vocabulary_size());
    let share = if appended.is_empty() { 1.0 } else { reached as f64 / appended.len() as f64 };
    printer.line(format_args!("{} · {before} + {} = {size} tokens", args.out.display(), size - before))?;
    printer.line(format_args!(
        "appended {} · between {} · known {known} · refused {} · reached {reached} ({:.2} %), inside of a text \
         {inside}",
        appended.len(),
        intermediate.len(),
        refused.len(),
        100.0 * share
    ))?;
    for (text, reason) in refused.iter().take(SHOWN) {
        printer.note(format_args!("refused `{}`: {reason}", readable(text.as_bytes())));
    }
    if refused.len() > SHOWN {
        printer.note(format_args!("and {} more", refused.len() - SHOWN));
    }
    Ok(printer.json(&json!({
        "tokenizer": args.out,
        "vocabulary_size": size,
        "base_vocabulary_size": before,
        "appended": appended.len(),
        "intermediate": intermediate.len(),
        "known": known,
        "refused": refused.len(),
        "reached": reached,
        "reached_share": share,
        "reached_inside": inside,
    }))?)
}

fn extend(args: &Args, base: &Tokenizer, printer: &Printer) -> Result<Extension> {
    let is_list = |path: &PathBuf| path.extension().is_some_and(|end| end == "txt");
    if args.sentencepiece_compat {
        if let Some(path) = args.new.iter().find(|path| is_list(path)) {
            return Err(wrong_input(format!(
                "`{}` is a list of words; `--sentencepiece-compat` joins `.model` files",
                path.display()
            )));
        }
        let new = args.new.iter().map(|path| open_at(path, printer)).collect::<Result<Vec<_>>>()?;
        return Ok(base.extend_as_older_projects(&new)?);
    }
    let mut texts = Vec::new();
    for path in &args.new {
        if is_list(path) {
            let words = fs::read_to_string(path)?;
            let words = words.trim_start_matches('\u{FEFF}').lines().filter(|word| !word.trim().is_empty());
            texts.extend(words.map(str::to_owned));
        } else {
            texts.extend(open_at(path, printer)?.texts());
        }
    }
    if texts.is_empty() {
        return Err(wrong_input("`--new` holds no words"));
    }
    Ok(base.extend(&texts)?)
}
