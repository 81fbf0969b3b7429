//! The tensors of one or several mapped files, in file order and by name.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::OnceLock;

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
    place: Place,
}

/// Where a tensor's bytes lie in its file.
#[derive(Debug)]
pub(crate) enum Place {
    /// Row-major: a view of this range.
    View(Range<usize>),
    /// In another order: copied together when first asked for.
    Strided { source: Range<usize>, strides: Vec<usize>, copy: OnceLock<Vec<u8>> },
}

impl Place {
    /// Elements begin at the start of `source`; `strides` count bytes and stay within it.
    pub fn strided(source: Range<usize>, strides: Vec<usize>) -> Self {
        Self::Strided { source, strides, copy: OnceLock::new() }
    }

    /// The bytes of the file that the tensor is made of.
    pub fn source(&self) -> &Range<usize> {
        match self {
            Self::View(range) => range,
            Self::Strided { source, .. } => source,
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::View(range), Self::View(other)) => range == other,
            (Self::Strided { source, strides, .. }, Self::Strided { source: other, strides: others, .. }) => {
                source == other && strides == others
            }
            _ => false,
        }
    }
}

impl TensorTable {
    pub fn new(files: Vec<MappedFile>) -> Self {
        Self { files, ..Self::default() }
    }

    /// Adds a tensor whose `range` was checked to lie inside file number `file`; `false` if the name is there already.
    pub fn insert(&mut self, info: TensorInfo, file: usize, range: Range<usize>) -> bool {
        self.insert_at(info, file, Place::View(range))
    }

    /// Like [`insert`](Self::insert), for any place.
    pub fn insert_at(&mut self, info: TensorInfo, file: usize, place: Place) -> bool {
        if self.by_name.contains_key(&info.name) {
            return false;
        }
        self.by_name.insert(info.name.clone(), self.entries.len());
        self.entries.push(Entry { info, file, place });
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
        let file = self.files[entry.file].bytes();
        let bytes = match &entry.place {
            Place::View(range) => file.get(range.clone())?,
            Place::Strided { source, strides, copy } => {
                let source = file.get(source.clone())?;
                copy.get_or_init(|| gather(source, &entry.info, strides))
            }
        };
        Some(Tensor { info: &entry.info, bytes })
    }

    /// The first name in file order that has the very bytes of `name`, type and shape too; `None` if that is `name`.
    pub fn alias_of(&self, name: &str) -> Option<&str> {
        let entry = self.entry(name)?;
        let same = |other: &&Entry| {
            other.file == entry.file
                && other.place.is_same(&entry.place)
                && other.info.dtype == entry.info.dtype
                && other.info.shape == entry.info.shape
        };
        let first = self.entries.iter().find(same)?;
        // Tensors without elements have no bytes to share.
        let is_alias = first.info.name != name && !entry.place.source().is_empty();
        is_alias.then_some(first.info.name.as_str())
    }

    pub fn drop_pages(&self, name: &str) {
        if let Some(entry) = self.entry(name) {
            self.files[entry.file].drop_pages(entry.place.source());
        }
    }

    fn entry(&self, name: &str) -> Option<&Entry> {
        self.by_name.get(name).map(|index| &self.entries[*index])
    }
}

/// The elements in row-major order; `strides` count bytes.
fn gather(source: &[u8], info: &TensorInfo, strides: &[usize]) -> Vec<u8> {
    let size = info.dtype.block_bytes();
    let elements = info.elements().unwrap_or(0);
    let mut bytes = Vec::with_capacity(elements.saturating_mul(size));
    let mut index = vec![0; strides.len()];
    let mut offset = 0;
    for _ in 0..elements {
        bytes.extend_from_slice(&source[offset..offset + size]);
        for dimension in (0..index.len()).rev() {
            index[dimension] += 1;
            offset += strides[dimension];
            if index[dimension] < info.shape[dimension] {
                break;
            }
            offset -= strides[dimension] * info.shape[dimension];
            index[dimension] = 0;
        }
    }
    bytes
}
