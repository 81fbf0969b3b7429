//! `danlu eval ner`: entities that a model, or a file of predictions, finds.

use std::io::Write;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::Result;
use danlu_eval::entities::{self, Counts, Row, Score, score};
use danlu_model::{GenerationOptions, Generator, Sampling};
use danlu_tokenizer::Message;
use serde_json::json;

use crate::commands::generate::{TemplateArgs, one_or_more};
use crate::failure::wrong_input;
use crate::models::ModelArgs;
use crate::printer::Printer;
use crate::prompts::raw_ids;
use crate::stop;

/// Which rows, and who answers.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Rows with the right answers: JSON lines or an array of instruct, query, answer (or instruction, input, output)
    ///
    /// zh: 带正确答案的数据：JSON Lines 或数组，字段为 instruct、query、answer（或 instruction、input、output）
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Score these predictions, in the order of the rows, in place of a model: prediction, predict, Output or text
    ///
    /// zh: 不用模型，直接给这些预测评分，顺序与数据相同；字段为 prediction、predict、Output 或 text
    #[arg(long, value_name = "FILE")]
    predictions: Option<PathBuf>,
    /// Only rows 1, N + 1, 2 N + 1, …
    ///
    /// zh: 只取第 1、N + 1、2 N + 1……行
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
    /// Only the first N of these rows
    ///
    /// zh: 只取其中前 N 行
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Longest answer, in tokens
    ///
    /// zh: 每个回答最多的词元数
    #[arg(long, value_name = "N", default_value = "128", value_parser = one_or_more)]
    max_new_tokens: NonZeroUsize,
    /// Write the model's answers into this file, as JSON lines
    ///
    /// zh: 把模型的回答写入此文件（JSON Lines）
    #[arg(long, value_name = "FILE", conflicts_with = "predictions")]
    out: Option<PathBuf>,
    #[command(flatten)]
    template: TemplateArgs,
}

/// Runs `danlu eval ner`.
///
/// # Errors
/// Rows, predictions or a model that cannot be used.
pub fn run(args: &Args, printer: &Printer) -> Result<()> {
    let all = entities::read_rows(&args.data)?;
    let chosen = |row: &Row| (row.number as u64 - 1).is_multiple_of(args.every);
    let rows: Vec<Row> = all.iter().filter(|row| chosen(row)).cloned().collect();
    let rows = &rows[..args.limit.unwrap_or(rows.len()).min(rows.len())];
    let predictions = match &args.predictions {
        Some(path) => given(path, all.len(), rows)?,
        None => answered(args, rows, printer)?,
    };
    let pairs = rows.iter().zip(&predictions);
    report(&score(pairs.map(|(row, prediction)| (row.answer.as_str(), prediction.as_str()))), printer)
}

/// The predictions of a file, for all rows or for those that are scored.
fn given(path: &Path, all: usize, rows: &[Row]) -> Result<Vec<String>> {
    let predictions = entities::read_predictions(path)?;
    if predictions.len() == rows.len() {
        return Ok(predictions);
    }
    if predictions.len() == all {
        return Ok(rows.iter().map(|row| predictions[row.number - 1].clone()).collect());
    }
    Err(wrong_input(format!(
        "`{}` has {} predictions for {} rows: expected one for each row, in the same order",
        path.display(),
        predictions.len(),
        rows.len()
    )))
}

/// The model's answers, always with the most probable token.
fn answered(args: &Args, rows: &[Row], printer: &Printer) -> Result<Vec<String>> {
    let opened = args.model.open(printer)?;
    let tokenizer = opened.tokenizer()?;
    let template = args.template.open(&opened)?;
    let prompts = rows.iter().map(|row| match &template {
        Some(template) => {
            let system = args.template.system.iter().map(|text| Message::new("system", text));
            let messages: Vec<Message> = system.chain([Message::new("user", &row.question)]).collect();
            Ok(tokenizer.chat_ids(template, &messages)?)
        }
        None => raw_ids(&opened, &row.question),
    });
    let prompts = prompts.collect::<Result<Vec<_>>>()?;
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    let options = GenerationOptions {
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        max_new_tokens: args.max_new_tokens.get(),
        stop_ids: opened.stop_ids(),
        ..GenerationOptions::default()
    };
    let mut generator = Generator::new(&opened.model, longest.saturating_add(args.max_new_tokens.get()));
    let mut out = args.out.as_deref().map(fs_err::File::create).transpose()?;
    let mut bar = printer.progress("rows", rows.len() as u64);
    let mut answers = Vec::new();
    for (row, ids) in rows.iter().zip(&prompts) {
        let generated = generator.generate(ids, &options, |_| match stop::requested() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })?;
        if stop::was_requested() {
            return Err(stop::Interrupted.into());
        }
        let is_stop = |id: &u32| options.stop_ids.contains(id);
        let end = generated.ids.len() - usize::from(generated.ids.last().is_some_and(is_stop));
        let answer = tokenizer.decode(&generated.ids[..end], true)?;
        if let Some(out) = &mut out {
            let line = json!({ "row": row.number, "prediction": answer, "answer": row.answer });
            writeln!(out, "{line}")?;
        }
        answers.push(answer);
        bar.set(answers.len() as u64, "");
    }
    Ok(answers)
}

fn report(score: &Score, printer: &Printer) -> Result<()> {
    let line = |name: &str, counts: &Counts| {
        let share = |share: f64| format!("{share:.3}");
        vec![
            name.to_owned(),
            share(counts.precision),
            share(counts.recall),
            share(counts.f1),
            counts.right.to_string(),
            counts.predicted.to_string(),
            counts.expected.to_string(),
        ]
    };
    let mut table: Vec<Vec<String>> = score.types.iter().map(|(name, counts)| line(name, counts)).collect();
    table.push(line("all (micro)", &score.micro));
    table.push(line("rows with entities", &score.with_entities));
    printer.table(&["type", "precision", "recall", "F1", "right", "predicted", "expected"], &table)?;
    printer.line(format_args!(
        "{} rows: {} with entities, {} without, of which {:.1} % were answered so; {:.1} % of all exactly right",
        score.rows,
        score.rows_with_entities,
        score.rows_without_entities,
        100.0 * score.rightly_none,
        100.0 * score.exact,
    ))?;
    Ok(printer.json(&serde_json::to_value(score)?)?)
}
