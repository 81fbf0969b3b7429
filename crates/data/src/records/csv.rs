//! CSV and TSV with a header, or with names given for it (RFC 4180): quoted fields may hold newlines and are as long as they
//! are. Every field is text: `NA`, `null` and `nan` are words, not missing values. Where the first line ends with CRLF, CRLF
//! becomes LF, inside fields too; elsewhere it stays, for there it is the field's own. A quote that is never closed, and so
//! takes the rest of the file with it, is an error.

use std::io::{BufRead, Read};
use std::sync::Arc;

use ::csv::{ByteRecord, Reader, ReaderBuilder};
use serde_json::{Map, Value};

use super::encoding::Utf8Reader;
use super::{FileText, RawRecord, RawRow, Source};
use crate::error::{DataError, Result, RowProblem};

/// A last row behind those of the file: in the middle of a field, if a quote is open. No text has these bytes.
const END: &[u8] = b"\n\xff\xfeend\xfe\xff\n";

pub(super) struct CsvRows {
    reader: Reader<LineFeeds<Utf8Reader>>,
    file: Arc<FileText>,
    names: Arc<[String]>,
}

impl CsvRows {
    pub(super) fn open(
        reader: Utf8Reader,
        file: Arc<FileText>,
        separator: u8,
        columns: Option<Vec<String>>,
    ) -> Result<Self> {
        // Rows are compared with the header here, so that the message can say both counts.
        let mut reader = ReaderBuilder::new()
            .flexible(true)
            .has_headers(columns.is_none())
            .delimiter(separator)
            .from_reader(LineFeeds { input: reader, keeps_crlf: None, end: END });
        let header = reader.byte_headers().map_err(read_error)?;
        if let Some(error) = unclosed(header, &[], &file) {
            return Err(error);
        }
        let header = if is_end(header) { &ByteRecord::new() } else { header };
        let names = columns
            .map_or_else(|| names(header, &file), |columns| Ok(columns.into()))
            .map_err(|problem| DataError::Row { at: Source { path: file.path.clone(), line: 1 }, problem })?;
        Ok(Self { reader, file, names })
    }
}

impl Iterator for CsvRows {
    type Item = Result<RawRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut fields = ByteRecord::new();
        match self.reader.read_byte_record(&mut fields) {
            Ok(false) => None,
            Err(error) => Some(Err(read_error(error))),
            Ok(true) if is_end(&fields) => None,
            Ok(true) => {
                if let Some(error) = unclosed(&fields, &self.names, &self.file) {
                    return Some(Err(error));
                }
                let line = fields.position().map_or(0, ::csv::Position::line);
                let source = Source { path: self.file.path.clone(), line };
                let row = RawRow::Csv { fields, file: self.file.clone(), names: self.names.clone() };
                Some(Ok(RawRecord { row, source }))
            }
        }
    }
}

fn is_end(row: &ByteRecord) -> bool {
    row.len() == 1 && row[0] == *END.trim_ascii()
}

/// The error of a row whose last field goes on to the end of the file, which is told with the line where it begins.
fn unclosed(row: &ByteRecord, names: &[String], file: &FileText) -> Option<DataError> {
    let last = row.len().checked_sub(1)?;
    if !row[last].ends_with(END) {
        return None;
    }
    let newlines = |field: &[u8]| field.iter().filter(|&&byte| byte == b'\n').count() as u64;
    let first = row.position().map_or(1, ::csv::Position::line);
    let line = first + row.iter().take(last).map(newlines).sum::<u64>();
    let field = names.get(last).cloned().unwrap_or_else(|| (last + 1).to_string());
    let at = Source { path: file.path.clone(), line };
    Some(DataError::Row { at, problem: RowProblem::UnclosedQuote { field } })
}

/// A row with the names of its columns.
pub(super) fn fields(
    row: &ByteRecord,
    names: &[String],
    file: &FileText,
) -> Result<Map<String, Value>, RowProblem> {
    if row.len() != names.len() {
        return Err(RowProblem::FieldCount { found: row.len(), expected: names.len() });
    }
    let text = |(name, bytes): (&String, &[u8])| {
        Ok((name.clone(), Value::String(file.check(bytes, Some(name))?.to_owned())))
    };
    names.iter().zip(row).map(text).collect()
}

fn names(row: &ByteRecord, file: &FileText) -> Result<Arc<[String]>, RowProblem> {
    let mut names: Vec<String> = Vec::with_capacity(row.len());
    for bytes in row {
        let name = file.check(bytes, Some("header"))?.trim().to_owned();
        if names.contains(&name) {
            return Err(RowProblem::DuplicateColumn { name });
        }
        names.push(name);
    }
    Ok(names.into())
}

/// Reads CRLF as LF where the first line ends so, and [`END`] behind the file. (The parser would also count the LF of a CRLF as the
/// first byte of the next row, and name a line too few.)
struct LineFeeds<R> {
    input: R,
    /// Whether the first line ends with LF alone; none before its end.
    keeps_crlf: Option<bool>,
    /// What is left of [`END`].
    end: &'static [u8],
}

impl<R: BufRead> Read for LineFeeds<R> {
    fn read(&mut self, output: &mut [u8]) -> std::io::Result<usize> {
        let input = self.input.fill_buf()?;
        if input.is_empty() {
            return self.end.read(output);
        }
        let length = input.len().min(output.len());
        let is_changed = self.keeps_crlf != Some(true);
        match input[..length].iter().position(|&byte| is_changed && byte == b'\r') {
            Some(0) => {
                self.input.consume(1);
                if self.input.fill_buf()?.first() == Some(&b'\n') {
                    self.input.consume(1);
                    self.keeps_crlf = Some(false);
                    output[0] = b'\n';
                } else {
                    output[0] = b'\r';
                }
                Ok(1)
            }
            carriage_return => {
                let length = carriage_return.unwrap_or(length);
                if self.keeps_crlf.is_none() && input[..length].contains(&b'\n') {
                    self.keeps_crlf = Some(true);
                }
                output[..length].copy_from_slice(&input[..length]);
                self.input.consume(length);
                Ok(length)
            }
        }
    }
}

fn read_error(error: ::csv::Error) -> DataError {
    match error.into_kind() {
        ::csv::ErrorKind::Io(error) => error.into(),
        kind => std::io::Error::new(std::io::ErrorKind::InvalidData, format!("{kind:?}")).into(),
    }
}
