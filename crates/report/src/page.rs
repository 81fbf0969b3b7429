//! One offline HTML file in Chinese and English: inline style, inline charts, no request to anywhere.
//!
//! Both languages are in the file and a button switches between them; without scripts both are shown.
//! It is a report to read, not an application: live pages belong to the server.

use std::path::Path;

use crate::escape::{escape, write_whole};
use crate::{BarChart, IntervalChart, LineChart, ReportError, Table};

/// A text in both languages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text {
    /// Chinese.
    pub zh: String,
    /// English.
    pub en: String,
}

impl Text {
    /// `zh` and `en` say the same.
    pub fn new(zh: impl Into<String>, en: impl Into<String>) -> Self {
        Self { zh: zh.into(), en: en.into() }
    }
}

/// How a stretch of a text is marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Not at all.
    None,
    /// As what is meant.
    For,
    /// As what is not wanted.
    Against,
}

/// Builds the page from top to bottom; every text is escaped.
///
/// ```
/// use danlu_report::{Page, Text};
/// let mut page = Page::new(Text::new("报告", "Report"));
/// page.heading(&Text::new("损失", "Loss")).paragraph(&Text::new("验证损失 1.2", "validation loss 1.2"));
/// assert!(page.to_html().contains("<h2>"));
/// ```
#[derive(Debug, Clone)]
pub struct Page {
    title: Text,
    body: String,
}

impl Page {
    /// An empty page with this title.
    #[must_use]
    pub fn new(title: Text) -> Self {
        Self { title, body: String::new() }
    }

    /// A section heading.
    pub fn heading(&mut self, text: &Text) -> &mut Self {
        self.push(&format!("<h2>{}</h2>\n", both("span", text)))
    }

    /// A paragraph.
    pub fn paragraph(&mut self, text: &Text) -> &mut Self {
        self.push(&both("p", text))
    }

    /// Large numbers with a caption each, in one row: the results that a reader looks for first.
    pub fn figures(&mut self, figures: &[(String, Text)]) -> &mut Self {
        let figures: String = figures
            .iter()
            .map(|(value, caption)| {
                format!("<div><strong>{}</strong>{}</div>\n", escape(value), both("span", caption))
            })
            .collect();
        self.push(&format!("<div class=\"figures\">\n{figures}</div>\n"))
    }

    /// A table in each language.
    pub fn table(&mut self, zh: &Table, en: &Table) -> &mut Self {
        self.push(&both_html("div", &zh.to_html(), &en.to_html()))
    }

    /// A chart in each language.
    pub fn chart(&mut self, zh: &LineChart, en: &LineChart) -> &mut Self {
        self.push(&both_html("figure", &zh.to_svg(), &en.to_svg()))
    }

    /// A chart of shares in each language.
    pub fn bar_chart(&mut self, zh: &BarChart, en: &BarChart) -> &mut Self {
        self.push(&both_html("figure", &zh.to_svg(), &en.to_svg()))
    }

    /// Values with intervals in each language.
    pub fn interval_chart(&mut self, zh: &IntervalChart, en: &IntervalChart) -> &mut Self {
        self.push(&both_html("figure", &zh.to_svg(), &en.to_svg()))
    }

    /// Text kept as it is, such as commands or a log: the same in both languages.
    pub fn preformatted(&mut self, text: &str) -> &mut Self {
        self.push(&format!("<pre>{}</pre>\n", escape(text)))
    }

    /// A sample of a dialogue: who speaks, and what.
    pub fn sample(&mut self, speaker: &Text, text: &str) -> &mut Self {
        self.push(&format!(
            "<div class=\"sample\"><b>{}</b><p>{}</p></div>\n",
            both("span", speaker),
            escape(text)
        ))
    }

