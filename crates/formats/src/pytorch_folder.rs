//! Reading the files of `torch.save`: `.bin`, `.pth` and `.pt`, one file or shards. Tensors are views of mapped files.
//!
//! Nothing in a file is ever executed: only names, types, shapes and places are read from its pickle, and a file whose
//! pickle refers to anything else is refused by that name. It converts no element types.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::mapped_file::MappedFile;
use crate::pytorch_file::{self, Scalar};
use crate::shards;
use crate::tensor_table::TensorTable;
use crate::{Error, Result, Tensor, TensorInfo};

/// The tensors of a checkpoint or adapter in PyTorch files.
///
/// A file holds a dictionary of tensors. If exactly one of its keys `model`, `state_dict`, `model_state_dict` and
/// `module` holds a dictionary of tensors, as training scripts write it, only that one's tensors are here. Tensors
/// in deeper dictionaries and lists are named by their path, as `optimizer.state.0.exp_avg`.
#[derive(Debug)]
pub struct PytorchFolder {
    table: TensorTable,
    metadata: BTreeMap<String, Scalar>,
    wrapper: Option<String>,
}

impl PytorchFolder {
    /// Opens a folder with `pytorch_model.bin`, or with `pytorch_model.bin.index.json` and its shards; or one file
    /// of any name; or an index file. When a folder has both, the single file counts, as in transformers.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_named(path, "pytorch_model")
    }

    /// Like [`open`](Self::open), for another base name: `adapter_model` reads `adapter_model.bin`.
    pub fn open_named(path: impl AsRef<Path>, base_name: &str) -> Result<Self> {
        let (files, index) = shards::files_of(path.as_ref(), base_name, "bin")?;
        let folder = Self::open_files(&files)?;
        if let Some(index) = index {
            index.check(&folder.table)?;
        }
        Ok(folder)
    }

    fn open_files(paths: &[PathBuf]) -> Result<Self> {
        let mut files = Vec::with_capacity(paths.len());
        let mut tensors = Vec::new();
        let mut metadata = BTreeMap::new();
        let mut wrapper = None;
        for (number, path) in paths.iter().enumerate() {
            let file = MappedFile::open(path)?;
            let mut contents = pytorch_file::read(&file)?;
            contents.tensors.sort_by_key(|(_, place)| place.source().start);
            tensors.extend(contents.tensors.into_iter().map(|tensor| (number, tensor)));
            metadata.append(&mut contents.metadata);
            wrapper = wrapper.or(contents.wrapper);
            files.push(file);
        }
        let mut table = TensorTable::new(files);
        for (number, (info, place)) in tensors {
            let name = info.name.clone();
            if !table.insert_at(info, number, place) {
                return Err(Error::Invalid {
                    path: paths[number].clone(),
                    format: "PyTorch",
                    reason: format!(
                        "tensor `{name}` is there twice, in it or in another shard of this folder"
                    ),
                });
            }
        }
        Ok(Self { table, metadata, wrapper })
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
    ///
    /// One that is stored in another order than row by row (a transposed one) is copied together at the first call,
    /// and the copy is kept.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        self.table.tensor(name)
    }

    /// The first tensor in file order that shares the bytes of `name`, as a tied output head shares those of the
    /// embeddings; `None` for a tensor of its own, and for the first of several.
    pub fn alias_of(&self, name: &str) -> Option<&str> {
        self.table.alias_of(name)
    }

    /// Says that the tensor's bytes are not needed soon, so that loading a model does not keep a second one in memory.
    ///
    /// The tensor stays readable. Best effort; unknown names are ignored.
    pub fn drop_pages(&self, name: &str) {
        self.table.drop_pages(name);
    }

    /// Numbers and texts beside the tensors, by their path from the root of the file: `model_args.dim`.
    pub fn metadata(&self) -> &BTreeMap<String, Scalar> {
        &self.metadata
    }

    /// The key that held the tensors, if they were not at the root: `model`.
    pub fn wrapper(&self) -> Option<&str> {
        self.wrapper.as_deref()
    }

    /// The files that are mapped: one, or the shards in order of their names.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.table.files().iter().map(MappedFile::path)
    }

    pub(crate) fn table(&self) -> &TensorTable {
        &self.table
    }
}
