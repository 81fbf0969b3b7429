//! Writing GGUF, version 3, little-endian: metadata and tensors in the order given, tensor by tensor.
//!
//! The bytes are those that gguf-py writes for the same content. It neither quantizes nor knows which keys a model needs.

use std::collections::HashSet;
use std::path::Path;

use crate::gguf::{DEFAULT_ALIGNMENT, MAX_DIMENSIONS};
use crate::safetensors_writer::tensor_error;
use crate::{Array, AtomicFile, Error, Result, TensorInfo, TensorSink, Value};

/// llama.cpp keeps names in 64 bytes with a zero at the end.
const MAX_NAME_BYTES: usize = 63;
/// Padding of more than this serves nobody.
const MAX_ALIGNMENT: u32 = 1 << 16;

/// Writes `metadata` and `tensors` to the file `path`, which appears when it is complete; `give_bytes` is called once
/// for each place in `tensors`, in their order, and may stop with its own error.
///
/// Tensors start at multiples of `general.alignment`, a u32 that must be a power of two up to 65536, or of 32 where it is not among
/// the metadata. Refuses keys and names that occur twice, names that llama.cpp would not read, and types, shapes and
/// rows that GGUF does not have.
pub fn write_gguf<E: From<Error>>(
    path: impl AsRef<Path>,
    metadata: &[(String, Value)],
    tensors: &[TensorInfo],
    mut give_bytes: impl FnMut(usize, &mut TensorSink<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let path = path.as_ref();
    let alignment = alignment(path, metadata)?;
    let sizes = sizes(path, tensors)?;
    let header = header(path, metadata, tensors, &sizes, alignment)?;
    let padding = |written: usize| vec![0; written.next_multiple_of(alignment) - written];
    let mut file = AtomicFile::create(path)?;
    file.write(&header)?;
    if !tensors.is_empty() {
        file.write(&padding(header.len()))?;
    }
    for (place, (info, bytes)) in tensors.iter().zip(sizes).enumerate() {
        let mut sink = TensorSink::new(&mut file, path, info, bytes);
        give_bytes(place, &mut sink)?;
        sink.finish()?;
        file.write(&padding(bytes))?;
    }
    Ok(file.commit()?)
}

/// The multiple that tensors start at; also checks that no key is there twice.
fn alignment(path: &Path, metadata: &[(String, Value)]) -> Result<usize> {
    let invalid = |reason: String| Error::Invalid { path: path.to_path_buf(), format: "GGUF", reason };
    let mut keys = HashSet::new();
    let mut alignment = DEFAULT_ALIGNMENT as usize;
    for (key, value) in metadata {
        if !keys.insert(key) {
            return Err(invalid(format!("metadata `{key}` is listed twice")));
        }
        if key == "general.alignment" {
            let Value::U32(stated) = value else {
                let found = value.description();
                return Err(invalid(format!("`general.alignment` should be a u32, but is {found}")));
            };
            if !stated.is_power_of_two() || *stated > MAX_ALIGNMENT {
                let reason = format!(
                    "`general.alignment` should be a power of two up to {MAX_ALIGNMENT}, but is {stated}"
                );
                return Err(invalid(reason));
            }
            alignment = *stated as usize;
        }
    }
    Ok(alignment)
}

/// Bytes of each tensor, which can all be written.
fn sizes(path: &Path, tensors: &[TensorInfo]) -> Result<Vec<usize>> {
    let mut names = HashSet::new();
    let mut sizes = Vec::with_capacity(tensors.len());
    for info in tensors {
        let TensorInfo { name, dtype, shape } = info;
        let error = |reason: String| Err(tensor_error(path, info, reason));
        if name.len() > MAX_NAME_BYTES {
            let length = name.len();
            return error(format!("has a name of {length} bytes; llama.cpp reads at most {MAX_NAME_BYTES}"));
        }
        if !names.insert(name) {
            return error("is listed twice".to_string());
        }
        if dtype.to_gguf().is_none() {
            return error(format!("is of type {dtype}, which GGUF does not have; convert it first"));
        }
        let dimensions = shape.len();
        if dimensions > MAX_DIMENSIONS as usize {
            return error(format!("has {dimensions} dimensions; GGUF has at most {MAX_DIMENSIONS}"));
        }
        // Blocks lie within rows: not only the product must be whole blocks.
        let row = shape.last().copied().unwrap_or(1);
        if dtype.bytes_for(row).is_none() {
            let block = dtype.block_elements();
            return error(format!(
                "has rows of {row} elements, which are not whole {dtype} blocks of {block}"
            ));
        }
        match info.byte_length() {
            Some(bytes) => sizes.push(bytes),
            None => return error(format!("has too large a shape {shape:?}")),
        }
    }
    Ok(sizes)
}

/// Everything before the tensors' bytes, without the padding behind it.
fn header(
    path: &Path,
    metadata: &[(String, Value)],
    tensors: &[TensorInfo],
    sizes: &[usize],
    alignment: usize,
) -> Result<Vec<u8>> {
    let mut header = b"GGUF".to_vec();
    put(&mut header, 3u32.to_le_bytes());
    put(&mut header, (tensors.len() as u64).to_le_bytes());
    put(&mut header, (metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        put_string(&mut header, key.as_bytes());
        put_value(&mut header, value);
    }
    let mut offset = 0usize;
    for (info, bytes) in tensors.iter().zip(sizes) {
        put_string(&mut header, info.name.as_bytes());
        put(&mut header, (info.shape.len() as u32).to_le_bytes());
        for dimension in info.shape.iter().rev() {
            put(&mut header, (*dimension as u64).to_le_bytes());
        }
        put(&mut header, info.dtype.to_gguf().unwrap_or_default().to_le_bytes());
        put(&mut header, (offset as u64).to_le_bytes());
        offset = offset
            .checked_add(*bytes)
            .and_then(|end| end.checked_next_multiple_of(alignment))
            .ok_or_else(|| tensor_error(path, info, "makes the file too large".to_string()))?;
    }
    Ok(header)
}

fn put<const N: usize>(out: &mut Vec<u8>, bytes: [u8; N]) {
    out.extend_from_slice(&bytes);
}

fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, (bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    put(out, value.type_number().to_le_bytes());
    match value {
        Value::U8(value) => put(out, value.to_le_bytes()),
        Value::I8(value) => put(out, value.to_le_bytes()),
        Value::U16(value) => put(out, value.to_le_bytes()),
        Value::I16(value) => put(out, value.to_le_bytes()),
        Value::U32(value) => put(out, value.to_le_bytes()),
        Value::I32(value) => put(out, value.to_le_bytes()),
        Value::U64(value) => put(out, value.to_le_bytes()),
        Value::I64(value) => put(out, value.to_le_bytes()),
        Value::F32(value) => put(out, value.to_le_bytes()),
        Value::F64(value) => put(out, value.to_le_bytes()),
        Value::Bool(value) => put(out, [u8::from(*value)]),
        Value::String(value) => put_string(out, value.as_bytes()),
        Value::Array(array) => put_array(out, array),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    put(out, array.type_number().to_le_bytes());
    put(out, (array.len() as u64).to_le_bytes());
    match array {
        Array::U8(items) => out.extend_from_slice(items),
        Array::I8(items) => items.iter().for_each(|item| put(out, item.to_le_bytes())),
        Array::U16(items) => items.iter().for_each(|item| put(out, item.to_le_bytes())),
        Array::I16(items) => items.iter().for_each(|item| put(out, item.to_le_bytes())),
        Array::U32(items) => items.iter().for_each(|item| put(out, item.to_le_bytes())),
        Array::I32(items) => items.iter().for_each(|item| put(out, item.to_le_bytes())),
        Array::U64(items) => items.iter().for_each(|item| put(out, item.to_le_bytes())),
        Array::I64(items) => items.iter().for_each(|item| put(out, item.to_le_bytes())),
        Array::F32(items) => items.iter().for_each(|item| put(out, item.to_le_bytes())),
        Array::F64(items) => items.iter().for_each(|item| put(out, item.to_le_bytes())),
        Array::Bool(items) => items.iter().for_each(|item| put(out, [u8::from(*item)])),
        Array::Strings(items) => items.iter().for_each(|item| put_string(out, item)),
    }
}
