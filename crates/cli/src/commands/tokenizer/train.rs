//! `danlu tokenizer train`: a vocabulary from texts.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};

use anyhow::Result;
use clap::ValueEnum;
use danlu_data::{ColumnNames, Columns, Documents, ReadOptions};
use danlu_formats::AtomicFolder;
use danlu_hub::Want;
use danlu_model::open_tokenizer;
use danlu_tokenizer::{
    ChatTemplate, SpecialTokens, TextNormalization, TokenRole, Tokenizer, TrainedToken, TrainingProgress,
    VocabularyKind, VocabularyTraining,
};
use serde_json::{Value, json};

use super::texts;
use crate::failure::wrong_input;
use crate::hub::{self, Fetch};
use crate::printer::{Printer, Progress};

/// What to train a vocabulary on.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files or folders of .txt, .jsonl, .json, .csv, .tsv, .parquet, .arrow or .xlsx, packed ones too
    ///
    /// zh: .txt、.jsonl、.json、.csv、.tsv、.parquet、.arrow、.xlsx 文件（可压缩）或文件夹
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// New or empty folder for the tokenizer files
    ///
    /// zh: 存放分词器文件的文件夹，须为新建或空文件夹
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How the vocabulary writes text
    ///
    /// zh: 词表的类型
    #[arg(long = "type", value_enum, default_value_t)]
    kind: Kind,
    /// Tokens in all; more than the text gives is an error that says how many there can be
    ///
    /// zh: 词元总数；超过文本所能给出的数目时报错，并说明最多能有多少
    #[arg(long, value_name = "N", default_value_t = VocabularyTraining::default().vocabulary_size)]
    vocab_size: usize,
    /// Take fewer tokens where the text gives no more
    ///
    /// zh: 文本不够时接受较小的词表
    #[arg(long)]
    allow_smaller: bool,
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
    /// Encoding of all text files that carry no mark, such as `gb18030`; without it, it is told by their content
    ///
    /// zh: 所有不带标记的文本文件的编码，如 `gb18030`；不设时按内容识别
    #[arg(long, value_name = "NAME")]
    encoding: Option<String>,
    /// A further special token, such as `<think>`; may be given several times
    ///
    /// zh: 额外的特殊词元，如 `<think>`；可多次给出
    #[arg(long = "special", value_name = "TEXT")]
    special: Vec<String>,
    /// A text that is always one token, such as a term; may be given several times
    ///
    /// zh: 始终作为一个词元的文本，如术语；可多次给出
    #[arg(long, value_name = "TEXT")]
    user_defined: Vec<String>,
    /// Ids kept free for later, as special tokens `<|reserved_0|>`, `<|reserved_1|>`, …
    ///
    /// zh: 为以后保留的编号个数，写作特殊词元 `<|reserved_0|>`、`<|reserved_1|>`……
    #[arg(long, value_name = "N", default_value_t = 0)]
    reserved: usize,
    /// Write what is in no piece byte by byte (`bpe` and `unigram`) [default: true]
    ///
    /// zh: 词表中没有的字按字节书写（`bpe` 与 `unigram`）[默认：true]
    #[arg(long, value_name = "BOOL")]
    byte_fallback: Option<bool>,
    /// Share of the text's characters that are pieces, most frequent first (`bpe` and `unigram`) [default: 0.9995]
    ///
    /// zh: 作为词元收入的字占文本的比例，从最常见的字起（`bpe` 与 `unigram`）[默认：0.9995]
    #[arg(long, value_name = "SHARE", value_parser = share)]
    character_coverage: Option<f64>,
    /// What is done to a text before it is cut (`bpe` and `unigram`) [default: identity]
    ///
    /// zh: 切分之前对文本的处理（`bpe` 与 `unigram`）[默认：identity]
    #[arg(long, value_enum)]
    normalization: Option<Normalization>,
    /// Memory to stay within, roughly; rare words are sampled where they do not fit
    ///
    /// zh: 内存大致上限；放不下时对罕见词抽样
    #[arg(long, value_name = "SIZE", default_value = "1.5GiB", value_parser = memory)]
    max_memory: u64,
    /// Decides which rare words are sampled
    ///
    /// zh: 决定抽取哪些罕见词
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Texts that are not trained on, on which the vocabulary is measured
    ///
    /// zh: 不参与训练、用于衡量词表的文本
    #[arg(long, value_name = "FILE")]
    held_out: Vec<PathBuf>,
    /// Vocabularies to measure beside it
    ///
    /// zh: 一同衡量的其他词表
    #[arg(long, value_name = "PATH", num_args = 1.., requires = "held_out")]
    compare: Vec<PathBuf>,
}

