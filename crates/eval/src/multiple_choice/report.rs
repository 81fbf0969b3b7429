//! The report of an evaluation: `report.html` in Chinese and English, `report.md` in both, and `report.tex`, the table of a
//! paper.
//!
//! It says nothing that `summary.json` does not hold.

use std::path::Path;

use danlu_report::{Bar, BarChart, Report, Table, Text};
use serde_json::{Map, Value};

use super::contamination::Contamination;
use super::subjects::Benchmark;
use super::summary::{GroupSummary, SubjectSummary, Summary, percent};
use super::takes::{Part, Takes};
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
const TAKES_HEADER_ZH: [&str; 5] = ["类别", "题数", "平均正确率", "± 标准差", "均值的 95 % 区间"];

/// Writes `report.html`, `report.md` and `report.tex` into the folder: of a take, or of `takes` where answers were drawn.
///
/// # Errors
/// A place that cannot be written.
pub fn write_report(
    folder: &Path,
    summary: &Summary,
    takes: Option<&Takes>,
    settings: &Map<String, Value>,
    contamination: Option<&Contamination>,
) -> Result<()> {
    Ok(Scores { summary, takes, settings, contamination }.report().write(folder)?)
}

struct Scores<'a> {
    summary: &'a Summary,
    takes: Option<&'a Takes>,
    settings: &'a Map<String, Value>,
    contamination: Option<&'a Contamination>,
}

