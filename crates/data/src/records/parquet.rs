//! Parquet → rows, some hundred at a time: lists become JSON lists, structs and maps objects, dates and decimals text.
//!
//! The columns of a row group are read level by level and put together again as Dremel's paper says
//! (<https://research.google/pubs/pub36632/>). Text must be UTF-8; of the sizes that a file states, none is allocated that
//! the file could not hold.

use std::cell::Cell;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::{Arc, Once};

use bytes::Bytes;
use parquet::basic::{ConvertedType, LogicalType, Repetition, TimeUnit, Type as PhysicalType};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, DataType, FixedLenByteArray, Int96};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::reader::{ChunkReader, FileReader, Length, SerializedFileReader};
use parquet::schema::types::{ColumnDescPtr, ColumnDescriptor, Type};
use serde_json::{Map, Value};

use super::input::InputFile;
use super::scalar::{date, date_time, decimal, float, half};
use super::{Content, RawRecord, RawRow, Source};
use crate::error::{DataError, Result, RowProblem};

/// Rows that are decoded together.
const ROWS_AT_ONCE: usize = 256;
/// Schemas are trees, walked by recursion.
const DEEPEST: usize = 64;

pub(super) struct ParquetRows {
    path: Arc<Path>,
    file: InputFile,
    reader: SerializedFileReader<Chunks>,
    fields: Vec<Node>,
    columns: Vec<Box<dyn Column>>,
    /// The next row group, counted from 0.
    group: usize,
    /// Rows of the current group that are not decoded yet.
    left: usize,
    /// Decoded rows that are not given out.
    decoded: usize,
    row: u64,
    is_done: bool,
}

impl ParquetRows {
    pub(super) fn open(path: Arc<Path>) -> Result<Self> {
        let file = InputFile::open(&path)?;
        let chunks = Chunks { length: file.length(), file: file.try_clone()?.into_file() };
        let open = || {
            let reader = SerializedFileReader::new(chunks)?;
            let schema = reader.metadata().file_metadata().schema_descr();
            let mut leaves = 0;
            let root = schema.root_schema();
            let fields = root.get_fields().iter().map(|field| Node::new(field, 0, 0, &mut leaves, 0));
            let fields = fields.collect::<ParquetResult<Vec<_>>>()?;
            if leaves != schema.num_columns() {
                return Err(ParquetError::General("the schema has columns of unknown kinds".to_owned()));
            }
            Ok((reader, fields))
        };
        let (reader, fields) = guarded(open).map_err(|problem| unreadable(&path, &problem))?;
        Ok(Self {
            path,
            file,
            reader,
            fields,
            columns: Vec::new(),
            group: 0,
            left: 0,
            decoded: 0,
            row: 0,
            is_done: false,
        })
    }

    /// Decodes more rows; false at the end.
    fn decode(&mut self) -> ParquetResult<bool> {
        while self.left == 0 {
            let metadata = self.reader.metadata();
            if self.group == metadata.num_row_groups() {
                return Ok(false);
            }
            let rows = metadata.row_group(self.group).num_rows();
            self.left = usize::try_from(rows).map_err(|_| ParquetError::General(format!("{rows} rows")))?;
            let group = self.reader.get_row_group(self.group)?;
            let schema = metadata.file_metadata().schema_descr();
            self.columns = (0..schema.num_columns())
                .map(|column| Ok(open_column(group.get_column_reader(column)?, schema.column(column))))
                .collect::<ParquetResult<_>>()?;
            drop(group);
            self.group += 1;
        }
        let rows = self.left.min(ROWS_AT_ONCE);
        for column in &mut self.columns {
            let read = column.read(rows)?;
            if read != rows {
                return Err(ParquetError::General(format!(
                    "column `{}` ends {} rows early",
                    column.descriptor().path(),
                    self.left - read
                )));
            }
        }
        self.left -= rows;
        self.decoded = rows;
        Ok(true)
    }

