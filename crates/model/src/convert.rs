//! From one container into another: tensor by tensor, a stretch of rows at a time.
//!
//! Hugging Face folders are written in the family's own form, those of Meta-like families as Llamas, because that is
//! what other programs read. Nothing is merged or trained here.

mod nf4;

use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};

use danlu_formats::{
    Alias, AtomicFolder, Dtype, Llama2cConfig, Llama2cVersion, TensorInfo, TensorSink, WriteOptions,
    write_gguf, write_llama2c, write_pth, write_pytorch, write_safetensors,
};
use danlu_kernels::blocks::{BlockType, quantize_in_parallel};
use danlu_kernels::rope::RopeLayout;
use danlu_tokenizer::Tokenizer;
use fs_err as fs;
use serde_json::{Map, Value, json};

use crate::checkpoint::{Checkpoint, halves_to_pairs, is_rotated, pairs_to_halves};
use crate::families::{GGUF_NAMES, META_NAMES, Names};
use crate::gguf::has_neighbouring_pairs;
use crate::layout::{FileTensor, file_tensors};
use crate::mixture::Mixture;
use crate::names::{self, Role, TensorId, TensorSpec};
use crate::save::{little_endian, write_description, write_json};
use crate::source::{Source, dtype_of};
use crate::{AttentionBias, Config, Error, Family, Result, RopeScaling, gguf_out};

