//! Opening a model: container by content, tensors one by one, strictly.

use std::ops::Range;
use std::path::{Path, PathBuf};

use danlu_formats::Container;
use danlu_kernels::blocks::BlockType;
use danlu_kernels::blocks::nf4::double_quantize;
use danlu_kernels::int8::can_be_repacked;
use danlu_kernels::unit_rows::unit_rows_in_place;
use danlu_kernels::{Buffer, Precision};
use danlu_tokenizer::Tokenizer;

use crate::checkpoint::{Checkpoint, Contents, is_quantizable};
use crate::constraint::Vocabulary;
use crate::growth::GrowthOptions;
use crate::model::Stored;
use crate::names::{Role, TensorId, TensorSpec};
use crate::{Error, Model, Parameters, Result};

/// Values that are read as f32 at once on their way to another type.
const STRETCH: usize = 1 << 22;

/// How the weights rest in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// As they are computed with: bf16 under [`Precision::Bf16`], f32 otherwise. Nothing is trained.
    Frozen,
    /// The same, but quantized matrices as the file has them: a fraction of the memory for a little time.
    Stored,
    /// As [`Rest::Frozen`], but quantized matrices that [`Model::repack`] can use as the file has them.
    ToRepack,
    /// As [`Rest::Frozen`], but the matrices of the blocks quantized to this type while they are read, where rows are
    /// whole blocks of it; embedding, head and vectors keep their precision. NF4 goes through its double quantization.
    Quantized(BlockType),
    /// All in the flat f32 memory of trained parameters.
    Trained,
}

impl Rest {
    /// How a model rests that is quantized to so many bits while it is loaded: 4 is NF4, 8 is Q8_0.
    pub fn of_bits(bits: u64) -> Option<Self> {
        match bits {
            4 => Some(Self::Quantized(BlockType::Nf4)),
            8 => Some(Self::Quantized(BlockType::Q8_0)),
            _ => None,
        }
    }
}

/// An opened model and what came with it.
pub struct Opened {
    /// The model.
    pub model: Model,
    /// Its vocabulary, if the folder or file has one.
    pub tokenizer: Option<Tokenizer>,
    /// Where it was.
    pub path: PathBuf,
}

impl Opened {
    /// The vocabulary, or a sentence that asks for one.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        let message = || {
            Error::Message(format!(
                "`{}` has no tokenizer; name one with `--tokenizer`, or put its tokenizer.json or tokenizer.model {}",
                self.path.display(),
                if self.path.is_dir() { "into it" } else { "beside it" }
            ))
        };
        self.tokenizer.as_ref().ok_or_else(message)
    }

    /// The bytes of every token for constrained output; none without a tokenizer. Tokens that end an answer, and special ones, have
    /// none.
    pub fn vocabulary(&self) -> Option<Vocabulary> {
        let tokenizer = self.tokenizer.as_ref()?;
        let stop_ids = self.stop_ids();
        let bytes = |id: u32| match tokenizer.is_special(id) || stop_ids.contains(&id) {
            true => Vec::new(),
            false => tokenizer.token_bytes(id).unwrap_or_default(),
        };
        Some(Vocabulary::new((0..self.model.config().vocab_size as u32).map(bytes)))
    }

    /// Every token that ends an answer: the configuration's and the vocabulary's.
    pub fn stop_ids(&self) -> Vec<u32> {
        let mut ids = self.model.config().eos_token_ids.clone();
        for id in self.tokenizer.iter().flat_map(Tokenizer::end_of_turn_ids) {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        ids
    }
}

/// Opens a model, whatever it came as: a Hugging Face folder, Meta's folder, a GGUF file, one of llama2.c, or a single
/// file of PyTorch or safetensors with its configuration beside it or in its shapes. What it is, its content tells.
///
/// # Errors
/// A file that is missing or damaged, a configuration that this program cannot run, a missing, left-over or misshapen
/// tensor, a vocabulary larger than the embedding; each named.
pub fn open(path: &Path, precision: Precision, rest: Rest) -> Result<Opened> {
    open_with(path, precision, rest, true, None)
}

