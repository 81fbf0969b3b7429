//! Charts, tables and pages that a run leaves behind: [`LineChart`] as SVG and PNG, [`BarChart`] and [`IntervalChart`] as SVG,
//! [`Table`] as Markdown, HTML and LaTeX, [`Page`] as one offline HTML file, [`Report`] as page, Markdown and LaTeX.
//!
//! It knows nothing of training: callers hand over names and numbers.

mod bar_chart;
mod error;
mod escape;
mod interval_chart;
mod line_chart;
mod page;
mod png_canvas;
mod report;
mod svg_canvas;
mod table;

pub use bar_chart::{Bar, BarChart};
pub use error::ReportError;
pub use interval_chart::{IntervalChart, IntervalRow};
pub use line_chart::{LineChart, Series};
pub use page::{Mark, Page, Text};
pub use report::Report;
pub use table::Table;
