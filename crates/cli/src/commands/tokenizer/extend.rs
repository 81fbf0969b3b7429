//! `danlu tokenizer extend`: more pieces behind a vocabulary's own, and rows for them in a model.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::ValueEnum;
use danlu_formats::AtomicFolder;
use danlu_hub::Want;
use danlu_model::{ConvertOptions, Form, GrowthOptions, RowInit, convert_grown};
use danlu_tokenizer::{Extension, Tokenizer};
use fs_err as fs;
use serde_json::json;

use super::{open_at, readable};
use crate::failure::wrong_input;
use crate::hub::{self, Fetch};
use crate::printer::Printer;
use crate::stop::{self, Interrupted};

/// Refused pieces that are shown for each reason.
const SHOWN: usize = 5;

/// What to extend, and with what.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Vocabulary to extend: model or tokenizer folder, tokenizer.json, tokenizer.model, or GGUF file (default: that of
    /// `--model`)
    ///
    /// zh: 要扩充的词表：模型或分词器文件夹、tokenizer.json、tokenizer.model 或 GGUF 文件（默认：`--model` 的词表）
    #[arg(long, value_name = "PATH", required_unless_present = "model")]
    base: Option<PathBuf>,
    /// What to append: another vocabulary, or a .txt file with one word a line; several are appended in turn
    ///
    /// zh: 要追加的内容：另一个词表，或每行一个词的 .txt 文件；可给出多个，依次追加
    #[arg(long, value_name = "PATH", required = true, num_args = 1..)]
    new: Vec<PathBuf>,
    /// New folder for the extended tokenizer files, with `--model` for the grown model
    ///
    /// zh: 存放扩充后分词器文件的新文件夹；给出 `--model` 时存放扩充后的模型
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Make the file that the scripts of Chinese-LLaMA-Alpaca and literary-alpaca2 make: every unseen piece with score 0,
    /// and no space before texts
    ///
    /// zh: 得到与 Chinese-LLaMA-Alpaca、literary-alpaca2 的合并脚本完全相同的文件：新词元分数全为 0，文本前不加空格
    #[arg(long)]
    sentencepiece_compat: bool,
    /// Model whose embedding and head get rows for the new tokens; it is written as safetensors with the new vocabulary
    ///
    /// zh: 为新词元增加词嵌入与输出层行的模型；连同新词表写成 safetensors 文件夹
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// What new rows start as
    ///
    /// zh: 新增行的初始值
    #[arg(long, value_enum, default_value_t, requires = "model")]
    init: Init,
    /// Make the number of rows a multiple of this
    ///
    /// zh: 把行数补到此数的倍数
    #[arg(long, value_name = "N", requires = "model", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pad_to_multiple_of: Option<u32>,
    /// Seed of random rows
    ///
    /// zh: 随机行的种子
    #[arg(long, value_name = "N", default_value_t = 42, requires = "model")]
    seed: u64,
}

/// What a new token's row starts as.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Init {
    /// Mean of the rows of the tokens that its text used to be cut into
    #[default]
    Pieces,
    /// Mean of all rows
    Mean,
    /// Normal with the model's initializer_range
    Random,
}

