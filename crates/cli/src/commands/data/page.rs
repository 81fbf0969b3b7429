//! The page of `danlu data inspect --html`: what the command prints, to look at and to pass on.

use std::path::Path;

use danlu_data::inspect::Learned;
use danlu_data::report::Skipped;
use danlu_data::{DatasetReport, Detail, Example, Finding, Found, Inspection, Sample, Source};
use danlu_report::{Mark, Page, Table, Text};

use super::inspect::Seen;

/// A sample to show, and its text.
type Shown = (Sample, Vec<(String, Learned)>);

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
    let is_judged = seen.recipe.preference().is_some();
    if !samples.is_empty() {
        let explanation = match is_judged {
            true => Text::new(
                "着色的部分参与学习，其余只是上下文。合意的回答会变得更可能；不合意的回答以红色删除线标出，会变得更不可能。",
                "The coloured text is learned, the rest is context. Wanted answers become more probable; unwanted ones, red and \
                 struck through, become less probable.",
            ),
            false => Text::new(
                "着色的部分参与学习，其余只是上下文。",
                "The coloured text is learned, the rest is context.",
            ),
        };
        page.heading(&Text::new("样本", "Samples")).paragraph(&explanation);
    }
    for (sample, stretches) in samples {
        let verdict = match sample.is_unwanted() {
            _ if !is_judged => Text::new("", ""),
            true => Text::new("不合意 · ", "unwanted · "),
            false => Text::new("合意 · ", "wanted · "),
        };
        let (source, tokens, trained) = (&sample.source, sample.ids.len(), sample.trained_tokens());
        let caption = Text::new(
            format!("{source} · {}{tokens} 个词元，学习 {trained} 个", verdict.zh),
            format!("{source} · {}{tokens} tokens, {trained} learned", verdict.en),
        );
        let mark = |learned| match learned {
            Learned::No => Mark::None,
            Learned::Wanted => Mark::For,
            Learned::Unwanted => Mark::Against,
        };
        let marked: Vec<(String, Mark)> =
            stretches.iter().map(|(text, learned)| (text.clone(), mark(*learned))).collect();
        page.marked(&caption, &marked);
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
    for (reason, Skipped { rows, zh: reason_zh, first }) in &report.skipped {
        // The message behind the place is English; what it is about, the reason says.
        let (place, message) = first.split_once(": ").unwrap_or((first, ""));
        let line = place.strip_prefix(name.as_str()).and_then(|rest| rest.strip_prefix(':'));
        let line = line.map(|line| line.trim_start_matches("row "));
        let place = |word: &str| line.map_or_else(|| place.to_owned(), |line| format!("{word} {line}"));
        zh.row([format!("已跳过：{reason_zh}"), rows.to_string(), place("行")]);
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
