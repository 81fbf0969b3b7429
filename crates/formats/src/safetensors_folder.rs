//! Reading safetensors: one file, or shards with their index. Tensors are views of mapped files.
//!
//! It does not convert element types and does not decide which tensors a model needs.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use safetensors::tensor::Metadata;

use crate::mapped_file::MappedFile;
use crate::shards;
use crate::tensor_table::TensorTable;
use crate::{Dtype, Error, Result, Tensor, TensorInfo};

/// The tensors of a checkpoint or adapter in safetensors files.
#[derive(Debug)]
pub struct SafetensorsFolder {
    table: TensorTable,
    metadata: HashMap<String, String>,
}

impl SafetensorsFolder {
    /// Opens a folder with `model.safetensors`, or with `model.safetensors.index.json` and its shards;
    /// or one safetensors file; or an index file. When a folder has both, the single file counts, as in transformers.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_named(path, "model")
    }

    /// Like [`open`](Self::open), for another base name: `adapter_model` reads `adapter_model.safetensors`.
    pub fn open_named(path: impl AsRef<Path>, base_name: &str) -> Result<Self> {
        let (files, index) = shards::files_of(path.as_ref(), base_name, "safetensors")?;
        let folder = Self::open_files(&files)?;
        if let Some(index) = index {
            index.check(&folder.table)?;
        }
        Ok(folder)
    }

    fn open_files(paths: &[PathBuf]) -> Result<Self> {
        let mut files = Vec::with_capacity(paths.len());
        let mut metadata = HashMap::new();
        let mut tensors = Vec::new();
        for (number, path) in paths.iter().enumerate() {
            let file = MappedFile::open(path)?;
            for tensor in read_header(&file, &mut metadata)? {
                tensors.push((number, tensor));
            }
            files.push(file);
        }
        let mut table = TensorTable::new(files);
        for (number, (info, range)) in tensors {
            let name = info.name.clone();
            if !table.insert(info, number, range) {
                let reason = format!("tensor `{name}` is also in another shard of this folder");
                return Err(invalid(&paths[number], reason));
            }
        }
        Ok(Self { table, metadata })
    }

    /// Names in file order, in which reading is fastest.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.table.infos().map(|info| info.name.as_str())
    }

    /// Name, type and shape of every tensor, in file order.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.table.infos()
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        self.table.tensor(name)
    }

    /// Says that the tensor's bytes are not needed soon, so that loading a model does not keep a second one in memory.
    ///
    /// The tensor stays readable. Best effort; unknown names are ignored.
    pub fn drop_pages(&self, name: &str) {
        self.table.drop_pages(name);
    }

    /// The `__metadata__` of all files together, for example `format` = `pt`.
    pub fn metadata(&self) -> &HashMap<String, String> {
        &self.metadata
    }

    /// The files that are mapped: one, or the shards in order of their names.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.table.files().iter().map(MappedFile::path)
    }

    pub(crate) fn table(&self) -> &TensorTable {
        &self.table
    }
}

type Located = (TensorInfo, Range<usize>);

/// Tensors in file order with their byte ranges, checked to cover the file exactly.
fn read_header(file: &MappedFile, metadata: &mut HashMap<String, String>) -> Result<Vec<Located>> {
    let bytes = file.bytes();
    let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(|| {
        invalid(file.path(), format!("it has {} bytes, fewer than any header", bytes.len()))
    })?;
    let length = u64::from_le_bytes(*length);
    let header = usize::try_from(length).ok().and_then(|length| rest.get(..length)).ok_or_else(|| {
        let reason = format!("its header should have {length} bytes, but only {} follow", rest.len());
        invalid(file.path(), format!("{reason}; it is cut short or of another format"))
    })?;
    let data_start = 8 + header.len();
    let header: Metadata = serde_json::from_slice(header)
        .map_err(|error| invalid(file.path(), format!("its header is wrong: {error}")))?;
    let data_length = bytes.len() - data_start;
    if header.data_len() != data_length {
        let reason =
            format!("its tensors take {} bytes, but {data_length} follow the header", header.data_len());
        return Err(invalid(file.path(), format!("{reason}; it was not written or copied completely")));
    }
    metadata.extend(header.metadata().clone().unwrap_or_default());
    let mut tensors = Vec::new();
    for name in header.offset_keys() {
        let Some(info) = header.info(&name) else { continue };
        let dtype = Dtype::from_safetensors(info.dtype).ok_or_else(|| Error::Unsupported {
            path: file.path().to_path_buf(),
            reason: format!("tensor `{name}` is of type {}, which danlu does not know", info.dtype),
        })?;
        let (start, end) = info.data_offsets;
        tensors.push((
            TensorInfo { name, dtype, shape: info.shape.clone() },
            data_start + start..data_start + end,
        ));
    }
    Ok(tensors)
}

fn invalid(path: &Path, reason: String) -> Error {
    Error::Invalid { path: path.to_path_buf(), format: "safetensors", reason }
}