/// How a vocabulary writes text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// BPE over bytes, in tokenizer.json, as Llama 3 and Qwen have it
    ///
    /// zh: 字节级 BPE，存为 tokenizer.json，如 Llama 3 与 Qwen
    #[default]
    ByteBpe,
    /// BPE over characters, in sentencepiece's tokenizer.model, as Llama 2 has it
    ///
    /// zh: 字符级 BPE，存为 sentencepiece 的 tokenizer.model，如 Llama 2
    Bpe,
    /// The most probable pieces, in sentencepiece's tokenizer.model
    ///
    /// zh: Unigram，存为 sentencepiece 的 tokenizer.model
    Unigram,
}

/// What is done to a text before it is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Normalization {
    /// Nothing: every text comes back as it was
    ///
    /// zh: 不做处理：文本原样返回
    Identity,
    /// Full-width punctuation becomes ASCII, runs of spaces one space: sentencepiece's default
    ///
    /// zh: 全角标点变为 ASCII，连续空格并为一个：sentencepiece 的默认
    NmtNfkc,
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| *share > 0.0 && *share <= 1.0);
    share.ok_or_else(|| "expected a share above 0 and up to 1, such as 0.9995".into())
}

fn memory(text: &str) -> Result<u64, String> {
    const LEAST: u64 = 64 << 20;
    let size = text.parse::<bytesize::ByteSize>().ok().map(|size| size.as_u64());
    size.filter(|&size| size >= LEAST).ok_or_else(|| "expected a size from 64MiB, such as 2GiB".into())
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
    let (name, mut special_tokens) = args.template.tokens();
    let special = |text: &String| TrainedToken { text: text.clone(), roles: Vec::new() };
    special_tokens.extend(args.special.iter().map(special));
    let kind = args.kind.into();
    if kind == VocabularyKind::ByteLevelBpe {
        let given = [
            ("--byte-fallback", args.byte_fallback.is_some()),
            ("--character-coverage", args.character_coverage.is_some()),
            ("--normalization", args.normalization.is_some()),
        ];
        if let Some((flag, _)) = given.iter().find(|(_, is_given)| *is_given) {
            return Err(wrong_input(format!(
                "`{flag}` means nothing to `--type byte-bpe`, which writes every text as it is; expected `--type bpe` or \
                 `--type unigram`"
            )));
        }
    }
    let columns = Columns { text: Some(ColumnNames::One(args.column.clone())), ..Columns::default() };
    let defaults = VocabularyTraining::default();
    let options = VocabularyTraining {
        kind,
        vocabulary_size: args.vocab_size,
        exact_size: !args.allow_smaller,
        special_tokens,
        reserved: args.reserved,
        user_defined: args.user_defined.clone(),
        add_bos: false,
        chat_template: Some(ChatTemplate::builtin(name)?.source().to_owned()),
        byte_fallback: args.byte_fallback.unwrap_or(defaults.byte_fallback),
        character_coverage: args.character_coverage.unwrap_or(defaults.character_coverage),
        normalization: match args.normalization {
            Some(Normalization::NmtNfkc) => TextNormalization::NmtNfkc,
            Some(Normalization::Identity) | None => TextNormalization::Identity,
        },
        max_memory: args.max_memory,
        seed: args.seed,
        progress: None,
    };
    let reading = ReadOptions { encoding: args.encoding.clone(), ..ReadOptions::default() };
    let documents = texts::open(&args.files, &columns, &reading, printer)?;
    // What is needed behind the training is looked at before it.
    let held_out = texts::open(&args.held_out, &columns, &reading, printer)?;
    let open = |path: &PathBuf| {
        let tokenizer = open_tokenizer(&hub::place(path, Want::Tokenizer, Fetch::Allowed, printer)?)?;
        Ok((path.display().to_string(), tokenizer, 0))
    };
    let compared = args.compare.iter().map(open).collect::<Result<Vec<_>>>()?;
    let tokenizer = train(documents, options, printer)?;
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
    let mut result = json!({ "tokenizer": args.out, "vocabulary_size": size });
    if !args.held_out.is_empty() {
        result["fertility"] = measure(&args.out, held_out, tokenizer, compared, printer)?;
    }
    Ok(printer.json(&result)?)
}

