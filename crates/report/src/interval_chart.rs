//! Values with intervals, one below the other: a name, a dot, and a line from the low end to the high one.
//!
//! It is drawn as SVG alone; it keeps the order that it is given.

use crate::line_chart::{Anchor, Axis, Canvas, Ink, WIDTH, estimated_width};
use crate::svg_canvas::SvgCanvas;

const RIGHT: f64 = WIDTH - 90.0;
const TOP: f64 = 66.0;
const ROW: f64 = 30.0;
const BELOW: f64 = 58.0;
const NAME_SIZE: f64 = 13.0;
/// Longer names are cut.
const WIDEST_NAME: f64 = 320.0;

/// One value of an [`IntervalChart`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct IntervalRow {
    /// At the left.
    pub name: String,
    /// The dot; its number stands at the right.
    pub value: f64,
    /// Low end of the interval.
    pub low: f64,
    /// High end.
    pub high: f64,
}

/// A chart of values with intervals over a common axis.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct IntervalChart {
    /// Heading above the plot.
    pub title: String,
    /// Below the axis.
    pub x_label: String,
    /// From top to bottom; rows with numbers that are not finite are left out.
    pub rows: Vec<IntervalRow>,
}

impl IntervalChart {
    /// The chart as one `<svg>` element without external references; colours follow the reader's light or dark scheme.
    #[must_use]
    pub fn to_svg(&self) -> String {
        let is_drawn = |row: &&IntervalRow| [row.value, row.low, row.high].iter().all(|end| end.is_finite());
        let rows: Vec<&IntervalRow> = self.rows.iter().filter(is_drawn).collect();
        let bottom = TOP + ROW * rows.len() as f64;
        let widest = rows.iter().map(|row| estimated_width(&row.name, NAME_SIZE)).fold(0.0, f64::max);
        let left = 24.0 + widest.min(WIDEST_NAME) + 14.0;
        let axis = Axis::new(rows.iter().flat_map(|row| [row.low, row.high, row.value]), 0.04, 8);
        let x_at = |value| left + axis.share(value) * (RIGHT - left);

        let mut canvas = SvgCanvas::new(&self.title, bottom + BELOW);
        canvas.text((24.0, 38.0), 20.0, Anchor::Start, Ink::Text, &self.title);
        for (value, label) in axis.ticks() {
            canvas.line(&[(x_at(value), TOP - 8.0), (x_at(value), bottom)], 1.0, Ink::Grid);
            canvas.text((x_at(value), bottom + 21.0), 13.0, Anchor::Middle, Ink::Muted, &label);
        }
        canvas.line(&[(left, bottom), (RIGHT, bottom)], 1.0, Ink::Axis);
        let below = ((left + RIGHT) / 2.0, bottom + 44.0);
        canvas.text(below, 13.0, Anchor::Middle, Ink::Muted, &self.x_label);
        for (place, row) in rows.iter().enumerate() {
            let y = TOP + ROW * (place as f64 + 0.4);
            let name = cut(&row.name);
            canvas.text((left - 14.0, y + 4.5), NAME_SIZE, Anchor::End, Ink::Text, &name);
            canvas.line(&[(x_at(row.low), y), (x_at(row.high), y)], 2.25, Ink::Line(0));
            for end in [row.low, row.high] {
                canvas.line(&[(x_at(end), y - 5.0), (x_at(end), y + 5.0)], 2.25, Ink::Line(0));
            }
            canvas.dot((x_at(row.value), y), 4.5, Ink::Line(0));
            let number = format!("{:.1}", row.value);
            canvas.text((WIDTH - 24.0, y + 4.5), 13.0, Anchor::End, Ink::Muted, &number);
        }
        canvas.finish()
    }
}

/// The name, with an ellipsis for what does not fit.
fn cut(name: &str) -> String {
    if estimated_width(name, NAME_SIZE) <= WIDEST_NAME {
        return name.to_owned();
    }
    let mut kept = String::new();
    for character in name.chars() {
        if estimated_width(&kept, NAME_SIZE) > WIDEST_NAME - 2.0 * NAME_SIZE {
            break;
        }
        kept.push(character);
    }
    kept + "…"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, value: f64, low: f64, high: f64) -> IntervalRow {
        IntervalRow { name: name.into(), value, low, high }
    }

    #[test]
    fn every_row_has_a_name_a_line_a_dot_and_a_number() {
        let chart = IntervalChart {
            title: "评分 <1>".into(),
            x_label: "points".into(),
            rows: vec![row("a&b", 1020.0, 1000.0, 1050.0), row("c", 980.0, 950.0, 1000.0)],
        };
        let svg = chart.to_svg();
        assert!(
            svg.contains("评分 &lt;1&gt;") && svg.contains(">a&amp;b<") && svg.contains(">1020.0<"),
            "{svg}"
        );
        assert_eq!(svg.matches("<circle").count(), 2);
        assert_eq!(svg.matches("lc-line0\" stroke-width").count(), 6);
    }

    #[test]
    fn any_values_give_a_chart() {
        for rows in [
            vec![],
            vec![row("", 1.0, 1.0, 1.0)],
            vec![row("x", f64::NAN, 0.0, 1.0), row(&"很长的名字".repeat(40), 0.0, f64::MIN, f64::MAX)],
        ] {
            let svg = IntervalChart { rows, ..IntervalChart::default() }.to_svg();
            assert!(!svg.contains("NaN") && !svg.contains("inf") && svg.len() < 20_000, "{svg}");
        }
    }
}
