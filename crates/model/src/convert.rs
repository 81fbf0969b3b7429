//! From one container into another: tensor by tensor, a stretch of rows at a time.
//!
//! Hugging Face folders are written in the family's own form, those of Meta-like families as Llamas, because that is
//! what other programs read. Nothing is merged or trained here.

mod gguf;
pub(crate) mod gptq;
mod meta;
mod nf4;

use std::ops::{ControlFlow, Range};
use std::path::Path;

use danlu_formats::{
    AtomicFolder, ImportanceMatrix, TensorInfo, TensorSink, WriteOptions, write_pytorch, write_safetensors,
};
use danlu_kernels::blocks::{BlockType, quantize_in_parallel};
use danlu_kernels::rope::RopeLayout;
use danlu_tokenizer::Tokenizer;
use fs_err as fs;
use serde_json::Map;

use crate::checkpoint::{Checkpoint, Contents, halves_to_pairs, is_rotated, pairs_to_halves};
use crate::families::{GGUF_NAMES, Names};
use crate::growth::GrowthOptions;
use crate::layout::{FileTensor, file_tensors};
use crate::mixture::Mixture;
use crate::names::{Role, TensorId, TensorSpec};
use crate::open::check_vocabulary;
use crate::save::write_description;
use crate::source::{Source, dtype_of};
use crate::{Config, Error, Family, Result};

/// Values that are read, turned and written at once, about.
const CHUNK: usize = 1 << 22;
/// Files beside a model's weights that are copied as they are where the tokenizer is not one that is read here.
pub(crate) const COMPANIONS: [&str; 8] = [
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
];

/// What a model can be written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Hugging Face folder with safetensors.
    Safetensors,
    /// Hugging Face folder with PyTorch files.
    Bin,
    /// Hugging Face folder with safetensors whose linear layers are bitsandbytes' NF4, of whatever type the rest is.
    Nf4,
    /// Meta's names: one `.pth` file, or a folder with `consolidated.00.pth` and `params.json`.
    Pth,
    /// Meta's folder in so many `consolidated.NN.pth`, of each matrix a part in each.
    PthParts(usize),
    /// GGUF file.
    Gguf,
    /// File of llama2.c: version 0, or with `q8_0` version 2.
    Llama2c,
}

/// How to convert.
pub struct ConvertOptions {
    /// What to write.
    pub form: Form,
    /// The type of the weights; by default as they are, and f32 (in GGUF f16) where they are quantized.
    pub mixture: Option<Mixture>,
    /// A vocabulary in the place of the model's own.
    pub tokenizer: Option<Tokenizer>,
    /// By what errors are weighed where tensors are quantized.
    pub importance: Option<ImportanceMatrix>,
}

/// What was written.
pub struct Converted {
    /// What the model was.
    pub source: String,
    /// Its configuration as it was written.
    pub config: Config,
    /// Types with how many tensors and bytes have them, in the order of their first tensors.
    pub types: Vec<TypeShare>,
    /// What the user should know.
    pub notes: Vec<String>,
    /// The vocabulary that was written or copied, if there is one that is read here.
    pub tokenizer: Option<Tokenizer>,
}

/// How much of a file is of one type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeShare {
    /// `Q4_K`.
    pub name: &'static str,
    /// Number of tensors.
    pub tensors: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Adds tensors to the shares.
pub(crate) fn add_share(shares: &mut Vec<TypeShare>, name: &'static str, tensors: usize, bytes: u64) {
    match shares.iter_mut().find(|share| share.name == name) {
        Some(share) => {
            share.tensors += tensors;
            share.bytes += bytes;
        }
        None => shares.push(TypeShare { name, tensors, bytes }),
    }
}

