//! `danlu eval generate`: answers to questions that have reference answers, and how near they come.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::Result;
use danlu_eval::entities::read_predictions;
use danlu_eval::generation::{Answer, Question, Summary, built_in, open_answers, read_questions};
use danlu_eval::line_file::LineFile;
use danlu_eval::openai::{Generation, Prompt, Server};
use danlu_formats::write_file_atomically;
use danlu_model::{FinishReason, GenerationOptions, Generator};
use danlu_tokenizer::Message;
use serde_json::{Value, json};

use super::server::{self, ServerArgs};
use super::settings;
use crate::commands::generate::{SamplingArgs, TemplateArgs, one_or_more, room};
use crate::failure::wrong_input;
use crate::models::ModelArgs;
use crate::printer::Printer;
use crate::prompts::raw_ids;
use crate::stop;

/// Which questions, and who answers.
#[derive(Debug, clap::Args)]
#[command(
    mut_arg("temperature", |arg| arg.default_value("0")),
    mut_arg("url", |arg| arg.conflicts_with_all([
        "tokenizer", "template", "enable_thinking", "top_k", "repetition_penalty", "predictions",
    ])),
)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    server: ServerArgs,
    /// Rows as for fine-tuning, whose last answers are the references; or built-in questions: danlu (48 in 8 categories, Chinese and
    /// English) or seed (the 8 prompts of Baby-Llama2 and Luban)
    ///
    /// zh: 与微调相同格式的数据，以最后一个回答为参考；或内置问题：danlu（8 类 48 题，中英文）、seed（Baby-Llama2 与 Luban 的 8 个提示）
    #[arg(long, value_name = "FILE|NAME")]
    data: PathBuf,
    /// Folder for generated.jsonl, summary.json and a report; a run that was ended goes on there
    ///
    /// zh: 存放 generated.jsonl、summary.json 与报告的文件夹；中断的运行可在此继续
    #[arg(long, value_name = "DIR")]
    output_dir: PathBuf,
    /// Score these predictions, in the order of the rows, in place of a model: prediction, predict, Output or text
    ///
    /// zh: 不用模型，直接给这些预测评分，顺序与数据相同；字段为 prediction、predict、Output 或 text
    #[arg(long, value_name = "FILE")]
    predictions: Option<PathBuf>,
    /// Only the first N questions
    ///
    /// zh: 只取前 N 个问题
    #[arg(long, value_name = "N")]
    limit: Option<NonZeroUsize>,
    /// Longest answer, in tokens
    ///
    /// zh: 每个回答最多的词元数
    #[arg(long, value_name = "N", default_value = "256", value_parser = one_or_more)]
    max_new_tokens: NonZeroUsize,
    /// Write no report.html, report.md and report.tex
    ///
    /// zh: 不写 report.html、report.md 与 report.tex
    #[arg(long)]
    no_report: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    template: TemplateArgs,
}

/// Runs `danlu eval generate`.
///
/// # Errors
/// Questions, predictions or a model that cannot be used.
pub fn run(args: &Args, printer: &Printer) -> Result<()> {
    let name = args.data.to_str().unwrap_or_default();
    let all = match built_in(name) {
        Some(questions) => questions,
        None => read_questions(&args.data)?,
    };
    let questions = &all[..args.limit.map_or(all.len(), NonZeroUsize::get).min(all.len())];
    let answers = match &args.predictions {
        Some(path) => {
            let predictions = given(path, all.len(), questions.len())?;
            settings::claim(&args.output_dir, &json!({ "data": args.data, "predictions": path }))?;
            // Predictions may have changed: all are scored again.
            let answers: Vec<Answer> = questions
                .iter()
                .zip(predictions)
                .enumerate()
                .map(|(index, (question, prediction))| Answer::of(question, index, prediction))
                .collect();
            let mut lines = Vec::new();
            for answer in &answers {
                serde_json::to_writer(&mut lines, answer)?;
                lines.push(b'\n');
            }
            write_file_atomically(args.output_dir.join("generated.jsonl"), &lines)?;
            answers
        }
        None => match args.server.open()? {
            Some(server) => answer_by(&server, args, questions, printer)?,
            None => answer(args, questions, printer)?,
        },
    };
    let summary = Summary::of(&answers);
    if !args.no_report {
        let answerer = settings::answerer(&args.output_dir)?;
        summary.report(&answerer, &args.data.display().to_string()).write(&args.output_dir)?;
    }
    report(&summary, &args.output_dir, printer)
}

