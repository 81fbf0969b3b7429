//! `danlu data convert`: rows of any form that is read, written in another one.

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;
use danlu_data::DataOptions;
use danlu_data::conversion::{Form, OlderForm, convert};
use danlu_train::recipe::Recipe;
use serde_json::json;

use crate::failure::wrong_input;
use crate::hub;
use crate::printer::Printer;

/// What to convert.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files, folders, or names in `dataset_info.json`; then key=value of the recipe's data keys, such as
    /// columns.prompt=NAME, on_bad_row=skip or max_answer_chars=256
    ///
    /// zh: 文件、文件夹或 `dataset_info.json` 中的名称；其后是配方中数据部分的 key=value，如 columns.prompt=列名、
    /// on_bad_row=skip、max_answer_chars=256
    #[arg(required = true, value_name = "FILE|NAME|KEY=VALUE")]
    inputs: Vec<String>,
    /// Form of the rows that are written
    ///
    /// zh: 写出的行的格式
    #[arg(long, value_name = "FORM")]
    to: FormChoice,
    /// File to write; its ending is its kind (.jsonl, .json, .csv, .parquet)
    ///
    /// zh: 写出的文件；扩展名决定种类（.jsonl、.json、.csv、.parquet）
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Write the texts of an older project's own converter byte for byte
    ///
    /// zh: 逐字节写出旧项目转换脚本的文本
    #[arg(long, value_name = "PROJECT")]
    compat: Option<CompatChoice>,
}

/// Forms of rows.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum FormChoice {
    /// `instruction`, `input`, `output`, with `system` and `history`; pairs with `chosen` and `rejected`
    ///
    /// zh: `instruction`、`input`、`output`，另有 `system`、`history`；偏好对用 `chosen`、`rejected`
    Alpaca,
    /// `conversations` of `from` and `value`
    ///
    /// zh: `conversations`，含 `from` 与 `value`
    Sharegpt,
    /// `messages` of `role` and `content`
    ///
    /// zh: `messages`，含 `role` 与 `content`
    Openai,
    /// What TRL reads: `text`, `messages`, `prompt` with `completion`, `chosen` and `rejected`, or `label`
    ///
    /// zh: TRL 的格式：`text`、`messages`、`prompt` 配 `completion`、`chosen` 与 `rejected`，或 `label`
    Trl,
    /// What MiniMind reads: `text`, `conversations`, or whole `chosen` and `rejected` conversations
    ///
    /// zh: MiniMind 的格式：`text`、`conversations`，或整段的 `chosen`、`rejected` 对话
    Minimind,
    /// One column `text`: a document, or turns as `<s>Human: …</s><s>Assistant: …</s>`
    ///
    /// zh: 一列 `text`：文档，或形如 `<s>Human: …</s><s>Assistant: …</s>` 的对话
    Text,
    /// `prompt` and `answer` of a single turn, as Baby-Llama2 reads them
    ///
    /// zh: 单轮的 `prompt` 与 `answer`，即 Baby-Llama2 的格式
    PromptAnswerCsv,
    /// Preference pairs: `prompt`, `chosen` and `rejected` as lists of messages
    ///
    /// zh: 偏好对：`prompt`、`chosen`、`rejected`，均为消息列表
    Dpo,
    /// Judged answers: `messages` and `label`; a preference pair becomes two rows
    ///
    /// zh: 带评判的回答：`messages` 与 `label`；一个偏好对成为两行
    Kto,
}

/// Older projects with converters of their own.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum CompatChoice {
    /// Alpaca rows to prompt-answer-csv, nothing between instruction and input, 10–256 and 5–256 characters
    ///
    /// zh: alpaca 行转为 prompt-answer-csv：指令与输入直接相连，长度限 10–256 与 5–256 字符
    BabyLlama2,
    /// Math23K to text or alpaca; LCCC dialogues to text
    ///
    /// zh: Math23K 转为 text 或 alpaca；LCCC 对话转为 text
    LiteraryAlpaca2,
}

