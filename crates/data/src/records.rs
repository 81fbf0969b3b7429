//! Files → records: any path, a file or a folder of files, becomes one stream of rows with their file and line.
//!
//! One way: `forms` says by its name what a file is, `input` opens and unpacks it, `encoding` makes UTF-8 of it, and
//! a reader for each form cuts it into rows. The content decides how a `.json` file is read: an array, objects one after
//! another, or one object a line; a `.txt` is one document, unless its first line is a JSON object. Memory holds a row,
//! never a file, but for the sheet of a workbook. Columns have no meaning here.

mod arrow;
mod csv;
mod encoding;
mod forms;
mod input;
mod json;
mod json_lines;
mod parquet;
mod scalar;
mod text;
mod workbook;

use std::collections::VecDeque;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::csv::ByteRecord;
use encoding_rs::Encoding;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use self::encoding::{FileText, Utf8Reader, encoding_named};
use self::forms::{FileKind, Form, is_beside_data, list_folder, refusal};
use self::input::{Archive, InputFile, open_packed};
use crate::error::{DataError, Result};
use crate::exact_numbers::ExactNumbers;

pub use self::forms::{READ_ENDINGS, split_sheet};

/// Where a record begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The file; of an archive, with the name of the member behind it, of a workbook, with the sheet behind `#`.
    pub path: Arc<Path>,
    /// 1-based line of the record's first byte; in `.parquet`, `.arrow` and `.xlsx`, which have no lines,
    /// the 1-based row.
    pub line: u64,
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if forms::has_rows(&self.path) { "row " } else { "" };
        write!(formatter, "{}:{word}{}", self.path.display(), self.line)
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

/// What one document of a `.txt` file is.
///
/// zh: `.txt` 文件中一篇文档的单位。
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TextUnit {
    /// The whole file; one above 16 MiB is cut between paragraphs.
    ///
    /// zh: 整个文件；超过 16 MiB 的文件在段落之间切开。
    #[default]
    File,
    /// Each line that is not blank.
    ///
    /// zh: 每个非空行。
    Line,
    /// The lines between blank lines.
    ///
    /// zh: 空行之间的各行。
    Paragraph,
}

/// How files are read where they do not say it themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// Label of the encoding of all text files (`gb18030`, `big5`, `utf-16le`, …); found in the content where absent.
    pub encoding: Option<String>,
    /// What a document of a `.txt` file is.
    pub text_unit: TextUnit,
    /// Names of the columns of CSV files without a header; without them, the first row is one.
    pub csv_columns: Option<Vec<String>>,
}

/// A row that is found but not yet understood, so that rows can be parsed on many threads.
#[derive(Debug)]
pub struct RawRecord {
    row: RawRow,
    source: Source,
}

#[derive(Debug)]
enum RawRow {
    Json {
        bytes: Vec<u8>,
        file: Arc<FileText>,
        /// Bytes before it on its first line.
        before: usize,
        expected: &'static str,
    },
    Csv {
        fields: ByteRecord,
        file: Arc<FileText>,
        names: Arc<[String]>,
    },
    Ready(Content),
}

/// Bytes of the texts of a value, and of each number as many as it takes.
fn text_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(text_bytes).sum(),
        Value::Object(fields) => fields.values().map(text_bytes).sum(),
        _ => size_of::<f64>(),
    }
}

impl RawRecord {
    /// Of a row that was parsed already.
    pub(crate) fn parsed(record: Record) -> Self {
        Self { row: RawRow::Ready(record.content), source: record.source }
    }

    /// Where it begins.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Its numbers as they are written.
    pub(crate) fn exact_numbers(&self) -> ExactNumbers {
        match &self.row {
            RawRow::Json { bytes, .. } => ExactNumbers::of(bytes),
            RawRow::Csv { .. } | RawRow::Ready(_) => ExactNumbers::default(),
        }
    }

    /// Bytes that the row takes, as a measure of the work.
    pub fn bytes(&self) -> usize {
        match &self.row {
            RawRow::Json { bytes, .. } => bytes.len(),
            RawRow::Csv { fields, .. } => fields.as_slice().len(),
            RawRow::Ready(Content::Text(text)) => text.len(),
            RawRow::Ready(Content::Fields(fields)) => fields.values().map(text_bytes).sum(),
        }
    }

