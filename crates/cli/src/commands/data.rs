//! `danlu data`: from files to what training sees of them.

mod clean;
pub(super) mod convert;
mod dedup;
pub(super) mod inspect;
mod page;
mod stats;

use anyhow::Result;
use clap::ValueEnum;
use danlu_data::OnBadRow;

use crate::printer::Printer;

/// What to do with data.
#[derive(Debug, clap::Subcommand)]
pub enum Args {
    /// Show samples with what is learned in ⟦…⟧, count what is dropped or cut, and say what looks wrong
    ///
    /// zh: 显示样本（学习的部分在 ⟦…⟧ 中），统计丢弃与截断，并指出疑点
    Inspect(inspect::Args),
    /// Clean raw files: characters, lines, personal data, rows that are worth nothing; every rule is counted and sampled
    ///
    /// zh: 清洗原始文件：字符、文本行、个人信息、无价值的行；每条规则都有计数与样例
    Clean(Box<clean::Args>),
    /// Leave out rows that repeat others, or that contain benchmark questions
    ///
    /// zh: 去除重复的行，以及含有评测题目的行
    Dedup(dedup::Args),
    /// Write rows of any form in another form
    ///
    /// zh: 把任何格式的行写成另一种格式
    Convert(convert::Args),
    /// Count what is in data and what looks wrong, without showing samples
    ///
    /// zh: 统计数据的内容与疑点，不显示样本
    Stats(stats::Args),
}

/// What happens to a row that cannot be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum BadRow {
    /// The run stops with file, line and field
    ///
    /// zh: 停止，并指出文件、行号和字段
    #[default]
    Error,
    /// It is left out and counted
    ///
    /// zh: 跳过并计数
    Skip,
}

impl From<BadRow> for OnBadRow {
    fn from(chosen: BadRow) -> Self {
        match chosen {
            BadRow::Error => Self::Error,
            BadRow::Skip => Self::Skip,
        }
    }
}

/// Runs `danlu data`.
///
/// # Errors
/// Those of the command that is run.
pub fn run(args: Args, printer: &Printer) -> Result<()> {
    match args {
        Args::Inspect(args) => inspect::run(args, printer),
        Args::Clean(args) => clean::run(*args, printer),
        Args::Dedup(args) => dedup::run(args, printer),
        Args::Convert(args) => convert::run(args, printer),
        Args::Stats(args) => stats::run(args, printer),
    }
}
