//! Models in several files: cutting them, and the index that says which tensor lies where.
//!
//! The index is the same for safetensors and PyTorch files: `{"metadata": {"total_size"}, "weight_map"}`.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use fs_err as fs;
use serde::{Deserialize, Serialize};

use crate::tensor_table::TensorTable;
use crate::{Error, Result, write_file_atomically};

/// `….index.json` as it is read; `metadata.total_size` is not, because some tools write it wrong.
#[derive(Deserialize)]
pub(crate) struct ShardIndex {
    #[serde(skip)]
    path: PathBuf,
    weight_map: BTreeMap<String, String>,
}

/// The files of a checkpoint, and the index that names them if there is one.
///
/// A folder has `BASE.EXTENSION`, or `BASE.EXTENSION.index.json` and its shards; when it has both, the single file counts,
/// as in transformers. A file of any name is itself, an index file its shards.
pub(crate) fn files_of(
    path: &Path,
    base_name: &str,
    extension: &str,
) -> Result<(Vec<PathBuf>, Option<ShardIndex>)> {
    let suffix = format!(".{extension}.index.json");
    let metadata = fs::metadata(path).map_err(|error| Error::io(path, error))?;
    let of_index = |path: &Path| {
        let index = ShardIndex::read(path)?;
        Ok((index.shards()?, Some(index)))
    };
    if !metadata.is_dir() {
        let is_index = path.to_string_lossy().ends_with(&suffix);
        return if is_index { of_index(path) } else { Ok((vec![path.to_path_buf()], None)) };
    }
    let single = path.join(format!("{base_name}.{extension}"));
    let index = path.join(format!("{base_name}{suffix}"));
    if single.exists() {
        Ok((vec![single], None))
    } else if index.exists() {
        of_index(&index)
    } else {
        let expected = format!("`{base_name}.{extension}` and no `{base_name}{suffix}`");
        Err(Error::Missing { path: path.to_path_buf(), expected })
    }
}

impl ShardIndex {
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).map_err(|error| Error::io(path, error))?;
        let index: Self =
            serde_json::from_slice(&text).map_err(|error| Error::Json { path: path.to_path_buf(), error })?;
        Ok(Self { path: path.to_path_buf(), ..index })
    }

    /// The files beside the index that it names, in order of their names; each is there.
    pub fn shards(&self) -> Result<Vec<PathBuf>> {
        let mut names: Vec<&str> = self.weight_map.values().map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        let mut shards = Vec::with_capacity(names.len());
        for name in names {
            // A file name only: an index must not make danlu read elsewhere.
            let mut components = Path::new(name).components();
            if !matches!((components.next(), components.next()), (Some(Component::Normal(_)), None)) {
                return Err(self.invalid(format!("shard `{name}` is not a plain file name")));
            }
            let shard = self.path.with_file_name(name);
            if !shard.exists() {
                return Err(self.invalid(format!(
                    "it lists shard `{name}`, which is not in the folder; copy or download it again"
                )));
            }
            shards.push(shard);
        }
        Ok(shards)
    }

    /// Each listed tensor is in its shard, and no other tensor is in any.
    pub fn check(&self, table: &TensorTable) -> Result<()> {
        for (name, shard) in &self.weight_map {
            let found = table.file_of(name).and_then(|file| file.path().file_name());
            if found != Some(shard.as_ref()) {
                return Err(
                    self.invalid(format!("it lists tensor `{name}` in `{shard}`, which does not hold it"))
                );
            }
        }
        match table.infos().find(|info| !self.weight_map.contains_key(&info.name)) {
            Some(info) => {
                Err(self.invalid(format!("tensor `{}` is in a shard, but not in the index", info.name)))
            }
            None => Ok(()),
        }
    }

    fn invalid(&self, reason: String) -> Error {
        Error::Invalid { path: self.path.clone(), format: "shard index", reason }
    }
}

/// How a writer names and cuts its files.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    /// `model` gives `model.safetensors` or `model-00001-of-0000N.safetensors`.
    pub base_name: String,
    /// Bytes of tensors in one file; a larger tensor gets a file of its own.
    pub max_shard_bytes: usize,
}

/// 5 GB, as Hugging Face's tools cut.
pub const DEFAULT_MAX_SHARD_BYTES: usize = 5_000_000_000;

impl Default for WriteOptions {
    fn default() -> Self {
        Self { base_name: "model".to_string(), max_shard_bytes: DEFAULT_MAX_SHARD_BYTES }
    }
}

impl WriteOptions {
    /// The name of file `index` of `count`.
    pub(crate) fn file_name(&self, index: usize, count: usize, extension: &str) -> String {
        let base_name = &self.base_name;
        if count == 1 {
            format!("{base_name}.{extension}")
        } else {
            format!("{base_name}-{:05}-of-{count:05}.{extension}", index + 1)
        }
    }

    /// Writes `BASE.EXTENSION.index.json` into `folder`.
    pub(crate) fn write_index(
        &self,
        folder: &Path,
        extension: &str,
        total_size: usize,
        weight_map: BTreeMap<&str, String>,
    ) -> Result<()> {
        let path = folder.join(format!("{}.{extension}.index.json", self.base_name));
        let index = WrittenIndex { metadata: IndexMetadata { total_size }, weight_map };
        let mut text =
            serde_json::to_vec_pretty(&index).map_err(|error| Error::Json { path: path.clone(), error })?;
        text.push(b'\n');
        write_file_atomically(&path, &text)
    }
}

#[derive(Serialize)]
struct WrittenIndex<'a> {
    metadata: IndexMetadata,
    weight_map: BTreeMap<&'a str, String>,
}

#[derive(Serialize)]
struct IndexMetadata {
    total_size: usize,
}

/// Fills files in the given order: for each one the places of its tensors. At least one, even without tensors.
pub(crate) fn cut(sizes: impl Iterator<Item = usize>, limit: usize) -> Vec<Vec<usize>> {
    let mut shards: Vec<Vec<usize>> = vec![Vec::new()];
    let mut filled = 0usize;
    for (place, bytes) in sizes.enumerate() {
        let full = filled.saturating_add(bytes) > limit;
        match shards.last_mut() {
            Some(shard) if shard.is_empty() || !full => {
                shard.push(place);
                filled += bytes;
            }
            _ => {
                shards.push(vec![place]);
                filled = bytes;
            }
        }
    }
    shards
}
