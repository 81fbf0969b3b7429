//! ROUGE F1 with one reference, as two packages have it that papers report.
//!
//! [`of_words`] is `rouge_chinese`, which LLaMA-Factory reports; [`summary_level`] is the ROUGE-L of `rouge` 1.0.1, which
//! LongBench reports. Both compare sets of n-grams, not counts, and add 1e-8 to the denominator.

use std::collections::HashSet;
use std::sync::LazyLock;

use super::python::{self, Substitutions};

/// Where `rouge_chinese` begins a new line. Its scores do not care for sentences, but a line of blanks is an empty word.
static SENTENCE_ENDS: LazyLock<Substitutions> = LazyLock::new(|| {
    Substitutions::new(&[
        (r"([。！？?])([^”’])", "$1\n$2"),
        (r"(\.{6})([^”’])", "$1\n$2"),
        (r"(…{2})([^”’])", "$1\n$2"),
        (r"([。！？?][”’])([^，。！？?])", "$1\n$2"),
    ])
});

/// F1 of each kind, 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rouge {
    /// Words.
    pub one: f64,
    /// Pairs of words.
    pub two: f64,
    /// The longest common subsequence.
    pub l: f64,
}

/// `Rouge().get_scores` of `rouge_chinese` on words with spaces between; zero if either text has none.
#[must_use]
pub fn of_words(reference: &[&str], hypothesis: &[&str]) -> Rouge {
    let [reference, hypothesis] = [reference, hypothesis].map(|words| words.join(" "));
    if [&reference, &hypothesis].iter().any(|text| python::trim(text).is_empty()) {
        return Rouge::default();
    }
    let [reference, hypothesis] = [&reference, &hypothesis].map(|text| SENTENCE_ENDS.apply(text));
    let [reference, hypothesis] = [&reference, &hypothesis]
        .map(|text| sentences(python::trim_end(text), '\n').into_iter().flatten().collect::<Vec<_>>());
    let of_order = |order: usize| {
        let sets = [&reference, &hypothesis].map(|words| words.windows(order).collect::<HashSet<_>>());
        f1(sets[0].intersection(&sets[1]).count(), sets[0].len(), sets[1].len())
    };
    let table = Table::new(&reference, &hypothesis);
    let common = table.at(reference.len(), hypothesis.len());
    Rouge { one: of_order(1), two: of_order(2), l: f1(common as usize, reference.len(), hypothesis.len()) }
}

/// The ROUGE-L of `rouge` 1.0.1: sentences end at points, and the words that any pair of sentences shares in order count once.
/// 0 where the package fails: on a text without sentences, and on sentences so long that it calls itself more than `deepest` times.
#[must_use]
pub fn summary_level(reference: &str, hypothesis: &str, deepest: usize) -> f64 {
    let (reference, hypothesis) = (sentences(reference, '.'), sentences(hypothesis, '.'));
    if reference.is_empty() || hypothesis.is_empty() {
        return 0.0;
    }
    let mut common = HashSet::new();
    for wanted in &reference {
        for found in &hypothesis {
            match common_words(wanted, found, deepest) {
                Some(words) => common.extend(words),
                None => return 0.0,
            }
        }
    }
    let distinct = |sentences: &[Vec<&str>]| sentences.iter().flatten().collect::<HashSet<_>>().len();
    f1(common.len(), distinct(&reference), distinct(&hypothesis))
}

/// The words of each sentence; one of blanks alone has one empty word.
fn sentences(text: &str, end: char) -> Vec<Vec<&str>> {
    let words = |sentence| match python::split(sentence).collect::<Vec<_>>() {
        words if words.is_empty() => vec![""],
        words => words,
    };
    text.split(end).filter(|sentence| !sentence.is_empty()).map(words).collect()
}

/// A longest common subsequence, found backwards; none if that takes more than `deepest` calls.
fn common_words<'t>(one: &[&'t str], other: &[&'t str], deepest: usize) -> Option<Vec<&'t str>> {
    let table = Table::new(one, other);
    let (mut row, mut column, mut calls) = (one.len(), other.len(), 1);
    let mut words = Vec::new();
    while row > 0 && column > 0 {
        if one[row - 1] == other[column - 1] {
            words.push(one[row - 1]);
            (row, column) = (row - 1, column - 1);
        } else if table.at(row - 1, column) > table.at(row, column - 1) {
            row -= 1;
        } else {
            column -= 1;
        }
        calls += 1;
        if calls > deepest {
            return None;
        }
    }
    Some(words)
}

/// Lengths of the longest common subsequences of all beginnings of two lists of words.
struct Table {
    lengths: Vec<u32>,
    width: usize,
}

impl Table {
    fn new(one: &[&str], other: &[&str]) -> Self {
        let width = other.len() + 1;
        let mut lengths = vec![0; (one.len() + 1) * width];
        for (row, word) in one.iter().enumerate() {
            for (column, other) in other.iter().enumerate() {
                let above = row * width + column;
                lengths[above + width + 1] = match word == other {
                    true => lengths[above] + 1,
                    false => lengths[above + 1].max(lengths[above + width]),
                };
            }
        }
        Self { lengths, width }
    }

    fn at(&self, row: usize, column: usize) -> u32 {
        self.lengths[row * self.width + column]
    }
}

fn f1(common: usize, reference: usize, hypothesis: usize) -> f64 {
    let share = |whole: usize| if whole == 0 { 0.0 } else { common as f64 / whole as f64 };
    let (precision, recall) = (share(hypothesis), share(reference));
    2.0 * (precision * recall / (precision + recall + 1e-8))
}
