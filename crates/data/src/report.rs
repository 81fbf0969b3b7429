//! What happened to the rows of a dataset: what was read, skipped, dropped, cut and learned. Nothing that is lost
//! goes uncounted.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::RowProblem;
use crate::packing::PackingReport;
use crate::records::Source;

/// Rows skipped for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// How many.
    pub rows: u64,
    /// The reason in Chinese.
    #[serde(default)]
    pub zh: String,
    /// Place and message of the first one.
    pub first: String,
}

/// Lengths of rows in tokens, before any is dropped or cut: what `cutoff_len` is chosen by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LengthPercentiles {
    /// Half of the rows are at most this long.
    pub p50: usize,
    /// 90 % of the rows are at most this long.
    pub p90: usize,
    /// 99 % of the rows are at most this long.
    pub p99: usize,
    /// The longest row.
    pub longest: usize,
}

impl LengthPercentiles {
    /// Of rows counted by their length.
    pub(crate) fn of(lengths: &BTreeMap<usize, u64>) -> Self {
        let rows: u64 = lengths.values().sum();
        let at = |percent: u64| {
            let mut rank = (rows * percent).div_ceil(100).max(1);
            let mut reached = lengths.iter().find(|&(_, &count)| {
                let is_here = rank <= count;
                rank = rank.saturating_sub(count);
                is_here
            });
            reached.take().map_or(0, |(&length, _)| length)
        };
        Self { p50: at(50), p90: at(90), p99: at(99), longest: at(100) }
    }
}

/// Where tokenized samples are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheReport {
    /// The folder.
    pub path: PathBuf,
    /// What it takes.
    pub bytes: u64,
    /// Whether an earlier run had made it.
    pub reused: bool,
}

/// The account of a loaded dataset.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DatasetReport {
    /// Rows and documents read, with those that were skipped or dropped.
    pub rows: u64,
    /// Rows that `on_bad_row: skip` left out, by reason.
    pub skipped: BTreeMap<String, Skipped>,
    /// Rows longer than `cutoff_len` that `overlong: drop` left out.
    pub dropped_overlong: u64,
    /// Rows left out under `overlong: truncate`, because their prompt alone fills `cutoff_len`.
    pub dropped_prompt_too_long: u64,
    /// Rows that `overlong: truncate` cut.
    pub truncated: u64,
    /// Answer tokens lost by these cuts.
    pub cut_answer_tokens: u64,
    /// Rows that `overlong: split` made shorter samples of.
    #[serde(default)]
    pub split: u64,
    /// Exchanges of these rows that are longer than `cutoff_len` alone, left out.
    #[serde(default)]
    pub dropped_exchanges: u64,
    /// Conversations that a limit on characters left out, by the option that did.
    #[serde(default)]
    pub filtered: BTreeMap<String, u64>,
    /// Documents without text and conversations with an empty answer, left out.
    pub empty: u64,
    /// Pairs whose answers are the same tokens, left out.
    #[serde(default)]
    pub identical_pairs: u64,
    /// Conversations used whose messages spell out special tokens, which became text.
    pub spelled_special_tokens: u64,
    /// Samples.
    pub samples: u64,
    /// Tokens of the samples.
    pub tokens: u64,
    /// Tokens of the samples that are learned.
    pub trained_tokens: u64,
    /// Lengths of the rows.
    pub lengths: LengthPercentiles,
    /// Rows in which a placeholder has no value, by its name.
    pub unfilled_placeholders: BTreeMap<String, u64>,
    /// How full the blocks are, where samples are packed.
    #[serde(default)]
    pub packing: Option<PackingReport>,
    /// Where the tokenized samples are kept.
    #[serde(default)]
    pub cache: Option<CacheReport>,
    /// Other remarks: files that were not read, columns that nothing uses.
    pub notices: Vec<String>,
}

impl DatasetReport {
    /// Adds what was counted of another data set; lengths do not add up.
    pub(crate) fn join(&mut self, other: &Self) {
        self.rows += other.rows;
        for (reason, skipped) in &other.skipped {
            let first = || Skipped { rows: 0, ..skipped.clone() };
            self.skipped.entry(reason.clone()).or_insert_with(first).rows += skipped.rows;
        }
        self.dropped_overlong += other.dropped_overlong;
        self.dropped_prompt_too_long += other.dropped_prompt_too_long;
        self.truncated += other.truncated;
        self.cut_answer_tokens += other.cut_answer_tokens;
        self.split += other.split;
        self.dropped_exchanges += other.dropped_exchanges;
        for (option, rows) in &other.filtered {
            *self.filtered.entry(option.clone()).or_default() += rows;
        }
        self.empty += other.empty;
        self.identical_pairs += other.identical_pairs;
        self.spelled_special_tokens += other.spelled_special_tokens;
        self.samples += other.samples;
        self.tokens += other.tokens;
        self.trained_tokens += other.trained_tokens;
        for (name, rows) in &other.unfilled_placeholders {
            *self.unfilled_placeholders.entry(name.clone()).or_default() += rows;
        }
        self.notices.extend(other.notices.iter().cloned());
    }

