//! A report in Chinese and English that is built once and written as a page, as Markdown, and as the table of a paper in LaTeX.
//!
//! It lays nothing out itself: tables, charts and the page know how they look.

use std::path::Path;

use crate::escape::write_whole;
use crate::{BarChart, IntervalChart, Page, ReportError, Table, Text};

/// Builds the report from top to bottom.
///
/// ```
/// use danlu_report::{Report, Table, Text};
/// let mut table = Table::new(["model", "accuracy"]);
/// table.row(["a", "25.4 %"]);
/// let mut report = Report::new(Text::new("成绩", "Scores"));
/// report.paragraph(Text::new("共 4 题。", "4 questions.")).table(table.clone(), table);
/// assert!(report.markdown().starts_with("# Scores\n\n4 questions.\n\n| model |"));
/// ```
#[derive(Debug, Clone)]
pub struct Report {
    title: Text,
    parts: Vec<Part>,
    /// Comment and table.
    paper: Option<(String, String)>,
}

#[derive(Debug, Clone)]
enum Part {
    Figures(Vec<(String, Text)>),
    Heading(Text),
    Paragraph(Text),
    Table { zh: Table, en: Table },
    Bars { zh: BarChart, en: BarChart },
    Intervals { zh: IntervalChart, en: IntervalChart },
}

impl Report {
    /// An empty report with this title.
    #[must_use]
    pub fn new(title: Text) -> Self {
        Self { title, parts: Vec::new(), paper: None }
    }

    /// Large numbers with a caption each; in the page alone.
    pub fn figures(&mut self, figures: impl IntoIterator<Item = (String, Text)>) -> &mut Self {
        self.push(Part::Figures(figures.into_iter().collect()))
    }

    /// A heading.
    pub fn heading(&mut self, text: Text) -> &mut Self {
        self.push(Part::Heading(text))
    }

    /// A paragraph.
    pub fn paragraph(&mut self, text: Text) -> &mut Self {
        self.push(Part::Paragraph(text))
    }

    /// A table in each language.
    pub fn table(&mut self, zh: Table, en: Table) -> &mut Self {
        self.push(Part::Table { zh, en })
    }

    /// A chart of shares in each language; in the page alone.
    pub fn bar_chart(&mut self, zh: BarChart, en: BarChart) -> &mut Self {
        self.push(Part::Bars { zh, en })
    }

    /// Values with intervals in each language; in the page alone.
    pub fn interval_chart(&mut self, zh: IntervalChart, en: IntervalChart) -> &mut Self {
        self.push(Part::Intervals { zh, en })
    }

    /// The table of a paper, in English, below a comment of one line that says what it is; its last row stands `apart` where it
    /// sums up the others.
    pub fn paper(&mut self, comment: &str, table: &Table, apart: bool) -> &mut Self {
        let comment = comment.replace(['\n', '\r'], " ");
        self.paper = Some((comment, table.to_latex(apart)));
        self
    }

    /// Writes `report.html` and `report.md`, and `report.tex` where there is a table for a paper.
    ///
    /// # Errors
    /// A place that cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), ReportError> {
        self.page().write(&folder.join("report.html"))?;
        write_whole(&folder.join("report.md"), self.markdown().as_bytes())?;
        if let Some((comment, table)) = &self.paper {
            write_whole(&folder.join("report.tex"), format!("% {comment}\n{table}").as_bytes())?;
        }
        Ok(())
    }

    /// The page, in both languages.
    #[must_use]
    pub fn page(&self) -> Page {
        let mut page = Page::new(self.title.clone());
        for part in &self.parts {
            match part {
                Part::Figures(figures) => page.figures(figures),
                Part::Heading(text) => page.heading(text),
                Part::Paragraph(text) => page.paragraph(text),
                Part::Table { zh, en } => page.table(zh, en),
                Part::Bars { zh, en } => page.bar_chart(zh, en),
                Part::Intervals { zh, en } => page.interval_chart(zh, en),
            };
        }
        page
    }

    /// Texts and tables, first in English, then in Chinese.
    #[must_use]
    pub fn markdown(&self) -> String {
        let in_language = |is_chinese: bool| {
            let choose = |text: &Text| if is_chinese { text.zh.clone() } else { text.en.clone() };
            let block = |part: &Part| match part {
                Part::Heading(text) => Some(format!("## {}\n", choose(text))),
                Part::Paragraph(text) => Some(format!("{}\n", choose(text))),
                Part::Table { zh, en } => Some(if is_chinese { zh } else { en }.to_markdown()),
                Part::Figures(_) | Part::Bars { .. } | Part::Intervals { .. } => None,
            };
            let blocks = std::iter::once(format!("# {}\n", choose(&self.title)));
            blocks.chain(self.parts.iter().filter_map(block)).collect::<Vec<_>>().join("\n")
        };
        format!("{}\n{}", in_language(false), in_language(true))
    }

    fn push(&mut self, part: Part) -> &mut Self {
        self.parts.push(part);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_languages_and_a_table_for_a_paper_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let table = |name: &str| {
            let mut table = Table::new([name, "p"]);
            table.row(["B − A", "< 0.01"]).row(["All", "–"]);
            table
        };
        let mut report = Report::new(Text::new("比较", "Comparison"));
        report
            .figures([("1".to_owned(), Text::new("题", "questions"))])
            .heading(Text::new("各组", "Groups"))
            .table(table("组"), table("group"))
            .paper("two\nlines", &table("group"), false);
        report.write(folder.path()).unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(
            read("report.md"),
            "# Comparison\n\n## Groups\n\n| group | p |\n| --- | --- |\n| B − A | < 0.01 |\n| All | – |\n\n\
             # 比较\n\n## 各组\n\n| 组 | p |\n| --- | --- |\n| B − A | < 0.01 |\n| All | – |\n"
        );
        let tex = read("report.tex");
        assert!(tex.starts_with("% two lines\n\\begin{tabular}"), "{tex}");
        assert!(tex.contains("B $-$ A & $<$ 0.01 \\\\\nAll & -- \\\\"), "{tex}");
        assert!(read("report.html").contains("questions") && read("report.html").contains("各组"));
    }
}
