//! A comparison as tables, and as a report in both languages. It computes nothing.

use danlu_report::{IntervalChart, IntervalRow, Report, Table, Text};

use super::{ACCURACY, Comparison, Listed, MetricDifference, PartDifference};

/// Smaller p-values are told as such.
const SMALLEST: f64 = 0.0001;
/// Characters of a text in the lists of a report.
const SHOWN: usize = 120;

const HEADER_ZH: [&str; 8] = ["指标", "A", "B", "B − A", "95 % 区间", "p", "B 更好", "A 更好"];
const PARTS_ZH: [&str; 7] = ["题数", "A", "B", "B − A", "B 更好", "A 更好", "p"];
const LIST_ZH: [&str; 5] = ["题号", "题目", "正确答案", "A", "B"];

impl Comparison {
    /// What [`metrics_table`](Self::metrics_table) calls its columns in English.
    pub const HEADER: [&str; 8] = ["metric", "A", "B", "B − A", "95 % interval", "p", "B better", "A better"];
    /// What [`parts_table`](Self::parts_table) calls its columns in English, but for the first.
    pub const PARTS: [&str; 7] = ["questions", "A", "B", "B − A", "B better", "A better", "p"];
    /// What [`list_table`](Self::list_table) calls its columns in English.
    pub const LIST: [&str; 5] = ["row", "question", "right", "A", "B"];

    /// A row for each metric.
    #[must_use]
    pub fn metrics_table(&self, header: [&str; 8]) -> Table {
        let mut table = Table::new(header);
        for metric in &self.metrics {
            let MetricDifference { a, b, difference, low, high, p_value, wins, losses, .. } = *metric;
            table.row([
                metric.metric.clone(),
                format!("{a:.4}"),
                format!("{b:.4}"),
                format!("{difference:+.4}"),
                format!("{low:+.4} – {high:+.4}"),
                shown_p(p_value),
                wins.to_string(),
                losses.to_string(),
            ]);
        }
        table
    }

    /// A row for each group or subject, which the first column is called by.
    #[must_use]
    pub fn parts_table(title: &str, header: [&str; 7], parts: &[PartDifference]) -> Table {
        let mut table = Table::new([title].into_iter().chain(header));
        for part in parts {
            let PartDifference { questions, a, b, difference, wins, losses, p_value, .. } = *part;
            table.row([
                part.name.clone(),
                questions.to_string(),
                format!("{a:.4}"),
                format!("{b:.4}"),
                format!("{difference:+.4}"),
                wins.to_string(),
                losses.to_string(),
                shown_p(p_value),
            ]);
        }
        table
    }

    /// A row for each question of a list, with the beginnings of its texts; without a column for texts that are not known.
    #[must_use]
    pub fn list_table(header: [&str; 5], listed: &[Listed], most_characters: usize) -> Table {
        let has_text = listed.iter().any(|found| found.text.is_some());
        let is_told = |(place, _): &(usize, String)| has_text || *place != 1;
        let row = |cells: [String; 5]| -> Vec<String> {
            cells.into_iter().enumerate().filter(is_told).map(|(_, cell)| cell).collect()
        };
        let mut table = Table::new(row(header.map(str::to_owned)));
        for found in listed {
            let text = found.text.as_deref().unwrap_or_default();
            let [text, right, a, b] =
                [text, &found.right, &found.a, &found.b].map(|text| beginning(text, most_characters));
            table.row(row([found.question.clone(), text, right, a, b]));
        }
        table
    }

    /// McNemar's test in words, where there is one.
    #[must_use]
    pub fn mc_nemar_text(&self) -> Option<Text> {
        let test = self.mc_nemar.as_ref()?;
        let p = match shown_p(test.p_value) {
            p if p.starts_with('<') => p,
            p => format!("= {p}"),
        };
        let super::McNemar { both, only_a, only_b, neither, .. } = *test;
        Some(Text::new(
            format!(
                "两者都对 {both} 题，只有 A 对 {only_a} 题，只有 B 对 {only_b} 题，都错 {neither} 题：McNemar 精确检验 p {p}"
            ),
            format!(
                "right in both {both}, in A alone {only_a}, in B alone {only_b}, in none {neither}: McNemar's exact test p {p}"
            ),
        ))
    }

