//! Draws a chart as an SVG element whose colours follow the reader's light or dark scheme.

use std::fmt::Write;

use crate::escape::escape;
use crate::line_chart::{Anchor, Canvas, Ink, WIDTH};

/// Class names start with `lc-`, for the sheet applies to the whole page that the element stands in.
/// Viewers without `prefers-color-scheme` show the light colours.
const STYLE: &str = "\
.lc-back{fill:#fff}.lc text{font-family:system-ui,-apple-system,'Segoe UI','Noto Sans','PingFang SC','Microsoft YaHei','Noto Sans CJK SC',sans-serif}\
.lc path{fill:none;stroke-linejoin:round;stroke-linecap:round}\
.lc-text{fill:#1c2430}.lc-muted{fill:#5b6675}.lc-grid{stroke:#e6e9ee}.lc-axis{stroke:#9aa4b1}\
.lc-line0{stroke:#2563eb}.lc-line1{stroke:#ea580c}.lc-line2{stroke:#059669}.lc-line3{stroke:#9333ea}\
.lc-dot0{fill:#2563eb}.lc-dot1{fill:#ea580c}.lc-dot2{fill:#059669}.lc-dot3{fill:#9333ea}\
.lc-faint{stroke-opacity:.28}\
@media(prefers-color-scheme:dark){.lc-back{fill:#16191f}.lc-text{fill:#e6e9ee}.lc-muted{fill:#9aa4b1}\
.lc-grid{stroke:#2a2f38}.lc-axis{stroke:#5b6675}\
.lc-line0{stroke:#60a5fa}.lc-line1{stroke:#fb923c}.lc-line2{stroke:#34d399}.lc-line3{stroke:#c084fc}\
.lc-dot0{fill:#60a5fa}.lc-dot1{fill:#fb923c}.lc-dot2{fill:#34d399}.lc-dot3{fill:#c084fc}}";

/// Series beyond these share the colours again.
const COLOURS: usize = 4;

pub(crate) struct SvgCanvas {
    svg: String,
}

impl SvgCanvas {
    pub(crate) fn new(title: &str, height: f64) -> Self {
        let svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"lc\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n\
             <title>{}</title>\n<style>{STYLE}</style>\n\
             <rect class=\"lc-back\" width=\"{WIDTH}\" height=\"{height}\" rx=\"10\"/>\n",
            escape(title)
        );
        Self { svg }
    }

    pub(crate) fn finish(mut self) -> String {
        self.svg.push_str("</svg>\n");
        self.svg
    }

    /// A bar from a corner at the left and top, as wide and high as `size`.
    pub(crate) fn bar(&mut self, corner: (f64, f64), size: (f64, f64)) {
        self.push(format_args!(
            "<rect class=\"lc-dot0\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"3\"/>\n",
            corner.0, corner.1, size.0, size.1
        ));
    }

    fn push(&mut self, arguments: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = self.svg.write_fmt(arguments);
    }
}

impl Canvas for SvgCanvas {
    fn line(&mut self, points: &[(f64, f64)], width: f64, ink: Ink) {
        let Some((first, rest)) = points.split_first() else { return };
        self.push(format_args!(
            "<path class=\"{}\" stroke-width=\"{width}\" d=\"M{:.1} {:.1}",
            stroke_class(ink),
            first.0,
            first.1
        ));
        for (x, y) in rest {
            self.push(format_args!("L{x:.1} {y:.1}"));
        }
        self.push(format_args!("\"/>\n"));
    }

    fn dot(&mut self, center: (f64, f64), radius: f64, ink: Ink) {
        let (Ink::Line(index) | Ink::Faint(index)) = ink else { return };
        self.push(format_args!(
            "<circle class=\"lc-dot{}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"{radius}\"/>\n",
            index % COLOURS,
            center.0,
            center.1
        ));
    }

    fn text(&mut self, at: (f64, f64), size: f64, anchor: Anchor, ink: Ink, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let class = if ink == Ink::Text { "lc-text" } else { "lc-muted" };
        self.push(format_args!(
            "<text class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\" font-size=\"{size}\" text-anchor=\"{anchor}\">{}</text>\n",
            at.0,
            at.1,
            escape(text)
        ));
    }
}

fn stroke_class(ink: Ink) -> String {
    match ink {
        Ink::Grid => "lc-grid".into(),
        Ink::Line(index) => format!("lc-line{}", index % COLOURS),
        Ink::Faint(index) => format!("lc-line{} lc-faint", index % COLOURS),
        Ink::Axis | Ink::Text | Ink::Muted => "lc-axis".into(),
    }
}
