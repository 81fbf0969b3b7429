//! `danlu data clean`: raw files in, one file of clean rows out, and a report of what each rule did.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::ValueEnum;
use danlu_data::cleaning::{
    self, Cleaner, CleaningJob, CleaningOptions, Inputs, PersonalData, Progress, RuleSource, SampleFiles,
    clean_files, list_files, parts_folder,
};
use danlu_data::records::split_sheet;
use danlu_data::{DataError, ReadOptions, RowProblem};
use danlu_hub::size;
use danlu_kernels::team;
use danlu_train::machine;
use fs_err as fs;
use serde_json::json;

use super::BadRow;
use crate::failure::{keys_as_flags, wrong_input};
use crate::printer::Printer;
use crate::stop::{self, Interrupted};

/// What to clean, and how.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files or folders of rows or documents
    ///
    /// zh: 数据行或文档的文件或文件夹
    #[arg(required = true, value_name = "PATH")]
    inputs: Vec<PathBuf>,
    /// File to write; its ending says its form, and .txt holds the texts alone, a line end behind each. A run that was
    /// killed goes on
    ///
    /// zh: 输出文件，格式由扩展名决定；.txt 只含文本，每条之后换行。中断后再次运行会接着做
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Replace the output if it is there
    ///
    /// zh: 输出文件已存在时替换
    #[arg(long)]
    overwrite: bool,
    /// Rules to start from; the options below change or add rules
    ///
    /// zh: 起始规则；下列选项在其上修改或增加规则
    #[arg(long, value_name = "NAME", value_enum, default_value_t = Preset::Safe)]
    preset: Preset,
    /// Columns to clean, separated by commas (default: `text`; in rows without it, every text of a question, answer,
    /// message or section)
    ///
    /// zh: 要清洗的列，以逗号分隔（默认：`text`；没有该列时为问题、回答、消息与章节的全部文本）
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    columns: Vec<String>,
    /// Write rows with this column alone, which holds the cleaned texts joined by newlines
    ///
    /// zh: 每行只写这一列，内容为清洗后的文本，以换行连接
    #[arg(long, value_name = "NAME")]
    output_column: Option<String>,
    /// Unicode normalization
    ///
    /// zh: Unicode 规范化
    #[arg(long, value_name = "FORM", value_enum)]
    normalization: Option<Normalization>,
    /// Full-width characters to write as ASCII
    ///
    /// zh: 转为半角的全角字符
    #[arg(long, value_name = "WHICH", value_enum)]
    half_width: Option<HalfWidth>,
    /// Control characters, zero-width characters, byte order marks and replacement characters
    ///
    /// zh: 控制字符、零宽字符、BOM 与替换字符（U+FFFD）
    #[arg(long, value_name = "WHAT", value_enum)]
    invisible: Option<Invisible>,
    /// Line ends and space
    ///
    /// zh: 换行与空白
    #[arg(long, value_name = "WHAT", value_enum)]
    whitespace: Option<Whitespace>,
    /// File of regular expressions, one a line, whose matches are removed in the order of the lines
    ///
    /// zh: 正则表达式文件，每行一条，按行序删除匹配的内容
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    /// Turn each `；` into a line end, after the rule file
    ///
    /// zh: 在规则文件之后，把每个 `；` 换成换行
    #[arg(long)]
    semicolons_to_newlines: bool,
    /// Personal data to mask, separated by commas
    ///
    /// zh: 要遮盖的个人信息，以逗号分隔
    #[arg(long, value_name = "KIND", value_enum, value_delimiter = ',')]
    mask: Vec<Mask>,
    /// What to write in its place, as KIND=TEXT
    ///
    /// zh: 遮盖后写入的文字，形如 KIND=文字
    #[arg(long, value_name = "KIND=TEXT", value_parser = placeholder)]
    placeholder: Vec<(Mask, String)>,
    /// File of words that must not be trained on, one a line
    ///
    /// zh: 屏蔽词文件，每行一个
    #[arg(long, value_name = "FILE")]
    blocklist: Option<PathBuf>,
    /// What happens to a row with such a word
    ///
    /// zh: 如何处理含屏蔽词的行
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = OnBlocked::Drop, requires = "blocklist")]
    on_blocked: OnBlocked,
    /// Runs of punctuation
    ///
    /// zh: 连续的标点
    #[arg(long, value_name = "WHAT", value_enum)]
    punctuation: Option<Punctuation>,
    /// Remove lines that stand in more than N rows; a first pass counts them
    ///
    /// zh: 删除在超过 N 行数据中出现的文本行；先遍历一遍计数
    #[arg(long, value_name = "N")]
    max_line_rows: Option<u64>,
    /// File of lines to remove wherever they stand alone on a line
    ///
    /// zh: 要删除的文本行的文件
    #[arg(long, value_name = "FILE")]
    boilerplate_lines: Option<PathBuf>,
    /// Cut what follows the last mark that ends a sentence
    ///
    /// zh: 截去最后一个句末标点之后的内容
    #[arg(long)]
    cut_unfinished: bool,
    /// Drop rows with fewer characters in their cleaned texts; 0 drops none
    ///
    /// zh: 丢弃清洗后字符数少于此值的行；0 表示不丢弃
    #[arg(long, value_name = "N")]
    min_chars: Option<u64>,
    /// Drop rows with more characters
    ///
    /// zh: 丢弃字符数多于此值的行
    #[arg(long, value_name = "N")]
    max_chars: Option<u64>,
    /// Drop rows with a lower share of Chinese, Japanese and Korean characters among those that are no space
    ///
    /// zh: 丢弃中日韩字符在非空白字符中占比低于此值的行
    #[arg(long, value_name = "SHARE")]
    min_cjk_share: Option<f64>,
    /// Drop rows with a higher share of characters in repeated lines (Rae et al. 2021 use 0.2); 1 drops none
    ///
    /// zh: 丢弃重复行的字符占比高于此值的行（Rae 等 2021 用 0.2）；1 表示不丢弃
    #[arg(long, value_name = "SHARE")]
    max_duplicate_line_share: Option<f64>,
    /// Drop rows with a higher share of characters in one sequence of four words or Chinese characters (the same paper,
    /// for words: 0.16); texts of fewer than a hundred pass; 1 drops none
    ///
    /// zh: 丢弃某一个四词（汉字按字计）序列的字符占比高于此值的行（同一论文按词用 0.16），不足一百词的文本不检查；1 表示不丢弃
    #[arg(long, value_name = "SHARE")]
    max_top_ngram_share: Option<f64>,
    /// Drop rows with a higher share of characters in repeated sequences of ten words or Chinese characters (the same
    /// paper, for words: 0.1); 1 drops none
    ///
    /// zh: 丢弃重复的十词（汉字按字计）序列的字符占比高于此值的行（同一论文按词用 0.1）；1 表示不丢弃
    #[arg(long, value_name = "SHARE")]
    max_duplicate_ngram_share: Option<f64>,
    /// Encoding of all text files that carry no mark, such as `gb18030`; without it, it is told by their content
    ///
    /// zh: 所有不带标记的文本文件的编码，如 `gb18030`；不设时按内容识别
    #[arg(long, value_name = "NAME")]
    encoding: Option<String>,
    /// What happens to a row that cannot be read or lacks a column
    ///
    /// zh: 一行无法读取或缺少列时如何处理
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = BadRow::Error)]
    on_bad_row: BadRow,
    /// Read only N files of each folder, drawn by the seed
    ///
    /// zh: 每个文件夹只读取 N 个文件，由种子抽取
    #[arg(long, value_name = "N")]
    files_per_folder: Option<usize>,
    /// Seed of that draw
    ///
    /// zh: 抽取的随机种子
    #[arg(long, value_name = "N", default_value_t = 42, requires = "files_per_folder")]
    seed: u64,
    /// Samples of each rule in the report
    ///
    /// zh: 报告中每条规则的样例数
    #[arg(long, value_name = "N", default_value_t = 3)]
    samples: usize,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Preset {
    /// Nothing: rows and documents are only brought together
    None,
    /// Invisible characters, line ends, trailing space and empty rows
    Safe,
    /// For Chinese prose, also: NFC, half-width letters, collapsed space and punctuation, short and repetitive rows
    CorpusZh,
    /// For web pages, also: boilerplate lines, personal data, rows that are hardly Chinese
    Web,
    /// As Baby-Llama2 cleans, without its defect: punctuation runs, at least 15 characters, one column `response`
    #[value(name = "baby-llama2")]
    BabyLlama2,
    /// As literary-alpaca2 cleans books: its regular expressions and semicolons
    #[value(name = "literary-alpaca2")]
    LiteraryAlpaca2,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Normalization {
    None,
    Nfc,
    Nfkc,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum HalfWidth {
    None,
    /// Letters and digits
    Letters,
    /// Punctuation and space too
    All,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Invisible {
    Keep,
    Remove,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Whitespace {
    Keep,
    /// Line ends become LF
    LineEnds,
    /// And space before them goes
    Trailing,
    /// And several spaces become one, several blank lines one, ideographic indents go
    Collapse,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Punctuation {
    Keep,
    /// The same mark again goes, but for `……`, `——` and `...`
    Repeated,
    /// Of each run the first mark stays, and spaces become `，`
    Runs,
    /// The same, with the letter `s` among the marks, as Baby-Llama2 was written
    RunsAndS,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mask {
    /// Mobile and landline numbers of mainland China
    Phone,
    /// E-mail addresses
    Email,
    /// ID card numbers with the right check digit
    IdCard,
    /// Bank card numbers with the right check digit
    BankCard,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OnBlocked {
    /// It is dropped
    Drop,
    /// Each character of the word becomes `*`
    Mask,
}

/// Runs `danlu data clean`.
///
/// # Errors
/// An input that cannot be read, a rule that cannot work, an output that cannot be written.
pub fn run(args: Args, printer: &Printer) -> Result<()> {
    if let Some(input) = args.inputs.iter().find(|input| !split_sheet(input).0.exists()) {
        let input = input.display();
        return Err(wrong_input(format!(
            "`{input}` does not exist: expected a file or folder of rows or texts"
        )));
    }
    Inputs::refuse_output(&args.inputs, &args.out)?;
    let parts = parts_folder(&args.out);
    if args.out.exists() && !args.overwrite && !parts.exists() {
        let out = args.out.display();
        return Err(wrong_input(format!(
            "`{out}` is there already: choose another `--out`, or replace it with `--overwrite`"
        )));
    }
    let cleaner = Cleaner::new(args.options())?;
    let sample = args.files_per_folder.map(|per_folder| SampleFiles { per_folder, seed: args.seed });
    let Inputs { files, ignored } = list_files(&args.inputs, sample)?;
    if let Some(first) = ignored.first() {
        let (count, first) = (ignored.len(), first.display());
        printer
            .warning(format_args!("{count} files are not read because of their ending, such as `{first}`"));
    }
    let total: u64 =
        files.iter().map(|path| Ok(fs::metadata(split_sheet(path).0)?.len())).sum::<Result<u64>>()?;
    let job = CleaningJob {
        files,
        reading: ReadOptions { encoding: args.encoding.clone(), ..ReadOptions::default() },
        output: &args.out,
        cleaner,
        on_bad_row: args.on_bad_row.into(),
        samples: args.samples,
        threads: team::threads().max(1),
    };
    let file_count = job.files.len();
    let start = Instant::now();
    let mut bar = printer.progress("cleaning", total);
    let mut progress = |progress: Progress| {
        match progress {
            Progress::Resumed { rows } => {
                bar.note(format_args!("going on behind {rows} rows of a former run"))
            }
            Progress::StartedOver => {
                bar.note("sources or options are not those of the former run: starting over");
            }
            Progress::Counting(bytes) => {
                bar.set(bytes, format_args!("{} of {}, counting lines", size(bytes), size(total)));
            }
            Progress::Cleaning(bytes) => bar.set(bytes, format_args!("{} of {}", size(bytes), size(total))),
        }
        if stop::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let cleaned = clean_files(job, &mut progress);
    drop(bar);
    if cleaned.is_err() && parts.exists() {
        let parts = parts.display();
        printer.note(format_args!("what is done lies in `{parts}`; the same command goes on behind it"));
    }
    let report = match cleaned {
        Err(DataError::Cancelled) => return Err(Interrupted.into()),
        cleaned => cleaned.map_err(without_recipe)?,
    };
    let seconds = start.elapsed().as_secs_f64();
    report.notices.iter().for_each(|notice| printer.note(keys_as_flags(notice)));
    printer.line(format_args!("{}: {report}", args.out.display()))?;
    printer.line(format_args!("\n{} in {seconds:.1} s", size(total)))?;
    let mut result = json!(report);
    if let Some(fields) = result.as_object_mut() {
        fields.insert("path".into(), json!(args.out));
        fields.insert("files".into(), json!(file_count));
        fields.insert("bytes".into(), json!(total));
        fields.insert("seconds".into(), json!(seconds));
        fields.insert("mb_per_s".into(), json!(total as f64 / 1e6 / seconds));
        fields.insert("peak_rss_mb".into(), json!(machine::peak().map(|bytes| bytes >> 20)));
    }
    Ok(printer.json(&result)?)
}

impl Args {
    /// The rules of the preset, with what was typed in their place.
    fn options(&self) -> CleaningOptions {
        let mut options = self.preset.into_data().options();
        options.columns.clone_from(&self.columns);
        set(&mut options.output_column, self.output_column.clone());
        if let Some(normalization) = self.normalization {
            options.normalization = match normalization {
                Normalization::None => cleaning::Normalization::None,
                Normalization::Nfc => cleaning::Normalization::Nfc,
                Normalization::Nfkc => cleaning::Normalization::Nfkc,
            };
        }
        if let Some(width) = self.half_width {
            options.width = match width {
                HalfWidth::None => cleaning::Width::Keep,
                HalfWidth::Letters => cleaning::Width::Letters,
                HalfWidth::All => cleaning::Width::All,
            };
        }
        if let Some(invisible) = self.invisible {
            options.remove_invisible = matches!(invisible, Invisible::Remove);
        }
        if let Some(whitespace) = self.whitespace {
            options.whitespace = match whitespace {
                Whitespace::Keep => cleaning::Whitespace::Keep,
                Whitespace::LineEnds => cleaning::Whitespace::LineEnds,
                Whitespace::Trailing => cleaning::Whitespace::Trailing,
                Whitespace::Collapse => cleaning::Whitespace::Collapse,
            };
        }
        set(&mut options.rules, self.rules.clone().map(RuleSource::File));
        options.semicolons_to_line_ends |= self.semicolons_to_newlines;
        if !self.mask.is_empty() {
            options.mask = self.mask.iter().map(|kind| kind.into_data()).collect();
        }
        options.placeholders =
            self.placeholder.iter().map(|(kind, text)| (kind.into_data(), text.clone())).collect();
        options.blocklist.clone_from(&self.blocklist);
        options.on_blocked = match self.on_blocked {
            OnBlocked::Drop => cleaning::OnBlocked::Drop,
            OnBlocked::Mask => cleaning::OnBlocked::Mask,
        };
        if let Some(punctuation) = self.punctuation {
            options.punctuation = match punctuation {
                Punctuation::Keep => cleaning::Punctuation::Keep,
                Punctuation::Repeated => cleaning::Punctuation::Repeated,
                Punctuation::Runs => cleaning::Punctuation::Runs,
                Punctuation::RunsAndS => cleaning::Punctuation::RunsAndS,
            };
        }
        set(&mut options.max_line_rows, self.max_line_rows);
        options.boilerplate_lines.clone_from(&self.boilerplate_lines);
        options.cut_unfinished |= self.cut_unfinished;
        set(&mut options.min_chars, self.min_chars);
        set(&mut options.max_chars, self.max_chars);
        set(&mut options.min_cjk_share, self.min_cjk_share);
        set(&mut options.max_duplicate_line_share, self.max_duplicate_line_share);
        set(&mut options.max_top_ngram_share, self.max_top_ngram_share);
        set(&mut options.max_duplicate_ngram_share, self.max_duplicate_ngram_share);
        options
    }
}

/// The error of a row with the options of this command in place of a recipe's keys.
fn without_recipe(error: DataError) -> anyhow::Error {
    let DataError::Row { at, problem } = error else { return error.into() };
    let text = match &problem {
        RowProblem::MissingColumn { column, available, .. } => {
            format!(
                "there is no column `{column}` but `{}`: name others with `--columns`",
                available.join("`, `")
            )
        }
        RowProblem::UnknownColumns { available, .. } => format!(
            "no column has the usual name of a text, found `{}`: name those to clean with `--columns`",
            available.join("`, `")
        ),
        problem => keys_as_flags(&problem.to_string()),
    };
    let hint =
        if problem.can_be_skipped() { ", or leave such rows out with `--on-bad-row skip`" } else { "" };
    wrong_input(format!("{at}: {text}{hint}"))
}

fn set<T>(option: &mut Option<T>, typed: Option<T>) {
    if typed.is_some() {
        *option = typed;
    }
}

impl Preset {
    fn into_data(self) -> cleaning::Preset {
        match self {
            Self::None => cleaning::Preset::None,
            Self::Safe => cleaning::Preset::Safe,
            Self::CorpusZh => cleaning::Preset::CorpusZh,
            Self::Web => cleaning::Preset::Web,
            Self::BabyLlama2 => cleaning::Preset::BabyLlama2,
            Self::LiteraryAlpaca2 => cleaning::Preset::LiteraryAlpaca2,
        }
    }
}

impl Mask {
    fn into_data(self) -> PersonalData {
        match self {
            Self::Phone => PersonalData::Phone,
            Self::Email => PersonalData::Email,
            Self::IdCard => PersonalData::IdCard,
            Self::BankCard => PersonalData::BankCard,
        }
    }
}

fn placeholder(text: &str) -> Result<(Mask, String), String> {
    let (kind, text) = text.split_once('=').ok_or("expected KIND=TEXT, such as phone=[TEL]")?;
    Ok((Mask::from_str(kind, false)?, text.to_owned()))
}
