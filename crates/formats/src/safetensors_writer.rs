//! Writing safetensors: one file, or shards with their index, tensor by tensor.
//!
//! The bytes are those that Hugging Face's own library writes for the same tensors. It converts no element types.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use safetensors::tensor::Metadata;
use serde::Serialize;

use crate::{AtomicFile, Error, Result, TensorInfo, write_file_atomically};

/// 5 GB, as Hugging Face's tools cut.
pub const DEFAULT_MAX_SHARD_BYTES: usize = 5_000_000_000;

/// How [`write_safetensors`] names and cuts its files.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    /// `model` gives `model.safetensors` or `model-00001-of-0000N.safetensors`.
    pub base_name: String,
    /// Bytes of tensors in one file; a larger tensor gets a file of its own.
    pub max_shard_bytes: usize,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self { base_name: "model".to_string(), max_shard_bytes: DEFAULT_MAX_SHARD_BYTES }
    }
}

/// Takes the bytes of one tensor, in as many pieces as the caller likes.
pub struct TensorSink<'a> {
    file: &'a mut AtomicFile,
    path: &'a Path,
    info: &'a TensorInfo,
    expected: usize,
    written: usize,
}

impl<'a> TensorSink<'a> {
    pub(crate) fn new(
        file: &'a mut AtomicFile,
        path: &'a Path,
        info: &'a TensorInfo,
        expected: usize,
    ) -> Self {
        Self { file, path, info, expected, written: 0 }
    }

    /// Appends bytes of the tensor (row-major, little-endian). Not buffered: give it pieces of many kilobytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.written = self.written.saturating_add(bytes.len());
        if self.written > self.expected {
            return Err(self.wrong_length());
        }
        self.file.write(bytes)
    }

    /// Checks that all bytes came.
    pub(crate) fn finish(self) -> Result<()> {
        if self.written == self.expected { Ok(()) } else { Err(self.wrong_length()) }
    }

    fn wrong_length(&self) -> Error {
        let TensorInfo { dtype, shape, .. } = self.info;
        let (expected, written) = (self.expected, self.written);
        let reason =
            format!("of type {dtype} and shape {shape:?} takes {expected} bytes, but {written} were given");
        tensor_error(self.path, self.info, reason)
    }
}

/// Writes `tensors` into `folder`; `give_bytes` is called once for each place in `tensors`, in the order of the files,
/// and may stop with its own error.
///
/// Each file appears when it is complete, the index last. A folder that may hold an older model is better replaced
/// whole with [`AtomicFolder`](crate::AtomicFolder). Within a file the tensors lie by falling alignment, then by
/// name, as the reference has them.
pub fn write_safetensors<E: From<Error>>(
    folder: impl AsRef<Path>,
    options: &WriteOptions,
    tensors: &[TensorInfo],
    mut give_bytes: impl FnMut(usize, &mut TensorSink<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let folder = folder.as_ref();
    let base_name = &options.base_name;
    let shards = plan_shards(folder, tensors, options.max_shard_bytes)?;
    let mut weight_map = BTreeMap::new();
    let mut total_size = 0;
    for (index, shard) in shards.iter().enumerate() {
        let file_name = if shards.len() == 1 {
            format!("{base_name}.safetensors")
        } else {
            format!("{base_name}-{:05}-of-{:05}.safetensors", index + 1, shards.len())
        };
        let path = folder.join(&file_name);
        let mut file = AtomicFile::create(&path)?;
        file.write(&header(&path, shard)?)?;
        for planned in shard {
            let (info, expected) = (planned.info, planned.bytes);
            let mut sink = TensorSink::new(&mut file, &path, info, expected);
            give_bytes(planned.place, &mut sink)?;
            sink.finish()?;
            weight_map.insert(info.name.as_str(), file_name.clone());
            total_size += expected;
        }
        file.commit()?;
    }
    if shards.len() > 1 {
        let path = folder.join(format!("{base_name}.safetensors.index.json"));
        let index = Index { metadata: IndexMetadata { total_size }, weight_map };
        let mut text =
            serde_json::to_vec_pretty(&index).map_err(|error| Error::Json { path: path.clone(), error })?;
        text.push(b'\n');
        write_file_atomically(&path, &text)?;
    }
    Ok(())
}

#[derive(Serialize)]
struct Index<'a> {
    metadata: IndexMetadata,
    weight_map: BTreeMap<&'a str, String>,
}

#[derive(Serialize)]
struct IndexMetadata {
    total_size: usize,
}

/// A tensor whose size and type were checked.
struct Planned<'a> {
    place: usize,
    info: &'a TensorInfo,
    dtype: safetensors::Dtype,
    bytes: usize,
}

/// Fills files in the given order; each is then sorted as it will be written. At least one, even without tensors.
fn plan_shards<'a>(folder: &Path, tensors: &'a [TensorInfo], limit: usize) -> Result<Vec<Vec<Planned<'a>>>> {
    let mut names = HashSet::new();
    let mut shards: Vec<Vec<Planned>> = vec![Vec::new()];
    let mut shard_bytes = 0usize;
    let mut total = 0usize;
    for (place, info) in tensors.iter().enumerate() {
        let error = |reason: String| tensor_error(folder, info, reason);
        let dtype = info.dtype.to_safetensors().ok_or_else(|| {
            error(format!("is of type {}, which safetensors does not have; convert it first", info.dtype))
        })?;
        let bytes =
            info.byte_length().ok_or_else(|| error(format!("has too large a shape {:?}", info.shape)))?;
        total = total.checked_add(bytes).ok_or_else(|| error("makes the files too large".to_string()))?;
        if !names.insert(&info.name) {
            return Err(error("is listed twice".to_string()));
        }
        let full = shard_bytes.saturating_add(bytes) > limit;
        match shards.last_mut() {
            Some(shard) if shard.is_empty() || !full => {
                shard.push(Planned { place, info, dtype, bytes });
                shard_bytes += bytes;
            }
            _ => {
                shards.push(vec![Planned { place, info, dtype, bytes }]);
                shard_bytes = bytes;
            }
        }
    }
    for shard in &mut shards {
        // The types of the `safetensors` crate are in the order of their alignment.
        shard.sort_by(|a, b| b.dtype.cmp(&a.dtype).then_with(|| a.info.name.cmp(&b.info.name)));
    }
    Ok(shards)
}

/// Length and JSON, padded with spaces so that the tensors start at a multiple of 8.
fn header(path: &Path, shard: &[Planned]) -> Result<Vec<u8>> {
    let mut tensors = Vec::with_capacity(shard.len());
    let mut offset = 0;
    for Planned { info, dtype, bytes, .. } in shard {
        let data_offsets = (offset, offset + bytes);
        offset += bytes;
        let entry =
            safetensors::tensor::TensorInfo { dtype: *dtype, shape: info.shape.clone(), data_offsets };
        tensors.push((info.name.clone(), entry));
    }
    let format = HashMap::from([("format".to_string(), "pt".to_string())]);
    let invalid = |reason: String| Error::Invalid { path: path.to_path_buf(), format: "safetensors", reason };
    let metadata = Metadata::new(Some(format), tensors).map_err(|error| invalid(error.to_string()))?;
    let mut json =
        serde_json::to_vec(&metadata).map_err(|error| Error::Json { path: path.to_path_buf(), error })?;
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    Ok(header)
}

pub(crate) fn tensor_error(path: &Path, info: &TensorInfo, reason: String) -> Error {
    Error::Tensor { path: path.to_path_buf(), name: info.name.clone(), reason }
}