    fn read(&mut self) -> Result<Option<RawRecord>> {
        if self.decoded == 0 {
            match guarded(|| self.decode()) {
                Ok(true) => {}
                Ok(false) => {
                    self.file.check()?;
                    return Ok(None);
                }
                Err(problem) => {
                    self.file.check()?;
                    let group = self.group;
                    return Err(unreadable(&self.path, &format!("row group {group}: {problem}")));
                }
            }
        }
        self.decoded -= 1;
        self.row += 1;
        let mut row = Assembly { columns: &mut self.columns, problem: None };
        let fields: ParquetResult<Map<String, Value>> =
            self.fields.iter().map(|field| Ok((field.name.clone(), row.read(field)?))).collect();
        let problem = row.problem;
        let fields = fields.map_err(|error| {
            self.is_done = true;
            unreadable(&self.path, &format!("row {}: {error}", self.row))
        })?;
        let source = Source { path: self.path.clone(), line: self.row };
        match problem {
            Some(problem) => Err(DataError::Row { at: source, problem }),
            None => Ok(Some(RawRecord { row: RawRow::Ready(Content::Fields(fields)), source })),
        }
    }
}

impl Iterator for ParquetRows {
    type Item = Result<RawRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        let row = self.read();
        self.is_done |= !matches!(row, Ok(Some(_)) | Err(DataError::Row { .. }));
        row.transpose()
    }
}

fn unreadable(path: &Path, problem: &str) -> DataError {
    let problem = problem.trim_start_matches("Parquet error: ");
    let message = format!(
        "`{}` is no Parquet file that can be read: {problem}; it is damaged or cut off",
        path.display()
    );
    std::io::Error::new(std::io::ErrorKind::InvalidData, message).into()
}

thread_local! {
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// The library has assertions that damaged pages reach; what it holds then is thrown away, and nothing is printed.
fn guarded<T>(read: impl FnOnce() -> ParquetResult<T>) -> Result<T, String> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let hook = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !IS_GUARDED.get() {
                hook(panic);
            }
        }));
    });
    IS_GUARDED.set(true);
    let read = panic::catch_unwind(AssertUnwindSafe(read));
    IS_GUARDED.set(false);
    match read {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("its pages contradict each other".to_owned()),
    }
}

/// The file, from which no more is asked for than it holds.
struct Chunks {
    file: File,
    length: u64,
}

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for Chunks {
    type T = BufReader<File>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        let mut file = self.file.try_clone()?;
        file.seek(SeekFrom::Start(start))?;
        Ok(BufReader::new(file))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        if start.checked_add(length as u64).is_none_or(|end| end > self.length) {
            let message = format!("{length} bytes are expected at {start}, the file has {}", self.length);
            return Err(ParquetError::EOF(message));
        }
        let mut bytes = vec![0; length];
        let mut file = self.file.try_clone()?;
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut bytes)?;
        Ok(bytes.into())
    }
}

/// A field of the schema.
struct Node {
    name: String,
    /// Level from which on the field is there.
    definition: i16,
    /// The first of the columns below it.
    first: usize,
    kind: Kind,
}

enum Kind {
    Leaf,
    Struct(Vec<Node>),
    /// Its items are there from their own level on, and repeat at `repetition`.
    List {
        item: Box<Node>,
        item_definition: i16,
        repetition: i16,
    },
    Map {
        key: Box<Node>,
        value: Box<Node>,
        item_definition: i16,
        repetition: i16,
    },
}

impl Node {
    fn new(
        schema: &Type,
        definition: i16,
        repetition: i16,
        leaves: &mut usize,
        depth: usize,
    ) -> ParquetResult<Self> {
        if schema.get_basic_info().repetition() == Repetition::REPEATED {
            // A repeated field without an annotation is a list that is always there.
            let first = *leaves;
            let (item_definition, repetition) = (definition + 1, repetition + 1);
            let item = Self::of(schema, item_definition, repetition, leaves, depth)?;
            let name = schema.name().to_owned();
            let kind = Kind::List { item: Box::new(item), item_definition, repetition };
            return Ok(Self { name, definition, first, kind });
        }
        let is_optional = schema.get_basic_info().has_repetition() && schema.is_optional();
        Self::of(schema, definition + i16::from(is_optional), repetition, leaves, depth)
    }

