//! A model file, whatever its container: its configuration and its tensors as the model has them.
//!
//! What one tensor of the file holds may be several of the model ([`crate::layout`]). GGUF stores the rows of q and k so that rotated pairs are neighbours; they are put back into two halves here.

use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use danlu_formats::{Dtype, Gguf, SafetensorsFolder, Tensor};
use danlu_kernels::blocks::{BlockType, dequantize};
use danlu_kernels::team::parallel_chunks;
use danlu_tokenizer::Tokenizer;
use serde_json::Value;

use crate::families::{GGUF_NAMES, META_NAMES, infer, is_computed};
use crate::gguf::{gguf_config, gguf_vocabulary, has_neighbouring_pairs};
use crate::layout::{FileTensor, file_tensors};
use crate::names::{Extra, Part, Role, TensorId, TensorSpec};
use crate::{Config, Error, Module, Result, gguf};

/// Elements that one task dequantizes; a multiple of every block.
const CHUNK: usize = 1 << 16;

/// What `torch.compile` puts before every name.
const COMPILED: &str = "_orig_mod.";

pub(crate) struct Checkpoint {
    path: PathBuf,
    container: Container,
    /// Before every name in the file.
    prefix: &'static str,
}

enum Container {
    HuggingFace(SafetensorsFolder),
    Gguf(Gguf),
}

