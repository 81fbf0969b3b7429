//! What happened to the rows of a dataset: what was read, skipped, dropped, cut and learned. Nothing that is lost
//! goes uncounted.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::error::RowProblem;
use crate::records::Source;

/// Rows skipped for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// How many.
    pub rows: u64,
    /// Place and message of the first one.
    pub first: String,
}

/// Lengths of rows in tokens, before any is dropped or cut: what `cutoff_len` is chosen by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
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
    pub(crate) fn of(mut lengths: Vec<usize>) -> Self {
        lengths.sort_unstable();
        let at = |percent: usize| {
            let rank = (lengths.len() * percent).div_ceil(100).max(1) - 1;
            lengths.get(rank).copied().unwrap_or(0)
        };
        Self { p50: at(50), p90: at(90), p99: at(99), longest: at(100) }
    }
}

/// The account of a loaded dataset.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
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
    /// Documents without text and conversations with an empty answer, left out.
    pub empty: u64,
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
    /// Other remarks: files that were not read, columns that nothing uses.
    pub notices: Vec<String>,
}

impl DatasetReport {
    pub(crate) fn count_skipped(&mut self, at: &Source, problem: &RowProblem) {
        let first = || Skipped { rows: 0, first: format!("{at}: {problem}") };
        self.skipped.entry(problem.reason()).or_insert_with(first).rows += 1;
    }

    /// Why rows were left out, with counts, in one line.
    pub(crate) fn losses(&self) -> String {
        let mut losses: Vec<String> = self
            .skipped
            .iter()
            .map(|(reason, skipped)| format!("{} skipped ({reason})", skipped.rows))
            .collect();
        for (count, what) in [
            (self.dropped_overlong, "longer than `cutoff_len`"),
            (self.dropped_prompt_too_long, "whose prompt alone is longer than `cutoff_len`"),
            (self.empty, "without text or with an empty answer"),
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
        for (reason, Skipped { rows, first }) in &self.skipped {
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
        if self.dropped_prompt_too_long > 0 {
            write!(
                formatter,
                "\ndropped {} rows whose prompt alone is longer than `cutoff_len`",
                self.dropped_prompt_too_long
            )?;
        }
        if self.empty > 0 {
            write!(formatter, "\ndropped {} rows without text or with an empty answer", self.empty)?;
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
        let of = LengthPercentiles::of;
        assert_eq!(of(Vec::new()), LengthPercentiles::default());
        assert_eq!(of(vec![7]), LengthPercentiles { p50: 7, p90: 7, p99: 7, longest: 7 });
        let hundred = of((1..=100).rev().collect());
        assert_eq!(hundred, LengthPercentiles { p50: 50, p90: 90, p99: 99, longest: 100 });
    }
}