impl From<FormChoice> for Form {
    fn from(choice: FormChoice) -> Self {
        match choice {
            FormChoice::Alpaca => Self::Alpaca,
            FormChoice::Sharegpt => Self::Sharegpt,
            FormChoice::Openai => Self::Openai,
            FormChoice::Trl => Self::Trl,
            FormChoice::Minimind => Self::Minimind,
            FormChoice::Text => Self::Text,
            FormChoice::PromptAnswerCsv => Self::PromptAnswer,
            FormChoice::Dpo => Self::Dpo,
            FormChoice::Kto => Self::Kto,
        }
    }
}

/// Runs `danlu data convert`.
///
/// # Errors
/// Rows that cannot be read or do not fit the form, or an output that cannot be written.
pub fn run(args: Args, printer: &Printer) -> Result<()> {
    let older = args.compat.map(|compat| match compat {
        CompatChoice::BabyLlama2 => OlderForm::BabyLlama2,
        CompatChoice::LiteraryAlpaca2 => OlderForm::LiteraryAlpaca2,
    });
    let form = Form::from(args.to);
    let options = options(&args.inputs, printer)?;
    let conversion = convert(&options, form, older, &args.out)?;
    let report = &conversion.report;
    report.notices.iter().for_each(|notice| printer.note(notice));
    for (reason, skipped) in &report.skipped {
        printer.note(format!("skipped {} rows: {reason}, first {}", skipped.rows, skipped.first));
    }
    let dropped: u64 = report.filtered.values().sum();
    if dropped > 0 {
        printer.note(format!("left out {} rows whose texts are too short or too long", dropped));
    }
    if !conversion.lost.is_empty() {
        let lost: Vec<String> =
            conversion.lost.iter().map(|(what, rows)| format!("{what} ({rows} rows)")).collect();
        printer.note(format!("`{}` has no place for, and lost: {}", form.name(), lost.join(", ")));
    }
    let (read, written) = (report.rows, conversion.written);
    printer.line(format_args!("{read} rows read, {written} written to `{}`", args.out.display()))?;
    Ok(printer.json(&json!({
        "rows": read,
        "written": written,
        "out": args.out,
        "skipped": report.skipped,
        "dropped_chars": dropped,
        "lost": conversion.lost,
    }))?)
}

/// The inputs and the data keys behind them, as a recipe has them.
fn options(inputs: &[String], printer: &Printer) -> Result<DataOptions> {
    let is_key = |input: &&String| input.contains('=') && !std::path::Path::new(input.as_str()).exists();
    let (keys, names): (Vec<&String>, Vec<&String>) = inputs.iter().partition(is_key);
    if names.is_empty() {
        return Err(wrong_input("give data files, folders or names before the keys"));
    }
    // A recipe needs more than data: what stands here is not used.
    let mut all = vec![
        format!("dataset={}", json!(names)),
        "stage=sft".to_owned(),
        "finetuning_type=full".to_owned(),
        "model_name_or_path=none".to_owned(),
        "output_dir=converted".to_owned(),
    ];
    let others: Vec<&str> = keys.iter().map(|key| key.as_str()).collect();
    all.extend(others.iter().map(|key| (*key).to_owned()));
    let loaded = Recipe::parse("command line", "", &all)?;
    let known = serde_json::to_value(DataOptions::default())?;
    let is_data = |key: &str| {
        let name = key.split(['=', '.']).next().unwrap_or_default();
        known.get(name).is_some() || name.ends_with("_chars")
    };
    if let Some(key) = others.iter().find(|key| !is_data(key)) {
        return Err(wrong_input(format!(
            "`{key}` has nothing to do with data: expected a data key of a recipe"
        )));
    }
    loaded.notices.iter().for_each(|notice| printer.note(notice));
    let mut recipe = loaded.recipe;
    hub::settle_data(&mut recipe, printer)?;
    Ok(recipe.data)
}
