//! CSV and TSV with a header (RFC 4180): quoted fields may hold newlines and are as long as they are. Every field is
//! text: `NA`, `null` and `nan` are words, not missing values. CRLF becomes LF, inside fields too.

use std::io::{BufRead, Read};
use std::sync::Arc;

use ::csv::{ByteRecord, Reader, ReaderBuilder};
use serde_json::{Map, Value};

use super::encoding::Utf8Reader;
use super::{FileText, RawRecord, RawRow, Source};
use crate::error::{DataError, Result, RowProblem};

pub(super) struct CsvRows {
    reader: Reader<LineFeeds<Utf8Reader>>,
    file: Arc<FileText>,
    names: Arc<[String]>,
}

impl CsvRows {
    pub(super) fn open(reader: Utf8Reader, file: Arc<FileText>, separator: u8) -> Result<Self> {
        // Rows are compared with the header here, so that the message can say both counts.
        let mut reader =
            ReaderBuilder::new().flexible(true).delimiter(separator).from_reader(LineFeeds(reader));
        let header = reader.byte_headers().map_err(read_error)?;
        let names = names(header, &file)
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
            Ok(true) => {
                let line = fields.position().map_or(0, ::csv::Position::line);
                let source = Source { path: self.file.path.clone(), line };
                let row = RawRow::Csv { fields, file: self.file.clone(), names: self.names.clone() };
                Some(Ok(RawRecord { row, source }))
            }
        }
    }
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

/// Reads CRLF as LF. (The parser would also count the LF of a CRLF as the first byte of the next row, and name a
/// line too few.)
struct LineFeeds<R>(R);

impl<R: BufRead> Read for LineFeeds<R> {
    fn read(&mut self, output: &mut [u8]) -> std::io::Result<usize> {
        let input = self.0.fill_buf()?;
        let length = input.len().min(output.len());
        match input[..length].iter().position(|&byte| byte == b'\r') {
            Some(0) => {
                self.0.consume(1);
                if self.0.fill_buf()?.first() == Some(&b'\n') {
                    self.0.consume(1);
                    output[0] = b'\n';
                } else {
                    output[0] = b'\r';
                }
                Ok(1)
            }
            carriage_return => {
                let length = carriage_return.unwrap_or(length);
                output[..length].copy_from_slice(&input[..length]);
                self.0.consume(length);
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
