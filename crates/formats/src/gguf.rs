//! Reading GGUF, versions 2 and 3, little-endian: metadata, and tensors as views of the mapped file.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Every length is checked against the file before
//! anything is allocated by it. It neither dequantizes nor knows which keys a model needs.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::Path;

use crate::mapped_file::MappedFile;
use crate::tensor_table::TensorTable;
use crate::{Dtype, Error, Result, Tensor, TensorInfo};

pub(crate) const DEFAULT_ALIGNMENT: u64 = 32;
pub(crate) const MAX_DIMENSIONS: u32 = 4;

/// An open GGUF file.
#[derive(Debug)]
pub struct Gguf {
    version: u32,
    metadata: BTreeMap<String, Value>,
    table: TensorTable,
}

/// One metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(String),
    Array(Array),
}

/// A metadata array, all of one type. Arrays of arrays are refused, as by llama.cpp.
#[derive(Debug, Clone, PartialEq)]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    Strings(Strings),
}

/// Many strings in one allocation. They are bytes: the pieces of some vocabularies are not valid UTF-8.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Strings {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl<S: AsRef<[u8]>> FromIterator<S> for Strings {
    fn from_iter<I: IntoIterator<Item = S>>(strings: I) -> Self {
        let mut all = Self::default();
        for string in strings {
            all.push(string.as_ref());
        }
        all
    }
}

impl Strings {
    fn push(&mut self, string: &[u8]) {
        self.bytes.extend_from_slice(string);
        self.ends.push(self.bytes.len());
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub fn get(&self, index: usize) -> Option<&[u8]> {
        let end = *self.ends.get(index)?;
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        Some(&self.bytes[start..end])
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |end| {
            let string = &self.bytes[start..*end];
            start = *end;
            string
        })
    }
}

impl Array {
    pub fn len(&self) -> usize {
        match self {
            Self::U8(items) => items.len(),
            Self::I8(items) => items.len(),
            Self::U16(items) => items.len(),
            Self::I16(items) => items.len(),
            Self::U32(items) => items.len(),
            Self::I32(items) => items.len(),
            Self::U64(items) => items.len(),
            Self::I64(items) => items.len(),
            Self::F32(items) => items.len(),
            Self::F64(items) => items.len(),
            Self::Bool(items) => items.len(),
            Self::Strings(items) => items.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The type of the items in a file.
    pub(crate) fn type_number(&self) -> u32 {
        match self {
            Self::U8(_) => 0,
            Self::I8(_) => 1,
            Self::U16(_) => 2,
            Self::I16(_) => 3,
            Self::U32(_) => 4,
            Self::I32(_) => 5,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::Strings(_) => 8,
            Self::U64(_) => 10,
            Self::I64(_) => 11,
            Self::F64(_) => 12,
        }
    }

    fn item_type(&self) -> &'static str {
        match self {
            Self::U8(_) => "u8",
            Self::I8(_) => "i8",
            Self::U16(_) => "u16",
            Self::I16(_) => "i16",
            Self::U32(_) => "u32",
            Self::I32(_) => "i32",
            Self::U64(_) => "u64",
            Self::I64(_) => "i64",
            Self::F32(_) => "f32",
            Self::F64(_) => "f64",
            Self::Bool(_) => "bool",
            Self::Strings(_) => "strings",
        }
    }
}

impl Value {
    /// As an unsigned number; writers differ in the integer type that they choose.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(value) => Some(value.into()),
            Self::U16(value) => Some(value.into()),
            Self::U32(value) => Some(value.into()),
            Self::U64(value) => Some(value),
            Self::I8(value) => value.try_into().ok(),
            Self::I16(value) => value.try_into().ok(),
            Self::I32(value) => value.try_into().ok(),
            Self::I64(value) => value.try_into().ok(),
            _ => None,
        }
    }

    pub fn as_f32(&self) -> Option<f32> {
        match *self {
            Self::F32(value) => Some(value),
            Self::F64(value) => Some(value as f32),
            _ => None,
        }
    }

    /// The type in a file.
    pub(crate) fn type_number(&self) -> u32 {
        match self {
            Self::U8(_) => 0,
            Self::I8(_) => 1,
            Self::U16(_) => 2,
            Self::I16(_) => 3,
            Self::U32(_) => 4,
            Self::I32(_) => 5,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::String(_) => 8,
            Self::Array(_) => 9,
            Self::U64(_) => 10,
            Self::I64(_) => 11,
            Self::F64(_) => 12,
        }
    }

    /// Type and, where it is short, content, for messages.
    pub(crate) fn description(&self) -> String {
        match self {
            Self::U8(value) => value.to_string(),
            Self::I8(value) => value.to_string(),
            Self::U16(value) => value.to_string(),
            Self::I16(value) => value.to_string(),
            Self::U32(value) => value.to_string(),
            Self::I32(value) => value.to_string(),
            Self::U64(value) => value.to_string(),
            Self::I64(value) => value.to_string(),
            Self::F32(value) => format!("{value:?}"),
            Self::F64(value) => format!("{value:?}"),
            Self::Bool(value) => value.to_string(),
            Self::String(_) => "a string".to_string(),
            Self::Array(array) => format!("an array of {} {}", array.len(), array.item_type()),
        }
    }
}

