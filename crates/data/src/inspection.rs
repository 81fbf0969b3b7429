//! A data set looked at before training on it: what is in it, what is lost of it, what of it is learned, and what looks
//! wrong. It reads the rows itself, one batch after another, and keeps no samples.
//!
//! Rows that say the same are found by hashes: of the whole sample, and of its letters and digits alone. Finding more
//! distant relatives, and removing anything, belongs to deduplication.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::ControlFlow;

use danlu_tokenizer::Tokenizer;
use rayon::prelude::*;
use serde::Serialize;

use crate::contamination::Questions;
use crate::dataset::Task;
use crate::dataset_format::{Conversation, Purpose, Row};
use crate::deduplication::row_text::normalise;
use crate::error::{DataError, Result};
use crate::options::DataOptions;
use crate::records::Source;
use crate::report::{DatasetReport, LengthPercentiles, Skipped};
use crate::rows::{Rows, skip_or_fail};
use crate::sample::{Cut, Outcome, Sample, conversation_sample, document_samples, id_samples};
use crate::token_files;

/// Rows that are tokenized together.
const ROWS_AT_ONCE: usize = 512;

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
    pub const ALL: [Self; 12] = [
        Self::Overlong,
        Self::PromptTooLong,
        Self::Truncated,
        Self::Split,
        Self::Empty,
        Self::DoubleBos,
        Self::EndUntrained,
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
    /// The first few: where they are, and what of them is meant.
    pub examples: Vec<String>,
}

/// What a data set holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Inspection {
    /// Its name, as it was asked for.
    pub name: String,
    /// Rows and documents read, with those that are left out.
    pub rows: u64,
    /// Samples that they become.
    pub samples: u64,
    /// Tokens of the samples.
    pub tokens: u64,
    /// Tokens of the samples that are learned.
    pub trained_tokens: u64,
    /// Answer tokens that `overlong: truncate` cuts off.
    pub cut_answer_tokens: u64,
    /// Lengths of the rows in tokens, before any is left out or cut.
    pub lengths: LengthPercentiles,
    /// The same by powers of two, without gaps.
    pub length_histogram: Vec<LengthBin>,
    /// Rows that cannot be read and that `on_bad_row: skip` leaves out, by reason.
    pub skipped: BTreeMap<String, Skipped>,
    /// What was found.
    pub findings: BTreeMap<Finding, Found>,
    /// Other remarks: files that are not read, columns that nothing uses.
    pub notices: Vec<String>,
}

impl Inspection {
    /// Reads the data set `name` of `options`; `against` holds questions that should not be in it. `progress(rows done)`
    /// may stop the work, and what was found until then is the result.
    ///
    /// # Errors
    /// As for training on it, but for a data set of which nothing is left.
    pub fn of(
        name: &str,
        options: &DataOptions,
        tokenizer: &Tokenizer,
        task: Task<'_>,
        against: Option<&Questions>,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Self> {
        let purpose = match task {
            Task::Pretraining => Purpose::Pretraining,
            Task::Conversation { .. } => Purpose::Conversation,
        };
        let mut report = DatasetReport::default();
        let mut looking = Looking::default();
        if let Some(path) = token_files::find(name, options)? {
            let mut use_ids = |ids: Vec<u32>, source| {
                looking.account(look_at_ids(&ids, source, options, tokenizer, against)?);
                Ok(())
            };
            let (rows, notice) = token_files::read(&path, options, tokenizer, &mut use_ids)?;
            report.rows = rows;
            report.notices.extend(notice);
            return Ok(looking.finish(name, report));
        }
        let mut rows = Rows::open(options, purpose, name, &mut report)?;
        let mut waiting = Vec::with_capacity(ROWS_AT_ONCE);
        loop {
            let row = rows.next(&mut report)?;
            let is_end = row.is_none();
            waiting.extend(row);
            if waiting.len() < ROWS_AT_ONCE && !is_end {
                continue;
            }
            let looks: Vec<Result<Look>> = std::mem::take(&mut waiting)
                .into_par_iter()
                .map(|(row, source)| look(row, source, options, tokenizer, task, against))
                .collect();
            for look in looks {
                match look {
                    Ok(look) => looking.account(look),
                    Err(error) => skip_or_fail(error, options, &mut report)?,
                }
            }
            if is_end || progress(report.rows).is_break() {
                break;
            }
        }
        Ok(looking.finish(name, report))
    }

    /// The part of the tokens that is learned, from 0 to 1.
    pub fn trained_share(&self) -> f64 {
        if self.tokens == 0 { 0.0 } else { self.trained_tokens as f64 / self.tokens as f64 }
    }
}

/// What is seen of one row.
struct Look {
    source: Source,
    outcome: Outcome,
    begins_twice: bool,
    /// Hashes of the whole, of its letters and digits, and of what is asked.
    whole: u64,
    letters: u64,
    question: Option<u64>,
    contaminated: Option<String>,
}

fn look(
    row: Row,
    source: Source,
    options: &DataOptions,
    tokenizer: &Tokenizer,
    task: Task<'_>,
    against: Option<&Questions>,
) -> Result<Look> {
    let at = source.clone();
    let mut row = row;
    let (texts, question): (Vec<&str>, _) = match &mut row {
        Row::Document(text) => (vec![text], None),
        Row::Conversation(Conversation { messages, .. }) => {
            let asked = &messages[..messages.len().saturating_sub(1)];
            let asked =
                hash(asked.iter().map(|message| (&message.role, &message.content)).collect::<Vec<_>>());
            (messages.iter().map(|message| message.content.as_str()).collect(), Some(asked))
        }
        row => (row.messages_mut().into_iter().map(|message| message.content.as_str()).collect(), None),
    };
    let whole = hash(&texts);
    let letters: Vec<String> = texts.iter().map(|text| normalise(text)).collect();
    let contaminated = against.and_then(|questions| {
        let found = questions.find(&texts.join("\n")).into_iter().next()?;
        Some(questions.source(found.question).to_string())
    });
    let letters = hash(&letters);
    let outcome = match (row, task) {
        (Row::Conversation(conversation), Task::Conversation { template, tokens }) => {
            conversation_sample(&conversation, tokenizer, template, tokens, options, source)?
        }
        (Row::Document(text), _) => document_samples(&text, tokenizer, options, source)?,
        // Rows are read for the task, so that there are no others.
        _ => Outcome::Empty,
    };
    let begins_twice = match &outcome {
        Outcome::Used { samples, .. } => begins_twice(&samples[0], tokenizer),
        _ => false,
    };
    Ok(Look { source: at, outcome, begins_twice, whole, letters, question, contaminated })
}

/// A document that was tokenized before.
fn look_at_ids(
    ids: &[u32],
    source: Source,
    options: &DataOptions,
    tokenizer: &Tokenizer,
    against: Option<&Questions>,
) -> Result<Look> {
    let text = tokenizer.decode(ids, true).map_err(|error| DataError::Tokenizer(error.to_string()))?;
    let found = against.and_then(|questions| {
        let found = questions.find(&text).into_iter().next()?;
        Some(questions.source(found.question).to_string())
    });
    Ok(Look {
        outcome: id_samples(ids, options.cutoff_len, source.clone()),
        source,
        begins_twice: false,
        whole: hash(ids),
        letters: hash(normalise(&text)),
        question: None,
        contaminated: found,
    })
}

fn begins_twice(sample: &Sample, tokenizer: &Tokenizer) -> bool {
    let Some(bos) = tokenizer.bos_id() else { return false };
    sample.ids.starts_with(&[bos, bos])
}

fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// What was seen so far.
#[derive(Default)]
struct Looking {
    inspection: Inspection,
    /// Rows by their tokens.
    lengths: BTreeMap<usize, u64>,
    /// Where each hash was first seen: of the whole, of the letters, of the question.
    wholes: HashMap<u64, Source>,
    letters: HashMap<u64, Source>,
    questions: HashMap<u64, Source>,
}

impl Looking {
    fn find(&mut self, finding: Finding, example: impl FnOnce() -> String) {
        let found = self.inspection.findings.entry(finding).or_default();
        found.rows += 1;
        if found.examples.len() < EXAMPLES {
            found.examples.push(example());
        }
    }

