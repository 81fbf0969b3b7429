//! Perplexity of a text: windows of the model's context, each token predicted exactly once.

use std::path::Path;
use std::sync::Arc;

use danlu_data::Source;
use danlu_model::{Activations, Keep, Model, PackedTokens, Resident, Target};
use danlu_tokenizer::{SpecialTokens, Tokenizer};
use fs_err as fs;
use serde::Serialize;

use crate::openai::Server;
use crate::parallel::in_parallel;
use crate::{Error, Result};

/// A window, unless one is given: the activations of contexts beyond it take more memory than they tell.
const LONGEST_WINDOW: usize = 4096;
/// A window of a server, unless one is given: lm-eval's, 2048 with the token that the server must generate.
const SERVER_WINDOW: usize = 2047;

/// How the text is cut into windows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Windows {
    /// Tokens of a window; the model's context, but at most 4096, if not given.
    pub window: Option<usize>,
    /// Tokens by which a window goes on from the one before, and predicts; the others are context. Half a window if
    /// not given.
    pub stride: Option<usize>,
}

/// How well a model predicts a text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Perplexity {
    /// Mean negative log-probability of the predicted tokens, natural logarithm.
    pub nll: f64,
    /// Predicted tokens: all but the first, which has nothing before it (BOS, where the vocabulary has one in front).
    pub tokens: usize,
    /// e^nll
    pub perplexity: f64,
    /// Tokens of a window.
    pub window: usize,
    /// Tokens from window to window.
    pub stride: usize,
}

/// A text file as ids: BOS in front iff the vocabulary's own files say so, CRLF as LF, no byte order mark, special
/// tokens' text as text.
///
/// # Errors
/// A file that is missing, empty or not UTF-8.
pub fn read_ids(tokenizer: &Tokenizer, path: &Path) -> Result<Vec<u32>> {
    let text = String::from_utf8(fs::read(path)?).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + valid.iter().filter(|&&byte| byte == b'\n').count() as u64;
        let problem = "invalid UTF-8: convert the file to UTF-8 (many Chinese files are GB18030)".to_owned();
        Error::Row { at: Source { path: Arc::from(path), line }, problem }
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text).replace("\r\n", "\n");
    let mut ids: Vec<u32> = tokenizer.bos_id().filter(|_| tokenizer.adds_bos()).into_iter().collect();
    ids.extend(tokenizer.encode(&text, SpecialTokens::AsText)?);
    if ids.len() < 2 {
        let problem = "expected a text of at least two tokens".to_owned();
        return Err(Error::File { path: path.into(), problem });
    }
    Ok(ids)
}

/// The perplexity of ids.
///
/// # Errors
/// A window that the model has no context for, a stride that leaves tokens out, fewer than two ids, an id outside the
/// vocabulary.
pub fn of_ids(
    model: &Model,
    ids: &[u32],
    windows: Windows,
    mut progress: impl FnMut(usize, usize),
) -> Result<Perplexity> {
    let context = model.config().context_length();
    let plan = Plan::new(ids, windows, context.min(LONGEST_WINDOW), Some(context))?;
    let mut activations = Activations::new(model, plan.window.min(ids.len()), Keep::Nothing);
    let mut sum = 0.0;
    for Window { begin, first, end } in plan.cut() {
        let tokens = PackedTokens::new([&ids[begin..end]]);
        let targets: Vec<Target> = (first..end)
            .map(|place| Target { position: (place - begin - 1) as u32, id: ids[place] })
            .collect();
        model.forward(&tokens, &mut activations, &mut Resident)?;
        let scores = model.score(&tokens, &targets, &mut activations);
        sum += scores.iter().map(|score| f64::from(score.log_probability)).sum::<f64>();
        progress(end - 1, ids.len() - 1);
    }
    Ok(plan.perplexity(sum))
}

/// The perplexity of ids by a model behind a server, which is told ids.
///
/// # Errors
/// As [`of_ids`]; a window that is too long for the server, a server that gives no log-probabilities of a prompt.
pub fn by_server(
    server: &Server,
    ids: &[u32],
    windows: Windows,
    mut progress: impl FnMut(usize, usize),
) -> Result<Perplexity> {
    let plan = Plan::new(ids, windows, SERVER_WINDOW, None)?;
    let cut: Vec<Window> = plan.cut().collect();
    let ask = |&Window { begin, first, end }: &Window| {
        server.client.log_likelihood_of_ids(&ids[begin..end], first - begin)
    };
    let mut sum = 0.0;
    in_parallel(&cut, server.parallel, ask, |place, of_window| {
        sum += of_window;
        progress(cut[place].end - 1, ids.len() - 1);
        Ok(())
    })?;
    Ok(plan.perplexity(sum))
}

/// How many ids are cut into windows of which sizes.
struct Plan {
    length: usize,
    window: usize,
    stride: usize,
}

impl Plan {
    fn new(ids: &[u32], windows: Windows, default_window: usize, context: Option<usize>) -> Result<Self> {
        let window = windows.window.unwrap_or(default_window);
        if window < 2 || context.is_some_and(|context| window > context) {
            let most =
                context.map_or("at least 2".into(), |context| format!("2 to {context}, the model's context"));
            return Err(Error::Option {
                option: "window",
                problem: format!("expected {most}, found {window}"),
            });
        }
        let stride = windows.stride.unwrap_or(window / 2);
        if stride == 0 || stride >= window {
            let problem = format!("expected 1 to {}, below the window, found {stride}", window - 1);
            return Err(Error::Option { option: "stride", problem });
        }
        if ids.len() < 2 {
            let problem = format!("expected at least 2, found {}", ids.len());
            return Err(Error::Option { option: "ids", problem });
        }
        Ok(Self { length: ids.len(), window, stride })
    }

    fn cut(&self) -> impl Iterator<Item = Window> {
        cut(self.length, self.window, self.stride)
    }

    /// From the sum of all log-probabilities.
    fn perplexity(&self, sum: f64) -> Perplexity {
        let Self { length, window, stride } = *self;
        let tokens = length - 1;
        let nll = -sum / tokens as f64;
        Perplexity { nll, tokens, perplexity: nll.exp(), window, stride }
    }
}

/// The ids `begin..end` are seen, `first..end` are predicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Window {
    begin: usize,
    first: usize,
    end: usize,
}

/// The first window predicts all its tokens but the first; each later one ends up to `stride` tokens further and is
/// full, so that what it predicts has at least `window - stride` tokens before it.
fn cut(length: usize, window: usize, stride: usize) -> impl Iterator<Item = Window> {
    let first = Window { begin: 0, first: 1, end: length.min(window) };
    std::iter::successors(Some(first), move |before| {
        let end = length.min(before.end + stride);
        (before.end < length).then(|| Window { begin: end - window, first: before.end, end })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_token_but_the_first_is_predicted_once_with_enough_context(
            length in 2_usize..300, window in 2_usize..40, stride in 1_usize..40,
        ) {
            prop_assume!(stride < window);
            let mut predicted = Vec::new();
            for Window { begin, first, end } in cut(length, window, stride) {
                prop_assert!(begin < first && first < end && end - begin <= window);
                prop_assert!(begin == 0 || first - begin >= window - stride);
                predicted.extend(first..end);
            }
            prop_assert_eq!(predicted, (1..length).collect::<Vec<_>>());
        }
    }
}
