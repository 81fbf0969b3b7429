//! Meta's own checkpoints: `consolidated.00.pth`, `consolidated.01.pth` … and `params.json`.
//!
//! Each file holds every name, and of each matrix its part for one of the processes that ran in parallel (Llama 2: one
//! file for 7B, two for 13B, eight for 70B; Llama 3: one for 8B, eight for 70B). The whole is the parts in the order
//! of the files, joined along one dimension of `[outputs, inputs]`:
//!
//! | tensor | joined along |
//! |---|---|
//! | `layers.N.attention.wq`, `wk`, `wv`, `layers.N.feed_forward.w1`, `w3`, `output` | 0 |
//! | `layers.N.attention.wo`, `layers.N.feed_forward.w2` | 1 |
//! | `tok_embeddings` | 1 in Llama 1 and 2, 0 in Llama 3 (the shape tells: `dim` of `params.json` is the whole of 1) |
//! | `norm`, `layers.N.attention_norm`, `layers.N.ffn_norm`, `rope.freqs` | not: each file has the whole |
//!
//! The parts of `output` may differ in length: the last takes the rest. Names have no meaning here: the
//! caller says along which dimension.

use std::ops::Range;
use std::path::{Path, PathBuf};

use fs_err as fs;

use crate::{Error, PytorchFolder, Result, Tensor, TensorInfo};

const PARAMETERS: &str = "params.json";
/// Rows are shorter than what is worth writing at once.
const BUFFER_BYTES: usize = 1 << 20;

/// A folder of Meta's files, each open by itself.
#[derive(Debug)]
pub struct ConsolidatedFolder {
    shards: Vec<PytorchFolder>,
    parameters: serde_json::Map<String, serde_json::Value>,
}

impl ConsolidatedFolder {
    /// Whether the folder has a first file of this form.
    pub fn is_one(folder: impl AsRef<Path>) -> bool {
        shard_path(folder.as_ref(), 0).is_file()
    }

    /// Opens all files of the folder; each must hold the same names, types and numbers of dimensions.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let missing = |expected: String| Error::Missing {
            path: folder.to_path_buf(),
            expected: format!("`{expected}`"),
        };
        let mut count = 0;
        for entry in fs::read_dir(folder).map_err(|error| Error::io(folder, error))? {
            let name = entry.map_err(|error| Error::io(folder, error))?.file_name();
            let name = name.to_string_lossy();
            count += usize::from(name.starts_with("consolidated.") && name.ends_with(".pth"));
        }
        let paths: Vec<PathBuf> = (0..count.max(1)).map(|index| shard_path(folder, index)).collect();
        let mut shards: Vec<PytorchFolder> = Vec::with_capacity(paths.len());
        for path in &paths {
            if !path.exists() {
                return Err(missing(path.file_name().unwrap_or_default().to_string_lossy().into_owned()));
            }
            let shard = PytorchFolder::open(path)?;
            if let Some(first) = shards.first() {
                check_same_names(first, &shard, path)?;
            }
            shards.push(shard);
        }
        let path = folder.join(PARAMETERS);
        if !path.exists() {
            return Err(missing(PARAMETERS.to_string()));
        }
        let text = fs::read(&path).map_err(|error| Error::io(&path, error))?;
        let parameters = serde_json::from_slice(&text).map_err(|error| Error::Json { path, error })?;
        Ok(Self { shards, parameters })
    }

    /// The files in order.
    pub fn shards(&self) -> &[PytorchFolder] {
        &self.shards
    }

    /// The parts of a tensor in the order of the files; empty for an unknown name.
    pub fn parts(&self, name: &str) -> Vec<Tensor<'_>> {
        self.shards.iter().filter_map(|shard| shard.tensor(name)).collect()
    }

    /// The whole of a tensor, joined along `dimension`.
    pub fn joined(&self, name: &str, dimension: usize) -> Result<JoinedTensor<'_>> {
        let parts = self.parts(name);
        let shapes: Vec<_> = parts.iter().map(|part| part.info.shape.clone()).collect();
        JoinedTensor::new(parts, dimension).ok_or_else(|| Error::Invalid {
            path: self.shards.first().and_then(|shard| shard.files().next()).unwrap_or(Path::new("")).into(),
            format: "consolidated checkpoint",
            reason: format!(
                "the parts of tensor `{name}` cannot be joined along dimension {dimension}: {shapes:?}"
            ),
        })
    }

    /// Says that the tensor's bytes are not needed soon; see [`PytorchFolder::drop_pages`].
    pub fn drop_pages(&self, name: &str) {
        self.shards.iter().for_each(|shard| shard.drop_pages(name));
    }

    /// `params.json` as it is: `dim`, `n_layers`, `n_heads`, `n_kv_heads`, `multiple_of`, `norm_eps`, `vocab_size` (-1
    /// where it is to be taken from the tensors), `rope_theta` …
    pub fn parameters(&self) -> &serde_json::Map<String, serde_json::Value> {
        &self.parameters
    }
}

