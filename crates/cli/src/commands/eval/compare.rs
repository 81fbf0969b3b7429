//! `danlu eval compare`: two results on the same questions.

use std::path::PathBuf;

use anyhow::Result;
use danlu_eval::compare::{self, Comparison, Listed, Options, PartDifference, Results};

use super::told_apart;
use crate::printer::Printer;

/// Characters of a text in the lists.
const SHOWN: usize = 40;

/// Which results, and how they are compared.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Results of the first model: an output folder of `danlu eval`, or its questions.jsonl or generated.jsonl
    ///
    /// zh: 第一个模型的结果：`danlu eval` 的输出文件夹，或其中的 questions.jsonl、generated.jsonl
    #[arg(value_name = "A")]
    a: PathBuf,
    /// Results of the second model on the same questions
    ///
    /// zh: 第二个模型在同样题目上的结果
    #[arg(value_name = "B")]
    b: PathBuf,
    /// List so many questions on which B was better, and as many on which A was
    ///
    /// zh: 列出 B 更好的题目与 A 更好的题目，各至多 N 道
    #[arg(long, value_name = "N", default_value_t = 5)]
    list: usize,
    /// Rounds of the bootstrap
    ///
    /// zh: 自助法的轮数
    #[arg(long, value_name = "N", default_value_t = Options::default().rounds, value_parser = super::rounds)]
    rounds: usize,
    /// Seed of its draws
    ///
    /// zh: 抽样的随机种子
    #[arg(long, value_name = "N", default_value_t = Options::default().seed)]
    seed: u64,
}

/// Runs `danlu eval compare`.
///
/// # Errors
/// Results that cannot be read, or are of different questions.
pub fn run(args: &Args, printer: &Printer) -> Result<()> {
    let a = Results::read(&args.a).map_err(told_apart)?;
    let b = Results::read(&args.b).map_err(told_apart)?;
    let options = Options { rounds: args.rounds, seed: args.seed, list: args.list };
    let comparison = compare::compare(&a, &b, &options).map_err(told_apart)?;
    report(&comparison, printer)?;
    Ok(printer.json(&serde_json::to_value(&comparison)?)?)
}

fn report(comparison: &Comparison, printer: &Printer) -> Result<()> {
    let Comparison { a, b, questions, .. } = comparison;
    printer.line(format_args!("A {a}\nB {b}\n"))?;
    let number = |value: f64| format!("{value:.4}");
    let rows = comparison.metrics.iter().map(|metric| {
        vec![
            metric.metric.clone(),
            number(metric.a),
            number(metric.b),
            format!("{:+.4}", metric.difference),
            format!("{:+.4} to {:+.4}", metric.low, metric.high),
            number(metric.p_value),
            metric.wins.to_string(),
            metric.losses.to_string(),
        ]
    });
    let header = ["metric", "A", "B", "B − A", "95 % interval", "p", "B better", "A better"];
    printer.table(&header, &rows.collect::<Vec<_>>())?;
    printer
        .line(format_args!("{questions} questions, {} draws, seed {}", comparison.rounds, comparison.seed))?;
    if let Some(test) = &comparison.mc_nemar {
        printer.line(format_args!(
            "right in both {}, in A alone {}, in B alone {}, in none {}: McNemar's exact test p = {:.4}",
            test.both, test.only_a, test.only_b, test.neither, test.p_value
        ))?;
    }
    match comparison.groups.is_empty() {
        true => parts("subject", &comparison.subjects, printer)?,
        false => parts("group", &comparison.groups, printer)?,
    }
    list("B better", &comparison.wins, printer)?;
    list("A better", &comparison.losses, printer)
}

fn parts(title: &str, parts: &[PartDifference], printer: &Printer) -> Result<()> {
    if parts.is_empty() {
        return Ok(());
    }
    let rows = parts.iter().map(|part| {
        vec![
            part.name.clone(),
            part.questions.to_string(),
            format!("{:.4}", part.a),
            format!("{:.4}", part.b),
            format!("{:+.4}", part.difference),
            part.wins.to_string(),
            part.losses.to_string(),
            format!("{:.4}", part.p_value),
        ]
    });
    printer.line("")?;
    let header = [title, "questions", "A", "B", "B − A", "B better", "A better", "p"];
    Ok(printer.table(&header, &rows.collect::<Vec<_>>())?)
}

fn list(title: &str, listed: &[Listed], printer: &Printer) -> Result<()> {
    if listed.is_empty() {
        return Ok(());
    }
    let rows = listed.iter().map(|found| {
        let text = found.text.as_deref().unwrap_or_default();
        vec![found.question.clone(), shown(text), shown(&found.right), shown(&found.a), shown(&found.b)]
    });
    printer.line("")?;
    Ok(printer.table(&[title, "question", "right", "A", "B"], &rows.collect::<Vec<_>>())?)
}

/// The beginning of a text on one line.
fn shown(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut shown: String = line.chars().take(SHOWN).collect();
    if shown.len() < line.len() {
        shown.push('…');
    }
    shown
}
