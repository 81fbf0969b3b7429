//! A DeepSpeed configuration: what of it says how to learn, as keys of the recipe.
//!
//! Schedule, optimizer, clipping, batch sizes and bf16 are read, and `auto` leaves the recipe as it is. Sharding,
//! offloading and everything else about devices has no meaning here and is named in one notice. A value that contradicts
//! the recipe is an error; the schedule replaces the recipe's, as it does under DeepSpeed.

use fs_err as fs;
use serde_json::{Map, Value};

use super::entries::{self, Entry};
use super::error::{Place, RecipeError};
use super::plain;

/// DeepSpeed's keys about devices, precision of its own, logs and communication.
#[rustfmt::skip]
const WITHOUT_EFFECT: &[&str] = &[
    "zero_optimization", "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer", "fp16", "amp", "bfloat16", "data_types",
    "steps_per_print", "wall_clock_breakdown", "dump_state", "memory_breakdown", "flops_profiler", "tensorboard", "wandb", "comet",
    "csv_monitor", "comms_logger", "communication_data_type", "prescale_gradients", "gradient_predivide_factor", "sparse_gradients",
    "activation_checkpointing", "aio", "elasticity", "autotuning", "checkpoint", "data_efficiency", "compile", "nebula", "pipeline",
    "seq_parallel_communication_data_type", "disable_allgather", "dataloader_drop_last", "use_node_local_storage", "tensor_parallel",
    "monitor_config", "comms_config", "fp8",
];

/// DeepSpeed's optimizers and those that compute the same here.
const OPTIMIZERS: &[(&str, &str)] = &[
    ("adam", "adamw"),
    ("adamw", "adamw"),
    ("fusedadam", "adamw"),
    ("cpuadam", "adamw"),
    ("deepspeedcpuadam", "adamw"),
    ("lion", "lion"),
    ("fusedlion", "lion"),
    ("muon", "muon"),
    ("sgd", "sgd"),
];

const SCHEDULERS: &[&str] = &["WarmupLR", "WarmupDecayLR", "WarmupCosineLR"];

/// Puts what the entry `deepspeed` names into `entries`, and says what of it has no effect.
///
/// # Errors
/// A file that cannot be read, a setting that there is not, or one that contradicts the recipe.
pub(super) fn resolve(entries: &mut Vec<Entry>) -> Result<Vec<String>, RecipeError> {
    let Some(position) = entries.iter().position(|entry| entry.key == "deepspeed") else {
        return Ok(Vec::new());
    };
    let entry = entries.remove(position);
    let (name, configuration) = read(&entry)?;
    let file = DeepSpeed { place: Place::Recipe(name.clone()), name };
    let mut without_effect = Vec::new();
    let mut notices = Vec::new();
    for (key, value) in &configuration {
        match key.as_str() {
            "optimizer" => file.optimizer(value, entries)?,
            "scheduler" => notices.extend(file.scheduler(value, entries)?),
            "gradient_clipping" => file.set(key, "max_grad_norm", value, entries)?,
            "gradient_accumulation_steps" => file.set(key, key, value, entries)?,
            "train_micro_batch_size_per_gpu" => {
                file.set(key, "per_device_train_batch_size", value, entries)?;
            }
            "bf16" if value["enabled"] == Value::Bool(true) => {
                file.set("bf16.enabled", "bf16", &value["enabled"], entries)?;
            }
            "bf16" | "train_batch_size" => {}
            // A comment.
            key if key.starts_with('_') => {}
            key if WITHOUT_EFFECT.contains(&key) => without_effect.push(with_parts(key, value)),
            key => without_effect.push(format!("`{key}` (not a key of DeepSpeed)")),
        }
    }
    file.check_batch(&configuration, entries)?;
    if !without_effect.is_empty() {
        notices.push(format!(
            "these keys of `{}` have no effect here: {}",
            file.name,
            without_effect.join(", ")
        ));
    }
    Ok(notices)
}

