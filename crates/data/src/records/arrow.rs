//! Arrow's IPC stream and file (`.arrow`), as the caches of Hugging Face `datasets` are written → rows, one record batch at
//! a time (<https://arrow.apache.org/docs/format/Columnar.html>).
//!
//! Little-endian batches of the types that hold texts, numbers, times, lists, structs, maps and dictionaries; compressed
//! buffers, unions and views are refused by name. Every length and offset is checked against the bytes that are there.

mod flatbuffer;
mod schema;

use std::collections::HashMap;
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use self::flatbuffer::{Checked, Table, damaged};
use self::schema::{Field, Kind, MOST_FIELDS};
use super::input::InputFile;
use super::scalar::{date, date_time, decimal, float, half};
use super::{Content, RawRecord, RawRow, Source};
use crate::error::{DataError, Result, RowProblem};

/// The first bytes of a file, behind which a stream begins.
const MAGIC: &[u8; 8] = b"ARROW1\0\0";

pub(super) struct ArrowRows {
    path: Arc<Path>,
    file: BufReader<InputFile>,
    length: u64,
    fields: Vec<Field>,
    dictionaries: HashMap<i64, Array>,
    batch: Vec<Array>,
    /// Rows of the batch, and those given out.
    rows: usize,
    given: usize,
    row: u64,
    is_done: bool,
}

impl ArrowRows {
    pub(super) fn open(path: Arc<Path>) -> Result<Self> {
        let input = InputFile::open(&path)?;
        let length = input.length();
        let file = BufReader::with_capacity(1 << 17, input);
        let mut rows = Self {
            path,
            file,
            length,
            fields: Vec::new(),
            dictionaries: HashMap::new(),
            batch: Vec::new(),
            rows: 0,
            given: 0,
            row: 0,
            is_done: false,
        };
        match rows.schema() {
            Ok(()) => Ok(rows),
            Err(problem) => Err(rows.unreadable(&problem)),
        }
    }

    fn unreadable(&mut self, problem: &str) -> DataError {
        self.is_done = true;
        if let Err(changed) = self.file.get_ref().check() {
            return changed.into();
        }
        let message = format!("`{}` is no Arrow file that can be read: {problem}", self.path.display());
        std::io::Error::new(std::io::ErrorKind::InvalidData, message).into()
    }

    fn schema(&mut self) -> Checked<()> {
        let Some((metadata, _)) = self.message(true)? else { return Err("it has no schema".to_owned()) };
        let message = Table::root(&metadata)?;
        if message.byte(1)? != 1 {
            return Err("it does not begin with a schema".to_owned());
        }
        let schema = message.table(2)?.ok_or_else(damaged)?;
        if schema.short(0)? != 0 {
            return Err("its numbers are big-endian".to_owned());
        }
        let mut left = MOST_FIELDS;
        self.fields =
            schema.tables(1)?.iter().map(|field| Field::new(field, 0, &mut left)).collect::<Checked<_>>()?;
        Ok(())
    }

    /// The next message and its body; `None` at the end.
    fn message(&mut self, is_first: bool) -> Checked<Option<(Vec<u8>, Vec<u8>)>> {
        let mut start = [0; 8];
        if !self.fill(&mut start)? {
            return Ok(None);
        }
        if is_first && start == *MAGIC && !self.fill(&mut start)? {
            return Ok(None);
        }
        // Before version 0.15 the length came alone; nobody writes that since 2019.
        if start[..4] != [0xff; 4] {
            return Err("a message does not begin where one should".to_owned());
        }
        let length = u32::from_le_bytes([start[4], start[5], start[6], start[7]]);
        if length == 0 {
            return Ok(None);
        }
        let metadata = self.bytes(length.into())?;
        let body = Table::root(&metadata)?.long(3)?;
        let body = self.bytes(u64::try_from(body).map_err(|_| damaged())?)?;
        Ok(Some((metadata, body)))
    }

    /// Fills the buffer; false at the end of the file.
    fn fill(&mut self, buffer: &mut [u8]) -> Checked<bool> {
        let mut read = 0;
        while read < buffer.len() {
            match self.file.read(&mut buffer[read..]).map_err(|error| error.to_string())? {
                0 if read == 0 => return Ok(false),
                0 => return Err("it is cut off".to_owned()),
                length => read += length,
            }
        }
        Ok(true)
    }

