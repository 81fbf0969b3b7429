//! A dataset → its rows with their meaning, placeholders filled, one after another; what cannot be read is an error or
//! is skipped and counted. Knows no tokens.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::dataset_format::{Layout, Purpose, Row, RowLengths, Tags};
use crate::dataset_info::locate;
use crate::error::{DataError, Result};
use crate::options::{Columns, DataOptions, OnBadRow};
use crate::placeholders;
use crate::records::{RawRecord, Record, Records, Source, ignored_notice};
use crate::report::DatasetReport;

/// The rows of one dataset.
pub(crate) struct Rows<'a> {
    options: &'a DataOptions,
    path: PathBuf,
    records: Records,
    purpose: Purpose,
    columns: Columns,
    tags: Tags,
    /// Of the current file.
    layout: Option<(Arc<Path>, Arc<Layout>)>,
    limit: Option<usize>,
    taken: usize,
    is_empty: bool,
}

/// A row that is found but not yet understood, so that rows can be understood on many threads.
pub(crate) struct FoundRow {
    record: RawRecord,
    layout: Arc<Layout>,
}

/// A row that is understood.
pub(crate) struct ReadRow {
    pub(crate) row: Row,
    pub(crate) source: Source,
    pub(crate) remarks: Remarks,
}

/// What is to be counted of a row.
#[derive(Default)]
pub(crate) struct Remarks {
    unfilled: BTreeSet<String>,
    /// The option whose limit on characters it does not keep.
    outside: Option<&'static str>,
}

impl<'a> Rows<'a> {
    /// Finds the dataset `name`; remarks go into `notices`.
    pub(crate) fn open(
        options: &'a DataOptions,
        purpose: Purpose,
        name: &str,
        notices: &mut Vec<String>,
    ) -> Result<Self> {
        let located = locate(name, options)?;
        let records = match &located.files {
            Some(files) => Records::of_files_with(files.clone(), &options.reading()),
            None => Records::open_with(&located.path, &options.reading())?,
        };
        notices.extend(ignored_notice(records.ignored()));
        notices.extend(located.notices);
        Ok(Self {
            options,
            path: located.path,
            records,
            purpose,
            columns: options.columns.clone().or(&located.columns),
            tags: located.tags,
            layout: None,
            limit: [options.max_samples, located.max_rows].into_iter().flatten().min(),
            taken: 0,
            is_empty: true,
        })
    }

    /// The files that are still to come.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        self.records.files()
    }

    /// Everything beside the options and the files that decides what rows mean.
    pub(crate) fn meaning(&self) -> String {
        let Self { purpose, columns, tags, limit, .. } = self;
        format!("{purpose:?} {columns:?} {tags:?} {limit:?}")
    }

    /// How many rows are taken at most, those that are skipped or outside of a limit not counted.
    pub(crate) fn limit(&self) -> Option<usize> {
        self.limit
    }

    /// The next row, counted in `report` with those that are skipped before it.
    pub(crate) fn next(&mut self, report: &mut DatasetReport) -> Result<Option<(Row, Source)>> {
        while self.limit.is_none_or(|limit| self.taken < limit) {
            let found = self.find(&mut report.notices);
            let Some(found) = found.transpose() else { return Ok(None) };
            report.rows += 1;
            match found.and_then(|found| found.read(self.options)) {
                Ok(ReadRow { row, source, remarks }) => {
                    if remarks.count(report) {
                        self.taken += 1;
                        return Ok(Some((row, source)));
                    }
                }
                Err(error) => skip_or_fail(error, self.options, report)?,
            }
        }
        Ok(None)
    }

    /// The next row, whatever it is; the layout of a file is found by the first of its rows that has one.
    pub(crate) fn find(&mut self, notices: &mut Vec<String>) -> Result<Option<FoundRow>> {
        let record = self.records.next_raw();
        notices.extend(self.records.take_notices());
        let Some(record) = record else {
            return if self.is_empty { Err(DataError::Empty { path: self.path.clone() }) } else { Ok(None) };
        };
        self.is_empty = false;
        let record = record?;
        let path = &record.source().path;
        if let Some((known, layout)) = &self.layout
            && (Arc::ptr_eq(known, path) || known == path)
        {
            return Ok(Some(FoundRow { record, layout: layout.clone() }));
        }
        let record = record.parse()?;
        match Layout::detect(&record.content, self.purpose, &self.columns, &self.tags) {
            Ok(layout) => {
                let layout = Arc::new(layout);
                self.layout = Some((record.source.path.clone(), layout.clone()));
                Ok(Some(FoundRow { record: RawRecord::parsed(record), layout }))
            }
            Err(problem) => Err(DataError::Row { at: record.source, problem }),
        }
    }
}

