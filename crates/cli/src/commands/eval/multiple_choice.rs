//! `danlu eval ceval`, `cmmlu`, `mmlu` and `mcq`: multiple choice.
//!
//! The benchmarks are asked as published results are, `mcq` asks as the model will be used; every part of that can be
//! chosen.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;
use danlu_eval::multiple_choice::{
    Backend, Benchmark, Options, Questions, Reasoning, Scoring, Selection, Takes, percent,
};
use danlu_eval::openai::Server;
use danlu_kernels::cpu::level;
use danlu_model::Sampling;

use super::server::{self, ServerArgs};
use super::takes::{Asked, Evaluated, KeepArgs};
use crate::commands::generate::one_or_more;
use crate::failure::wrong_input;
use crate::models::ModelArgs;
use crate::printer::Printer;
use crate::prompts::template_of;

/// Which questions, and how they are asked.
#[derive(Debug, clap::Args)]
#[command(mut_arg("url", |arg| arg.conflicts_with_all(["tokenizer", "template"])))]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    server: ServerArgs,
    /// Folder or .zip as the benchmark is published (CSV, or Parquet as on the hub), or one file (CSV, JSON lines, …)
    ///
    /// zh: 按评测集发布时的目录或 .zip（CSV，或 hub 上的 Parquet），也可以是单个文件（CSV、JSON Lines 等）
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    /// Split that the questions are of (default: ceval val, cmmlu test, mmlu test, mcq val)
    ///
    /// zh: 题目所属的划分（默认：ceval 为 val，cmmlu 与 mmlu 为 test，mcq 为 val）
    #[arg(long, value_name = "NAME")]
    split: Option<String>,
    /// Examples from dev before each question (default: 5, mcq 0)
    ///
    /// zh: 每题之前取自 dev 的示例数（默认：5，mcq 为 0）
    #[arg(long, value_name = "N")]
    shots: Option<usize>,
    /// How questions are put, and what decides (default: lm-eval, mcq text)
    ///
    /// zh: 如何提问、以何者为准（默认：lm-eval，mcq 为 text）
    #[arg(long, value_enum)]
    scoring: Option<ScoringChoice>,
    /// Only these subjects, by the name of their files or by the one that prompts use
    ///
    /// zh: 只测这些科目，用文件中的名称或提示词中的名称
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
    /// Ask without a chat template (default but for mcq, and for --cot with --url)
    ///
    /// zh: 不用对话模板提问（除 mcq 以及 --cot 与 --url 同用之外的默认方式）
    #[arg(long, conflicts_with_all = ["template", "chat"])]
    raw: bool,
    /// In a chat, put the examples into the user's one message, not into earlier turns (only with lm-eval)
    ///
    /// zh: 用对话模板时，把示例都放进同一条用户消息，而不是作为之前的轮次（仅用于 lm-eval）
    #[arg(long)]
    one_turn: bool,
    /// Let the model reason step by step before it states a letter, which then decides (by default 0 examples)
    ///
    /// zh: 让模型先一步一步思考再给出字母，以该字母为准（默认 0 个示例）
    #[arg(long, conflicts_with_all = ["scoring", "one_turn"])]
    cot: bool,
    /// Most tokens of such an answer; at most half of the model's context
    ///
    /// zh: 此类回答最多的词元数；至多为模型上下文的一半
    #[arg(long, value_name = "N", default_value = "512", value_parser = one_or_more, requires = "cot")]
    max_new_tokens: NonZeroUsize,
    /// For such answers: 0 takes the most probable token; higher is more varied
    ///
    /// zh: 用于此类回答：0 总取概率最高的词元；越高越多样
    #[arg(long, value_name = "T", default_value_t = 0.0, allow_negative_numbers = true, requires = "cot")]
    temperature: f32,
    /// For such answers: the same seed chooses the same tokens
    ///
    /// zh: 用于此类回答：相同的种子选出相同的词元
    #[arg(long, value_name = "N", default_value_t = Sampling::default().seed, requires = "cot")]
    seed: u64,
    #[command(flatten)]
    keep: KeepArgs,
}

/// How questions are put, and what decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ScoringChoice {
    /// As lm-eval: log-likelihood of the letters A to D after question and options
    ///
    /// zh: 与 lm-eval 相同：题目与选项之后字母 A 至 D 的对数似然
    LmEval,
    /// Log-likelihood of the options' texts after the question alone, by character
    ///
    /// zh: 仅在题目之后的选项文本的对数似然，按字符平均
    Text,
    /// As the older projects' scripts: logits of the letters, with their prompts and repetition penalty
    ///
    /// zh: 与此前各项目的脚本相同：字母的 logits，用其提示词与重复惩罚
    Seed,
}