fn shard_path(folder: &Path, index: usize) -> PathBuf {
    folder.join(format!("consolidated.{index:02}.pth"))
}

fn check_same_names(first: &PytorchFolder, shard: &PytorchFolder, path: &Path) -> Result<()> {
    let differs = |info: &&TensorInfo| match shard.tensor(&info.name) {
        None => true,
        Some(other) => other.info.dtype != info.dtype || other.info.shape.len() != info.shape.len(),
    };
    let unknown = |info: &&TensorInfo| first.tensor(&info.name).is_none();
    match first.tensors().find(differs).or_else(|| shard.tensors().find(unknown)) {
        None => Ok(()),
        Some(info) => Err(Error::Invalid {
            path: path.to_path_buf(),
            format: "consolidated checkpoint",
            reason: format!("tensor `{}` does not go with that of the first file", info.name),
        }),
    }
}

/// A tensor that lies in parts, joined along one dimension. The parts stay where they are.
#[derive(Debug, Clone)]
pub struct JoinedTensor<'a> {
    info: TensorInfo,
    parts: Vec<Tensor<'a>>,
    dimension: usize,
}

impl<'a> JoinedTensor<'a> {
    /// `None` if there are no parts, if they differ in type or in another dimension, or if the type has blocks.
    pub fn new(parts: Vec<Tensor<'a>>, dimension: usize) -> Option<Self> {
        let mut info = parts.first()?.info.clone();
        *info.shape.get_mut(dimension)? = 0;
        for part in &parts {
            let length = *part.info.shape.get(dimension)?;
            let mut rest = part.info.shape.clone();
            rest[dimension] = info.shape[dimension];
            if rest != info.shape || part.info.dtype != info.dtype {
                return None;
            }
            info.shape[dimension] = info.shape[dimension].checked_add(length)?;
        }
        let is_plain = info.dtype.block_elements() == 1;
        (is_plain && info.byte_length().is_some()).then_some(Self { info, parts, dimension })
    }

    /// Name, type and shape of the whole.
    pub fn info(&self) -> &TensorInfo {
        &self.info
    }

    /// Gives `write` the bytes of the whole in pieces, without keeping it in memory.
    pub fn write<E>(&self, mut write: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        if self.info.elements() == Some(0) {
            return Ok(());
        }
        let outer: usize = self.info.shape[..self.dimension].iter().product();
        let mut buffer = Vec::new();
        for index in 0..outer {
            for part in &self.parts {
                let row = part.bytes.len() / outer;
                append(&mut buffer, &part.bytes[index * row..(index + 1) * row], &mut write)?;
            }
        }
        write(&buffer)
    }
}

/// A part of a tensor along one dimension: the reverse of [`JoinedTensor`].
#[derive(Debug, Clone)]
pub struct TensorPart<'a> {
    info: TensorInfo,
    whole: Tensor<'a>,
    dimension: usize,
    range: Range<usize>,
}

impl<'a> TensorPart<'a> {
    /// `None` if `range` does not lie within the dimension, or if the type has blocks.
    pub fn new(whole: Tensor<'a>, dimension: usize, range: Range<usize>) -> Option<Self> {
        let mut info = whole.info.clone();
        let length = info.shape.get_mut(dimension)?;
        if range.start > range.end || range.end > *length || info.dtype.block_elements() != 1 {
            return None;
        }
        *length = range.len();
        Some(Self { info, whole, dimension, range })
    }

    /// Name, type and shape of the part.
    pub fn info(&self) -> &TensorInfo {
        &self.info
    }

    /// Gives `write` the bytes of the part in pieces.
    pub fn write<E>(&self, mut write: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        if self.info.elements() == Some(0) {
            return Ok(());
        }
        let shape = &self.whole.info.shape;
        let outer: usize = shape[..self.dimension].iter().product();
        let row = self.whole.bytes.len() / outer;
        let step = row / shape[self.dimension];
        let mut buffer = Vec::new();
        for row in self.whole.bytes.chunks_exact(row) {
            append(&mut buffer, &row[self.range.start * step..self.range.end * step], &mut write)?;
        }
        write(&buffer)
    }
}

/// Collects small pieces, passes large ones on.
fn append<E>(
    buffer: &mut Vec<u8>,
    piece: &[u8],
    write: &mut impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    if buffer.len() + piece.len() < BUFFER_BYTES {
        buffer.extend_from_slice(piece);
        return Ok(());
    }
    write(buffer)?;
    buffer.clear();
    write(piece)
}