impl Checkpoint {
    /// Opens a folder or a `.gguf` file, by content.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            let tensors = SafetensorsFolder::open(path)?;
            let compiled = tensors.names().all(|name| name.starts_with(COMPILED));
            let prefix = if compiled { COMPILED } else { "" };
            return Ok(Self { path: path.into(), container: Container::HuggingFace(tensors), prefix });
        }
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            let message = "a model is its folder, with `config.json` and the tokenizer; give the folder of";
            return Err(Error::Message(format!("{message} `{}`", path.display())));
        }
        Ok(Self { path: path.into(), container: Container::Gguf(Gguf::open(path)?), prefix: "" })
    }

    pub(crate) fn config(&self) -> Result<Config> {
        let mut config = match &self.container {
            Container::HuggingFace(_) => {
                let (path, has_tensor) =
                    (self.path.join("config.json"), |name: &str| self.tensor(name).is_some());
                let mut config = match path.is_file() || !has_tensor(META_NAMES.embedding) {
                    true => Config::read_beside(&path, &has_tensor)?,
                    false => infer(&self.path, &|name| Some(self.tensor(name)?.info.shape.clone()))?,
                };
                config.eos_token_ids.extend(self.generation_eos()?);
                config
            }
            Container::Gguf(gguf) => gguf_config(gguf, &self.path)?,
        };
        let mut seen = HashSet::new();
        config.eos_token_ids.retain(|id| seen.insert(*id));
        Ok(config)
    }

    /// End tokens of `generation_config.json`, if there is one.
    fn generation_eos(&self) -> Result<Vec<u32>> {
        let path = self.path.join("generation_config.json");
        if !path.is_file() {
            return Ok(Vec::new());
        }
        let error = |reason: String| Error::Json { path: path.clone(), reason };
        let text = fs_err::read_to_string(&path)?;
        let value: Value = serde_json::from_str(&text).map_err(|cause| error(cause.to_string()))?;
        let ids = match &value["eos_token_id"] {
            Value::Array(ids) => ids.iter().filter_map(Value::as_u64).collect(),
            id => id.as_u64().into_iter().collect::<Vec<_>>(),
        };
        Ok(ids.into_iter().filter_map(|id| u32::try_from(id).ok()).collect())
    }

    /// The vocabulary of the file or folder, if it has one.
    pub(crate) fn tokenizer(&self) -> Result<Option<Tokenizer>> {
        match &self.container {
            Container::HuggingFace(_) if !self.path.join("tokenizer.json").is_file() => Ok(None),
            Container::HuggingFace(_) => Ok(Some(Tokenizer::open(&self.path)?)),
            Container::Gguf(gguf) => match gguf_vocabulary(gguf)? {
                Some(vocabulary) => {
                    let named = |error| Error::Message(format!("`{}`: {error}", self.path.display()));
                    Ok(Some(Tokenizer::from_gguf(vocabulary).map_err(named)?))
                }
                None => Ok(None),
            },
        }
    }

    /// Refuses a number of blocks that the file cannot hold, before anything of that size is made.
    pub(crate) fn check_layers(&self, config: &Config) -> Result<()> {
        let (layers, tensors) = (config.num_hidden_layers, self.names().len());
        if layers <= tensors {
            return Ok(());
        }
        let reason = format!("{layers} blocks, but the file holds {tensors} tensors");
        Err(Error::Config { path: self.path.clone(), field: "num_hidden_layers".into(), reason })
    }

    /// The tensors that a file of this container and family holds.
    pub(crate) fn layout(&self, config: &Config, specs: &[TensorSpec]) -> Vec<FileTensor> {
        let names = match &self.container {
            Container::HuggingFace(_) => config.family.names(),
            Container::Gguf(_) => &GGUF_NAMES,
        };
        file_tensors(config, specs, names)
    }

    /// Fails unless the file holds exactly the tensors of `layout`, in these shapes and in types that can be read.
    pub(crate) fn check(&self, config: &Config, layout: &[FileTensor]) -> Result<()> {
        self.check_names(config, layout)?;
        layout.iter().try_for_each(|file| self.checked(file).map(|_| ()))
    }

    fn check_names(&self, config: &Config, layout: &[FileTensor]) -> Result<()> {
        let expected: HashSet<&str> = layout.iter().map(|file| file.name.as_str()).collect();
        let missing = layout.iter().map(|file| &file.name).filter(|name| self.tensor(name).is_none());
        let missing: Vec<String> = missing.cloned().collect();
        if !missing.is_empty() {
            return Err(Error::MissingTensors { path: self.path.clone(), names: missing });
        }
        let is_known = |name: &str| {
            let computed = match &self.container {
                Container::HuggingFace(_) => is_computed(name),
                Container::Gguf(_) => gguf::is_computed(name),
            };
            expected.contains(name) || computed || self.is_same_as_embedding(config, name)
        };
        let leftover: Vec<String> = self
            .names()
            .into_iter()
            .filter(|name| !name.strip_prefix(self.prefix).is_some_and(is_known))
            .map(str::to_owned)
            .collect();
        if leftover.is_empty() {
            return Ok(());
        }
        Err(Error::LeftoverTensors { path: self.path.clone(), names: leftover })
    }

    fn names(&self) -> Vec<&str> {
        match &self.container {
            Container::HuggingFace(tensors) => tensors.names().collect(),
            Container::Gguf(gguf) => gguf.tensors().map(|info| info.name.as_str()).collect(),
        }
    }

    /// Whether this is a tied head that was stored once more.
    fn is_same_as_embedding(&self, config: &Config, name: &str) -> bool {
        let names = config.family.names();
        let same = |head: &str, embedding: &str| match (self.tensor(head), self.tensor(embedding)) {
            (Some(head), Some(embedding)) => head.bytes == embedding.bytes,
            _ => false,
        };
        name == names.head && same(name, names.embedding)
    }

    /// The tensor of this shape and its type.
    fn checked(&self, file: &FileTensor) -> Result<(Tensor<'_>, BlockType)> {
        let error = |reason| self.tensor_error(file, reason);
        let tensor = self.tensor(&file.name).ok_or_else(|| error("missing".into()))?;
        if tensor.info.shape != file.shape {
            let reason = format!(
                "expected shape {:?} from the configuration, found {:?}",
                file.shape, tensor.info.shape
            );
            return Err(error(reason));
        }
        let kind = block_type(tensor.info.dtype).ok_or_else(|| {
            error(format!(
                "type `{}` is neither F32, F16 or BF16 nor a block type (Q…) of weights",
                tensor.info.dtype
            ))
        })?;
        Ok((tensor, kind))
    }

    /// The type that a tensor is stored in.
    pub(crate) fn dtype(&self, file: &FileTensor) -> Result<Dtype> {
        Ok(self.checked(file)?.0.info.dtype)
    }

    fn tensor_error(&self, file: &FileTensor, reason: String) -> Error {
        Error::Tensor { path: self.path.clone(), name: file.name.clone(), reason }
    }

    /// Reads one of the model's tensors as f32, [outputs, inputs]; its pages in the file are no longer needed
    /// afterwards.
    pub(crate) fn read(
        &self,
        layout: &[FileTensor],
        id: TensorId,
        spec: &TensorSpec,
        config: &Config,
        out: &mut [f32],
    ) -> Result<()> {
        let width = spec.width();
        self.for_each_piece(layout, id, |file, stored, kind, row, rows| {
            let values = row * width..(row + rows.len()) * width;
            let out = &mut out[rows.start * width..rows.end * width];
            part_to_f32(kind, stored, values, out).map_err(|reason| self.tensor_error(file, reason))
        })?;
        if self.has_pairs(spec, config) {
            pairs_to_halves(out, config.head_dim, width);
        }
        Ok(())
    }

    /// The type of one of the model's matrices if it is quantized, and rows of it are whole blocks.
    pub(crate) fn blocks(&self, layout: &[FileTensor], id: TensorId, spec: &TensorSpec) -> Option<BlockType> {
        let mut kinds = Vec::new();
        self.for_each_piece(layout, id, |_, _, kind, _, _| {
            kinds.push(kind);
            Ok(())
        })
        .ok()?;
        let kind = *kinds.first()?;
        let quantized = kind.block_elements() > 1 && spec.width().is_multiple_of(kind.block_elements());
        (quantized && kinds.iter().all(|other| *other == kind)).then_some(kind)
    }

    /// Reads a matrix of [`Checkpoint::blocks`] as it is.
    pub(crate) fn read_blocks(
        &self,
        layout: &[FileTensor],
        id: TensorId,
        spec: &TensorSpec,
        config: &Config,
        out: &mut [u8],
    ) -> Result<()> {
        let row_bytes = out.len() / spec.shape[0];
        self.for_each_piece(layout, id, |_, stored, _, row, rows| {
            let stored = &stored[row * row_bytes..(row + rows.len()) * row_bytes];
            out[rows.start * row_bytes..rows.end * row_bytes].copy_from_slice(stored);
            Ok(())
        })?;
        if self.has_pairs(spec, config) {
            pairs_to_halves(out, config.head_dim, row_bytes);
        }
        Ok(())
    }

    /// Calls `take(file tensor, its bytes, its type, first row in it, rows of the model's tensor)` for each part of a
    /// tensor, and drops its pages.
    fn for_each_piece(
        &self,
        layout: &[FileTensor],
        id: TensorId,
        mut take: impl FnMut(&FileTensor, &[u8], BlockType, usize, &Range<usize>) -> Result<()>,
    ) -> Result<()> {
        for file in layout.iter().filter(|file| file.pieces.iter().any(|piece| piece.tensor == id)) {
            let (tensor, kind) = self.checked(file)?;
            let mut row = 0;
            for piece in &file.pieces {
                if piece.tensor == id {
                    take(file, tensor.bytes, kind, row, &piece.rows)?;
                }
                row += piece.rows.len();
            }
            match &self.container {
                Container::HuggingFace(tensors) => tensors.drop_pages(&self.full_name(&file.name)),
                Container::Gguf(gguf) => gguf.drop_pages(&file.name),
            }
        }
        Ok(())
    }

    /// Whether rotated rows of this tensor are neighbours in the file.
    fn has_pairs(&self, spec: &TensorSpec, config: &Config) -> bool {
        let rotated = matches!(
            spec.role,
            Role::Block(_, Part::Query | Part::Key)
                | Role::Extra(_, Extra::Bias(Module::Query | Module::Key))
        );
        rotated && matches!(self.container, Container::Gguf(_)) && has_neighbouring_pairs(config.family)
    }

    fn full_name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        match &self.container {
            Container::HuggingFace(tensors) => tensors.tensor(&self.full_name(name)),
            Container::Gguf(gguf) => gguf.tensor(name),
        }
    }
}