/// Answers that are written one by one, with their scores.
struct Answers<'a> {
    questions: &'a [Question],
    file: LineFile,
    done: Vec<Answer>,
}

impl<'a> Answers<'a> {
    /// Those that are there, if they were given in the same way.
    fn open(args: &Args, questions: &'a [Question], settings: &Value) -> Result<Self> {
        settings::claim(&args.output_dir, settings)?;
        let path = args.output_dir.join("generated.jsonl");
        let (file, done) = open_answers(&path, questions)?;
        Ok(Self { questions, file, done })
    }

    fn push(&mut self, prediction: String) -> danlu_eval::Result<()> {
        let index = self.done.len();
        let answer = Answer::of(&self.questions[index], index, prediction);
        self.file.push(&answer)?;
        self.done.push(answer);
        Ok(())
    }
}

/// The predictions of a file, for all questions or for those that are scored.
fn given(path: &Path, all: usize, wanted: usize) -> Result<Vec<String>> {
    let mut predictions = read_predictions(path)?;
    if predictions.len() != all && predictions.len() != wanted {
        return Err(wrong_input(format!(
            "`{}` has {} predictions for {wanted} questions: expected one for each, in the same order",
            path.display(),
            predictions.len(),
        )));
    }
    predictions.truncate(wanted);
    Ok(predictions)
}

/// The model's answers.
fn answer(args: &Args, questions: &[Question], printer: &Printer) -> Result<Vec<Answer>> {
    let sampling = args.sampling.sampling()?;
    let (opened, mut settings) = settings::open(&args.model, printer)?;
    let tokenizer = opened.tokenizer()?;
    let template = args.template.open(&opened)?;
    if template.is_none() {
        printer.note("the model has no chat template: questions are continued as they are");
    }
    let template = settings::on_its_day(&args.output_dir, template)?;
    settings::add_template(&mut settings, template.as_ref());
    settings["system"] = json!(args.template.system);
    settings["max_new_tokens"] = json!(args.max_new_tokens);
    settings["sampling"] = json!(sampling);
    let prompt = |question: &Question| match template.as_ref().filter(|_| !question.is_continuation) {
        Some(template) => {
            Ok(tokenizer.chat_ids_with_tools(template, &messages(args, question), &question.tools)?)
        }
        None => raw_ids(&opened, &question.prompt()),
    };
    let prompts = questions.iter().map(prompt).collect::<Result<Vec<_>>>()?;
    let context = opened.model.config().context_length();
    if let Some(index) = prompts.iter().position(|ids| ids.len() > context) {
        return Err(wrong_input(format!(
            "question {} of `{}` has {} tokens, the model's context {context}: shorten it, or leave it out",
            index + 1,
            args.data.display(),
            prompts[index].len()
        )));
    }
    room::at_once(&opened.model, &prompts, args.max_new_tokens.get(), 1, printer)?;
    let mut answers = Answers::open(args, questions, &settings)?;
    let options = GenerationOptions {
        sampling,
        max_new_tokens: args.max_new_tokens.get(),
        stop_ids: opened.stop_ids(),
        ..GenerationOptions::default()
    };
    let mut bar = printer.progress("answers", questions.len() as u64);
    bar.skip(answers.done.len() as u64);
    for ids in prompts.iter().skip(answers.done.len()) {
        // A new one for each question: an answer does not depend on those before it, to the bit.
        let mut generator = Generator::new(&opened.model, ids.len().saturating_add(options.max_new_tokens));
        let generated = generator.generate(ids, &options, |_| match stop::requested() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })?;
        if generated.finish_reason == FinishReason::Cancelled {
            printer.note(format_args!("the same command goes on with question {}", answers.done.len() + 1));
            return Err(stop::Interrupted.into());
        }
        let is_stop = |id: &u32| options.stop_ids.contains(id);
        let end = generated.ids.len() - usize::from(generated.ids.last().is_some_and(is_stop));
        answers.push(tokenizer.decode(&generated.ids[..end], true)?)?;
        bar.set(answers.done.len() as u64, "");
    }
    Ok(answers.done)
}

