//! A chart of shares: a bar for each, with its standard error and a line at what chance gives. Drawn as SVG only.
//!
//! It will not do other ranges than 0 to 1, or stacked bars.

use std::fmt::Write;
use std::path::Path;

use crate::ReportError;
use crate::escape::{escape, write_whole};
use crate::svg_canvas::STYLE;

/// In SVG user units.
const WIDTH: f64 = 960.0;
const LEFT: f64 = 250.0;
const RIGHT: f64 = WIDTH - 90.0;
const TOP: f64 = 78.0;
const ROW: f64 = 30.0;
const BAR: f64 = 18.0;

/// A bar of a [`BarChart`].
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    /// What it is of.
    pub label: String,
    /// Its length, 0 to 1; one that is not a number is left out.
    pub share: f64,
    /// Drawn to both sides of its end.
    pub standard_error: f64,
}

/// Shares side by side.
///
/// ```
/// use danlu_report::{Bar, BarChart};
/// let bars = vec![Bar { label: "STEM".into(), share: 0.31, standard_error: 0.02 }];
/// let chart = BarChart { title: "accuracy".into(), bars, line: Some((0.25, "chance".into())) };
/// assert!(chart.to_svg().starts_with("<svg"));
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BarChart {
    /// Heading above the bars.
    pub title: String,
    /// From top to bottom.
    pub bars: Vec<Bar>,
    /// A line through all bars, with its name.
    pub line: Option<(f64, String)>,
}

impl BarChart {
    /// The chart as one `<svg>` element without external references; colours follow the reader's light or dark scheme.
    #[must_use]
    pub fn to_svg(&self) -> String {
        let bottom = TOP + ROW * self.bars.len() as f64;
        let height = bottom + 34.0;
        let at = |share: f64| LEFT + share.clamp(0.0, 1.0) * (RIGHT - LEFT);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"lc\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n\
             <title>{title}</title>\n<style>{STYLE}</style>\n\
             <rect class=\"lc-back\" width=\"{WIDTH}\" height=\"{height}\" rx=\"10\"/>\n\
             <text class=\"lc-text\" x=\"24\" y=\"38\" font-size=\"20\">{title}</text>\n",
            title = escape(&self.title)
        );
        let mut push = |piece: std::fmt::Arguments<'_>| {
            // Writing to a string cannot fail.
            _ = writeln!(svg, "{piece}");
        };
        for tick in 0..=5 {
            let share = f64::from(tick) / 5.0;
            let x = at(share);
            push(format_args!("<path class=\"lc-grid\" d=\"M{x:.1} {TOP}V{bottom}\"/>"));
            push(format_args!(
                "<text class=\"lc-muted\" x=\"{x:.1}\" y=\"{:.1}\" font-size=\"13\" text-anchor=\"middle\">{:.0} %</text>",
                bottom + 21.0,
                100.0 * share
            ));
        }
        for (row, bar) in self.bars.iter().enumerate() {
            let middle = TOP + ROW * (row as f64 + 0.5);
            let base = middle + 4.5;
            push(format_args!(
                "<text class=\"lc-text\" x=\"{:.1}\" y=\"{base:.1}\" font-size=\"14\" text-anchor=\"end\">{}</text>",
                LEFT - 12.0,
                escape(&bar.label)
            ));
            if !bar.share.is_finite() {
                continue;
            }
            let end = at(bar.share);
            push(format_args!(
                "<rect class=\"lc-dot0\" x=\"{LEFT}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{BAR}\" rx=\"3\"/>",
                middle - BAR / 2.0,
                end - LEFT
            ));
            let (low, high) = (at(bar.share - bar.standard_error), at(bar.share + bar.standard_error));
            push(format_args!(
                "<path class=\"lc-axis\" stroke-width=\"2\" d=\"M{low:.1} {middle:.1}H{high:.1}\"/>"
            ));
            push(format_args!(
                "<text class=\"lc-text\" x=\"{:.1}\" y=\"{base:.1}\" font-size=\"14\" text-anchor=\"end\">{:.1} %</text>",
                WIDTH - 20.0,
                100.0 * bar.share
            ));
        }
        if let Some((share, name)) = &self.line {
            let x = at(*share);
            push(format_args!(
                "<path class=\"lc-line1\" stroke-width=\"1.5\" stroke-dasharray=\"5 4\" d=\"M{x:.1} {TOP}V{bottom}\"/>"
            ));
            push(format_args!(
                "<text class=\"lc-muted\" x=\"{x:.1}\" y=\"{:.1}\" font-size=\"13\" text-anchor=\"middle\">{}</text>",
                TOP - 8.0,
                escape(name)
            ));
        }
        svg.push_str("</svg>\n");
        svg
    }

    /// Writes [`to_svg`](Self::to_svg) to `path`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_svg(&self, path: &Path) -> Result<(), ReportError> {
        Ok(write_whole(path, self.to_svg().as_bytes())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(label: &str, share: f64) -> Bar {
        Bar { label: label.into(), share, standard_error: 0.05 }
    }

    #[test]
    fn bars_are_as_long_as_their_shares_and_texts_are_escaped() {
        let chart = BarChart {
            title: "<t>".into(),
            bars: vec![bar("a & b", 0.5), bar("all", 1.0), bar("none", f64::NAN)],
            line: Some((0.25, "chance".into())),
        };
        let svg = chart.to_svg();
        let widths: Vec<f64> = svg
            .split("class=\"lc-dot0\"")
            .skip(1)
            .map(|rest| rest.split("width=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(widths, [(RIGHT - LEFT) / 2.0, RIGHT - LEFT]);
        assert!(
            svg.contains("<title>&lt;t&gt;</title>") && svg.contains("a &amp; b") && !svg.contains("NaN")
        );
        assert!(svg.contains(">50.0 %<") && svg.contains(">chance<") && svg.contains(">none<"));
    }
}
