//! `danlu tokenizer`: training a vocabulary, and looking at what one does.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};

use anyhow::Result;
use clap::ValueEnum;
use danlu_data::dataset_format::{Layout, Purpose, Row, Tags};
use danlu_data::{ColumnNames, Columns, DataError, Record, Records, RowProblem};
use danlu_formats::AtomicFolder;
use danlu_hub::Want;
use danlu_model::open_tokenizer;
use danlu_tokenizer::{
    BpeTraining, ChatTemplate, SpecialTokens, TokenRole, Tokenizer, TrainedToken, TrainingProgress,
};
use fs_err as fs;
use serde_json::json;

use crate::failure::wrong_input;
use crate::hub::{self, Fetch};
use crate::printer::Printer;

mod convert;

/// What to do with a vocabulary.
#[derive(Debug, clap::Subcommand)]
pub enum Args {
    /// Train a byte-level BPE vocabulary on texts
    ///
    /// zh: 在文本上训练字节级 BPE 词表
    Train(TrainArgs),
    /// Turn a vocabulary into another format with the same ids
    ///
    /// zh: 把词表转换为另一种格式，编号不变
    Convert(convert::Args),
    /// Text to token ids
    ///
    /// zh: 文本转为词元编号
    Encode(EncodeArgs),
    /// Token ids to text
    ///
    /// zh: 词元编号转为文本
    Decode(DecodeArgs),
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

/// What to train a vocabulary on.
#[derive(Debug, clap::Args)]
pub struct TrainArgs {
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

/// What to encode.
#[derive(Debug, clap::Args)]
pub struct EncodeArgs {
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

/// What to decode.
#[derive(Debug, clap::Args)]
pub struct DecodeArgs {
    #[command(flatten)]
    tokenizer: TokenizerPath,
    /// Token ids, separated by commas
    ///
    /// zh: 词元编号，以逗号分隔
    #[arg(long, value_delimiter = ',', required = true)]
    ids: Vec<u32>,
    /// Leave special tokens out
    ///
    /// zh: 略去特殊词元
    #[arg(long)]
    skip_special_tokens: bool,
}

/// Runs `danlu tokenizer`.
///
/// # Errors
/// Files that cannot be used, ids outside the vocabulary.
pub fn run(args: Args, printer: &Printer) -> Result<()> {
    match args {
        Args::Train(args) => train(&args, printer),
        Args::Convert(args) => convert::run(&args, printer),
        Args::Encode(args) => encode(&args, printer),
        Args::Decode(args) => {
            let tokenizer = open(&args.tokenizer, printer)?;
            let text = tokenizer.decode(&args.ids, args.skip_special_tokens)?;
            printer.line(&text)?;
            Ok(printer.json(&json!({ "text": text }))?)
        }
        Args::Info(args) => info(&args, printer),
    }
}

fn open(path: &TokenizerPath, printer: &Printer) -> Result<Tokenizer> {
    Ok(open_tokenizer(&hub::place(&path.tokenizer, Want::Tokenizer, Fetch::Allowed, printer)?)?)
}

fn encode(args: &EncodeArgs, printer: &Printer) -> Result<()> {
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

fn info(path: &TokenizerPath, printer: &Printer) -> Result<()> {
    let tokenizer = open(path, printer)?;
    let token =
        |id: Option<u32>| id.and_then(|id| Some(json!({ "id": id, "text": tokenizer.token_text(id)? })));
    let ends: Vec<_> = tokenizer.end_of_turn_ids().into_iter().map(|id| token(Some(id))).collect();
    let special: Vec<_> = (0..tokenizer.vocabulary_size() as u32)
        .filter(|&id| tokenizer.is_special(id))
        .map(|id| token(Some(id)))
        .collect();
    let roles = [
        ("bos", tokenizer.bos_id()),
        ("eos", tokenizer.eos_id()),
        ("pad", tokenizer.pad_id()),
        ("unk", tokenizer.unk_id()),
    ];
    let yes = |flag: bool| if flag { "yes" } else { "no" };
    let mut rows = vec![vec!["vocabulary size".to_owned(), tokenizer.vocabulary_size().to_string()]];
    for (role, id) in roles {
        let text = id.and_then(|id| Some(format!("{} ({id})", tokenizer.token_text(id)?)));
        rows.push(vec![role.to_owned(), text.unwrap_or_else(|| "none".into())]);
    }
    rows.push(vec!["BOS before a raw text".into(), yes(tokenizer.adds_bos()).into()]);
    rows.push(vec!["EOS after a raw text".into(), yes(tokenizer.adds_eos()).into()]);
    let ids: Vec<String> =
        tokenizer.end_of_turn_ids().iter().filter_map(|&id| tokenizer.token_text(id)).collect();
    rows.push(vec!["ends an answer".into(), ids.join(" ")]);
    rows.push(vec!["special tokens".into(), special.len().to_string()]);
    rows.push(vec!["chat template".into(), yes(tokenizer.chat_template().is_some()).into()]);
    for row in &rows {
        printer.line(format_args!("{:<22} {}", row[0], row[1]))?;
    }
    let mut result = json!({
        "vocabulary_size": tokenizer.vocabulary_size(),
        "adds_bos": tokenizer.adds_bos(),
        "adds_eos": tokenizer.adds_eos(),
        "end_of_turn": ends,
        "special_tokens": special,
        "chat_template": tokenizer.chat_template(),
    });
    for (role, id) in roles {
        result[role] = json!(token(id));
    }
    Ok(printer.json(&result)?)
}

fn train(args: &TrainArgs, printer: &Printer) -> Result<()> {
    refuse_occupied(&args.out)?;
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
