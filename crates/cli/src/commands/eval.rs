//! `danlu eval`: multiple choice, perplexity, entities.
//!
//! `ceval` asks as published results do, `mcq` asks as the model will be used; every part of that can be chosen.

mod ner;

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;
use danlu_eval::Error;
use danlu_eval::multiple_choice::{Options, Questions, Scoring, Selection, Summary, evaluate};
use danlu_eval::perplexity::{self, Windows};

use crate::failure::wrong_input;
use crate::models::ModelArgs;
use crate::printer::Printer;
use crate::prompts::template_of;

/// What to measure.
#[derive(Debug, clap::Subcommand)]
pub enum Args {
    /// C-Eval, as lm-eval asks it: by default letters, 5 examples, no chat template
    ///
    /// zh: C-Eval，提问方式与 lm-eval 相同：默认比较字母、5 个示例、不用对话模板
    Ceval(MultipleChoiceArgs),
    /// Your own multiple-choice questions: by default the options' texts, no examples, the model's own chat template
    ///
    /// zh: 自备的单项选择题：默认比较选项文本、无示例、使用模型自带的对话模板
    Mcq(MultipleChoiceArgs),
    /// Perplexity of a text
    ///
    /// zh: 文本的困惑度
    Ppl(PerplexityArgs),
    /// Entities that answers name, one `entity_type` a line: precision, recall and F1 by type and in all
    ///
    /// zh: 实体抽取，回答每行一个“实体_类型”：按类型与总体给出精确率、召回率与 F1
    Ner(ner::Args),
}

/// Which questions, and how they are asked.
#[derive(Debug, clap::Args)]
pub struct MultipleChoiceArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Folder with dev, val and test, a folder of CSV files, or one CSV file; header id,question,A,B,C,D,answer
    ///
    /// zh: 含 dev、val、test 的文件夹、CSV 文件夹或单个 CSV 文件；表头为 id,question,A,B,C,D,answer
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    /// Folder that the questions are in
    ///
    /// zh: 题目所在的子文件夹
    #[arg(long, value_name = "NAME", default_value = "val")]
    split: String,
    /// Examples from dev before each question (default: ceval 5, mcq 0)
    ///
    /// zh: 每题之前取自 dev 的示例数（默认：ceval 为 5，mcq 为 0）
    #[arg(long, value_name = "N")]
    shots: Option<usize>,
    /// Whose log-likelihood decides (default: ceval letter, mcq text)
    ///
    /// zh: 以何者的对数似然为准（默认：ceval 为 letter，mcq 为 text）
    #[arg(long, value_enum)]
    scoring: Option<ScoringChoice>,
    /// Only these subjects, by file name or Chinese name
    ///
    /// zh: 只测这些科目，用文件名或中文名
    #[arg(long, value_name = "NAME", num_args = 1..)]
    subject: Vec<String>,
    /// Only the first N questions of each subject
    ///
    /// zh: 每个科目只测前 N 题
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Ask in this chat template: a name such as chatml, llama3 or qwen (docs: data), or a Jinja file
    ///
    /// zh: 用此对话模板提问：chatml、llama3、qwen 等名称（见文档 data）或 Jinja 文件
    #[arg(long, value_name = "NAME|FILE")]
    template: Option<String>,
    /// Ask in the model's own chat template (default of mcq where there is one)
    ///
    /// zh: 用模型自带的对话模板提问（mcq 的默认方式，若模型带有模板）
    #[arg(long, conflicts_with = "template")]
    chat: bool,
    /// Ask without a chat template (default of ceval)
    ///
    /// zh: 不用对话模板提问（ceval 的默认方式）
    #[arg(long, conflicts_with_all = ["template", "chat"])]
    raw: bool,
}

/// Whose log-likelihood decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ScoringChoice {
    /// The letters A to D, after question and options
    ///
    /// zh: 题目与选项之后的字母 A 至 D
    Letter,
    /// The options' texts after the question alone, by character
    ///
    /// zh: 仅在题目之后的选项文本，按字符平均
    Text,
}

/// Which text, and how it is cut.
#[derive(Debug, clap::Args)]
pub struct PerplexityArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Text file, UTF-8
    ///
    /// zh: 文本文件，UTF-8 编码
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Tokens that the model sees at a time (default: its context, at most 4096)
    ///
    /// zh: 模型一次看到的词元数（默认：其上下文长度，至多 4096）
    #[arg(long, value_name = "N")]
    window: Option<usize>,
    /// Tokens from window to window; the others are context (default: half a window)
    ///
    /// zh: 窗口每次前移的词元数，其余作为上文（默认：半个窗口）
    #[arg(long, value_name = "N")]
    stride: Option<usize>,
}