impl Gguf {
    /// Opens and checks the file: magic, version, lengths, names, types, and that every tensor lies inside the file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let file = MappedFile::open(path.as_ref())?;
        let mut reader = Reader { path: file.path(), bytes: file.bytes(), position: 0 };

        let version = read_version(&mut reader)?;
        let tensor_count = reader.count("tensors", 24)?;
        let value_count = reader.count("metadata values", 13)?;

        let mut metadata = BTreeMap::new();
        for _ in 0..value_count {
            let key = reader.string("a metadata key")?;
            let value = reader.value(&key)?;
            if metadata.contains_key(&key) {
                return Err(reader.invalid(format!("metadata `{key}` is there twice")));
            }
            metadata.insert(key, value);
        }

        let alignment = match metadata.get("general.alignment") {
            None => DEFAULT_ALIGNMENT,
            Some(value) => {
                value.as_u64().filter(|alignment| alignment.is_power_of_two()).ok_or_else(|| {
                    let found = value.description();
                    reader.invalid(format!("`general.alignment` should be a power of two, but is {found}"))
                })?
            }
        };

        // Checked as they come, so that a false count cannot fill the memory.
        let mut tensors: Vec<(TensorInfo, Range<u64>)> = Vec::new();
        let mut names = HashSet::new();
        let mut expected_start = 0u64;
        for _ in 0..tensor_count {
            let (info, bytes, start) = reader.tensor_info()?;
            let name = &info.name;
            // The reference requires tensors in order without gaps, which also rules out overlaps.
            if start != expected_start {
                return Err(
                    reader.invalid(format!("tensor `{name}` starts at {start}, not at {expected_start}"))
                );
            }
            if !names.insert(name.clone()) {
                return Err(reader.invalid(format!("tensor `{name}` is there twice")));
            }
            let end = start.checked_add(bytes as u64).filter(|end| *end <= reader.bytes.len() as u64);
            let end = end.ok_or_else(|| reader.cut_short(name))?;
            expected_start = end.checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
            tensors.push((info, start..end));
        }
        let data_start = (reader.position as u64).checked_next_multiple_of(alignment);
        let mut ranges = Vec::with_capacity(tensors.len());
        for (info, range) in &tensors {
            let start = data_start.and_then(|data_start| data_start.checked_add(range.start));
            let end = data_start.and_then(|data_start| data_start.checked_add(range.end));
            match (start, end) {
                (Some(start), Some(end)) if end <= reader.bytes.len() as u64 => {
                    ranges.push(start as usize..end as usize);
                }
                _ => return Err(reader.cut_short(&info.name)),
            }
        }