/// As [`open`], or where no weights are read as [`open_shape`], with a larger vocabulary than the model's own: rows are
/// added for the tokens that have none.
///
/// # Errors
/// As [`open`], and a vocabulary that is no extension of the model's.
pub fn open_grown(
    path: &Path,
    precision: Precision,
    rest: Rest,
    read_weights: bool,
    tokenizer: &Tokenizer,
    growth: GrowthOptions,
) -> Result<Opened> {
    open_with(path, precision, rest, read_weights, Some((tokenizer, growth)))
}

/// As [`open`], with every weight zero: for plans, which need shapes only. The weights take no memory, because their
/// pages are never touched.
pub fn open_shape(path: &Path, precision: Precision, rest: Rest) -> Result<Opened> {
    open_with(path, precision, rest, false, None)
}

/// How the matrices of the model at `path` are quantized, if they are.
///
/// # Errors
/// As [`open`], of files and configuration.
pub fn quantization(path: &Path) -> Result<Option<String>> {
    let checkpoint = checkpoint(path)?;
    let Contents { specs, layout, .. } = checkpoint.contents()?;
    Ok(checkpoint.quantization(&layout, &specs))
}

/// The vocabulary of a folder, a `tokenizer.json` or `tokenizer.model`, tiktoken's ranks, llama2.c's `tokenizer.bin`, or a
/// GGUF file, which may hold nothing else.
///
/// # Errors
/// A file that is missing or damaged, or holds no vocabulary.
pub fn open_tokenizer(path: &Path) -> Result<Tokenizer> {
    if !path.exists() {
        let expected = "a folder with tokenizer.json or tokenizer.model, one of these files, tiktoken's ranks, \
                        llama2.c's tokenizer.bin, or a GGUF file";
        return Err(Error::Message(format!("`{}` does not exist; expected {expected}", path.display())));
    }
    if !path.is_file() || Container::of(path)? != Some(Container::Gguf) {
        return Ok(Tokenizer::open(path)?);
    }
    let tokenizer = Checkpoint::open(path)?.tokenizer()?;
    tokenizer.ok_or_else(|| Error::Message(format!("`{}` holds no tokenizer", path.display())))
}

/// Refuses a vocabulary that does not fit an embedding of `rows` rows: a text could become ids that have none.
///
/// Special tokens may be more than the rows: ChatGLM2's tokenizer, for which Luban's models have a row too few, or a
/// padding token that the model was never grown for. Only a prompt or template that names such a token becomes its id,
/// which the model then refuses.
///
/// # Errors
/// [`Error::VocabularyMismatch`], which names `path`.
pub fn check_vocabulary(tokenizer: &Tokenizer, rows: usize, path: &Path) -> Result<()> {
    let beyond = rows.min(u32::MAX as usize) as u32..tokenizer.vocabulary_size() as u32;
    match beyond.rev().find(|&id| tokenizer.token_text(id).is_some() && !tokenizer.is_special(id)) {
        None => Ok(()),
        Some(highest) => {
            Err(Error::VocabularyMismatch { path: path.into(), highest: highest as usize, rows })
        }
    }
}

