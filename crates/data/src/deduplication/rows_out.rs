//! Where the rows go that stay: one file, a file for each of the inputs, or nowhere.

use std::path::PathBuf;

use danlu_formats::AtomicFolder;
use fs_err as fs;
use serde_json::Map;

use super::passes::Row;
use super::{InputFile, Output};
use crate::error::{DataError, Result};
use crate::record_writer::RecordWriter;
use crate::records::Content;

/// The files that rows are written to.
pub enum RowsOut {
    /// None.
    Nowhere,
    /// One for all.
    One(RecordWriter),
    /// One for each file of the inputs.
    Each(FilesOut),
}

/// A folder of files that are written one after another.
pub struct FilesOut {
    folder: AtomicFolder,
    /// The names of those to come, last first.
    names: Vec<PathBuf>,
    /// How many were begun, and the one being written.
    begun: usize,
    writer: Option<RecordWriter>,
}

impl RowsOut {
    /// Begins what `output` says.
    ///
    /// # Errors
    /// A place that cannot be written, two files of one name in a folder.
    pub fn create(output: Output<'_>, files: &[InputFile]) -> Result<Self> {
        Ok(match output {
            Output::Nowhere(_) => Self::Nowhere,
            Output::File(path) => Self::One(RecordWriter::create(path)?),
            Output::Folder(path) => {
                let names: Vec<PathBuf> = files.iter().rev().map(name_in_folder).collect();
                let mut sorted: Vec<&PathBuf> = names.iter().collect();
                sorted.sort();
                if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
                    let problem = format!(
                        "two files of the inputs are to be written to `{}` in the folder: rename one of them, or give a \
                         file for all rows",
                        pair[0].display()
                    );
                    return Err(DataError::Option { option: "out", problem });
                }
                Self::Each(FilesOut { folder: AtomicFolder::create(path)?, names, begun: 0, writer: None })
            }
        })
    }

    /// Appends a row; to be called in the order of files.
    ///
    /// # Errors
    /// Those of [`RecordWriter::write`].
    pub(super) fn write(&mut self, row: Row) -> Result<()> {
        let writer = match self {
            Self::Nowhere => return Ok(()),
            Self::One(writer) => Some(writer),
            Self::Each(files) => {
                files.begin(row.file + 1)?;
                files.writer.as_mut()
            }
        };
        let fields = match row.content {
            Content::Fields(fields) => fields,
            Content::Text(text) => Map::from_iter([("text".to_owned(), text.into())]),
        };
        writer.map_or(Ok(()), |writer| writer.write_exact(&fields, &row.numbers))
    }

    /// Puts everything in its place; an input of which no row stays gives an empty file.
    ///
    /// # Errors
    /// A full disk.
    pub fn finish(self) -> Result<()> {
        match self {
            Self::Nowhere => Ok(()),
            Self::One(writer) => writer.finish(),
            Self::Each(mut files) => {
                files.begin(files.begun + files.names.len())?;
                files.writer.map_or(Ok(()), RecordWriter::finish)?;
                Ok(files.folder.commit()?)
            }
        }
    }
}

impl FilesOut {
    /// Begins files until `count` are; one at a time is open.
    fn begin(&mut self, count: usize) -> Result<()> {
        while self.begun < count
            && let Some(name) = self.names.pop()
        {
            if let Some(writer) = self.writer.take() {
                writer.finish()?;
            }
            let path = self.folder.path().join(name);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            self.writer = Some(RecordWriter::create(&path)?);
            self.begun += 1;
        }
        Ok(())
    }
}

/// The name below the folder; rows of `.txt` have no such form and become JSON lines.
fn name_in_folder(file: &InputFile) -> PathBuf {
    let mut name = file.name.clone();
    if name.extension().is_none_or(|ending| ending.eq_ignore_ascii_case("txt")) {
        name.set_extension("jsonl");
    }
    name
}
