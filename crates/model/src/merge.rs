//! Making one model of a base and its adapters: tensor by tensor, a few rows at a time, in f32, rounded once.
//!
//! A Hugging Face folder keeps its container, the types of its tensors and the fields of its configuration; any other
//! container becomes such a folder. It never quantizes.

use std::path::{Path, PathBuf};

use danlu_formats::{
    Alias, Dtype, TensorFolder, TensorInfo, TensorSink, WriteOptions, write_pytorch, write_safetensors,
};
use danlu_kernels::bf16;
use danlu_kernels::blocks::BlockType;
use danlu_tokenizer::Tokenizer;
use fs_err as fs;
use half::f16;
use serde_json::{Value, json};

use crate::adapter_set::{AdapterSet, TensorChange};
use crate::checkpoint::{Checkpoint, Contents, block_type, to_f32};
use crate::convert::COMPANIONS;
use crate::gptq::{Gptq, METHOD};
use crate::layout::{FileTensor, file_tensors};
use crate::names::{self, TensorSpec};
use crate::open::check_vocabulary;
use crate::save::write_json;
use crate::{Config, Error, Result};

/// Values that are changed and written at a time, about.
const CHUNK: usize = 1 << 22;
const CONFIG: &str = "config.json";

/// How a merged model is written.
#[derive(Clone, Debug)]
pub struct MergeOptions {
    /// F32, F16 or BF16 for all tensors; `None` keeps the type of each.
    pub dtype: Option<Dtype>,
    /// Bytes of tensors in one file.
    pub max_shard_bytes: usize,
}

/// What became of a base and its adapters.
#[derive(Clone, Debug)]
pub struct Merged {
    /// Tensors that were written.
    pub tensors: usize,
    /// Those of them that the adapters changed.
    pub changed: usize,
    /// Bytes of all tensors.
    pub bytes: usize,
    /// The type of most of them.
    pub dtype: Dtype,
    /// Rows of embedding and head, before and with the adapters.
    pub vocab_size: [usize; 2],
    /// Whether the head was the embedding and is no longer.
    pub is_untied: bool,
    /// The adapter that gave the tokenizer; else it is the base's.
    pub tokenizer_of: Option<PathBuf>,
}

