//! The recipe: everything that defines a run, in the flat YAML keys of LLaMA-Factory and the Hugging Face Trainer.
//!
//! Each group of options is one struct, the only source of its keys, its documentation and its JSON schema.
//! Nothing here looks at models or datasets: relative paths are kept as they are, relative to the working directory.

mod adapter_options;
mod combinations;
mod deepspeed;
mod distillation_options;
mod embedded;
mod entries;
mod error;
mod evaluation_options;
mod foreign_keys;
mod method_options;
mod model_options;
mod not_done;
mod other_names;
mod output_options;
mod preference_options;
pub mod schema;
#[cfg(test)]
mod tests;
mod training_options;
mod validate;

use std::path::Path;

use danlu_data::{DataOptions, Purpose};
use fs_err as fs;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use self::adapter_options::{AdapterOptions, LoraInit, TokenRows};
pub use self::distillation_options::DistillationOptions;
pub use self::embedded::{EmbeddedRecipe, embedded};
pub use self::error::{Place, RecipeError};
pub use self::evaluation_options::EvaluationOptions;
pub use self::method_options::{FinetuningType, MethodOptions, NameList, Stage};
pub use self::model_options::{ModelOptions, ResizeVocabInit};
pub use self::not_done::{Asks, NOT_DONE, NotDone};
pub use self::other_names::OTHER_NAMES;
pub use self::output_options::{IntervalStrategy, OutputOptions, ResumeFrom};
pub use self::preference_options::{PrefLoss, Preference, PreferenceOptions};
pub use self::training_options::{Clip, Optim, Precision, Recompute, TrainingOptions};
pub use crate::schedule::{LrSchedulerKwargs, LrSchedulerType};

use self::entries::Entry;
use self::error::nearest;
use self::foreign_keys::Foreign;
use crate::schedule::{Schedule, warmup_steps};

/// A training run, as written in a recipe file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Recipe {
    /// Which model is trained.
    #[serde(flatten)]
    pub model: ModelOptions,
    /// What is learned, and by which weights.
    #[serde(flatten)]
    pub method: MethodOptions,
    /// Adapters and frozen layers.
    #[serde(flatten)]
    pub adapter: AdapterOptions,
    /// How preferences are learned.
    #[serde(flatten)]
    pub preference: PreferenceOptions,
    /// What is learned of a larger model.
    #[serde(flatten)]
    pub distillation: DistillationOptions,
    /// What is read, and how rows become samples.
    #[serde(flatten)]
    pub data: DataOptions,
    /// Batches, optimizer, schedule, precision.
    #[serde(flatten)]
    pub training: TrainingOptions,
    /// What is made of validations.
    #[serde(flatten)]
    pub evaluation: EvaluationOptions,
    /// The run folder.
    #[serde(flatten)]
    pub output: OutputOptions,
}

/// A recipe that was read and checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The recipe; its values are in range and fit each other.
    pub recipe: Recipe,
    /// What the user should know, one sentence each.
    pub notices: Vec<String>,
}

impl Recipe {
    /// Reads a recipe file, or the embedded recipe of this name, and applies `overrides` (`key=value`) in order.
    ///
    /// # Errors
    /// [`RecipeError`] with file, line and key.
    pub fn load<S: AsRef<str>>(
        path_or_name: impl AsRef<Path>,
        overrides: &[S],
    ) -> Result<Loaded, RecipeError> {
        let path = path_or_name.as_ref();
        if path.is_file() {
            return Self::parse(&path.display().to_string(), &fs::read_to_string(path)?, overrides);
        }
        let name = path.to_string_lossy();
        match embedded().iter().find(|recipe| recipe.name == name) {
            Some(recipe) => Self::parse(recipe.name, recipe.text, overrides),
            None => Err(RecipeError::NotFound {
                name: path.to_owned(),
                nearest: nearest(&name, embedded().iter().map(|recipe| recipe.name)),
            }),
        }
    }

    /// Reads a recipe from text; `file` names it in messages.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn parse<S: AsRef<str>>(file: &str, text: &str, overrides: &[S]) -> Result<Loaded, RecipeError> {
        let mut entries = Vec::new();
        for entry in entries::from_yaml(file, text)? {
            spell_as_here(entry).into_iter().for_each(|entry| entries::merge(&mut entries, entry));
        }
        for text in overrides {
            let entry = entries::from_override(text.as_ref())?;
            spell_as_here(entry).into_iter().for_each(|entry| entries::merge(&mut entries, entry));
        }

        let mut notices = deepspeed::resolve(&mut entries)?;