impl FoundRow {
    /// Bytes that it takes, as a measure of the work.
    pub(crate) fn bytes(&self) -> usize {
        self.record.bytes()
    }

    /// What it means.
    ///
    /// # Errors
    /// [`DataError::Row`].
    pub(crate) fn read(self, options: &DataOptions) -> Result<ReadRow> {
        let Record { content, source } = self.record.parse()?;
        match self.layout.read(content, options.default_system.as_deref()) {
            Ok(row) => {
                let (row, unfilled) = fill_placeholders(row, options);
                let outside = outside_limit(&row, options);
                Ok(ReadRow { row, source, remarks: Remarks { unfilled, outside } })
            }
            Err(problem) => Err(DataError::Row { at: source, problem }),
        }
    }
}

impl Remarks {
    /// Whether the row keeps all limits.
    pub(crate) fn is_inside(&self) -> bool {
        self.outside.is_none()
    }

    /// Counts what is to be counted, and says whether the row is used.
    pub(crate) fn count(self, report: &mut DatasetReport) -> bool {
        for name in self.unfilled {
            *report.unfilled_placeholders.entry(name).or_default() += 1;
        }
        if let Some(option) = self.outside {
            *report.filtered.entry(option.to_owned()).or_default() += 1;
        }
        self.outside.is_none()
    }
}

/// The option whose limit on characters the prompt or an answer of a row does not keep.
fn outside_limit(row: &Row, options: &DataOptions) -> Option<&'static str> {
    let DataOptions { min_prompt_chars, max_prompt_chars, min_answer_chars, max_answer_chars, .. } = options;
    let limits = [min_prompt_chars, max_prompt_chars, min_answer_chars, max_answer_chars];
    // Most runs have no limit, and characters take time to count.
    if limits.into_iter().all(Option::is_none) {
        return None;
    }
    let RowLengths { prompt, answers } = row.lengths()?;
    let is_answer = |is_outside: &dyn Fn(usize) -> bool| answers.iter().any(|&answer| is_outside(answer));
    [
        ("min_prompt_chars", min_prompt_chars.is_some_and(|least| prompt < least)),
        ("max_prompt_chars", max_prompt_chars.is_some_and(|most| prompt > most)),
        ("min_answer_chars", min_answer_chars.is_some_and(|least| is_answer(&|answer| answer < least))),
        ("max_answer_chars", max_answer_chars.is_some_and(|most| is_answer(&|answer| answer > most))),
    ]
    .into_iter()
    .find_map(|(option, is_outside)| is_outside.then_some(option))
}

/// Counts a bad row if `on_bad_row` says so, else gives the error back.
pub(crate) fn skip_or_fail(
    error: DataError,
    options: &DataOptions,
    report: &mut DatasetReport,
) -> Result<()> {
    match error {
        DataError::Row { at, problem }
            if options.on_bad_row == OnBadRow::Skip && problem.can_be_skipped() =>
        {
            report.count_skipped(&at, &problem);
            Ok(())
        }
        error => Err(error),
    }
}

fn fill_placeholders(row: Row, options: &DataOptions) -> (Row, BTreeSet<String>) {
    let values = &options.dataset_placeholders;
    let mut unfilled = BTreeSet::new();
    let filled = match row {
        // Braces of a corpus are its own unless placeholders were asked for.
        Row::Document(text) if values.is_empty() => Row::Document(text),
        Row::Document(text) => Row::Document(placeholders::fill(&text, values, &mut unfilled)),
        mut row => {
            for message in row.messages_mut() {
                message.content = placeholders::fill(&message.content, values, &mut unfilled);
            }
            row
        }
    };
    (filled, unfilled)
}
