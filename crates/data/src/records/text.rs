//! `.txt`: documents without columns. CRLF becomes LF.
//!
//! As a whole file up to [`LONGEST`] bytes, above that in pieces that end where a paragraph or at least a line does; or
//! each line or paragraph on its own. At no time is more than one document in memory.

use std::io::BufRead;
use std::sync::Arc;

use super::encoding::Utf8Reader;
use super::{Content, FileText, RawRecord, RawRow, Source, TextUnit};
use crate::error::{DataError, Result};

/// Bytes of a document that is not cut.
const LONGEST: usize = 16 << 20;

pub(super) struct Documents {
    reader: Utf8Reader,
    file: Arc<FileText>,
    unit: TextUnit,
    /// Lines before the next byte.
    lines: u64,
}

impl Documents {
    pub(super) fn new(reader: Utf8Reader, file: Arc<FileText>, unit: TextUnit) -> Self {
        Self { reader, file, unit, lines: 0 }
    }

    /// The next document and its first line, counted from 1; empty at the end of the file.
    fn read(&mut self) -> Result<(Vec<u8>, u64)> {
        let mut text = Vec::new();
        let mut first = self.lines + 1;
        loop {
            let start = text.len();
            // A line without an end is cut too, so that no file is held whole.
            let limit = (LONGEST - LONGEST.min(start)).max(1) + LONGEST / 16;
            let (length, is_line) = read_line(&mut self.reader, &mut text, limit)?;
            if length == 0 {
                break;
            }
            self.lines += u64::from(is_line);
            if text.ends_with(b"\r\n") {
                text.truncate(text.len() - 2);
                text.push(b'\n');
            }
            let is_blank = text[start..].trim_ascii().is_empty();
            match self.unit {
                TextUnit::File if text.len() < LONGEST => {}
                TextUnit::File => {
                    if is_blank || text.len() >= LONGEST + LONGEST / 16 {
                        break;
                    }
                }
                TextUnit::Line | TextUnit::Paragraph if is_blank => {
                    text.truncate(start);
                    if !text.is_empty() {
                        break;
                    }
                    first = self.lines + 1;
                }
                TextUnit::Line => break,
                TextUnit::Paragraph => {
                    if text.len() >= LONGEST {
                        break;
                    }
                }
            }
        }
        if self.unit != TextUnit::File {
            text.truncate(text.trim_ascii_end().len());
        }
        Ok((text, first))
    }
}

/// Appends a line with its end, at most about `limit` bytes of it; its length, and whether it ended.
fn read_line(reader: &mut Utf8Reader, text: &mut Vec<u8>, limit: usize) -> std::io::Result<(usize, bool)> {
    let mut length = 0;
    loop {
        let available = reader.fill_buf()?;
        if available.is_empty() {
            return Ok((length, false));
        }
        let newline = available.iter().position(|&byte| byte == b'\n');
        let mut taken = newline.map_or(available.len(), |newline| newline + 1);
        let is_cut = newline.is_none() && length + taken >= limit;
        if is_cut {
            // Not within a character.
            let is_inside = |&at: &usize| available.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
            let start = (1..taken).rev().find(|at| !is_inside(at));
            taken = start.unwrap_or(taken);
        }
        text.extend_from_slice(&available[..taken]);
        reader.consume(taken);
        length += taken;
        if newline.is_some() || is_cut {
            return Ok((length, newline.is_some()));
        }
    }
}

impl Iterator for Documents {
    type Item = Result<RawRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        let (bytes, first) = match self.read() {
            Ok((bytes, _)) if bytes.is_empty() => return None,
            Ok(document) => document,
            Err(error) => return Some(Err(error)),
        };
        let path = self.file.path.clone();
        Some(match String::from_utf8(bytes) {
            Ok(text) => {
                let source = Source { path, line: first };
                Ok(RawRecord { row: RawRow::Ready(Content::Text(text)), source })
            }
            Err(error) => {
                let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
                let line_start =
                    valid.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
                let line = first + valid.iter().filter(|&&byte| byte == b'\n').count() as u64;
                let problem = self.file.problem(&valid[line_start..], None);
                Err(DataError::Row { at: Source { path, line }, problem })
            }
        })
    }
}
