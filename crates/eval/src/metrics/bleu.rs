//! BLEU-4 with one reference: of a pair of texts as nltk has it, of many pairs as sacrebleu has it.
//!
//! Neither lower-cases. nltk's smoothing is `method3` (NIST's: each order without a match counts half of the one before), which
//! LLaMA-Factory reports; sacrebleu's is `exp`, its default.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::LazyLock;

use super::python::{self, Substitutions};

/// Orders of n-grams.
const ORDERS: usize = 4;

/// Characters that sacrebleu's `zh` takes apart. Two ranges reach further than their names say, as they do there: `\u20000`
/// is U+2000 and a zero.
const CHINESE: [(char, char); 22] = [
    ('\u{3400}', '\u{4db5}'),
    ('\u{4e00}', '\u{9fa5}'),
    ('\u{9fa6}', '\u{9fbb}'),
    ('\u{f900}', '\u{fa2d}'),
    ('\u{fa30}', '\u{fa6a}'),
    ('\u{fa70}', '\u{fad9}'),
    ('\u{2001}', '\u{2a6d}'),
    ('\u{2f81}', '\u{2fa1}'),
    ('\u{ff00}', '\u{ffef}'),
    ('\u{2e80}', '\u{2eff}'),
    ('\u{3000}', '\u{303f}'),
    ('\u{31c0}', '\u{31ef}'),
    ('\u{2f00}', '\u{2fdf}'),
    ('\u{2ff0}', '\u{2fff}'),
    ('\u{3100}', '\u{312f}'),
    ('\u{31a0}', '\u{31bf}'),
    ('\u{fe10}', '\u{fe1f}'),
    ('\u{fe30}', '\u{fe4f}'),
    ('\u{2600}', '\u{26ff}'),
    ('\u{2700}', '\u{27bf}'),
    ('\u{3200}', '\u{32ff}'),
    ('\u{3300}', '\u{33ff}'),
];

/// mteval's four rules: punctuation apart; points and commas unless between digits; dashes after digits.
static WESTERN: LazyLock<Substitutions> = LazyLock::new(|| {
    Substitutions::new(&[
        (r"([{-~\[-` -&(-+:-@/])", " $1 "),
        (r"([^0-9])([.,])", "$1 $2 "),
        (r"([.,])([^0-9])", " $1 $2"),
        (r"([0-9])(-)", "$1 $2 "),
    ])
});

/// n-grams of one order, or of all pairs of texts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Order {
    /// Those of the hypothesis that the reference has, too.
    matches: u64,
    /// Those of the hypothesis.
    total: u64,
}

/// nltk's `sentence_bleu` with `SmoothingFunction().method3`, 0 to 1. Of texts it is taken by character.
#[must_use]
pub fn sentence<T: Eq + Hash>(reference: &[T], hypothesis: &[T]) -> f64 {
    let orders = orders(reference, hypothesis);
    if orders[0].matches == 0 {
        return 0.0;
    }
    let mut smoothing = 1.0;
    let logarithms = orders.map(|Order { matches, total }| {
        // A hypothesis that is too short for an order counts as one miss.
        let total = total.max(1) as f64;
        if matches > 0 {
            return (matches as f64 / total).ln();
        }
        smoothing *= 2.0;
        (1.0 / (smoothing * total)).ln()
    });
    brevity_penalty(reference.len(), hypothesis.len()) * mean(&logarithms).exp()
}

/// How a line becomes the words that sacrebleu counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tokenization {
    /// `13a`, of mteval-v13a: for languages with spaces.
    Mteval13a,
    /// `zh`: each Chinese character is a word, the rest as `13a` without its entities.
    Chinese,
}

/// Counts of many pairs of texts, for sacrebleu's `corpus_bleu`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Corpus {
    orders: [Order; ORDERS],
    reference_length: usize,
    hypothesis_length: usize,
}

impl Corpus {
    /// Counts a pair.
    pub fn add(&mut self, reference: &str, hypothesis: &str, tokenization: Tokenization) {
        let (reference, hypothesis) = (tokenization.line(reference), tokenization.line(hypothesis));
        let reference: Vec<&str> = python::split(&reference).collect();
        let hypothesis: Vec<&str> = python::split(&hypothesis).collect();
        for (sum, order) in self.orders.iter_mut().zip(orders(&reference, &hypothesis)) {
            sum.matches += order.matches;
            sum.total += order.total;
        }
        self.reference_length += reference.len();
        self.hypothesis_length += hypothesis.len();
    }

    /// The score, 0 to 100.
    #[must_use]
    pub fn score(&self) -> f64 {
        if self.orders.iter().any(|order| order.total == 0) || self.orders[0].matches == 0 {
            // Without matches, or without n-grams of some order, which effective orders would forgive.
            return 0.0;
        }
        let mut smoothing = 1.0;
        let logarithms = self.orders.map(|Order { matches, total }| {
            if matches > 0 {
                return (100.0 * matches as f64 / total as f64).ln();
            }
            smoothing *= 2.0;
            (100.0 / (smoothing * total as f64)).ln()
        });
        brevity_penalty(self.reference_length, self.hypothesis_length) * mean(&logarithms).exp()
    }
}

impl Tokenization {
    /// The line with spaces between its words.
    #[must_use]
    pub fn line(self, line: &str) -> String {
        let line = python::trim_end(line);
        match self {
            Self::Mteval13a => {
                let line = line.replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
                let line = line.replace("&quot;", "\"").replace("&amp;", "&");
                let line = line.replace("&lt;", "<").replace("&gt;", ">");
                WESTERN.apply(&format!(" {line} "))
            }
            Self::Chinese => {
                let mut apart = String::with_capacity(2 * line.len());
                for character in python::trim(line).chars() {
                    if CHINESE.iter().any(|&(first, last)| (first..=last).contains(&character)) {
                        apart.extend([' ', character, ' ']);
                    } else {
                        apart.push(character);
                    }
                }
                WESTERN.apply(&apart)
            }
        }
    }
}

fn orders<T: Eq + Hash>(reference: &[T], hypothesis: &[T]) -> [Order; ORDERS] {
    std::array::from_fn(|index| {
        let (wanted, found) = (counts(reference, index + 1), counts(hypothesis, index + 1));
        let matches = found.iter().map(|(n_gram, count)| count.min(wanted.get(n_gram).unwrap_or(&0)));
        Order { matches: matches.sum(), total: found.values().sum() }
    })
}

/// How often each n-gram of one length occurs.
pub(super) fn counts<T: Eq + Hash>(items: &[T], length: usize) -> HashMap<&[T], u64> {
    let mut counts = HashMap::new();
    for n_gram in items.windows(length) {
        *counts.entry(n_gram).or_default() += 1;
    }
    counts
}

fn brevity_penalty(reference_length: usize, hypothesis_length: usize) -> f64 {
    match hypothesis_length {
        0 => 0.0,
        _ if hypothesis_length >= reference_length => 1.0,
        _ => (1.0 - reference_length as f64 / hypothesis_length as f64).exp(),
    }
}

fn mean(values: &[f64; ORDERS]) -> f64 {
    values.iter().sum::<f64>() / ORDERS as f64
}
