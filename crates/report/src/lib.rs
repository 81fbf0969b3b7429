//! Charts, tables and pages that a run leaves behind: [`LineChart`] as SVG and PNG, [`BarChart`] and [`IntervalChart`] as SVG,
//! [`Table`] as Markdown, HTML and LaTeX, [`Page`] as one offline HTML file.
//!
//! It knows nothing of training: callers hand over names and numbers.

mod bar_chart;
mod error;
mod escape;
mod interval_chart;
mod line_chart;
mod page;
mod png_canvas;
mod svg_canvas;
mod table;

pub use bar_chart::{Bar, BarChart};
pub use error::ReportError;
pub use interval_chart::{IntervalChart, IntervalRow};
pub use line_chart::{LineChart, Series};
pub use page::{Mark, Page, Text};
pub use table::Table;