/// Values that are read, turned and written at once, about.
const CHUNK: usize = 1 << 22;
/// Files beside a model's weights that are copied as they are where the tokenizer is not one that is read here.
const COMPANIONS: [&str; 8] = [
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
    if !input.exists() {
        return Err(Error::Message(format!(
            "`{}` does not exist; expected a model folder or file",
            input.display()
        )));
    }
    let checkpoint = Checkpoint::open(input)?;
    let config = checkpoint.config()?;
    checkpoint.check_layers(&config)?;
    let specs = names::tensors(&config);
    let layout = checkpoint.layout(&config, &specs);
    checkpoint.check(&config, &layout)?;
    let tokenizer = match options.tokenizer {
        Some(tokenizer) => Some(tokenizer),
        None => checkpoint.tokenizer()?,
    };
    if let Some(tokenizer) = &tokenizer
        && tokenizer.vocabulary_size() > config.vocab_size
    {
        let highest = tokenizer.vocabulary_size() - 1;
        return Err(Error::VocabularyMismatch { path: input.into(), highest, rows: config.vocab_size });
    }
    let total = specs.iter().map(|spec| spec.elements() as u64).sum();
    let mut work = Work {
        checkpoint: &checkpoint,
        config: &config,
        specs: &specs,
        layout: &layout,
        neighbours: false,
        unit_head: false,
        progress,
        done: 0,
        total,
        types: Vec::new(),
        notes: Vec::new(),
    };
    let written = match options.form {
        Form::Safetensors | Form::Bin => {
            work.folder(output, options.form, options.mixture, tokenizer.as_ref())?
        }
        Form::Nf4 => work.nf4(output, tokenizer.as_ref())?,
        Form::Pth => work.pth(output, options.mixture, tokenizer.as_ref())?,
        Form::Gguf => work.gguf(output, options.mixture, tokenizer.as_ref())?,
        Form::Llama2c => work.llama2c(output, options.mixture)?,
    };
    let (types, notes) = (work.types, work.notes);
    Ok(Converted { source: checkpoint.source().name(), config: written, types, notes, tokenizer })
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
    progress: &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    done: u64,
    total: u64,
    types: Vec<TypeShare>,
    notes: Vec<String>,
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

    fn pth(
        &mut self,
        output: &Path,
        mixture: Option<Mixture>,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<Config> {
        self.refuse_what_meta_has_not("Meta's files")?;
        self.neighbours = true;
        let (files, infos) = self.plain_tensors(&META_NAMES, mixture)?;
        let is_file = output.extension().is_some_and(|end| end == "pth");
        if !is_file {
            let folder = AtomicFolder::create(output)?;
            let path = folder.path().join("consolidated.00.pth");
            write_pth(&path, &infos, &[], |place, sink| self.give(&files[place], &infos[place], sink))?;
            write_json(&folder.path().join("params.json"), &self.meta_parameters())?;
            self.companions(folder.path(), tokenizer, false)?;
            folder.commit()?;
            return Ok(self.config.clone());
        }
        // As Baby-Llama2 saves it: the head is there by name too.
        let tied = self.config.tie_word_embeddings;
        let alias = Alias { name: META_NAMES.head.into(), of: 0 };
        let aliases = if tied { vec![alias] } else { Vec::new() };
        write_pth(output, &infos, &aliases, |place, sink| self.give(&files[place], &infos[place], sink))?;
        let config = Config {
            family: Family::BabyLlama2,
            rope_layout: RopeLayout::Interleaved,
            other_fields: Map::new(),
            ..self.config.clone()
        };
        if self.config.rope_scaling != RopeScaling::None {
            self.notes.push("the file cannot say how the rotary frequencies are scaled".into());
        }
        let beside = output.with_extension("json");
        write_json(&beside, &config.to_json("float32"))?;
        self.notes.push(format!("`{}` beside it says what its shapes do not", beside.display()));
        Ok(config)
    }

    fn meta_parameters(&self) -> Value {
        const MULTIPLE: usize = 256;
        let config = self.config;
        let (base, found) = (config.hidden_size * 8 / 3, config.intermediate_size);
        let multiple =
            if found.is_multiple_of(MULTIPLE) { MULTIPLE } else { 1 << found.trailing_zeros().min(8) };
        let mut parameters = json!({
            "dim": config.hidden_size,
            "n_layers": config.num_hidden_layers,
            "n_heads": config.num_attention_heads,
            "n_kv_heads": config.num_key_value_heads,
            "vocab_size": config.vocab_size,
            "multiple_of": multiple,
            "norm_eps": config.rms_norm_eps,
        });
        if base.next_multiple_of(multiple) != found {
            parameters["ffn_dim_multiplier"] = (found as f64 / base as f64).into();
        }
        if config.rope_theta != 10_000.0 {
            parameters["rope_theta"] = config.rope_theta.into();
        }
        // Without it, a reader would have to guess.
        parameters["max_seq_len"] = config.max_position_embeddings.into();
        if let RopeScaling::Llama3 { factor, .. } = config.rope_scaling {
            parameters["use_scaled_rope"] = true.into();
            parameters["rope_scaling_factor"] = factor.into();
        }
        parameters
    }

    fn llama2c(&mut self, output: &Path, mixture: Option<Mixture>) -> Result<Config> {
        self.refuse_what_meta_has_not("llama2.c")?;
        let config = self.config;
        let refuse = |what: &str| {
            let message = format!("llama2.c's programs have no way to say {what}; write another form");
            Err(Error::Message(message))
        };
        if config.rope_theta != 10_000.0 || config.rope_scaling != RopeScaling::None {
            return refuse("that rotations have another base than 10000, or are scaled");
        }
        let version = match mixture {
            None | Some(Mixture::F32) => Llama2cVersion::V0,
            Some(Mixture::Q8_0) => Llama2cVersion::V2 {
                group_size: Llama2cConfig::group_size_for(config.hidden_size, config.intermediate_size),
            },
            Some(other) => {
                let name = other.name();
                return Err(Error::Message(format!("llama2.c has f32 and q8_0, but not `{name}`")));
            }
        };
        if (config.rms_norm_eps - 1e-5).abs() > 1e-9 {
            let eps = config.rms_norm_eps;
            self.notes.push(format!("llama2.c's programs add 1e-5 in every norm, and this model adds {eps}"));
        }
        self.neighbours = true;
        let header = Llama2cConfig {
            version,
            dim: config.hidden_size,
            hidden_dim: config.intermediate_size,
            n_layers: config.num_hidden_layers,
            n_heads: config.num_attention_heads,
            n_kv_heads: config.num_key_value_heads,
            vocab_size: config.vocab_size,
            max_seq_len: config.max_position_embeddings,
            shared_classifier: config.tie_word_embeddings,
        };
        let files = file_tensors(config, self.specs, &META_NAMES);
        write_llama2c(output, &header, |info, sink| -> Result<()> {
            let file = files.iter().find(|file| file.name == info.name);
            let file = file.ok_or_else(|| Error::Message(format!("the model has no `{}`", info.name)))?;
            for piece in &file.pieces {
                self.values(piece.tensor, piece.rows.clone(), &mut |_, values| Ok(sink.write(values)?))?;
            }
            add_share(&mut self.types, info.dtype.name(), 1, info.byte_length().unwrap_or(0) as u64);
            Ok(())
        })?;
        Ok(config.clone())
    }

    fn refuse_what_meta_has_not(&self, who: &str) -> Result<()> {
        let config = self.config;
        let what = if config.attention_bias != AttentionBias::None || config.mlp_bias {
            "biases"
        } else if config.query_key_norm {
            "norms of query and key heads"
        } else if config.normalized_head {
            "heads of length one"
        } else if config.head_dim * config.num_attention_heads != config.hidden_size {
            "heads that are together not as wide as the model"
        } else if !matches!(config.rope_scaling, RopeScaling::None | RopeScaling::Llama3 { .. }) {
            "scaled rotary frequencies"
        } else {
            return Ok(());
        };
        let message = format!("{who} have no {what}, which this model has; write safetensors or GGUF");
        Err(Error::Message(message))
    }

    fn gguf(
        &mut self,
        output: &Path,
        mixture: Option<Mixture>,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<Config> {
        let config = self.config;
        let mixture = match mixture {
            Some(mixture) => mixture,
            None => Mixture::plain(self.base_kind()).unwrap_or(Mixture::F16),
        };
        if self.base_kind().block_elements() > 1 && mixture.base().block_elements() > 1 {
            let (from, to) = (self.base_kind().name(), mixture.name());
            self.notes
                .push(format!("it was quantized before ({from}), so {to} loses more than from the original"));
        }
        if let RopeScaling::Dynamic { .. } = config.rope_scaling {
            let context = config.max_position_embeddings;
            self.notes
                .push(format!("llama.cpp has no dynamic scaling: there it is good up to {context} tokens"));
        }
        if tokenizer.is_none() {
            self.notes
                .push("it holds no tokenizer, which llama.cpp needs: give one with `--tokenizer`".into());
        }
        let vocabulary = tokenizer.map(|tokenizer| tokenizer.to_gguf(config.vocab_size)).transpose()?;
        let name = self.checkpoint.path().file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let metadata = gguf_out::metadata(config, mixture, vocabulary, &name)?;
        let family = match gguf_out::architecture(config)? {
            "qwen2" => Family::Qwen2,
            "qwen3" => Family::Qwen3,
            _ => Family::Llama,
        };
        self.neighbours = has_neighbouring_pairs(family);
        self.unit_head = config.normalized_head;
        let files = file_tensors(config, self.specs, &GGUF_NAMES);
        let mut infos: Vec<TensorInfo> = files
            .iter()
            .map(|file| {
                let kind = mixture.kind(config, &self.specs[file.pieces[0].tensor]);
                TensorInfo { name: file.name.clone(), dtype: dtype_of(kind), shape: file.shape.clone() }
            })
            .collect();
        let factors = gguf_out::rope_factors(config);
        if let Some(factors) = &factors {
            let (name, shape) = ("rope_freqs.weight".to_owned(), vec![factors.len()]);
            infos.push(TensorInfo { name, dtype: Dtype::F32, shape });
        }
        write_gguf(output, &metadata, &infos, |place, sink| match (files.get(place), &factors) {
            (Some(file), _) => self.give(file, &infos[place], sink),
            (None, factors) => Ok(sink.write(&little_endian(factors.as_deref().unwrap_or_default()))?),
        })?;
        let changed = infos.iter().zip(&files).filter(|(info, file)| {
            let spec = &self.specs[file.pieces[0].tensor];
            !spec.kind.is_vector()
                && !spec.width().is_multiple_of(mixture.base().block_elements())
                && info.dtype != dtype_of(mixture.base())
        });
        let (changed, block) = (changed.count(), mixture.base().block_elements());
        if changed > 0 {
            self.notes.push(format!(
                "{changed} tensors have rows that are not whole blocks of {block} and are of another type than {} has",
                mixture.name()
            ));
        }
        Ok(config.clone())
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

    /// The type of the model's own first matrix within a block.
    fn base_kind(&self) -> BlockType {
        let query = names::block_tensor(self.config, 0, names::Part::Query);
        self.checkpoint.kind(self.layout, query).unwrap_or(BlockType::F32)
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
        self.values(id, rows, &mut |first, values| {
            bytes.resize(values.len() / width * row_bytes, 0);
            quantize_in_parallel(kind, values, width, None, &mut bytes).map_err(|error| Error::Tensor {
                path: path.into(),
                name: spec.name.clone(),
                reason: match first {
                    0 => error.to_string(),
                    first => format!("behind row {first}, {error}"),
                },
            })?;
            take(&bytes)
        })
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

/// Ollama's file for a GGUF file beside it, with the template of a conversation where it is a known one.
///
/// Syntax: <https://github.com/ollama/ollama/blob/main/docs/modelfile.md>.
pub fn modelfile(gguf: &Path, tokenizer: Option<&Tokenizer>) -> String {
    let name = gguf.file_name().unwrap_or_default().to_string_lossy();
    let mut text = format!("FROM ./{name}\n");
    let Some(tokenizer) = tokenizer else { return text };
    let source = tokenizer.chat_template().unwrap_or_default();
    let known = [
        (
            "<|im_start|>",
            "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n",
        ),
        (
            "<|start_header_id|>",
            "{{ range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ .Content }}<|eot_id|>{{ end }}\
             <|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        (
            "[INST]",
            "[INST] {{ if .System }}<<SYS>>\n{{ .System }}\n<</SYS>>\n\n{{ end }}{{ .Prompt }} [/INST]",
        ),
        ("Human: ", "Human: {{ .Prompt }}\n</s><s>Assistant: "),
    ];
    if let Some((_, template)) = known.iter().find(|(sign, _)| source.contains(sign)) {
        text += &format!("TEMPLATE \"\"\"{template}\"\"\"\n");
    }
    for id in tokenizer.end_of_turn_ids() {
        if let Some(token) = tokenizer.token_text(id) {
            text += &format!("PARAMETER stop \"{}\"\n", token.replace('"', "\\\""));
        }
    }
    text
}

/// Where [`modelfile`] is written for a GGUF file.
pub fn modelfile_path(gguf: &Path) -> PathBuf {
    gguf.with_extension("Modelfile")
}
