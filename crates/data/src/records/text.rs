//! `.txt`: one document a file. CRLF becomes LF; a byte order mark is not part of the text.

use std::path::Path;
use std::sync::Arc;

use fs_err as fs;

use super::{Content, Record, Source, byte_order_mark};
use crate::error::{DataError, Result, RowProblem};

pub(super) struct TextDocument {
    path: Option<Arc<Path>>,
}

impl TextDocument {
    pub(super) fn new(path: Arc<Path>) -> Self {
        Self { path: Some(path) }
    }
}

impl Iterator for TextDocument {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        let path = self.path.take()?;
        match read(path) {
            Ok(Record { content: Content::Text(text), .. }) if text.is_empty() => None,
            result => Some(result),
        }
    }
}

fn read(path: Arc<Path>) -> Result<Record> {
    let mut bytes = fs::read(&path)?;
    bytes.drain(..byte_order_mark(&bytes));
    match String::from_utf8(bytes) {
        Ok(text) => {
            let text = if text.contains("\r\n") { text.replace("\r\n", "\n") } else { text };
            Ok(Record { content: Content::Text(text), source: Source { path, line: 1 } })
        }
        Err(error) => {
            let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line_start = valid.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
            let line = 1 + valid.iter().filter(|&&byte| byte == b'\n').count() as u64;
            let problem = RowProblem::InvalidUtf8 { byte: valid.len() - line_start + 1, field: None };
            Err(DataError::Row { at: Source { path, line }, problem })
        }
    }
}
