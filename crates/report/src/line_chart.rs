//! A line chart: title, two axes, grid, one line per series, drawn as SVG or PNG from one layout.
//!
//! It will not do other kinds of charts, log axes or interaction.

use std::ops::RangeInclusive;
use std::path::Path;

use crate::ReportError;
use crate::escape::write_whole;
use crate::png_canvas::PngCanvas;
use crate::svg_canvas::SvgCanvas;

/// Size of the drawing, in SVG user units; the PNG has twice as many pixels in each direction.
pub(crate) const WIDTH: f64 = 960.0;
pub(crate) const HEIGHT: f64 = 520.0;

const LEFT: f64 = 68.0;
const RIGHT: f64 = WIDTH - 28.0;
const TOP: f64 = 92.0;
const BOTTOM: f64 = HEIGHT - 52.0;

/// More points than this share a pixel; neighbours are averaged before drawing.
const MAXIMUM_POINTS: usize = 1_500;
/// Shorter series are drawn with their points marked.
const MARKED_POINTS: usize = 40;

/// One line of a [`LineChart`].
#[derive(Debug, Clone, Default)]
pub struct Series {
    /// Shown in the legend, which appears when there is more than one series.
    pub name: String,
    /// `(x, y)` in ascending x; points that are not finite are left out.
    pub points: Vec<(f64, f64)>,
    /// Draw a smoothed line over a faint raw one: for noisy values such as the training loss.
    pub smooth: bool,
}

/// A chart of one or more series over a common x axis.
///
/// ```
/// use danlu_report::{LineChart, Series};
/// let points = (1..=100).map(|step| (f64::from(step), 4.0 / f64::from(step).sqrt())).collect();
/// let chart = LineChart {
///     title: "training loss".into(),
///     x_label: "step".into(),
///     y_label: "loss".into(),
///     series: vec![Series { name: "train".into(), points, smooth: true }],
/// };
/// assert!(chart.to_svg().starts_with("<svg"));
/// ```
#[derive(Debug, Clone, Default)]
pub struct LineChart {
    /// Heading above the plot.
    pub title: String,
    /// Below the x axis.
    pub x_label: String,
    /// Above the y axis.
    pub y_label: String,
    /// The lines, in drawing order.
    pub series: Vec<Series>,
}

/// What a line or a text means; each canvas gives it a colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ink {
    Grid,
    Axis,
    Text,
    Muted,
    /// A series by its index.
    Line(usize),
    /// The unsmoothed values behind a series.
    Faint(usize),
}

/// Which point of a text sits at its coordinates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

/// What a chart is drawn on. Coordinates are in SVG user units, y downwards; text sits on its baseline.
pub(crate) trait Canvas {
    fn line(&mut self, points: &[(f64, f64)], width: f64, ink: Ink);
    fn dot(&mut self, center: (f64, f64), radius: f64, ink: Ink);
    fn text(&mut self, at: (f64, f64), size: f64, anchor: Anchor, ink: Ink, text: &str);
}

impl LineChart {
    /// The chart as one `<svg>` element without external references; colours follow the reader's light or dark scheme.
    #[must_use]
    pub fn to_svg(&self) -> String {
        let mut canvas = SvgCanvas::new(&self.title, HEIGHT);
        self.draw(&mut canvas);
        canvas.finish()
    }

    /// The chart as a PNG picture on white, 1920×1040 pixels.
    ///
    /// The built-in font covers Latin, Greek and Cyrillic; other characters show as boxes, so keep PNG labels to those.
    ///
    /// # Errors
    /// When the picture cannot be drawn or encoded.
    pub fn to_png(&self) -> Result<Vec<u8>, ReportError> {
        let mut canvas = PngCanvas::new()?;
        self.draw(&mut canvas);
        canvas.finish()
    }

