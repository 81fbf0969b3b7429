//! Rows → a file whose ending says its form: `.jsonl`, `.json` (an array), `.csv` or `.parquet`; the first three also packed,
//! with `.gz` or `.zst` behind it. The file is there whole, or not at all.
//!
//! It reads nothing and gives columns no meaning.

mod parquet;

use std::io::Write;
use std::path::{Path, PathBuf};

use danlu_formats::AtomicFile;
use flate2::write::GzEncoder;
use fs_err as fs;
use serde_json::{Map, Value};

use crate::error::{DataError, Result};
use crate::exact_numbers::ExactNumbers;
use crate::records::split_sheet;

/// Bytes that are gathered before they are written.
const BUFFER_BYTES: usize = 1 << 20;

/// A file of rows under construction. Dropped without [`finish`](Self::finish), it disappears.
pub struct RecordWriter {
    path: PathBuf,
    file: AtomicFile,
    /// What is not written yet.
    buffer: Vec<u8>,
    form: Form,
    packer: Packer,
    rows: u64,
}

/// What the bytes of a file go through. What is packed is taken out of the buffer behind the packer.
enum Packer {
    None,
    Gzip(GzEncoder<Vec<u8>>),
    Zstandard(zstd::Encoder<'static, Vec<u8>>),
}

enum Form {
    /// One object a line.
    Lines,
    /// An array of objects, one a line.
    Array,
    /// Columns of the first row.
    Csv(Vec<String>),
    Parquet(Box<parquet::ParquetWriter>),
}

impl RecordWriter {
    /// Starts the file `path`, whose folder must be there.
    ///
    /// # Errors
    /// An ending that is none of those above; a place that cannot be written.
    pub fn create(path: &Path) -> Result<Self> {
        let ending = |path: &Path| Some(path.extension()?.to_str()?.to_ascii_lowercase());
        let packer = match ending(path).as_deref() {
            Some("gz") => Packer::Gzip(GzEncoder::new(Vec::new(), flate2::Compression::default())),
            Some("zst") => {
                Packer::Zstandard(zstd::Encoder::new(Vec::new(), zstd::DEFAULT_COMPRESSION_LEVEL)?)
            }
            _ => Packer::None,
        };
        let is_packed = !matches!(packer, Packer::None);
        let form = match if is_packed {
            path.file_stem().and_then(|stem| ending(stem.as_ref()))
        } else {
            ending(path)
        }
        .as_deref()
        {
            Some("jsonl") => Form::Lines,
            Some("json") => Form::Array,
            Some("csv") => Form::Csv(Vec::new()),
            Some("parquet") if !is_packed => Form::Parquet(Box::new(parquet::ParquetWriter::new())),
            _ => return Err(DataError::UnknownOutputEnding { path: path.to_owned() }),
        };
        folder_is_there(path)?;
        Ok(Self {
            path: path.to_owned(),
            file: AtomicFile::create(path)?,
            buffer: Vec::new(),
            form,
            packer,
            rows: 0,
        })
    }

    /// Appends a row.
    ///
    /// # Errors
    /// A full disk; in CSV, a row with other columns than the first, or a value that is no text, number or truth value; in
    /// Parquet, a value of another kind than the rows before it have in that column.
    pub fn write(&mut self, row: &Map<String, Value>) -> Result<()> {
        self.write_exact(row, &ExactNumbers::default())
    }

    /// Appends a row whose numbers are written as they were read.
    ///
    /// # Errors
    /// Those of [`write`](Self::write); in Parquet, an integer beyond 64 bits.
    pub(crate) fn write_exact(&mut self, row: &Map<String, Value>, numbers: &ExactNumbers) -> Result<()> {
        let is_first = self.rows == 0;
        self.rows += 1;
        match &mut self.form {
            Form::Lines => numbers.push_json(&mut self.buffer, row)?,
            Form::Array => {
                self.buffer.extend_from_slice(if is_first { b"[\n" } else { b",\n" });
                numbers.push_json(&mut self.buffer, row)?;
            }
            Form::Csv(names) => {
                if is_first {
                    *names = row.keys().cloned().collect();
                    push_csv(&mut self.buffer, names.iter().cloned());
                }
                let fields = csv_fields(row, names, numbers).map_err(|problem| DataError::Unwritable {
                    path: self.path.clone(),
                    row: self.rows,
                    problem,
                })?;
                push_csv(&mut self.buffer, fields.into_iter());
            }
            Form::Parquet(writer) => {
                let wide = numbers.wide_integer().map_or(Ok(()), |number| Err(parquet::too_wide(number)));
                wide.and_then(|()| writer.write(row)).map_err(|problem| DataError::Unwritable {
                    path: self.path.clone(),
                    row: self.rows,
                    problem,
                })?;
                self.buffer.append(&mut writer.take());
            }
        }
        if matches!(self.form, Form::Lines) {
            self.buffer.push(b'\n');
        }
        self.flush_from(BUFFER_BYTES)
    }

