//! A data set looked at before training on it: what is in it, what is lost of it, what of it is learned, and what looks
//! wrong. The loader shows it the rows that it tokenizes; it reads nothing itself, and keeps no samples.
//!
//! Rows that say the same are found by hashes: of the whole sample, and of its letters and digits alone. Finding more
//! distant relatives, and removing anything, belongs to deduplication.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use danlu_tokenizer::Tokenizer;
use serde::{Serialize, Serializer};

use crate::cache::Counts;
use crate::contamination::Questions;
use crate::dataset_format::{Conversation, Row};
use crate::deduplication::row_text::normalise;
use crate::error::{DataError, Result};
use crate::records::Source;
use crate::report::DatasetReport;
use crate::sample::{Cut, Outcome};

/// Examples that are kept of each finding.
const EXAMPLES: usize = 3;

/// Rows of at most so many tokens, and of more than the bin before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LengthBin {
    /// The most tokens of a row in it: a power of two.
    pub up_to: usize,
    /// How many rows.
    pub rows: u64,
}

/// Something about rows that a user should know, in the order in which it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// Longer than `cutoff_len`, left out.
    Overlong,
    /// Its prompt alone fills `cutoff_len`, left out.
    PromptTooLong,
    /// Longer than `cutoff_len`, the end of its answer cut.
    Truncated,
    /// Longer than `cutoff_len`, split between its exchanges.
    Split,
    /// No text, or an empty answer; left out.
    Empty,
    /// It begins with two tokens for the beginning of a text.
    DoubleBos,
    /// Its answer ends, uncut, with a token that is no end token: a model that learns it does not stop.
    EndUntrained,
    /// Its wanted and its unwanted answer are the same, so that nothing can be learned of it; left out.
    IdenticalPair,
    /// It spells out special tokens, which became text.
    SpelledSpecialTokens,
    /// An earlier row is the same.
    Duplicate,
    /// An earlier row differs in nothing but spaces, punctuation and case.
    NearDuplicate,
    /// An earlier row asks the same, and answers something else.
    SameQuestion,
    /// It holds a question of the files that it is compared with.
    Contaminated,
}

impl Finding {
    /// All of them, in order.
    pub const ALL: [Self; 13] = [
        Self::Overlong,
        Self::PromptTooLong,
        Self::Truncated,
        Self::Split,
        Self::Empty,
        Self::DoubleBos,
        Self::EndUntrained,
        Self::IdenticalPair,
        Self::SpelledSpecialTokens,
        Self::Duplicate,
        Self::NearDuplicate,
        Self::SameQuestion,
        Self::Contaminated,
    ];
}

/// The rows of one finding.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Found {
    /// How many.
    pub rows: u64,
    /// The first few.
    pub examples: Vec<Example>,
}

/// A row, and what of it is meant; as text one English phrase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// Where it is.
    pub at: Source,
    /// What is to be said of it.
    pub detail: Detail,
}

/// What is to be said of a row that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detail {
    /// Nothing more than where it is.
    None,
    /// Its length.
    Tokens(usize),
    /// Its length, and the tokens of its answer that were cut off.
    Truncated {
        /// Tokens of the whole row.
        tokens: usize,
        /// Those cut off.
        answer_tokens: usize,
    },
    /// Its length, the samples that it became, and the exchanges that are in none.
    Split {
        /// Tokens of the whole row.
        tokens: usize,
        /// Samples.
        samples: usize,
        /// Exchanges left out.
        left_out: usize,
    },
    /// The earlier row that it is like.
    As(Source),
    /// The question that it holds.
    Question(Source),
}

impl fmt::Display for Example {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, detail } = self;
        write!(formatter, "{at}")?;
        match detail {
            Detail::None => Ok(()),
            Detail::Tokens(tokens) => write!(formatter, ": {tokens} tokens"),
            Detail::Truncated { tokens, answer_tokens } => {
                write!(formatter, ": {tokens} tokens, {answer_tokens} of the answer cut off")
            }
            Detail::Split { tokens, samples, left_out } => {
                write!(formatter, ": {tokens} tokens, {samples} samples, {left_out} exchanges left out")
            }
            Detail::As(first) if at.path == first.path => write!(formatter, ": as line {}", first.line),
            Detail::As(first) => write!(formatter, ": as {first}"),
            Detail::Question(question) => write!(formatter, ": {question}"),
        }
    }
}