    /// Writes [`to_svg`](Self::to_svg) to `path`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_svg(&self, path: &Path) -> Result<(), ReportError> {
        Ok(write_whole(path, self.to_svg().as_bytes())?)
    }

    /// Writes [`to_png`](Self::to_png) to `path`.
    ///
    /// # Errors
    /// When the picture cannot be drawn or the file cannot be written.
    pub fn write_png(&self, path: &Path) -> Result<(), ReportError> {
        Ok(write_whole(path, &self.to_png()?)?)
    }

    fn draw(&self, canvas: &mut impl Canvas) {
        let series: Vec<Vec<(f64, f64)>> = self.series.iter().map(|series| finite(&series.points)).collect();
        let all = || series.iter().flatten();
        let x_axis = Axis::new(all().map(|point| point.0), 0.0, 8);
        let y_axis = Axis::new(all().map(|point| point.1), 0.04, 8);
        let x_at = |value| LEFT + x_axis.share(value) * (RIGHT - LEFT);
        let y_at = |value| BOTTOM - y_axis.share(value) * (BOTTOM - TOP);

        canvas.text((LEFT, 38.0), 20.0, Anchor::Start, Ink::Text, &self.title);
        canvas.text((LEFT, TOP - 16.0), 13.0, Anchor::Start, Ink::Muted, &self.y_label);
        canvas.text(((LEFT + RIGHT) / 2.0, HEIGHT - 12.0), 13.0, Anchor::Middle, Ink::Muted, &self.x_label);
        for (value, label) in y_axis.ticks() {
            canvas.line(&[(LEFT, y_at(value)), (RIGHT, y_at(value))], 1.0, Ink::Grid);
            canvas.text((LEFT - 10.0, y_at(value) + 4.5), 13.0, Anchor::End, Ink::Muted, &label);
        }
        for (value, label) in x_axis.ticks() {
            canvas.line(&[(x_at(value), BOTTOM), (x_at(value), BOTTOM + 5.0)], 1.0, Ink::Axis);
            canvas.text((x_at(value), BOTTOM + 21.0), 13.0, Anchor::Middle, Ink::Muted, &label);
        }
        canvas.line(&[(LEFT, BOTTOM), (RIGHT, BOTTOM)], 1.0, Ink::Axis);

        for (index, points) in series.iter().enumerate() {
            let place = |points: &[(f64, f64)]| -> Vec<(f64, f64)> {
                points.iter().map(|point| (x_at(point.0), y_at(point.1))).collect()
            };
            let raw = place(&thin(points));
            let smooth = self.series[index].smooth && points.len() > MARKED_POINTS;
            if smooth {
                canvas.line(&raw, 1.0, Ink::Faint(index));
                canvas.line(&place(&thin(&smoothed(points))), 2.25, Ink::Line(index));
            } else {
                canvas.line(&raw, 2.25, Ink::Line(index));
            }
            if points.len() <= MARKED_POINTS {
                raw.iter().for_each(|&center| canvas.dot(center, 3.5, Ink::Line(index)));
            }
        }
        if self.series.len() > 1 {
            self.draw_legend(canvas);
        }
    }

    /// Names from right to left in the row of the y label.
    fn draw_legend(&self, canvas: &mut impl Canvas) {
        let baseline = TOP - 16.0;
        let mut right = RIGHT;
        for (index, series) in self.series.iter().enumerate().rev() {
            canvas.text((right, baseline), 13.0, Anchor::End, Ink::Text, &series.name);
            let left = right - estimated_width(&series.name, 13.0) - 8.0;
            canvas.line(&[(left - 22.0, baseline - 4.5), (left, baseline - 4.5)], 3.0, Ink::Line(index));
            right = left - 22.0 - 20.0;
        }
    }
}

/// A width that is at least that of the text in common fonts: full-width characters are one em.
pub(crate) fn estimated_width(text: &str, size: f64) -> f64 {
    text.chars().map(|character| if character < '\u{2E80}' { 0.55 } else { 1.0 }).sum::<f64>() * size
}

fn finite(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    points.iter().copied().filter(|point| point.0.is_finite() && point.1.is_finite()).collect()
}

/// At most [`MAXIMUM_POINTS`] points: means of equal runs of neighbours.
fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let run = points.len().div_ceil(MAXIMUM_POINTS).max(1);
    points
        .chunks(run)
        .map(|chunk| {
            let count = chunk.len() as f64;
            let sum = chunk.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
            (sum.0 / count, sum.1 / count)
        })
        .collect()
}

