//! The page of `danlu data inspect --html`: what the command prints, to look at and to pass on.

use danlu_data::{DatasetReport, Finding, Found, Inspection};
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
        let places = |line: &str| {
            let places: Vec<String> = examples.iter().map(|example| place(example, name, line)).collect();
            places.join("\n")
        };
        zh.row([text.zh, rows.to_string(), places("行")]);
        en.row([text.en, rows.to_string(), places("line")]);
    }
    for (option, rows) in &report.filtered {
        zh.row([format!("超出 `{option}`，已丢弃"), rows.to_string(), String::new()]);
        en.row([format!("outside of `{option}`, left out"), rows.to_string(), String::new()]);
    }
    for (reason, skipped) in &report.skipped {
        let (rows, first) = (skipped.rows.to_string(), |line| place(&skipped.first, name, line));
        zh.row([format!("已跳过：{reason}"), rows.clone(), first("行")]);
        en.row([format!("skipped: {reason}"), rows, first("line")]);
    }
    page.table(&zh, &en);
}

/// A place without the file, where the section is that file's.
fn place(example: &str, file: &str, line: &str) -> String {
    match example.strip_prefix(file).and_then(|rest| rest.strip_prefix(':')) {
        Some(rest) if rest.starts_with(|first: char| first.is_ascii_digit()) => format!("{line} {rest}"),
        Some(rest) => rest.to_owned(),
        None => example.to_owned(),
    }
}
