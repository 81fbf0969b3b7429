//! `danlu data dedup`: rows without those that repeat others, or that contain benchmark questions.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use clap::ValueEnum;
use danlu_data::contamination::{NGRAM, Questions, SHARE};
use danlu_data::deduplication::{Keep, Method, Outcome, Output, Part, Permutations, Step};
use danlu_data::{DataError, Deduplication, ReadOptions, RowProblem, refuse_output_in};
use danlu_kernels::team;
use danlu_train::machine;
use serde_json::json;

use super::BadRow;
use crate::failure::{keys_as_flags, wrong_input};
use crate::printer::{Printer, Progress};
use crate::stop::{self, Interrupted};

/// What to deduplicate, and how.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files and folders of rows or documents; duplicates are looked for across all of them
    ///
    /// zh: 数据文件或文件夹；在所有输入之间查重
    #[arg(required = true, value_name = "IN")]
    inputs: Vec<PathBuf>,
    /// Where the other rows go: a .jsonl, .json, .csv or .parquet file, or a folder, which gets a file for each of the inputs; with
    /// `--part` the signature file
    ///
    /// zh: 保留的行写到哪里：.jsonl、.json、.csv、.parquet 文件，或文件夹（每个输入文件各得一个文件）；配合 `--part` 时为签名文件
    #[arg(long, value_name = "OUT", required_unless_present = "report_only")]
    out: Option<PathBuf>,
    /// What makes a row a duplicate of an earlier one
    ///
    /// zh: 何为重复
    #[arg(long, value_enum, default_value_t)]
    method: MethodChoice,
    /// Clean as another program did, and keep the very rows that it kept
    ///
    /// zh: 与另一程序的做法完全一致，保留同样的行
    #[arg(long, value_enum, conflicts_with_all = ["method", "threshold", "ngram", "num_perm", "no_verify"])]
    compat: Option<Compat>,
    /// Least Jaccard similarity of duplicates (`minhash`)
    ///
    /// zh: 判为重复的最低 Jaccard 相似度（`minhash`）
    #[arg(long, value_name = "SIMILARITY", default_value_t = 0.8)]
    threshold: f64,
    /// Characters of a shingle, spaces and punctuation not counted (`minhash`)
    ///
    /// zh: 每个片段的字数，不计空白与标点（`minhash`）
    #[arg(long, value_name = "N", default_value_t = 5)]
    ngram: usize,
    /// Values of a signature; bands and rows follow from it and the threshold (`minhash`)
    ///
    /// zh: 签名的长度；分段数与每段行数由它和阈值得出（`minhash`）
    #[arg(long, value_name = "N", default_value_t = 128)]
    num_perm: usize,
    /// Let a shared band decide, without comparing the texts (`minhash`)
    ///
    /// zh: 有一段相同即判为重复，不再比较原文（`minhash`）
    #[arg(long)]
    no_verify: bool,
    /// Which of the duplicates stays
    ///
    /// zh: 重复的行中保留哪一行
    #[arg(long, value_enum, default_value_t)]
    keep: KeepChoice,
    /// Columns that are a row's text, separated by commas (default: `text`, or all texts of the row, without roles and `id`)
    ///
    /// zh: 作为正文的列，以逗号分隔（默认：`text`；没有则为该行的全部文本，不含角色与 `id`）
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    columns: Vec<String>,
    /// Also leave out rows that contain a question of this benchmark: files, or folders such as those of C-Eval, CMMLU and
    /// MMLU
    ///
    /// zh: 同时去除含有该评测题目的行：文件，或 C-Eval、CMMLU、MMLU 等的文件夹
    #[arg(long, value_name = "PATH", num_args = 1.., conflicts_with_all = ["part", "join"])]
    against: Vec<PathBuf>,
    /// List what is left out, row by row: the row it repeats, or the question, and the similarity
    ///
    /// zh: 逐行列出去除的内容：所重复的行或所含的题目，以及相似度
    #[arg(long, value_name = "FILE", conflicts_with = "part")]
    report: Option<PathBuf>,
    /// Only say what would be left out, and write no rows
    ///
    /// zh: 只报告会去除什么，不写出数据
    #[arg(long, conflicts_with_all = ["out", "part"])]
    report_only: bool,
    /// Make the signatures of the I-th of N parts of the files, for `--join` on one machine
    ///
    /// zh: 只计算 N 份文件中第 I 份的签名，供一台机器用 `--join` 汇总
    #[arg(long, value_name = "I/N", value_parser = part, conflicts_with = "join")]
    part: Option<Part>,
    /// Signature files of all parts, in place of reading the rows for them
    ///
    /// zh: 各份的签名文件，免去重新计算
    #[arg(long, value_name = "FILE", num_args = 1..)]
    join: Vec<PathBuf>,
    /// Encoding of all text files that carry no mark, such as `gb18030`; without it, it is told by their content
    ///
    /// zh: 所有不带标记的文本文件的编码，如 `gb18030`；不设时按内容识别
    #[arg(long, value_name = "NAME")]
    encoding: Option<String>,
    /// What happens to rows that cannot be read
    ///
    /// zh: 遇到无法读取的行时如何处理
    #[arg(long, value_enum, default_value_t)]
    on_bad_row: BadRow,
    /// Memory for keys and buckets; beyond it they go to files beside the output. A row takes some 30 bytes besides, one
    /// like thousands of others up to some 170
    ///
    /// zh: 键与分桶所用内存；超出部分写到输出旁的文件。此外每行约占 30 字节，与成千上万行相似的行最多约占 170 字节
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = memory)]
    max_memory: u64,
}