/// The kernels' name of a stored type.
pub(crate) fn block_type(dtype: Dtype) -> Option<BlockType> {
    match dtype {
        Dtype::F32 => Some(BlockType::F32),
        Dtype::F16 => Some(BlockType::F16),
        Dtype::Bf16 => Some(BlockType::Bf16),
        Dtype::Q4_0 => Some(BlockType::Q4_0),
        Dtype::Q4_1 => Some(BlockType::Q4_1),
        Dtype::Q5_0 => Some(BlockType::Q5_0),
        Dtype::Q5_1 => Some(BlockType::Q5_1),
        Dtype::Q8_0 => Some(BlockType::Q8_0),
        Dtype::Q2K => Some(BlockType::Q2K),
        Dtype::Q3K => Some(BlockType::Q3K),
        Dtype::Q4K => Some(BlockType::Q4K),
        Dtype::Q5K => Some(BlockType::Q5K),
        Dtype::Q6K => Some(BlockType::Q6K),
        _ => None,
    }
}

/// [`to_f32`] for the `values` of a tensor that are wanted.
fn part_to_f32(
    kind: BlockType,
    bytes: &[u8],
    values: Range<usize>,
    out: &mut [f32],
) -> std::result::Result<(), String> {
    let (elements, block) = (kind.block_elements(), kind.block_bytes());
    let part = bytes.get(values.start / elements * block..values.end / elements * block);
    match part {
        Some(part) if values.start.is_multiple_of(elements) => to_f32(kind, part, out),
        _ => Err(format!("rows of {} do not begin at a block", kind.name())),
    }
}

/// Dequantizes in parallel; the error is a reason.
pub(crate) fn to_f32(kind: BlockType, bytes: &[u8], out: &mut [f32]) -> std::result::Result<(), String> {
    let (elements, block) = (kind.block_elements(), kind.block_bytes());
    if !out.len().is_multiple_of(elements) || bytes.len() != out.len() / elements * block {
        return Err(format!("{} bytes of {} do not hold {} values", bytes.len(), kind.name(), out.len()));
    }
    let failed = std::sync::Mutex::new(None);
    parallel_chunks(out, CHUNK, |task, out| {
        let start = task * CHUNK / elements * block;
        let bytes = &bytes[start..start + out.len() / elements * block];
        if let (Err(cause), Ok(mut failed)) = (dequantize(kind, bytes, out), failed.lock()) {
            *failed = Some(cause.to_string());
        }
    });
    match failed.into_inner() {
        Ok(Some(reason)) => Err(reason),
        _ => Ok(()),
    }
}

/// Rows 2i and 2i + 1 of every head become rows i and E/2 + i.
fn pairs_to_halves<T: Copy>(rows: &mut [T], head_dim: usize, width: usize) {
    for head in rows.chunks_exact_mut(head_dim * width) {
        let paired = head.to_vec();
        for pair in 0..head_dim / 2 {
            for half in 0..2 {
                let source = (2 * pair + half) * width;
                head[(half * head_dim / 2 + pair) * width..][..width]
                    .copy_from_slice(&paired[source..source + width]);
            }
        }
    }
}