        let schema = schema::recipe_schema();
        let properties = schema["properties"].as_object().cloned().unwrap_or_default();
        let mut values = Map::new();
        let mut without_effect = Vec::new();
        for entry in &entries {
            if let Some(NotDone { topic, reason, .. }) = not_done::find(&entry.key, &entry.value) {
                let (place, key, value) = (entry.place.clone(), entry.key.clone(), plain(&entry.value));
                return Err(RecipeError::NotDone { place, key, value, topic, reason });
            }
            if let Some(property) = properties.get(&entry.key) {
                values.insert(entry.key.clone(), typed_value(entry, property)?);
                continue;
            }
            match foreign_keys::judge(&entry.key, &entry.value) {
                Foreign::WithoutEffect => without_effect.push(format!("`{}`", entry.key)),
                Foreign::NotNeeded(reason) => {
                    notices.push(format!("{}: `{}` is not needed: {reason}", entry.place, entry.key));
                }
                Foreign::Refused(reason) => {
                    let (place, key, value) = (entry.place.clone(), entry.key.clone(), plain(&entry.value));
                    return Err(RecipeError::Unsupported { place, key, value, reason });
                }
                Foreign::Unknown => {
                    let other = other_names::option_of(&entry.key).map(str::to_owned);
                    let nearest =
                        other.or_else(|| nearest(&entry.key, properties.keys().map(String::as_str)));
                    return Err(RecipeError::UnknownKey {
                        place: entry.place.clone(),
                        key: entry.key.clone(),
                        nearest,
                    });
                }
            }
        }

        let place = |key: &str| {
            let entry = entries.iter().find(|entry| entry.key == key);
            entry.map_or_else(|| Place::Recipe(file.to_owned()), |entry| entry.place.clone())
        };
        let recipe: Self = serde_json::from_value(Value::Object(values))
            .map_err(|error| RecipeError::Value { place: place(""), problem: error.to_string() })?;
        if let Some((key, problem)) = validate::first_problem(&recipe) {
            return Err(RecipeError::Value { place: place(key), problem });
        }
        recipe.data.validate().map_err(|error| {
            let problem = error.to_string();
            let key = problem.split('`').nth(1).unwrap_or_default().to_owned();
            RecipeError::Value { place: place(&key), problem }
        })?;

        let absent = recipe.output.absent_reporters();
        if !absent.is_empty() {
            notices.push(format!(
                "{}: nothing is sent to {}; `tensorboard` and the logs in the run folder are there",
                place("report_to"),
                absent.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
            ));
        }
        if !without_effect.is_empty() {
            notices
                .push(format!("these keys of the recipe have no effect here: {}", without_effect.join(", ")));
        }
        Ok(Loaded { recipe, notices })
    }

    /// The recipe as YAML with every key, defaults included: what a run folder keeps to say how it was made.
    ///
    /// # Errors
    /// [`RecipeError::Yaml`] when a value cannot be written.
    pub fn to_yaml(&self) -> Result<String, RecipeError> {
        let problem = |problem| RecipeError::Yaml { place: Place::Recipe("recipe".into()), problem };
        let mut value = serde_json::to_value(self).map_err(|error| problem(error.to_string()))?;
        if let Value::Object(entries) = &mut value {
            entries.retain(|_, value| !value.is_null());
        }
        serde_saphyr::to_string(&value).map_err(|error| problem(error.to_string()))
    }

    /// What the stage learns of preferences; none of those that imitate.
    #[must_use]
    pub fn preference(&self) -> Option<Preference> {
        self.preference.preference(&self.method)
    }

    /// What the rows of the data are read for.
    #[must_use]
    pub fn purpose(&self) -> Purpose {
        match (self.method.stage, self.preference()) {
            (Stage::Pt, _) => Purpose::Pretraining,
            (_, None) => Purpose::Conversation,
            (_, Some(Preference::Pairs(_))) => Purpose::Preference,
            (_, Some(Preference::Judged)) => Purpose::Judged,
        }
    }

    /// The learning rate schedule of a run of `total_steps` optimizer steps.
    #[must_use]
    pub fn schedule(&self, total_steps: u64) -> Schedule {
        let training = &self.training;
        let min_lr_rate =
            training.min_lr.map(|min_lr| min_lr / training.learning_rate).or(training.min_lr_rate);
        Schedule {
            kind: training.lr_scheduler_type,
            peak: training.learning_rate,
            warmup_steps: warmup_steps(total_steps, training.warmup_steps, training.warmup_ratio),
            total_steps,
            min_lr_rate: min_lr_rate.unwrap_or(0.0),
            arguments: training.lr_scheduler_kwargs,
        }
    }
}

/// The Hugging Face Trainer's names of optimizers, and the nearest of those that there are.
#[rustfmt::skip]
const OPTIMIZERS: [(Optim, &[&str]); 3] = [
    (Optim::Adamw, &[
        "adamw_torch", "adamw_torch_fused", "adamw_torch_xla", "adamw_torch_npu_fused", "adamw_apex_fused",
        "adamw_anyprecision", "adamw_hf", "paged_adamw", "paged_adamw_32bit",
    ]),
    (Optim::Adamw8bit, &["adamw_bnb_8bit", "adamw_torch_8bit", "paged_adamw_8bit"]),
    (Optim::Lion, &["lion_32bit", "paged_lion_32bit", "lion_8bit", "paged_lion_8bit"]),
];

