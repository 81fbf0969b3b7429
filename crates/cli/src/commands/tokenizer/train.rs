//! `danlu tokenizer train`: a vocabulary from texts.

use std::path::PathBuf;
use std::sync::mpsc::{SyncSender, sync_channel};

use anyhow::Result;
use clap::ValueEnum;
use danlu_data::dataset_format::{Layout, Purpose, Row, Tags};
use danlu_data::{ColumnNames, Columns, DataError, Record, Records, RowProblem};
use danlu_formats::AtomicFolder;
use danlu_tokenizer::{BpeTraining, ChatTemplate, TokenRole, Tokenizer, TrainedToken, TrainingProgress};
use serde_json::json;

use crate::failure::wrong_input;
use crate::printer::Printer;

/// What to train a vocabulary on.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files or folders of .txt, .jsonl, .json or .csv
    ///
    /// zh: .txt、.jsonl、.json、.csv 文件或文件夹
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// New or empty folder for the tokenizer files
    ///
    /// zh: 存放分词器文件的文件夹，须为新建或空文件夹
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Tokens in all; a small text gives fewer
    ///
    /// zh: 词元总数；文本少时会更少
    #[arg(long, value_name = "N", default_value_t = BpeTraining::default().vocabulary_size)]
    vocab_size: usize,
    /// Chat template to store, with its special tokens
    ///
    /// zh: 一并保存的对话模板及其特殊词元
    #[arg(long, value_enum, default_value_t)]
    template: TrainedTemplate,
    /// Column of the text in rows
    ///
    /// zh: 文本所在的列
    #[arg(long, value_name = "NAME", default_value = "text")]
    column: String,
}

/// A chat template whose special tokens are known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum TrainedTemplate {
    #[default]
    Chatml,
    Llama2,
    Llama3,
    HumanAssistant,
}

/// Runs `danlu tokenizer train`.
///
/// # Errors
/// Texts that cannot be read, an output folder that is taken.
pub fn run(args: &Args, printer: &Printer) -> Result<()> {
    super::refuse_occupied(&args.out)?;
    let (name, special_tokens) = args.template.tokens();
    let options = BpeTraining {
        vocabulary_size: args.vocab_size,
        special_tokens,
        add_bos: false,
        chat_template: Some(ChatTemplate::builtin(name)?.source().to_owned()),
        progress: Some(Box::new(|progress| {
            if let TrainingProgress::Merging { words } = progress {
                Printer::new(false).note(format_args!("merging pairs of {words} different words"));
            }
        })),
    };
    let columns = Columns { text: Some(ColumnNames::One(args.column.clone())), ..Columns::default() };
    let (sender, texts) = sync_channel(64);
    let tokenizer = std::thread::scope(|scope| {
        let reader = scope.spawn(|| send_texts(&args.files, &columns, sender));
        let tokenizer = Tokenizer::train_byte_level_bpe(texts.into_iter(), &options);
        // A file that cannot be read explains a training without text.
        reader.join().map_err(|_| anyhow::anyhow!("reading the texts failed"))??;
        Ok::<_, anyhow::Error>(tokenizer?)
    })?;
    let folder = AtomicFolder::create(&args.out)?;
    tokenizer.save(folder.path()).map_err(|error| match error {
        // Named by where the vocabulary goes, not by where it is made.
        danlu_tokenizer::Error::File(error) => danlu_formats::Error::io(&args.out, error).into(),
        error => anyhow::Error::from(error),
    })?;
    folder.commit()?;
    let size = tokenizer.vocabulary_size();
    if size < args.vocab_size {
        printer.note(format_args!(
            "the text gives {size} tokens, fewer than `--vocab-size {}`",
            args.vocab_size
        ));
    }
    printer.line(format_args!("{} · {size} tokens", args.out.display()))?;
    Ok(printer.json(&json!({ "tokenizer": args.out, "vocabulary_size": size }))?)
}

/// Sends the text of every row; a receiver that is gone has seen enough.
fn send_texts(files: &[PathBuf], columns: &Columns, sender: SyncSender<String>) -> Result<()> {
    for file in files {
        if !file.exists() {
            return Err(wrong_input(format!(
                "`{}` does not exist; expected a file or folder of texts",
                file.display()
            )));
        }
        let records = Records::open(file)?;
        if let Some(path) = records.ignored().first() {
            let count = records.ignored().len();
            return Err(wrong_input(format!(
                "`{}` holds {count} files that are neither .txt, .jsonl, .json nor .csv, such as `{}`",
                file.display(),
                path.display()
            )));
        }
        for record in records {
            let record = record.map_err(without_recipe)?;
            let Record { content, source } = record;
            let layout = Layout::detect(&content, Purpose::Pretraining, columns, &Tags::default());
            let row = layout.and_then(|layout| layout.read(content, None));
            let row = row.map_err(|problem| without_recipe(DataError::Row { at: source, problem }))?;
            if let Row::Document(text) = row
                && sender.send(text).is_err()
            {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The error of a row without the advice on keys of a recipe.
fn without_recipe(error: DataError) -> anyhow::Error {
    match error {
        DataError::Row { at, problem: RowProblem::MissingColumn { column, available, .. } } => {
            let available = available.join("`, `");
            wrong_input(format!(
                "{at}: there is no column `{column}` but `{available}`: name one with `--column`"
            ))
        }
        DataError::Row { at, problem } => wrong_input(format!("{at}: {problem}")),
        error => error.into(),
    }
}

impl TrainedTemplate {
    /// The template's name, and the special tokens that it writes.
    fn tokens(self) -> (&'static str, Vec<TrainedToken>) {
        use TokenRole::{Bos, Eos, Pad, Unk};
        let token =
            |(text, roles): (&str, &[TokenRole])| TrainedToken { text: text.into(), roles: roles.to_vec() };
        let llama2: [(&str, &[TokenRole]); 3] = [("<unk>", &[Unk, Pad]), ("<s>", &[Bos]), ("</s>", &[Eos])];
        match self {
            Self::Chatml => ("chatml", BpeTraining::default().special_tokens),
            Self::Llama2 => ("llama2", llama2.map(token).into()),
            Self::HumanAssistant => ("human_assistant", llama2.map(token).into()),
            Self::Llama3 => {
                let tokens: [(&str, &[TokenRole]); 5] = [
                    ("<|begin_of_text|>", &[Bos]),
                    ("<|end_of_text|>", &[Pad]),
                    ("<|start_header_id|>", &[]),
                    ("<|end_header_id|>", &[]),
                    ("<|eot_id|>", &[Eos]),
                ];
                ("llama3", tokens.map(token).into())
            }
        }
    }
}
