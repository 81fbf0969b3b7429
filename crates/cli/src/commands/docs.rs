//! `danlu docs`: the reference, written from the command line's own definitions and the recipe's option structs.
//!
//! `docs/en/reference.md`, `docs/zh/reference.md` and `docs/recipe.schema.json`; nothing in them is written by hand.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Arg, Command, CommandFactory};
use danlu_report::Table;
use danlu_train::recipe::schema::{ReferenceRow, recipe_reference, recipe_schema};
use fs_err as fs;
use serde_json::json;

use crate::commands::Cli;
use crate::failure::wrong_input;
use crate::help;
use crate::printer::Printer;

/// Where the reference is.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only compare, and fail if a file is not up to date
    ///
    /// zh: 只比较；有文件过期则失败
    #[arg(long)]
    check: bool,
    /// Folder of the documentation
    ///
    /// zh: 文档文件夹
    #[arg(long, value_name = "DIR", default_value = "docs")]
    dir: PathBuf,
}

/// A language of the reference.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Language {
    English,
    Chinese,
}

/// Runs `danlu docs`.
///
/// # Errors
/// A file that is stale or cannot be written.
pub fn run(args: Args, printer: &Printer) -> Result<()> {
    let schema = serde_json::to_string_pretty(&recipe_schema())? + "\n";
    let files = [
        ("en/reference.md", reference(Language::English)),
        ("zh/reference.md", reference(Language::Chinese)),
        ("recipe.schema.json", schema),
    ];
    let mut changed = Vec::new();
    for (name, text) in files {
        let path = args.dir.join(name);
        // A file that is not there is as stale as one with another text.
        if fs::read_to_string(&path).is_ok_and(|old| old == text) {
            continue;
        }
        if args.check {
            return Err(wrong_input(format!(
                "`{}` is stale: run `danlu docs` and commit it",
                path.display()
            )));
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&path, text)?;
        printer.line(path.display())?;
        changed.push(path);
    }
    if changed.is_empty() {
        printer.note("the reference is up to date");
    }
    Ok(printer.json(&json!({ "changed": changed }))?)
}

impl Language {
    fn choose<'t>(self, english: &'t str, chinese: &'t str) -> &'t str {
        match self {
            // What needs no translation stands in English.
            Self::Chinese if !chinese.is_empty() => chinese,
            _ => english,
        }
    }
}

fn reference(language: Language) -> String {
    // Without what is done to show both languages at once.
    let mut command = Cli::command();
    command.build();
    let title = language.choose("Reference", "参考");
    let about = language
        .choose("Written by `danlu docs` from the program itself.", "由 `danlu docs` 从程序自身生成。");
    let mut text = format!("# {title}\n\n{about}\n\n## {}\n\n", language.choose("Commands", "命令"));
    text += language.choose(
            "Results go to standard output, everything else to standard error. Exit codes: 0 done, 1 failed, 2 wrong \
             usage or input, 130 interrupted.",
            "结果写到标准输出，其余写到标准错误。退出码：0 完成，1 失败，2 用法或输入有误，130 被中断。",
        );
    text += "\n\n";
    text += language.choose("Every command takes:", "每个命令都可用：");
    text += "\n\n";
    text += &arguments(command.get_arguments().filter(|argument| argument.is_global_set()), language);
    for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
        describe(verb, "danlu", language, &mut text);
    }
    text += &recipe_keys(language);
    text
}

/// A command with its commands below it.
fn describe(command: &Command, parent: &str, language: Language, text: &mut String) {
    let name = format!("{parent} {}", command.get_name());
    let (english, chinese) = help::languages(command.get_about(), command.get_long_about());
    let below: Vec<&Command> =
        command.get_subcommands().filter(|command| command.get_name() != "help").collect();
    *text += &format!("\n### {name}\n\n{}\n", language.choose(&english, &chinese));
    if below.is_empty() {
        let usage = command.clone().render_usage().to_string();
        let usage = usage.trim_start_matches("Usage:").trim();
        *text += &format!("\n```\n{usage}\n```\n");
        let own = command.get_arguments().filter(|argument| !argument.is_global_set());
        let table = arguments(own, language);
        if !table.is_empty() {
            *text += &format!("\n{table}");
        }
    }
    for command in below {
        describe(command, &name, language, text);
    }
}

