//! A table of texts, as Markdown, HTML and LaTeX.
//!
//! It does not lay out for terminals; the command line has its own library for that.

use crate::escape::escape;

/// Rows under a header. Rows may be shorter than the header; longer ones keep their extra cells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Column names.
    pub header: Vec<String>,
    /// Cells by row.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these column names.
    pub fn new<S: Into<String>>(header: impl IntoIterator<Item = S>) -> Self {
        Self { header: header.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) -> &mut Self {
        self.rows.push(cells.into_iter().map(Into::into).collect());
        self
    }

    /// A pipe table (GitHub Flavored Markdown); columns of numbers are right-aligned.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let width = self.width();
        let line = |cells: &[String]| {
            let cells: Vec<String> = (0..width).map(|column| markdown_cell(cells.get(column))).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let rule: Vec<&str> =
            (0..width).map(|column| if self.is_numeric(column) { "---:" } else { "---" }).collect();
        let mut markdown = line(&self.header);
        markdown.push_str(&format!("| {} |\n", rule.join(" | ")));
        self.rows.iter().for_each(|row| markdown.push_str(&line(row)));
        markdown
    }

    /// A `<table>` element with escaped cells; cells of numeric columns have the class `number`.
    #[must_use]
    pub fn to_html(&self) -> String {
        let line = |tag: &str, cells: &[String]| {
            let cells: String = (0..self.width())
                .map(|column| {
                    let class = if self.is_numeric(column) { " class=\"number\"" } else { "" };
                    let text = cells.get(column).map_or_else(String::new, |cell| escape(cell));
                    format!("<{tag}{class}>{text}</{tag}>")
                })
                .collect();
            format!("<tr>{cells}</tr>\n")
        };
        let rows: String = self.rows.iter().map(|row| line("td", row)).collect();
        format!(
            "<table>\n<thead>{}</thead>\n<tbody>\n{rows}</tbody>\n</table>\n",
            line("th", &self.header).trim_end()
        )
    }

    /// A `tabular` environment that needs no package; columns of numbers are right-aligned, and the last row, where it is
    /// `apart`, has a line above.
    #[must_use]
    pub fn to_latex(&self, apart: bool) -> String {
        let columns: String =
            (0..self.width()).map(|column| if self.is_numeric(column) { 'r' } else { 'l' }).collect();
        let line = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|cell| latex(cell)).collect();
            format!("{} \\\\\n", cells.join(" & "))
        };
        let mut text = format!("\\begin{{tabular}}{{{columns}}}\n\\hline\n{}\\hline\n", line(&self.header));
        for (index, row) in self.rows.iter().enumerate() {
            if apart && index > 0 && index + 1 == self.rows.len() {
                text.push_str("\\hline\n");
            }
            text.push_str(&line(row));
        }
        text + "\\hline\n\\end{tabular}\n"
    }

    fn width(&self) -> usize {
        self.rows.iter().map(Vec::len).fold(self.header.len(), usize::max)
    }

    fn is_numeric(&self, column: usize) -> bool {
        let mut cells =
            self.rows.iter().filter_map(|row| row.get(column)).filter(|cell| !cell.is_empty()).peekable();
        cells.peek().is_some()
            && cells.all(|cell| {
                let number = cell.trim_end_matches(['%', '×', ' ']).replace(',', "");
                number.parse::<f64>().is_ok()
            })
    }
}

fn latex(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => escaped.extend(['\\', character]),
            '\\' => escaped.push_str("\\textbackslash{}"),
            '~' => escaped.push_str("\\textasciitilde{}"),
            '^' => escaped.push_str("\\textasciicircum{}"),
            '±' => escaped.push_str("$\\pm$"),
            '−' => escaped.push_str("$-$"),
            '–' => escaped.push_str("--"),
            '<' | '>' | '|' => escaped.extend(['$', character, '$']),
            '\n' | '\r' => escaped.push(' '),
            other => escaped.push(other),
        }
    }
    escaped
}

fn markdown_cell(cell: Option<&String>) -> String {
    let cell = cell.map_or("", String::as_str);
    cell.replace('\\', "\\\\").replace('|', "\\|").replace("\r\n", "<br>").replace(['\n', '\r'], "<br>")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(["任务", "accuracy"]);
        table.row(["a|b\nc", "38.5 %"]).row(["<script>", "1,200"]).row(["short"]);
        table
    }

    #[test]
    fn markdown_keeps_one_line_per_row_and_aligns_numbers() {
        let expected = "| 任务 | accuracy |\n| --- | ---: |\n| a\\|b<br>c | 38.5 % |\n| <script> | 1,200 |\n| short |  |\n";
        assert_eq!(table().to_markdown(), expected);
    }

    #[test]
    fn latex_is_escaped_and_the_last_row_stands_apart() {
        let mut table = Table::new(["group", "± error"]);
        table.row(["a_b & c\\d", "1.5 %"]).row(["All", "2"]);
        let expected = "\\begin{tabular}{lr}\n\\hline\ngroup & $\\pm$ error \\\\\n\\hline\n\
                        a\\_b \\& c\\textbackslash{}d & 1.5 \\% \\\\\n\\hline\nAll & 2 \\\\\n\\hline\n\\end{tabular}\n";
        assert_eq!(table.to_latex(true), expected);
    }

    #[test]
    fn html_is_escaped() {
        let html = table().to_html();
        assert!(html.contains("<td>&lt;script&gt;</td><td class=\"number\">1,200</td>"), "{html}");
        assert_eq!(html.matches("<tr>").count(), 4);
    }
}