/// Weighted mean of both sides with weights that fall by a constant factor per point: no lag, normalised at the ends.
fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let decay = 1.0 - 1.0 / (points.len() as f64 / 120.0).max(3.0);
    let one_sided = |order: &mut dyn Iterator<Item = f64>| -> Vec<(f64, f64)> {
        let mut state = (0.0, 0.0);
        order
            .map(|value| {
                state = (state.0 * decay + value, state.1 * decay + 1.0);
                state
            })
            .collect()
    };
    let before = one_sided(&mut points.iter().map(|point| point.1));
    let mut after = one_sided(&mut points.iter().rev().map(|point| point.1));
    after.reverse();
    points
        .iter()
        .zip(before.iter().zip(&after))
        .map(|(point, (before, after))| {
            (point.0, (before.0 + after.0 - point.1) / (before.1 + after.1 - 1.0))
        })
        .collect()
}

/// A range of values with round tick values inside.
pub(crate) struct Axis {
    range: RangeInclusive<f64>,
    step: f64,
}

impl Axis {
    /// `padding` is the share of the range added at both ends; about `tick_count` ticks.
    pub(crate) fn new(values: impl Iterator<Item = f64>, padding: f64, tick_count: usize) -> Self {
        let (mut low, mut high) = values
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        // A flat line or a range below the resolution of its values would have no ticks.
        let span = (high / 2.0 - low / 2.0).abs() * 2.0;
        if span <= low.abs().max(high.abs()) * 1e-9 {
            let margin = if low == 0.0 { 0.5 } else { low.abs() * 0.1 };
            (low, high) = (low - margin, high + margin);
        }
        let margin = (high / 2.0 - low / 2.0) * 2.0 * padding;
        (low, high) = ((low - margin).max(f64::MIN / 4.0), (high + margin).min(f64::MAX / 4.0));
        Self { range: low..=high, step: round_step((high - low) / tick_count as f64) }
    }

    /// Position of `value` within the range, 0 at the low end, 1 at the high end.
    pub(crate) fn share(&self, value: f64) -> f64 {
        let (low, high) = (*self.range.start(), *self.range.end());
        ((value - low) / (high - low)).clamp(0.0, 1.0)
    }

    pub(crate) fn ticks(&self) -> Vec<(f64, String)> {
        // A tick at the very end of the range must not be lost to rounding.
        let first = (self.range.start() / self.step - 1e-9).ceil();
        let last = (self.range.end() / self.step + 1e-9).floor();
        let count = (last - first).clamp(0.0, 50.0) as usize;
        let largest = self.range.start().abs().max(self.range.end().abs());
        (0..=count)
            .map(|index| {
                let value = (first + index as f64) * self.step;
                (value, tick_label(value, self.step, largest))
            })
            .collect()
    }
}

/// The round number (1, 2, 2.5 or 5 times a power of ten) at or above `step`.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let multiple = [1.0, 2.0, 2.5, 5.0].into_iter().find(|multiple| multiple * power >= step * 0.999_999);
    multiple.unwrap_or(10.0) * power
}