    /// The report.
    #[must_use]
    pub fn report(&self) -> Report {
        let Self { a, b, questions, rounds, seed, .. } = self;
        let mut report = Report::new(Text::new("两份结果的比较", "Comparison of two results"));
        report.paragraph(Text::new(
            format!("A：{a}；B：{b}。同样的 {questions} 道题。"),
            format!("A: {a}; B: {b}. The same {questions} questions."),
        ));
        report.table(self.metrics_table(HEADER_ZH), self.metrics_table(Self::HEADER));
        report.interval_chart(self.chart(true), self.chart(false));
        if let Some(text) = self.mc_nemar_text() {
            report.paragraph(text);
        }
        for (parts, zh, en) in [(&self.groups, "类别", "group"), (&self.subjects, "科目", "subject")] {
            if !parts.is_empty() {
                report.heading(Text::new(format!("各{zh}"), format!("By {en}")));
                report
                    .table(Self::parts_table(zh, PARTS_ZH, parts), Self::parts_table(en, Self::PARTS, parts));
            }
        }
        for (listed, zh, en) in
            [(&self.wins, "B 更好的题目", "B better"), (&self.losses, "A 更好的题目", "A better")]
        {
            if !listed.is_empty() {
                report.heading(Text::new(zh, en));
                report.table(
                    Self::list_table(LIST_ZH, listed, SHOWN),
                    Self::list_table(Self::LIST, listed, SHOWN),
                );
            }
        }
        report.heading(Text::new("方法", "Method"));
        report.paragraph(Text::new(
            format!(
                "差值为 B 减 A。区间与指标的 p 值：对题目成对有放回重抽 {rounds} 次（种子 {seed}），取差值的中间 95 %，以及重抽的\
                 差值偏离其中心不小于差值本身的比例。各类别与科目的 p 值：对更好与更差的题数的精确符号检验。没有对多重比较作校正。"
            ),
            format!(
                "Differences are B less A. Intervals and p-values of metrics: {rounds} paired draws of the questions with \
                 replacement (seed {seed}), of which the middle 95 % and the share that lies as far from the difference as the \
                 difference from 0. P-values of groups and subjects: the exact sign test of questions on which one was better. \
                 Nothing is corrected for many comparisons."
            ),
        ));
        let comment = format!("A: {a}; B: {b}; {questions} questions, {rounds} draws, seed {seed}");
        report.paper(&comment, &self.metrics_table(Self::HEADER), false);
        report
    }

    fn chart(&self, is_chinese: bool) -> IntervalChart {
        let is_share = self.metrics.first().is_some_and(|metric| metric.metric == ACCURACY);
        let scale = if is_share { 100.0 } else { 1.0 };
        let row = |metric: &MetricDifference| IntervalRow {
            name: metric.metric.clone(),
            value: scale * metric.difference,
            low: scale * metric.low,
            high: scale * metric.high,
        };
        let (title, x_label) = match (is_chinese, is_share) {
            (true, true) => ("差值与 95 % 区间", "B − A，百分点"),
            (true, false) => ("差值与 95 % 区间", "B − A，各指标自己的单位"),
            (false, true) => ("Differences with 95 % intervals", "B − A, percentage points"),
            (false, false) => ("Differences with 95 % intervals", "B − A, each metric in its own unit"),
        };
        IntervalChart {
            title: title.into(),
            x_label: x_label.into(),
            rows: self.metrics.iter().map(row).collect(),
        }
    }
}

fn shown_p(p_value: f64) -> String {
    if p_value < SMALLEST { format!("< {SMALLEST}") } else { format!("{p_value:.4}") }
}

/// The beginning of a text on one line.
fn beginning(text: &str, most_characters: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut shown: String = line.chars().take(most_characters).collect();
    if shown.len() < line.len() {
        shown.push('…');
    }
    shown
}
