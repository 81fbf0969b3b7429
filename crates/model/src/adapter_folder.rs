//! What a PEFT adapter folder holds for each tensor of its model: low-rank matrices, whole copies, single rows.
//!
//! Names are those of the model's files; whether the model is in memory or in a file is not known here. Every tensor
//! is checked against the configuration and against the shapes of the model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use danlu_formats::{AdapterConfig, InitLoraWeights, Tensor, TensorFolder, TokenIndices};
use danlu_kernels::blocks::BlockType;
use serde_json::Value;

use crate::adapter_patterns::AdapterPatterns;
use crate::checkpoint::{block_type, to_f32};
use crate::families::Names;
use crate::layout::{FileTensor, file_tensors};
use crate::names;
use crate::{Config, Error, Result};

/// What PEFT puts before the names of the model.
pub(crate) const PREFIX: &str = "base_model.model.";
const WEIGHT: &str = ".weight";

/// The tensors of the model that adapters belong to, as its files have them.
pub(crate) struct BaseTensors {
    pub(crate) files: Vec<FileTensor>,
    pub(crate) names: &'static Names,
    pub(crate) is_tied: bool,
}

impl BaseTensors {
    pub(crate) fn new(config: &Config) -> Self {
        let names = config.family.names();
        let files = file_tensors(config, &names::tensors(config), names);
        Self { files, names, is_tied: config.tie_word_embeddings }
    }

    /// The shape of a tensor; a tied head has that of the embedding.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        let name = if self.is_tied && name == self.names.head { self.names.embedding } else { name };
        self.files.iter().find(|file| file.name == name).map(|file| file.shape.as_slice())
    }

    /// The embedding or the head.
    pub(crate) fn is_table(&self, name: &str) -> bool {
        [self.names.embedding, self.names.head].contains(&name)
    }

    /// Paths of all modules that have a weight, a tied head too, and whether they are linear layers of a block.
    fn modules(&self) -> impl Iterator<Item = (&str, bool)> {
        let head = self.is_tied.then_some((self.names.head, false));
        let own = self
            .files
            .iter()
            .map(|file| (file.name.as_str(), file.shape.len() == 2 && !self.is_table(&file.name)));
        own.chain(head).filter_map(|(name, is_linear)| Some((name.strip_suffix(WEIGHT)?, is_linear)))
    }

    pub(crate) fn vocab_size(&self) -> usize {
        self.shape(self.names.embedding).map_or(0, |shape| shape[0])
    }
}

/// What an adapter does to one tensor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    /// The tensor is replaced; `is_trained` says that it is one of `modules_to_save`.
    Whole { stored: String, is_trained: bool },
    /// B·A · scale is added; with a magnitude every row of the sum gets that length (DoRA).
    LowRank { a: String, b: String, magnitude: Option<String>, is_embedding: bool, rank: usize, scale: f64 },
    /// These rows are replaced.
    Rows { stored: String, ids: Vec<usize> },
}

/// An opened adapter.
pub(crate) struct AdapterFolder {
    pub(crate) path: PathBuf,
    pub(crate) config: AdapterConfig,
    tensors: TensorFolder,
    /// By the name of the tensor that is changed.
    pub(crate) changes: BTreeMap<String, Vec<Change>>,
}

/// What a tensor of an adapter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    A,
    B,
    EmbeddingA,
    EmbeddingB,
    Magnitude,
    Rows,
    Whole,
}