    /// A sample in which some stretches are marked: what it is, and its text, each stretch with its mark.
    pub fn marked(&mut self, caption: &Text, stretches: &[(String, Mark)]) -> &mut Self {
        let text: String = stretches
            .iter()
            .map(|(text, mark)| match mark {
                Mark::None => escape(text),
                Mark::For => format!("<mark>{}</mark>", escape(text)),
                Mark::Against => format!("<mark class=\"against\">{}</mark>", escape(text)),
            })
            .collect();
        self.push(&format!("<div class=\"sample\"><b>{}</b><p>{text}</p></div>\n", both("span", caption)))
    }

    /// A bar for each number, as long as its share of the largest.
    pub fn bars(&mut self, bars: &[(Text, u64)]) -> &mut Self {
        let largest = bars.iter().map(|(_, value)| *value).max().unwrap_or(0).max(1);
        let bars: String = bars
            .iter()
            .map(|(label, value)| {
                let width = *value as f64 * 100.0 / largest as f64;
                format!("{}<u><i style=\"flex:0 1 {width:.1}%\"></i>{value}</u>\n", both("span", label))
            })
            .map(|bar| format!("<div>{bar}</div>\n"))
            .collect();
        self.push(&format!("<div class=\"bars\">\n{bars}</div>\n"))
    }

    /// The whole file.
    #[must_use]
    pub fn to_html(&self) -> String {
        format!(
            "<!DOCTYPE html>\n<html>\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n\
             <title>{} · {}</title>\n<style>{STYLE}</style>\n<script>{START}</script>\n</head>\n<body>\n\
             <header><h1>{}</h1><button type=\"button\" hidden>中文 / English</button></header>\n\
             {}<script>{SWITCH}</script>\n</body>\n</html>\n",
            escape(&self.title.zh),
            escape(&self.title.en),
            both("span", &self.title),
            self.body
        )
    }

    /// Writes the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), ReportError> {
        Ok(write_whole(path, self.to_html().as_bytes())?)
    }

    fn push(&mut self, html: &str) -> &mut Self {
        self.body.push_str(html);
        self
    }
}

fn both(tag: &str, text: &Text) -> String {
    both_html(tag, &escape(&text.zh), &escape(&text.en))
}

fn both_html(tag: &str, zh: &str, en: &str) -> String {
    format!("<{tag} lang=\"zh\">{zh}</{tag}>\n<{tag} lang=\"en\">{en}</{tag}>\n")
}

const STYLE: &str = "\
:root{--back:#f6f7f9;--card:#fff;--text:#1c2430;--muted:#5b6675;--rule:#e0e4ea;--accent:#2563eb}\
@media(prefers-color-scheme:dark){:root{--back:#0e1014;--card:#16191f;--text:#e6e9ee;--muted:#9aa4b1;--rule:#2a2f38;--accent:#60a5fa}}\
body{max-width:960px;margin:0 auto;padding:24px 20px 64px;background:var(--back);color:var(--text);\
font:16px/1.65 system-ui,-apple-system,'Segoe UI','Noto Sans','PingFang SC','Microsoft YaHei','Noto Sans CJK SC',sans-serif}\
header{display:flex;justify-content:space-between;align-items:baseline;gap:16px}\
h1{font-size:28px;line-height:1.3;margin:16px 0;overflow-wrap:anywhere}h2{font-size:20px;margin:40px 0 12px;border-bottom:1px solid var(--rule);padding-bottom:6px}\
button{font:inherit;font-size:14px;color:var(--text);background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:4px 12px;cursor:pointer}\
figure{margin:16px 0}svg{display:block;width:100%;height:auto}\
.figures{display:flex;flex-wrap:wrap;gap:12px;margin:16px 0}\
.figures div{flex:1 1 120px;background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:14px 18px}\
.figures strong{display:block;font-size:26px;line-height:1.3;color:var(--accent)}.figures span{color:var(--muted);font-size:14px}\
table{border-collapse:collapse;width:100%;background:var(--card);font-size:15px;font-variant-numeric:tabular-nums}\
th,td{text-align:left;padding:7px 12px;border-bottom:1px solid var(--rule);vertical-align:top;overflow-wrap:anywhere;white-space:pre-line}\
th{color:var(--muted);font-weight:600;overflow-wrap:normal;word-break:keep-all}.number{text-align:right;white-space:nowrap}\
pre{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:14px 18px;overflow-x:auto;font-size:14px;line-height:1.5}\
.bars{margin:12px 0 20px}.bars div{display:flex;align-items:center;gap:10px;font-size:14px;margin:4px 0;font-variant-numeric:tabular-nums}\
.bars span{flex:0 0 130px;color:var(--muted);text-align:right}.bars u{flex:1 1 auto;display:flex;align-items:center;gap:8px;text-decoration:none}\
.bars i{background:var(--accent);height:16px;border-radius:4px;min-width:2px}\
mark{background:color-mix(in srgb,var(--accent) 24%,transparent);color:inherit;border-radius:3px;padding:1px 0}\
.against{background:color-mix(in srgb,#dc2626 26%,transparent);text-decoration:line-through}\
.sample{background:var(--card);border-left:3px solid var(--accent);padding:10px 16px;margin:10px 0}\
.sample b{color:var(--muted);font-size:14px;font-weight:600}.sample p{margin:2px 0;white-space:pre-wrap;overflow-wrap:anywhere}\
div[lang]{overflow-x:auto}\
[data-show=zh] [lang=en],[data-show=en] [lang=zh]{display:none}";

