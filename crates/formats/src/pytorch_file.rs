//! What one file of `torch.save` holds: its tensors, as places in the file, and its numbers and texts.
//!
//! Read are the zip form (PyTorch 1.6 and later) and the older one, a row of pickles with the data behind them.
//! Tensors are found in dictionaries, lists and tuples; the parts of their place, joined by dots, are their name.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use crate::mapped_file::MappedFile;
use crate::pickle::{Object, Pickle, Storage, TensorView, Value};
use crate::tensor_table::Place;
use crate::zip_archive::ZipArchive;
use crate::{Error, Result, TensorInfo};

/// The little-endian bytes of 0x1950a86a20f9469cfc6c, within their pickle.
const LEGACY_MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
const LEGACY_VERSION: i64 = 1001;
/// Keys under which training scripts and frameworks put the state dict of the model.
const WRAPPERS: [&str; 4] = ["model", "state_dict", "model_state_dict", "module"];
/// A tensor takes about 45. Larger files may have more, in proportion.
const MIN_OPCODE_LIMIT: usize = 1 << 20;
const BYTES_PER_OPCODE: usize = 32;
/// Dictionaries within dictionaries; more is a loop.
const MAX_DEPTH: usize = 32;

/// A number or text that lies beside the tensors of a PyTorch file.
#[derive(Debug, Clone, PartialEq)]
pub enum Scalar {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
}

/// What a file holds.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub tensors: Vec<(TensorInfo, Place)>,
    /// By the dotted path from the root.
    pub metadata: BTreeMap<String, Scalar>,
    /// The key that held the state dict.
    pub wrapper: Option<String>,
}

/// Whether the file looks like one of `torch.save`.
pub(crate) fn is_pytorch(bytes: &[u8]) -> bool {
    is_zip(bytes) || is_legacy(bytes)
}

fn is_zip(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04")
}

fn is_legacy(bytes: &[u8]) -> bool {
    // Behind the opcode that says the version of the pickle.
    bytes.first() == Some(&0x80) && bytes.get(2..).is_some_and(|rest| rest.starts_with(LEGACY_MAGIC))
}

pub(crate) fn read(file: &MappedFile) -> Result<Contents> {
    let bytes = file.bytes();
    if is_zip(bytes) {
        read_zip(file)
    } else if is_legacy(bytes) {
        read_legacy(file)
    } else if bytes.get(257..262) == Some(b"ustar") {
        Err(unsupported(
            file,
            "it is a tar archive, as PyTorch before 0.1.10 wrote; load it with PyTorch and save it again",
        ))
    } else if bytes.starts_with(b"version https://git-lfs") {
        Err(unsupported(file, "it is only a Git LFS pointer; fetch the file itself with `git lfs pull`"))
    } else {
        Err(invalid(file, "it is neither a zip archive nor begins with PyTorch's magic number".to_string()))
    }
}

fn read_zip(file: &MappedFile) -> Result<Contents> {
    let archive = ZipArchive::read(file)?;
    // Everything lies in one folder, which is named after the file.
    let mut prefixes = archive.names().filter_map(|name| name.strip_suffix("data.pkl"));
    let prefix = match (prefixes.next(), prefixes.next()) {
        (Some(prefix), None) if prefix.is_empty() || prefix.ends_with('/') => prefix,
        _ => return Err(invalid(file, "it has no or several entries `data.pkl`".to_string())),
    };
    let content = |name: &str| archive.get(&format!("{prefix}{name}")).map(|place| &file.bytes()[place]);
    if content("constants.pkl").is_some() {
        return Err(unsupported(
            file,
            "it is a TorchScript program; save its tensors with `torch.save(model.state_dict(), path)`",
        ));
    }
    if let Some(name) = archive.first_packed() {
        let reason = format!(
            "entry `{name}` is compressed or encrypted, which `torch.save` never does; save it again"
        );
        return Err(unsupported(file, &reason));
    }
    if content("byteorder").is_some_and(|order| order != b"little") {
        return Err(unsupported(file, "it was written on a big-endian machine; save it again on another"));
    }
    let pickle = read_pickle(file, content("data.pkl").unwrap_or_default())?;
    let find = |storage: &Storage| archive.get(&format!("{prefix}data/{}", storage.key));
    collect(file, &pickle, &find)
}

