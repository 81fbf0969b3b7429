//! The texts that vocabularies are trained on, measured with, and encode. What a row is, `danlu-data` knows.

use std::path::PathBuf;
use std::sync::mpsc::SyncSender;

use anyhow::Result;
use danlu_data::records::split_sheet;
use danlu_data::{Columns, DataError, Document, Documents, ReadOptions, RowProblem};

use crate::failure::{keys_as_flags, wrong_input};
use crate::printer::Printer;

/// Bytes of a text that are sent at a time.
const STRETCH: usize = 1 << 20;

/// The texts of `inputs`; what else is in a folder is noted.
///
/// # Errors
/// An input that is not there, a folder without texts.
pub fn open(
    inputs: &[PathBuf],
    columns: &Columns,
    reading: &ReadOptions,
    printer: &Printer,
) -> Result<Documents> {
    if let Some(input) = inputs.iter().find(|input| !split_sheet(input).0.exists()) {
        let input = input.display();
        return Err(wrong_input(format!("`{input}` does not exist; expected a file or folder of texts")));
    }
    let mut documents = Documents::open(inputs, columns, reading)?;
    documents.take_notices().iter().for_each(|notice| printer.note(keys_as_flags(notice)));
    Ok(documents)
}

/// The bytes of all files; what cannot be read is named by who opens it.
pub fn bytes(files: &[PathBuf]) -> u64 {
    let length = |file: &PathBuf| fs_err::metadata(split_sheet(file).0).map_or(0, |metadata| metadata.len());
    files.iter().map(length).sum()
}

/// Sends every text, and gives the notices; a receiver that is gone has seen enough.
///
/// # Errors
/// A row that cannot be read.
pub fn send(mut documents: Documents, sender: &SyncSender<String>) -> Result<Vec<String>> {
    for document in documents.by_ref() {
        let Document { text, .. } = document.map_err(without_recipe)?;
        // A book goes in stretches of whole lines, so that few bytes wait.
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let from = rest.floor_char_boundary(STRETCH);
            let end = rest[from..].find('\n').map_or(rest.len(), |at| from + at + 1);
            let (stretch, tail) = rest.split_at(end);
            if sender.send(stretch.to_owned()).is_err() {
                return Ok(Vec::new());
            }
            rest = tail;
        }
    }
    Ok(documents.take_notices().iter().map(|notice| keys_as_flags(notice)).collect())
}

/// The error of a row without the advice on keys of a recipe.
pub fn without_recipe(error: DataError) -> anyhow::Error {
    match error {
        DataError::Row { at, problem: RowProblem::MissingColumn { column, available, .. } } => {
            let available = available.join("`, `");
            wrong_input(format!(
                "{at}: there is no column `{column}` but `{available}`: name one with `--column`"
            ))
        }
        DataError::Row { at, problem } => {
            wrong_input(format!("{at}: {}", keys_as_flags(&problem.to_string())))
        }
        DataError::Option { option, problem } => wrong_input(format!("`--{option}`: {problem}")),
        error => error.into(),
    }
}
