//! `danlu eval arena`: ratings of models from votes, which a judge may cast first.

use std::path::{Path, PathBuf};

use anyhow::Result;
use danlu_eval::arena::{CENTRE, Cell, Options, Ratings, Votes, rate};
use danlu_eval::judge;
use danlu_formats::write_file_atomically;

use super::server::ConnectionArgs;
use crate::printer::Printer;
use crate::stop;

/// Matrices of more models are too wide for a terminal.
const WIDEST_MATRIX: usize = 8;
/// Where a judge's votes go when nothing else is said.
const VOTES: &str = "votes.jsonl";

/// Which votes, how they are rated, and who casts them.
#[derive(Debug, clap::Args)]
#[command(
    mut_arg("api_key_env", |arg| arg.requires("judge")),
    mut_arg("parallel", |arg| arg.requires("judge")),
)]
pub struct Args {
    /// Votes: rows of model_a, model_b and winner (model_a, model_b, tie) as JSON lines, JSON, CSV or Parquet
    ///
    /// zh: 投票：每行含 model_a、model_b 与 winner（model_a、model_b、tie），JSON Lines、JSON、CSV 或 Parquet
    #[arg(value_name = "VOTES", required_unless_present = "judge")]
    votes: Option<PathBuf>,
    /// The model that has a fixed rating (default: the mean of all is 1000)
    ///
    /// zh: 评分固定的模型（默认：全体平均为 1000）
    #[arg(long, value_name = "MODEL")]
    anchor: Option<String>,
    /// The rating of that model
    ///
    /// zh: 该模型的评分
    #[arg(long, value_name = "POINTS", default_value_t = CENTRE, requires = "anchor")]
    anchor_rating: f64,
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
    /// Give each model so many ties with an imagined average one (default: 0, or 1 where a rating would be infinite)
    ///
    /// zh: 给每个模型计入这么多场与假想平均模型的平局（默认：0；若有评分会趋于无穷则为 1）
    #[arg(long, value_name = "TIES")]
    prior: Option<f64>,
    /// Write arena.json, report.html, report.md and report.tex into this folder
    ///
    /// zh: 把 arena.json、report.html、report.md、report.tex 写入此文件夹
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
    /// Let the OpenAI-compatible server at this address judge answers, and append its votes to VOTES (default: votes.jsonl)
    ///
    /// zh: 由此地址的 OpenAI 兼容服务评判回答，其投票追加到 VOTES（默认：votes.jsonl）
    #[arg(long, value_name = "URL", requires_all = ["judge_model", "answers"])]
    judge: Option<String>,
    /// Name of the judge's model
    ///
    /// zh: 评判模型的名称
    #[arg(long, value_name = "NAME", requires = "judge")]
    judge_model: Option<String>,
    /// Answers of each model to the same questions: rows of prompt and prediction, such as generated.jsonl
    ///
    /// zh: 各模型对同样问题的回答：每行含 prompt 与 prediction，如 generated.jsonl
    #[arg(long, value_name = "FILE", num_args = 2.., requires = "judge")]
    answers: Vec<PathBuf>,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Runs `danlu eval arena`.
///
/// # Errors
/// Votes or answers that cannot be used, a judge that cannot be asked.
pub fn run(args: &Args, printer: &Printer) -> Result<()> {
    let path = args.votes.clone().unwrap_or_else(|| match &args.output_dir {
        Some(folder) => folder.join(VOTES),
        None => VOTES.into(),
    });
    if let (Some(url), Some(model)) = (&args.judge, &args.judge_model) {
        ask_judge(args, url, model, &path, printer)?;
    }
    let votes = Votes::read(&path)?;
    let options = Options {
        anchor: args.anchor.clone().map(|model| (model, args.anchor_rating)),
        rounds: args.rounds,
        seed: args.seed,
        prior: args.prior,
    };
    let mut bar = printer.progress("bootstrap rounds", args.rounds as u64);
    let ratings = rate(&votes, &options, |done| bar.set(done as u64, ""))?;
    drop(bar);
    tell(&votes, &ratings, printer);
    if let Some(folder) = &args.output_dir {
        write(folder, &ratings)?;
        printer.note(format_args!("written to `{}`", folder.display()));
    }
    report(&ratings, printer)
}

fn ask_judge(args: &Args, url: &str, model: &str, votes: &Path, printer: &Printer) -> Result<()> {
    let server = args.connection.open(url, model)?;
    let answers = judge::read_answers(&args.answers)?;
    let pairs = judge::pairs(&answers);
    stop::answer_with(format!("stopped; the same command goes on from the votes in `{}`", votes.display()));
    let mut bar = printer.progress("pairs", pairs.len() as u64);
    let told = |done| bar.set(done as u64, "");
    let judged = judge::judge(&server.client, model, &pairs, votes, server.parallel, told);
    drop(bar);
    let judged = judged?;
    printer.note(format_args!(
        "{} pairs judged in both orders, {} of them ties because the verdicts differ; {} were in `{}` before",
        judged.asked,
        judged.disagreed,
        judged.known,
        votes.display()
    ));
    if judged.without_verdict > 0 {
        printer.warning(format_args!(
            "{} pairs have no vote, because an answer of the judge held no verdict (`[[A]]`, `[[B]]`, `[[C]]`); the same command \
             asks again",
            judged.without_verdict
        ));
    }
    if let Some(first) = &judged.first_refusal {
        printer.warning(format_args!(
            "{} pairs have no vote, because the server does not take them ({first}); the same command asks again",
            judged.refused
        ));
    }
    Ok(())
}

/// What a reader of the ratings must know.
fn tell(votes: &Votes, ratings: &Ratings, printer: &Printer) {
    if votes.repeated > 0 {
        printer.note(format_args!("{} rows that repeat an earlier one do not count", votes.repeated));
    }
    if votes.not_anonymous > 0 {
        printer.note(format_args!(
            "{} votes do not count, because the voter saw the names (`anony` is false)",
            votes.not_anonymous
        ));
    }
    if ratings.groups > 1 {
        let first = |group: usize| ratings.models.iter().find(|rating| rating.group == group);
        let names = (1..=ratings.groups).filter_map(first).map(|rating| format!("`{}`", rating.model));
        printer.warning(format_args!(
            "the models fall into {} groups that were never compared with each other, not even through others (those of {}): \
             ratings compare only within a group",
            ratings.groups,
            names.collect::<Vec<_>>().join(", ")
        ));
    }
    for (names, what) in [(&ratings.only_wins, "won"), (&ratings.only_losses, "lost")] {
        if !names.is_empty() {
            printer.warning(format_args!("`{}` {what} every vote", names.join("`, `")));
        }
    }
    if ratings.prior > 0.0 {
        printer.warning(format_args!(
            "ratings are drawn to the mean by {} ties of each model with an imagined average one: without them, some would be \
             infinite where a model, or a group of them, only wins or only loses",
            ratings.prior
        ));
    }
    if ratings.rounds_with_prior > 0 {
        printer.note(format_args!(
            "{} of {} rounds of the bootstrap drew votes by which a rating would be infinite, and were given such ties",
            ratings.rounds_with_prior, ratings.rounds
        ));
    }
}

fn write(folder: &Path, ratings: &Ratings) -> Result<()> {
    fs_err::create_dir_all(folder)?;
    let json = serde_json::to_string_pretty(ratings)? + "\n";
    write_file_atomically(folder.join("arena.json"), json.as_bytes())?;
    Ok(ratings.report().write(folder)?)
}

fn report(ratings: &Ratings, printer: &Printer) -> Result<()> {
    let mut tables = vec![ratings.table(Ratings::HEADER)];
    if ratings.models.len() <= WIDEST_MATRIX {
        tables.push(ratings.matrix("row beats column", Cell::WinRate));
        tables.push(ratings.matrix("without ties", Cell::WinRateWithoutTies));
    }
    for (place, table) in tables.iter().enumerate() {
        if place > 0 {
            printer.line("")?;
        }
        let header: Vec<&str> = table.header.iter().map(String::as_str).collect();
        printer.table(&header, &table.rows)?;
    }
    printer.line(format_args!(
        "\n{} votes, {} ties · Bradley–Terry, {} draws, seed {} · {}",
        ratings.votes,
        ratings.ties,
        ratings.rounds,
        ratings.seed,
        match &ratings.anchor {
            Some(anchor) => format!("anchor {anchor}"),
            None => "mean 1000".to_owned(),
        }
    ))?;
    Ok(printer.json(&serde_json::to_value(ratings)?)?)
}
