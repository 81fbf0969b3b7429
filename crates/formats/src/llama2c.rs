//! Reading the model files of llama2.c (karpathy/llama2.c, `export.py`): versions 0 and 1 in f32, version 2 in int8.
//!
//! The files hold no names; here the tensors have those of Meta's checkpoints (`layers.0.attention.wq.weight`), in the
//! order of the file. Queries and keys are interleaved, and rotate with a base of 10000, which no version can say
//! otherwise; normalisation adds 1e-5. It does not read llama2.c's `tokenizer.bin`.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use crate::mapped_file::MappedFile;
use crate::tensor_table::TensorTable;
use crate::{Dtype, Error, Result, Tensor, TensorInfo};

/// "ak42", little-endian.
pub(crate) const MAGIC: &[u8] = b"24ka";
const HEADER_BYTES_V0: usize = 28;
/// Of the versions with a magic number.
pub(crate) const HEADER_BYTES: usize = 256;
const LLAMA2TS_START: &[u8] = b"\x01\x05\x00\x00\x00llama";

/// Which of the three layouts a file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Llama2cVersion {
    /// f32, without a magic number, followed by the tables of the rotations.
    V0,
    /// f32.
    V1,
    /// Matrices as signed bytes, each `group_size` in a row with one f32 scale; vectors in f32.
    V2 { group_size: usize },
}

/// The header, with llama2.c's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Llama2cConfig {
    pub version: Llama2cVersion,
    pub dim: usize,
    pub hidden_dim: usize,
    pub n_layers: usize,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub vocab_size: usize,
    pub max_seq_len: usize,
    /// The output head is the embeddings, and not in the file.
    pub shared_classifier: bool,
}

impl Llama2cConfig {
    /// The largest group of at most 64, llama2.c's default, of which rows of both lengths are whole.
    ///
    /// `runq.c` cuts activations of both lengths into such groups.
    pub fn group_size_for(dim: usize, hidden_dim: usize) -> usize {
        let mut group_size = 64;
        while group_size > 1 && !(dim.is_multiple_of(group_size) && hidden_dim.is_multiple_of(group_size)) {
            group_size /= 2;
        }
        group_size
    }

    /// Name, type (`F32`; `I8` for the matrices of version 2) and shape of each tensor, in the order of the file.
    pub fn tensors(&self) -> Vec<TensorInfo> {
        let kv_dim = self.kv_dim();
        let (dim, hidden_dim) = (self.dim, self.hidden_dim);
        let matrix = match self.version {
            Llama2cVersion::V0 | Llama2cVersion::V1 => Dtype::F32,
            Llama2cVersion::V2 { .. } => Dtype::I8,
        };
        let mut tensors = Vec::new();
        let mut one = |name: &str, dtype: Dtype, shape: &[usize]| {
            let name = format!("{name}.weight");
            tensors.push(TensorInfo { name, dtype, shape: shape.to_vec() });
        };
        // llama2.c keeps the same tensor of all layers together.
        let each = |one: &mut dyn FnMut(&str, Dtype, &[usize]), name: &str, dtype: Dtype, shape: &[usize]| {
            (0..self.n_layers).for_each(|layer| one(&format!("layers.{layer}.{name}"), dtype, shape));
        };
        let is_v0 = self.version == Llama2cVersion::V0;
        if is_v0 {
            one("tok_embeddings", matrix, &[self.vocab_size, dim]);
        }
        each(&mut one, "attention_norm", Dtype::F32, &[dim]);
        if !is_v0 {
            each(&mut one, "ffn_norm", Dtype::F32, &[dim]);
            one("norm", Dtype::F32, &[dim]);
            one("tok_embeddings", matrix, &[self.vocab_size, dim]);
        }
        each(&mut one, "attention.wq", matrix, &[dim, dim]);
        each(&mut one, "attention.wk", matrix, &[kv_dim, dim]);
        each(&mut one, "attention.wv", matrix, &[kv_dim, dim]);
        each(&mut one, "attention.wo", matrix, &[dim, dim]);
        if is_v0 {
            each(&mut one, "ffn_norm", Dtype::F32, &[dim]);
        }
        each(&mut one, "feed_forward.w1", matrix, &[hidden_dim, dim]);
        each(&mut one, "feed_forward.w2", matrix, &[dim, hidden_dim]);
        each(&mut one, "feed_forward.w3", matrix, &[hidden_dim, dim]);
        if is_v0 {
            one("norm", Dtype::F32, &[dim]);
        }
        if !self.shared_classifier {
            one("output", matrix, &[self.vocab_size, dim]);
        }
        tensors
    }

    pub(crate) fn head_dim(&self) -> usize {
        self.dim / self.n_heads
    }

    fn kv_dim(&self) -> usize {
        self.head_dim() * self.n_kv_heads
    }

