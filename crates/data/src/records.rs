//! Files → records: any path, a file or a folder of files, becomes one stream of rows with their file and line.
//!
//! The content decides how a `.json` file is read: an array, objects one after another, or one object a line;
//! `.txt` is one document a file, unless its first line is a JSON object. Columns have no meaning here.

mod csv;
mod json;
mod jsonl;
mod text;

use std::collections::VecDeque;
use std::fmt;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fs_err as fs;
use serde_json::{Map, Value};

use crate::error::{DataError, Result, RowProblem};

/// Where a record begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The file.
    pub path: Arc<Path>,
    /// 1-based line of the record's first byte.
    pub line: u64,
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.path.display(), self.line)
    }
}

/// What a record holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// A row with columns.
    Fields(Map<String, Value>),
    /// A whole document.
    Text(String),
}

/// One row or document.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Its content.
    pub content: Content,
    /// Where it begins.
    pub source: Source,
}

type FileRecords = Box<dyn Iterator<Item = Result<Record>>>;

/// The records of a file, or of all files of a folder and its subfolders in the order of their names.
///
/// After an error that [`RowProblem::can_be_skipped`], iteration goes on with the next row.
pub struct Records {
    files: VecDeque<PathBuf>,
    current: Option<FileRecords>,
    ignored: Vec<PathBuf>,
}

impl Records {
    /// Lists what is under `path`. Files of a folder with another ending are [`ignored`](Self::ignored).
    pub fn open(path: &Path) -> Result<Self> {
        let mut files = VecDeque::new();
        let mut ignored = Vec::new();
        if fs::metadata(path)?.is_dir() {
            list_folder(path, &mut files, &mut ignored)?;
            if files.is_empty() {
                return Err(DataError::EmptyFolder { path: path.to_owned() });
            }
        } else {
            files.push_back(path.to_owned());
        }
        Ok(Self { files, current: None, ignored })
    }

    /// The records of `files` in this order.
    pub fn of_files(files: Vec<PathBuf>) -> Self {
        Self { files: files.into(), current: None, ignored: Vec::new() }
    }

    /// The files whose records are still to come, in order.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(PathBuf::as_path)
    }

    /// Files of the folder that are not read because of their ending.
    pub fn ignored(&self) -> &[PathBuf] {
        &self.ignored
    }
}

impl Iterator for Records {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(current) = &mut self.current {
                if let Some(record) = current.next() {
                    return Some(record);
                }
                self.current = None;
            }
            match open_file(self.files.pop_front()?.as_path().into()) {
                Ok(records) => self.current = Some(records),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Ending {
    Text,
    Json,
    JsonLines,
    Csv,
}

impl Ending {
    fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "txt" => Some(Self::Text),
            "json" => Some(Self::Json),
            "jsonl" => Some(Self::JsonLines),
            "csv" => Some(Self::Csv),
            _ => None,
        }
    }
}

fn list_folder(folder: &Path, files: &mut VecDeque<PathBuf>, ignored: &mut Vec<PathBuf>) -> Result<()> {
    let mut entries = fs::read_dir(folder)?.collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        // Links to folders are not followed: they could lead in circles.
        if entry.file_type()?.is_dir() {
            list_folder(&path, files, ignored)?;
        } else if Ending::of(&path).is_some() {
            files.push_back(path);
        } else {
            ignored.push(path);
        }
    }
    Ok(())
}

fn open_file(path: Arc<Path>) -> Result<FileRecords> {
    let Some(ending) = Ending::of(&path) else {
        return Err(DataError::UnknownEnding { path: path.to_path_buf() });
    };
    if ending == Ending::Csv {
        return Ok(Box::new(csv::CsvRows::open(path)?));
    }
    let start = first_line(&path)?;
    Ok(match (start.trim_ascii_start().first(), ending) {
        (Some(b'['), Ending::Json | Ending::JsonLines) => Box::new(json::JsonValues::array(path)?),
        (Some(b'{'), Ending::Json) if object_continues(&start) => Box::new(json::JsonValues::stream(path)?),
        (_, Ending::Json | Ending::JsonLines) => Box::new(jsonl::JsonLines::open(path)?),
        (Some(b'{'), _) if serde_json::from_slice::<Map<String, Value>>(&start).is_ok() => {
            Box::new(jsonl::JsonLines::open(path)?)
        }
        _ => Box::new(text::TextDocument::new(path)),
    })
}

/// The first line that is not blank, without a byte order mark.
fn first_line(path: &Path) -> Result<Vec<u8>> {
    let mut file = BufReader::new(fs::File::open(path)?);
    let mut line = Vec::new();
    let mut first = true;
    loop {
        line.clear();
        if file.read_until(b'\n', &mut line)? == 0 {
            return Ok(Vec::new());
        }
        if std::mem::take(&mut first) {
            line.drain(..byte_order_mark(&line));
        }
        if !line.trim_ascii().is_empty() {
            return Ok(line);
        }
    }
}

/// Whether the object that a line opens is not closed on it: a pretty-printed object, not a row of JSON lines.
fn object_continues(line: &[u8]) -> bool {
    serde_json::from_slice::<Value>(line).is_err_and(|error| error.is_eof())
}

/// Length of the UTF-8 byte order mark at the start of a file: 3 or 0.
fn byte_order_mark(bytes: &[u8]) -> usize {
    const MARK: &[u8] = b"\xef\xbb\xbf";
    if bytes.starts_with(MARK) { MARK.len() } else { 0 }
}

pub(crate) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn object_record(value: Value, source: Source) -> Result<Record> {
    match value {
        Value::Object(fields) => Ok(Record { content: Content::Fields(fields), source }),
        other => {
            Err(DataError::Row { at: source, problem: RowProblem::NotAnObject { found: kind_of(&other) } })
        }
    }
}

/// The parser's message without the place, which is told apart.
fn json_message(error: &serde_json::Error) -> String {
    let message = error.to_string();
    match message.rfind(" at line ") {
        Some(end) => message[..end].to_owned(),
        None => message,
    }
}