        let mut table = TensorTable::new(vec![file]);
        for ((info, _), range) in tensors.into_iter().zip(ranges) {
            table.insert(info, 0, range);
        }
        Ok(Self { version, metadata, table })
    }

    /// 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.table.files().first().map_or(Path::new(""), MappedFile::path)
    }

    /// The value of a key such as `general.architecture`.
    pub fn metadata(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// All metadata in the order of the keys.
    pub fn metadata_entries(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.metadata.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// A whole number; an error if the key holds anything else, `None` if it is absent.
    pub fn get_usize(&self, key: &str) -> Result<Option<usize>> {
        self.get(key, "a whole number from 0", |value| value.as_u64()?.try_into().ok())
    }

    /// A floating-point number.
    pub fn get_f32(&self, key: &str) -> Result<Option<f32>> {
        self.get(key, "a floating-point number", Value::as_f32)
    }

    /// `true` or `false`.
    pub fn get_bool(&self, key: &str) -> Result<Option<bool>> {
        self.get(
            key,
            "true or false",
            |value| if let Value::Bool(value) = value { Some(*value) } else { None },
        )
    }

    /// A string.
    pub fn get_str(&self, key: &str) -> Result<Option<&str>> {
        self.get(
            key,
            "a string",
            |value| if let Value::String(value) = value { Some(value.as_str()) } else { None },
        )
    }

    /// An array of strings, such as `tokenizer.ggml.tokens`.
    pub fn get_strings(&self, key: &str) -> Result<Option<&Strings>> {
        self.get(key, "an array of strings", |value| match value {
            Value::Array(Array::Strings(strings)) => Some(strings),
            _ => None,
        })
    }

    /// An array of f32, such as `tokenizer.ggml.scores`.
    pub fn get_f32s(&self, key: &str) -> Result<Option<&[f32]>> {
        self.get(key, "an array of f32", |value| match value {
            Value::Array(Array::F32(items)) => Some(items.as_slice()),
            _ => None,
        })
    }

    /// An array of i32, such as `tokenizer.ggml.token_type`.
    pub fn get_i32s(&self, key: &str) -> Result<Option<&[i32]>> {
        self.get(key, "an array of i32", |value| match value {
            Value::Array(Array::I32(items)) => Some(items.as_slice()),
            _ => None,
        })
    }

    fn get<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        convert: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.metadata.get(key) else { return Ok(None) };
        convert(value).map(Some).ok_or_else(|| Error::MetadataType {
            path: self.path().to_path_buf(),
            key: key.to_string(),
            expected,
            found: value.description(),
        })
    }

    /// Name, type and shape of every tensor, in file order. Shapes are outermost first, the reverse of the file's.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.table.infos()
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        self.table.tensor(name)
    }

    /// Says that the tensor's bytes are not needed soon; it stays readable. Best effort; unknown names are ignored.
    pub fn drop_pages(&self, name: &str) {
        self.table.drop_pages(name);
    }
}

fn invalid(path: &Path, reason: String) -> Error {
    Error::Invalid { path: path.to_path_buf(), format: "GGUF", reason }
}

fn read_version(reader: &mut Reader) -> Result<u32> {
    let unsupported = |reason: String| Error::Unsupported { path: reader.path.to_path_buf(), reason };
    if !reader.bytes.starts_with(b"GGUF") {
        return Err(invalid(reader.path, "it does not start with the letters `GGUF`".to_string()));
    }
    reader.position = 4;
    let version = reader.number::<4>("the version").map(u32::from_le_bytes)?;
    match version {
        2 | 3 => Ok(version),
        1 => Err(unsupported(
            "it is GGUF version 1; convert the model again with a current llama.cpp".to_string(),
        )),
        _ if matches!(version.swap_bytes(), 1..=3) => {
            Err(unsupported("it is a big-endian GGUF; get or convert a little-endian one".to_string()))
        }
        _ => Err(unsupported(format!("it is GGUF version {version}; versions 2 and 3 are known"))),
    }
}