    fn bytes(&mut self, length: u64) -> Checked<Vec<u8>> {
        if length > self.length {
            return Err("it is cut off".to_owned());
        }
        let mut bytes = vec![0; length as usize];
        if length > 0 && !self.fill(&mut bytes)? {
            return Err("it is cut off".to_owned());
        }
        Ok(bytes)
    }

    /// Reads the next batch that has rows; false at the end.
    fn decode(&mut self) -> Checked<bool> {
        while self.given == self.rows {
            let Some((metadata, body)) = self.message(false)? else { return Ok(false) };
            let message = Table::root(&metadata)?;
            let header = message.table(2)?.ok_or_else(damaged)?;
            let body = Arc::new(body);
            match message.byte(1)? {
                2 => {
                    let id = header.long(0)?;
                    let field =
                        self.fields.iter().find_map(|field| field.of_dictionary(id)).ok_or_else(damaged)?;
                    let values = field.values();
                    let batch = header.table(1)?.ok_or_else(damaged)?;
                    if header.byte(2)? != 0 {
                        return Err("it extends a dictionary, which is not read".to_owned());
                    }
                    let array = Batch::new(&batch, body)?.array(&values, &self.dictionaries)?;
                    self.dictionaries.insert(id, array);
                }
                3 => {
                    let mut batch = Batch::new(&header, body)?;
                    let rows = usize::try_from(header.long(0)?).map_err(|_| damaged())?;
                    let arrays: Vec<Array> = self
                        .fields
                        .iter()
                        .map(|field| batch.array(field, &self.dictionaries))
                        .collect::<Checked<_>>()?;
                    if arrays.iter().any(|array| array.length != rows) {
                        return Err("its columns have different lengths".to_owned());
                    }
                    (self.batch, self.rows, self.given) = (arrays, rows, 0);
                }
                _ => return Err("it holds a message of an unknown kind".to_owned()),
            }
        }
        Ok(true)
    }
}

impl Iterator for ArrowRows {
    type Item = Result<RawRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        match self.decode() {
            Ok(true) => {}
            Ok(false) => {
                self.is_done = true;
                return self.file.get_ref().check().err().map(|changed| Err(changed.into()));
            }
            Err(problem) => return Some(Err(self.unreadable(&problem))),
        }
        let index = self.given;
        self.given += 1;
        self.row += 1;
        let source = Source { path: self.path.clone(), line: self.row };
        let mut fields = Map::new();
        for (field, array) in self.fields.iter().zip(&self.batch) {
            match array.value(index, &field.name) {
                Ok(value) => fields.insert(field.name.clone(), value),
                Err(Unread::Row(problem)) => return Some(Err(DataError::Row { at: source, problem })),
                Err(Unread::File) => {
                    let problem = damaged();
                    return Some(Err(self.unreadable(&problem)));
                }
            };
        }
        Some(Ok(RawRecord { row: RawRow::Ready(Content::Fields(fields)), source }))
    }
}

/// The arrays of a record batch in the order of the schema.
struct Batch {
    body: Arc<Vec<u8>>,
    nodes: std::vec::IntoIter<(usize, usize)>,
    buffers: std::vec::IntoIter<(usize, usize)>,
}

impl Batch {
    fn new(batch: &Table<'_>, body: Arc<Vec<u8>>) -> Checked<Self> {
        if batch.table(3)?.is_some() {
            return Err("its buffers are compressed, which is not read; write Parquet".to_owned());
        }
        Ok(Self { body, nodes: batch.pairs(1)?.into_iter(), buffers: batch.pairs(2)?.into_iter() })
    }

    /// The next buffer, which must hold so many bytes if any item is there.
    fn buffer(&mut self, bytes: Option<usize>) -> Checked<Buffer> {
        let (start, length) = self.buffers.next().ok_or_else(damaged)?;
        let is_within = start.checked_add(length).is_some_and(|end| end <= self.body.len());
        if !is_within || bytes.is_none_or(|bytes| bytes > length) {
            return Err(damaged());
        }
        Ok(Buffer { body: self.body.clone(), start, length })
    }

