//! A model file, whatever its container: its configuration and its tensors in Hugging Face's names and layout.
//!
//! GGUF stores the rows of q and k so that rotated pairs are neighbours; they are put back into two halves here.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use danlu_formats::{Dtype, Gguf, SafetensorsFolder, Tensor};
use danlu_kernels::blocks::{BlockType, dequantize};
use danlu_kernels::team::parallel_chunks;
use danlu_tokenizer::{GgufVocabulary, Tokenizer};
use serde_json::Value;

use crate::names::{TensorSpec, gguf_name, is_computed};
use crate::{Config, Error, Result};

/// Elements that one task dequantizes; a multiple of every block.
const CHUNK: usize = 1 << 16;

pub(crate) struct Checkpoint {
    path: PathBuf,
    container: Container,
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
            return Ok(Self { path: path.into(), container: Container::HuggingFace(tensors) });
        }
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            let message = "a model is its folder, with `config.json` and the tokenizer; give the folder of";
            return Err(Error::Message(format!("{message} `{}`", path.display())));
        }
        Ok(Self { path: path.into(), container: Container::Gguf(Gguf::open(path)?) })
    }

    pub(crate) fn config(&self) -> Result<Config> {
        let mut config = match &self.container {
            Container::HuggingFace(_) => {
                let mut config = Config::read(&self.path.join("config.json"))?;
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

    /// Fails unless the file holds exactly the tensors of `specs`, in these shapes and in types that can be read.
    pub(crate) fn check(&self, specs: &[TensorSpec]) -> Result<()> {
        self.check_names(specs)?;
        specs.iter().try_for_each(|spec| self.checked(spec).map(|_| ()))
    }

    fn check_names(&self, specs: &[TensorSpec]) -> Result<()> {
        let expected: Vec<String> = specs.iter().filter_map(|spec| self.own_name(&spec.name)).collect();
        let missing: Vec<String> =
            expected.iter().filter(|name| self.tensor(name).is_none()).cloned().collect();
        if !missing.is_empty() {
            return Err(Error::MissingTensors { path: self.path.clone(), names: missing });
        }
        let expected: HashSet<&str> = expected.iter().map(String::as_str).collect();
        let leftover: Vec<String> = self
            .names()
            .into_iter()
            .filter(|name| !expected.contains(name) && !is_computed(name) && !self.is_same_as_embedding(name))
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
    fn is_same_as_embedding(&self, name: &str) -> bool {
        let same = |name: &str, embedding: &str| match (self.tensor(name), self.tensor(embedding)) {
            (Some(head), Some(embedding)) => head.bytes == embedding.bytes,
            _ => false,
        };
        name == "lm_head.weight" && same(name, "model.embed_tokens.weight")
    }

    /// The tensor of this shape and its type.
    fn checked(&self, spec: &TensorSpec) -> Result<(Tensor<'_>, BlockType)> {
        let error = |reason| self.tensor_error(spec, reason);
        let name = self.own_name(&spec.name).unwrap_or_default();
        let tensor = self.tensor(&name).ok_or_else(|| error("missing".into()))?;
        if tensor.info.shape != spec.shape {
            let reason = format!(
                "expected shape {:?} from the configuration, found {:?}",
                spec.shape, tensor.info.shape
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

    fn tensor_error(&self, spec: &TensorSpec, reason: String) -> Error {
        Error::Tensor { path: self.path.clone(), name: spec.name.clone(), reason }
    }

    /// Reads a tensor as f32, [outputs, inputs]; its pages in the file are no longer needed afterwards.
    pub(crate) fn read(&self, spec: &TensorSpec, config: &Config, out: &mut [f32]) -> Result<()> {
        let (tensor, kind) = self.checked(spec)?;
        to_f32(kind, tensor.bytes, out).map_err(|reason| self.tensor_error(spec, reason))?;
        let name = self.own_name(&spec.name).unwrap_or_default();
        match &self.container {
            Container::HuggingFace(tensors) => tensors.drop_pages(&name),
            Container::Gguf(gguf) => {
                gguf.drop_pages(&name);
                if name.ends_with("attn_q.weight") || name.ends_with("attn_k.weight") {
                    pairs_to_halves(out, config.head_dim, spec.shape[1]);
                }
            }
        }
        Ok(())
    }

    fn own_name(&self, name: &str) -> Option<String> {
        match &self.container {
            Container::HuggingFace(_) => Some(name.to_owned()),
            Container::Gguf(_) => gguf_name(name),
        }
    }

    fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        match &self.container {
            Container::HuggingFace(tensors) => tensors.tensor(name),
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
fn pairs_to_halves(rows: &mut [f32], head_dim: usize, width: usize) {
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

fn gguf_config(gguf: &Gguf, path: &Path) -> Result<Config> {
    let error =
        |field: &str, reason: String| Error::Config { path: path.into(), field: field.into(), reason };
    let architecture = gguf.get_str("general.architecture")?.unwrap_or_default();
    if architecture != "llama" {
        return Err(error("general.architecture", format!("expected `llama`, found `{architecture}`")));
    }
    let number = |key: &str| -> Result<usize> {
        gguf.get_usize(key)?.ok_or_else(|| error(key, "missing; expected a whole number".into()))
    };
    for key in ["llama.rope.scaling.type", "llama.expert_count"] {
        let plain = match gguf.metadata(key) {
            None => true,
            Some(danlu_formats::Value::String(kind)) => kind == "none",
            Some(value) => value.as_u64() == Some(0),
        };
        if !plain {
            return Err(error(key, "expected a dense Llama with the plain rotary embedding".into()));
        }
    }
    let hidden_size = number("llama.embedding_length")?;
    let num_attention_heads = number("llama.attention.head_count")?;
    let head_dim = match gguf.get_usize("llama.attention.key_length")? {
        Some(length) => length,
        None => {
            gguf.get_usize("llama.rope.dimension_count")?.unwrap_or(hidden_size / num_attention_heads.max(1))
        }
    };
    let embedding = gguf.tensors().find(|info| info.name == "token_embd.weight");
    let vocab_size = embedding.and_then(|info| info.shape.first().copied()).unwrap_or(0);
    let id =
        |key: &str| -> Result<Option<u32>> { Ok(gguf.get_usize(key)?.and_then(|id| u32::try_from(id).ok())) };
    let config = Config {
        vocab_size,
        hidden_size,
        intermediate_size: number("llama.feed_forward_length")?,
        num_hidden_layers: number("llama.block_count")?,
        num_attention_heads,
        num_key_value_heads: gguf.get_usize("llama.attention.head_count_kv")?.unwrap_or(num_attention_heads),
        head_dim,
        max_position_embeddings: number("llama.context_length")?,
        rope_theta: f64::from(gguf.get_f32("llama.rope.freq_base")?.unwrap_or(10_000.0)),
        rms_norm_eps: shortest(gguf.get_f32("llama.attention.layer_norm_rms_epsilon")?.unwrap_or(1e-6)),
        tie_word_embeddings: gguf.tensor("output.weight").is_none(),
        initializer_range: 0.02,
        bos_token_id: id("tokenizer.ggml.bos_token_id")?,
        eos_token_ids: id("tokenizer.ggml.eos_token_id")?
            .into_iter()
            .chain(id("tokenizer.ggml.eot_token_id")?)
            .collect(),
        pad_token_id: id("tokenizer.ggml.padding_token_id")?,
    };
    config.check(path)?;
    Ok(config)
}

/// 1e-5 stored as f32 reads back as 1e-5, not as 9.99999974e-6.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

fn gguf_vocabulary(gguf: &Gguf) -> Result<Option<GgufVocabulary>> {
    let Some(model) = gguf.get_str("tokenizer.ggml.model")? else { return Ok(None) };
    let strings = |key: &str| -> Result<Vec<String>> {
        let strings = gguf.get_strings(key)?;
        Ok(strings
            .map(|list| list.iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect())
            .unwrap_or_default())
    };
    let id =
        |key: &str| -> Result<Option<u32>> { Ok(gguf.get_usize(key)?.and_then(|id| u32::try_from(id).ok())) };
    Ok(Some(GgufVocabulary {
        model: model.to_owned(),
        pre: gguf.get_str("tokenizer.ggml.pre")?.map(str::to_owned),
        tokens: strings("tokenizer.ggml.tokens")?,
        scores: gguf.get_f32s("tokenizer.ggml.scores")?.map(<[f32]>::to_vec).unwrap_or_default(),
        token_types: gguf.get_i32s("tokenizer.ggml.token_type")?.map(<[i32]>::to_vec).unwrap_or_default(),
        merges: strings("tokenizer.ggml.merges")?,
        bos_id: id("tokenizer.ggml.bos_token_id")?,
        eos_id: id("tokenizer.ggml.eos_token_id")?,
        unk_id: id("tokenizer.ggml.unknown_token_id")?,
        pad_id: id("tokenizer.ggml.padding_token_id")?,
        eot_id: id("tokenizer.ggml.eot_token_id")?,
        add_bos: gguf.get_bool("tokenizer.ggml.add_bos_token")?,
        add_eos: gguf.get_bool("tokenizer.ggml.add_eos_token")?,
        add_space_prefix: gguf.get_bool("tokenizer.ggml.add_space_prefix")?,
        chat_template: gguf.get_str("tokenizer.chat_template")?.map(str::to_owned),
    }))
}