/// Runs before the body is shown, so that the page does not flash in both languages.
const START: &str = "\
const show=language=>{document.documentElement.dataset.show=language;document.documentElement.lang=language};\
show(navigator.language.startsWith('zh')?'zh':'en');";

const SWITCH: &str = "\
const button=document.querySelector('button');button.hidden=false;\
button.onclick=()=>show(document.documentElement.dataset.show==='zh'?'en':'zh');";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Series;

    fn page() -> Page {
        let chart = LineChart {
            title: "loss".into(),
            series: vec![Series { name: "train".into(), points: vec![(0.0, 1.0), (1.0, 0.5)], smooth: true }],
            ..LineChart::default()
        };
        let mut table = Table::new(["a"]);
        table.row(["<b>1</b>"]);
        let mut page = Page::new(Text::new("报告 <1>", "Report </title>"));
        page.heading(&Text::new("损失", "Loss"))
            .figures(&[("91 %".into(), Text::new("得分", "score"))])
            .chart(&chart, &chart)
            .table(&table, &table)
            .bars(&[(Text::new("<短>", "short"), 3), (Text::new("长", "long"), 0)])
            .marked(
                &Text::new("样本", "sample"),
                &[("<u>".into(), Mark::None), ("<a>".into(), Mark::For), ("b".into(), Mark::Against)],
            )
            .sample(&Text::new("用户", "user"), "介绍一下 <script>alert(1)</script>")
            .preformatted("danlu chat & \"more\"");
        page
    }

    #[test]
    fn every_text_is_escaped_and_both_languages_are_there() {
        let html = page().to_html();
        assert!(html.contains("报告 &lt;1&gt; · Report &lt;/title&gt;"));
        assert!(!html.contains("<script>alert") && !html.contains("<b>1</b>"));
        assert!(
            html.contains("<p>&lt;u&gt;<mark>&lt;a&gt;</mark><mark class=\"against\">b</mark></p>")
                && html.contains("&lt;短&gt;"),
            "{html}"
        );
        assert_eq!(html.matches("lang=\"zh\"").count(), html.matches("lang=\"en\"").count());
    }

    #[test]
    fn the_page_asks_for_nothing_from_outside() {
        let html = page().to_html().replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
        for reference in ["http:", "https:", "src=", "href=", "url(", "@import"] {
            assert!(!html.contains(reference), "{reference}");
        }
    }
}