impl AdapterFolder {
    /// # Errors
    /// A folder that is missing, damaged or none of an adapter, a setting that cannot be followed, a tensor that is
    /// missing, left over or does not fit the model; each named.
    pub(crate) fn open(path: &Path, base: &BaseTensors) -> Result<Self> {
        let config = AdapterConfig::read(path).map_err(|error| wrong_folder(path, error))?;
        refuse_unknown_arithmetic(&config, path)?;
        let patterns = AdapterPatterns::new(&config, path)?;
        let tensors = TensorFolder::open_adapter(path)?;
        let mut parts: BTreeMap<String, BTreeMap<Part, String>> = BTreeMap::new();
        let mut unknown = Vec::new();
        for name in tensors.names() {
            let known = module_and_part(name).filter(|(module, _)| base.shape(module).is_some());
            let Some((module, part)) = known else {
                unknown.push(name.to_owned());
                continue;
            };
            let others = parts.entry(module).or_default();
            if let Some(other) = others.insert(part, name.to_owned()) {
                let reason =
                    format!("is the same part of the same module as `{other}`; expected one adapter");
                return Err(Error::Tensor { path: path.into(), name: name.into(), reason });
            }
        }
        if !unknown.is_empty() {
            return Err(not_of_this_model(path, &config, unknown));
        }
        if parts.is_empty() {
            return Err(Error::Message(format!("`{}` holds an adapter without a tensor", path.display())));
        }
        let mut folder = Self { path: path.into(), config, tensors, changes: BTreeMap::new() };
        for (name, parts) in parts {
            let changes = folder.changes_of(&name, parts, &patterns)?;
            folder.changes.insert(name, changes);
        }
        folder.check_presence(base, &patterns)?;
        folder.check_shapes(base)?;
        Ok(folder)
    }

    fn changes_of(
        &self,
        name: &str,
        mut parts: BTreeMap<Part, String>,
        patterns: &AdapterPatterns,
    ) -> Result<Vec<Change>> {
        let module = name.strip_suffix(WEIGHT).unwrap_or(name);
        let mut changes = Vec::new();
        if let Some(stored) = parts.remove(&Part::Whole) {
            let saved = self.config.modules_to_save.iter().flatten();
            let is_trained = saved.into_iter().any(|saved| module.ends_with(saved.as_str()));
            changes.push(Change::Whole { stored, is_trained });
        }
        if let Some(stored) = parts.remove(&Part::Rows) {
            let ids = self.token_ids(module).ok_or_else(|| {
                self.error(&stored, "`trainable_token_indices` does not say which rows these are".into())
            })?;
            changes.push(Change::Rows { stored, ids });
        }
        let magnitude = parts.remove(&Part::Magnitude);
        let mut pair = |a, b| match (parts.remove(&a), parts.remove(&b)) {
            (Some(a), Some(b)) => Ok(Some((a, b))),
            (Some(one), None) | (None, Some(one)) => {
                Err(self.error(&one, "its partner is missing: A and B belong together".into()))
            }
            (None, None) => Ok(None),
        };
        let linear = pair(Part::A, Part::B)?;
        let embedding = pair(Part::EmbeddingA, Part::EmbeddingB)?;
        let is_embedding = embedding.is_some();
        let Some((a, b)) = linear.or(embedding) else {
            return match magnitude {
                Some(stored) => Err(self.error(&stored, "its matrices A and B are missing".into())),
                None => Ok(changes),
            };
        };
        if patterns.targets(module, true)? == Some(false) {
            return Err(self.error(&a, "`target_modules` does not name this module".into()));
        }
        match (&magnitude, self.config.use_dora, is_embedding) {
            (_, true, true) => {
                return Err(self.error(&a, "`use_dora` on an embedding is not supported".into()));
            }
            (None, true, _) => return Err(self.error(&a, "its lora_magnitude_vector is missing".into())),
            (Some(stored), false, _) => {
                return Err(self.error(stored, "`use_dora` is false, so it has no meaning".into()));
            }
            _ => {}
        }
        let (rank, scale) = patterns.rank_and_scale(module)?;
        changes.push(Change::LowRank { a, b, magnitude, is_embedding, rank, scale });
        Ok(changes)
    }

    fn token_ids(&self, module: &str) -> Option<Vec<usize>> {
        match self.config.trainable_token_indices.as_ref()? {
            TokenIndices::Embedding(ids) => Some(ids.clone()),
            TokenIndices::Modules(modules) => {
                modules.iter().find(|(name, _)| module.ends_with(name.as_str())).map(|(_, ids)| ids.clone())
            }
        }
    }

