//! The tensors of one or several mapped files, in file order and by name.

use std::collections::HashMap;
use std::ops::Range;

use crate::mapped_file::MappedFile;
use crate::{Tensor, TensorInfo};

#[derive(Debug, Default)]
pub(crate) struct TensorTable {
    files: Vec<MappedFile>,
    entries: Vec<Entry>,
    by_name: HashMap<String, usize>,
}

#[derive(Debug)]
struct Entry {
    info: TensorInfo,
    file: usize,
    range: Range<usize>,
}

impl TensorTable {
    pub fn new(files: Vec<MappedFile>) -> Self {
        Self { files, ..Self::default() }
    }

    /// Adds a tensor whose `range` was checked to lie inside file number `file`; `false` if the name is there already.
    pub fn insert(&mut self, info: TensorInfo, file: usize, range: Range<usize>) -> bool {
        if self.by_name.contains_key(&info.name) {
            return false;
        }
        self.by_name.insert(info.name.clone(), self.entries.len());
        self.entries.push(Entry { info, file, range });
        true
    }

    pub fn files(&self) -> &[MappedFile] {
        &self.files
    }

    /// The file that holds the tensor.
    pub fn file_of(&self, name: &str) -> Option<&MappedFile> {
        self.entry(name).map(|entry| &self.files[entry.file])
    }

    pub fn infos(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.entries.iter().map(|entry| &entry.info)
    }

    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let entry = self.entry(name)?;
        let bytes = self.files[entry.file].bytes().get(entry.range.clone())?;
        Some(Tensor { info: &entry.info, bytes })
    }

    pub fn drop_pages(&self, name: &str) {
        if let Some(entry) = self.entry(name) {
            self.files[entry.file].drop_pages(&entry.range);
        }
    }

    fn entry(&self, name: &str) -> Option<&Entry> {
        self.by_name.get(name).map(|index| &self.entries[*index])
    }
}