/// What makes a duplicate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum MethodChoice {
    /// The same text, byte by byte
    ///
    /// zh: 文本逐字节相同
    Exact,
    /// A high Jaccard similarity of the sets of shingles, found with MinHash and verified
    ///
    /// zh: 片段集合的 Jaccard 相似度高：以 MinHash 找出，再经核实
    #[default]
    Minhash,
    /// SimHash of 128 bits that differ in at most 3
    ///
    /// zh: 128 位 SimHash 相差不超过 3 位
    Simhash,
    /// Nothing: only `--against` leaves rows out
    ///
    /// zh: 不查重，只按 `--against` 去除
    None,
}

/// A program whose rows are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Compat {
    /// Baby-Llama2's MinHash: sets of single characters, 256 values, 0.85, nothing verified; datasketch before version 2
    ///
    /// zh: Baby-Llama2 的 MinHash：单字集合、256 个值、阈值 0.85、不核实；datasketch 2 以前的版本
    BabyLlama2,
    /// The same with datasketch 2, whose hashes are others
    ///
    /// zh: 同上，但用 datasketch 2（其哈希不同）
    BabyLlama2Datasketch2,
}

/// Which of the duplicates stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum KeepChoice {
    /// The first in the order of the inputs
    ///
    /// zh: 按输入顺序的第一行
    #[default]
    First,
    /// The longest
    ///
    /// zh: 最长的一行
    Longest,
}

fn part(text: &str) -> Result<Part, String> {
    let part = text
        .split_once('/')
        .and_then(|(number, of)| Some(Part { number: number.parse().ok()?, of: of.parse().ok()? }));
    part.filter(|part| (1..=part.of).contains(&part.number))
        .ok_or_else(|| "expected I/N, such as 1/4".to_owned())
}

fn memory(text: &str) -> Result<u64, String> {
    let size = text.parse::<bytesize::ByteSize>().map(|size| size.as_u64());
    size.map_err(|_| "expected a size, such as 2GiB".to_owned())
}

