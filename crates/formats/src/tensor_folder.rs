//! A model or adapter in whichever of the two forms of Hugging Face folders it has: safetensors, else PyTorch files.
//!
//! Files are told apart by their content. It reads no GGUF and no llama2.c files, whose metadata are a part of them.

use std::path::Path;

use fs_err as fs;

use crate::mapped_file::MappedFile;
use crate::tensor_table::TensorTable;
use crate::{Container, Error, PytorchFolder, Result, SafetensorsFolder, Tensor, TensorInfo};

/// The tensors of a folder or file.
#[derive(Debug)]
pub enum TensorFolder {
    Safetensors(SafetensorsFolder),
    Pytorch(PytorchFolder),
}

impl TensorFolder {
    /// Opens a model: a folder with `model.safetensors`, `model.safetensors.index.json`, `pytorch_model.bin` or
    /// `pytorch_model.bin.index.json` (the first of them that is there), one such file, or a `.pth`.
    pub fn open_model(path: impl AsRef<Path>) -> Result<Self> {
        Self::open(path.as_ref(), "model", "pytorch_model")
    }

    /// Opens an adapter: a folder with `adapter_model.safetensors` or `adapter_model.bin`, or one such file.
    pub fn open_adapter(path: impl AsRef<Path>) -> Result<Self> {
        Self::open(path.as_ref(), "adapter_model", "adapter_model")
    }

    fn open(path: &Path, safetensors: &str, pytorch: &str) -> Result<Self> {
        let metadata = fs::metadata(path).map_err(|error| Error::io(path, error))?;
        let is_pytorch = if metadata.is_dir() {
            let there = |base_name: &str, extension: &str| {
                path.join(format!("{base_name}.{extension}")).exists()
                    || path.join(format!("{base_name}.{extension}.index.json")).exists()
            };
            match (there(safetensors, "safetensors"), there(pytorch, "bin")) {
                (true, _) => false,
                (false, true) => true,
                (false, false) => {
                    let expected = format!(
                        "`{safetensors}.safetensors`, no `{pytorch}.bin` and no `.index.json` of either"
                    );
                    return Err(Error::Missing { path: path.to_path_buf(), expected });
                }
            }
        } else {
            path.to_string_lossy().ends_with(".bin.index.json")
                || Container::of(path)? == Some(Container::Pytorch)
        };
        Ok(if is_pytorch {
            Self::Pytorch(PytorchFolder::open_named(path, pytorch)?)
        } else {
            Self::Safetensors(SafetensorsFolder::open_named(path, safetensors)?)
        })
    }

    /// Names in file order, in which reading is fastest.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tensors().map(|info| info.name.as_str())
    }

    /// Name, type and shape of every tensor, in file order.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.table().infos()
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        self.table().tensor(name)
    }

    /// The first tensor in file order that shares the bytes of `name`; see [`PytorchFolder::alias_of`].
    pub fn alias_of(&self, name: &str) -> Option<&str> {
        self.table().alias_of(name)
    }

    /// Says that the tensor's bytes are not needed soon; see [`SafetensorsFolder::drop_pages`].
    pub fn drop_pages(&self, name: &str) {
        self.table().drop_pages(name);
    }

    /// The files that are mapped: one, or the shards in order of their names.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.table().files().iter().map(MappedFile::path)
    }

    fn table(&self) -> &TensorTable {
        match self {
            Self::Safetensors(folder) => folder.table(),
            Self::Pytorch(folder) => folder.table(),
        }
    }
}
