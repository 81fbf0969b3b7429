//! PEFT's `adapter_config.json` for LoRA: the fields that say what an adapter is, with PEFT's names and defaults.
//!
//! It does not interpret module names. Keys that PEFT 0.7 has are always written, newer ones only when they say
//! something, so that every PEFT that can use the adapter also loads it.

use std::collections::BTreeMap;
use std::path::Path;

use fs_err as fs;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::{Error, Result, write_file_atomically};

const FILE_NAME: &str = "adapter_config.json";

/// `adapter_config.json` of a LoRA adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AdapterConfig {
    /// Always `LORA`; other kinds are refused.
    pub peft_type: String,
    /// `CAUSAL_LM` for language models.
    pub task_type: Option<String>,
    /// Folder or hub id of the model that the adapter was trained on.
    pub base_model_name_or_path: Option<String>,
    /// Revision of the base model on the hub.
    pub revision: Option<String>,
    /// Rank of the low-rank matrices.
    pub r: usize,
    /// Scale: the change of a weight is `B A * lora_alpha / r`.
    #[serde(serialize_with = "whole_if_possible")]
    pub lora_alpha: f64,
    /// Dropout on the input of `A` in training.
    pub lora_dropout: f64,
    /// Which biases were trained too.
    pub bias: Bias,
    /// Modules that have an adapter; `None` only in files that use `target_parameters`.
    pub target_modules: Option<ModuleSelection>,
    /// Modules without one although `target_modules` names them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_modules: Option<ModuleSelection>,
    /// Modules that were trained in full and lie in the adapter as whole copies.
    pub modules_to_save: Option<Vec<String>>,
    /// Rank of single modules, by name or regular expression.
    #[serde(deserialize_with = "null_is_default")]
    pub rank_pattern: BTreeMap<String, usize>,
    /// Alpha of single modules, by name or regular expression.
    #[serde(deserialize_with = "null_is_default", serialize_with = "whole_values_if_possible")]
    pub alpha_pattern: BTreeMap<String, f64>,
    /// Scale by `lora_alpha / sqrt(r)` instead.
    #[serde(skip_serializing_if = "is_false")]
    pub use_rslora: bool,
    /// Weight-decomposed adaptation: a trained magnitude beside the direction.
    #[serde(skip_serializing_if = "is_false")]
    pub use_dora: bool,
    /// How the matrices were initialized.
    pub init_lora_weights: InitLoraWeights,
    /// Layers that have an adapter; all if `None`.
    #[serde(deserialize_with = "one_or_many")]
    pub layers_to_transform: Option<Vec<usize>>,
    /// Name of the list of layers in the model, where it is not a usual one.
    #[serde(deserialize_with = "one_or_many")]
    pub layers_pattern: Option<Vec<String>>,
    /// The weights are stored `[inputs, outputs]`.
    pub fan_in_fan_out: bool,
    /// Written as `true`, as PEFT does, so that a loaded adapter is not trainable by accident.
    pub inference_mode: bool,
    /// Rows of embeddings that were trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trainable_token_indices: Option<TokenIndices>,
    /// Keep tied weights tied where both would be trained.
    #[serde(skip_serializing_if = "is_false")]
    pub ensure_weight_tying: bool,
    /// `B` has a bias.
    #[serde(skip_serializing_if = "is_false")]
    pub lora_bias: bool,
    /// Ranges of layers that the adapted model repeats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer_replication: Option<Vec<(usize, usize)>>,
    /// Parameters (not modules) that have an adapter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_parameters: Option<Vec<String>>,
    /// PEFT's class names of the base model, where the task type does not say them.
    pub auto_mapping: Option<Value>,
    /// Settings of LoftQ's initialization.
    #[serde(deserialize_with = "null_is_default")]
    pub loftq_config: BTreeMap<String, Value>,
    /// Settings of Megatron's parallel layers.
    pub megatron_config: Option<Value>,
    /// Python module of Megatron's layers.
    pub megatron_core: Option<String>,
    /// Keys of other versions of PEFT, which are written again.
    #[serde(flatten)]
    pub other_fields: BTreeMap<String, Value>,
}