    /// The field without regard to its own repetition.
    fn of(
        schema: &Type,
        definition: i16,
        repetition: i16,
        leaves: &mut usize,
        depth: usize,
    ) -> ParquetResult<Self> {
        let name = schema.name().to_owned();
        let first = *leaves;
        if schema.is_primitive() {
            *leaves += 1;
            return Ok(Self { name, definition, first, kind: Kind::Leaf });
        }
        let fields = schema.get_fields();
        if fields.is_empty() || depth == DEEPEST {
            return Err(ParquetError::General(format!("field `{name}` is empty or nested too deep")));
        }
        let info = schema.get_basic_info();
        let is = |converted: &[ConvertedType], logical: &LogicalType| {
            converted.contains(&info.converted_type()) || info.logical_type_ref() == Some(logical)
        };
        let repeated = match fields {
            [field] if field.get_basic_info().repetition() == Repetition::REPEATED => Some(field),
            _ => None,
        };
        let (item_definition, item_repetition) = (definition + 1, repetition + 1);
        let mut node = |schema: &Type| Self::new(schema, item_definition, item_repetition, leaves, depth + 1);
        let kind = match repeated {
            Some(field) if is(&[ConvertedType::LIST], &LogicalType::List) => {
                let is_item = field.is_primitive()
                    || field.get_fields().len() != 1
                    || field.name() == "array"
                    || field.name() == format!("{name}_tuple");
                let item = match is_item {
                    true => Self::of(field, item_definition, item_repetition, leaves, depth + 1)?,
                    false => node(&field.get_fields()[0])?,
                };
                Kind::List { item: Box::new(item), item_definition, repetition: item_repetition }
            }
            Some(field)
                if is(&[ConvertedType::MAP, ConvertedType::MAP_KEY_VALUE], &LogicalType::Map)
                    && field.is_group()
                    && field.get_fields().len() == 2 =>
            {
                let key = Box::new(node(&field.get_fields()[0])?);
                let value = Box::new(node(&field.get_fields()[1])?);
                Kind::Map { key, value, item_definition, repetition: item_repetition }
            }
            _ => Kind::Struct(
                fields
                    .iter()
                    .map(|field| Self::new(field, definition, repetition, leaves, depth + 1))
                    .collect::<ParquetResult<_>>()?,
            ),
        };
        Ok(Self { name, definition, first, kind })
    }
}

/// A row that is being put together.
struct Assembly<'a> {
    columns: &'a mut [Box<dyn Column>],
    /// The first value that is no text.
    problem: Option<RowProblem>,
}