    /// f32 values in each of the two tables of rotations that version 0 has before an output head of its own.
    pub(crate) fn rotations(&self) -> usize {
        match self.version {
            Llama2cVersion::V0 => self.max_seq_len * (self.head_dim() / 2),
            _ => 0,
        }
    }

    /// Bytes of the whole file; the reason if the numbers do not describe a model.
    pub(crate) fn file_bytes(&self) -> Result<usize, String> {
        let &Self { dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, max_seq_len, .. } = self;
        let all = [dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, max_seq_len];
        if all.contains(&0) {
            return Err("one of its sizes is 0".to_string());
        }
        if !dim.is_multiple_of(n_heads.saturating_mul(2)) || !n_heads.is_multiple_of(n_kv_heads) {
            return Err(format!(
                "a width of {dim} cannot have {n_heads} heads of even width with {n_kv_heads} for keys and values"
            ));
        }
        let too_large = || format!("a width of {dim} and {n_layers} layers are more than any file holds");
        let kv_dim = self.kv_dim();
        if let Llama2cVersion::V2 { group_size } = self.version
            && (group_size == 0
                || [(vocab_size, dim), (dim, dim), (kv_dim, dim), (dim, hidden_dim)].iter().any(
                    |(rows, row)| rows.checked_mul(*row).is_none_or(|all| !all.is_multiple_of(group_size)),
                ))
        {
            return Err(format!("its matrices are not whole groups of {group_size}"));
        }
        let total =
            || {
                let embeddings = vocab_size.checked_mul(dim)?;
                let attention =
                    dim.checked_mul(dim)?.checked_add(kv_dim.checked_mul(dim)?)?.checked_mul(2)?;
                let feed_forward = dim.checked_mul(hidden_dim)?.checked_mul(3)?;
                let matrices = attention.checked_add(feed_forward)?.checked_mul(n_layers)?;
                let matrices = matrices
                    .checked_add(embeddings.checked_mul(if self.shared_classifier { 1 } else { 2 })?)?;
                let vectors = dim.checked_mul(n_layers.checked_mul(2)?.checked_add(1)?)?;
                let rotations = max_seq_len.checked_mul(dim)?.checked_mul(2).map(|_| 2 * self.rotations())?;
                let (header, matrix_bytes) = match self.version {
                    Llama2cVersion::V0 => (HEADER_BYTES_V0, matrices.checked_mul(4)?),
                    Llama2cVersion::V1 => (HEADER_BYTES, matrices.checked_mul(4)?),
                    Llama2cVersion::V2 { group_size } => {
                        (HEADER_BYTES, matrices.checked_add((matrices / group_size).checked_mul(4)?)?)
                    }
                };
                vectors.checked_add(rotations)?.checked_mul(4)?.checked_add(matrix_bytes)?.checked_add(header)
            };
        total().ok_or_else(too_large)
    }
}

/// An open file of llama2.c.
#[derive(Debug)]
pub struct Llama2c {
    config: Llama2cConfig,
    table: TensorTable,
    /// Where the scales of a quantized tensor lie.
    scales: HashMap<String, Range<usize>>,
}