/// The answers of a model behind a server.
fn answer_by(server: &Server, args: &Args, questions: &[Question], printer: &Printer) -> Result<Vec<Answer>> {
    if let Some(place) = questions.iter().position(|question| !question.tools.is_empty()) {
        return Err(wrong_input(format!(
            "question {} has tools, whose calls are no text where a server answers: leave such rows out of `--data`",
            place + 1
        )));
    }
    let sampling = server::told_to_server(args.sampling.sampling()?);
    let mut settings = Value::from(server::settings(server));
    settings["system"] = json!(args.template.system);
    settings["max_new_tokens"] = json!(args.max_new_tokens);
    settings["sampling"] = json!(sampling);
    let mut answers = Answers::open(args, questions, &settings)?;
    let prompt = |question: &Question| match question.is_continuation {
        true => Prompt::Text(question.prompt()),
        false => Prompt::Chat(messages(args, question)),
    };
    let prompts: Vec<Prompt> = questions[answers.done.len()..].iter().map(prompt).collect();
    let how = Generation { sampling, max_tokens: args.max_new_tokens.get(), stop: None };
    let stands = format!("what is answered stands in `{}`", args.output_dir.display());
    stop::answer_with(format!("stopped; {stands}, and the same command goes on from there"));
    let mut bar = printer.progress("answers", questions.len() as u64);
    bar.skip(answers.done.len() as u64);
    let asked = server.client.answers(&prompts, &how, server.parallel, |text| {
        answers.push(text)?;
        bar.set(answers.done.len() as u64, "");
        Ok(())
    });
    drop(bar);
    asked.map_err(|error| {
        printer.note(format_args!("the same command goes on with question {}", answers.done.len() + 1));
        server::with_advice(error, "shorten it, or leave it out")
    })?;
    Ok(answers.done)
}

/// The conversation that is answered: `--system` stands first, unless the question has its own.
fn messages(args: &Args, question: &Question) -> Vec<Message> {
    let has_system = question.messages.first().is_some_and(|message| message.role == "system");
    let system = args.template.system.iter().filter(|_| !has_system).map(|text| Message::new("system", text));
    system.chain(question.messages.iter().cloned()).collect()
}

fn report(summary: &Summary, folder: &Path, printer: &Printer) -> Result<()> {
    let json = serde_json::to_value(summary)?;
    write_file_atomically(folder.join("summary.json"), &serde_json::to_vec_pretty(&json)?)?;
    if summary.scored > 0 {
        let table = summary.table();
        let header: Vec<&str> = table.header.iter().map(String::as_str).collect();
        printer.table(&header, &table.rows)?;
        let corpus = &summary.corpus;
        printer.line(format_args!(
            "all together: BLEU {:.2} ({}), chrF {:.2} · scores of 100",
            corpus.bleu, corpus.tokenize, corpus.chrf
        ))?;
    }
    printer.line(format_args!(
        "{} answers, {} with a reference, in `{}`",
        summary.rows,
        summary.scored,
        folder.display()
    ))?;
    Ok(printer.json(&json)?)
}