/// Runs `danlu data dedup`.
///
/// # Errors
/// Inputs that cannot be read, an output that cannot be written.
pub fn run(args: Args, printer: &Printer) -> Result<()> {
    if args.method == MethodChoice::None && args.against.is_empty() {
        return Err(wrong_input(
            "`--method none` looks for no duplicates: give the questions to look for with `--against`",
        ));
    }
    for path in args.out.iter().chain(&args.report) {
        refuse_output_in(&args.inputs, path)?;
    }
    let (files, ignored) = Deduplication::list(&args.inputs)?;
    if let Some(path) = ignored.first() {
        printer.warning(format_args!(
            "{} files are left out, of whose ending none is read, such as `{}`",
            ignored.len(),
            path.display()
        ));
    }
    let work = Deduplication {
        files,
        columns: args.columns.clone(),
        reading: ReadOptions { encoding: args.encoding.clone(), ..ReadOptions::default() },
        method: args.method(),
        keep: match args.keep {
            KeepChoice::First => Keep::First,
            KeepChoice::Longest => Keep::Longest,
        },
        on_bad_row: args.on_bad_row.into(),
        max_memory: args.max_memory,
        threads: team::threads().max(1),
        questions: args.questions(printer)?,
    };
    if let Some(bands) = work.bands().map_err(with_flags)? {
        printer.note(format_args!("{} bands of {} values", bands.bands, bands.rows));
    }
    // From here on files are begun, which an interruption must take away.
    _ = stop::requested();
    let start = Instant::now();
    let mut shown: Option<(Step, Progress)> = None;
    let mut progress = |step: Step, done: u64, total: u64| {
        let name = match step {
            Step::Reading => "reading",
            Step::Comparing => "comparing",
            Step::Writing => "writing",
        };
        if shown.as_ref().is_none_or(|(last, _)| *last != step) {
            shown = None;
            shown = Some((step, printer.progress(name, total)));
        }
        if let Some((_, bar)) = &mut shown {
            bar.set(done, "");
        }
        if stop::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let done = match (args.part, &args.out) {
        (Some(part), Some(path)) => work.sign(part, path, &mut progress),
        (_, out) => {
            let output = match out {
                None => {
                    Output::Nowhere(args.report.as_deref().and_then(Path::parent).unwrap_or(Path::new("")))
                }
                Some(path) if path.extension().is_some() && !path.is_dir() => Output::File(path),
                Some(path) => Output::Folder(path),
            };
            work.run(output, args.report.as_deref(), &args.join, &mut progress)
        }
    };
    drop(shown);
    let outcome = match done {
        Err(DataError::Cancelled) => return Err(Interrupted.into()),
        done => done.map_err(with_flags)?,
    };
    args.tell(&outcome, start.elapsed().as_secs_f64(), printer)
}

/// The advice of a row's error in the words of this command.
fn with_flags(error: DataError) -> anyhow::Error {
    match error {
        DataError::Row { at, problem: RowProblem::MissingColumn { column, available, .. } } => {
            wrong_input(format!(
                "{at}: there is no column `{column}` but `{}`: name others with `--columns`, or leave such rows out with \
                 `--on-bad-row skip`",
                available.join("`, `")
            ))
        }
        DataError::Row { at, problem } if problem.can_be_skipped() => {
            let problem = keys_as_flags(&problem.to_string());
            wrong_input(format!("{at}: {problem}, or leave such rows out with `--on-bad-row skip`"))
        }
        DataError::Option { option, problem } => wrong_input(format!("`--{option}`: {problem}")),
        error => error.into(),
    }
}

impl Args {
    fn method(&self) -> Method {
        match (self.compat, self.method) {
            (Some(Compat::BabyLlama2), _) => Method::BabyLlama2(Permutations::Legacy),
            (Some(Compat::BabyLlama2Datasketch2), _) => Method::BabyLlama2(Permutations::Affine32),
            (None, MethodChoice::None) => Method::Nothing,
            (None, MethodChoice::Exact) => Method::Exact,
            (None, MethodChoice::Simhash) => Method::SimHash,
            (None, MethodChoice::Minhash) => Method::MinHash {
                ngram: self.ngram,
                threshold: self.threshold,
                num_perm: self.num_perm,
                verify: !self.no_verify,
            },
        }
    }

    fn questions(&self, printer: &Printer) -> Result<Option<Questions>> {
        if self.against.is_empty() {
            return Ok(None);
        }
        let questions = Questions::open(&self.against, NGRAM, SHARE).map_err(with_flags)?;
        printer.note(format_args!(
            "{} questions are looked for; {} are too short for it",
            questions.count(),
            questions.too_short()
        ));
        Ok(Some(questions))
    }

    fn tell(&self, outcome: &Outcome, seconds: f64, printer: &Printer) -> Result<()> {
        let Outcome { rows, kept, duplicates, contaminated, skipped, bands, spilled, notices } = outcome;
        notices.iter().for_each(|notice| printer.note(keys_as_flags(notice)));
        for (reason, count) in skipped {
            printer.warning(format_args!("{count} rows were skipped: {reason}"));
        }
        let speed = f64::from(*rows) / seconds;
        let peak = machine::peak().map(|bytes| bytes >> 20);
        let out =
            self.out.as_ref().map_or_else(|| "nothing written".to_owned(), |out| out.display().to_string());
        if self.part.is_some() {
            printer.line(format_args!("{out} · signatures of {rows} rows · {speed:.0} rows/s"))?;
            let signed = json!({ "path": self.out, "docs": rows, "docs_per_s": speed, "peak_rss_mb": peak });
            return Ok(printer.json(&signed)?);
        }
        printer.line(format_args!(
            "{out} · {kept} of {rows} rows stay · {duplicates} duplicates, {contaminated} with benchmark questions · {speed:.0} rows/s"
        ))?;
        Ok(printer.json(&json!({
            "path": self.out,
            "docs": rows,
            "kept": kept,
            "duplicates": duplicates,
            "contaminated": contaminated,
            "skipped": skipped.values().sum::<u64>(),
            "bands": bands.map(|bands| bands.bands),
            "rows": bands.map(|bands| bands.rows),
            "spilled": spilled,
            "seconds": seconds,
            "docs_per_s": speed,
            "peak_rss_mb": peak,
        }))?)
    }
}
