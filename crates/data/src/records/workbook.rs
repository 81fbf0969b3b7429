//! `.xlsx` → rows: one sheet, its first row that is not empty as the header. Every cell is text, as in CSV: numbers without
//! a needless `.0`, dates as in ISO 8601. The sheet is held in memory; empty rows and columns without a name are left out.

use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;
use std::vec;

use calamine::{DataRef, Reader, Xlsx};
use serde_json::{Map, Value};

use super::input::InputFile;
use super::{Content, RawRecord, RawRow, Source};
use crate::error::{DataError, Result, RowProblem};

pub(super) struct SheetRows {
    path: Arc<Path>,
    /// For each column of the sheet its name, if it has one.
    names: Vec<Option<String>>,
    /// Number of the row and its cells by column.
    rows: vec::IntoIter<(u32, Vec<(usize, String)>)>,
}

impl SheetRows {
    /// Reads the sheet of that name, or else the first one; the second value says which are not read.
    pub(super) fn open(path: &Path, sheet: Option<&str>) -> Result<(Self, Option<String>)> {
        let unreadable = |error: calamine::XlsxError| {
            let message = format!("`{}` is no workbook that can be read: {error}", path.display());
            DataError::Io(std::io::Error::new(std::io::ErrorKind::InvalidData, message))
        };
        let mut workbook =
            Xlsx::new(BufReader::with_capacity(1 << 16, InputFile::open(path)?)).map_err(unreadable)?;
        let sheets = workbook.sheet_names();
        let name = match sheet {
            Some(name) if sheets.iter().any(|sheet| sheet == name) => name.to_owned(),
            Some(name) => {
                let message = format!(
                    "`{}` has no sheet `{name}`: expected one of `{}`",
                    path.display(),
                    sheets.join("`, `")
                );
                return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, message).into());
            }
            None => sheets.first().cloned().ok_or_else(|| DataError::Empty { path: path.to_owned() })?,
        };
        let notice = (sheet.is_none() && sheets.len() > 1).then(|| {
            format!(
                "of `{0}` the sheet `{name}` is read; name another one behind `#`, as in `{0}#{1}`",
                path.display(),
                sheets[1]
            )
        });
        let mut cells = workbook.worksheet_cells_reader(&name).map_err(unreadable)?;
        let mut rows: Vec<(u32, Vec<(usize, String)>)> = Vec::new();
        // Cells one by one: a range would be as large as the two furthest cells say.
        while let Some(cell) = cells.next_cell().map_err(unreadable)? {
            let (row, column) = cell.get_position();
            let text = text(cell.get_value());
            if text.is_empty() {
                continue;
            }
            match rows.last_mut() {
                Some((last, cells)) if *last == row + 1 => cells.push((column as usize, text)),
                _ => rows.push((row + 1, vec![(column as usize, text)])),
            }
        }
        drop(cells);
        let path: Arc<Path> = if sheet.is_some() {
            Path::new(&format!("{}#{name}", path.display())).into()
        } else {
            path.into()
        };
        let mut rows = rows.into_iter();
        let names = match rows.next() {
            Some((row, header)) => names(header).map_err(|problem| DataError::Row {
                at: Source { path: path.clone(), line: row.into() },
                problem,
            })?,
            None => Vec::new(),
        };
        Ok((Self { path, names, rows }, notice))
    }
}

impl Iterator for SheetRows {
    type Item = Result<RawRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        let (row, cells) = self.rows.next()?;
        let named = self.names.iter().flatten();
        let mut fields: Map<String, Value> =
            named.map(|name| (name.clone(), Value::String(String::new()))).collect();
        for (column, text) in cells {
            if let Some(Some(name)) = self.names.get(column) {
                fields[name] = Value::String(text);
            }
        }
        let source = Source { path: self.path.clone(), line: row.into() };
        Some(Ok(RawRecord { row: RawRow::Ready(Content::Fields(fields)), source }))
    }
}

fn names(header: Vec<(usize, String)>) -> Result<Vec<Option<String>>, RowProblem> {
    let mut names: Vec<Option<String>> = Vec::new();
    for (column, name) in header {
        let name = name.trim().to_owned();
        if names.iter().flatten().any(|other| *other == name) {
            return Err(RowProblem::DuplicateColumn { name });
        }
        // Columns have at most three letters: 18,278 of them.
        names.resize(names.len().max(column + 1), None);
        names[column] = Some(name);
    }
    Ok(names)
}

fn text(cell: &DataRef<'_>) -> String {
    match cell {
        DataRef::Empty => String::new(),
        DataRef::Int(number) => number.to_string(),
        DataRef::Float(number) => number.to_string(),
        DataRef::String(text) | DataRef::DateTimeIso(text) | DataRef::DurationIso(text) => text.clone(),
        DataRef::SharedString(text) => (*text).to_owned(),
        DataRef::Bool(is_true) => is_true.to_string(),
        DataRef::Error(error) => error.to_string(),
        DataRef::DateTime(time) if time.is_datetime() => {
            let (year, month, day, hour, minute, second, _) = time.to_ymd_hms_milli();
            match (hour, minute, second) {
                (0, 0, 0) => format!("{year:04}-{month:02}-{day:02}"),
                _ => format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}"),
            }
        }
        DataRef::DateTime(duration) => duration.as_f64().to_string(),
    }
}
