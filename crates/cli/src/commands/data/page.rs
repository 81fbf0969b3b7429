//! The page of `danlu data inspect --html`: what the command prints, to look at and to pass on.

use std::path::Path;

use danlu_data::report::Skipped;
use danlu_data::{DatasetReport, Detail, Example, Finding, Found, Inspection, Source};
use danlu_report::{Page, Table, Text};

use super::inspect::Seen;

/// A sample to show: where it is from, its tokens and those that are learned, its text.
type Shown = (String, (usize, usize), Vec<(String, bool)>);

/// What a finding means, and what to do.
pub(super) fn finding(finding: Finding) -> Text {
    match finding {
        Finding::Overlong => Text::new(
            "长于 `cutoff_len`，已丢弃（调大 `cutoff_len`，或用 `overlong: truncate` 截断回答）",
            "longer than `cutoff_len`, left out (raise `cutoff_len`, or cut their answers with `overlong: truncate`)",
        ),
        Finding::PromptTooLong => Text::new(
            "仅提示就长于 `cutoff_len`，已丢弃",
            "the prompt alone is longer than `cutoff_len`, left out",
        ),
        Finding::Truncated => Text::new(
            "长于 `cutoff_len`，回答末尾被截断，连同结束符",
            "longer than `cutoff_len`, the end of the answer cut off, its end token too",
        ),
        Finding::Split => Text::new(
            "长于 `cutoff_len`，已在问答之间分开（单独一轮就过长的问答已丢弃）",
            "longer than `cutoff_len`, split between its exchanges (those too long alone are left out)",
        ),
        Finding::Empty => {
            Text::new("没有文本或回答为空，已丢弃", "without text or with an empty answer, left out")
        }
        Finding::DoubleBos => Text::new(
            "以两个文本起始符开头（模板与数据各写了一个）",
            "begin with two tokens for the beginning of a text (one of the template, one of the data)",
        ),
        Finding::EndUntrained => Text::new(
            "回答不以此词表的结束符结尾，模型学不会停止（请选用与词表相配的 `template`）",
            "the answer does not end with an end token of this vocabulary, the model would not learn to stop (choose the \
             `template` that belongs to it)",
        ),
        Finding::IdenticalPair => Text::new(
            "偏好对的两个回答相同，学不到任何偏好，已丢弃",
            "the wanted and the unwanted answer are the same: no preference can be learned of them, left out",
        ),
        Finding::SpelledSpecialTokens => Text::new(
            "文本中写有特殊词元的字样，按普通文本处理",
            "spell out special tokens: taken as text, which ends no turn",
        ),
        Finding::Duplicate => Text::new("与前面的某行完全相同", "the same as an earlier row"),
        Finding::NearDuplicate => Text::new(
            "与前面的某行仅有空白、标点或大小写之差",
            "differ from an earlier row in nothing but spaces, punctuation and case",
        ),
        Finding::SameQuestion => Text::new(
            "问题与前面的某行相同，回答不同",
            "ask the same as an earlier row, and answer something else",
        ),
        Finding::Contaminated => Text::new(
            "含有 `--against` 中的题目，模型在其上的得分将不可信",
            "hold a question of `--against`, by which the model could not be measured any more",
        ),
    }
}

/// The page.
pub(super) fn page(seen: &Seen, samples: &[Shown]) -> Page {
    let mut page = Page::new(Text::new("训练数据检查", "Training data, inspected"));
    let DatasetReport { rows, samples: made, tokens, .. } = &seen.samples.report;
    let share = 100.0 * seen.samples.report.trained_share();
    let mut figures = vec![
        (rows.to_string(), Text::new("行", "rows")),
        (made.to_string(), Text::new("样本", "samples")),
        (tokens.to_string(), Text::new("词元", "tokens")),
        (format!("{share:.1} %"), Text::new("参与学习", "are learned")),
    ];
    let (per_epoch, steps) = seen.steps();
    let caption = Text::new(format!("步（每轮 {per_epoch} 步）"), format!("steps ({per_epoch} a pass)"));
    figures.push((steps.to_string(), caption));
    page.figures(&figures);
    for inspection in &seen.samples.inspections {
        dataset(&mut page, inspection);
    }
    if !samples.is_empty() {
        page.heading(&Text::new("样本", "Samples")).paragraph(&Text::new(
            "着色的部分参与学习，其余只是上下文。",
            "The coloured text is learned, the rest is context.",
        ));
    }
    for (source, (tokens, trained), stretches) in samples {
        let caption = Text::new(
            format!("{source} · {tokens} 个词元，学习 {trained} 个"),
            format!("{source} · {tokens} tokens, {trained} learned"),
        );
        page.marked(&caption, stretches);
    }
    page
}