    fn finish(self, name: &str, report: DatasetReport) -> Inspection {
        Inspection {
            name: name.to_owned(),
            rows: report.rows,
            length_histogram: length_histogram(&self.lengths),
            lengths: LengthPercentiles::of(&self.lengths),
            skipped: report.skipped,
            notices: report.notices,
            ..self.inspection
        }
    }

    fn account(&mut self, look: Look) {
        let Look { source: at, outcome, begins_twice, whole, letters, question, contaminated } = look;
        match outcome {
            Outcome::Used { samples, length, cut, spells_special_tokens, lacks_end } => {
                match cut {
                    Cut::No => {}
                    Cut::Truncated { answer_tokens } => {
                        self.inspection.cut_answer_tokens += answer_tokens as u64;
                        self.find(Finding::Truncated, || {
                            format!("{at}: {length} tokens, {answer_tokens} of the answer cut off")
                        });
                    }
                    Cut::Split { left_out } => self.find(Finding::Split, || {
                        let parts = samples.len();
                        format!("{at}: {length} tokens, {parts} samples, {left_out} exchanges left out")
                    }),
                }
                if lacks_end {
                    self.find(Finding::EndUntrained, || at.to_string());
                }
                if spells_special_tokens {
                    self.find(Finding::SpelledSpecialTokens, || at.to_string());
                }
                *self.lengths.entry(length).or_default() += 1;
                self.inspection.samples += samples.len() as u64;
                self.inspection.tokens += samples.iter().map(|sample| sample.ids.len() as u64).sum::<u64>();
                self.inspection.trained_tokens +=
                    samples.iter().map(|sample| sample.trained_tokens() as u64).sum::<u64>();
            }
            Outcome::Empty => {
                self.find(Finding::Empty, || at.to_string());
                return;
            }
            Outcome::Overlong { length } => {
                *self.lengths.entry(length).or_default() += 1;
                self.find(Finding::Overlong, || format!("{at}: {length} tokens"));
            }
            Outcome::PromptTooLong { length } => {
                *self.lengths.entry(length).or_default() += 1;
                self.find(Finding::PromptTooLong, || format!("{at}: {length} tokens"));
            }
        }
        if begins_twice {
            self.find(Finding::DoubleBos, || at.to_string());
        }
        if let Some(question) = contaminated {
            self.find(Finding::Contaminated, || format!("{at}: {question}"));
        }
        if let Some(first) = seen(&mut self.wholes, whole, &at) {
            self.find(Finding::Duplicate, || as_before(&at, &first));
        } else if let Some(first) = seen(&mut self.letters, letters, &at) {
            self.find(Finding::NearDuplicate, || as_before(&at, &first));
        } else if let Some(first) = question.and_then(|question| seen(&mut self.questions, question, &at)) {
            self.find(Finding::SameQuestion, || as_before(&at, &first));
        }
    }
}

fn as_before(at: &Source, first: &Source) -> String {
    if at.path == first.path { format!("{at}: as line {}", first.line) } else { format!("{at}: as {first}") }
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