/// Five pickles (magic number, version, system, the object, keys), then for each key a length and the data.
fn read_legacy(file: &MappedFile) -> Result<Contents> {
    let bytes = file.bytes();
    let mut position = 0;
    let mut next = || {
        let pickle = read_pickle(file, &bytes[position..])?;
        position += pickle.length;
        Ok::<_, Error>(pickle)
    };
    let (_magic, version, system, object, keys) = (next()?, next()?, next()?, next()?, next()?);
    if version.root != Value::Int(LEGACY_VERSION) {
        return Err(invalid(file, format!("its version is not {LEGACY_VERSION}")));
    }
    let big_endian = (Value::Text("little_endian"), Value::Bool(false));
    if system.dict(system.root).unwrap_or_default().contains(&big_endian) {
        return Err(unsupported(file, "it was written on a big-endian machine; save it again on another"));
    }

    let mut storages: HashMap<&str, Storage> = HashMap::new();
    for part in &object.objects {
        if let Object::Storage(storage) = part {
            let first = *storages.entry(storage.key).or_insert(*storage);
            if first != *storage {
                return Err(invalid(file, format!("storage `{}` has two lengths or types", storage.key)));
            }
        }
    }
    let Some(Object::List(keys)) = keys.object(keys.root) else {
        return Err(invalid(file, "it does not list its storages".to_string()));
    };
    let mut places: HashMap<&str, Range<usize>> = HashMap::new();
    for key in keys {
        let storage = match key {
            Value::Text(key) => storages.get(key),
            _ => None,
        };
        let Some(storage) = storage else {
            return Err(invalid(file, "it lists a storage that no tensor has".to_string()));
        };
        let length = bytes[position..].first_chunk().map(|length| u64::from_le_bytes(*length));
        if length != Some(storage.elements as u64) {
            let reason = format!("storage `{}` should have {} elements", storage.key, storage.elements);
            return Err(invalid(file, format!("{reason}, but its data says otherwise")));
        }
        let start = position + 8;
        let end = start.checked_add(storage.bytes).filter(|end| *end <= bytes.len());
        let Some(end) = end else {
            return Err(invalid(
                file,
                format!("storage `{}` goes beyond its end; it was not copied completely", storage.key),
            ));
        };
        if places.insert(storage.key, start..end).is_some() {
            return Err(invalid(file, format!("storage `{}` is listed twice", storage.key)));
        }
        position = end;
    }
    if position != bytes.len() {
        return Err(invalid(file, format!("{} bytes follow its last storage", bytes.len() - position)));
    }
    collect(file, &object, &|storage| places.get(storage.key).cloned())
}

fn read_pickle<'a>(file: &'a MappedFile, bytes: &'a [u8]) -> Result<Pickle<'a>> {
    let max_opcodes = MIN_OPCODE_LIMIT.max(file.bytes().len() / BYTES_PER_OPCODE);
    Pickle::read(bytes, max_opcodes).map_err(|error| error.in_file(file.path()))
}