/// As many decimals as the step needs; thousands as `k`, millions as `M`, extremes in scientific notation.
fn tick_label(value: f64, step: f64, largest: f64) -> String {
    let (unit, suffix) = match largest {
        largest if !(1e-6..1e12).contains(&largest) => return format!("{value:.1e}"),
        largest if largest >= 1e7 && step >= 1e5 => (1e6, "M"),
        largest if largest >= 1e4 && step >= 1e2 => (1e3, "k"),
        _ => (1.0, ""),
    };
    let step = step / unit;
    let decimals = (0..9).find(|&decimals| {
        let scaled = step * 10f64.powi(decimals);
        (scaled - scaled.round()).abs() < 1e-6 * scaled.max(1e-3)
    });
    if value == 0.0 {
        return "0".into();
    }
    format!("{:.*}{suffix}", decimals.unwrap_or(9) as usize, value / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, f64)>) -> LineChart {
        LineChart {
            title: "损失 <loss> & \"more\"".into(),
            x_label: "step".into(),
            y_label: "loss".into(),
            series: vec![Series { name: "train".into(), points, smooth: true }],
        }
    }

    fn labels(low: f64, high: f64, padding: f64, count: usize) -> Vec<String> {
        Axis::new([low, high].into_iter(), padding, count).ticks().into_iter().map(|tick| tick.1).collect()
    }

    #[test]
    fn ticks_are_round_and_labelled_with_the_needed_decimals() {
        assert_eq!(labels(0.0, 100.0, 0.0, 5), ["0", "20", "40", "60", "80", "100"]);
        assert_eq!(labels(0.0, 1.2, 0.0, 6), ["0", "0.2", "0.4", "0.6", "0.8", "1.0", "1.2"]);
        assert_eq!(labels(0.0, 3e-4, 0.0, 3), ["0", "0.0001", "0.0002", "0.0003"]);
        assert_eq!(
            labels(0.0, 20_000.0, 0.0, 8),
            ["0", "2.5k", "5.0k", "7.5k", "10.0k", "12.5k", "15.0k", "17.5k", "20.0k"]
        );
        assert_eq!(labels(-0.2, 0.2, 0.0, 4), ["-0.2", "-0.1", "0", "0.1", "0.2"]);
    }

    #[test]
    fn smoothing_keeps_a_line_and_has_no_lag() {
        let line: Vec<_> = (0..400).map(|x| (f64::from(x), f64::from(x) * 0.5)).collect();
        let smooth = smoothed(&line);
        assert!((smooth[200].1 - 100.0).abs() < 1e-6, "{}", smooth[200].1);
    }

    #[test]
    fn svg_escapes_text_and_has_a_legend_only_for_several_series() {
        let mut chart = chart((0..100).map(|x| (f64::from(x), 1.0)).collect());
        let svg = chart.to_svg();
        assert!(svg.contains("损失 &lt;loss&gt; &amp; &quot;more&quot;") && !svg.contains("<loss>"), "{svg}");
        assert!(!svg.contains(">train<"));
        chart.series.push(Series { name: "验证".into(), points: vec![(0.0, 2.0)], smooth: false });
        assert!(chart.to_svg().contains(">验证<"));
        assert!(!chart.to_svg().contains("http://www.w3.org/1999/xlink"));
    }

    #[test]
    fn any_values_give_a_chart() {
        let cases: [Vec<(f64, f64)>; 8] = [
            vec![],
            vec![(1.0, 2.0)],
            vec![(0.0, f64::NAN), (1.0, f64::INFINITY), (2.0, 1.0)],
            vec![(0.0, f64::MIN), (1.0, f64::MAX)],
            vec![(0.0, 5e-324), (1.0, 0.0)],
            vec![(5.0, 3.0), (5.0, 3.0)],
            vec![(1e15, 1.0), (1e15 + 1.0, 1.0 + 1e-15)],
            (0..100_000).map(|x| (f64::from(x), f64::from(x % 7))).collect(),
        ];
        for points in cases {
            let chart = chart(points);
            let svg = chart.to_svg();
            assert!(!svg.contains("NaN") && !svg.contains("inf") && svg.len() < 100_000, "{svg}");
            assert!(chart.to_png().unwrap().starts_with(b"\x89PNG"));
        }
    }

    #[test]
    fn written_files_replace_older_ones_and_leave_nothing_beside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("training_loss.png");
        fs_err::write(&path, "old").unwrap();
        chart(vec![(0.0, 1.0), (1.0, 0.5)]).write_png(&path).unwrap();
        assert!(fs_err::read(&path).unwrap().starts_with(b"\x89PNG"));
        assert_eq!(fs_err::read_dir(folder.path()).unwrap().count(), 1);
        let error = chart(vec![]).write_svg(&folder.path().join("absent/loss.svg")).unwrap_err();
        assert!(error.to_string().contains("absent"), "{error}");
    }
}
