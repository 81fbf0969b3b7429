//! Draws a chart as a PNG picture in the light colours, with antialiased lines and glyph outlines.
//!
//! It does not shape text: glyphs stand side by side by their advance, which suits labels and numbers.

use tiny_skia::{
    Color, FillRule, LineCap, LineJoin, Paint, Path, PathBuilder, Pixmap, Rect, Stroke, Transform,
};
use ttf_parser::{Face, OutlineBuilder};

use crate::ReportError;
use crate::line_chart::{Anchor, Canvas, HEIGHT, Ink, WIDTH};

/// Pixels per SVG user unit.
const SCALE: f32 = 2.0;

pub(crate) struct PngCanvas {
    pixmap: Pixmap,
    face: Face<'static>,
}

impl PngCanvas {
    pub(crate) fn new() -> Result<Self, ReportError> {
        let face =
            Face::parse(notosans::REGULAR_TTF, 0).map_err(|error| ReportError::Png(error.to_string()))?;
        let size = |length: f64| (length * f64::from(SCALE)) as u32;
        let mut pixmap = Pixmap::new(size(WIDTH), size(HEIGHT))
            .ok_or_else(|| ReportError::Png("the picture has no area".into()))?;
        pixmap.fill(Color::WHITE);
        Ok(Self { pixmap, face })
    }

    pub(crate) fn finish(self) -> Result<Vec<u8>, ReportError> {
        self.pixmap.encode_png().map_err(|error| ReportError::Png(error.to_string()))
    }

    fn fill(&mut self, path: &Path, ink: Ink) {
        self.pixmap.fill_path(
            path,
            &paint(ink),
            FillRule::Winding,
            Transform::from_scale(SCALE, SCALE),
            None,
        );
    }

    /// Width of `text` in font units.
    fn advance(&self, text: &str) -> f32 {
        text.chars().map(|character| f32::from(self.glyph(character).1)).sum()
    }

    /// The glyph of a character (the font's box where it has none) and its advance in font units.
    fn glyph(&self, character: char) -> (ttf_parser::GlyphId, u16) {
        let glyph = self.face.glyph_index(character).unwrap_or_default();
        (glyph, self.face.glyph_hor_advance(glyph).unwrap_or_default())
    }
}

impl Canvas for PngCanvas {
    fn line(&mut self, points: &[(f64, f64)], width: f64, ink: Ink) {
        let Some((first, rest)) = points.split_first() else { return };
        let mut builder = PathBuilder::new();
        builder.move_to(first.0 as f32, first.1 as f32);
        rest.iter().for_each(|point| builder.line_to(point.0 as f32, point.1 as f32));
        let Some(path) = builder.finish() else { return };
        let stroke = Stroke {
            width: width as f32,
            line_cap: LineCap::Round,
            line_join: LineJoin::Round,
            ..Stroke::default()
        };
        self.pixmap.stroke_path(&path, &paint(ink), &stroke, Transform::from_scale(SCALE, SCALE), None);
    }

    fn dot(&mut self, center: (f64, f64), radius: f64, ink: Ink) {
        let (x, y, radius) = (center.0 as f32, center.1 as f32, radius as f32);
        let square = Rect::from_xywh(x - radius, y - radius, 2.0 * radius, 2.0 * radius);
        if let Some(path) = square.and_then(PathBuilder::from_oval) {
            self.fill(&path, ink);
        }
    }

    fn text(&mut self, at: (f64, f64), size: f64, anchor: Anchor, ink: Ink, text: &str) {
        let scale = size as f32 / f32::from(self.face.units_per_em());
        let share_left = match anchor {
            Anchor::Start => 0.0,
            Anchor::Middle => 0.5,
            Anchor::End => 1.0,
        };
        let mut outline = Outline {
            builder: PathBuilder::new(),
            x: at.0 as f32 - self.advance(text) * scale * share_left,
            y: at.1 as f32,
            scale,
        };
        for character in text.chars() {
            let (glyph, advance) = self.glyph(character);
            self.face.outline_glyph(glyph, &mut outline);
            outline.x += f32::from(advance) * scale;
        }
        if let Some(path) = outline.builder.finish() {
            self.fill(&path, ink);
        }
    }
}

/// Collects glyph outlines, which have y upwards and font units, at a place on the picture.
struct Outline {
    builder: PathBuilder,
    x: f32,
    y: f32,
    scale: f32,
}

impl Outline {
    fn place(&self, x: f32, y: f32) -> (f32, f32) {
        (self.x + x * self.scale, self.y - y * self.scale)
    }
}

impl OutlineBuilder for Outline {
    fn move_to(&mut self, x: f32, y: f32) {
        let (x, y) = self.place(x, y);
        self.builder.move_to(x, y);
    }

    fn line_to(&mut self, x: f32, y: f32) {
        let (x, y) = self.place(x, y);
        self.builder.line_to(x, y);
    }

    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        let ((x1, y1), (x, y)) = (self.place(x1, y1), self.place(x, y));
        self.builder.quad_to(x1, y1, x, y);
    }

    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        let ((x1, y1), (x2, y2), (x, y)) = (self.place(x1, y1), self.place(x2, y2), self.place(x, y));
        self.builder.cubic_to(x1, y1, x2, y2, x, y);
    }

    fn close(&mut self) {
        self.builder.close();
    }
}

/// The light colours of `svg_canvas.rs`.
fn paint(ink: Ink) -> Paint<'static> {
    const LINES: [[u8; 3]; 4] = [[37, 99, 235], [234, 88, 12], [5, 150, 105], [147, 51, 234]];
    let ([red, green, blue], alpha) = match ink {
        Ink::Grid => ([230, 233, 238], 255),
        Ink::Axis => ([154, 164, 177], 255),
        Ink::Text => ([28, 36, 48], 255),
        Ink::Muted => ([91, 102, 117], 255),
        Ink::Line(index) => (LINES[index % LINES.len()], 255),
        Ink::Faint(index) => (LINES[index % LINES.len()], 72),
    };
    let mut paint = Paint { anti_alias: true, ..Paint::default() };
    paint.set_color_rgba8(red, green, blue, alpha);
    paint
}
