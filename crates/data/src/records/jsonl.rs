//! JSON Lines: one object a line, blank lines ignored. Read line by line, so that a file may exceed memory.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;

use fs_err as fs;
use serde_json::Value;

use super::{Record, Source, byte_order_mark, json_message, object_record};
use crate::error::{DataError, Result, RowProblem};

pub(super) struct JsonLines {
    file: BufReader<fs::File>,
    path: Arc<Path>,
    line: u64,
    buffer: Vec<u8>,
}

impl JsonLines {
    pub(super) fn open(path: Arc<Path>) -> Result<Self> {
        let file = BufReader::new(fs::File::open(&*path)?);
        Ok(Self { file, path, line: 0, buffer: Vec::new() })
    }
}

impl Iterator for JsonLines {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.buffer.clear();
            match self.file.read_until(b'\n', &mut self.buffer) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) => return Some(Err(error.into())),
            }
            self.line += 1;
            let start = if self.line == 1 { byte_order_mark(&self.buffer) } else { 0 };
            let line = &self.buffer[start..];
            if !line.trim_ascii().is_empty() {
                return Some(parse(line, Source { path: self.path.clone(), line: self.line }));
            }
        }
    }
}

fn parse(line: &[u8], source: Source) -> Result<Record> {
    let text = match std::str::from_utf8(line) {
        Ok(text) => text.trim_end(),
        Err(error) => {
            let problem = RowProblem::InvalidUtf8 { byte: error.valid_up_to() + 1, field: None };
            return Err(DataError::Row { at: source, problem });
        }
    };
    match serde_json::from_str::<Value>(text) {
        Ok(value) => object_record(value, source),
        Err(error) => {
            let problem = RowProblem::InvalidJson {
                column: error.column(),
                message: json_message(&error),
                expected: "one JSON object a line",
                rest_is_readable: true,
            };
            Err(DataError::Row { at: source, problem })
        }
    }
}