/// Writes the model that `base` and the `adapters` are together into the existing `folder`. `progress(written, all)`, in
/// bytes, is called now and then and says whether to go on.
///
/// # Errors
/// What opening the model and the adapters can fail with; a quantized base without a [`MergeOptions::dtype`]; values
/// that the type cannot hold; a file that cannot be written; [`Error::Cancelled`].
pub fn merge(
    base: &Path,
    adapters: &[&Path],
    folder: &Path,
    options: &MergeOptions,
    progress: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Merged> {
    let source = Source::open(base, options.dtype)?;
    let set = AdapterSet::open(adapters, &source.config)?;
    let config =
        Config { vocab_size: set.vocab_size, tie_word_embeddings: set.is_tied, ..source.config.clone() };
    let outputs = source.outputs(&set, options.dtype)?;
    let infos: Vec<TensorInfo> = outputs.iter().map(|output| output.info.clone()).collect();
    let bytes: usize = infos.iter().filter_map(TensorInfo::byte_length).sum();
    let tokenizer_of = write_beside(&source, &config, adapters, options, &infos, folder)?;
    let mut work = Work { source: &source, set: &set, written: 0, all: bytes, progress, changed: 0 };
    let give = |index: usize, sink: &mut TensorSink<'_>| work.write(&outputs[index], sink);
    let write_options = |base_name: &str| WriteOptions {
        base_name: base_name.into(),
        max_shard_bytes: options.max_shard_bytes,
    };
    match &source.tensors {
        Tensors::Files(TensorFolder::Pytorch(files)) => {
            let names = set.base.names;
            let embedding = infos.iter().position(|info| info.name == names.embedding);
            let has_alias = set.is_tied && files.alias_of(names.head).is_some();
            let alias = embedding.filter(|_| has_alias).map(|of| Alias { name: names.head.into(), of });
            let aliases: Vec<Alias> = alias.into_iter().collect();
            write_pytorch(folder, &write_options("pytorch_model"), &infos, &aliases, give)?;
        }
        _ => write_safetensors(folder, &write_options("model"), &infos, give)?,
    }
    Ok(Merged {
        tensors: infos.len(),
        changed: work.changed,
        bytes,
        dtype: main_dtype(&infos),
        vocab_size: [source.config.vocab_size, set.vocab_size],
        is_untied: source.config.tie_word_embeddings && !set.is_tied,
        tokenizer_of,
    })
}

/// The base: its configuration, and its tensors under the names of its family.
struct Source {
    path: PathBuf,
    config: Config,
    /// `config.json` as it is.
    fields: Option<Value>,
    tensors: Tensors,
}

enum Tensors {
    /// As they are in a Hugging Face folder.
    Files(TensorFolder),
    /// As the model has them, from any container.
    Read { checkpoint: Box<Checkpoint>, specs: Vec<TensorSpec>, layout: Vec<FileTensor> },
}

/// A tensor of the merged model.
struct Output {
    info: TensorInfo,
    /// The base's tensor that it is made of.
    from: String,
}

impl Source {
    fn open(path: &Path, dtype: Option<Dtype>) -> Result<Self> {
        let config_path = path.join(CONFIG);
        let fields = if config_path.is_file() { Some(read_json(&config_path)?) } else { None };
        let method = fields.as_ref().and_then(|fields| fields.get("quantization_config"));
        let method = method.filter(|value| !value.is_null());
        if let (Some(method), None) = (method, dtype) {
            let name = method["quant_method"].as_str().unwrap_or("a quantized folder");
            return Err(quantized(path, name));
        }
        let own = Gptq::read(path)?;
        if let (Some(_), None) = (own, dtype) {
            return Err(quantized(path, METHOD));
        }
        if fields.is_some() && method.is_none() && own.is_none() {
            let tensors = TensorFolder::open_model(path)?;
            let config = Config::read_beside(&config_path, &|name| tensors.tensor(name).is_some())?;
            let source = Self { path: path.into(), config, fields, tensors: Tensors::Files(tensors) };
            source.check()?;
            return Ok(source);
        }
        let checkpoint = Checkpoint::open(path)?;
        let Contents { config, specs, layout } = checkpoint.contents()?;
        let kinds = specs.iter().enumerate().find_map(|(id, spec)| checkpoint.blocks(&layout, id, spec));
        if let (Some(kind), None) = (kinds, dtype) {
            return Err(quantized(path, kind.name()));
        }
        let tensors = Tensors::Read { checkpoint: Box::new(checkpoint), specs, layout };
        Ok(Self { path: path.into(), config, fields: None, tensors })
    }

    /// Every tensor of the configuration is in the files, in its shape.
    fn check(&self) -> Result<()> {
        let Tensors::Files(tensors) = &self.tensors else { return Ok(()) };
        let wanted = file_tensors(&self.config, &names::tensors(&self.config), self.config.family.names());
        let missing = wanted.iter().filter(|file| tensors.tensor(&file.name).is_none());
        let names: Vec<String> = missing.map(|file| file.name.clone()).collect();
        if !names.is_empty() {
            return Err(Error::MissingTensors { path: self.path.clone(), names });
        }
        for file in wanted {
            let found = tensors.tensor(&file.name).map(|tensor| &tensor.info.shape);
            if found != Some(&file.shape) {
                let (expected, found) = (&file.shape, found.cloned().unwrap_or_default());
                let reason = format!("expected shape {expected:?} from the configuration, found {found:?}");
                return Err(Error::Tensor { path: self.path.clone(), name: file.name, reason });
            }
        }
        Ok(())
    }

    /// What is written, in the order of the base.
    fn outputs(&self, set: &AdapterSet, dtype: Option<Dtype>) -> Result<Vec<Output>> {
        let names = set.base.names;
        let mut outputs = Vec::new();
        let mut add = |name: &str, from: &str, own: Dtype, shape: &[usize]| {
            let is_float = block_type(own).is_some();
            let mut shape = shape.to_vec();
            if set.base.is_table(name) {
                shape[0] = set.vocab_size;
            }
            let dtype = dtype.filter(|_| is_float).unwrap_or(own);
            outputs.push(Output { info: TensorInfo { name: name.into(), dtype, shape }, from: from.into() });
        };
        let mut embedding = (Dtype::F32, vec![]);
        let mut take = |name: &str, own: Dtype, shape: &[usize]| {
            // A tied head that was stored once more.
            if name == names.head && set.base.is_tied {
                return;
            }
            if name == names.embedding {
                embedding = (own, shape.to_vec());
            }
            add(name, name, own, shape);
        };
        match &self.tensors {
            Tensors::Files(tensors) => {
                tensors.tensors().for_each(|info| take(&info.name, info.dtype, &info.shape));
            }
            Tensors::Read { checkpoint, layout, .. } => {
                for file in &set.base.files {
                    let pieces = |other: &&FileTensor| {
                        other.pieces.iter().any(|piece| piece.tensor == file.pieces[0].tensor)
                    };
                    let stored = layout.iter().find(pieces).map(|file| checkpoint.kind_of(file));
                    let dtype = match stored.transpose()? {
                        Some(BlockType::F16) => Dtype::F16,
                        Some(BlockType::Bf16) => Dtype::Bf16,
                        _ => Dtype::F32,
                    };
                    take(&file.name, dtype, &file.shape);
                }
            }
        }
        if set.base.is_tied && !set.is_tied {
            let (own, shape) = embedding;
            add(names.head, names.embedding, own, &shape);
        }
        Ok(outputs)
    }
}

fn quantized(path: &Path, kind: &str) -> Error {
    let path = path.display();
    Error::Message(format!(
        "`{path}` is quantized ({kind}), and merging would round it again: give `--dtype bf16` (or f16, f32) for a model \
         of its dequantized weights and the adapter, or use the adapter beside it, `--model {path} --adapter ADAPTER`"
    ))
}

/// Writing the tensors one after another.
struct Work<'a> {
    source: &'a Source,
    set: &'a AdapterSet,
    written: usize,
    all: usize,
    progress: &'a mut dyn FnMut(usize, usize) -> bool,
    changed: usize,
}