/// The file's name and what it holds; a mapping in the recipe itself is one too.
fn read(entry: &Entry) -> Result<(String, Map<String, Value>), RecipeError> {
    let error = |problem| RecipeError::Value { place: entry.place.clone(), problem };
    match &entry.value {
        Value::Object(configuration) => Ok(("deepspeed".into(), configuration.clone())),
        Value::String(path) => {
            let text = fs::read_to_string(path).map_err(|cause| {
                error(format!(
                    "`deepspeed`: {cause}; its schedule, optimizer and clipping would be read from it; name the file, or \
                     remove the line"
                ))
            })?;
            match serde_json::from_str(&text) {
                Ok(Value::Object(configuration)) => Ok((path.clone(), configuration)),
                Ok(_) => Err(error(format!("`{path}`: expected a JSON object with the keys of DeepSpeed"))),
                Err(cause) => Err(error(format!("`{path}`: not valid JSON: {cause}"))),
            }
        }
        other => Err(error(format!("`deepspeed` must be the path of a JSON file, found `{}`", plain(other)))),
    }
}

/// `zero_optimization` with what is set in it, for that is what people look for.
fn with_parts(key: &str, value: &Value) -> String {
    let parts: Vec<String> = match (key, value) {
        ("zero_optimization", Value::Object(parts)) => parts
            .iter()
            .filter(|(name, _)| *name == "stage" || name.starts_with("offload"))
            .map(|(name, value)| if value.is_object() { name.clone() } else { format!("{name} {value}") })
            .collect(),
        _ => Vec::new(),
    };
    if parts.is_empty() { format!("`{key}`") } else { format!("`{key}` ({})", parts.join(", ")) }
}

struct DeepSpeed {
    name: String,
    place: Place,
}

impl DeepSpeed {
    fn refuse<T>(&self, problem: String) -> Result<T, RecipeError> {
        Err(RecipeError::Value { place: self.place.clone(), problem })
    }

    /// Sets `key` of the recipe to what `name` says; `auto` and null say nothing.
    fn set(&self, name: &str, key: &str, value: &Value, entries: &mut Vec<Entry>) -> Result<(), RecipeError> {
        if value.is_null() || value == "auto" {
            return Ok(());
        }
        let (outer, inner) = key.split_once('.').unwrap_or((key, ""));
        let present = entries.iter().find(|entry| entry.key == outer);
        let present = present.and_then(|entry| match inner {
            "" => Some((&entry.place, &entry.value)),
            inner => Some((&entry.place, entry.value.get(inner)?)),
        });
        let Some((place, written)) = present else {
            let entry = Entry { place: self.place.clone(), key: key.to_owned(), value: value.clone() };
            entries::merge(entries, entry);
            return Ok(());
        };
        if written == value || written.as_f64().is_some() && written.as_f64() == value.as_f64() {
            return Ok(());
        }
        Err(RecipeError::Value {
            place: place.clone(),
            problem: format!(
                "`{key}: {}` contradicts `{name}: {}` of `{}`; make them equal, or write `\"auto\"` there",
                plain(written),
                plain(value),
                self.name
            ),
        })
    }

