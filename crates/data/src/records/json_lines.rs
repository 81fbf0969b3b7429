//! JSON Lines: one object a line, blank lines ignored. Read line by line, so that a file may exceed memory.

use std::io::BufRead;
use std::sync::Arc;

use super::encoding::Utf8Reader;
use super::{FileText, RawRecord, RawRow, Source};
use crate::error::Result;

pub(super) struct JsonLines {
    reader: Utf8Reader,
    file: Arc<FileText>,
    line: u64,
}

impl JsonLines {
    pub(super) fn new(reader: Utf8Reader, file: Arc<FileText>) -> Self {
        Self { reader, file, line: 0 }
    }
}

impl Iterator for JsonLines {
    type Item = Result<RawRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let mut bytes = Vec::new();
            match self.reader.read_until(b'\n', &mut bytes) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) => return Some(Err(error.into())),
            }
            self.line += 1;
            bytes.truncate(bytes.trim_ascii_end().len());
            if !bytes.is_empty() {
                let source = Source { path: self.file.path.clone(), line: self.line };
                let row = RawRow::Json {
                    bytes,
                    file: self.file.clone(),
                    before: 0,
                    expected: "one JSON object a line",
                };
                return Some(Ok(RawRecord { row, source }));
            }
        }
    }
}
