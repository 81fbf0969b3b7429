//! `danlu eval ceval` and `mcq`: multiple choice.
//!
//! `ceval` asks as published results do, `mcq` asks as the model will be used; every part of that can be chosen.

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;
use danlu_eval::multiple_choice::{Options, Questions, Scoring, Selection, Summary, evaluate};

use super::told_apart;
use crate::failure::wrong_input;
use crate::models::ModelArgs;
use crate::printer::Printer;
use crate::prompts::template_of;

/// Which questions, and how they are asked.
#[derive(Debug, clap::Args)]
pub struct Args {
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

/// How a benchmark is asked where nothing else is said.
pub struct Defaults {
    shots: usize,
    scoring: Scoring,
    chat: bool,
}

/// C-Eval.
pub const CEVAL: Defaults = Defaults { shots: 5, scoring: Scoring::Letter, chat: false };
/// Questions of one's own.
pub const MCQ: Defaults = Defaults { shots: 0, scoring: Scoring::Text, chat: true };

/// Runs `danlu eval ceval` and `mcq`.
///
/// # Errors
/// A model or questions that cannot be used.
pub fn run(args: Args, defaults: &Defaults, printer: &Printer) -> Result<()> {
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

impl From<ScoringChoice> for Scoring {
    fn from(choice: ScoringChoice) -> Self {
        match choice {
            ScoringChoice::Letter => Self::Letter,
            ScoringChoice::Text => Self::Text,
        }
    }
}