/// How a benchmark is asked where nothing else is said.
struct Defaults {
    shots: usize,
    scoring: Scoring,
    chat: bool,
}

const CEVAL: Defaults = Defaults { shots: 5, scoring: Scoring::Letter, chat: false };
const MCQ: Defaults = Defaults { shots: 0, scoring: Scoring::Text, chat: true };

/// Runs `danlu eval`.
///
/// # Errors
/// A model, questions or a text that cannot be used.
pub fn run(args: Args, printer: &Printer) -> Result<()> {
    match args {
        Args::Ceval(args) => multiple_choice(args, &CEVAL, printer),
        Args::Mcq(args) => multiple_choice(args, &MCQ, printer),
        Args::Ppl(args) => perplexity(args, printer),
        Args::Ner(args) => ner::run(&args, printer),
    }
}

fn multiple_choice(args: MultipleChoiceArgs, defaults: &Defaults, printer: &Printer) -> Result<()> {
    let selection = Selection {
        split: args.split,
        shots: args.shots.unwrap_or(defaults.shots),
        subjects: args.subject,
        limit: args.limit,
    };
    let questions = Questions::read(&args.data, &selection).map_err(told_apart)?;
    let opened = args.model.open(printer)?;
    let wants_chat = args.chat || args.template.is_some();
    let template = match wants_chat || (defaults.chat && !args.raw) {
        true => template_of(&opened, args.template.as_deref())?,
        false => None,
    };
    if args.chat && template.is_none() {
        return Err(wrong_input(
            "the model has no chat template: choose one with `--template`, or leave out `--chat`",
        ));
    }
    let scoring = args.scoring.map_or(defaults.scoring, Scoring::from);
    let options = Options { scoring, template: template.as_ref() };
    let mut bar = printer.progress("options", 4 * questions.len() as u64);
    let summary =
        evaluate(&opened, &questions, &options, |done, _| bar.set(done as u64, "")).map_err(told_apart)?;
    drop(bar);
    report(&summary, printer)
}

fn report(summary: &Summary, printer: &Printer) -> Result<()> {
    let table = summary.table();
    let header: Vec<&str> = table.header.iter().map(String::as_str).collect();
    printer.table(&header, &table.rows)?;
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let scored = match summary.scoring {
        Scoring::Letter => "letters",
        Scoring::Text => "option texts by character",
    };
    let asked = if summary.chat { "in the chat template" } else { "without a chat template" };
    printer.line(format_args!(
        "accuracy {} ± {} ({} of {}, chance {}) · {scored}, {} examples, {asked}",
        percent(summary.accuracy),
        percent(summary.standard_error),
        summary.correct,
        summary.questions,
        percent(summary.chance),
        summary.shots,
    ))?;
    if let Some(accuracy) = summary.accuracy_unnormalized {
        printer.line(format_args!("not divided by length: {}", percent(accuracy)))?;
    }
    if summary.shortened > 0 {
        printer.warning(format_args!(
            "{} prompts did not fit the model's context and lost examples or their beginning; fewer `--shots` avoid it",
            summary.shortened
        ));
    }
    Ok(printer.json(&serde_json::to_value(summary)?)?)
}

fn perplexity(args: PerplexityArgs, printer: &Printer) -> Result<()> {
    let opened = args.model.open(printer)?;
    let ids = perplexity::read_ids(opened.tokenizer()?, &args.text).map_err(told_apart)?;
    let windows = Windows { window: args.window, stride: args.stride };
    let mut bar = printer.progress("tokens", ids.len() as u64 - 1);
    let result = perplexity::of_ids(&opened.model, &ids, windows, |done, _| bar.set(done as u64, ""))
        .map_err(told_apart)?;
    drop(bar);
    printer.line(format_args!(
        "perplexity {:.4} · nll {:.6} · {} tokens · windows of {} tokens, {} apart",
        result.perplexity, result.nll, result.tokens, result.window, result.stride
    ))?;
    Ok(printer.json(&serde_json::to_value(&result)?)?)
}

impl From<ScoringChoice> for Scoring {
    fn from(choice: ScoringChoice) -> Self {
        match choice {
            ScoringChoice::Letter => Self::Letter,
            ScoringChoice::Text => Self::Text,
        }
    }
}

/// Errors of the rooms below tell their exit code themselves; the others are of the input.
pub(super) fn told_apart(error: Error) -> anyhow::Error {
    match error {
        Error::Io(error) => error.into(),
        Error::Model(error) => error.into(),
        Error::Tokenizer(error) => error.into(),
        input => wrong_input(input.to_string()),
    }
}