impl Assembly<'_> {
    fn read(&mut self, node: &Node) -> ParquetResult<Value> {
        let definition = self.columns[node.first].definition().ok_or_else(out_of_step)?;
        if definition < node.definition {
            self.skip(node);
            return Ok(Value::Null);
        }
        match &node.kind {
            Kind::Leaf => Ok(self.columns[node.first].take().unwrap_or_else(|problem| {
                self.problem.get_or_insert(problem);
                Value::Null
            })),
            Kind::Struct(fields) => {
                let read = |field: &Node| Ok((field.name.clone(), self.read(field)?));
                Ok(Value::Object(fields.iter().map(read).collect::<ParquetResult<_>>()?))
            }
            Kind::List { item_definition, .. } | Kind::Map { item_definition, .. }
                if definition < *item_definition =>
            {
                self.skip(node);
                let is_map = matches!(node.kind, Kind::Map { .. });
                Ok(if is_map { Value::Object(Map::new()) } else { Value::Array(Vec::new()) })
            }
            Kind::List { item, repetition, .. } => {
                let mut items = vec![self.read(item)?];
                while self.columns[node.first].repetition() == Some(*repetition) {
                    items.push(self.read(item)?);
                }
                Ok(Value::Array(items))
            }
            Kind::Map { key, value, repetition, .. } => {
                let mut entries = Map::new();
                loop {
                    let key = match self.read(key)? {
                        Value::String(key) => key,
                        key => key.to_string(),
                    };
                    let value = self.read(value)?;
                    entries.insert(key, value);
                    if self.columns[node.first].repetition() != Some(*repetition) {
                        return Ok(Value::Object(entries));
                    }
                }
            }
        }
    }

    /// Passes over the one level that each column below has for what is not there.
    fn skip(&mut self, node: &Node) {
        match &node.kind {
            Kind::Leaf => self.columns[node.first].skip(),
            Kind::Struct(fields) => fields.iter().for_each(|field| self.skip(field)),
            Kind::List { item, .. } => self.skip(item),
            Kind::Map { key, value, .. } => {
                self.skip(key);
                self.skip(value);
            }
        }
    }
}

fn out_of_step() -> ParquetError {
    ParquetError::General("its columns have different numbers of values".to_owned())
}

/// Levels and values of a column, some rows at a time.
trait Column: Send {
    fn descriptor(&self) -> &ColumnDescriptor;
    /// Reads so many rows in place of those before; how many there were.
    fn read(&mut self, rows: usize) -> ParquetResult<usize>;
    /// Definition level of the next value, which may be absent; `None` where no more is read.
    fn definition(&self) -> Option<i16>;
    fn repetition(&self) -> Option<i16>;
    /// The next value, which is there.
    fn take(&mut self) -> Result<Value, RowProblem>;
    /// Passes over an absent value.
    fn skip(&mut self);
}

struct Leaf<T: DataType> {
    descriptor: ColumnDescPtr,
    reader: ColumnReaderImpl<T>,
    definitions: Vec<i16>,
    repetitions: Vec<i16>,
    values: Vec<T::T>,
    levels: usize,
    level: usize,
    value: usize,
    convert: fn(&T::T, &ColumnDescriptor) -> Result<Value, RowProblem>,
}

impl<T: DataType> Column for Leaf<T>
where
    ColumnReaderImpl<T>: Send,
{
    fn descriptor(&self) -> &ColumnDescriptor {
        &self.descriptor
    }

    fn read(&mut self, rows: usize) -> ParquetResult<usize> {
        self.definitions.clear();
        self.repetitions.clear();
        self.values.clear();
        (self.level, self.value) = (0, 0);
        let (definitions, repetitions) = (Some(&mut self.definitions), Some(&mut self.repetitions));
        let (rows, _, levels) = self.reader.read_records(rows, definitions, repetitions, &mut self.values)?;
        self.levels = levels;
        Ok(rows)
    }

    fn definition(&self) -> Option<i16> {
        if self.level >= self.levels {
            return None;
        }
        // A column that is never absent has no levels.
        if self.descriptor.max_def_level() == 0 { Some(0) } else { self.definitions.get(self.level).copied() }
    }

    fn repetition(&self) -> Option<i16> {
        self.repetitions.get(self.level).copied()
    }

    fn take(&mut self) -> Result<Value, RowProblem> {
        self.level += 1;
        self.value += 1;
        match self.values.get(self.value - 1) {
            Some(value) => (self.convert)(value, &self.descriptor),
            None => Ok(Value::Null),
        }
    }

    fn skip(&mut self) {
        self.level += 1;
    }
}