    /// The part of the tokens that is learned, from 0 to 1.
    pub fn trained_share(&self) -> f64 {
        if self.tokens == 0 { 0.0 } else { self.trained_tokens as f64 / self.tokens as f64 }
    }

    pub(crate) fn count_skipped(&mut self, at: &Source, problem: &RowProblem) {
        let first = || Skipped { rows: 0, zh: problem.reason_zh(), first: format!("{at}: {problem}") };
        self.skipped.entry(problem.reason()).or_insert_with(first).rows += 1;
    }

    /// Why rows were left out, with counts, in one line.
    pub(crate) fn losses(&self) -> String {
        let skipped =
            self.skipped.iter().map(|(reason, skipped)| format!("{} skipped ({reason})", skipped.rows));
        let filtered = self.filtered.iter().map(|(option, rows)| format!("{rows} outside `{option}`"));
        let mut losses: Vec<String> = skipped.chain(filtered).collect();
        for (count, what) in [
            (self.dropped_overlong, "longer than `cutoff_len`"),
            (self.dropped_prompt_too_long, "whose prompt alone is longer than `cutoff_len`"),
            (self.empty, "without text or with an empty answer"),
            (self.identical_pairs, "whose two answers are the same"),
        ] {
            if count > 0 {
                losses.push(format!("{count} {what}"));
            }
        }
        losses.join(", ")
    }
}

impl fmt::Display for DatasetReport {
    /// A line for each thing worth knowing, without a final newline.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, samples, tokens, trained_tokens, lengths, .. } = self;
        write!(
            formatter,
            "{rows} rows, {samples} samples, {tokens} tokens, {trained_tokens} of them trained"
        )?;
        write!(
            formatter,
            "\nrow length in tokens: half up to {}, 90 % up to {}, 99 % up to {}, longest {}",
            lengths.p50, lengths.p90, lengths.p99, lengths.longest
        )?;
        for (reason, Skipped { rows, first, .. }) in &self.skipped {
            write!(formatter, "\nskipped {rows} rows: {reason}, first {first}")?;
        }
        if self.dropped_overlong > 0 {
            write!(
                formatter,
                "\ndropped {} rows longer than `cutoff_len` (`overlong: truncate` would cut their answers)",
                self.dropped_overlong
            )?;
        }
        if self.truncated > 0 {
            write!(
                formatter,
                "\ntruncated {} rows longer than `cutoff_len`: {} answer tokens cut off",
                self.truncated, self.cut_answer_tokens
            )?;
        }
        if self.split > 0 {
            let Self { split, dropped_exchanges, .. } = self;
            write!(
                formatter,
                "\nsplit {split} rows longer than `cutoff_len` between their exchanges; {dropped_exchanges} exchanges \
                 longer than that alone were left out"
            )?;
        }
        if self.dropped_prompt_too_long > 0 {
            write!(
                formatter,
                "\ndropped {} rows whose prompt alone is longer than `cutoff_len`",
                self.dropped_prompt_too_long
            )?;
        }
        for (option, rows) in &self.filtered {
            write!(formatter, "\ndropped {rows} rows outside `{option}`")?;
        }
        if self.empty > 0 {
            write!(formatter, "\ndropped {} rows without text or with an empty answer", self.empty)?;
        }
        if self.identical_pairs > 0 {
            let pairs = self.identical_pairs;
            write!(
                formatter,
                "\ndropped {pairs} pairs whose answers are the same: neither could be preferred"
            )?;
        }
        if self.spelled_special_tokens > 0 {
            write!(
                formatter,
                "\n{} rows spell out special tokens in their messages: taken as text, which ends no turn",
                self.spelled_special_tokens
            )?;
        }
        for (name, rows) in &self.unfilled_placeholders {
            write!(
                formatter,
                "\nplaceholder `{{{{{name}}}}}` has no value in {rows} rows: set `dataset_placeholders.{name}`"
            )?;
        }
        if let Some(PackingReport { blocks, budget, efficiency, .. }) = self.packing {
            let percent = 100.0 * efficiency;
            write!(
                formatter,
                "\npacked into {blocks} blocks of {budget} tokens, {percent:.2} % of them filled"
            )?;
        }
        if let Some(CacheReport { path, bytes, reused }) = &self.cache {
            let (verb, megabytes) =
                (if *reused { "were taken from" } else { "are kept in" }, bytes / 1_000_000);
            write!(formatter, "\ntokenized samples {verb} `{}` ({megabytes} MB)", path.display())?;
        }
        for notice in &self.notices {
            write!(formatter, "\n{notice}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_lengths_of_rows() {
        let of = |rows: Vec<usize>| {
            let mut lengths = BTreeMap::new();
            rows.into_iter().for_each(|length| *lengths.entry(length).or_default() += 1);
            LengthPercentiles::of(&lengths)
        };
        assert_eq!(of(Vec::new()), LengthPercentiles::default());
        assert_eq!(of(vec![7]), LengthPercentiles { p50: 7, p90: 7, p99: 7, longest: 7 });
        let hundred = of((1..=100).rev().collect());
        assert_eq!(hundred, LengthPercentiles { p50: 50, p90: 90, p99: 99, longest: 100 });
    }
}