fn collect<'a>(
    file: &'a MappedFile,
    pickle: &Pickle<'a>,
    find: &dyn Fn(&Storage) -> Option<Range<usize>>,
) -> Result<Contents> {
    let mut walk = Walk {
        file,
        pickle,
        find,
        left: pickle.length.saturating_mul(4),
        copied: 0,
        contents: Contents::default(),
    };
    if pickle.dict(pickle.root).is_none()
        && !matches!(pickle.object(pickle.root), Some(Object::List(_) | Object::Tuple(_)))
    {
        return Err(unsupported(
            file,
            "it holds no dictionary of tensors; save one, with `torch.save(model.state_dict(), path)`",
        ));
    }
    let mut wrappers = pickle.dict(pickle.root).unwrap_or_default().iter().filter_map(|(key, value)| {
        let Value::Text(key) = *key else { return None };
        let entries = pickle.dict(*value)?;
        let holds_tensors =
            |(_, value): &(_, Value<'a>)| matches!(pickle.object(*value), Some(Object::Tensor(_)));
        (WRAPPERS.contains(&key) && entries.iter().any(holds_tensors)).then_some((key, *value))
    });
    let wrapper = wrappers.next();
    if let (Some((first, _)), Some((second, _))) = (wrapper, wrappers.next()) {
        let reason = format!(
            "it holds tensors under `{first}` and under `{second}`; save the one that is meant alone"
        );
        return Err(unsupported(file, &reason));
    }
    walk.scalars(String::new(), pickle.root, 0)?;
    walk.tensors(String::new(), wrapper.map_or(pickle.root, |(_, state_dict)| state_dict), 0)?;
    walk.contents.wrapper = wrapper.map(|(key, _)| key.to_string());
    Ok(walk.contents)
}

struct Walk<'a, 'p> {
    file: &'a MappedFile,
    pickle: &'p Pickle<'a>,
    find: &'p dyn Fn(&Storage) -> Option<Range<usize>>,
    /// Values and bytes of names that may still come: a file that repeats itself by reference could have any number.
    left: usize,
    /// Bytes of tensors that cannot be views.
    copied: usize,
    contents: Contents,
}

impl<'a> Walk<'a, '_> {
    /// The name of a part; counts it.
    fn child(&mut self, name: &str, key: Value<'a>, depth: usize) -> Result<String> {
        let part = match key {
            Value::Text(text) => text,
            Value::Int(number) => &number.to_string(),
            _ => return Err(unsupported(self.file, "a key of one of its dictionaries is no text or number")),
        };
        let child = if name.is_empty() { part.to_string() } else { format!("{name}.{part}") };
        match self.left.checked_sub(1 + child.len()) {
            Some(left) if depth < MAX_DEPTH => {
                self.left = left;
                Ok(child)
            }
            _ => Err(invalid(
                self.file,
                "its dictionaries refer to each other more often than dictionaries of tensors do".to_string(),
            )),
        }
    }

    fn tensors(&mut self, name: String, value: Value<'a>, depth: usize) -> Result<()> {
        let pickle = self.pickle;
        match pickle.object(value) {
            Some(Object::Tensor(view)) => self.tensor(name, view),
            Some(Object::Dict(entries)) => entries.iter().try_for_each(|(key, value)| {
                if !matches!(value, Value::Object(_)) {
                    return Ok(());
                }
                let child = self.child(&name, *key, depth)?;
                self.tensors(child, *value, depth + 1)
            }),
            Some(Object::List(items) | Object::Tuple(items)) => {
                items.iter().enumerate().try_for_each(|(index, value)| {
                    if !matches!(value, Value::Object(_)) {
                        return Ok(());
                    }
                    let child = self.child(&name, Value::Int(index as i64), depth)?;
                    self.tensors(child, *value, depth + 1)
                })
            }
            _ => Ok(()),
        }
    }

    fn scalars(&mut self, name: String, value: Value<'a>, depth: usize) -> Result<()> {
        let pickle = self.pickle;
        if let Some(entries) = pickle.dict(value) {
            return entries.iter().try_for_each(|(key, value)| {
                let kept = match value {
                    Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) => true,
                    _ => pickle.dict(*value).is_some(),
                };
                if !kept || !matches!(key, Value::Text(_) | Value::Int(_)) {
                    return Ok(());
                }
                let child = self.child(&name, *key, depth)?;
                self.scalars(child, *value, depth + 1)
            });
        }
        let scalar = match value {
            Value::Bool(value) => Scalar::Bool(value),
            Value::Int(value) => Scalar::Int(value),
            Value::Float(value) => Scalar::Float(value),
            Value::Text(value) => {
                self.left = self.left.saturating_sub(value.len());
                Scalar::Text(value.to_string())
            }
            _ => return Ok(()),
        };
        self.contents.metadata.insert(name, scalar);
        Ok(())
    }

    fn tensor(&mut self, name: String, view: &TensorView) -> Result<()> {
        let wrong = |reason: String| invalid(self.file, format!("tensor `{name}` {reason}"));
        let key = view.storage.key;
        let Some(storage) = (self.find)(&view.storage) else {
            return Err(wrong(format!("lies in storage `{key}`, which is not there")));
        };
        if storage.len() < view.storage.bytes {
            let (expected, found) = (view.storage.bytes, storage.len());
            return Err(wrong(format!("needs storage `{key}` of {expected} bytes, but it has {found}")));
        }
        let TensorView { dtype, offset, ref shape, ref strides, .. } = *view;
        let info = TensorInfo { name: name.clone(), dtype, shape: shape.clone() };
        let bytes = info.byte_length();
        let end = end_of(view).and_then(|end| dtype.bytes_for(end)).filter(|end| *end <= view.storage.bytes);
        let (Some(bytes), Some(_)) = (bytes, end) else {
            return Err(wrong(format!("of shape {shape:?} goes beyond its storage `{key}`")));
        };
        // Checked above: the last element lies within the storage.
        let start = storage.start + if bytes == 0 { 0 } else { offset * dtype.block_bytes() };
        let place = if is_row_major(shape, strides) {
            Place::View(start..start + bytes)
        } else {
            self.copied = self.copied.saturating_add(bytes);
            if bytes > view.storage.bytes || self.copied > self.file.bytes().len() {
                let reason = format!(
                    "tensor `{name}` repeats its elements (strides {strides:?} for shape {shape:?}); \
                     save it with `.contiguous()`"
                );
                return Err(unsupported(self.file, &reason));
            }
            // The stride of a dimension of one element means nothing, and may be any number.
            let in_bytes = |(dimension, stride): (&usize, &usize)| match dimension {
                1 => 0,
                _ => stride * dtype.block_bytes(),
            };
            let strides = shape.iter().zip(strides).map(in_bytes).collect();
            Place::strided(start..storage.end, strides)
        };
        self.contents.tensors.push((info, place));
        Ok(())
    }
}

/// One more than the last element's index in the storage, 0 without elements; `None` if it overflows.
fn end_of(view: &TensorView) -> Option<usize> {
    if view.shape.contains(&0) {
        return Some(0);
    }
    let mut last = view.offset;
    for (dimension, stride) in view.shape.iter().zip(&view.strides) {
        last = last.checked_add((dimension - 1).checked_mul(*stride)?)?;
    }
    last.checked_add(1)
}

fn is_row_major(shape: &[usize], strides: &[usize]) -> bool {
    if shape.contains(&0) {
        return true;
    }
    let mut expected = 1;
    shape.iter().zip(strides).rev().all(|(dimension, stride)| {
        let fits = *dimension == 1 || *stride == expected;
        // Does not overflow: the elements were counted.
        expected *= dimension;
        fits
    })
}

fn invalid(file: &MappedFile, reason: String) -> Error {
    Error::Invalid { path: file.path().to_path_buf(), format: "PyTorch", reason }
}

fn unsupported(file: &MappedFile, reason: &str) -> Error {
    Error::Unsupported { path: file.path().to_path_buf(), reason: reason.to_string() }
}