    /// Rows written so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    /// A full disk.
    pub fn finish(mut self) -> Result<()> {
        match &mut self.form {
            Form::Lines | Form::Csv(_) => {}
            Form::Array => {
                self.buffer.extend_from_slice(if self.rows == 0 { b"[]\n" } else { b"\n]\n" });
            }
            Form::Parquet(writer) => {
                let row = self.rows;
                let unwritable = |problem| DataError::Unwritable { path: self.path.clone(), row, problem };
                writer.finish().map_err(unwritable)?;
                self.buffer.append(&mut writer.take());
            }
        }
        self.flush_from(1)?;
        let rest = match self.packer {
            Packer::None => Vec::new(),
            Packer::Gzip(packer) => packer.finish()?,
            Packer::Zstandard(packer) => packer.finish()?,
        };
        self.file.write(&rest)?;
        Ok(self.file.commit()?)
    }

    fn flush_from(&mut self, bytes: usize) -> Result<()> {
        if self.buffer.len() < bytes {
            return Ok(());
        }
        let packed = match &mut self.packer {
            Packer::None => &mut self.buffer,
            Packer::Gzip(packer) => {
                packer.write_all(&self.buffer)?;
                packer.get_mut()
            }
            Packer::Zstandard(packer) => {
                packer.write_all(&self.buffer)?;
                packer.get_mut()
            }
        };
        self.file.write(packed)?;
        packed.clear();
        self.buffer.clear();
        Ok(())
    }
}

/// Refuses a file in a folder that is not there, which the system would tell of a temporary name.
pub(crate) fn folder_is_there(output: &Path) -> Result<()> {
    match output.parent() {
        Some(folder) if folder != Path::new("") && !folder.exists() => {
            let problem = format!(
                "cannot write `{}`: the folder `{}` does not exist, create it or choose another place",
                output.display(),
                folder.display()
            );
            Err(std::io::Error::new(std::io::ErrorKind::NotFound, problem).into())
        }
        _ => Ok(()),
    }
}

/// Refuses an output that would be read: one that is an input, or lies in a folder that is. It need not be there yet.
///
/// # Errors
/// [`DataError::OutputInInput`].
pub fn refuse_output_in(inputs: &[PathBuf], output: &Path) -> Result<()> {
    let absolute = std::path::absolute(output)?;
    let place = absolute.ancestors().find_map(|ancestor| {
        Some(fs::canonicalize(ancestor).ok()?.join(absolute.strip_prefix(ancestor).ok()?))
    });
    let place = place.unwrap_or(absolute.clone());
    let holds =
        |input: &&PathBuf| fs::canonicalize(split_sheet(input).0).is_ok_and(|input| place.starts_with(input));
    match inputs.iter().find(holds) {
        Some(input) => Err(DataError::OutputInInput { output: output.to_owned(), input: input.clone() }),
        None => Ok(()),
    }
}

fn csv_fields(
    row: &Map<String, Value>,
    names: &[String],
    numbers: &ExactNumbers,
) -> Result<Vec<String>, String> {
    let mut fields = vec![String::new(); names.len()];
    let mut literals = numbers.literals();
    for (name, value) in row {
        let Some(column) = names.iter().position(|column| column == name) else {
            return Err(format!("column `{name}` is not in the first row; write `.jsonl` instead"));
        };
        fields[column] = match value {
            Value::Null => continue,
            Value::String(text) => text.clone(),
            Value::Number(_) | Value::Bool(_) => literals.text(value),
            Value::Array(_) | Value::Object(_) => {
                return Err(format!(
                    "column `{name}` holds a list or an object, which CSV has not; write `.jsonl` instead"
                ));
            }
        };
    }
    Ok(fields)
}

/// One line of RFC 4180, with LF.
fn push_csv(buffer: &mut Vec<u8>, fields: impl Iterator<Item = String>) {
    for (index, field) in fields.enumerate() {
        if index > 0 {
            buffer.push(b',');
        }
        // An empty row of one column would be a blank line, which readers skip.
        if field.is_empty() || field.contains([',', '"', '\n', '\r']) {
            buffer.push(b'"');
            buffer.extend_from_slice(field.replace('"', "\"\"").as_bytes());
            buffer.push(b'"');
        } else {
            buffer.extend_from_slice(field.as_bytes());
        }
    }
    buffer.push(b'\n');
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::records::{Content, Records};

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let rows = [json!({"问": "a,\"b\"\nc", "答": "NA"}), json!({"问": "", "答": "二"})];
        let names = [
            "rows.jsonl",
            "rows.json",
            "rows.csv",
            "rows.jsonl.gz",
            "rows.json.zst",
            "rows.csv.zst",
            "rows.parquet",
        ];
        for name in names {
            let path = folder.path().join(name);
            let mut writer = RecordWriter::create(&path).unwrap();
            rows.iter().for_each(|row| writer.write(row.as_object().unwrap()).unwrap());
            assert!(!path.exists());
            writer.finish().unwrap();
            assert_eq!(read(&path), rows, "{name}");
        }
    }

