//! Scores of answers as a table, and as a report in both languages.

use danlu_report::{Bar, BarChart, Report, Table, Text};

use super::{Scores, Summary};

/// What the metrics are called, in the order of [`Scores::values`].
const METRICS: [&str; 7] = ["BLEU-4", "ROUGE-1", "ROUGE-2", "ROUGE-L", "chrF", "exact", "edit similarity"];
const METRICS_ZH: [&str; 7] = ["BLEU-4", "ROUGE-1", "ROUGE-2", "ROUGE-L", "chrF", "完全匹配", "编辑相似度"];

impl Summary {
    /// A row for each category and one for all, in English.
    #[must_use]
    pub fn table(&self) -> Table {
        self.table_in(false)
    }

    fn table_in(&self, is_chinese: bool) -> Table {
        let (category, rows, all, metrics) = match is_chinese {
            true => ("类别", "题数", "合计", METRICS_ZH),
            false => ("category", "rows", "all", METRICS),
        };
        let mut table = Table::new([category, rows].into_iter().chain(metrics));
        let mut row = |name: &str, count: usize, scores: &Scores| {
            let numbers = scores.values().map(|number| format!("{number:.2}"));
            table.row([name.to_owned(), count.to_string()].into_iter().chain(numbers));
        };
        for (name, category) in &self.categories {
            row(name, category.scored, &category.scores);
        }
        row(all, self.scored, &self.scores);
        table
    }

    /// The report on what `answerer` said to the questions of `data`.
    #[must_use]
    pub fn report(&self, answerer: &str, data: &str) -> Report {
        let mut report =
            Report::new(Text::new(format!("生成评测：{answerer}"), format!("Generated answers: {answerer}")));
        let Self { rows, scored, corpus, .. } = self;
        report.paragraph(Text::new(
            format!("{data} 的 {rows} 个问题，其中 {scored} 个有参考答案；分数满分为 100，取各回答的平均。"),
            format!(
                "{rows} questions of {data}, {scored} of them with a reference; scores are of 100, and means over the answers."
            ),
        ));
        if *scored == 0 {
            return report;
        }
        report.bar_chart(self.chart(true), self.chart(false));
        report.table(self.table_in(true), self.table_in(false));
        report.paragraph(Text::new(
            format!(
                "全部回答一起：BLEU {:.2}（sacrebleu，分词 {}），chrF {:.2}。图中的短线为标准误。",
                corpus.bleu, corpus.tokenize, corpus.chrf
            ),
            format!(
                "All answers together: BLEU {:.2} (sacrebleu, tokenizer {}), chrF {:.2}. The short lines of the chart are standard \
                 errors.",
                corpus.bleu, corpus.tokenize, corpus.chrf
            ),
        ));
        report.paper(&format!("{answerer}, {rows} questions of {data}"), &self.table(), true);
        report
    }

    fn chart(&self, is_chinese: bool) -> BarChart {
        let names = if is_chinese { METRICS_ZH } else { METRICS };
        let errors = self.standard_errors.values();
        let bar = |((name, score), error): ((&str, f64), f64)| Bar {
            label: name.to_owned(),
            share: score / 100.0,
            standard_error: error / 100.0,
        };
        BarChart {
            title: if is_chinese { "平均分" } else { "Mean scores" }.into(),
            bars: names.into_iter().zip(self.scores.values()).zip(errors).map(bar).collect(),
            line: None,
        }
    }
}