fn open_column(reader: ColumnReader, descriptor: ColumnDescPtr) -> Box<dyn Column> {
    macro_rules! leaf {
        ($reader:expr, $convert:expr) => {
            Box::new(Leaf {
                descriptor,
                reader: $reader,
                definitions: Vec::new(),
                repetitions: Vec::new(),
                values: Vec::new(),
                levels: 0,
                level: 0,
                value: 0,
                convert: $convert,
            })
        };
    }
    match reader {
        ColumnReader::BoolColumnReader(reader) => leaf!(reader, |value, _| Ok(Value::Bool(*value))),
        ColumnReader::Int32ColumnReader(reader) => {
            leaf!(reader, |value, column| Ok(integer(i64::from(*value), column)))
        }
        ColumnReader::Int64ColumnReader(reader) => leaf!(reader, |value, column| Ok(integer(*value, column))),
        ColumnReader::Int96ColumnReader(reader) => leaf!(reader, |value, _| Ok(int96(value))),
        // Its shortest text, so that 0.1 stays 0.1.
        ColumnReader::FloatColumnReader(reader) => {
            leaf!(reader, |value, _| Ok(float(value.to_string().parse().unwrap_or(f64::NAN))))
        }
        ColumnReader::DoubleColumnReader(reader) => leaf!(reader, |value, _| Ok(float(*value))),
        ColumnReader::ByteArrayColumnReader(reader) => leaf!(reader, bytes),
        ColumnReader::FixedLenByteArrayColumnReader(reader) => {
            leaf!(reader, |value: &FixedLenByteArray, column| bytes(value, column))
        }
    }
}

fn integer(value: i64, column: &ColumnDescriptor) -> Value {
    let unit = match column.logical_type_ref() {
        Some(LogicalType::Timestamp(kind)) => match kind.unit {
            TimeUnit::MILLIS => Some(1_000_000),
            TimeUnit::MICROS => Some(1_000),
            TimeUnit::NANOS => Some(1),
        },
        _ => None,
    };
    match (column.converted_type(), unit) {
        (_, Some(nanoseconds)) => date_time(i128::from(value) * nanoseconds),
        (ConvertedType::TIMESTAMP_MILLIS, _) => date_time(i128::from(value) * 1_000_000),
        (ConvertedType::TIMESTAMP_MICROS, _) => date_time(i128::from(value) * 1_000),
        (ConvertedType::DATE, _) => Value::String(date(i128::from(value))),
        (ConvertedType::DECIMAL, _) => decimal(i128::from(value), column.type_scale()),
        (ConvertedType::UINT_64, _) => Value::from(value as u64),
        (ConvertedType::UINT_32, _) => Value::from(value as u32),
        _ => Value::from(value),
    }
}

/// The old timestamps of Spark and Impala: nanoseconds of the day, then the Julian day.
fn int96(value: &Int96) -> Value {
    const UNIX_EPOCH: i128 = 2_440_588;
    let [low, high, day] = *value.data() else { return Value::Null };
    let nanoseconds = i128::from(low) | i128::from(high) << 32;
    date_time((i128::from(day) - UNIX_EPOCH) * 86_400_000_000_000 + nanoseconds)
}

fn bytes(value: &ByteArray, column: &ColumnDescriptor) -> Result<Value, RowProblem> {
    let bytes = value.data();
    if column.converted_type() == ConvertedType::DECIMAL && (1..=16).contains(&bytes.len()) {
        // Big-endian, in two's complement.
        let sign = if bytes[0] & 0x80 == 0 { 0 } else { -1_i128 };
        let unscaled = bytes.iter().fold(sign, |number, &byte| number << 8 | i128::from(byte));
        return Ok(decimal(unscaled, column.type_scale()));
    }
    let is_half = column.physical_type() == PhysicalType::FIXED_LEN_BYTE_ARRAY
        && column.logical_type_ref() == Some(&LogicalType::Float16);
    if let ([low, high], true) = (bytes, is_half) {
        return Ok(float(half(u16::from_le_bytes([*low, *high]))));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(Value::String(text.to_owned())),
        Err(error) => Err(RowProblem::InvalidUtf8 {
            byte: error.valid_up_to() + 1,
            field: Some(column.path().string()),
        }),
    }
}