impl Work<'_> {
    fn write(&mut self, output: &Output, sink: &mut TensorSink<'_>) -> Result<()> {
        let shape = &output.info.shape;
        let width = if shape.len() == 2 { shape[1] } else { 1 };
        let change = self.set.load(&output.info.name, width)?;
        self.changed += usize::from(change.is_some());
        match &self.source.tensors {
            Tensors::Files(tensors) => self.write_file(tensors, output, width, change.as_ref(), sink),
            Tensors::Read { .. } => {
                let mut values = self.read(&output.from, width)?;
                values.resize(shape.iter().product(), 0.0);
                if let Some(change) = &change {
                    change.apply(0, &mut values)?;
                }
                values.chunks(CHUNK).try_for_each(|values| self.give(output, values, sink))
            }
        }
    }

    fn write_file(
        &mut self,
        tensors: &TensorFolder,
        output: &Output,
        width: usize,
        change: Option<&TensorChange>,
        sink: &mut TensorSink<'_>,
    ) -> Result<()> {
        let error = |reason: String| Error::Tensor {
            path: self.source.path.clone(),
            name: output.from.clone(),
            reason,
        };
        let tensor = tensors.tensor(&output.from).ok_or_else(|| error("missing".into()))?;
        if change.is_none() && tensor.info.dtype == output.info.dtype {
            for bytes in tensor.bytes.chunks(4 * CHUNK) {
                sink.write(bytes)?;
                self.count(bytes.len())?;
            }
            tensors.drop_pages(&output.from);
            return Ok(());
        }
        let kind = block_type(tensor.info.dtype).filter(|kind| kind.block_elements() == 1);
        let kind =
            kind.ok_or_else(|| error(format!("type `{}` is not one of F32, F16, BF16", tensor.info.dtype)))?;
        let row_bytes = width * kind.block_bytes();
        let rows: usize = output.info.elements().unwrap_or(0) / width;
        let own_rows = tensor.bytes.len() / row_bytes;
        let at_once = (CHUNK / width).max(1);
        for first in (0..rows).step_by(at_once) {
            let count = at_once.min(rows - first);
            let mut values = vec![0.0; count * width];
            let own = own_rows.saturating_sub(first).min(count);
            let bytes = &tensor.bytes[first.min(own_rows) * row_bytes..][..own * row_bytes];
            to_f32(kind, bytes, &mut values[..own * width]).map_err(error)?;
            if let Some(change) = change {
                change.apply(first, &mut values)?;
            }
            self.give(output, &values, sink)?;
        }
        tensors.drop_pages(&output.from);
        Ok(())
    }

    /// A tensor of the base, from whatever its container has.
    fn read(&self, name: &str, width: usize) -> Result<Vec<f32>> {
        let Tensors::Read { checkpoint, specs, layout } = &self.source.tensors else { return Ok(Vec::new()) };
        let config = &self.source.config;
        let Some(file) = self.set.base.files.iter().find(|file| file.name == name) else {
            return Ok(Vec::new());
        };
        let mut values = Vec::new();
        for piece in &file.pieces {
            let spec = &specs[piece.tensor];
            let mut own = vec![0.0; spec.elements()];
            checkpoint.read(layout, piece.tensor, spec, config, 0..spec.shape[0], &mut own)?;
            if piece.rows.len() == spec.shape[0] && file.pieces.len() == 1 {
                return Ok(own);
            }
            values.extend_from_slice(&own[piece.rows.start * width..piece.rows.end * width]);
        }
        Ok(values)
    }

    /// Rounds and writes.
    fn give(&mut self, output: &Output, values: &[f32], sink: &mut TensorSink<'_>) -> Result<()> {
        let bytes: Vec<u8> = match output.info.dtype {
            Dtype::F16 => values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect(),
            Dtype::Bf16 => values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        };
        let too_large =
            |value: &&f32| !value.is_finite() || (output.info.dtype == Dtype::F16 && value.abs() > 65_504.0);
        if let Some(value) = values.iter().find(too_large) {
            let reason = format!("its merged value {value} is no number of type {}", output.info.dtype);
            return Err(Error::Tensor { path: self.source.path.clone(), name: output.from.clone(), reason });
        }
        sink.write(&bytes)?;
        self.count(bytes.len())
    }

    fn count(&mut self, bytes: usize) -> Result<()> {
        self.written += bytes;
        if (self.progress)(self.written, self.all) { Ok(()) } else { Err(Error::Cancelled) }
    }
}

