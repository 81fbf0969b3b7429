//! Files of JSON lines that grow by an answer at a time, so that a run that was killed loses at most one.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use danlu_data::Source;
use fs_err as fs;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// A file that grows.
pub struct LineFile {
    file: fs::File,
}

impl LineFile {
    /// Opens the file, which need not be there, and tells its lines; half a line at its end, from a run that was killed, is
    /// taken away.
    ///
    /// # Errors
    /// A file that cannot be read or written, or a line that is not what is `expected`.
    pub fn open<T: DeserializeOwned>(path: &Path, expected: &str) -> Result<(Self, Vec<T>)> {
        let file = fs::OpenOptions::new().create(true).read(true).append(true).open(path)?;
        let bytes = fs::read(path)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |place| place + 1);
        file.file().set_len(whole as u64)?;
        let lines = read_lines(path, expected)?;
        Ok((Self { file }, lines))
    }

    /// Adds a line.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn push(&mut self, line: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_string(line).map_err(std::io::Error::from)?;
        line.push('\n');
        // In one piece, so that a kill leaves a whole line or half of the last.
        Ok(self.file.write_all(line.as_bytes())?)
    }
}

/// Reads the lines of a file.
///
/// # Errors
/// A file that cannot be read, or a line that is not what is `expected`.
pub fn read_lines<T: DeserializeOwned>(path: &Path, expected: &str) -> Result<Vec<T>> {
    let text = fs::read_to_string(path)?;
    let parse = |(index, line): (usize, &str)| {
        serde_json::from_str(line)
            .map_err(|cause| row_error(path, index, format!("expected {expected}: {cause}")))
    };
    text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(parse).collect()
}

/// An error of a line, counted from 0.
pub(crate) fn row_error(path: &Path, index: usize, problem: String) -> Error {
    Error::Row { at: Source { path: Arc::from(path), line: index as u64 + 1 }, problem }
}

/// The error of a line that answers something else than what is asked now.
pub(crate) fn other_row(path: &Path, index: usize) -> Error {
    let problem =
        "is not of the row with this number: give the data that it was made from, or another folder"
            .to_owned();
    row_error(path, index, problem)
}

/// The error of a file with answers to more rows than are asked now.
pub(crate) fn fewer_rows(path: &Path, there: usize, asked: usize) -> Error {
    let problem = format!(
        "has answers to {there} rows, more than the {asked} asked now: give `--limit` {there} or more, or another folder"
    );
    Error::File { path: path.into(), problem }
}