    fn array(&mut self, field: &Field, dictionaries: &HashMap<i64, Array>) -> Checked<Array> {
        let (length, absent) = self.nodes.next().ok_or_else(damaged)?;
        let kind = field.dictionary.map_or(field.kind, |(_, index)| index);
        // A batch of nothing but null needs no byte for a row.
        if length > self.body.len().saturating_mul(8).max(1 << 20) {
            return Err(damaged());
        }
        let mut array = Array {
            kind,
            length,
            validity: None,
            buffers: Vec::new(),
            children: Vec::new(),
            names: Vec::new(),
            dictionary: None,
        };
        if kind == Kind::Null {
            return Ok(array);
        }
        let validity = self.buffer(Some(if absent == 0 { 0 } else { length.div_ceil(8) }))?;
        array.validity = (absent > 0).then_some(validity);
        let sized = |bytes: usize| length.checked_mul(bytes);
        match kind {
            Kind::Truth => array.buffers.push(self.buffer(Some(length.div_ceil(8)))?),
            Kind::Integer { bytes, .. }
            | Kind::Float { bytes }
            | Kind::FixedBytes { bytes }
            | Kind::Decimal { bytes, .. }
            | Kind::Time { bytes, .. } => array.buffers.push(self.buffer(sized(bytes))?),
            Kind::Days => array.buffers.push(self.buffer(sized(4))?),
            Kind::Bytes { offset } => {
                let offsets = if length == 0 { Some(0) } else { sized(offset).map(|bytes| bytes + offset) };
                array.buffers = vec![self.buffer(offsets)?, self.buffer(Some(0))?];
            }
            Kind::List { .. } | Kind::Map => {
                let offset = if let Kind::List { offset } = kind { offset } else { 4 };
                let offsets = if length == 0 { Some(0) } else { sized(offset).map(|bytes| bytes + offset) };
                array.buffers.push(self.buffer(offsets)?);
            }
            Kind::FixedList { .. } | Kind::Struct | Kind::Null => {}
        }
        if let Some((id, _)) = field.dictionary {
            array.dictionary = Some(Box::new(dictionaries.get(&id).ok_or_else(damaged)?.clone()));
            return Ok(array);
        }
        for child in &field.children {
            array.children.push(self.array(child, dictionaries)?);
            array.names.push(child.name.clone());
        }
        Ok(array)
    }
}

#[derive(Debug, Clone)]
struct Buffer {
    body: Arc<Vec<u8>>,
    start: usize,
    length: usize,
}

impl Buffer {
    fn bytes(&self) -> &[u8] {
        &self.body[self.start..self.start + self.length]
    }

    fn item(&self, index: usize, bytes: usize) -> Result<&[u8], Unread> {
        let start = index.checked_mul(bytes).ok_or(Unread::File)?;
        self.bytes().get(start..start + bytes).ok_or(Unread::File)
    }

    /// A little-endian number of up to 16 bytes.
    fn number(&self, index: usize, bytes: usize, is_signed: bool) -> Result<i128, Unread> {
        let item = self.item(index, bytes)?;
        let is_negative = is_signed && item.last().is_some_and(|byte| byte & 0x80 != 0);
        let sign = if is_negative { -1 } else { 0 };
        Ok(item.iter().rev().fold(sign, |number, &byte| number << 8 | i128::from(byte)))
    }

    fn bit(&self, index: usize) -> Result<bool, Unread> {
        Ok(self.item(index / 8, 1)?[0] >> (index % 8) & 1 == 1)
    }

    /// The part that the offsets of an item give.
    fn range(&self, index: usize, offset: usize) -> Result<(usize, usize), Unread> {
        let at = |index| usize::try_from(self.number(index, offset, true)?).map_err(|_| Unread::File);
        let (start, end) = (at(index)?, at(index + 1)?);
        if start <= end { Ok((start, end)) } else { Err(Unread::File) }
    }
}