/// Configuration and tokenizer. Returns the adapter that the tokenizer is of.
fn write_beside(
    source: &Source,
    config: &Config,
    adapters: &[&Path],
    options: &MergeOptions,
    infos: &[TensorInfo],
    folder: &Path,
) -> Result<Option<PathBuf>> {
    let dtype = dtype_name(main_dtype(infos));
    match &source.fields {
        Some(fields) => {
            let mut fields = fields.clone();
            fields["vocab_size"] = config.vocab_size.into();
            if source.config.tie_word_embeddings != config.tie_word_embeddings {
                fields["tie_word_embeddings"] = config.tie_word_embeddings.into();
            }
            if options.dtype.is_some() {
                let field = if fields.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
                fields[field] = dtype.into();
            }
            write_json(&folder.join(CONFIG), &fields)?;
            for entry in fs::read_dir(&source.path)? {
                let path = entry?.path();
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let is_wanted = name == "generation_config.json"
                    || name.ends_with(".py")
                    || ["LICENSE", "NOTICE", "USE_POLICY"].iter().any(|start| name.starts_with(start));
                if is_wanted && path.is_file() {
                    fs::copy(&path, folder.join(&name))?;
                }
            }
        }
        None => {
            write_json(&folder.join(CONFIG), &config.to_json(dtype))?;
            let generation = json!({
                "_from_model_config": true,
                "bos_token_id": config.bos_token_id,
                "eos_token_id": config.eos_json(),
                "pad_token_id": config.pad_token_id,
            });
            write_json(&folder.join("generation_config.json"), &generation)?;
        }
    }
    let has_tokenizer = |folder: &Path| COMPANIONS[..2].iter().any(|name| folder.join(name).is_file());
    let owner = adapters.iter().find(|folder| has_tokenizer(folder));
    let from = owner.map_or(source.path.as_path(), |owner| *owner);
    if from.is_dir() {
        for name in COMPANIONS.iter().filter(|name| from.join(name).is_file()) {
            fs::copy(from.join(name), folder.join(name))?;
        }
    } else if let Tensors::Read { checkpoint, .. } = &source.tensors
        && let Some(tokenizer) = checkpoint.tokenizer()?
    {
        tokenizer.save(folder)?;
    }
    if Tokenizer::is_in(folder) {
        check_vocabulary(&Tokenizer::open(folder)?, config.vocab_size, from)?;
    }
    Ok(owner.map(|owner| owner.to_path_buf()))
}

/// The type of most values.
fn main_dtype(infos: &[TensorInfo]) -> Dtype {
    let bytes = |dtype: Dtype| {
        let own = infos.iter().filter(|info| info.dtype == dtype);
        own.filter_map(TensorInfo::byte_length).sum::<usize>()
    };
    [Dtype::Bf16, Dtype::F16, Dtype::F32].into_iter().max_by_key(|dtype| bytes(*dtype)).unwrap_or(Dtype::F32)
}

/// As `config.json` has it.
fn dtype_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F16 => "float16",
        Dtype::Bf16 => "bfloat16",
        _ => "float32",
    }
}

fn read_json(path: &Path) -> Result<Value> {
    let error = |reason: String| Error::Json { path: path.into(), reason };
    let value: Value =
        serde_json::from_str(&fs::read_to_string(path)?).map_err(|cause| error(cause.to_string()))?;
    if value.is_object() { Ok(value) } else { Err(error("expected an object".into())) }
}
