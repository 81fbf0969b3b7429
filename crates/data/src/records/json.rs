//! JSON files of many objects: an array, or objects one after another (as in Math23K).
//!
//! The file is held as bytes and parsed value by value, never as one tree. After a broken object, reading goes on
//! at the next line that opens an object with the indentation of the first one; where there is none, the rest of
//! the file cannot be read, and that is an error that cannot be skipped.

use std::path::Path;
use std::sync::Arc;

use fs_err as fs;
use serde_json::{Deserializer, Value};

use super::{Record, Source, byte_order_mark, json_message, object_record};
use crate::error::{DataError, Result, RowProblem};

pub(super) struct JsonValues {
    path: Arc<Path>,
    bytes: Vec<u8>,
    position: usize,
    /// 1-based line of `position`.
    line: u64,
    is_array: bool,
    /// White space before the first object, if the object begins its line.
    indentation: Option<Vec<u8>>,
    is_first: bool,
    is_done: bool,
}

impl JsonValues {
    pub(super) fn array(path: Arc<Path>) -> Result<Self> {
        let mut values = Self::open(path, true)?;
        values.skip_separators();
        values.advance_to(values.position + 1);
        Ok(values)
    }

    pub(super) fn stream(path: Arc<Path>) -> Result<Self> {
        Self::open(path, false)
    }

    fn open(path: Arc<Path>, is_array: bool) -> Result<Self> {
        let bytes = fs::read(&path)?;
        let position = byte_order_mark(&bytes);
        Ok(Self {
            path,
            bytes,
            position,
            line: 1,
            is_array,
            indentation: None,
            is_first: true,
            is_done: false,
        })
    }

    fn advance_to(&mut self, position: usize) {
        self.line += self.bytes[self.position..position].iter().filter(|&&byte| byte == b'\n').count() as u64;
        self.position = position;
    }

    fn skip_separators(&mut self) {
        let rest = &self.bytes[self.position..];
        let length = rest
            .iter()
            .position(|&byte| !(byte.is_ascii_whitespace() || self.is_array && byte == b','))
            .unwrap_or(rest.len());
        self.advance_to(self.position + length);
    }

    fn start_of_line(&self, position: usize) -> usize {
        self.bytes[..position].iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1)
    }

    /// The error at `position`; the rest of the file is given up unless `rest_is_readable`.
    fn invalid(&mut self, position: usize, message: String, rest_is_readable: bool) -> DataError {
        self.is_done |= !rest_is_readable;
        let lines = self.bytes[self.position..position].iter().filter(|&&byte| byte == b'\n').count() as u64;
        let problem = RowProblem::InvalidJson {
            column: (position - self.start_of_line(position)).max(1),
            message,
            expected: if self.is_array {
                "an array of JSON objects"
            } else {
                "JSON objects one after another"
            },
            rest_is_readable,
        };
        DataError::Row { at: Source { path: self.path.clone(), line: self.line + lines }, problem }
    }

    /// The first line after the current one that opens an object like the first object did.
    fn next_object_line(&self) -> Option<usize> {
        let mut opening = self.indentation.clone()?;
        opening.push(b'{');
        let mut position = self.position;
        loop {
            position += self.bytes[position..].iter().position(|&byte| byte == b'\n')? + 1;
            if self.bytes[position..].starts_with(&opening) {
                return Some(position);
            }
        }
    }

    /// Describes the value at `position` that does not parse and moves behind it.
    fn broken_value(&mut self, error: &serde_json::Error) -> DataError {
        let rest = &self.bytes[self.position..];
        let line_start: usize =
            rest.split_inclusive(|&byte| byte == b'\n').take(error.line() - 1).map(<[u8]>::len).sum();
        let end = (line_start + error.column()).min(rest.len());
        let next = self.next_object_line();
        let result = match std::str::from_utf8(&rest[..end]) {
            Err(utf8) if utf8.error_len().is_some() => {
                let at = self.position + utf8.valid_up_to();
                let line = self.line
                    + rest[..utf8.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count() as u64;
                if next.is_none() {
                    self.invalid(at, "invalid UTF-8".to_owned(), false)
                } else {
                    let problem =
                        RowProblem::InvalidUtf8 { byte: at - self.start_of_line(at) + 1, field: None };
                    DataError::Row { at: Source { path: self.path.clone(), line }, problem }
                }
            }
            _ => self.invalid(self.position + end, json_message(error), next.is_some()),
        };
        if let Some(next) = next {
            self.advance_to(next);
        }
        result
    }
}

impl Iterator for JsonValues {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        self.skip_separators();
        let Some(&byte) = self.bytes.get(self.position) else {
            self.is_done = true;
            if self.is_array {
                let end = self.bytes.len();
                return Some(Err(self.invalid(end, "the file ends inside the array".to_owned(), false)));
            }
            return None;
        };
        if self.is_array && byte == b']' {
            self.is_done = true;
            let after = self.position + 1;
            if self.bytes[after..].trim_ascii().is_empty() {
                return None;
            }
            return Some(Err(self.invalid(after, "text after the end of the array".to_owned(), false)));
        }
        if std::mem::take(&mut self.is_first) {
            let before = &self.bytes[self.start_of_line(self.position)..self.position];
            self.indentation = before.trim_ascii().is_empty().then(|| before.to_owned());
        }
        let source = Source { path: self.path.clone(), line: self.line };
        let mut values = Deserializer::from_slice(&self.bytes[self.position..]).into_iter::<Value>();
        match values.next()? {
            Ok(value) => {
                let length = values.byte_offset();
                self.advance_to(self.position + length);
                Some(object_record(value, source))
            }
            Err(error) => Some(Err(self.broken_value(&error))),
        }
    }
}