/// Writes the model at `input` to `output`, which appears when it is complete.
///
/// `progress(values done, values in all)` is called now and then and may stop the work, with [`Error::Cancelled`].
///
/// # Errors
/// A model that cannot be read, that the form cannot hold, or values that its type cannot; an output that cannot be
/// written.
pub fn convert(
    input: &Path,
    output: &Path,
    options: ConvertOptions,
    progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<Converted> {
    convert_grown(input, output, options, None, progress)
}

/// As [`convert`]; with `growth`, rows are added for the tokens of `options.tokenizer` that have none.
///
/// # Errors
/// As [`convert`], and a vocabulary that is no extension of the model's.
pub fn convert_grown(
    input: &Path,
    output: &Path,
    options: ConvertOptions,
    growth: Option<GrowthOptions>,
    progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<Converted> {
    let Input { checkpoint, contents, tokenizer } = Input::open(input, options.tokenizer, growth)?;
    let mut work = Work::new(&checkpoint, &contents, contents.elements(), progress);
    let written = match options.form {
        Form::Safetensors | Form::Bin => {
            work.folder(output, options.form, options.mixture, tokenizer.as_ref())?
        }
        Form::Nf4 => work.nf4(output, tokenizer.as_ref())?,
        Form::Pth if output.extension().is_some_and(|end| end == "pth") => {
            work.pth(output, options.mixture)?
        }
        Form::Pth => work.pth_parts(output, 1, options.mixture, tokenizer.as_ref())?,
        Form::PthParts(parts) => work.pth_parts(output, parts, options.mixture, tokenizer.as_ref())?,
        Form::Gguf => {
            work.importance = options.importance.as_ref();
            work.gguf(output, options.mixture, tokenizer.as_ref())?
        }
        Form::Llama2c => work.llama2c(output, options.mixture)?,
    };
    let (types, notes) = (work.types, work.notes);
    Ok(Converted { source: checkpoint.source().name(), config: written, types, notes, tokenizer })
}

/// A model to convert.
struct Input {
    checkpoint: Checkpoint,
    contents: Contents,
    /// Its own vocabulary, or the one in its place.
    tokenizer: Option<Tokenizer>,
}

impl Input {
    fn open(path: &Path, tokenizer: Option<Tokenizer>, growth: Option<GrowthOptions>) -> Result<Self> {
        if !path.exists() {
            return Err(Error::Message(format!(
                "`{}` does not exist; expected a model folder or file",
                path.display()
            )));
        }
        let mut checkpoint = Checkpoint::open(path)?;
        if let (Some(tokenizer), Some(growth)) = (&tokenizer, growth) {
            checkpoint.grow(tokenizer, growth)?;
        }
        let contents = checkpoint.contents()?;
        let tokenizer = match tokenizer {
            Some(tokenizer) => Some(tokenizer),
            None => checkpoint.tokenizer()?,
        };
        if let Some(tokenizer) = &tokenizer {
            check_vocabulary(tokenizer, contents.config.vocab_size, path)?;
        }
        Ok(Self { checkpoint, contents, tokenizer })
    }
}

struct Work<'a> {
    checkpoint: &'a Checkpoint,
    config: &'a Config,
    specs: &'a [TensorSpec],
    layout: &'a [FileTensor],
    /// Whether rotated rows are to be neighbours in what is written.
    neighbours: bool,
    /// Whether the head is to have rows of length one in what is written.
    unit_head: bool,
    importance: Option<&'a ImportanceMatrix>,
    progress: &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    done: u64,
    total: u64,
    types: Vec<TypeShare>,
    notes: Vec<String>,
}

impl<'a> Work<'a> {
    /// Work of `total` steps, about a value each.
    fn new(
        checkpoint: &'a Checkpoint,
        contents: &'a Contents,
        total: u64,
        progress: &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Self {
        Self {
            checkpoint,
            config: &contents.config,
            specs: &contents.specs,
            layout: &contents.layout,
            neighbours: false,
            unit_head: false,
            importance: None,
            progress,
            done: 0,
            total,
            types: Vec::new(),
            notes: Vec::new(),
        }
    }
}

impl Work<'_> {
    fn folder(
        &mut self,
        output: &Path,
        form: Form,
        mixture: Option<Mixture>,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<Config> {
        let config = self.hugging_face_config();
        let (files, infos) = self.plain_tensors(config.family.names(), mixture)?;
        let folder = AtomicFolder::create(output)?;
        let give = |work: &mut Self, place: usize, sink: &mut TensorSink<'_>| {
            work.give(&files[place], &infos[place], sink)
        };
        if form == Form::Safetensors {
            let options = WriteOptions::default();
            write_safetensors(folder.path(), &options, &infos, |place, sink| give(self, place, sink))?;
        } else {
            let options = WriteOptions { base_name: "pytorch_model".into(), ..WriteOptions::default() };
            write_pytorch(folder.path(), &options, &infos, &[], |place, sink| give(self, place, sink))?;
        }
        write_description(&config, self.most_frequent(), folder.path())?;
        self.companions(folder.path(), tokenizer, config.family == self.config.family)?;
        folder.commit()?;
        Ok(config)
    }

    /// The configuration of a Hugging Face folder; rotated rows lie from now on as such folders have them.
    fn hugging_face_config(&mut self) -> Config {
        let config = match self.config.family {
            Family::BabyLlama2 | Family::MiniMindV1 => Config {
                family: Family::Llama,
                rope_layout: RopeLayout::HalfSplit,
                other_fields: Map::new(),
                ..self.config.clone()
            },
            _ => self.config.clone(),
        };
        self.neighbours = config.rope_layout == RopeLayout::Interleaved;
        config
    }

    /// The tokenizer's files and, in the folder of a family that transformers does not have, its code.
    fn companions(&mut self, folder: &Path, tokenizer: Option<&Tokenizer>, same_family: bool) -> Result<()> {
        if let Some(tokenizer) = tokenizer {
            tokenizer.save(folder)?;
        }
        if !matches!(self.checkpoint.source(), Source::Folder { .. } | Source::Meta { .. }) {
            return Ok(());
        }
        let is_folder = self.checkpoint.path().is_dir();
        for entry in
            fs::read_dir(self.checkpoint.path()).into_iter().flatten().flatten().filter(|_| is_folder)
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            let wanted = (tokenizer.is_none() && COMPANIONS.contains(&name.as_str()))
                || (same_family && (name.ends_with(".py") || name == "generation_config.json"));
            if wanted && entry.path().is_file() {
                fs::copy(entry.path(), folder.join(&name))?;
            }
        }
        Ok(())
    }

    /// The tensors of a form without block types: each of the type that is wanted, or of its own, or of f32.
    fn plain_tensors(
        &self,
        names: &Names,
        mixture: Option<Mixture>,
    ) -> Result<(Vec<FileTensor>, Vec<TensorInfo>)> {
        let wanted = mixture.map(Mixture::as_plain).transpose()?;
        let files = file_tensors(self.config, self.specs, names);
        let kind = |file: &FileTensor| {
            let mut own = file.pieces.iter().map(|piece| self.checkpoint.kind(self.layout, piece.tensor));
            let first = own.next().flatten().filter(|kind| kind.block_elements() == 1)?;
            own.all(|kind| kind == Some(first)).then_some(first)
        };
        let info = |file: &FileTensor| {
            let kind = wanted.or_else(|| kind(file)).unwrap_or(BlockType::F32);
            TensorInfo { name: file.name.clone(), dtype: dtype_of(kind), shape: file.shape.clone() }
        };
        let infos = files.iter().map(info).collect();
        Ok((files, infos))
    }

    /// PyTorch's name of the plain type that most bytes have.
    fn most_frequent(&self) -> &'static str {
        let is_plain = |share: &&TypeShare| ["F32", "F16", "BF16"].contains(&share.name);
        match self.types.iter().filter(is_plain).max_by_key(|share| share.bytes).map(|share| share.name) {
            Some("F16") => "float16",
            Some("BF16") => "bfloat16",
            _ => "float32",
        }
    }

    /// Writes one tensor of the output.
    fn give(&mut self, file: &FileTensor, info: &TensorInfo, sink: &mut TensorSink<'_>) -> Result<()> {
        let kind = crate::source::block_type(info.dtype).unwrap_or(BlockType::F32);
        for piece in &file.pieces {
            self.piece(piece.tensor, piece.rows.clone(), kind, &mut |bytes| Ok(sink.write(bytes)?))?;
        }
        add_share(&mut self.types, info.dtype.name(), 1, info.byte_length().unwrap_or(0) as u64);
        Ok(())
    }

    /// Gives `rows` of one of the model's tensors as blocks of `kind`.
    fn piece(
        &mut self,
        id: TensorId,
        rows: Range<usize>,
        kind: BlockType,
        take: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let spec = &self.specs[id];
        let width = spec.width();
        let row_bytes = width / kind.block_elements() * kind.block_bytes();
        let is_same = self.checkpoint.kind(self.layout, id) == Some(kind)
            && width.is_multiple_of(kind.block_elements());
        let mut bytes = Vec::new();
        if is_same && !(self.unit_head && spec.role == Role::Head) {
            for part in self.stretches(id, rows) {
                bytes.resize(part.len() * row_bytes, 0);
                self.checkpoint.read_stored(self.layout, id, spec, self.config, part.clone(), &mut bytes)?;
                self.turn(spec, &mut bytes, row_bytes);
                take(&bytes)?;
                self.advance(part.len() * width)?;
            }
            self.checkpoint.drop_pages(self.layout, id);
            return Ok(());
        }
        let path = self.checkpoint.path();
        let importance = self.importance_of(spec)?;
        self.values(id, rows, &mut |first, values| {
            bytes.resize(values.len() / width * row_bytes, 0);
            quantize_in_parallel(kind, values, width, importance.as_deref(), &mut bytes).map_err(
                |error| Error::Tensor {
                    path: path.into(),
                    name: spec.name.clone(),
                    reason: match first {
                        0 => error.to_string(),
                        first => format!("behind row {first}, {error}"),
                    },
                },
            )?;
            take(&bytes)
        })
    }

    /// The importance of a tensor's columns, if it is known.
    fn importance_of(&self, spec: &TensorSpec) -> Result<Option<Vec<f32>>> {
        let Some(matrix) = self.importance else { return Ok(None) };
        let name = GGUF_NAMES.of(spec.role);
        let Some(found) = matrix.tensors.get(&name) else { return Ok(None) };
        let (columns, width) = (found.sums.len(), spec.width());
        if columns != width {
            let path = matrix.path.clone().unwrap_or_default();
            let reason = format!(
                "it is for {columns} columns, and the model's tensor has {width}: it is of another model"
            );
            return Err(Error::Tensor { path, name, reason });
        }
        Ok(Some(found.means()))
    }

    /// Gives `rows` of one of the model's tensors as f32, with the number of the first of them.
    fn values(
        &mut self,
        id: TensorId,
        rows: Range<usize>,
        take: &mut dyn FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let spec = &self.specs[id];
        let width = spec.width();
        let mut values = Vec::new();
        for part in self.stretches(id, rows) {
            values.resize(part.len() * width, 0.0);
            self.checkpoint.read(self.layout, id, spec, self.config, part.clone(), &mut values)?;
            self.turn(spec, &mut values, width);
            if self.unit_head && spec.role == Role::Head {
                values.chunks_exact_mut(width).for_each(scale_to_one);
            }
            take(part.start, &values)?;
            self.advance(part.len() * width)?;
        }
        self.checkpoint.drop_pages(self.layout, id);
        Ok(())
    }

    /// Puts rotated rows in the order of the output.
    fn turn<T: Copy>(&self, spec: &TensorSpec, rows: &mut [T], row_length: usize) {
        let has_neighbours = self.config.rope_layout == RopeLayout::Interleaved;
        match (is_rotated(spec), has_neighbours, self.neighbours) {
            (true, false, true) => halves_to_pairs(rows, self.config.head_dim, row_length),
            (true, true, false) => pairs_to_halves(rows, self.config.head_dim, row_length),
            _ => {}
        }
    }

    /// The rows in stretches of not too many values, of whole heads where heads count.
    fn stretches(&self, id: TensorId, rows: Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
        let spec = &self.specs[id];
        let unit = if is_rotated(spec) { self.config.head_dim } else { 1 };
        let at_once = (CHUNK / spec.width()).max(1).next_multiple_of(unit);
        let end = rows.end;
        rows.step_by(at_once).map(move |first| first..end.min(first + at_once))
    }

    fn advance(&mut self, values: usize) -> Result<()> {
        self.done += values as u64;
        match (self.progress)(self.done, self.total) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Cancelled),
        }
    }
}

/// As `danlu_kernels::unit_rows` does.
fn scale_to_one(row: &mut [f32]) {
    let length = row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt().max(1e-12);
    row.iter_mut().for_each(|value| *value = (f64::from(*value) / length) as f32);
}
