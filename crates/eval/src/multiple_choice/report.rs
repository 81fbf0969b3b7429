//! The report of an evaluation: `report.html` in Chinese and English, `report.md` in both, and `report.tex`, the table of a
//! paper.
//!
//! It says nothing that `summary.json` does not hold.

use std::path::Path;

use danlu_formats::write_file_atomically;
use danlu_report::{Bar, BarChart, Page, Table, Text};
use serde_json::{Map, Value};

use super::contamination::Contamination;
use super::subjects::Benchmark;
use super::summary::{GroupSummary, SubjectSummary, Summary, percent};
use crate::Result;

/// The groups in Chinese.
const GROUPS: [(&str, &str); 9] = [
    ("STEM", "理工"),
    ("Social Science", "社会科学"),
    ("social sciences", "社会科学"),
    ("Humanities", "人文学科"),
    ("humanities", "人文学科"),
    ("Other", "其他"),
    ("other (business, health, misc.)", "其他（商业、健康等）"),
    ("China specific", "中国特定"),
    ("All", "合计"),
];

/// Settings that a reader asks for first, with their names.
const SETTINGS: [(&str, &str, &str); 15] = [
    ("model", "模型", "model"),
    ("url", "服务地址", "server"),
    ("adapters", "适配器", "adapters"),
    ("precision", "精度", "precision"),
    ("data", "题目", "questions from"),
    ("split", "划分", "split"),
    ("questions", "题数", "questions"),
    ("questions_sha256", "题目的 SHA-256", "SHA-256 of the questions"),
    ("scoring", "计分方式", "scoring"),
    ("shots", "示例数", "examples before each question"),
    ("template", "对话模板", "chat template"),
    ("reasoning", "思维链", "chain of thought"),
    ("one_turn", "示例与题目同在一条消息", "examples in the question's message"),
    ("quantization_bit", "加载时量化位数", "bits of weights while loaded"),
    ("danlu", "danlu 版本", "version of danlu"),
];

const HEADER: [&str; 5] = ["group", "questions", "correct", "accuracy", "± standard error"];
const SUBJECT_HEADER: [&str; 6] =
    ["subject", "group", "questions", "correct", "accuracy", "± standard error"];
const HEADER_ZH: [&str; 5] = ["类别", "题数", "正确", "正确率", "± 标准误"];
const SUBJECT_HEADER_ZH: [&str; 6] = ["科目", "类别", "题数", "正确", "正确率", "± 标准误"];

/// Writes `report.html`, `report.md` and `report.tex` into the folder.
///
/// # Errors
/// A place that cannot be written.
pub fn write_report(
    folder: &Path,
    summary: &Summary,
    settings: &Map<String, Value>,
    contamination: Option<&Contamination>,
) -> Result<()> {
    let report = Report { summary, settings, contamination };
    report.page().write(&folder.join("report.html"))?;
    write_file_atomically(folder.join("report.md"), report.markdown().as_bytes())?;
    Ok(write_file_atomically(folder.join("report.tex"), report.latex().as_bytes())?)
}

struct Report<'a> {
    summary: &'a Summary,
    settings: &'a Map<String, Value>,
    contamination: Option<&'a Contamination>,
}