fn train(documents: Documents, mut options: VocabularyTraining, printer: &Printer) -> Result<Tokenizer> {
    let (sender, texts) = sync_channel(64);
    let is_unreadable = Arc::new(AtomicBool::new(false));
    let show = shown_progress(documents.files());
    let stop = Arc::clone(&is_unreadable);
    options.progress = Some(Box::new(move |progress| {
        show(progress);
        if stop.load(Ordering::Acquire) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let read = texts::send(documents, &sender);
            is_unreadable.store(read.is_err(), Ordering::Release);
            // The end of the texts comes behind what is said of them.
            drop(sender);
            read
        });
        let tokenizer = Tokenizer::train(texts.into_iter(), &options);
        // A file that cannot be read explains a training that was ended or had no text.
        let notices = reader.join().map_err(|_| anyhow::anyhow!("reading the texts failed"))??;
        notices.iter().for_each(|notice| printer.note(notice));
        Ok(tokenizer?)
    })
}

/// Shows how far training has come, in two bars.
fn shown_progress(files: &[PathBuf]) -> Box<dyn Fn(TrainingProgress) + Send + Sync> {
    let total = texts::bytes(files) >> 20;
    let printer = Printer::new(false);
    let shown: Mutex<(Option<Progress>, bool)> = Mutex::new((None, false));
    Box::new(move |progress| {
        let Ok(mut shown) = shown.lock() else { return };
        let (bar, is_finding) = &mut *shown;
        match progress {
            TrainingProgress::Reading { bytes } => {
                bar.get_or_insert_with(|| printer.progress("reading", total)).set(bytes >> 20, "MiB");
            }
            TrainingProgress::Counted { words, samplings } => {
                *bar = None;
                printer.note(format_args!("{words} different words"));
                if samplings > 0 {
                    printer.note(format_args!(
                        "more words than `--max-memory` holds: the rare ones were halved in number {samplings} times, \
                         what remains counts for them"
                    ));
                }
            }
            TrainingProgress::Tokens { now, wanted } => {
                if !*is_finding {
                    *is_finding = true;
                    *bar = Some(printer.progress("tokens", wanted as u64));
                }
                if let Some(bar) = bar {
                    bar.set(now as u64, "");
                }
            }
        }
    })
}

/// How many tokens a character of text that was not trained on takes, in this vocabulary and in others.
fn measure(
    out: &Path,
    held_out: Documents,
    trained: Tokenizer,
    compared: Vec<(String, Tokenizer, usize)>,
    printer: &Printer,
) -> Result<Value> {
    let mut measured = vec![(out.display().to_string(), trained, 0)];
    measured.extend(compared);
    let (sender, texts) = sync_channel(64);
    let characters = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let sender = sender;
            texts::send(held_out, &sender)
        });
        let mut characters = 0;
        for text in texts {
            characters += text.chars().count();
            for (_, tokenizer, tokens) in &mut measured {
                // Line by line, which is how it is trained, and keeps a book from being one text.
                for line in text.split_inclusive('\n') {
                    *tokens += tokenizer.encode(line, SpecialTokens::AsText)?.len();
                }
            }
        }
        let notices = reader.join().map_err(|_| anyhow::anyhow!("reading the texts failed"))??;
        notices.iter().for_each(|notice| printer.note(notice));
        Ok::<_, anyhow::Error>(characters)
    })?;
    if characters == 0 {
        return Err(wrong_input("`--held-out` holds no text to measure the vocabulary on"));
    }
    let fertility = |tokens: usize| tokens as f64 / characters as f64;
    let rows = measured.iter().map(|(name, tokenizer, tokens)| {
        let size = tokenizer.vocabulary_size().to_string();
        vec![name.clone(), size, tokens.to_string(), format!("{:.4}", fertility(*tokens))]
    });
    printer.line(format_args!("on {characters} characters of held-out text"))?;
    printer.table(&["vocabulary", "size", "tokens", "tokens per character"], &rows.collect::<Vec<_>>())?;
    let row = |(name, tokenizer, tokens): &(String, Tokenizer, usize)| {
        json!({
            "tokenizer": name,
            "vocabulary_size": tokenizer.vocabulary_size(),
            "tokens": tokens,
            "characters": characters,
            "tokens_per_character": fertility(*tokens),
        })
    };
    Ok(measured.iter().map(row).collect())
}

impl From<Kind> for VocabularyKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::ByteBpe => Self::ByteLevelBpe,
            Kind::Bpe => Self::Bpe,
            Kind::Unigram => Self::Unigram,
        }
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
            Self::Chatml => ("chatml", VocabularyTraining::default().special_tokens),
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
