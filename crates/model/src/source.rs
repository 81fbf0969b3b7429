//! The tensors of a model file, whichever container has them: which there are, and their rows.
//!
//! What is in several parts (Meta's files) or scaled by groups (llama2.c) is put together here, row by row. What a
//! name means is not known here.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;

use danlu_formats::{
    ConsolidatedFolder, Container, Dtype, Gguf, JoinedTensor, Llama2c, Llama2cVersion, Tensor, TensorFolder,
    TensorInfo,
};
use danlu_kernels::blocks::BlockType;
use fs_err as fs;

use crate::bitsandbytes::{Layer, Quantized};
use crate::gptq::{Gptq, GptqLinear, PARTS};
use crate::meta::cut_along;
use crate::{Error, Result};

/// What `torch.compile` puts before every name.
const COMPILED: &str = "_orig_mod.";
const INDEX: &str = ".index.json";

/// An open file or folder.
pub(crate) enum Source {
    /// Hugging Face's two kinds of files, and single ones of them with whatever names.
    Folder {
        tensors: TensorFolder,
        /// Before every name in the file.
        prefix: &'static str,
        /// Layers that bitsandbytes quantized.
        quantized: Quantized,
        /// How its linear layers are quantized, if it is a folder of GPTQ.
        gptq: Option<Gptq>,
    },
    /// Meta's files, whose matrices lie in parts; the width that all parts of the embedding have together.
    Meta {
        tensors: ConsolidatedFolder,
        width: usize,
    },
    Llama2c(Llama2c),
    Gguf(Gguf),
}