    /// The row with its columns.
    ///
    /// # Errors
    /// [`DataError::Row`], after which the next rows can still be read.
    pub fn parse(self) -> Result<Record> {
        let Self { row, source } = self;
        let content = match row {
            RawRow::Ready(content) => Ok(content),
            RawRow::Csv { fields, file, names } => csv::fields(&fields, &names, &file).map(Content::Fields),
            RawRow::Json { bytes, file, before, expected } => {
                return json::parse(&bytes, before, expected, &file, source);
            }
        };
        match content {
            Ok(content) => Ok(Record { content, source }),
            Err(problem) => Err(DataError::Row { at: source, problem }),
        }
    }
}

type FileRecords = Box<dyn Iterator<Item = Result<RawRecord>> + Send>;

/// A file, or a member of an archive, that is still to be read.
enum Waiting {
    File(PathBuf),
    Member(Arc<Archive>, usize),
}

/// The records of a file, or of all files of a folder and its subfolders in the order of their names.
///
/// After an error that [`RowProblem::can_be_skipped`](crate::RowProblem::can_be_skipped), iteration goes on with the next row.
pub struct Records {
    waiting: VecDeque<Waiting>,
    current: Option<FileRecords>,
    /// Of the current file, until its encoding is told.
    text: Option<Arc<FileText>>,
    encoding: Result<Option<&'static Encoding>, String>,
    text_unit: TextUnit,
    csv_columns: Option<Vec<String>>,
    ignored: Vec<PathBuf>,
    notices: Vec<String>,
}

/// The members of an archive.
pub struct Members {
    /// The records of each, by its name behind that of the archive.
    pub records: Vec<(PathBuf, Records)>,
    /// The names of those that are not read.
    pub ignored: Vec<String>,
}

