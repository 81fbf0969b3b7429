//! Writing safetensors: one file, or shards with their index, tensor by tensor.
//!
//! The bytes are those that Hugging Face's own library writes for the same tensors. It converts no element types.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use safetensors::tensor::Metadata;

use crate::{AtomicFile, Error, Result, TensorInfo, WriteOptions, shards};

const EXTENSION: &str = "safetensors";

/// Takes the bytes of one tensor, in as many pieces as the caller likes.
pub struct TensorSink<'a> {
    file: &'a mut AtomicFile,
    path: &'a Path,
    info: &'a TensorInfo,
    expected: usize,
    written: usize,
    /// Of the bytes so far, where the format has one.
    checksum: Option<crc32fast::Hasher>,
}

impl<'a> TensorSink<'a> {
    pub(crate) fn new(
        file: &'a mut AtomicFile,
        path: &'a Path,
        info: &'a TensorInfo,
        expected: usize,
    ) -> Self {
        Self { file, path, info, expected, written: 0, checksum: None }
    }

    /// Like [`new`](Self::new), and counts the CRC-32 that [`finish`](Self::finish) gives.
    pub(crate) fn with_checksum(mut self) -> Self {
        self.checksum = Some(crc32fast::Hasher::new());
        self
    }

    /// Appends bytes of the tensor (row-major, little-endian). Not buffered: give it pieces of many kilobytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.written = self.written.saturating_add(bytes.len());
        if self.written > self.expected {
            return Err(self.wrong_length());
        }
        if let Some(checksum) = &mut self.checksum {
            checksum.update(bytes);
        }
        self.file.write(bytes)
    }

    /// Checks that all bytes came; gives their checksum, 0 if none was counted.
    pub(crate) fn finish(self) -> Result<u32> {
        if self.written != self.expected {
            return Err(self.wrong_length());
        }
        Ok(self.checksum.map_or(0, crc32fast::Hasher::finalize))
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
    let shards = plan_shards(folder, tensors, options.max_shard_bytes)?;
    let mut weight_map = BTreeMap::new();
    let mut total_size = 0;
    for (index, shard) in shards.iter().enumerate() {
        let file_name = options.file_name(index, shards.len(), EXTENSION);
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
        options.write_index(folder, EXTENSION, total_size, weight_map)?;
    }
    Ok(())
}

/// A tensor whose size and type were checked.
struct Planned<'a> {
    place: usize,
    info: &'a TensorInfo,
    dtype: safetensors::Dtype,
    bytes: usize,
}

/// Checks the tensors and cuts them into files; each file is then sorted as it will be written.
fn plan_shards<'a>(folder: &Path, tensors: &'a [TensorInfo], limit: usize) -> Result<Vec<Vec<Planned<'a>>>> {
    let sizes = checked_sizes(folder, tensors)?;
    let mut planned = Vec::with_capacity(tensors.len());
    for (place, (info, bytes)) in tensors.iter().zip(&sizes).enumerate() {
        let dtype = info.dtype.to_safetensors().ok_or_else(|| {
            let reason =
                format!("is of type {}, which safetensors does not have; convert it first", info.dtype);
            tensor_error(folder, info, reason)
        })?;
        planned.push(Planned { place, info, dtype, bytes: *bytes });
    }
    let mut shards: Vec<Vec<Planned>> = shards::cut(sizes.into_iter(), limit)
        .into_iter()
        .map(|shard| planned.drain(..shard.len()).collect())
        .collect();
    for shard in &mut shards {
        // The types of the `safetensors` crate are in the order of their alignment.
        shard.sort_by(|a, b| b.dtype.cmp(&a.dtype).then_with(|| a.info.name.cmp(&b.info.name)));
    }
    Ok(shards)
}

/// Bytes of each tensor; their sum does not overflow, and no name occurs twice.
pub(crate) fn checked_sizes(path: &Path, tensors: &[TensorInfo]) -> Result<Vec<usize>> {
    let mut names = HashSet::new();
    let mut total = 0usize;
    let mut sizes = Vec::with_capacity(tensors.len());
    for info in tensors {
        let error = |reason: String| tensor_error(path, info, reason);
        let bytes =
            info.byte_length().ok_or_else(|| error(format!("has too large a shape {:?}", info.shape)))?;
        total = total.checked_add(bytes).ok_or_else(|| error("makes the files too large".to_string()))?;
        if !names.insert(&info.name) {
            return Err(error("is listed twice".to_string()));
        }
        sizes.push(bytes);
    }
    Ok(sizes)
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