/// Which modules: a list of name ends, or one regular expression over whole names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ModuleSelection {
    Names(Vec<String>),
    /// A regular expression, or the word `all-linear`.
    Pattern(String),
}

impl ModuleSelection {
    /// Every linear layer but the head.
    pub fn is_all_linear(&self) -> bool {
        matches!(self, Self::Pattern(pattern) if pattern.eq_ignore_ascii_case("all-linear"))
    }
}

/// Which biases are trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bias {
    #[default]
    None,
    All,
    LoraOnly,
}

/// `true` (`A` random, `B` zero), `false` (both random), or the name of a method such as `gaussian`, `pissa`, `olora`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum InitLoraWeights {
    Flag(bool),
    Method(String),
}

/// Token ids: of the input embedding, or of named modules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TokenIndices {
    Embedding(Vec<usize>),
    Modules(BTreeMap<String, Vec<usize>>),
}

impl Default for AdapterConfig {
    fn default() -> Self {
        Self {
            peft_type: "LORA".to_string(),
            task_type: None,
            base_model_name_or_path: None,
            revision: None,
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            bias: Bias::None,
            target_modules: None,
            exclude_modules: None,
            modules_to_save: None,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            use_rslora: false,
            use_dora: false,
            init_lora_weights: InitLoraWeights::Flag(true),
            layers_to_transform: None,
            layers_pattern: None,
            fan_in_fan_out: false,
            inference_mode: false,
            trainable_token_indices: None,
            ensure_weight_tying: false,
            lora_bias: false,
            layer_replication: None,
            target_parameters: None,
            auto_mapping: None,
            loftq_config: BTreeMap::new(),
            megatron_config: None,
            megatron_core: Some("megatron.core".to_string()),
            other_fields: BTreeMap::new(),
        }
    }
}

impl AdapterConfig {
    /// Reads `adapter_config.json` of an adapter folder. Unknown keys are kept, absent ones have PEFT's defaults.
    pub fn read(folder: impl AsRef<Path>) -> Result<Self> {
        let path = folder.as_ref().join(FILE_NAME);
        if !path.is_file() && folder.as_ref().is_dir() {
            let path = folder.as_ref().to_path_buf();
            return Err(Error::Missing {
                path,
                expected: format!("`{FILE_NAME}`: it is not an adapter folder"),
            });
        }
        let text = fs::read(&path).map_err(|error| Error::io(&path, error))?;
        let config: Self =
            serde_json::from_slice(&text).map_err(|error| Error::Json { path: path.clone(), error })?;
        if config.peft_type != "LORA" {
            let reason = format!("`peft_type` is `{}`; danlu reads `LORA` adapters", config.peft_type);
            return Err(Error::Unsupported { path, reason });
        }
        Ok(config)
    }

    /// Writes `adapter_config.json` into a folder as PEFT does: indented by 2, sorted keys, `inference_mode` true.
    pub fn write(&self, folder: impl AsRef<Path>) -> Result<()> {
        let path = folder.as_ref().join(FILE_NAME);
        let config = Self { inference_mode: true, ..self.clone() };
        let sorted = serde_json::to_value(config)
            .and_then(serde_json::from_value::<BTreeMap<String, Value>>)
            .and_then(|keys| serde_json::to_vec_pretty(&keys))
            .map_err(|error| Error::Json { path: path.clone(), error })?;
        write_file_atomically(path, &sorted)
    }
}

fn is_false(value: &bool) -> bool {
    !*value
}

/// PEFT declares `int`, and prints what the user gave: `16`, not `16.0`.
fn whole_if_possible<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    number(*value).serialize(serializer)
}

fn whole_values_if_possible<S: Serializer>(
    values: &BTreeMap<String, f64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(values.iter().map(|(key, value)| (key, number(*value))))
}

fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { Value::from(value as i64) } else { Value::from(value) }
}

/// PEFT writes `null` for some fields that are empty.
fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// PEFT takes one value in the place of a list of one.
fn one_or_many<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Vec<T>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany<T> {
        One(T),
        Many(Vec<T>),
    }
    let value: Option<OneOrMany<T>> = Option::deserialize(deserializer)?;
    Ok(value.map(|value| match value {
        OneOrMany::One(value) => vec![value],
        OneOrMany::Many(values) => values,
    }))
}