impl Llama2c {
    /// Opens a file, whose length must be exactly what its header says.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let file = MappedFile::open(path.as_ref())?;
        let config = read_header(&file)?;
        let mut position = match config.version {
            Llama2cVersion::V0 => HEADER_BYTES_V0,
            _ => HEADER_BYTES,
        };
        let mut table = TensorTable::new(vec![file]);
        let mut scales = HashMap::new();
        // The length of the file was compared with the header, so that no sum here overflows.
        for info in config.tensors() {
            if info.name == "output.weight" {
                position += 2 * config.rotations() * 4;
            }
            let elements = info.elements().unwrap_or(0);
            let end = position + elements * info.dtype.block_bytes();
            let (name, is_quantized) = (info.name.clone(), info.dtype == Dtype::I8);
            table.insert(info, 0, position..end);
            position = end;
            if let Llama2cVersion::V2 { group_size } = config.version
                && is_quantized
            {
                position += elements / group_size * 4;
                scales.insert(name, end..position);
            }
        }
        Ok(Self { config, table, scales })
    }

    pub fn config(&self) -> &Llama2cConfig {
        &self.config
    }

    /// Name, type and shape of every tensor, in file order.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.table.infos()
    }

    /// The tensor of that name; if it is of type `I8`, its elements are to be multiplied with [`scales`](Self::scales).
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        self.table.tensor(name)
    }

    /// One f32 (four bytes, little-endian) for each `group_size` elements in a row of a quantized tensor.
    pub fn scales(&self, name: &str) -> Option<&[u8]> {
        let range = self.scales.get(name)?;
        self.table.file_of(name)?.bytes().get(range.clone())
    }

    /// The elements of `name` from number `start` on, of whichever type, as f32.
    pub fn read_f32(&self, name: &str, start: usize, values: &mut [f32]) -> Result<()> {
        let path = || self.table.files().first().map(|file| file.path().to_path_buf()).unwrap_or_default();
        let tensor = self
            .tensor(name)
            .ok_or_else(|| Error::Missing { path: path(), expected: format!("tensor `{name}`") })?;
        let size = tensor.info.dtype.block_bytes();
        let bytes = start
            .checked_add(values.len())
            .and_then(|end| tensor.bytes.get(start.checked_mul(size)?..end.checked_mul(size)?));
        let bytes = bytes.ok_or_else(|| Error::Missing {
            path: path(),
            expected: format!("elements {start}.. {} of tensor `{name}`", values.len()),
        })?;
        let (Llama2cVersion::V2 { group_size }, Some(scales)) = (self.config.version, self.scales(name))
        else {
            for (value, bytes) in values.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *value = f32::from_le_bytes(*bytes);
            }
            return Ok(());
        };
        let scales = scales.as_chunks::<4>().0;
        for (index, (value, byte)) in values.iter_mut().zip(bytes).enumerate() {
            let group = (start + index) / group_size;
            let scale = f32::from_le_bytes(scales[group]);
            if !scale.is_finite() {
                let reason = format!("scale {group} of tensor `{name}` is {scale}");
                return Err(Error::Invalid { path: path(), format: "llama2.c", reason });
            }
            *value = f32::from(byte.cast_signed()) * scale;
        }
        Ok(())
    }

    /// Says that the tensor's bytes are not needed soon; see [`SafetensorsFolder`](crate::SafetensorsFolder::drop_pages).
    pub fn drop_pages(&self, name: &str) {
        self.table.drop_pages(name);
        if let (Some(file), Some(scales)) = (self.table.file_of(name), self.scales.get(name)) {
            file.drop_pages(scales);
        }
    }
}

/// Whether the file begins as one of llama2.c, or as one of llama2.ts, which [`Llama2c::open`] refuses by name.
pub(crate) fn is_llama2c(file: &MappedFile) -> bool {
    let bytes = file.bytes();
    // Version 0 has nothing to know it by but sizes that agree with the length.
    bytes.starts_with(MAGIC) || bytes.starts_with(LLAMA2TS_START) || read_header(file).is_ok()
}

fn read_header(file: &MappedFile) -> Result<Llama2cConfig> {
    let bytes = file.bytes();
    let invalid =
        |reason: String| Error::Invalid { path: file.path().to_path_buf(), format: "llama2.c", reason };
    let unsupported = |reason: String| Error::Unsupported { path: file.path().to_path_buf(), reason };
    let int = |at: usize| bytes.get(at..)?.first_chunk().map(|bytes| i32::from_le_bytes(*bytes));
    if bytes.starts_with(LLAMA2TS_START) {
        return Err(unsupported(
            "it is a model of llama2.ts, another project's own format; \
             use llama2.c's own file of the same model"
                .to_string(),
        ));
    }
    let has_magic = bytes.starts_with(MAGIC);
    let needed = if has_magic { HEADER_BYTES } else { HEADER_BYTES_V0 };
    if bytes.len() < needed {
        return Err(invalid(format!("its header takes {needed} bytes, but it has {}", bytes.len())));
    }
    let version = match int(4) {
        _ if !has_magic => Llama2cVersion::V0,
        Some(1) => Llama2cVersion::V1,
        Some(2) => {
            Llama2cVersion::V2 { group_size: int(37).and_then(|size| size.try_into().ok()).unwrap_or(0) }
        }
        version => {
            let version = version.unwrap_or(0);
            return Err(unsupported(format!("it is of version {version}, but 0, 1 and 2 are known")));
        }
    };
    let start = if has_magic { 8 } else { 0 };
    let field = |index: usize| int(start + 4 * index).unwrap_or(0);
    let size = |index: usize| usize::try_from(field(index)).unwrap_or(0);
    let vocab_size = field(5);
    let config = Llama2cConfig {
        version,
        dim: size(0),
        hidden_dim: size(1),
        n_layers: size(2),
        n_heads: size(3),
        n_kv_heads: size(4),
        // A negative number says in version 0 that the output head is in the file.
        vocab_size: if has_magic { size(5) } else { vocab_size.unsigned_abs() as usize },
        max_seq_len: size(6),
        shared_classifier: if has_magic { bytes[36] != 0 } else { vocab_size > 0 },
    };
    let expected = config.file_bytes().map_err(invalid)?;
    if expected != bytes.len() {
        let reason = format!("by its header it has {expected} bytes, but it has {}", bytes.len());
        return Err(invalid(format!("{reason}; it is cut short or of another format")));
    }
    Ok(config)
}
