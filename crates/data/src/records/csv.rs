//! CSV with a header (RFC 4180): quoted fields may hold newlines and are as long as they are. Every field is
//! text: `NA`, `null` and `nan` are words, not missing values. CRLF becomes LF, inside fields too.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use ::csv::{ByteRecord, Reader, ReaderBuilder};
use fs_err as fs;
use serde_json::{Map, Value};

use super::{Content, Record, Source, byte_order_mark};
use crate::error::{DataError, Result, RowProblem};

pub(super) struct CsvRows {
    reader: Reader<LineFeeds<BufReader<fs::File>>>,
    path: Arc<Path>,
    names: Vec<String>,
    row: ByteRecord,
}

impl CsvRows {
    pub(super) fn open(path: Arc<Path>) -> Result<Self> {
        // Rows are compared with the header here, so that the message can say both counts.
        let file = LineFeeds(BufReader::new(fs::File::open(&*path)?));
        let mut reader = ReaderBuilder::new().flexible(true).from_reader(file);
        let names = header(reader.byte_headers().map_err(read_error)?)
            .map_err(|problem| DataError::Row { at: Source { path: path.clone(), line: 1 }, problem })?;
        Ok(Self { reader, path, names, row: ByteRecord::new() })
    }

    fn fields(&self) -> Result<Map<String, Value>, RowProblem> {
        if self.row.len() != self.names.len() {
            return Err(RowProblem::FieldCount { found: self.row.len(), expected: self.names.len() });
        }
        let texts = self.names.iter().zip(&self.row);
        texts.map(|(name, bytes)| Ok((name.clone(), Value::String(utf8(bytes, name)?.to_owned())))).collect()
    }
}

impl Iterator for CsvRows {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.reader.read_byte_record(&mut self.row) {
            Ok(false) => None,
            Err(error) => Some(Err(read_error(error))),
            Ok(true) => {
                let line = self.row.position().map_or(0, ::csv::Position::line);
                let source = Source { path: self.path.clone(), line };
                Some(match self.fields() {
                    Ok(fields) => Ok(Record { content: Content::Fields(fields), source }),
                    Err(problem) => Err(DataError::Row { at: source, problem }),
                })
            }
        }
    }
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

fn header(row: &ByteRecord) -> Result<Vec<String>, RowProblem> {
    let mut names: Vec<String> = Vec::with_capacity(row.len());
    for (index, bytes) in row.iter().enumerate() {
        let start = if index == 0 { byte_order_mark(bytes) } else { 0 };
        let name = utf8(&bytes[start..], "header")?.trim().to_owned();
        if names.contains(&name) {
            return Err(RowProblem::DuplicateColumn { name });
        }
        names.push(name);
    }
    Ok(names)
}

fn utf8<'a>(bytes: &'a [u8], name: &str) -> Result<&'a str, RowProblem> {
    std::str::from_utf8(bytes).map_err(|error| RowProblem::InvalidUtf8 {
        byte: error.valid_up_to() + 1,
        field: Some(name.to_owned()),
    })
}

fn read_error(error: ::csv::Error) -> DataError {
    std::io::Error::other(error).into()
}
