//! A chart of shares: a bar for each, with its standard error and a line at what chance gives. Drawn as SVG only.
//!
//! It will not do other ranges than 0 to 1, or stacked bars.

use crate::line_chart::{Anchor, Canvas, Ink, WIDTH};
use crate::svg_canvas::SvgCanvas;

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
        let at = |share: f64| LEFT + share.clamp(0.0, 1.0) * (RIGHT - LEFT);
        let mut canvas = SvgCanvas::new(&self.title, bottom + 34.0);
        canvas.text((24.0, 38.0), 20.0, Anchor::Start, Ink::Text, &self.title);
        for tick in 0..=5 {
            let share = f64::from(tick) / 5.0;
            canvas.line(&[(at(share), TOP), (at(share), bottom)], 1.0, Ink::Grid);
            let label = format!("{:.0} %", 100.0 * share);
            canvas.text((at(share), bottom + 21.0), 13.0, Anchor::Middle, Ink::Muted, &label);
        }
        for (row, bar) in self.bars.iter().enumerate() {
            let middle = TOP + ROW * (row as f64 + 0.5);
            let base = middle + 4.5;
            canvas.text((LEFT - 12.0, base), 14.0, Anchor::End, Ink::Text, &bar.label);
            if !bar.share.is_finite() {
                continue;
            }
            canvas.bar((LEFT, middle - BAR / 2.0), (at(bar.share) - LEFT, BAR));
            let (low, high) = (at(bar.share - bar.standard_error), at(bar.share + bar.standard_error));
            canvas.line(&[(low, middle), (high, middle)], 2.0, Ink::Axis);
            let share = format!("{:.1} %", 100.0 * bar.share);
            canvas.text((WIDTH - 20.0, base), 14.0, Anchor::End, Ink::Text, &share);
        }
        if let Some((share, name)) = &self.line {
            let x = at(*share);
            canvas.line(&[(x, TOP), (x, bottom)], 1.5, Ink::Line(1));
            canvas.text((x, TOP - 8.0), 13.0, Anchor::Middle, Ink::Muted, name);
        }
        canvas.finish()
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
