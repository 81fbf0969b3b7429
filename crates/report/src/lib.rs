//! Charts, tables and pages that a run leaves behind: [`LineChart`] as SVG and PNG, [`IntervalChart`] as SVG, [`Table`] as
//! Markdown and HTML, [`Page`] as one offline HTML file.
//!
//! It knows nothing of training: callers hand over names and numbers.

mod error;
mod escape;
mod interval_chart;
mod line_chart;
mod page;
mod png_canvas;
mod svg_canvas;
mod table;

pub use error::ReportError;
pub use interval_chart::{IntervalChart, IntervalRow};
pub use line_chart::{LineChart, Series};
pub use page::{Mark, Page, Text};
pub use table::Table;