/// Reads forward through the header; every step is checked against the end of the file.
struct Reader<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    fn invalid(&self, reason: String) -> Error {
        invalid(self.path, reason)
    }

    fn cut_short(&self, tensor: &str) -> Error {
        self.invalid(format!(
            "tensor `{tensor}` does not end before the file does; it was not written or copied completely"
        ))
    }

    fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    fn take(&mut self, length: u64, what: &str) -> Result<&'a [u8]> {
        let taken = usize::try_from(length).ok().and_then(|length| self.bytes[self.position..].get(..length));
        let Some(taken) = taken else {
            let (position, remaining) = (self.position, self.remaining());
            let reason =
                format!("at byte {position}, {what} should take {length} bytes, but {remaining} are left");
            return Err(self.invalid(reason));
        };
        self.position += taken.len();
        Ok(taken)
    }

    fn number<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N as u64, what)?);
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        self.number(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        self.number(what).map(u64::from_le_bytes)
    }

    /// A number of things that take at least `least_bytes` each; refuses more than the rest of the file can hold.
    fn count(&mut self, what: &str, least_bytes: usize) -> Result<usize> {
        let count = self.u64(what)?;
        usize::try_from(count)
            .ok()
            .filter(|count| *count <= self.remaining() / least_bytes)
            .ok_or_else(|| self.invalid(format!("it says that it has {count} {what}, more than fit into it")))
    }

    fn bytes(&mut self, what: &str) -> Result<&'a [u8]> {
        let length = self.u64(what)?;
        self.take(length, what)
    }

    fn string(&mut self, what: &str) -> Result<String> {
        let bytes = self.bytes(what)?;
        let string = std::str::from_utf8(bytes).map_err(|error| {
            let text = String::from_utf8_lossy(bytes);
            self.invalid(format!("{what} `{:.80}` is not UTF-8: {error}", text))
        })?;
        Ok(string.to_string())
    }

    fn value(&mut self, key: &str) -> Result<Value> {
        let what = format!("the value of `{key:.80}`");
        let what = what.as_str();
        Ok(match self.u32(what)? {
            0 => Value::U8(u8::from_le_bytes(self.number(what)?)),
            1 => Value::I8(i8::from_le_bytes(self.number(what)?)),
            2 => Value::U16(u16::from_le_bytes(self.number(what)?)),
            3 => Value::I16(i16::from_le_bytes(self.number(what)?)),
            4 => Value::U32(u32::from_le_bytes(self.number(what)?)),
            5 => Value::I32(i32::from_le_bytes(self.number(what)?)),
            6 => Value::F32(f32::from_le_bytes(self.number(what)?)),
            7 => Value::Bool(self.number::<1>(what)? != [0]),
            8 => Value::String(self.string(what)?),
            9 => Value::Array(self.array(key, what)?),
            10 => Value::U64(u64::from_le_bytes(self.number(what)?)),
            11 => Value::I64(i64::from_le_bytes(self.number(what)?)),
            12 => Value::F64(f64::from_le_bytes(self.number(what)?)),
            other => return Err(self.invalid(format!("{what} is of the unknown type {other}"))),
        })
    }

    fn array(&mut self, key: &str, what: &str) -> Result<Array> {
        let item_type = self.u32(what)?;
        let items = format!("items in `{key:.80}`");
        Ok(match item_type {
            0 => Array::U8(self.numbers(&items, u8::from_le_bytes)?),
            1 => Array::I8(self.numbers(&items, i8::from_le_bytes)?),
            2 => Array::U16(self.numbers(&items, u16::from_le_bytes)?),
            3 => Array::I16(self.numbers(&items, i16::from_le_bytes)?),
            4 => Array::U32(self.numbers(&items, u32::from_le_bytes)?),
            5 => Array::I32(self.numbers(&items, i32::from_le_bytes)?),
            6 => Array::F32(self.numbers(&items, f32::from_le_bytes)?),
            7 => Array::Bool(self.numbers(&items, |byte: [u8; 1]| byte != [0])?),
            8 => Array::Strings(self.strings(&items)?),
            9 => {
                return Err(
                    self.invalid(format!("{what} is an array of arrays, which GGUF readers do not take"))
                );
            }
            10 => Array::U64(self.numbers(&items, u64::from_le_bytes)?),
            11 => Array::I64(self.numbers(&items, i64::from_le_bytes)?),
            12 => Array::F64(self.numbers(&items, f64::from_le_bytes)?),
            other => return Err(self.invalid(format!("{what} is an array of the unknown type {other}"))),
        })
    }

    fn numbers<T, const N: usize>(&mut self, items: &str, convert: impl Fn([u8; N]) -> T) -> Result<Vec<T>> {
        let count = self.count(items, N)?;
        let bytes = self.take((count * N) as u64, items)?;
        Ok(bytes.as_chunks().0.iter().map(|item| convert(*item)).collect())
    }

    fn strings(&mut self, items: &str) -> Result<Strings> {
        let count = self.count(items, 8)?;
        let mut strings = Strings::default();
        for _ in 0..count {
            strings.push(self.bytes(items)?);
        }
        Ok(strings)
    }

    /// Name, type and shape, number of bytes, and the offset in the data section that the file states.
    fn tensor_info(&mut self) -> Result<(TensorInfo, usize, u64)> {
        let name = self.string("a tensor's name")?;
        let what = format!("tensor `{name:.80}`");
        let dimensions = self.u32(&what)?;
        if dimensions > MAX_DIMENSIONS {
            return Err(self
                .invalid(format!("{what} has {dimensions} dimensions; at most {MAX_DIMENSIONS} are known")));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            let dimension = self.u64(&what)?;
            shape.push(usize::try_from(dimension).map_err(|_| self.invalid(format!("{what} is too large")))?);
        }
        shape.reverse();
        let id = self.u32(&what)?;
        let dtype = Dtype::from_gguf(id).ok_or_else(|| Error::Unsupported {
            path: self.path.to_path_buf(),
            reason: format!(
                "{what} is of ggml type {id}, which danlu does not know; take a Q8_0 or F16 file"
            ),
        })?;
        let offset = self.u64(&what)?;
        let info = TensorInfo { name, dtype, shape };
        // Blocks lie within rows: not only the product must be whole blocks.
        let row = info.shape.last().copied().unwrap_or(1);
        let bytes = info.byte_length().filter(|_| dtype.bytes_for(row).is_some()).ok_or_else(|| {
            let (shape, block) = (&info.shape, dtype.block_elements());
            self.invalid(format!(
                "{what} of shape {shape:?} cannot be of type {dtype} (blocks of {block}), or is too large"
            ))
        })?;
        Ok((info, bytes, offset))
    }
}