fn dataset(page: &mut Page, inspection: &Inspection) {
    let Inspection { name, report, .. } = inspection;
    let lengths = &report.lengths;
    page.heading(&Text::new(name, name));
    let cells = [
        report.rows.to_string(),
        report.samples.to_string(),
        report.tokens.to_string(),
        report.trained_tokens.to_string(),
        format!("{:.1} %", 100.0 * report.trained_share()),
        lengths.p50.to_string(),
        lengths.p99.to_string(),
        lengths.longest.to_string(),
    ];
    let table = |header: [&str; 8]| {
        let mut table = Table::new(header);
        table.row(cells.clone());
        table
    };
    page.table(
        &table(["行", "样本", "词元", "学习的词元", "占比", "中位长度", "99 % 长度", "最长"]),
        &table(["rows", "samples", "tokens", "learned", "share", "half up to", "99 % up to", "longest"]),
    );
    page.paragraph(&Text::new("每行的词元数：", "Tokens of a row:"));
    let bars: Vec<(Text, u64)> = inspection
        .length_histogram
        .iter()
        .map(|bin| (Text::new(format!("不超过 {}", bin.up_to), format!("up to {}", bin.up_to)), bin.rows))
        .collect();
    page.bars(&bars);
    if !report.notices.is_empty() {
        page.paragraph(&Text::new("程序的提示（原文）：", "What the program notes:"));
        page.preformatted(&report.notices.join("\n"));
    }
    if inspection.findings.is_empty() && report.skipped.is_empty() && report.filtered.is_empty() {
        page.paragraph(&Text::new("没有发现疑点。", "Nothing looks wrong."));
        return;
    }
    let mut zh = Table::new(["发现", "行数", "例"]);
    let mut en = Table::new(["found", "rows", "examples"]);
    for (kind, Found { rows, examples }) in &inspection.findings {
        let text = finding(*kind);
        let examples = examples.iter().map(|found| example(found, name));
        let (in_zh, in_en): (Vec<_>, Vec<_>) = examples.map(|text| (text.zh, text.en)).unzip();
        zh.row([text.zh, rows.to_string(), in_zh.join("\n")]);
        en.row([text.en, rows.to_string(), in_en.join("\n")]);
    }
    for (option, rows) in &report.filtered {
        zh.row([format!("超出 `{option}`，已丢弃"), rows.to_string(), String::new()]);
        en.row([format!("outside of `{option}`, left out"), rows.to_string(), String::new()]);
    }
    for (reason, Skipped { rows, first }) in &report.skipped {
        // The message behind the place is English; what it is about, the reason says.
        let (place, message) = first.split_once(": ").unwrap_or((first, ""));
        let line = place.strip_prefix(name.as_str()).and_then(|rest| rest.strip_prefix(':'));
        let line = line.map(|line| line.trim_start_matches("row "));
        let place = |word: &str| line.map_or_else(|| place.to_owned(), |line| format!("{word} {line}"));
        zh.row([format!("已跳过：{}", reason_zh(reason)), rows.to_string(), place("行")]);
        en.row([format!("skipped: {reason}"), rows.to_string(), format!("{}: {message}", place("line"))]);
    }
    page.table(&zh, &en);
}

/// A row that was found.
fn example(example: &Example, file: &str) -> Text {
    let Text { zh, en } = place(&example.at, file);
    match &example.detail {
        Detail::None => Text { zh, en },
        Detail::Tokens(tokens) => {
            Text::new(format!("{zh}：{tokens} 个词元"), format!("{en}: {tokens} tokens"))
        }
        Detail::Truncated { tokens, answer_tokens } => Text::new(
            format!("{zh}：{tokens} 个词元，回答被截去 {answer_tokens} 个"),
            format!("{en}: {tokens} tokens, {answer_tokens} of the answer cut off"),
        ),
        Detail::Split { tokens, samples, left_out } => Text::new(
            format!("{zh}：{tokens} 个词元，分为 {samples} 个样本，丢弃 {left_out} 轮问答"),
            format!("{en}: {tokens} tokens, {samples} samples, {left_out} exchanges left out"),
        ),
        Detail::As(first) => {
            let first = place(first, file);
            Text::new(format!("{zh}：参见{}", first.zh), format!("{en}: as {}", first.en))
        }
        Detail::Question(question) => {
            let question = place(question, file);
            Text::new(format!("{zh}：{}", question.zh), format!("{en}: {}", question.en))
        }
    }
}

/// A place without the file, where the section is that file's.
fn place(at: &Source, file: &str) -> Text {
    let Source { path, line } = at;
    if **path == *Path::new(file) {
        return Text::new(format!("行 {line}"), format!("line {line}"));
    }
    Text::new(format!("{}：行 {line}", path.display()), at.to_string())
}

/// Why rows were skipped, in Chinese; what stands in backquotes stays.
fn reason_zh(reason: &str) -> String {
    const REASONS: [(&str, &str); 24] = [
        ("invalid UTF-8", "不是有效的 UTF-8"),
        ("invalid JSON", "不是有效的 JSON"),
        ("not a JSON object", "不是 JSON 对象"),
        ("wrong number of fields", "字段数不对"),
        ("quote without partner", "引号没有闭合"),
        ("column named twice", "列名重复"),
        ("missing column `*`", "缺少列 `*`"),
        ("unknown columns", "列名无法识别"),
        ("plain text document", "纯文本文档"),
        ("wrong kind of value", "值的类型不对"),
        ("unknown role `*`", "未知角色 `*`"),
        ("missing `*`", "缺少 `*`"),
        ("wrong `loss_weight`", "`loss_weight` 不对"),
        ("every `loss_weight` is 0", "所有 `loss_weight` 都为 0"),
        ("no answer in `*`", "`*` 中没有回答"),
        ("no answer", "没有回答"),
        ("text without marks of its turns", "文本没有轮次标记"),
        ("preference pair", "偏好对"),
        ("answers to different prompts", "两个回答的提示不同"),
        ("`*` says whether the answer is wanted", "`*` 表明回答是否合意"),
        ("a rule cannot be applied", "规则无法应用"),
        ("refused by the chat template", "被对话模板拒绝"),
        ("invalid *", "不是有效的 *"),
        ("no place in *", "目标格式容不下：*"),
    ];
    let translated = REASONS.into_iter().find_map(|(en, zh)| match en.split_once('*') {
        None => (reason == en).then(|| zh.to_owned()),
        Some((before, after)) => {
            let shown = reason.strip_prefix(before)?.strip_suffix(after)?;
            Some(zh.replace('*', shown))
        }
    });
    translated.unwrap_or_else(|| reason.to_owned())
}