impl Source {
    /// Opens what is at `path`, by its content.
    ///
    /// # Errors
    /// Nothing there, a file of another kind, a damaged one.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            let is_hugging_face = path.join("config.json").is_file();
            if !is_hugging_face && ConsolidatedFolder::is_one(path) {
                let tensors = ConsolidatedFolder::open(path)?;
                let dim = tensors.parameters().get("dim").and_then(serde_json::Value::as_u64);
                let width = usize::try_from(dim.unwrap_or(0)).unwrap_or(0);
                return Ok(Self::Meta { tensors, width });
            }
            let gptq = Gptq::read(path)?;
            let own_file = gptq.and_then(|gptq| gptq.own_file(path));
            let opened = match (TensorFolder::open_model(path), own_file) {
                (Err(danlu_formats::Error::Missing { .. }), Some(file)) => TensorFolder::open_model(file),
                (opened, _) => opened,
            };
            return match opened {
                Err(danlu_formats::Error::Missing { .. }) => Err(no_model(path)?),
                opened => Self::folder(opened?, path),
            };
        }
        if path.to_string_lossy().ends_with(INDEX) {
            return Self::folder(TensorFolder::open_model(path)?, path);
        }
        match Container::of(path)? {
            Some(Container::Gguf) => Ok(Self::Gguf(Gguf::open(path)?)),
            Some(Container::Llama2c) => Ok(Self::Llama2c(Llama2c::open(path)?)),
            Some(Container::Safetensors | Container::Pytorch) => {
                Self::folder(TensorFolder::open_model(path)?, path)
            }
            None => Err(Error::Message(format!(
                "`{}` is no model: expected safetensors, GGUF, a PyTorch file or one of llama2.c; it may be damaged or \
                 cut short",
                path.display()
            ))),
        }
    }

    /// `path` is the folder or the file.
    fn folder(tensors: TensorFolder, path: &Path) -> Result<Self> {
        let is_compiled = tensors.names().len() > 0 && tensors.names().all(|name| name.starts_with(COMPILED));
        let quantized = Quantized::of(&tensors, path)?;
        let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
        let gptq = Gptq::read(folder)?;
        Ok(Self::Folder { tensors, prefix: if is_compiled { COMPILED } else { "" }, quantized, gptq })
    }

    /// How it was quantized, if it is a folder of GPTQ.
    pub(crate) fn gptq(&self) -> Option<Gptq> {
        match self {
            Self::Folder { gptq, .. } => *gptq,
            _ => None,
        }
    }

    /// Whether a tensor is a part of the layer whose weight would be called `weight`, or a bias of zeros beside it.
    pub(crate) fn is_gptq_part(&self, name: &str, is_weight: impl Fn(&str) -> bool) -> bool {
        let stem = PARTS.iter().find_map(|part| name.strip_suffix(part));
        let bias =
            name.strip_suffix(".bias").filter(|stem| self.tensor(&format!("{stem}{}", PARTS[0])).is_some());
        let bias =
            bias.filter(|_| self.tensor(name).is_some_and(|bias| bias.bytes.iter().all(|byte| *byte == 0)));
        self.gptq().is_some() && stem.or(bias).is_some_and(|stem| is_weight(&format!("{stem}.weight")))
    }

    /// What a user calls the container.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Folder { tensors, prefix, quantized, .. } => {
                let kind = match tensors {
                    TensorFolder::Safetensors(_) => "safetensors",
                    TensorFolder::Pytorch(_) => "PyTorch",
                };
                let files = match tensors.files().len() {
                    1 => "1 file".to_owned(),
                    count => format!("{count} files"),
                };
                let compiled = if prefix.is_empty() { "" } else { ", saved from torch.compile" };
                let quantized = quantized.name().map(|name| format!(", {name}")).unwrap_or_default();
                format!("{kind}, {files}{compiled}{quantized}")
            }
            Self::Meta { tensors, .. } => format!("Meta's consolidated files, {}", tensors.shards().len()),
            Self::Llama2c(file) => match file.config().version {
                Llama2cVersion::V0 => "llama2.c version 0".into(),
                Llama2cVersion::V1 => "llama2.c version 1".into(),
                Llama2cVersion::V2 { group_size } => {
                    format!("llama2.c version 2 (int8 in groups of {group_size})")
                }
            },
            Self::Gguf(gguf) => format!("GGUF version {}", gguf.version()),
        }
    }

    /// Names as the file has them, without the prefix of `torch.compile` and without what only belongs to a quantized
    /// weight.
    pub(crate) fn names(&self) -> Vec<&str> {
        let names = self.tensors().into_iter().map(|info| info.name.as_str());
        let is_beside = |name: &str| match self {
            Self::Folder { quantized, .. } => quantized.is_beside(name),
            _ => false,
        };
        names.filter(|name| !is_beside(name)).map(|name| self.without_prefix(name)).collect()
    }

    /// What a tensor is that bitsandbytes quantized or that belongs to one, and whether it is the weight.
    pub(crate) fn scheme_of(&self, name: &str) -> Option<(&'static str, bool)> {
        let Self::Folder { quantized, .. } = self else { return None };
        quantized.scheme_of(name)
    }

    /// How its matrices are quantized in a way that [`Stored::kind`] does not tell.
    pub(crate) fn quantization(&self) -> Option<String> {
        match self {
            Self::Folder { quantized, gptq, .. } => {
                quantized.name().or(gptq.map(|gptq| format!("GPTQ, {} bits", gptq.bits)))
            }
            Self::Llama2c(file) => match file.config().version {
                Llama2cVersion::V2 { .. } => Some(self.name()),
                _ => None,
            },
            _ => None,
        }
    }

    /// What each tensor of the file is, of those in parts the first part.
    pub(crate) fn tensors(&self) -> Vec<&TensorInfo> {
        match self {
            Self::Folder { tensors, .. } => tensors.tensors().collect(),
            Self::Meta { tensors, .. } => tensors.shards().iter().flat_map(|shard| shard.tensors()).collect(),
            Self::Llama2c(file) => file.tensors().collect(),
            Self::Gguf(gguf) => gguf.tensors().collect(),
        }
    }

    fn without_prefix<'a>(&self, name: &'a str) -> &'a str {
        match self {
            Self::Folder { prefix, .. } => name.strip_prefix(prefix).unwrap_or(name),
            _ => name,
        }
    }

    /// The tensor as one piece of the file, if it is one.
    pub(crate) fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        match self {
            Self::Folder { tensors, prefix, .. } => match prefix.is_empty() {
                true => tensors.tensor(name),
                false => tensors.tensor(&format!("{prefix}{name}")),
            },
            Self::Meta { tensors, .. } => match tensors.parts(name)[..] {
                [whole] => Some(whole),
                _ => None,
            },
            Self::Llama2c(file) => file.tensor(name).filter(|tensor| tensor.info.dtype == Dtype::F32),
            Self::Gguf(gguf) => gguf.tensor(name),
        }
    }

    /// The tensor with its parts together; `None` for an unknown name and for parts that do not fit together.
    pub(crate) fn get(&self, name: &str) -> Option<Stored<'_>> {
        match self {
            Self::Meta { tensors, width } if tensors.shards().len() > 1 => {
                let parts = tensors.parts(name);
                let is_whole_width = parts.first().is_some_and(|part| part.info.shape.get(1) == Some(width));
                match cut_along(name, usize::from(!is_whole_width)) {
                    None => Some(Stored::Whole(*parts.first()?)),
                    Some(dimension) => {
                        let info = JoinedTensor::new(parts.clone(), dimension)?.info().clone();
                        Some(Stored::Parts { info, parts, dimension })
                    }
                }
            }
            Self::Llama2c(file) => {
                let tensor = file.tensor(name)?;
                Some(match tensor.info.dtype {
                    Dtype::I8 => Stored::Groups { file, info: tensor.info },
                    _ => Stored::Whole(tensor),
                })
            }
            Self::Folder { tensors, quantized, gptq, .. } => {
                if let Some(layer) = quantized.layer(name) {
                    return Some(Stored::Quantized { tensors, layer });
                }
                let linear = || GptqLinear::find((*gptq)?, name, |part| self.tensor(part));
                self.tensor(name).map(Stored::Whole).or_else(|| linear().map(Stored::Gptq))
            }
            _ => self.tensor(name).map(Stored::Whole),
        }
    }

    /// Says that the tensor's bytes are not needed soon.
    pub(crate) fn drop_pages(&self, name: &str) {
        match self {
            Self::Folder { tensors, prefix, quantized, gptq } => match quantized.layer(name) {
                Some(layer) => layer.parts().into_iter().for_each(|part| tensors.drop_pages(part)),
                None => {
                    tensors.drop_pages(&format!("{prefix}{name}"));
                    if let (Some(_), Some(stem)) = (gptq, name.strip_suffix(".weight")) {
                        PARTS.iter().for_each(|part| tensors.drop_pages(&format!("{prefix}{stem}{part}")));
                    }
                }
            },
            Self::Meta { tensors, .. } => tensors.drop_pages(name),
            Self::Llama2c(file) => file.drop_pages(name),
            Self::Gguf(gguf) => gguf.drop_pages(name),
        }
    }
}

