//! A dataset → its rows with their meaning, placeholders filled, one after another; what cannot be read is an error or
//! is skipped and counted. Knows no tokens.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::dataset_format::{Layout, Purpose, Row, RowLengths, Tags};
use crate::dataset_info::locate;
use crate::error::{DataError, Result, RowProblem};
use crate::options::{Columns, DataOptions, OnBadRow};
use crate::placeholders;
use crate::records::{Content, Record, Records, Source};
use crate::report::DatasetReport;

/// The rows of one dataset.
pub(crate) struct Rows<'a> {
    options: &'a DataOptions,
    path: PathBuf,
    records: Records,
    reader: RowReader,
    limit: Option<usize>,
    taken: usize,
    is_empty: bool,
}

impl<'a> Rows<'a> {
    /// Finds the dataset `name`; remarks go into `report`.
    pub(crate) fn open(
        options: &'a DataOptions,
        purpose: Purpose,
        name: &str,
        report: &mut DatasetReport,
    ) -> Result<Self> {
        let located = locate(name, options)?;
        let records = match &located.files {
            Some(files) => Records::of_files_with(files.clone(), &options.reading()),
            None => Records::open_with(&located.path, &options.reading())?,
        };
        for path in records.ignored() {
            report.notices.push(format!("not read because of its name: `{}`", path.display()));
        }
        report.notices.extend(located.notices);
        let columns = options.columns.clone().or(&located.columns);
        Ok(Self {
            options,
            path: located.path,
            records,
            reader: RowReader { purpose, columns, tags: located.tags, layout: None },
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
        let RowReader { purpose, columns, tags, .. } = &self.reader;
        format!("{purpose:?} {columns:?} {tags:?} {:?}", self.limit)
    }

    /// The next row, counted in `report` with those that are skipped before it.
    pub(crate) fn next(&mut self, report: &mut DatasetReport) -> Result<Option<(Row, Source)>> {
        if self.limit.is_some_and(|limit| self.taken >= limit) {
            return Ok(None);
        }
        while let Some(record) = self.records.next() {
            report.notices.extend(self.records.take_notices());
            self.is_empty = false;
            report.rows += 1;
            let default_system = self.options.default_system.as_deref();
            match record.and_then(|record| self.reader.row(record, default_system)) {
                Ok((row, source)) => {
                    let row = fill_placeholders(row, self.options, report);
                    if let Some(option) = outside_limit(&row, self.options) {
                        *report.filtered.entry(option.to_owned()).or_default() += 1;
                        continue;
                    }
                    self.taken += 1;
                    return Ok(Some((row, source)));
                }
                Err(error) => skip_or_fail(error, self.options, report)?,
            }
        }
        report.notices.extend(self.records.take_notices());
        if self.is_empty {
            return Err(DataError::Empty { path: self.path.clone() });
        }
        Ok(None)
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

fn fill_placeholders(row: Row, options: &DataOptions, report: &mut DatasetReport) -> Row {
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
    for name in unfilled {
        *report.unfilled_placeholders.entry(name).or_default() += 1;
    }
    filled
}

/// Gives rows their meaning; the layout is found anew for each file.
struct RowReader {
    purpose: Purpose,
    columns: Columns,
    tags: Tags,
    layout: Option<(Arc<Path>, Layout)>,
}

impl RowReader {
    fn row(&mut self, record: Record, default_system: Option<&str>) -> Result<(Row, Source)> {
        let Record { content, source } = record;
        match self.layout(&content, &source).and_then(|layout| layout.read(content, default_system)) {
            Ok(row) => Ok((row, source)),
            Err(problem) => Err(DataError::Row { at: source, problem }),
        }
    }

    fn layout(&mut self, content: &Content, source: &Source) -> Result<&Layout, RowProblem> {
        let is_known = self.layout.as_ref().is_some_and(|(path, _)| *path == source.path);
        let layout = match self.layout.take() {
            Some((_, layout)) if is_known => layout,
            _ => Layout::detect(content, self.purpose, &self.columns, &self.tags)?,
        };
        Ok(&self.layout.insert((source.path.clone(), layout)).1)
    }
}
