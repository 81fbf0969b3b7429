//! Samples as text in which one sees what is learned: trained spans stand in ⟦…⟧, and in colour where wanted. Of an answer
//! that is preferred or not, the heading says which.
//! It prints nothing; whether colour is wanted is the caller's to know, [`color_is_wanted`] knows `NO_COLOR`.

use danlu_tokenizer::Tokenizer;

use crate::error::{DataError, Result};
use crate::sample::Sample;

const TRAINED: &str = "\x1b[32m";
const UNWANTED: &str = "\x1b[31m";
const FRAME: &str = "\x1b[2m";
const RESET: &str = "\x1b[0m";

/// Whether the environment leaves colour on: `NO_COLOR` is unset or empty (<https://no-color.org>).
pub fn color_is_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// What becomes of a stretch of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learned {
    /// It is context.
    No,
    /// It is to become more probable.
    Wanted,
    /// It is to become less probable.
    Unwanted,
}

impl Learned {
    fn by(weight: f32) -> Self {
        match weight {
            weight if weight > 0.0 => Self::Wanted,
            weight if weight < 0.0 => Self::Unwanted,
            _ => Self::No,
        }
    }
}

/// A sample as text: a line with its source, its counts and, where answers are judged, whether its own is wanted; then its
/// tokens, special ones spelled out, trained ones in brackets. Ends with a newline.
pub fn render(sample: &Sample, tokenizer: &Tokenizer, is_judged: bool, color: bool) -> Result<String> {
    let paint = |color_code| if color { color_code } else { "" };
    let verdict = match sample.is_unwanted() {
        _ if !is_judged => "",
        true => " · unwanted",
        false => " · wanted",
    };
    let mut text = format!(
        "{}── {}{verdict} · {} tokens, {} trained ──{}\n",
        paint(FRAME),
        sample.source,
        sample.ids.len(),
        sample.trained_tokens(),
        paint(RESET)
    );
    for (span, learned) in stretches(sample, tokenizer)? {
        let color_code = match learned {
            Learned::No => {
                text.push_str(&span);
                continue;
            }
            Learned::Wanted => TRAINED,
            Learned::Unwanted => UNWANTED,
        };
        text.push_str(&format!("{}⟦{span}⟧{}", paint(color_code), paint(RESET)));
    }
    text.push('\n');
    Ok(text)
}

/// The text of a sample, special tokens spelled out, in stretches with what becomes of each.
pub fn stretches(sample: &Sample, tokenizer: &Tokenizer) -> Result<Vec<(String, Learned)>> {
    let mut start = 0;
    let mut stretches = Vec::new();
    for run in sample.loss_weights.chunk_by(|a, b| Learned::by(*a) == Learned::by(*b)) {
        let end = start + run.len();
        stretches.push((span(&sample.ids, start, end, tokenizer)?, Learned::by(run[0])));
        start = end;
    }
    Ok(stretches)
}

/// The text that `ids[start..end]` adds to the text before it: decoded alone, a span could lose its first space.
fn span(ids: &[u32], start: usize, end: usize, tokenizer: &Tokenizer) -> Result<String> {
    let decode =
        |ids: &[u32]| tokenizer.decode(ids, false).map_err(|error| DataError::Tokenizer(error.to_string()));
    let whole = decode(&ids[..end])?;
    match whole.strip_prefix(&decode(&ids[..start])?) {
        Some(span) => Ok(span.to_owned()),
        // A character lies across the border: its parts are shown as they decode alone.
        None => decode(&ids[start..end]),
    }
}