fn open_with(
    path: &Path,
    precision: Precision,
    rest: Rest,
    read_weights: bool,
    growth: Option<(&Tokenizer, GrowthOptions)>,
) -> Result<Opened> {
    let mut checkpoint = checkpoint(path)?;
    if let Some((tokenizer, options)) = growth {
        checkpoint.grow(tokenizer, options)?;
    }
    let Contents { config, specs, layout } = checkpoint.contents()?;
    let tokenizer = checkpoint.tokenizer()?;
    if let Some(tokenizer) = &tokenizer {
        check_vocabulary(tokenizer, config.vocab_size, path)?;
    }
    let model = match rest {
        Rest::Frozen | Rest::Stored | Rest::ToRepack | Rest::Quantized(_) => {
            if let Rest::Quantized(kind) = rest {
                checkpoint.check_can_be_quantized(&layout, &specs, kind)?;
            }
            let read = |(id, spec): (TensorId, &TensorSpec)| {
                let is_unit_head = config.normalized_head && spec.role == Role::Head;
                let is_kept = |kind: &BlockType| match rest {
                    Rest::Stored => true,
                    Rest::ToRepack => can_be_repacked(*kind, spec.width()),
                    _ => false,
                };
                if !is_unit_head && let Some(kind) = checkpoint.blocks(&layout, id, spec).filter(is_kept) {
                    let mut bytes =
                        Buffer::zeros(spec.elements() / kind.block_elements() * kind.block_bytes());
                    if read_weights {
                        let rows = 0..spec.shape[0];
                        checkpoint.read_stored(&layout, id, spec, &config, rows, bytes.host_mut())?;
                        checkpoint.drop_pages(&layout, id);
                    }
                    return Ok(Stored::Blocks(kind, bytes));
                }
                if rest == Rest::Stored
                    && let Some(grouped) = checkpoint.grouped(&layout, id, spec, &config, read_weights)?
                {
                    checkpoint.drop_pages(&layout, id);
                    return Ok(Stored::Grouped(grouped));
                }
                let rest_kind = match rest {
                    Rest::Quantized(kind) if is_quantizable(spec, kind) => Some(kind),
                    _ => None,
                };
                let mut stored = Stored::zeros(spec, precision, rest_kind);
                if !read_weights {
                    return Ok(stored);
                }
                let read = |rows: Range<usize>, values: &mut Buffer<f32>| -> Result<()> {
                    let elements = rows.len() * spec.width();
                    checkpoint.read(&layout, id, spec, &config, rows, &mut values.host_mut()[..elements])?;
                    if is_unit_head {
                        unit_rows_in_place(values.first_mut(elements), spec.width());
                    }
                    Ok(())
                };
                if let Stored::F32(values) = &mut stored {
                    read(0..spec.shape[0], values)?;
                } else {
                    let at_once = (STRETCH / spec.width()).max(1).next_multiple_of(config.head_dim);
                    let mut scratch = Buffer::zeros(at_once.min(spec.shape[0]) * spec.width());
                    for first in (0..spec.shape[0]).step_by(at_once) {
                        let rows = first..spec.shape[0].min(first + at_once);
                        read(rows.clone(), &mut scratch)?;
                        stored.put(spec, rows, &scratch).map_err(|reason| Error::Tensor {
                            path: path.into(),
                            name: spec.name.clone(),
                            reason,
                        })?;
                    }
                }
                checkpoint.drop_pages(&layout, id);
                if let Stored::Blocks(BlockType::Nf4, bytes) = &mut stored {
                    double_quantize(bytes.host_mut());
                }
                Ok(stored)
            };
            let stored = specs.iter().enumerate().map(read).collect::<Result<Vec<_>>>()?;
            Model::from_parts(config, precision, stored, Parameters::new([]))
        }
        Rest::Trained => {
            let mut model = Model::zeros(config.clone(), precision);
            for (index, spec) in specs.iter().enumerate().filter(|_| read_weights) {
                let range = model.parameters.list()[index].range.clone();
                let values = &mut model.parameters.values_mut().host_mut()[range];
                checkpoint.read(&layout, index, spec, &config, 0..spec.shape[0], values)?;
                checkpoint.drop_pages(&layout, index);
            }
            model
        }
    };
    Ok(Opened { model, tokenizer, path: path.into() })
}

/// The files of a model that is there.
fn checkpoint(path: &Path) -> Result<Checkpoint> {
    if !path.exists() {
        let path = path.display();
        return Err(Error::Message(format!("`{path}` does not exist; expected a model folder or file")));
    }
    Checkpoint::open(path)
}

/// Calls `each` with the index and values of those `tensors` of the model at `path` that have the shape of `specs` there: not
/// of tables that have grown since.
pub(crate) fn exact_values(
    path: &Path,
    tensors: &[TensorId],
    specs: &[TensorSpec],
    mut each: impl FnMut(usize, &[f32]),
) -> Result<()> {
    let checkpoint = Checkpoint::open(path)?;
    let Contents { config, specs: stored, layout } = checkpoint.contents()?;
    for (index, &id) in tensors.iter().enumerate() {
        let Some(spec) = stored.get(id).filter(|spec| spec.shape == specs[id].shape) else { continue };
        let mut values = vec![0.0; spec.elements()];
        checkpoint.read(&layout, id, spec, &config, 0..spec.shape[0], &mut values)?;
        checkpoint.drop_pages(&layout, id);
        each(index, &values);
    }
    Ok(())
}
