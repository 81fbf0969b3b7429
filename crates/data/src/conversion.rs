//! Rows of any form that is read → a file of rows in one form: what `danlu data convert` does.
//!
//! It streams, and cuts nothing into tokens. What a form cannot hold is an error of the row, except for what only weighs or
//! explains an answer, which is left out and counted.

mod forms;
mod older;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use crate::cleaning::Inputs;
use crate::dataset_format::Purpose;
use crate::dataset_info::locate;
use crate::error::{DataError, Result};
use crate::options::DataOptions;
use crate::record_writer::RecordWriter;
use crate::records::{Records, split_sheet};
use crate::report::DatasetReport;
use crate::rows::{Rows, skip_or_fail};
use crate::token_files;

pub use forms::Form;
pub use older::OlderForm;

/// How a conversion went.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Conversion {
    /// Rows that were written.
    pub written: u64,
    /// What was read, skipped and left out.
    pub report: DatasetReport,
    /// What the form had no place for, and in how many rows.
    pub lost: BTreeMap<&'static str, u64>,
}

/// Writes the rows of `options.dataset` into `output`, whose ending says the kind of file. With `older` the texts are
/// those of an older project's own converter.
///
/// # Errors
/// Rows that cannot be read, or that the form cannot hold, unless `on_bad_row` skips them; an output that is one of the
/// inputs or lies in one of their folders, or cannot be written.
pub fn convert(
    options: &DataOptions,
    form: Form,
    older: Option<OlderForm>,
    output: &Path,
) -> Result<Conversion> {
    let mut conversion = Conversion::default();
    for name in &options.dataset {
        refuse_overwriting(name, options, output)?;
    }
    let mut writer = RecordWriter::create(output)?;
    for name in &options.dataset {
        match older {
            Some(older) => older_rows(name, options, form, older, &mut writer, &mut conversion)?,
            None => rows(name, options, form, &mut writer, &mut conversion)?,
        }
    }
    conversion.written = writer.rows();
    if conversion.written == 0 {
        let report = &conversion.report;
        return Err(DataError::NoSamples { rows: report.rows, reasons: report.losses() });
    }
    writer.finish()?;
    Ok(conversion)
}

fn rows(
    name: &str,
    options: &DataOptions,
    form: Form,
    writer: &mut RecordWriter,
    conversion: &mut Conversion,
) -> Result<()> {
    let Conversion { report, lost, .. } = conversion;
    let mut rows = Rows::open(options, Purpose::Any, name, report)?;
    while let Some((row, source)) = rows.next(report)? {
        match form.rows(row, lost) {
            Ok(rows) => rows.iter().try_for_each(|row| writer.write(row))?,
            Err(problem) => skip_or_fail(DataError::Row { at: source, problem }, options, report)?,
        }
    }
    // They stay as they are in the file.
    report.unfilled_placeholders.clear();
    Ok(())
}

fn older_rows(
    name: &str,
    options: &DataOptions,
    form: Form,
    older: OlderForm,
    writer: &mut RecordWriter,
    conversion: &mut Conversion,
) -> Result<()> {
    let report = &mut conversion.report;
    let located = locate(name, options)?;
    let records = match located.files {
        Some(files) => Records::of_files(files),
        None => Records::open(&located.path)?,
    };
    for record in records.take(options.max_samples.unwrap_or(usize::MAX)) {
        report.rows += 1;
        let row = record.and_then(|record| {
            let at = record.source.clone();
            older.row(record.content, form, options).map_err(|problem| DataError::Row { at, problem })
        });
        match row {
            Ok(Some(row)) => writer.write(&row)?,
            Ok(None) => {
                *report.filtered.entry("min_prompt_chars … max_answer_chars".to_owned()).or_default() += 1
            }
            Err(error) => skip_or_fail(error, options, report)?,
        }
    }
    Ok(())
}

fn refuse_overwriting(name: &str, options: &DataOptions, output: &Path) -> Result<()> {
    let located = locate(name, options)?;
    if token_files::is_token_file(&located.path) {
        return Err(token_files::no_texts(&located.path, "rows or texts"));
    }
    let inputs = located.files.unwrap_or_else(|| vec![split_sheet(&located.path).0.to_owned()]);
    Inputs::refuse_output(&inputs, output)
}