/// What to say of a folder without a model: files in it may be models by themselves.
fn no_model(folder: &Path) -> Result<Error> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_model = path.extension().is_some_and(|end| end == "gguf" || end == "pth" || end == "bin");
        if is_model && path.is_file() {
            files.push(path.display().to_string());
        }
    }
    files.sort();
    let hint = match files.first() {
        _ if folder.join("adapter_config.json").is_file() => {
            "; it is an adapter, which goes beside its model, or into it by `danlu merge`".into()
        }
        None => String::new(),
        Some(first) => format!("; give the file itself: `{first}`"),
    };
    Ok(Error::Message(format!(
        "`{}` holds no model: no `model.safetensors`, `pytorch_model.bin`, index of either, or \
         `consolidated.00.pth`{hint}",
        folder.display()
    )))
}

/// A tensor that can be read by rows.
pub(crate) enum Stored<'a> {
    Whole(Tensor<'a>),
    Parts {
        info: TensorInfo,
        parts: Vec<Tensor<'a>>,
        dimension: usize,
    },
    /// Signed bytes with a scale for each group.
    Groups {
        file: &'a Llama2c,
        info: &'a TensorInfo,
    },
    /// As bitsandbytes has it.
    Quantized {
        tensors: &'a TensorFolder,
        layer: &'a Layer,
    },
    /// Quantized in groups of columns; read as f32.
    Gptq(GptqLinear<'a>),
}

impl Stored<'_> {
    pub(crate) fn shape(&self) -> &[usize] {
        match self {
            Self::Whole(tensor) => &tensor.info.shape,
            Self::Parts { info, .. } => &info.shape,
            Self::Groups { info, .. } => &info.shape,
            Self::Quantized { layer, .. } => layer.shape(),
            Self::Gptq(linear) => linear.shape(),
        }
    }

    /// The type of what [`Stored::rows`] gives; the error is the type in the file.
    pub(crate) fn kind(&self) -> std::result::Result<BlockType, Dtype> {
        let dtype = match self {
            Self::Whole(tensor) => tensor.info.dtype,
            Self::Parts { info, .. } => info.dtype,
            Self::Groups { .. } | Self::Gptq(_) => Dtype::F32,
            Self::Quantized { layer, .. } => return Ok(layer.kind()),
        };
        block_type(dtype).ok_or(dtype)
    }

    /// The bytes of `rows`; rows of a vector are its elements.
    ///
    /// # Errors
    /// Rows that the tensor has not, or that do not begin and end at a block; a damaged scale.
    pub(crate) fn rows(&self, rows: Range<usize>) -> Result<Cow<'_, [u8]>, String> {
        let width: usize = self.shape().iter().skip(1).product();
        match self {
            Self::Whole(tensor) => part_of(tensor, rows.start * width..rows.end * width).map(Cow::Borrowed),
            Self::Parts { parts, dimension: 0, .. } => {
                let mut bytes = Vec::new();
                let mut first = 0;
                for part in parts {
                    let count = part.info.shape.first().copied().unwrap_or(0);
                    let inside = rows.start.max(first)..rows.end.min(first + count);
                    if !inside.is_empty() {
                        let values = (inside.start - first) * width..(inside.end - first) * width;
                        bytes.extend_from_slice(part_of(part, values)?);
                    }
                    first += count;
                }
                Ok(Cow::Owned(bytes))
            }
            Self::Parts { parts, .. } => {
                let mut bytes = Vec::new();
                for row in rows {
                    for part in parts {
                        let width = part.info.shape.get(1).copied().unwrap_or(1);
                        bytes.extend_from_slice(part_of(part, row * width..(row + 1) * width)?);
                    }
                }
                Ok(Cow::Owned(bytes))
            }
            Self::Gptq(linear) => Ok(Cow::Owned(linear.values(rows))),
            Self::Groups { file, info } => {
                let mut values = vec![0.0; rows.len() * width];
                file.read_f32(&info.name, rows.start * width, &mut values)
                    .map_err(|error| error.to_string())?;
                Ok(Cow::Owned(values.iter().flat_map(|value| value.to_le_bytes()).collect()))
            }
            Self::Quantized { tensors, layer } => layer.rows(tensors, rows).map(Cow::Owned),
        }
    }
}

