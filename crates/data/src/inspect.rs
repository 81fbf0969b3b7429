//! Samples as text in which one sees what is learned: trained spans stand in ⟦…⟧, and in colour where wanted.
//! It prints nothing; whether colour is wanted is the caller's to know, [`color_is_wanted`] knows `NO_COLOR`.

use danlu_tokenizer::Tokenizer;

use crate::error::{DataError, Result};
use crate::sample::Sample;

const TRAINED: &str = "\x1b[32m";
const FRAME: &str = "\x1b[2m";
const RESET: &str = "\x1b[0m";

/// Whether the environment leaves colour on: `NO_COLOR` is unset or empty (<https://no-color.org>).
pub fn color_is_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A sample as text: a line with its source and counts, then its tokens, special ones spelled out, trained ones
/// in brackets. Ends with a newline.
pub fn render(sample: &Sample, tokenizer: &Tokenizer, color: bool) -> Result<String> {
    let (frame, trained, reset) = if color { (FRAME, TRAINED, RESET) } else { ("", "", "") };
    let mut text = format!(
        "{frame}── {} · {} tokens, {} trained ──{reset}\n",
        sample.source,
        sample.ids.len(),
        sample.trained_tokens()
    );
    for (span, is_trained) in stretches(sample, tokenizer)? {
        match is_trained {
            true => text.push_str(&format!("{trained}⟦{span}⟧{reset}")),
            false => text.push_str(&span),
        }
    }
    text.push('\n');
    Ok(text)
}

/// The text of a sample, special tokens spelled out, in stretches that are learned or not.
pub fn stretches(sample: &Sample, tokenizer: &Tokenizer) -> Result<Vec<(String, bool)>> {
    let mut start = 0;
    let mut stretches = Vec::new();
    for run in sample.loss_weights.chunk_by(|a, b| (*a != 0.0) == (*b != 0.0)) {
        let end = start + run.len();
        stretches.push((span(&sample.ids, start, end, tokenizer)?, run[0] != 0.0));
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
