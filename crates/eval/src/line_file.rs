//! Files of JSON lines that grow as answers come, so that a run that was killed loses at most the last, and goes on.
//!
//! One run writes a file at a time. Half a line that a kill left at the end is taken away; a file with anything else in it than
//! what is expected is refused and stays as it is.

use std::fs::TryLockError;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use danlu_data::Source;
use fs_err as fs;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// A file that grows, and that nobody else writes while it is open.
#[derive(Debug)]
pub struct LineFile {
    path: PathBuf,
    file: fs::File,
    /// Where the last line ends.
    end: u64,
}

impl LineFile {
    /// Opens a file, which need not be there, and reads its lines; `accept` says how many of them are kept, or refuses the file. A
    /// last line without a line break counts if it is whole.
    ///
    /// # Errors
    /// A file that another run writes, that cannot be read or written, that is not accepted, or with a line that is not what is
    /// `expected`.
    pub fn open<T: DeserializeOwned>(
        path: &Path,
        expected: &str,
        accept: impl FnOnce(&[T]) -> Result<usize>,
    ) -> Result<(Self, Vec<T>)> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file = fs::File::options().create(true).read(true).append(true).open(path)?;
        if let Err(TryLockError::WouldBlock) = file.file().try_lock() {
            let problem = "is being written by another run: wait for its end, or choose another place".into();
            return Err(Error::File { path: path.into(), problem });
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let (mut lines, mut ends, mut end) = (Vec::new(), Vec::new(), 0);
        for (index, line) in bytes.split_inclusive(|&byte| byte == b'\n').enumerate() {
            end += line.len();
            match serde_json::from_slice(line) {
                Ok(value) => {
                    lines.push(value);
                    ends.push(end);
                }
                Err(cause) if cause.is_eof() && (!line.ends_with(b"\n") || line.trim_ascii().is_empty()) => {}
                Err(cause) => return Err(unexpected(path, index, expected, &cause)),
            }
        }
        let kept = accept(&lines)?.min(lines.len());
        lines.truncate(kept);
        let whole = kept.checked_sub(1).map_or(0, |last| ends[last]);
        let mut file = Self { path: path.into(), file, end: whole as u64 };
        // Only a last line can be without a line break.
        file.write(if bytes[..whole].last().is_none_or(|&byte| byte == b'\n') { b"" } else { b"\n" })?;
        Ok((file, lines))
    }

    /// Adds a line.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn push(&mut self, line: &impl Serialize) -> Result<()> {
        self.push_all([line])
    }

    /// Adds lines in one write, so that a kill leaves all of them or a part that is told.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn push_all(&mut self, lines: impl IntoIterator<Item = impl Serialize>) -> Result<()> {
        let mut text = Vec::new();
        for line in lines {
            serde_json::to_writer(&mut text, &line).map_err(std::io::Error::from)?;
            text.push(b'\n');
        }
        self.write(&text)
    }

    /// Writes behind the last line, straight to the system, which keeps it when this program is killed.
    fn write(&mut self, text: &[u8]) -> Result<()> {
        // Half a line of a run that was killed, or of a disk that was full.
        self.file.set_len(self.end)?;
        self.file.write_all(text)?;
        self.end += text.len() as u64;
        Ok(())
    }

    /// Removes the file.
    ///
    /// # Errors
    /// A place that cannot be written.
    pub fn remove(self) -> Result<()> {
        match fs::remove_file(&self.path) {
            // Another run of the same command was faster.
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}

/// Reads the lines of a file.
///
/// # Errors
/// A file that cannot be read, or a line that is not what is `expected`.
pub(crate) fn read_lines<T: DeserializeOwned>(path: &Path, expected: &str) -> Result<Vec<T>> {
    let text = fs::read_to_string(path)?;
    let parse = |(index, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|cause| unexpected(path, index, expected, &cause))
    };
    text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(parse).collect()
}

fn unexpected(path: &Path, index: usize, expected: &str, cause: &serde_json::Error) -> Error {
    row_error(path, index, format!("expected {expected}: {cause}"))
}

/// An error of a line, counted from 0.
fn row_error(path: &Path, index: usize, problem: String) -> Error {
    Error::Row { at: Source { path: Arc::from(path), line: index as u64 + 1 }, problem }
}

/// Accepts lines that are each of the row with its number.
pub(crate) fn of_rows<T, R>(
    path: &Path,
    lines: &[T],
    rows: &[R],
    is_of: impl Fn(&T, &R) -> bool,
) -> Result<usize> {
    if let Some(index) = lines.iter().zip(rows).position(|(line, row)| !is_of(line, row)) {
        let problem =
            "is not of the row with this number: give the data that it was made from, or another folder";
        return Err(row_error(path, index, problem.into()));
    }
    if lines.len() > rows.len() {
        let (there, asked) = (lines.len(), rows.len());
        let problem = format!(
            "has answers to {there} rows, more than the {asked} asked now: give `--limit` {there} or more, or another folder"
        );
        return Err(Error::File { path: path.into(), problem });
    }
    Ok(lines.len())
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value, json};

    use super::*;

    type Object = Map<String, Value>;

    fn open(path: &Path) -> Result<(LineFile, Vec<Object>)> {
        LineFile::open(path, "an object", |lines| Ok(lines.len()))
    }

    #[test]
    fn a_file_that_was_cut_off_anywhere_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/lines.jsonl");
        let line =
            |number: u32| json!({"text": "铣\"刀\u{1}", "number": -1.5e-7, "is": [true, null, number]});
        open(&path).unwrap().0.push_all([line(0), line(1)]).unwrap();
        let whole = fs::read(&path).unwrap();
        let first = whole.len() / 2;
        for length in 0..=whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let (mut file, lines) = open(&path).unwrap();
            // Without its line break a line is whole.
            let count = (length + 1) / first;
            assert_eq!(lines.len(), count, "{length}");
            let rest = (count..2).map(|number| line(number as u32));
            file.push_all(rest).unwrap();
            assert_eq!(fs::read(&path).unwrap(), whole, "{length}");
        }
    }

    #[test]
    fn a_file_of_somebody_else_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines.jsonl");
        for text in ["a note", "a note\n{\"cut", "{\n  \"a\": 1\n}\n", "[1]", "{}\n7", "{} {}\n{\"cut"] {
            fs::write(&path, text).unwrap();
            let error = open(&path).unwrap_err().to_string();
            assert!(error.contains("lines.jsonl:") && error.contains("expected an object: "), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        let text = "{}\n{\"cut";
        fs::write(&path, text).unwrap();
        let refuse = |_: &[Object]| Err(Error::NotFinite);
        assert!(LineFile::open(&path, "an object", refuse).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        let (file, lines) = LineFile::open(&path, "an object", |_: &[Object]| Ok(0)).unwrap();
        assert!(lines.is_empty() && fs::read(&path).unwrap().is_empty());
        let busy = open(&path).unwrap_err().to_string();
        assert!(busy.contains("is being written by another run"), "{busy}");
        file.remove().unwrap();
        assert!(!path.exists());
    }
}