    fn read(path: &Path) -> Vec<Value> {
        let value = |content| match content {
            Content::Fields(fields) => Value::Object(fields),
            Content::Text(text) => panic!("{text}"),
        };
        Records::open(path).unwrap().map(|record| value(record.unwrap().content)).collect()
    }

    #[test]
    fn parquet_keeps_lists_objects_and_what_is_absent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.parquet");
        let message = |index: usize| json!({"role": "user", "content": format!("第{index}句"), "weight": index as f64 / 2.0});
        let rows: Vec<Value> = (0..3000)
            .map(|index| json!({
                "messages": (0..index % 4).map(message).collect::<Vec<_>>(),
                "deep": match index % 5 { 0 => json!(null), 1 => json!([]), 2 => json!([[]]), 3 => json!([[1], [], [2, null]]), _ => json!([null]) },
                "is_good": index % 2 == 0,
                "name": if index % 3 == 0 { Value::Null } else { json!("名") },
                "inner": {"a": {"b": index}},
            }))
            .collect();
        let mut writer = RecordWriter::create(&path).unwrap();
        rows.iter().for_each(|row| writer.write(row.as_object().unwrap()).unwrap());
        writer.finish().unwrap();
        assert_eq!(read(&path), rows);
    }

    #[test]
    fn parquet_refuses_two_kinds_in_a_column() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = RecordWriter::create(&folder.path().join("rows.parquet")).unwrap();
        writer.write(json!({"a": [{"b": 1}]}).as_object().unwrap()).unwrap();
        let message = writer.write(json!({"a": [{"b": "x"}]}).as_object().unwrap()).unwrap_err().to_string();
        assert!(
            message.ends_with(
                "row 2: column `a.b` holds a text, in rows before it a whole number; Parquet has one kind a column, \
                 write `.jsonl` instead"
            ),
            "{message}"
        );
    }

    #[test]
    fn parquet_tells_the_kinds_of_a_column_before_the_width_of_its_integers() {
        let mut writer = parquet::ParquetWriter::new();
        let mut write = |row: Value| writer.write(row.as_object().unwrap());
        for _ in 0..50_000 {
            write(json!({"a": 0.5, "b": "x", "c": 1})).unwrap();
        }
        // The columns are settled.
        write(json!({"a": u64::MAX})).unwrap();
        assert!(
            write(json!({"b": u64::MAX}))
                .unwrap_err()
                .starts_with("column `b` holds a number, in rows before")
        );
        assert!(
            write(json!({"c": u64::MAX}))
                .unwrap_err()
                .starts_with("the number `18446744073709551615` is beyond")
        );
    }

    #[test]
    fn csv_keeps_equal_numbers_apart_whatever_the_order_of_the_columns() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.csv");
        let mut writer = RecordWriter::create(&path).unwrap();
        for row in [r#"{"a":1.1,"b":1.10}"#, r#"{"b":2.50,"a":2.5}"#] {
            let fields: Map<String, Value> = serde_json::from_str(row).unwrap();
            writer.write_exact(&fields, &ExactNumbers::of(row.as_bytes())).unwrap();
        }
        writer.finish().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "a,b\n1.1,1.10\n2.5,2.50\n");
    }

    #[test]
    fn csv_refuses_what_it_cannot_hold() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = RecordWriter::create(&folder.path().join("rows.csv")).unwrap();
        writer.write(json!({"a": 1, "b": null}).as_object().unwrap()).unwrap();
        let message = writer.write(json!({"a": [1]}).as_object().unwrap()).unwrap_err().to_string();
        assert!(message.ends_with(
            "row 2: column `a` holds a list or an object, which CSV has not; write `.jsonl` instead"
        ));
        let message = writer.write(json!({"c": 1}).as_object().unwrap()).unwrap_err().to_string();
        assert!(message.ends_with("row 3: column `c` is not in the first row; write `.jsonl` instead"));
    }
}