impl Records {
    /// Lists what is under `path`, read with the usual options. Files of a folder with another ending, and those that
    /// only accompany data (a licence, a readme), are [`ignored`](Self::ignored).
    ///
    /// Of a workbook, `book.xlsx#name` is the sheet of that name.
    ///
    /// # Errors
    /// A path that is not there; a folder without a file that is read.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_with(path, &ReadOptions::default())
    }

    /// As [`open`](Self::open), read as `options` says.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn open_with(path: &Path, options: &ReadOptions) -> Result<Self> {
        let mut files = Vec::new();
        let mut ignored = Vec::new();
        let (file, _) = split_sheet(path);
        if !file.exists() {
            let problem =
                format!("`{}` does not exist: expected a file or folder of rows or texts", file.display());
            return Err(std::io::Error::new(std::io::ErrorKind::NotFound, problem).into());
        }
        if file.is_dir() {
            list_folder(path, &mut files, &mut ignored)?;
            if files.is_empty() {
                return Err(DataError::EmptyFolder { path: path.to_owned() });
            }
        } else {
            files.push(path.to_owned());
        }
        Ok(Self { ignored, ..Self::of_files_with(files, options) })
    }

    /// The records of `files` in this order.
    pub fn of_files(files: Vec<PathBuf>) -> Self {
        Self::of_files_with(files, &ReadOptions::default())
    }

    /// The records of `files` in this order, read as `options` says.
    pub fn of_files_with(files: Vec<PathBuf>, options: &ReadOptions) -> Self {
        Self {
            waiting: files.into_iter().map(Waiting::File).collect(),
            current: None,
            text: None,
            encoding: options.encoding.as_deref().map(encoding_named).transpose(),
            text_unit: options.text_unit,
            csv_columns: options.csv_columns.clone(),
            ignored: Vec::new(),
            notices: Vec::new(),
        }
    }

    /// The records of each member of a zip archive.
    ///
    /// # Errors
    /// A file that is no such archive.
    pub fn of_members(path: &Path, options: &ReadOptions) -> Result<Members> {
        let archive = Arc::new(Archive::open(path)?);
        let records = |member: usize| {
            let waiting = VecDeque::from([Waiting::Member(archive.clone(), member)]);
            (archive.member(member).0, Self { waiting, ..Self::of_files_with(Vec::new(), options) })
        };
        Ok(Members {
            records: (0..archive.members.len()).map(records).collect(),
            ignored: archive.ignored.clone(),
        })
    }

    /// The files whose records are still to come, in order.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.waiting.iter().filter_map(|waiting| match waiting {
            Waiting::File(path) => Some(path.as_path()),
            Waiting::Member(..) => None,
        })
    }

    /// Files of the folder that are not read because of their name.
    pub fn ignored(&self) -> &[PathBuf] {
        &self.ignored
    }

    /// What the user should know of the files read since the last call: encodings other than UTF-8, members of archives
    /// and sheets of workbooks that are not read.
    pub fn take_notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notices)
    }

    /// The next row, not yet parsed.
    pub fn next_raw(&mut self) -> Option<Result<RawRecord>> {
        loop {
            if let Some(current) = &mut self.current {
                let record = current.next();
                self.tell_encoding(record.is_none());
                if record.is_some() {
                    return record;
                }
                self.current = None;
            }
            let opened = match self.waiting.pop_front()? {
                Waiting::File(path) => self.open_file(path),
                Waiting::Member(archive, member) => self.open_member(&archive, member),
            };
            match opened {
                Ok(records) => self.current = records,
                Err(error) => return Some(Err(error)),
            }
        }
    }

    fn tell_encoding(&mut self, is_end: bool) {
        let Some(text) = &self.text else { return };
        if let Some(encoding) = text.found() {
            self.notices.push(format!(
                "`{}` is not UTF-8: read as {}; name another encoding with `encoding` if the text looks wrong",
                text.path.display(),
                encoding.name()
            ));
        }
        if is_end || text.found().is_some() {
            self.text = None;
        }
    }

    fn open_file(&mut self, path: PathBuf) -> Result<Option<FileRecords>> {
        let (file, sheet) = split_sheet(&path);
        let kind = FileKind::of(file).ok_or_else(|| refusal(&path))?;
        let named: Arc<Path> = path.as_path().into();
        match kind.form {
            Form::Arrow => Ok(Some(Box::new(arrow::ArrowRows::open(named)?))),
            Form::Parquet => Ok(Some(Box::new(parquet::ParquetRows::open(named)?))),
            Form::Workbook => {
                let (rows, notice) = workbook::SheetRows::open(file, sheet)?;
                self.notices.extend(notice);
                Ok(Some(Box::new(rows)))
            }
            Form::Archive => {
                let archive = Arc::new(Archive::open(file)?);
                if archive.members.is_empty() {
                    return Err(DataError::EmptyFolder { path });
                }
                if !archive.ignored.is_empty() {
                    self.notices.push(format!(
                        "not read because of their names: `{}` in `{}`",
                        archive.ignored.join("`, `"),
                        path.display()
                    ));
                }
                for member in (0..archive.members.len()).rev() {
                    self.waiting.push_front(Waiting::Member(archive.clone(), member));
                }
                Ok(None)
            }
            form => {
                let input = open_packed(InputFile::open(file)?, kind.packing)?;
                self.open_text(named, form, input).map(Some)
            }
        }
    }

    fn open_member(&mut self, archive: &Archive, member: usize) -> Result<Option<FileRecords>> {
        let (path, kind) = archive.member(member);
        let input = open_packed(archive.read(member)?, kind.packing)?;
        self.open_text(path.into(), kind.form, input).map(Some)
    }

    fn open_text(
        &mut self,
        path: Arc<Path>,
        form: Form,
        input: Box<dyn std::io::Read + Send>,
    ) -> Result<FileRecords> {
        let forced =
            self.encoding.clone().map_err(|problem| DataError::Option { option: "encoding", problem })?;
        let text = Arc::new(FileText::new(path, forced));
        self.text = Some(text.clone());
        let mut reader = Utf8Reader::new(input, text.clone());
        if let Form::Csv { separator } = form {
            return Ok(Box::new(csv::CsvRows::open(reader, text, separator, self.csv_columns.clone())?));
        }
        let is_text = form == Form::Text;
        Ok(match json::shape(reader.peek_line()?) {
            json::Shape::Array if !is_text => Box::new(json::JsonValues::array(reader, text)),
            json::Shape::OpenObject if form == Form::Json => Box::new(json::JsonValues::stream(reader, text)),
            json::Shape::Object if is_text => Box::new(json_lines::JsonLines::new(reader, text)),
            _ if is_text => Box::new(text::Documents::new(reader, text, self.text_unit)),
            _ => Box::new(json_lines::JsonLines::new(reader, text)),
        })
    }
}

impl Iterator for Records {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.next_raw()?.and_then(RawRecord::parse))
    }
}

/// One sentence on files of folders that are not read, of which the first few are named.
pub(crate) fn ignored_notice(paths: &[PathBuf]) -> Option<String> {
    const NAMED: usize = 3;
    let named: Vec<String> = paths.iter().take(NAMED).map(|path| path.display().to_string()).collect();
    let whose = if paths.len() == 1 { "its name" } else { "their names" };
    let more = match paths.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!paths.is_empty()).then(|| format!("not read because of {whose}: `{}`{more}", named.join("`, `")))
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
