//! Files and folders → the texts of a corpus, one after another with their places: the one list that vocabularies are
//! trained on and token files are made of. Rows give the text of their columns, `.txt` files what
//! [`TextUnit`](crate::TextUnit) says. What is not read can be asked for, so that nothing is left out in silence.

use std::path::PathBuf;

use crate::dataset_format::{Layout, Purpose, Row, Tags};
use crate::error::{DataError, Result};
use crate::options::Columns;
use crate::records::{RawRecord, ReadOptions, Record, Records, Source, ignored_notice};

/// A text and where it begins.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// The text.
    pub text: String,
    /// File and line.
    pub source: Source,
}

/// The documents of a corpus, in the order of the inputs and of the names in their folders.
pub struct Documents {
    records: Records,
    files: Vec<PathBuf>,
    columns: Columns,
    ignored: Vec<PathBuf>,
}

impl Documents {
    /// Lists the files of `inputs`, files or folders; `columns` names the text of a row (`text`, where it names none).
    ///
    /// # Errors
    /// An input that is not there; a folder without a file that is read.
    pub fn open(inputs: &[PathBuf], columns: &Columns, reading: &ReadOptions) -> Result<Self> {
        let mut files = Vec::new();
        let mut ignored = Vec::new();
        for input in inputs {
            let records = Records::open_with(input, reading)?;
            ignored.extend_from_slice(records.ignored());
            files.extend(records.files().map(PathBuf::from));
        }
        Ok(Self { ignored, ..Self::of_files(files, columns, reading) })
    }

    /// The documents of `files`, as [`open`](Self::open) lists them.
    pub fn of_files(files: Vec<PathBuf>, columns: &Columns, reading: &ReadOptions) -> Self {
        Self {
            records: Records::of_files_with(files.clone(), reading),
            files,
            columns: columns.clone(),
            ignored: Vec::new(),
        }
    }

    /// All files, read or not yet; a sheet of a workbook behind `#`.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// What the user should know: files of folders that are not read because of their names, and since the last call
    /// what [`Records::take_notices`] tells.
    pub fn take_notices(&mut self) -> Vec<String> {
        let ignored = ignored_notice(&std::mem::take(&mut self.ignored));
        ignored.into_iter().chain(self.records.take_notices()).collect()
    }

    /// The next document as a row that is not yet parsed, for [`Document::parse`] on another thread.
    pub(crate) fn next_raw(&mut self) -> Option<Result<RawRecord>> {
        self.records.next_raw()
    }
}

impl Document {
    /// The text of a row's columns, as [`Documents`] gives it.
    pub(crate) fn parse(row: RawRecord, columns: &Columns) -> Result<Self> {
        let Record { content, source } = row.parse()?;
        let layout = Layout::detect(&content, Purpose::Pretraining, columns, &Tags::default());
        match layout.and_then(|layout| layout.read(content, None)) {
            Ok(Row::Document(text)) => Ok(Self { text, source }),
            // What is read for pretraining is a document.
            Ok(_) => Ok(Self { text: String::new(), source }),
            Err(problem) => Err(DataError::Row { at: source, problem }),
        }
    }
}

impl Iterator for Documents {
    type Item = Result<Document>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.next_raw()?.and_then(|row| Document::parse(row, &self.columns)))
    }
}