/// Runs `danlu tokenizer extend`.
///
/// # Errors
/// Vocabularies that cannot be used or extended, an output folder that is taken.
pub fn run(args: &Args, printer: &Printer) -> Result<()> {
    super::refuse_occupied(&args.out)?;
    let place = |path: &PathBuf| hub::place(path, Want::Model, Fetch::Allowed, printer);
    let model = args.model.as_ref().map(place).transpose()?;
    let base = match (&args.base, &model) {
        (Some(base), _) | (None, Some(base)) => open_at(base, printer)?,
        (None, None) => return Err(wrong_input("give `--base` or `--model`")),
    };
    let extension = extend(args, &base, printer)?;
    let folder = AtomicFolder::create(&args.out)?;
    extension.save(folder.path())?;
    let extended = Tokenizer::open(folder.path())?;
    let size = extended.vocabulary_size();
    let reached = extension.reached(&extended)?;
    if let Some(reason) = extended.save_for_transformers(folder.path())? {
        printer.note(super::without_json(&reason));
    }
    let rows = match &model {
        None => {
            folder.commit()?;
            None
        }
        Some(model) => {
            // What is written is the model, with the vocabulary in it.
            let extended = Tokenizer::open(folder.path())?;
            drop(folder);
            Some(grow(args, model, extended, printer)?)
        }
    };
    let Extension { appended, intermediate, known, refused, .. } = &extension;
    let before = base.vocabulary_size();
    let share = if appended.is_empty() { 1.0 } else { reached.alone as f64 / appended.len() as f64 };
    printer.line(format_args!("{} · {before} + {} = {size} tokens", args.out.display(), size - before))?;
    printer.line(format_args!(
        "appended {} · pieces on the way to them {} · known {known} · refused {}",
        appended.len(),
        intermediate.len(),
        refused.len(),
    ))?;
    printer.line(format_args!(
        "reached inside of a text {} · as a whole text {} ({:.2} %)",
        reached.inside,
        reached.alone,
        100.0 * share
    ))?;
    if reached.behind_space > 0 {
        printer.note(format_args!(
            "{} pieces are not what their text alone becomes: the vocabulary joins its beginning to the space that it puts \
             before a text",
            reached.behind_space
        ));
    }
    for (reason, texts) in by_reason(refused) {
        let shown: Vec<String> =
            texts.iter().take(SHOWN).map(|text| format!("`{}`", readable(text.as_bytes()))).collect();
        let more = if texts.len() > SHOWN { ", …" } else { "" };
        printer.note(format_args!("refused {}: {reason} ({}{more})", texts.len(), shown.join(" ")));
    }
    Ok(printer.json(&json!({
        "tokenizer": args.out,
        "vocabulary_size": size,
        "rows": rows,
        "base_vocabulary_size": before,
        "appended": appended.len(),
        "intermediate": intermediate.len(),
        "known": known,
        "refused": refused.len(),
        "reached": reached.alone,
        "reached_share": share,
        "reached_inside": reached.inside,
        "behind_space": reached.behind_space,
    }))?)
}

/// The refused texts by why they were, most frequent first.
fn by_reason<'a>(refused: &'a [(String, &'static str)]) -> Vec<(&'a str, Vec<&'a str>)> {
    let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
    for (text, reason) in refused {
        match reasons.iter_mut().find(|(known, _)| known == reason) {
            Some((_, texts)) => texts.push(text),
            None => reasons.push((reason, vec![text])),
        }
    }
    reasons.sort_by_key(|(_, texts)| std::cmp::Reverse(texts.len()));
    reasons
}

/// Writes the grown model; says how many rows it has.
fn grow(args: &Args, model: &Path, tokenizer: Tokenizer, printer: &Printer) -> Result<usize> {
    let init = match args.init {
        Init::Pieces => RowInit::Pieces,
        Init::Mean => RowInit::Mean,
        Init::Random => RowInit::Random,
    };
    let multiple = args.pad_to_multiple_of.map(|multiple| multiple as usize);
    let growth = GrowthOptions { init, multiple, seed: args.seed };
    let options = ConvertOptions {
        form: Form::Safetensors,
        mixture: None,
        tokenizer: Some(tokenizer),
        importance: None,
    };
    let mut bar = None;
    let mut progress = |done: u64, total: u64| {
        let bar = bar.get_or_insert_with(|| printer.progress("writing", total));
        bar.set(done, format_args!("{done} of {total} values"));
        if stop::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let grown = convert_grown(model, &args.out, options, Some(growth), &mut progress);
    drop(bar);
    let grown = match grown {
        Err(danlu_model::Error::Cancelled) => return Err(Interrupted.into()),
        grown => grown?,
    };
    let rows = grown.config.vocab_size;
    printer.note(format_args!("the model in {} has {rows} rows", args.out.display()));
    Ok(rows)
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