impl Serialize for Example {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What a data set holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Inspection {
    /// Its name, as it was asked for.
    pub name: String,
    /// What was read, skipped, dropped and cut.
    #[serde(flatten)]
    pub report: DatasetReport,
    /// Lengths of the rows by powers of two, without gaps.
    pub length_histogram: Vec<LengthBin>,
    /// What was found.
    pub findings: BTreeMap<Finding, Found>,
}

impl Inspection {
    pub(crate) fn new(name: &str, counts: Counts, findings: Findings) -> Self {
        let Counts { report, lengths, .. } = counts;
        let length_histogram = length_histogram(&lengths);
        Self { name: name.to_owned(), report, length_histogram, findings: findings.found }
    }
}

/// How rows are looked at.
#[derive(Clone, Copy, Default)]
pub struct Inspect<'a> {
    /// Questions that should not be in the data.
    pub against: Option<&'a Questions>,
}

/// What is seen of one row without the rows before it.
pub(crate) struct Look {
    /// Hashes of the whole, of its letters and digits, and of what is asked.
    whole: u64,
    letters: u64,
    question: Option<u64>,
    contaminated: Option<Source>,
}

impl Inspect<'_> {
    pub(crate) fn row(&self, row: &mut Row) -> Look {
        let question = match row {
            Row::Conversation(Conversation { messages, .. }) => {
                let asked = &messages[..messages.len().saturating_sub(1)];
                Some(hash(asked.iter().map(|message| (&message.role, &message.content)).collect::<Vec<_>>()))
            }
            _ => None,
        };
        let texts: Vec<&str> = match row {
            Row::Document(text) => vec![text],
            row => row.messages_mut().into_iter().map(|message| message.content.as_str()).collect(),
        };
        let letters: Vec<String> = texts.iter().map(|text| normalise(text)).collect();
        Look {
            whole: hash(&texts),
            letters: hash(&letters),
            question,
            contaminated: self.contaminated(&texts.join("\n")),
        }
    }

    /// Of a document that was tokenized before.
    pub(crate) fn ids(&self, ids: &[u32], tokenizer: &Tokenizer) -> Result<Look> {
        let text = tokenizer.decode(ids, true).map_err(|error| DataError::Tokenizer(error.to_string()))?;
        let letters = hash(normalise(&text));
        Ok(Look { whole: hash(ids), letters, question: None, contaminated: self.contaminated(&text) })
    }

    fn contaminated(&self, text: &str) -> Option<Source> {
        let questions = self.against?;
        let found = questions.find(text).into_iter().next()?;
        Some(questions.source(found.question).clone())
    }
}

fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// What was found so far.
pub(crate) struct Findings {
    found: BTreeMap<Finding, Found>,
    bos: Option<u32>,
    /// Where each hash was first seen: of the whole, of the letters, of the question.
    wholes: HashMap<u64, Source>,
    letters: HashMap<u64, Source>,
    questions: HashMap<u64, Source>,
}

impl Findings {
    pub(crate) fn new(tokenizer: &Tokenizer) -> Self {
        Self {
            found: BTreeMap::new(),
            bos: tokenizer.bos_id(),
            wholes: HashMap::new(),
            letters: HashMap::new(),
            questions: HashMap::new(),
        }
    }

    fn find(&mut self, finding: Finding, at: &Source, detail: Detail) {
        let found = self.found.entry(finding).or_default();
        found.rows += 1;
        if found.examples.len() < EXAMPLES {
            found.examples.push(Example { at: at.clone(), detail });
        }
    }

