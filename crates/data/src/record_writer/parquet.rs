//! Rows → Parquet: row groups of bounded size, compressed with Zstandard.
//!
//! The kinds of the columns are those that the rows of the first group have between them; any value may be absent, and an
//! object lacks none of the fields that others have: they are null. Lists and objects nest.

use std::sync::Arc;

use parquet::basic::{Compression, ConvertedType, LogicalType, Repetition, Type as PhysicalType, ZstdLevel};
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{Type, TypePtr};
use serde_json::{Map, Value};

use crate::records::kind_of;

/// Rows of a group, however short.
const GROUP_ROWS: usize = 50_000;
/// Bytes of text in a group, about.
const GROUP_BYTES: usize = 32 << 20;

/// Writes into memory; [`take`](Self::take) gives the bytes that are ready.
pub(super) struct ParquetWriter {
    /// Grows until the first group is written.
    schema: Kind,
    writer: Option<SerializedFileWriter<Vec<u8>>>,
    waiting: Vec<Map<String, Value>>,
    bytes: usize,
}

impl ParquetWriter {
    pub(super) fn new() -> Self {
        Self { schema: Kind::Object(Vec::new()), writer: None, waiting: Vec::new(), bytes: 0 }
    }

    /// Adds a row.
    ///
    /// # Errors
    /// A value of another kind than the column's, in words.
    pub(super) fn write(&mut self, row: &Map<String, Value>) -> Result<(), String> {
        match self.writer {
            None => {
                fields_of(row)?.into_iter().try_for_each(|(name, kind)| self.schema.add(name, kind, ""))?
            }
            Some(_) => self.schema.check_fields(row, "")?,
        }
        self.bytes += row.values().map(size).sum::<usize>();
        self.waiting.push(row.clone());
        if self.waiting.len() >= GROUP_ROWS || self.bytes >= GROUP_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    /// The bytes written since the last call.
    pub(super) fn take(&mut self) -> Vec<u8> {
        self.writer.as_mut().map(|writer| std::mem::take(writer.inner_mut())).unwrap_or_default()
    }

    /// Writes what waits and the footer; [`take`](Self::take) gives the last bytes.
    pub(super) fn finish(&mut self) -> Result<(), String> {
        self.flush()?;
        let finish = |writer: &mut SerializedFileWriter<Vec<u8>>| writer.finish().map(drop);
        self.writer.as_mut().map_or(Ok(()), finish).map_err(|error| error.to_string())
    }

    fn flush(&mut self) -> Result<(), String> {
        if self.writer.is_none() {
            let properties =
                WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
            let schema = self.schema.schema()?;
            let writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties));
            self.writer = Some(writer.map_err(|error| error.to_string())?);
        }
        let (Some(writer), Kind::Object(fields)) = (&mut self.writer, &self.schema) else { return Ok(()) };
        let rows = std::mem::take(&mut self.waiting);
        self.bytes = 0;
        if rows.is_empty() {
            return Ok(());
        }
        let mut columns = vec![Column::default(); fields.iter().map(|field| field.1.leaves()).sum()];
        for row in &rows {
            let mut first = 0;
            for (name, kind) in fields {
                kind.shred(row.get(name).unwrap_or(&Value::Null), &mut columns[first..], Levels::default());
                first += kind.leaves();
            }
        }
        write_group(writer, columns).map_err(|error| error.to_string())
    }
}

fn write_group(writer: &mut SerializedFileWriter<Vec<u8>>, columns: Vec<Column>) -> ParquetResult<()> {
    let mut group = writer.next_row_group()?;
    for Column { definitions, repetitions, values } in columns {
        let mut column =
            group.next_column()?.ok_or_else(|| ParquetError::General("a column too many".into()))?;
        let levels = (Some(&definitions[..]), Some(&repetitions[..]));
        match column.untyped() {
            ColumnWriter::BoolColumnWriter(writer) => {
                let values: Vec<bool> =
                    values.iter().map(|value| value.as_bool().unwrap_or_default()).collect();
                writer.write_batch(&values, levels.0, levels.1)?;
            }
            ColumnWriter::Int64ColumnWriter(writer) => {
                let values: Vec<i64> =
                    values.iter().map(|value| value.as_i64().unwrap_or_default()).collect();
                writer.write_batch(&values, levels.0, levels.1)?;
            }
            ColumnWriter::DoubleColumnWriter(writer) => {
                let values: Vec<f64> =
                    values.iter().map(|value| value.as_f64().unwrap_or_default()).collect();
                writer.write_batch(&values, levels.0, levels.1)?;
            }
            ColumnWriter::ByteArrayColumnWriter(writer) => {
                let bytes = |value: &&Value| ByteArray::from(value.as_str().unwrap_or_default());
                let values: Vec<ByteArray> = values.iter().map(bytes).collect();
                writer.write_batch(&values, levels.0, levels.1)?;
            }
            _ => return Err(ParquetError::General("a column of another kind".into())),
        }
        column.close()?;
    }
    group.close()?;
    Ok(())
}

fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 32,
        Value::Array(items) => items.iter().map(size).sum::<usize>() + 32,
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| name.len() + size(value) + 64).sum::<usize>() + 32
        }
        _ => 32,
    }
}

/// What the values of a column are.
#[derive(Debug, Clone, PartialEq)]
enum Kind {
    /// Only null so far.
    Unknown,
    Truth,
    Integer,
    Float,
    Text,
    List(Box<Kind>),
    Object(Vec<(String, Kind)>),
}

/// Levels of Dremel's paper: how much of the path to a value is there, and what repeats with it.
#[derive(Debug, Clone, Copy, Default)]
struct Levels {
    definition: i16,
    repetition: i16,
    /// Of the innermost list around.
    deepest: i16,
}

/// Levels and present values of one column.
#[derive(Debug, Clone, Default)]
struct Column<'a> {
    definitions: Vec<i16>,
    repetitions: Vec<i16>,
    values: Vec<&'a Value>,
}

fn fields_of(row: &Map<String, Value>) -> Result<Vec<(String, Kind)>, String> {
    row.iter().map(|(name, value)| Ok((name.clone(), Kind::of(value, name)?))).collect()
}

/// What is said of an integer that a signed one of 64 bits does not hold.
pub(super) fn too_wide(number: &str) -> String {
    format!("the number `{number}` is beyond the 64 bits of Parquet's integers; write `.jsonl` instead")
}

impl Kind {
    fn of(value: &Value, path: &str) -> Result<Self, String> {
        Ok(match value {
            Value::Null => Self::Unknown,
            Value::Bool(_) => Self::Truth,
            Value::Number(number) if number.is_i64() => Self::Integer,
            Value::Number(number) if number.is_u64() => return Err(too_wide(&number.to_string())),
            Value::Number(_) => Self::Float,
            Value::String(_) => Self::Text,
            Value::Object(fields) => {
                let mut kind = Self::Object(Vec::new());
                for (name, value) in fields {
                    kind.add(name.clone(), Self::of(value, &format!("{path}.{name}"))?, path)?;
                }
                kind
            }
            Value::Array(items) => {
                let mut item = Self::Unknown;
                for value in items {
                    item.join(Self::of(value, path)?, path)?;
                }
                Self::List(Box::new(item))
            }
        })
    }

    /// Adds a field to an object.
    fn add(&mut self, name: String, kind: Self, path: &str) -> Result<(), String> {
        let Self::Object(fields) = self else { return Ok(()) };
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match fields.iter_mut().find(|field| field.0 == name) {
            Some((_, known)) => known.join(kind, &path),
            None => {
                fields.push((name, kind));
                Ok(())
            }
        }
    }

    /// The kind that values of both kinds have.
    fn join(&mut self, other: Self, path: &str) -> Result<(), String> {
        match (&mut *self, other) {
            (_, Self::Unknown) => Ok(()),
            (Self::Unknown, other) => {
                *self = other;
                Ok(())
            }
            (Self::Float, Self::Integer) => Ok(()),
            (Self::Integer, Self::Float) => {
                *self = Self::Float;
                Ok(())
            }
            (Self::List(item), Self::List(other)) => item.join(*other, path),
            (Self::Object(_), Self::Object(fields)) => {
                fields.into_iter().try_for_each(|(name, kind)| self.add(name, kind, path))
            }
            (known, other) if *known == other => Ok(()),
            (known, other) => Err(different(path, other.words(), known.words())),
        }
    }

    fn words(&self) -> &'static str {
        match self {
            Self::Unknown => "null",
            Self::Truth => "a truth value",
            Self::Integer => "a whole number",
            Self::Float => "a number",
            Self::Text => "a text",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }

    /// Whether the value of a later row fits.
    fn check(&self, value: &Value, path: &str) -> Result<(), String> {
        match (self, value) {
            (_, Value::Null) | (Self::Truth, Value::Bool(_)) | (Self::Float, Value::Number(_)) => Ok(()),
            (Self::Text | Self::Unknown, Value::String(_)) => Ok(()),
            (Self::Integer, Value::Number(number)) if number.is_i64() => Ok(()),
            (Self::List(item), Value::Array(items)) => {
                items.iter().try_for_each(|value| item.check(value, path))
            }
            (Self::Object(_), Value::Object(fields)) => self.check_fields(fields, path),
            (Self::Integer | Self::Unknown, Value::Number(number)) if number.is_u64() && !number.is_i64() => {
                Err(too_wide(&number.to_string()))
            }
            (Self::Integer, Value::Number(_)) => {
                Err(different(path, "a number with a fraction", self.words()))
            }
            _ => Err(different(path, kind_of(value), self.words())),
        }
    }

