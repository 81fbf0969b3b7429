//! `danlu eval longbench`: predictions for long texts, kept line by line, and their scores.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::ValueEnum;
use danlu_eval::longbench::{
    Asking, Group, Instruction, Prediction, Results, Row, TASKS, Task, data_file, open_predictions, read_rows,
};
use danlu_eval::openai::{Generation, Server};
use danlu_formats::write_file_atomically;
use danlu_model::open_tokenizer;
use serde::Serialize;
use serde_json::{Value, json};

use super::server::{self, ServerArgs};
use super::settings;
use crate::commands::generate::{SamplingArgs, TemplateArgs};
use crate::failure::wrong_input;
use crate::models::ModelArgs;
use crate::printer::Printer;
use crate::stop;

/// The system message of the scripts that published scores were made with.
const SYSTEM: &str = "You are a helpful assistant. 你是一个乐于助人的助手。";

/// Which data sets, and how they are asked.
#[derive(Debug, clap::Args)]
#[command(
    mut_arg("temperature", |arg| arg.default_value("0.2")),
    mut_arg("top_k", |arg| arg.default_value("40")),
    mut_arg("top_p", |arg| arg.default_value("0.95")),
    mut_arg("repetition_penalty", |arg| arg.default_value("1.1")),
    mut_arg("url", |arg| arg.conflicts_with_all([
        "template", "enable_thinking", "top_k", "repetition_penalty", "score_only",
    ])),
)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    server: ServerArgs,
    /// Folder with LongBench's files, such as dureader.jsonl; those that are missing are left out
    ///
    /// zh: LongBench 数据文件所在的文件夹，如 dureader.jsonl；缺少的数据集跳过
    #[arg(long, value_name = "DIR", required_unless_present = "score_only")]
    data: Option<PathBuf>,
    /// Folder for pred/DATASET.jsonl and pred/result.json; a run that was ended goes on there
    ///
    /// zh: 存放 pred/数据集.jsonl 与 pred/result.json 的文件夹；中断的运行可在此继续
    #[arg(long, value_name = "DIR")]
    output_dir: PathBuf,
    /// LongBench-E: files such as hotpotqa_e.jsonl, folder pred_e, scores by length
    ///
    /// zh: LongBench-E：文件如 hotpotqa_e.jsonl，文件夹为 pred_e，按长度分组评分
    #[arg(long)]
    e: bool,
    /// Which data sets: Chinese, English, code
    ///
    /// zh: 数据集：中文、英文、代码
    #[arg(long, value_enum, value_name = "GROUP", value_delimiter = ',', default_value = "zh")]
    predict_on: Vec<GroupChoice>,
    /// Chat template around the prompts (default: false, with --url true); auto: not around those that show examples or code
    ///
    /// zh: 是否在提示外加对话模板（默认 false，用 --url 时为 true）；auto：示例类与代码类提示不加
    #[arg(long, value_enum, value_name = "WHEN")]
    with_inst: Option<WithInst>,
    /// Tokens of a prompt, beyond which its middle is left out; with --url only where --tokenizer counts them
    ///
    /// zh: 提示的最多词元数；超出时去掉中间部分；用 --url 时须给出 --tokenizer 才能计数
    #[arg(long, value_name = "N", default_value_t = 3584, value_parser = clap::value_parser!(u32).range(2..))]
    max_length: u32,
    /// Only the first N rows of each data set
    ///
    /// zh: 每个数据集只取前 N 行
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Score the predictions that are there, without a model
    ///
    /// zh: 不用模型，只给已有的预测评分
    #[arg(long)]
    score_only: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    template: TemplateArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum GroupChoice {
    Zh,
    En,
    Code,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WithInst {
    True,
    False,
    Auto,
}

/// Runs `danlu eval longbench`.
///
/// # Errors
/// Data, predictions or a model that cannot be used.
pub fn run(args: &Args, printer: &Printer) -> Result<()> {
    let folder = args.output_dir.join(if args.e { "pred_e" } else { "pred" });
    if let Some(data) = args.data.as_ref().filter(|_| !args.score_only) {
        predict(args, data, &folder, printer)?;
    }
    let results = Results::of_folder(&folder, args.e)?;
    report(&results, &folder, args.e, printer)
}

fn predict(args: &Args, data: &Path, folder: &Path, printer: &Printer) -> Result<()> {
    let sampling = args.sampling.sampling()?;
    let server = args.server.open()?;
    let sets = data_sets(args, data, printer)?;
    let default = if server.is_some() { WithInst::True } else { WithInst::False };
    let instruction = Instruction::from(args.with_inst.unwrap_or(default));
    if instruction == Instruction::False
        && (args.template.template.is_some() || args.template.system.is_some())
    {
        return Err(wrong_input(
            "`--template` and `--system` are for prompts in a chat template: add `--with-inst true` or `auto`",
        ));
    }
    if let Some(server) = &server {
        return predict_by(server, args, &sets, instruction, folder, printer);
    }
    let (opened, mut settings) = settings::open(&args.model, printer)?;
    let template = match instruction {
        Instruction::False => None,
        _ => Some(args.template.open(&opened)?.ok_or_else(|| {
            wrong_input(
                "the model has no chat template: choose one with `--template`, or leave out `--with-inst`",
            )
        })?),
    };
    let system = args.template.system.as_deref().unwrap_or(SYSTEM);
    settings["with_inst"] = json!(instruction);
    let template = settings::on_its_day(folder, template)?;
    settings::add_template(&mut settings, template.as_ref());
    settings["system"] = json!(system);
    settings["max_length"] = json!(args.max_length);
    settings["sampling"] = json!(sampling);
    settings::claim(folder, &settings)?;
    let max_length = args.max_length as usize;
    let asking =
        Asking { opened: &opened, instruction, template: template.as_ref(), system, max_length, sampling };
    let total = sets.iter().map(|(_, rows)| rows.len() as u64).sum::<u64>();
    let mut bar = printer.progress("predictions", total);
    let (mut before, mut asked, mut cut, mut cut_for_context) = (0, 0, 0, 0);
    for (task, rows) in &sets {
        let path = folder.join(format!("{}.jsonl", task.name));
        let (mut predictions, done) = open_predictions(&path, rows)?;
        bar.skip((before + done) as u64);
        for (index, row) in rows.iter().enumerate().skip(done) {
            let go_on = || match stop::requested() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            };
            let Some(answer) = asking.answer(task, row, go_on)? else {
                printer.note(format_args!(
                    "the same command goes on with row {} of {}",
                    index + 1,
                    task.name
                ));
                return Err(stop::Interrupted.into());
            };
            asked += 1;
            cut += usize::from(answer.prompt.is_cut);
            cut_for_context += usize::from(answer.prompt.is_cut_for_context);
            let prediction = match answer.prompt.ids.is_empty() {
                true => Prediction::of_unasked(row),
                false => Prediction::of(row, answer.text),
            };
            predictions.push(&prediction)?;
            bar.set((before + index + 1) as u64, task.name);
        }
        before += rows.len();
    }
    drop(bar);
    if cut > 0 {
        printer
            .note(format_args!("{cut} of {asked} prompts lost their middle to `--max-length {max_length}`"));
    }
    if cut_for_context > 0 {
        printer.warning(format_args!(
            "{cut_for_context} of {asked} prompts lost more of their middle, for the model's context is only {} tokens",
            opened.model.config().context_length()
        ));
    }
    Ok(())
}