/// The bytes of these elements.
fn part_of<'a>(tensor: &Tensor<'a>, elements: Range<usize>) -> Result<&'a [u8], String> {
    let (block, bytes) = (tensor.info.dtype.block_elements(), tensor.info.dtype.block_bytes());
    let part = tensor.bytes.get(elements.start / block * bytes..elements.end / block * bytes);
    match part {
        Some(part) if elements.start.is_multiple_of(block) && elements.end.is_multiple_of(block) => Ok(part),
        _ => Err(format!("rows of {} do not begin and end at a block", tensor.info.dtype)),
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

/// The files' name of a type.
pub(crate) fn dtype_of(kind: BlockType) -> Dtype {
    match kind {
        BlockType::F32 => Dtype::F32,
        BlockType::F16 => Dtype::F16,
        BlockType::Bf16 => Dtype::Bf16,
        BlockType::Q4_0 => Dtype::Q4_0,
        BlockType::Q4_1 => Dtype::Q4_1,
        BlockType::Q5_0 => Dtype::Q5_0,
        BlockType::Q5_1 => Dtype::Q5_1,
        BlockType::Q8_0 => Dtype::Q8_0,
        BlockType::Q2K => Dtype::Q2K,
        BlockType::Q3K => Dtype::Q3K,
        BlockType::Q4K => Dtype::Q4K,
        BlockType::Q5K => Dtype::Q5K,
        BlockType::Q6K => Dtype::Q6K,
        // bitsandbytes packs two elements in a byte.
        BlockType::Nf4 => Dtype::U8,
    }
}