    fn check_fields(&self, row: &Map<String, Value>, path: &str) -> Result<(), String> {
        let Self::Object(fields) = self else { return Ok(()) };
        for (name, value) in row {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            match fields.iter().find(|field| field.0 == *name) {
                Some((_, kind)) => kind.check(value, &path)?,
                None => {
                    return Err(format!("column `{path}` is not in the first rows; write `.jsonl` instead"));
                }
            }
        }
        Ok(())
    }

    fn leaves(&self) -> usize {
        match self {
            Self::List(item) => item.leaves(),
            Self::Object(fields) => fields.iter().map(|field| field.1.leaves()).sum(),
            _ => 1,
        }
    }

    fn schema(&self) -> Result<TypePtr, String> {
        let Self::Object(fields) = self else { return Err("expected rows with columns".to_owned()) };
        let fields = fields.iter().map(|(name, kind)| kind.field(name)).collect::<Result<_, String>>()?;
        build(Type::group_type_builder("schema").with_fields(fields).build())
    }

    fn field(&self, name: &str) -> Result<TypePtr, String> {
        let primitive = |physical: PhysicalType| {
            Type::primitive_type_builder(name, physical).with_repetition(Repetition::OPTIONAL)
        };
        let group = |fields: Vec<TypePtr>| {
            Type::group_type_builder(name).with_repetition(Repetition::OPTIONAL).with_fields(fields)
        };
        build(match self {
            Self::Truth => primitive(PhysicalType::BOOLEAN).build(),
            Self::Integer => primitive(PhysicalType::INT64).build(),
            Self::Float => primitive(PhysicalType::DOUBLE).build(),
            Self::Text | Self::Unknown => primitive(PhysicalType::BYTE_ARRAY)
                .with_logical_type(Some(LogicalType::String))
                .with_converted_type(ConvertedType::UTF8)
                .build(),
            Self::List(item) => {
                let item = Type::group_type_builder("list")
                    .with_repetition(Repetition::REPEATED)
                    .with_fields(vec![item.field("element")?]);
                group(vec![build(item.build())?])
                    .with_logical_type(Some(LogicalType::List))
                    .with_converted_type(ConvertedType::LIST)
                    .build()
            }
            Self::Object(fields) if fields.is_empty() => {
                return Err(format!(
                    "`{name}` holds objects without fields, which Parquet has not; write `.jsonl` instead"
                ));
            }
            Self::Object(fields) => {
                group(fields.iter().map(|(name, kind)| kind.field(name)).collect::<Result<_, String>>()?)
                    .build()
            }
        })
    }

    /// Spreads a value over the columns of its leaves.
    fn shred<'a>(&self, value: &'a Value, columns: &mut [Column<'a>], levels: Levels) {
        let there = Levels { definition: levels.definition + 1, ..levels };
        match (self, value) {
            (_, Value::Null) => self.absent(columns, levels),
            (Self::List(_), Value::Array(items)) if items.is_empty() => self.absent(columns, there),
            (Self::List(item), Value::Array(items)) => {
                let deepest = levels.deepest + 1;
                for (index, value) in items.iter().enumerate() {
                    let repetition = if index == 0 { levels.repetition } else { deepest };
                    item.shred(
                        value,
                        columns,
                        Levels { definition: levels.definition + 2, repetition, deepest },
                    );
                }
            }
            (Self::Object(fields), Value::Object(values)) => {
                let mut first = 0;
                for (name, kind) in fields {
                    kind.shred(values.get(name).unwrap_or(&Value::Null), &mut columns[first..], there);
                    first += kind.leaves();
                }
            }
            _ => {
                columns[0].definitions.push(there.definition);
                columns[0].repetitions.push(levels.repetition);
                columns[0].values.push(value);
            }
        }
    }

    fn absent(&self, columns: &mut [Column<'_>], levels: Levels) {
        for column in &mut columns[..self.leaves()] {
            column.definitions.push(levels.definition);
            column.repetitions.push(levels.repetition);
        }
    }
}

fn build(schema: ParquetResult<Type>) -> Result<TypePtr, String> {
    schema.map(Arc::new).map_err(|error| error.to_string())
}

fn different(path: &str, found: &str, known: &str) -> String {
    format!(
        "column `{path}` holds {found}, in rows before it {known}; Parquet has one kind a column, write `.jsonl` instead"
    )
}