    /// Takes note of a row: what became of it or, of a document that runs on into the next, its `ids`.
    pub(crate) fn account(&mut self, at: &Source, outcome: &Outcome, ids: &[u32], look: Look) {
        let mut ids = ids;
        match outcome {
            Outcome::Used { samples, length, cut, spells_special_tokens, lacks_end } => {
                match cut {
                    Cut::No => {}
                    &Cut::Truncated { answer_tokens } => {
                        self.find(
                            Finding::Truncated,
                            at,
                            Detail::Truncated { tokens: *length, answer_tokens },
                        );
                    }
                    &Cut::Split { left_out } => {
                        let samples = samples.len();
                        self.find(Finding::Split, at, Detail::Split { tokens: *length, samples, left_out });
                    }
                }
                if *lacks_end {
                    self.find(Finding::EndUntrained, at, Detail::None);
                }
                if *spells_special_tokens {
                    self.find(Finding::SpelledSpecialTokens, at, Detail::None);
                }
                ids = samples.first().map_or(ids, |sample| &sample.ids);
            }
            Outcome::Empty if ids.is_empty() => {
                self.find(Finding::Empty, at, Detail::None);
                return;
            }
            Outcome::Empty => {}
            Outcome::IdenticalPair { .. } => self.find(Finding::IdenticalPair, at, Detail::None),
            Outcome::Overlong { length } => {
                self.find(Finding::Overlong, at, Detail::Tokens(*length));
            }
            Outcome::PromptTooLong { length } => {
                self.find(Finding::PromptTooLong, at, Detail::Tokens(*length));
            }
        }
        if self.bos.is_some_and(|bos| ids.starts_with(&[bos, bos])) {
            self.find(Finding::DoubleBos, at, Detail::None);
        }
        let Look { whole, letters, question, contaminated } = look;
        if let Some(question) = contaminated {
            self.find(Finding::Contaminated, at, Detail::Question(question));
        }
        if let Some(first) = seen(&mut self.wholes, whole, at) {
            self.find(Finding::Duplicate, at, Detail::As(first));
        } else if let Some(first) = seen(&mut self.letters, letters, at) {
            self.find(Finding::NearDuplicate, at, Detail::As(first));
        } else if let Some(first) = question.and_then(|question| seen(&mut self.questions, question, at)) {
            self.find(Finding::SameQuestion, at, Detail::As(first));
        }
    }
}

/// Where this hash was seen before; else it is seen now.
fn seen(places: &mut HashMap<u64, Source>, hash: u64, at: &Source) -> Option<Source> {
    if let Some(first) = places.get(&hash) {
        return Some(first.clone());
    }
    places.insert(hash, at.clone());
    None
}

/// Bins from the shortest row's to the longest row's, none left out between them.
fn length_histogram(lengths: &BTreeMap<usize, u64>) -> Vec<LengthBin> {
    let bin = |length: usize| length.max(1).next_power_of_two();
    let mut bins: Vec<LengthBin> = Vec::new();
    for (&length, &rows) in lengths {
        let up_to = bins.last().map_or(bin(length), |bin| bin.up_to);
        if bins.is_empty() {
            bins.push(LengthBin { up_to, rows: 0 });
        }
        let mut next = up_to;
        while next < length {
            next *= 2;
            bins.push(LengthBin { up_to: next, rows: 0 });
        }
        if let Some(bin) = bins.last_mut() {
            bin.rows += rows;
        }
    }
    bins
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_of_lengths_have_no_gaps() {
        let bins = |lengths: &[usize]| -> Vec<(usize, u64)> {
            let mut counts = BTreeMap::new();
            lengths.iter().for_each(|length| *counts.entry(*length).or_default() += 1);
            length_histogram(&counts).iter().map(|bin| (bin.up_to, bin.rows)).collect()
        };
        assert_eq!(bins(&[]), []);
        assert_eq!(bins(&[0]), [(1, 1)]);
        assert_eq!(bins(&[5, 8, 9, 60, 64]), [(8, 2), (16, 1), (32, 0), (64, 2)]);
    }
}