    /// Every module that the configuration names has its tensors.
    fn check_presence(&self, base: &BaseTensors, patterns: &AdapterPatterns) -> Result<()> {
        let mut missing = Vec::new();
        for (module, is_linear) in base.modules() {
            let name = format!("{module}{WEIGHT}");
            // The shared weight stands under the embedding's name.
            if base.is_tied && self.config.ensure_weight_tying && name == base.names.head {
                continue;
            }
            let changes = self.changes.get(&name).map_or(&[][..], Vec::as_slice);
            let is_low_rank = |change: &Change| matches!(change, Change::LowRank { .. });
            if patterns.targets(module, is_linear)? == Some(true) && !changes.iter().any(is_low_rank) {
                missing.push(format!("{PREFIX}{module}.lora_A{WEIGHT}"));
            }
            let saved = self.config.modules_to_save.iter().flatten();
            let is_saved = saved.into_iter().any(|saved| module.ends_with(saved.as_str()));
            if is_saved && !changes.iter().any(|change| matches!(change, Change::Whole { .. })) {
                missing.push(format!("{PREFIX}{name}"));
            }
        }
        match missing.is_empty() {
            true => Ok(()),
            false => Err(Error::MissingTensors { path: self.path.clone(), names: missing }),
        }
    }

    fn check_shapes(&self, base: &BaseTensors) -> Result<()> {
        for (name, changes) in &self.changes {
            let Some(shape) = base.shape(name) else { continue };
            let whole = changes.iter().find_map(|change| match change {
                Change::Whole { stored, .. } => Some(stored),
                _ => None,
            });
            let rows = match whole {
                Some(stored) => {
                    let found = self.shape(stored)?;
                    let fits = match base.is_table(name) {
                        true => found.len() == 2 && found[0] > 0 && found[1] == shape[1],
                        false => found == shape,
                    };
                    if !fits {
                        return Err(self.misfit(stored, shape));
                    }
                    found[0]
                }
                None => shape[0],
            };
            for change in changes {
                match change {
                    Change::Whole { .. } => {}
                    Change::Rows { stored, ids } => {
                        self.expect(stored, &[ids.len(), shape[1]])?;
                        if let Some(id) = ids.iter().find(|id| **id >= rows) {
                            let reason =
                                format!("`trainable_token_indices` names row {id}, but there are {rows}");
                            return Err(self.error(stored, reason));
                        }
                    }
                    Change::LowRank { a, b, magnitude, is_embedding, rank, .. } => {
                        let (inputs, outputs) = match is_embedding {
                            true => (rows, shape[1]),
                            false if shape.len() == 2 => (shape[1], rows),
                            false => return Err(self.error(a, "only linear layers have these".into())),
                        };
                        if let [found, _] = self.shape(a)?
                            && found != rank
                        {
                            let reason =
                                format!("expected rank {rank} from the configuration, found {found}");
                            return Err(self.error(a, reason));
                        }
                        self.expect(a, &[*rank, inputs])?;
                        self.expect(b, &[outputs, *rank])?;
                        if let Some(magnitude) = magnitude {
                            self.expect(magnitude, &[outputs])?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn expect(&self, stored: &str, shape: &[usize]) -> Result<()> {
        if self.shape(stored)? == shape { Ok(()) } else { Err(self.misfit(stored, shape)) }
    }

    fn misfit(&self, stored: &str, shape: &[usize]) -> Error {
        let found = self.shape(stored).unwrap_or_default();
        let of = self.config.base_model_name_or_path.as_deref().unwrap_or_default();
        let of = if of.is_empty() { String::new() } else { format!("; the adapter was trained on `{of}`") };
        self.error(stored, format!("expected shape {shape:?} for this model, found {found:?}{of}"))
    }

    /// A tensor of the adapter and its type.
    fn tensor(&self, stored: &str) -> Result<(Tensor<'_>, BlockType)> {
        let tensor = self.tensors.tensor(stored).ok_or_else(|| self.error(stored, "missing".into()))?;
        let kind =
            block_type(tensor.info.dtype).filter(|kind| kind.block_elements() == 1).ok_or_else(|| {
                self.error(stored, format!("type `{}` is not one of F32, F16, BF16", tensor.info.dtype))
            })?;
        Ok((tensor, kind))
    }

    pub(crate) fn shape(&self, stored: &str) -> Result<&[usize]> {
        Ok(&self.tensor(stored)?.0.info.shape)
    }

    /// The bytes of a tensor.
    pub(crate) fn bytes(&self, stored: &str) -> Result<&[u8]> {
        Ok(self.tensor(stored)?.0.bytes)
    }

    /// The values of a tensor.
    pub(crate) fn values(&self, stored: &str) -> Result<Vec<f32>> {
        let (tensor, kind) = self.tensor(stored)?;
        // The file holds them all, so this is no more than twice its size.
        let mut values = vec![0.0; tensor.bytes.len() / kind.block_bytes()];
        to_f32(kind, tensor.bytes, &mut values).map_err(|reason| self.error(stored, reason))?;
        Ok(values)
    }

    /// The values of a tensor from element `first` on.
    pub(crate) fn read(&self, stored: &str, first: usize, out: &mut [f32]) -> Result<()> {
        let (tensor, kind) = self.tensor(stored)?;
        let size = kind.block_bytes();
        let part = tensor.bytes.get(first * size..(first + out.len()) * size);
        let part = part.ok_or_else(|| self.error(stored, "has fewer rows than are asked for".into()))?;
        to_f32(kind, part, out).map_err(|reason| self.error(stored, reason))
    }

    pub(crate) fn error(&self, stored: &str, reason: String) -> Error {
        Error::Tensor { path: self.path.clone(), name: stored.into(), reason }
    }

    /// A setting that cannot be followed here.
    pub(crate) fn refuse(&self, field: &str, reason: &str) -> Error {
        let path = self.path.join("adapter_config.json");
        Error::Config { path, field: field.into(), reason: reason.into() }
    }
}

/// The tensor of the model that a tensor of an adapter belongs to, and what it is; with and without PEFT's prefix and
/// the adapter's own name.
fn module_and_part(stored: &str) -> Option<(String, Part)> {
    let name = stored.strip_prefix(PREFIX).unwrap_or(stored);
    let words: Vec<&str> = name.split('.').collect();
    let part = |word: &str| match word {
        "lora_A" => Some(Part::A),
        "lora_B" => Some(Part::B),
        "lora_embedding_A" => Some(Part::EmbeddingA),
        "lora_embedding_B" => Some(Part::EmbeddingB),
        "lora_magnitude_vector" => Some(Part::Magnitude),
        "trainable_tokens_delta" => Some(Part::Rows),
        _ => None,
    };
    if let Some((place, part)) = words.iter().enumerate().find_map(|(place, word)| Some((place, part(word)?)))
    {
        // `weight`, an adapter's name, both or nothing.
        let has_known_end = match &words[place + 1..] {
            [] | [_] => true,
            [_, last] => *last == "weight",
            _ => false,
        };
        let module: Vec<&str> =
            words[..place].iter().copied().filter(|word| *word != "token_adapter").collect();
        let is_bias = words.last() == Some(&"bias");
        return (has_known_end && !is_bias).then(|| (format!("{}{WEIGHT}", module.join(".")), part));
    }
    let mut kept = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        match word {
            "base_layer" => {}
            "modules_to_save" => _ = words.next(),
            word => kept.push(word),
        }
    }
    Some((kept.join("."), Part::Whole))
}

fn not_of_this_model(path: &Path, config: &AdapterConfig, unknown: Vec<String>) -> Error {
    let all = unknown.len();
    let more = if all > 1 { format!(" and {} more", all - 1) } else { String::new() };
    let of = config.base_model_name_or_path.as_deref().filter(|of| !of.is_empty());
    let of = of.map_or_else(String::new, |of| format!("; it was trained on `{of}`"));
    let first = &unknown[0];
    Error::Message(format!(
        "`{}` does not fit this model, which has no place for its tensor `{first}`{more}{of}",
        path.display()
    ))
}

/// A folder without an adapter may hold folders with one.
fn wrong_folder(path: &Path, error: danlu_formats::Error) -> Error {
    if !path.exists() {
        return Error::Message(format!("`{}` does not exist; expected an adapter folder", path.display()));
    }
    let is_missing = matches!(error, danlu_formats::Error::Missing { .. });
    let entries = fs_err::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut inside: Vec<PathBuf> = match is_missing {
        true => entries.filter(|path| path.join("adapter_config.json").is_file()).collect(),
        false => Vec::new(),
    };
    inside.sort();
    match inside.first() {
        Some(inner) => Error::Message(format!("{error}; `{}` is one", inner.display())),
        None => error.into(),
    }
}

fn refuse_unknown_arithmetic(config: &AdapterConfig, folder: &Path) -> Result<()> {
    // These methods take the adapter's start out of the base weights when the adapter is loaded.
    let changes_base = matches!(&config.init_lora_weights, InitLoraWeights::Method(method)
        if ["pissa", "olora", "corda", "loftq"].iter().any(|name| method.to_lowercase().starts_with(name)));
    let is_set = |value: &Value| !matches!(value, Value::Null | Value::Bool(false));
    let changes_forward = |name: &str| {
        name.starts_with("use_")
            || ["alora_invocation_tokens", "arrow_config", "kasa_config", "monteclora_config"].contains(&name)
    };
    let other = config.other_fields.iter().find(|(name, value)| changes_forward(name) && is_set(value));
    let refusals = [
        ("lora_bias", config.lora_bias),
        ("layer_replication", config.layer_replication.is_some()),
        ("target_parameters", config.target_parameters.as_ref().is_some_and(|names| !names.is_empty())),
        ("init_lora_weights", changes_base),
    ];
    let known = refusals.iter().find(|(_, used)| *used).map(|(field, _)| *field);
    match known.or(other.map(|(name, _)| name.as_str())) {
        Some("init_lora_weights") => Err(Error::Config {
            path: folder.join("adapter_config.json"),
            field: "init_lora_weights".into(),
            reason: "this adapter changes the weights of its model when it is loaded; convert it into a plain LoRA \
                     with PEFT's `path_initial_model_for_weight_conversion`"
                .into(),
        }),
        Some(field) => Err(Error::Config {
            path: folder.join("adapter_config.json"),
            field: field.into(),
            reason: "this setting is not supported; remove it by training the adapter without it".into(),
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_with_and_without_what_peft_puts_around_them() {
        let query = "model.layers.0.self_attn.q_proj.weight";
        for (stored, name, part) in [
            ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", query, Part::A),
            ("base_model.model.model.layers.0.self_attn.q_proj.lora_B.default.weight", query, Part::B),
            ("model.layers.0.self_attn.q_proj.lora_B.weight", query, Part::B),
            (
                "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector",
                query,
                Part::Magnitude,
            ),
            ("model.layers.0.self_attn.q_proj.lora_magnitude_vector.default.weight", query, Part::Magnitude),
            ("base_model.model.lm_head.modules_to_save.default.weight", "lm_head.weight", Part::Whole),
            ("base_model.model.lm_head.weight", "lm_head.weight", Part::Whole),
            ("model.embed_tokens.base_layer.weight", "model.embed_tokens.weight", Part::Whole),
            ("model.embed_tokens.lora_embedding_A", "model.embed_tokens.weight", Part::EmbeddingA),
            ("model.embed_tokens.lora_embedding_B.default", "model.embed_tokens.weight", Part::EmbeddingB),
            (
                "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta",
                "model.embed_tokens.weight",
                Part::Rows,
            ),
        ] {
            assert_eq!(module_and_part(stored), Some((name.to_owned(), part)), "{stored}");
        }
        assert_eq!(module_and_part("model.layers.0.self_attn.q_proj.lora_B.bias"), None);
    }
}
