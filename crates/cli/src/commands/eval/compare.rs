//! `danlu eval compare`: two results on the same questions.

use std::path::PathBuf;

use anyhow::Result;
use danlu_eval::compare::{self, Comparison, Options, Results};
use danlu_formats::write_file_atomically;
use danlu_report::Table;

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
    /// Write comparison.json, report.html, report.md and report.tex into this folder
    ///
    /// zh: 把 comparison.json、report.html、report.md、report.tex 写入此文件夹
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
}

/// Runs `danlu eval compare`.
///
/// # Errors
/// Results that cannot be read, or are of different questions.
pub fn run(args: &Args, printer: &Printer) -> Result<()> {
    let a = Results::read(&args.a)?;
    let b = Results::read(&args.b)?;
    for results in [&a, &b] {
        if let Some(takes) = results.takes {
            let path = results.path.display();
            printer.note(format_args!("`{path}` is one of {takes} takes, each with answers drawn anew"));
        }
    }
    let options = Options { rounds: args.rounds, seed: args.seed, list: args.list };
    let comparison = compare::compare(&a, &b, &options)?;
    report(&comparison, printer)?;
    let json = serde_json::to_value(&comparison)?;
    if let Some(folder) = &args.output_dir {
        fs_err::create_dir_all(folder)?;
        let text = serde_json::to_string_pretty(&json)? + "\n";
        write_file_atomically(folder.join("comparison.json"), text.as_bytes())?;
        comparison.report().write(folder)?;
        printer.note(format_args!("written to `{}`", folder.display()));
    }
    Ok(printer.json(&json)?)
}

fn report(comparison: &Comparison, printer: &Printer) -> Result<()> {
    let Comparison { a, b, questions, rounds, seed, .. } = comparison;
    printer.line(format_args!("A {a}\nB {b}\n"))?;
    print(&comparison.metrics_table(Comparison::HEADER), printer)?;
    printer.line(format_args!("{questions} questions, {rounds} draws, seed {seed}"))?;
    if let Some(text) = comparison.mc_nemar_text() {
        printer.line(text.en)?;
    }
    let (title, parts) = match comparison.groups.is_empty() {
        true => ("subject", &comparison.subjects),
        false => ("group", &comparison.groups),
    };
    if !parts.is_empty() {
        printer.line("")?;
        print(&Comparison::parts_table(title, Comparison::PARTS, parts), printer)?;
    }
    for (title, listed) in [("B better", &comparison.wins), ("A better", &comparison.losses)] {
        if !listed.is_empty() {
            printer.line("")?;
            let [_, question, right, a, b] = Comparison::LIST;
            print(&Comparison::list_table([title, question, right, a, b], listed, SHOWN), printer)?;
        }
    }
    Ok(())
}

fn print(table: &Table, printer: &Printer) -> Result<()> {
    let header: Vec<&str> = table.header.iter().map(String::as_str).collect();
    Ok(printer.table(&header, &table.rows)?)
}
