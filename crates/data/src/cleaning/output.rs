//! Cleaned rows → the output. While a run goes on they are JSON lines, or mere texts for an output ending in `.txt`.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use danlu_formats::AtomicFile;
use fs_err as fs;
use serde_json::{Map, Value};

use crate::error::Result;
use crate::exact_numbers::ExactNumbers;
use crate::record_writer::RecordWriter;

/// Bytes that are copied at once.
const PIECE: usize = 1 << 20;

/// The form of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// The texts, a line end behind each.
    Texts,
    /// One object a line.
    Lines,
    /// What [`RecordWriter`] writes by the ending.
    Records,
}

impl Form {
    /// By the ending of the name.
    ///
    /// # Errors
    /// An ending that is not written; a place that cannot be written.
    pub fn of(output: &Path) -> Result<Self> {
        let ending = output.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase);
        Ok(match ending.as_deref() {
            Some("txt") => Self::Texts,
            Some("jsonl") => Self::Lines,
            _ => {
                // It disappears again: a wrong name is said before the work, not after it.
                RecordWriter::create(output)?;
                Self::Records
            }
        })
    }

    /// Appends a row as it lies in parts.
    ///
    /// # Errors
    /// None that is foreseen.
    pub fn push(self, row: &Map<String, Value>, numbers: &ExactNumbers, part: &mut Vec<u8>) -> Result<()> {
        if self == Self::Texts {
            part.extend(row.values().filter_map(Value::as_str).flat_map(str::bytes));
        } else {
            numbers.push_json(part, row)?;
        }
        part.push(b'\n');
        Ok(())
    }

    /// Makes the output of the parts and what was not saved as one.
    ///
    /// # Errors
    /// A full disk; rows that the form cannot hold.
    pub fn assemble(self, output: &Path, parts: impl Iterator<Item = PathBuf>, rest: &[u8]) -> Result<()> {
        if self == Self::Records {
            let mut writer = RecordWriter::create(output)?;
            for part in parts {
                write_rows(&mut writer, BufReader::with_capacity(PIECE, fs::File::open(part)?))?;
            }
            write_rows(&mut writer, rest)?;
            return writer.finish();
        }
        let mut file = AtomicFile::create(output)?;
        let mut piece = vec![0; PIECE];
        for part in parts {
            let mut part = fs::File::open(part)?;
            loop {
                match part.read(&mut piece)? {
                    0 => break,
                    length => file.write(&piece[..length])?,
                }
            }
        }
        file.write(rest)?;
        Ok(file.commit()?)
    }
}

fn write_rows(writer: &mut RecordWriter, mut lines: impl BufRead) -> Result<()> {
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        let row = serde_json::from_slice(&line).map_err(std::io::Error::from)?;
        writer.write_exact(&row, &ExactNumbers::of(&line))?;
        line.clear();
    }
    Ok(())
}