impl Report<'_> {
    fn page(&self) -> Page {
        let mut page = Page::new(self.title());
        let summary = self.summary;
        page.figures(&[
            (percent(summary.accuracy), Text::new("正确率", "accuracy")),
            (percent(summary.standard_error), Text::new("标准误", "standard error")),
            (summary.questions.to_string(), Text::new("题数", "questions")),
            (percent(summary.chance), Text::new("随机", "chance")),
        ]);
        self.notes().iter().for_each(|note| _ = page.paragraph(note));
        if summary.groups.is_empty() {
            page.heading(&Text::new("各科目", "By subject"));
            page.bar_chart(&self.chart(true), &self.chart(false));
        } else {
            page.heading(&Text::new("各类别", "By group"));
            page.bar_chart(&self.chart(true), &self.chart(false));
            page.table(&self.groups(true), &self.groups(false));
            if !summary.subcategories.is_empty() {
                page.heading(&Text::new("各子类", "By subcategory"));
                page.table(&self.subcategories(true), &self.subcategories(false));
            }
            page.heading(&Text::new("各科目", "By subject"));
        }
        page.table(&self.subjects(true), &self.subjects(false));
        page.heading(&Text::new("如何测得", "How it was measured"));
        page.table(&self.settings(true), &self.settings(false));
        page
    }

    fn markdown(&self) -> String {
        let in_language = |is_chinese: bool| {
            let choose = |text: Text| if is_chinese { text.zh } else { text.en };
            let mut text = format!("# {}\n\n", choose(self.title()));
            for note in self.notes() {
                text += &format!("{}\n\n", choose(note));
            }
            if !self.summary.groups.is_empty() {
                text += &format!("{}\n", self.groups(is_chinese).to_markdown());
            }
            if !self.summary.subcategories.is_empty() {
                text += &format!("{}\n", self.subcategories(is_chinese).to_markdown());
            }
            text += &format!("{}\n", self.subjects(is_chinese).to_markdown());
            text + &self.settings(is_chinese).to_markdown()
        };
        format!("{}\n{}", in_language(false), in_language(true))
    }

    fn latex(&self) -> String {
        let table = if self.summary.groups.is_empty() { self.subjects(false) } else { self.groups(false) };
        let text = |name: &str| self.settings.get(name).map(plain).unwrap_or_default();
        format!(
            "% {}, {} examples, scoring {}, danlu {}\n{}",
            self.title().en,
            self.summary.shots,
            text("scoring"),
            text("danlu"),
            table.to_latex(true)
        )
    }

    fn title(&self) -> Text {
        let model = self.settings.get("model").map(plain).unwrap_or_default();
        let (zh, en) = match self.summary.benchmark {
            Benchmark::Own => ("选择题", "Multiple choice"),
            benchmark => (benchmark.name(), benchmark.name()),
        };
        Text::new(format!("{zh}：{model}"), format!("{en}: {model}"))
    }

    /// What a reader must know before the numbers.
    fn notes(&self) -> Vec<Text> {
        let Summary { questions, correct, shortened, withheld, unasked, unstated, .. } = *self.summary;
        let mut notes = vec![Text::new(
            format!("{questions} 题中答对 {correct} 题。标准误为 √(p(1−p)/n)；合计中每题权重相同。"),
            format!(
                "{correct} of {questions} questions are answered rightly. Standard errors are √(p (1 − p) / n); sums count \
                 each question alike."
            ),
        )];
        if withheld > 0 {
            notes.push(Text::new(
                format!("{withheld} 题的答案未公开，不计入分数；作答见 take0/submission.json。"),
                format!(
                    "The answers of {withheld} questions are withheld; they count nowhere, and what the model answers is in \
                     take0/submission.json."
                ),
            ));
        }
        if unasked > 0 {
            notes.push(Text::new(
                format!("{unasked} 题本身就超出模型的上下文，计为答错。"),
                format!("{unasked} questions alone do not fit the model's context and count as wrong."),
            ));
        }
        if unstated > 0 {
            notes.push(Text::new(
                format!("{unstated} 个回答没有给出字母，计为答错。"),
                format!("{unstated} answers state no letter and count as wrong."),
            ));
        }
        if shortened > 0 {
            notes.push(Text::new(
                format!("{shortened} 题的提示超出模型的上下文，因而少了示例（先去掉最早的）或说明。"),
                format!(
                    "{shortened} prompts did not fit the model's context and lost examples, the oldest first, or the description."
                ),
            ));
        }
        if let Some(found) = self.contamination.filter(|found| found.overlapping > 0) {
            let (overlapping, of) = (found.overlapping, found.questions);
            notes.push(Text::new(
                format!(
                    "{of} 题中有 {overlapping} 题出现在训练数据中（见 contamination.json），分数可能来自记忆。"
                ),
                format!(
                    "{overlapping} of {of} questions stand in the training data (contamination.json), so that the score may \
                     be learned by heart."
                ),
            ));
        }
        notes
    }

    fn chart(&self, is_chinese: bool) -> BarChart {
        let summary = self.summary;
        let bar = |label: &str, share: f64, standard_error: f64| Bar {
            label: in_chinese(label, is_chinese).to_owned(),
            share,
            standard_error,
        };
        let mut bars: Vec<Bar> = summary
            .groups
            .iter()
            .map(|group| bar(group.name, group.accuracy, group.standard_error))
            .collect();
        if bars.is_empty() {
            let of = |subject: &SubjectSummary| bar(&subject.name, subject.accuracy, subject.standard_error);
            bars.extend(summary.subjects.iter().map(of));
        }
        bars.push(bar("All", summary.accuracy, summary.standard_error));
        let (title, chance) = if is_chinese { ("正确率", "随机") } else { ("accuracy", "chance") };
        BarChart { title: title.into(), bars, line: Some((summary.chance, chance.into())) }
    }

    fn groups(&self, is_chinese: bool) -> Table {
        self.parts(&self.summary.groups, is_chinese)
    }

    fn subcategories(&self, is_chinese: bool) -> Table {
        self.parts(&self.summary.subcategories, is_chinese)
    }

    fn parts(&self, groups: &[GroupSummary], is_chinese: bool) -> Table {
        let mut table = Table::new(if is_chinese { HEADER_ZH } else { HEADER });
        let parts = groups.iter().map(|group| {
            let GroupSummary { name, questions, correct, accuracy, standard_error, .. } = *group;
            (name, questions, correct, accuracy, standard_error)
        });
        for (name, questions, correct, accuracy, error) in parts.chain([self.all()]) {
            let name = in_chinese(name, is_chinese).to_owned();
            table.row([name, questions.to_string(), correct.to_string(), percent(accuracy), percent(error)]);
        }
        table
    }

    fn subjects(&self, is_chinese: bool) -> Table {
        let mut table = Table::new(if is_chinese { SUBJECT_HEADER_ZH } else { SUBJECT_HEADER });
        let mut row = |name: String, group: Option<&str>, numbers: [usize; 2], shares: [f64; 2]| {
            let group = in_chinese(group.unwrap_or_default(), is_chinese).to_owned();
            let numbers = numbers.map(|number| number.to_string());
            table.row([name, group].into_iter().chain(numbers).chain(shares.map(percent)));
        };
        for subject in &self.summary.subjects {
            let SubjectSummary { questions, correct, accuracy, standard_error, group, .. } = *subject;
            row(subject.name.clone(), group, [questions, correct], [accuracy, standard_error]);
        }
        let (name, questions, correct, accuracy, error) = self.all();
        row(in_chinese(name, is_chinese).to_owned(), None, [questions, correct], [accuracy, error]);
        if self.summary.groups.is_empty() {
            table.header.remove(1);
            table.rows.iter_mut().for_each(|row| _ = row.remove(1));
        }
        table
    }

    fn all(&self) -> (&'static str, usize, usize, f64, f64) {
        let Summary { questions, correct, accuracy, standard_error, .. } = *self.summary;
        ("All", questions, correct, accuracy, standard_error)
    }

    fn settings(&self, is_chinese: bool) -> Table {
        let mut table = Table::new(if is_chinese { ["设置", "值"] } else { ["setting", "value"] });
        for (key, zh, en) in SETTINGS {
            let Some(value) = self.settings.get(key) else { continue };
            let value = plain(value);
            if !value.is_empty() {
                table.row([if is_chinese { zh.to_owned() } else { en.to_owned() }, value]);
            }
        }
        table
    }
}

fn in_chinese(name: &str, is_chinese: bool) -> &str {
    let known = GROUPS.iter().find(|(known, _)| is_chinese && *known == name);
    known.map_or(name, |(_, chinese)| chinese)
}

/// A setting in a few words: of a model its path, of a template its hash.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => {
            let told = ["path", "sha256"].iter().find_map(|name| fields.get(*name));
            told.map(plain).unwrap_or_default()
        }
        Value::Null => String::new(),
        other => other.to_string(),
    }
}