/// The predictions of a model behind a server.
fn predict_by(
    server: &Server,
    args: &Args,
    sets: &[(Task, Vec<Row>)],
    instruction: Instruction,
    folder: &Path,
    printer: &Printer,
) -> Result<()> {
    let sampling = server::told_to_server(args.sampling.sampling()?);
    let tokenizer = args.model.given_tokenizer(printer)?.map(|path| open_tokenizer(&path)).transpose()?;
    let max_length = args.max_length as usize;
    let cut_by = tokenizer.as_ref().map(|tokenizer| (tokenizer, max_length));
    let system = args.template.system.as_deref().unwrap_or(SYSTEM);
    let mut settings = Value::from(server::settings(server));
    settings["with_inst"] = json!(instruction);
    settings["system"] = json!(system);
    settings["max_length"] = json!(cut_by.map(|_| max_length));
    settings["tokenizer"] = json!(tokenizer.as_ref().map(|tokenizer| tokenizer.fingerprint()));
    settings["sampling"] = json!(sampling);
    settings::claim(folder, &settings)?;
    if tokenizer.is_none() {
        printer.note(
            "prompts are sent whole: `--max-length` takes the model's `--tokenizer` to count their tokens",
        );
    }
    stop::answer_with(format!(
        "stopped; what is predicted stands in `{}`, and the same command goes on from there",
        folder.display()
    ));
    let mut bar =
        printer.progress("predictions", sets.iter().map(|(_, rows)| rows.len() as u64).sum::<u64>());
    let (mut before, mut asked, mut cut) = (0, 0, 0);
    for (task, rows) in sets {
        let path = folder.join(format!("{}.jsonl", task.name));
        let (mut predictions, done) = open_predictions(&path, rows)?;
        let mut rest = &rows[done..];
        bar.skip((before + done) as u64);
        let mut prompts = Vec::with_capacity(rest.len());
        for row in rest {
            let (prompt, is_cut) = instruction.prompt(task, row, system, cut_by)?;
            cut += usize::from(is_cut);
            prompts.push(prompt);
        }
        asked += prompts.len();
        let how = Generation { sampling: sampling.clone(), max_tokens: task.max_new_tokens, stop: None };
        let answered = server.client.answers(&prompts, &how, server.parallel, |text| {
            if let Some((row, later)) = rest.split_first() {
                predictions.push(&Prediction::of(row, text))?;
                rest = later;
            }
            bar.set((before + rows.len() - rest.len()) as u64, task.name);
            Ok(())
        });
        if let Err(error) = answered {
            drop(bar);
            let next = rows.len() - rest.len() + 1;
            printer.note(format_args!("the same command goes on with row {next} of {}", task.name));
            let advice = match tokenizer {
                Some(_) => "lower `--max-length`",
                None => "give the model's `--tokenizer`, so that `--max-length` can cut prompts",
            };
            return Err(server::with_advice(error, advice));
        }
        before += rows.len();
    }
    drop(bar);
    if cut > 0 {
        printer
            .note(format_args!("{cut} of {asked} prompts lost their middle to `--max-length {max_length}`"));
    }
    Ok(())
}