/// Older and other names: of the Trainer, of axolotl, and of LLaMA-Factory before it had one name for all preferences.
const OLDER_KEYS: [(&str, &str); 8] = [
    ("evaluation_strategy", "eval_strategy"),
    ("early_stopping_patience", "early_stopping_steps"),
    ("dpo_beta", "pref_beta"),
    ("kto_beta", "pref_beta"),
    ("orpo_beta", "pref_beta"),
    ("dpo_loss", "pref_loss"),
    ("dpo_ftx", "pref_ftx"),
    ("kto_ftx", "pref_ftx"),
];

/// Other spellings of the same option: an older key, a nested one, an optimizer's other name, LLaMA-Factory's `use_muon`,
/// `no` that YAML 1.1 reads as false, and the ways in which scripts ask for quantization while loading.
fn spell_as_here(mut entry: Entry) -> Vec<Entry> {
    if entry.key == "optim"
        && let Some((optim, _)) =
            OPTIMIZERS.iter().find(|(_, names)| names.iter().any(|name| entry.value == **name))
    {
        entry.value = optim.name().into();
    }
    if entry.key == "use_muon" && entry.value == Value::Bool(true) {
        (entry.key, entry.value) = ("optim".into(), Optim::Muon.name().into());
    }
    if let Some((_, key)) = OLDER_KEYS.iter().find(|(older, _)| entry.key == *older) {
        entry.key = (*key).to_owned();
    }
    if ["eval_strategy", "save_strategy"].contains(&entry.key.as_str()) && entry.value == Value::Bool(false) {
        entry.value = "no".into();
    }
    match (entry.key.as_str(), &entry.value) {
        // What asks for nothing is left out, so that one of two such keys can be false.
        ("load_in_4bit" | "load_in_8bit", Value::Bool(false)) => Vec::new(),
        ("load_in_kbits" | "load_in_bits", value) if value == 16 || value == 32 => Vec::new(),
        ("load_in_4bit", Value::Bool(true)) => vec![quantization_bit(entry, 4)],
        ("load_in_8bit", Value::Bool(true)) => vec![quantization_bit(entry, 8)],
        ("load_in_kbits" | "load_in_bits", Value::Number(_)) => {
            vec![Entry { key: "quantization_bit".into(), ..entry }]
        }
        // A share of the run, as newer versions of the Trainer have it; it takes the place of a number of steps.
        ("warmup_steps", Value::Number(share))
            if !share.is_u64() && share.as_f64().is_some_and(|share| (0.0..1.0).contains(&share)) =>
        {
            let steps = Entry { value: 0.into(), ..entry.clone() };
            vec![steps, Entry { key: "warmup_ratio".into(), ..entry }]
        }
        // Where a schedule ends is a key of its own.
        ("lr_scheduler_kwargs", Value::Object(arguments)) => {
            let (ends, others): (Map<_, _>, Map<_, _>) = arguments
                .clone()
                .into_iter()
                .partition(|(key, _)| ["min_lr", "min_lr_rate"].contains(&key.as_str()));
            let at_place = |(key, value)| Entry { place: entry.place.clone(), key, value };
            let others =
                (!others.is_empty()).then(|| ("lr_scheduler_kwargs".to_owned(), Value::Object(others)));
            ends.into_iter().chain(others).map(at_place).collect()
        }
        _ => vec![entry],
    }
}

fn quantization_bit(entry: Entry, bits: u64) -> Entry {
    Entry { key: "quantization_bit".into(), value: bits.into(), ..entry }
}

/// The value when its option takes it; text from the command line is tried as it was typed too.
fn typed_value(entry: &Entry, property: &Value) -> Result<Value, RecipeError> {
    let fits = |value: &Value| {
        let single = Map::from_iter([(entry.key.clone(), value.clone())]);
        serde_json::from_value::<Recipe>(Value::Object(single)).is_ok()
    };
    if fits(&entry.value) {
        return Ok(entry.value.clone());
    }
    if let Place::Override(text) = &entry.place {
        let typed = Value::from(text.split_once('=').map_or("", |(_, value)| value));
        if fits(&typed) {
            return Ok(typed);
        }
    }
    let found = plain(&entry.value);
    Err(RecipeError::Type {
        place: entry.place.clone(),
        key: entry.key.clone(),
        expected: schema::expected(property).into(),
        nearest: nearest(&found, schema::choices(property).iter().map(String::as_str)),
        found,
    })
}

/// A value as it is written in YAML.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