impl Scores<'_> {
    fn report(&self) -> Report {
        let mut report = Report::new(self.title());
        let summary = self.summary;
        let [score, error] = match self.takes {
            Some(takes) => [
                (percent(takes.all.mean), Text::new("平均正确率", "mean accuracy")),
                (percent(takes.all.standard_deviation), Text::new("标准差", "standard deviation")),
            ],
            None => [
                (percent(summary.accuracy), Text::new("正确率", "accuracy")),
                (percent(summary.standard_error), Text::new("标准误", "standard error")),
            ],
        };
        report.figures([
            score,
            error,
            (summary.questions.to_string(), Text::new("题数", "questions")),
            (percent(summary.chance), Text::new("随机", "chance")),
        ]);
        self.notes().into_iter().for_each(|note| _ = report.paragraph(note));
        if summary.groups.is_empty() {
            report.heading(Text::new("各科目", "By subject"));
            report.bar_chart(self.chart(true), self.chart(false));
        } else {
            report.heading(Text::new("各类别", "By group"));
            report.bar_chart(self.chart(true), self.chart(false));
            report.table(self.groups(true), self.groups(false));
            if !summary.subcategories.is_empty() && self.takes.is_none() {
                report.heading(Text::new("各子类", "By subcategory"));
                report.table(self.subcategories(true), self.subcategories(false));
            }
            report.heading(Text::new("各科目", "By subject"));
        }
        report.table(self.subjects(true), self.subjects(false));
        report.heading(Text::new("如何测得", "How it was measured"));
        report.table(self.settings(true), self.settings(false));
        let table = if summary.groups.is_empty() { self.subjects(false) } else { self.groups(false) };
        let text = |name: &str| self.settings.get(name).map(plain).unwrap_or_default();
        let (title, shots, scoring) = (self.title().en, summary.shots, text("scoring"));
        let comment = format!("{title}, {shots} examples, scoring {scoring}, danlu {}", text("danlu"));
        report.paper(&comment, &table, true);
        report
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
        let mut notes = vec![match self.takes {
            Some(takes) => of_takes(takes),
            None => Text::new(
                format!("{questions} 题中答对 {correct} 题。标准误为 √(p(1−p)/n)；合计中每题权重相同。"),
                format!(
                    "{correct} of {questions} questions are answered rightly. Standard errors are √(p (1 − p) / n); sums \
                     count each question alike."
                ),
            ),
        }];
        let unstated = self.takes.map_or(unstated, |takes| takes.unstated);
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
        notes.extend(self.contamination.into_iter().flat_map(of_contamination));
        notes
    }

    fn chart(&self, is_chinese: bool) -> BarChart {
        let summary = self.summary;
        let bar = |label: &str, share: f64, standard_error: f64| Bar {
            label: in_chinese(label, is_chinese).to_owned(),
            share,
            standard_error,
        };
        let of_part = |part: &Part| bar(&part.name, part.mean, part.standard_deviation);
        let of_group = |group: &GroupSummary| bar(group.name, group.accuracy, group.standard_error);
        let of_subject =
            |subject: &SubjectSummary| bar(&subject.name, subject.accuracy, subject.standard_error);
        let bars: Vec<Bar> = match self.takes {
            Some(takes) => self.parts_of(takes).iter().chain([&takes.all]).map(of_part).collect(),
            None => {
                let all = bar("All", summary.accuracy, summary.standard_error);
                match summary.groups.is_empty() {
                    true => summary.subjects.iter().map(of_subject).chain([all]).collect(),
                    false => summary.groups.iter().map(of_group).chain([all]).collect(),
                }
            }
        };
        let (title, chance) = if is_chinese { ("正确率", "随机") } else { ("accuracy", "chance") };
        BarChart { title: title.into(), bars, line: Some((summary.chance, chance.into())) }
    }

    /// The groups, or the subjects where there are none.
    fn parts_of<'t>(&self, takes: &'t Takes) -> &'t [Part] {
        if takes.groups.is_empty() { &takes.subjects } else { &takes.groups }
    }

    fn table_of(&self, takes: &Takes, parts: &[Part], is_chinese: bool) -> Table {
        let header = if is_chinese { TAKES_HEADER_ZH } else { Takes::HEADER };
        takes.table(header, parts, |name| in_chinese(name, is_chinese).to_owned())
    }

    fn groups(&self, is_chinese: bool) -> Table {
        match self.takes {
            Some(takes) => self.table_of(takes, &takes.groups, is_chinese),
            None => self.parts(&self.summary.groups, is_chinese),
        }
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
        if let Some(takes) = self.takes {
            let mut table = self.table_of(takes, &takes.subjects, is_chinese);
            table.header[0] = if is_chinese { "科目" } else { "subject" }.to_owned();
            return table;
        }
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

/// What the numbers of several takes mean.
fn of_takes(takes: &Takes) -> Text {
    let (count, questions) = (takes.count(), takes.all.questions);
    let (zh, en) = match takes.all.shown_interval() {
        interval if interval.is_empty() => (String::new(), String::new()),
        interval => (
            format!("均值的 95 % 区间（Student t）：{interval}。"),
            format!(" The 95 % interval of the mean (Student's t) is {interval}."),
        ),
    };
    Text::new(
        format!(
            "同样的 {questions} 题问了 {count} 次，每次用不同的随机种子；列出各次正确率的均值与标准差（n−1）。{zh}\
             它只反映作答的随机性，不反映换一批题目会怎样：后者见每次的标准误。"
        ),
        format!(
            "The same {questions} questions were asked {count} times, each time with another seed; told are mean and standard \
             deviation (n − 1) of the accuracies.{en} That is the chance of drawing answers, not of other questions, which the \
             standard error of each take tells."
        ),
    )
}

/// What the search in training data found, and what it did not look at.
fn of_contamination(found: &Contamination) -> Vec<Text> {
    let Contamination { overlapping, questions, too_short, .. } = *found;
    let mut notes = Vec::new();
    if overlapping > 0 {
        notes.push(Text::new(
            format!(
                "{questions} 题中有 {overlapping} 题出现在训练数据中（见 contamination.json），分数可能来自记忆。"
            ),
            format!(
                "{overlapping} of {questions} questions stand in the training data (contamination.json), so that the score may \
                 be learned by heart."
            ),
        ));
    }
    if too_short > 0 {
        notes.push(Text::new(
            format!("{too_short} 题太短，无法与无关的文本区分，没有在训练数据中查找。"),
            format!(
                "{too_short} questions are too short to be told from harmless texts and were not looked for in the training \
                 data."
            ),
        ));
    }
    if let Some(remarks) = found.incomplete() {
        notes.push(Text::new(
            format!("训练数据没有全部查找：{remarks}。"),
            format!("Not all of the training data was searched: {remarks}."),
        ));
    }
    notes
}

fn in_chinese(name: &str, is_chinese: bool) -> &str {
    let known = GROUPS.iter().find(|(known, _)| is_chinese && *known == name);
    known.map_or(name, |(_, chinese)| chinese)
}

/// A setting in a few words: of a model its path, of a template its hash, of reasons how they are drawn.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Object(fields) if fields.contains_key("sampling") => {
            let Value::Object(sampling) = &fields["sampling"] else { return String::new() };
            let told = |fields: &Map<String, Value>, name: &str| {
                fields.get(name).map(|value| format!("{name} {}", plain(value)))
            };
            [told(sampling, "temperature"), told(sampling, "seed"), told(fields, "max_new_tokens")]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join(", ")
        }
        Value::Object(fields) => {
            let told = ["path", "sha256"].iter().find_map(|name| fields.get(*name));
            told.map(plain).unwrap_or_default()
        }
        Value::Null => String::new(),
        other => other.to_string(),
    }
}