/// The data sets that are asked for and are there.
fn data_sets(args: &Args, data: &Path, printer: &Printer) -> Result<Vec<(Task, Vec<Row>)>> {
    let wanted: Vec<Group> = args.predict_on.iter().map(|group| Group::from(*group)).collect();
    let tasks: Vec<Task> =
        TASKS.into_iter().filter(|task| wanted.contains(&task.group) && (!args.e || task.is_in_e)).collect();
    if tasks.is_empty() {
        return Err(wrong_input("LongBench-E has no Chinese data sets: add `--predict-on en,code`"));
    }
    let (mut sets, mut missing) = (Vec::new(), Vec::new());
    for task in tasks {
        let Some(path) = data_file(data, &task, args.e) else {
            missing.push(task.name);
            continue;
        };
        let mut rows = read_rows(&path, &task, args.e)?;
        rows.truncate(args.limit.unwrap_or(usize::MAX));
        sets.push((task, rows));
    }
    let ending = if args.e { "_e.jsonl" } else { ".jsonl" };
    if sets.is_empty() {
        return Err(wrong_input(format!(
            "`{}` has no file of LongBench: expected one such as `{}{ending}`",
            data.display(),
            missing[0]
        )));
    }
    if !missing.is_empty() {
        printer.note(format_args!("not in `{}`, left out: {}", data.display(), missing.join(", ")));
    }
    Ok(sets)
}

fn report(results: &Results, folder: &Path, is_e: bool, printer: &Printer) -> Result<()> {
    let json = results.json();
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    json.serialize(&mut serde_json::Serializer::with_formatter(&mut text, formatter))?;
    write_file_atomically(folder.join("result.json"), &text)?;
    let cell = |value: &Value| value.as_f64().map_or_else(String::new, |score| format!("{score:.2}"));
    let rows: Vec<Vec<String>> = results
        .tasks
        .iter()
        .map(|task| {
            let scores = match &task.score {
                Value::Object(scores) => scores.values().map(cell).collect(),
                score => vec![cell(score)],
            };
            [task.task.name.to_owned(), task.task.metric.name().to_owned(), task.rows.to_string()]
                .into_iter()
                .chain(scores)
                .collect()
        })
        .collect();
    let header: &[&str] = match is_e {
        true => &["data set", "metric", "rows", "0-4k", "4-8k", "8k+"],
        false => &["data set", "metric", "rows", "score"],
    };
    printer.table(header, &rows)?;
    printer.line(format_args!("scores of 100, in `{}`", folder.join("result.json").display()))?;
    let unasked = results.tasks.iter().filter(|task| task.unasked > 0);
    let unasked: Vec<String> =
        unasked.map(|task| format!("{} of {} of {}", task.unasked, task.rows, task.task.name)).collect();
    if !unasked.is_empty() {
        printer.warning(format_args!(
            "the model's context has no room for a prompt beside the answer in some rows, which count as answered with nothing: {}",
            unasked.join(", ")
        ));
    }
    Ok(printer.json(&json)?)
}

impl From<GroupChoice> for Group {
    fn from(choice: GroupChoice) -> Self {
        match choice {
            GroupChoice::Zh => Self::Chinese,
            GroupChoice::En => Self::English,
            GroupChoice::Code => Self::Code,
        }
    }
}

impl From<WithInst> for Instruction {
    fn from(choice: WithInst) -> Self {
        match choice {
            WithInst::True => Self::True,
            WithInst::False => Self::False,
            WithInst::Auto => Self::Auto,
        }
    }
}