    fn optimizer(&self, optimizer: &Value, entries: &mut Vec<Entry>) -> Result<(), RecipeError> {
        let kind = optimizer["type"].as_str().unwrap_or_default();
        let Some((_, optim)) = OPTIMIZERS.iter().find(|(name, _)| *name == kind.to_lowercase()) else {
            return self.refuse(format!(
                "`optimizer.type` must be one of `Adam`, `AdamW`, `Lion`, `Muon`, `SGD`, found `{kind}`"
            ));
        };
        self.set("optimizer.type", "optim", &Value::from(*optim), entries)?;
        for (name, value) in optimizer["params"].as_object().into_iter().flatten() {
            let full_name = format!("optimizer.params.{name}");
            match (name.as_str(), value) {
                ("betas", Value::Array(betas)) if betas.len() == 2 => {
                    self.set(&full_name, "adam_beta1", &betas[0], entries)?;
                    self.set(&full_name, "adam_beta2", &betas[1], entries)?;
                }
                ("betas", Value::String(auto)) if auto == "auto" => {}
                ("lr", _) => self.set(&full_name, "learning_rate", value, entries)?,
                ("eps", _) => self.set(&full_name, "adam_epsilon", value, entries)?,
                ("weight_decay", _) => self.set(&full_name, "weight_decay", value, entries)?,
                ("torch_adam" | "fused" | "foreach", _)
                | ("adam_w_mode" | "bias_correction", Value::Bool(true))
                | ("amsgrad" | "nesterov", Value::Bool(false)) => {}
                ("momentum", value) if value.as_f64() == Some(0.0) => {}
                _ => {
                    return self.refuse(format!(
                        "`{full_name}: {}` is not supported: `optim: {optim}` has no such setting; remove it",
                        plain(value)
                    ));
                }
            }
        }
        Ok(())
    }

    /// Sets the schedule, and says so if the recipe has another.
    fn scheduler(&self, scheduler: &Value, entries: &mut Vec<Entry>) -> Result<Option<String>, RecipeError> {
        let kind = scheduler["type"].as_str().unwrap_or_default();
        if !SCHEDULERS.contains(&kind) {
            return self.refuse(format!(
                "`scheduler.type` must be one of `WarmupLR`, `WarmupDecayLR`, `WarmupCosineLR`, found `{kind}`; or remove \
                 `scheduler` and set `lr_scheduler_type` in the recipe"
            ));
        }
        let written = entries.iter().position(|entry| entry.key == "lr_scheduler_type");
        let replaced = written.map(|position| entries.remove(position)).filter(|entry| entry.value != kind);
        self.set("scheduler.type", "lr_scheduler_type", &Value::from(kind), entries)?;
        for (name, value) in scheduler["params"].as_object().into_iter().flatten() {
            let key = match name.as_str() {
                "warmup_max_lr" => "learning_rate",
                "warmup_num_steps" => "warmup_steps",
                "warmup_min_lr" | "warmup_type" | "total_num_steps" | "warmup_min_ratio"
                | "cos_min_ratio" => &format!("lr_scheduler_kwargs.{name}"),
                "last_batch_iteration" => continue,
                _ => return self.refuse(format!("`scheduler.params.{name}` is not a setting of `{kind}`")),
            };
            self.set(&format!("scheduler.params.{name}"), key, value, entries)?;
        }
        Ok(replaced.map(|entry| {
            let (place, written) = (&entry.place, plain(&entry.value));
            format!("{place}: `lr_scheduler_type: {written}` is replaced by `{kind}` of `{}`", self.name)
        }))
    }

    /// The whole batch of DeepSpeed is the samples of a step here.
    fn check_batch(&self, configuration: &Map<String, Value>, entries: &[Entry]) -> Result<(), RecipeError> {
        let Some(whole) = configuration.get("train_batch_size").and_then(Value::as_u64) else {
            return Ok(());
        };
        let default = super::TrainingOptions::default();
        let number = |key: &str, default: usize| {
            let entry = entries.iter().find(|entry| entry.key == key);
            entry.and_then(|entry| entry.value.as_u64()).unwrap_or(default as u64)
        };
        let batch = number("per_device_train_batch_size", default.per_device_train_batch_size);
        let accumulation = number("gradient_accumulation_steps", default.gradient_accumulation_steps);
        if batch.saturating_mul(accumulation) == whole {
            return Ok(());
        }
        self.refuse(format!(
            "`train_batch_size: {whole}` is not `per_device_train_batch_size` ({batch}) times \
             `gradient_accumulation_steps` ({accumulation}); there is one process, so raise one of them, or write `\"auto\"`"
        ))
    }
}