/// How a benchmark is asked where nothing else is said.
pub struct Defaults {
    benchmark: Benchmark,
    shots: usize,
    scoring: Scoring,
    chat: bool,
}

/// C-Eval.
pub const CEVAL: Defaults =
    Defaults { benchmark: Benchmark::Ceval, shots: 5, scoring: Scoring::LmEval, chat: false };
/// CMMLU.
pub const CMMLU: Defaults = Defaults { benchmark: Benchmark::Cmmlu, ..CEVAL };
/// MMLU.
pub const MMLU: Defaults = Defaults { benchmark: Benchmark::Mmlu, ..CEVAL };
/// Questions of one's own.
pub const MCQ: Defaults =
    Defaults { benchmark: Benchmark::Own, shots: 0, scoring: Scoring::Text, chat: true };

/// Runs `danlu eval ceval`, `cmmlu`, `mmlu` and `mcq`.
///
/// # Errors
/// A model or questions that cannot be used.
pub fn run(args: Args, defaults: &Defaults, printer: &Printer) -> Result<()> {
    let reasoning = args.cot.then(|| args.reasoning()).transpose()?;
    let selection = Selection {
        benchmark: defaults.benchmark,
        split: args.split.clone(),
        shots: args.shots.unwrap_or(if args.cot { 0 } else { defaults.shots }),
        subjects: args.subject.clone(),
        limit: args.limit,
    };
    let server = args.server.open()?;
    let questions = Questions::read(&args.data, &selection)?;
    tell_missing(&questions, printer);
    let options = Options {
        scoring: args.scoring.map_or(defaults.scoring, Scoring::from),
        one_turn: args.one_turn,
        reasoning: reasoning.as_ref(),
        ..Options::default()
    };
    let evaluated = match &server {
        Some(server) => args.ask_server(server, defaults, &questions, options, printer)?,
        None => args.ask(defaults, &questions, options, printer)?,
    };
    report(&evaluated, printer)?;
    Ok(printer.json(&evaluated.json.into())?)
}

impl Args {
    /// A model that is opened here.
    fn ask(
        &self,
        defaults: &Defaults,
        questions: &Questions,
        options: Options,
        printer: &Printer,
    ) -> Result<Evaluated> {
        let located = self.model.locate(printer)?;
        let opened = self.model.open_located(&located, printer)?;
        let wants_chat = self.chat || self.template.is_some();
        let template = match wants_chat || (defaults.chat && !self.raw) {
            true => {
                let template = template_of(&opened, self.template.as_deref())?;
                template.map(|template| self.keep.on_its_day(template)).transpose()?
            }
            false => None,
        };
        if self.chat && template.is_none() {
            return Err(wrong_input(
                "the model has no chat template: choose one with `--template`, or leave out `--chat`",
            ));
        }
        if self.one_turn && (template.is_none() || options.scoring != Scoring::LmEval) {
            return Err(wrong_input(
                "`--one-turn` goes with `--scoring lm-eval` in a chat: add `--chat`, or leave it out",
            ));
        }
        let mut model = self.model.files(&located, &opened)?;
        // With other instructions the last bits differ.
        model.insert("isa".into(), level().name().into());
        let places = located.adapters.iter().chain([&located.model]);
        let asked = Asked {
            backend: Backend::Opened(&opened),
            model,
            places: places.map(PathBuf::as_path).collect(),
            data: &self.data,
            questions,
            options: Options { template: template.as_ref(), ..options },
        };
        self.keep.evaluate(&asked, printer)
    }

    /// A model behind a server. Those put no template around a text that they score.
    fn ask_server(
        &self,
        server: &Server,
        defaults: &Defaults,
        questions: &Questions,
        options: Options,
        printer: &Printer,
    ) -> Result<Evaluated> {
        if options.reasoning.is_none() && (self.chat || self.one_turn) {
            return Err(wrong_input(
                "servers score options only behind a text, not in a chat: leave out `--chat` and `--one-turn`, or let the \
                 model reason with `--cot`",
            ));
        }
        if options.reasoning.is_none() && options.scoring == Scoring::Seed {
            return Err(wrong_input(
                "`--scoring seed` looks at logits, which servers do not tell: choose `lm-eval` or `text`",
            ));
        }
        if options.reasoning.is_none() && defaults.chat && !self.raw {
            printer.note(
                "servers score options only behind a text: asked without a chat template, as with `--raw`",
            );
        }
        if options.reasoning.is_some() && !defaults.chat && !self.chat && !self.raw {
            printer.note(
                "asked in the server's chat; `--raw` asks for texts that go on, as of a model that is here",
            );
        }
        let asked = Asked {
            backend: Backend::Server(server),
            model: server::settings(server),
            places: Vec::new(),
            data: &self.data,
            questions,
            options: Options { server_chat: options.reasoning.is_some() && !self.raw, ..options },
        };
        self.keep.evaluate(&asked, printer)
    }