#[derive(Debug, Clone)]
struct Array {
    kind: Kind,
    length: usize,
    validity: Option<Buffer>,
    buffers: Vec<Buffer>,
    children: Vec<Array>,
    names: Vec<String>,
    dictionary: Option<Box<Array>>,
}

/// Why a value is not there.
enum Unread {
    Row(RowProblem),
    File,
}

impl Array {
    fn value(&self, index: usize, name: &str) -> Result<Value, Unread> {
        if index >= self.length {
            return Err(Unread::File);
        }
        if let Some(validity) = &self.validity
            && !validity.bit(index)?
        {
            return Ok(Value::Null);
        }
        let buffer = |number: usize| self.buffers.get(number).ok_or(Unread::File);
        if let (Some(dictionary), Kind::Integer { bytes, is_signed }) = (&self.dictionary, self.kind) {
            let index = buffer(0)?.number(index, bytes, is_signed)?;
            return dictionary.value(usize::try_from(index).map_err(|_| Unread::File)?, name);
        }
        let text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Value::String(text.to_owned())),
            Err(error) => {
                let byte = error.valid_up_to() + 1;
                Err(Unread::Row(RowProblem::InvalidUtf8 { byte, field: Some(name.to_owned()) }))
            }
        };
        let items = |start: usize, end: usize| -> Result<Value, Unread> {
            let child = self.children.first().ok_or(Unread::File)?;
            if end > child.length {
                return Err(Unread::File);
            }
            (start..end).map(|item| child.value(item, name)).collect::<Result<_, _>>().map(Value::Array)
        };
        match self.kind {
            Kind::Null => Ok(Value::Null),
            Kind::Truth => Ok(Value::Bool(buffer(0)?.bit(index)?)),
            Kind::Integer { bytes, is_signed } => {
                let number = buffer(0)?.number(index, bytes, is_signed)?;
                Ok(i64::try_from(number).map_or_else(|_| Value::from(number as u64), Value::from))
            }
            Kind::Float { bytes } => {
                let bits = buffer(0)?.number(index, bytes, false)?;
                Ok(match bytes {
                    2 => float(half(bits as u16)),
                    // Its shortest text, so that 0.1 stays 0.1.
                    4 => float(f32::from_bits(bits as u32).to_string().parse().unwrap_or(f64::NAN)),
                    _ => float(f64::from_bits(bits as u64)),
                })
            }
            Kind::Days => {
                let days = buffer(0)?.number(index, 4, true)?;
                Ok(Value::String(date(days)))
            }
            Kind::Time { bytes, nanoseconds } => {
                Ok(date_time(buffer(0)?.number(index, bytes, true)? * nanoseconds))
            }
            Kind::Decimal { bytes, scale } => Ok(decimal(buffer(0)?.number(index, bytes, true)?, scale)),
            Kind::FixedBytes { bytes } => text(buffer(0)?.item(index, bytes)?),
            Kind::Bytes { offset } => {
                let (start, end) = buffer(0)?.range(index, offset)?;
                text(buffer(1)?.bytes().get(start..end).ok_or(Unread::File)?)
            }
            Kind::List { offset } => {
                let (start, end) = buffer(0)?.range(index, offset)?;
                items(start, end)
            }
            Kind::FixedList { items: length } => {
                let start = index.checked_mul(length).ok_or(Unread::File)?;
                items(start, start.checked_add(length).ok_or(Unread::File)?)
            }
            Kind::Struct => {
                let field = |(name, child): (&String, &Array)| Ok((name.clone(), child.value(index, name)?));
                self.names.iter().zip(&self.children).map(field).collect::<Result<_, _>>().map(Value::Object)
            }
            Kind::Map => {
                let (start, end) = buffer(0)?.range(index, 4)?;
                let [pairs] = &self.children[..] else { return Err(Unread::File) };
                let [keys, values] = &pairs.children[..] else { return Err(Unread::File) };
                if end > pairs.length {
                    return Err(Unread::File);
                }
                let entry = |index| {
                    let key = match keys.value(index, name)? {
                        Value::String(key) => key,
                        key => key.to_string(),
                    };
                    Ok((key, values.value(index, name)?))
                };
                (start..end).map(entry).collect::<Result<_, _>>().map(Value::Object)
            }
        }
    }
}