/// A table of arguments; empty when there is none but help.
fn arguments<'a>(arguments: impl Iterator<Item = &'a Arg>, language: Language) -> String {
    let header = [("Argument", "参数"), ("Meaning", "含义"), ("Default", "默认值")];
    let mut table = Table::new(header.map(|(english, chinese)| language.choose(english, chinese)));
    for argument in arguments.filter(|argument| !["help", "version"].contains(&argument.get_id().as_str())) {
        let (english, chinese) = help::languages(argument.get_help(), argument.get_long_help());
        let mut meaning = language.choose(&english, &chinese).to_owned();
        let takes_value = argument.get_action().takes_values();
        let choices: Vec<String> =
            argument.get_possible_values().iter().map(|choice| format!("`{}`", choice.get_name())).collect();
        if takes_value && !choices.is_empty() {
            meaning += &format!("\n{}", choices.join(language.choose(", ", "、")));
        }
        let values: Vec<&str> =
            argument.get_default_values().iter().filter_map(|value| value.to_str()).collect();
        let shows_default = takes_value && !argument.is_hide_default_value_set() && !values.is_empty();
        let default = if shows_default { format!("`{}`", values.join(",")) } else { String::new() };
        table.row([format!("`{}`", written(argument)), meaning, default]);
    }
    if table.rows.is_empty() { String::new() } else { table.to_markdown() }
}

/// An argument as it is typed.
fn written(argument: &Arg) -> String {
    let value = argument.get_value_names().filter(|_| argument.get_action().takes_values());
    let value = value.map(|names| names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" "));
    match (argument.get_long(), value) {
        (Some(long), Some(value)) => format!("--{long} {value}"),
        (Some(long), None) => format!("--{long}"),
        (None, value) => value.unwrap_or_default(),
    }
}

fn recipe_keys(language: Language) -> String {
    let about = language.choose(
        "A recipe is a YAML file of these keys; `danlu train RECIPE key=value …` sets them too. \
         [recipe.schema.json](../recipe.schema.json) lets an editor check them.",
        "配方是由下列键组成的 YAML 文件；也可用 `danlu train RECIPE key=value …` 设置。\
         编辑器可用 [recipe.schema.json](../recipe.schema.json) 检查。",
    );
    let header = [("Key", "键"), ("Meaning", "含义"), ("Takes", "取值"), ("Default", "默认值")];
    let mut table = Table::new(header.map(|(english, chinese)| language.choose(english, chinese)));
    for row in recipe_reference() {
        let ReferenceRow { key, expected, default, description, description_zh, choices } = row;
        let mut meaning = language.choose(&description, &description_zh).to_owned();
        for (name, english, chinese) in &choices {
            let separator = language.choose(": ", "：");
            meaning += &format!("\n`{name}`{separator}{}", language.choose(english, chinese));
        }
        let default = if default.is_empty() { default } else { format!("`{default}`") };
        table.row([format!("`{key}`"), meaning, takes(&expected, language), default]);
    }
    format!("\n## {}\n\n{about}\n\n{}", language.choose("Recipe keys", "配方的键"), table.to_markdown())
}

/// What a key takes, in the language's words.
fn takes(expected: &str, language: Language) -> String {
    const WORDS: [(&str, &str); 9] = [
        ("a whole number, 0 or more", "非负整数"),
        ("a whole number", "整数"),
        ("a number", "数"),
        ("`true` or `false`", "`true` 或 `false`"),
        ("a list of texts", "文本列表"),
        ("a mapping of names to texts", "名称到文本的映射"),
        ("a mapping with ", "含有以下键的映射："),
        ("one of ", "其一："),
        ("text", "文本"),
    ];
    if language == Language::English {
        return expected.to_owned();
    }
    let words =
        WORDS.iter().fold(expected.to_owned(), |text, (english, chinese)| text.replace(english, chinese));
    words.replace(" or ", " 或 ")
}