    fn reasoning(&self) -> Result<Reasoning> {
        let Self { temperature, seed, max_new_tokens, .. } = *self;
        let sampling = Sampling { temperature, seed, top_k: 0, top_p: 1.0, ..Sampling::default() };
        sampling.check().map_err(wrong_input)?;
        Ok(Reasoning { sampling, max_new_tokens: max_new_tokens.get() })
    }
}

/// A score of a part of a benchmark is none that others can be compared with.
fn tell_missing(questions: &Questions, printer: &Printer) {
    const NAMED: usize = 5;
    let Questions { benchmark, missing, .. } = questions;
    if !missing.is_empty() {
        let named: Vec<String> = missing.iter().take(NAMED).map(|key| format!("`{key}`")).collect();
        let more = if missing.len() > NAMED { ", …" } else { "" };
        printer.warning(format_args!(
            "{} of {}'s {} subjects are not there ({}{more}): the score is that of the others",
            missing.len(),
            benchmark.name(),
            benchmark.subjects().count(),
            named.join(", ")
        ));
    }
}

fn report(evaluated: &Evaluated, printer: &Printer) -> Result<()> {
    let Evaluated { summary, takes, .. } = evaluated;
    let table = match takes {
        Some(takes) if takes.groups.is_empty() => takes.table(Takes::HEADER, &takes.subjects, str::to_owned),
        Some(takes) => takes.table(Takes::HEADER, &takes.groups, str::to_owned),
        None => summary.table(),
    };
    let header: Vec<&str> = table.header.iter().map(String::as_str).collect();
    printer.table(&header, &table.rows)?;
    let scored = match summary.scoring {
        _ if summary.reasoned => "letters that its reasons arrive at",
        Scoring::LmEval => "letters",
        Scoring::Text => "option texts by character",
        Scoring::Seed => "letters as the older projects score them",
    };
    let asked = if summary.chat { "in the chat template" } else { "without a chat template" };
    let how = format!("{scored}, {} examples, {asked}", summary.shots);
    if summary.withheld > 0 {
        printer.line(format_args!("{} questions whose answers are withheld · {how}", summary.withheld))?;
    }
    if let Some(accuracy) = summary.accuracy_unnormalized {
        printer.line(format_args!("not divided by length: {}", percent(accuracy)))?;
    }
    if let Some(takes) = takes {
        let interval = match takes.all.shown_interval() {
            interval if interval.is_empty() => String::new(),
            interval => format!(", 95 % interval of the mean {interval}"),
        };
        printer.line(format_args!(
            "accuracy {} in the mean of {} takes, standard deviation {}{interval} ({} questions, chance {}) · {how}",
            percent(takes.all.mean),
            takes.count(),
            percent(takes.all.standard_deviation),
            summary.questions,
            percent(summary.chance),
        ))?;
    } else if summary.questions > 0 {
        printer.line(format_args!(
            "accuracy {} ± {} ({} of {}, chance {}) · {how}",
            percent(summary.accuracy),
            percent(summary.standard_error),
            summary.correct,
            summary.questions,
            percent(summary.chance),
        ))?;
    }
    if summary.shortened > 0 {
        printer.warning(format_args!(
            "{} prompts did not fit the model's context and lost examples, the oldest first, or the description{}",
            summary.shortened,
            if summary.shots > 0 { "; fewer `--shots` avoid it" } else { "" }
        ));
    }
    if summary.unasked > 0 {
        printer.warning(format_args!(
            "{} questions alone do not fit the model's context and count as wrong",
            summary.unasked
        ));
    }
    let unstated = takes.as_ref().map_or(summary.unstated, |takes| takes.unstated);
    if unstated > 0 {
        printer.warning(format_args!(
            "{unstated} answers state no letter and count as wrong; more `--max-new-tokens` may help"
        ));
    }
    Ok(())
}

impl From<ScoringChoice> for Scoring {
    fn from(choice: ScoringChoice) -> Self {
        match choice {
            ScoringChoice::LmEval => Self::LmEval,
            ScoringChoice::Text => Self::Text,
            ScoringChoice::Seed => Self::Seed,
        }
    }
}
