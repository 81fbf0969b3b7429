//! `checkpoint-N/`: everything that a run needs to go on exactly where it stopped.
//!
//! It holds the weights (or the adapter) as any tool loads them, `optimizer.safetensors` with its state, in preference
//! tuning `reference.safetensors` with the log-probabilities at the beginning of the run, `trainer_state.json`, and
//! `training_state.json` with the sums of the run so far and with what must not change in between. Random numbers and the
//! order of the samples are functions of the seed and the step, so the step is all that is kept of them. The folder is
//! written beside and renamed: a kill or a full disk leaves the checkpoints before it as they were.

mod state;

use std::path::{Path, PathBuf};

use danlu_formats::{AtomicFolder, Dtype, SafetensorsFolder, TensorInfo, WriteOptions, write_safetensors};
use danlu_kernels::Buffer;
use danlu_model::{Family, save_adapter, save_folder, save_pth};
use fs_err as fs;

pub(crate) use self::state::{Identity, TrainingState, samples_fingerprint};
use crate::error::{Result, TrainError};
use crate::objective::reference::{self, Reference};
use crate::objective::teacher;
use crate::optimizer::Optimizer;
use crate::prepare::Prepared;
use crate::recipe::{FinetuningType, OutputOptions, Recipe, ResumeFrom, TrainingOptions};
use crate::run_folder::RunFolder;
use crate::samples::SAMPLES;
use crate::tensorboard::FILE_PREFIX;

const STATE: &str = "training_state.json";
const OPTIMIZER: &str = "optimizer";
const RECIPE: &str = "recipe.yaml";
/// Values that are converted and written at a time.
const CHUNK: usize = 1 << 16;

/// Where the checkpoint of a step is.
pub fn folder(output_dir: &Path, step: u64) -> PathBuf {
    output_dir.join(format!("checkpoint-{step}"))
}

/// The day of the samples that a checkpoint was trained on; what is wrong with the checkpoint is told by [`read_state`].
pub fn day(checkpoint: &Path) -> Option<u32> {
    serde_json::from_slice::<TrainingState>(&fs::read(checkpoint.join(STATE)).ok()?).ok()?.identity.day
}

/// The checkpoint that the recipe asks to continue from. `true` means the newest, if there is one.
///
/// # Errors
/// A named checkpoint that is not there, or an output folder with an earlier run that the recipe neither continues nor
/// overwrites.
pub fn find(recipe: &Recipe) -> Result<Option<PathBuf>> {
    let output = &recipe.output;
    check_place(&output.output_dir)?;
    spare_sources(recipe)?;
    let found = match &output.resume_from_checkpoint {
        Some(ResumeFrom::Folder(path)) => {
            AtomicFolder::recover(path)?;
            if let Some(problem) = problem_of(path, recipe.method.finetuning_type) {
                return Err(TrainError::Resume { path: path.clone(), problem });
            }
            // Going on elsewhere is a new run there.
            if !belongs_to(path, &output.output_dir) && !output.overwrite_output_dir {
                refuse_earlier_result(&output.output_dir)?;
            }
            Some(path.clone())
        }
        Some(ResumeFrom::Newest(true)) => list(&output.output_dir)?.pop().map(|(_, path)| path),
        _ if output.overwrite_output_dir => None,
        _ => refuse_earlier_result(&output.output_dir).map(|()| None)?,
    };
    // What a checkpoint holds is read as what it was.
    let is_kind = |change: &String| change.starts_with("`finetuning_type` ");
    if let Some(path) = &found
        && let Some(change) = changes(path, recipe).into_iter().find(is_kind)
    {
        let problem = format!("{change}; restore it, or start a new run from the result of the other");
        return Err(TrainError::Resume { path: path.clone(), problem });
    }
    Ok(found)
}

/// Why a folder is no checkpoint to continue this kind of training from.
fn problem_of(path: &Path, finetuning_type: FinetuningType) -> Option<String> {
    if !path.is_dir() {
        return Some("there is no such folder; expected a `checkpoint-N` folder of danlu".into());
    }
    if !path.join(STATE).is_file() {
        return Some(format!("it has no `{STATE}`; expected a `checkpoint-N` folder of danlu"));
    }
    match (path.join("adapter_config.json").is_file(), finetuning_type) {
        (true, FinetuningType::Full | FinetuningType::Freeze) => {
            Some("it holds an adapter; expected `finetuning_type: lora`".into())
        }
        (false, FinetuningType::Lora) => {
            Some("it holds a whole model; expected `finetuning_type: full`".into())
        }
        _ => None,
    }
}

/// Whether the checkpoint is one of the run in `output_dir`.
pub fn belongs_to(checkpoint: &Path, output_dir: &Path) -> bool {
    // The checkpoint itself may be a link to another disk.
    let run = match checkpoint.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return false,
    };
    run.canonicalize().is_ok_and(|run| output_dir.canonicalize().is_ok_and(|output_dir| run == output_dir))
}

fn refuse_earlier_result(output_dir: &Path) -> Result<()> {
    let Some(found) = earlier_result(output_dir)? else { return Ok(()) };
    let (folder, name) = (output_dir.display(), found.file_name().unwrap_or_default().to_string_lossy());
    let problem = if found.join(STATE).is_file() {
        format!(
            "`{folder}` already holds a run (`{name}`); continue it with `resume_from_checkpoint=true`, replace it with \
             `overwrite_output_dir=true`, or choose another folder"
        )
    } else {
        format!(
            "`{folder}` is not empty (`{name}`); choose another folder, or write into it with \
             `overwrite_output_dir=true`"
        )
    };
    Err(TrainError::Option { key: "output_dir", problem })
}

/// Refuses a run that would write over the model or adapter that it starts from.
fn spare_sources(recipe: &Recipe) -> Result<()> {
    let real = |path: &Path| path.canonicalize().ok();
    let Some(output_dir) = real(&recipe.output.output_dir) else { return Ok(()) };
    let model = &recipe.model;
    let sources = model.model_name_or_path.iter().chain(&model.adapter_name_or_path.0);
    let sources = sources.chain(&recipe.distillation.teacher_model_name_or_path).map(Path::new);
    let within = sources.filter(|source| real(source).is_some_and(|source| source.starts_with(&output_dir)));
    let checkpoint = match &recipe.output.resume_from_checkpoint {
        Some(ResumeFrom::Folder(path)) if real(path).is_some_and(|path| path == output_dir) => {
            Some(path.as_path())
        }
        _ => None,
    };
    match within.chain(checkpoint).next() {
        None => Ok(()),
        Some(source) => {
            let source = source.display();
            let problem =
                format!("the run would write over `{source}`, which it starts from; choose another folder");
            Err(TrainError::Option { key: "output_dir", problem })
        }
    }
}

/// The newest checkpoint of an earlier run, or else the first of whatever lies in the folder but what a teacher said.
fn earlier_result(output_dir: &Path) -> Result<Option<PathBuf>> {
    if let Some((_, newest)) = list(output_dir)?.pop() {
        return Ok(Some(newest));
    }
    if !output_dir.is_dir() {
        return Ok(None);
    }
    let entries =
        fs::read_dir(output_dir)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    Ok(entries.into_iter().filter(|path| !path.ends_with(teacher::FOLDER)).min())
}

/// Refuses a place where no folder can be.
fn check_place(output_dir: &Path) -> Result<()> {
    match output_dir.ancestors().find(|path| path.exists() && !path.as_os_str().is_empty()) {
        Some(file) if !file.is_dir() => {
            let problem = format!("`{}` is a file; expected a folder", file.display());
            Err(TrainError::Option { key: "output_dir", problem })
        }
        _ => Ok(()),
    }
}

/// Removes the checkpoints, logs and results that an earlier run left, so that none is taken for this run's.
pub fn remove_earlier(output_dir: &Path) -> Result<()> {
    for (_, checkpoint) in list(output_dir)? {
        remove(&checkpoint)?;
    }
    if !output_dir.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(output_dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_weights = ["model", "adapter_model"].iter().any(|start| name.starts_with(start))
            && (name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json"))
            || name.starts_with("epoch_") && name.ends_with(".pth");
        let is_result = name.ends_with("_results.json")
            || ["config.json", "generation_config.json", "adapter_config.json", "trainer_state.json"]
                .contains(&name.as_str())
            || ["trainer_log.jsonl", "train.log", "run.json", SAMPLES].contains(&name.as_str());
        if path.is_file() && (is_weights || is_result) {
            fs::remove_file(path)?;
        }
    }
    let events = output_dir.join("runs");
    for entry in events.is_dir().then(|| fs::read_dir(&events)).transpose()?.into_iter().flatten() {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(FILE_PREFIX) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Removes a checkpoint: first what makes it one, so that a kill in between leaves nothing that looks whole.
fn remove(checkpoint: &Path) -> Result<()> {
    fs::remove_file(checkpoint.join(STATE))?;
    Ok(fs::remove_dir_all(checkpoint)?)
}

/// The checkpoints of a run folder, oldest first.
pub fn list(output_dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
    if !output_dir.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(output_dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // A kill between the two renames of a replacement leaves `.checkpoint-N.previous`.
        let visible =
            name.strip_prefix('.').map_or(name.as_str(), |hidden| hidden.trim_end_matches(".previous"));
        let Some(step) = visible.strip_prefix("checkpoint-").and_then(|step| step.parse::<u64>().ok()) else {
            continue;
        };
        let path = output_dir.join(visible);
        AtomicFolder::recover(&path)?;
        if path.join(STATE).is_file() {
            found.push((step, path));
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// Writes `checkpoint-N` and then removes the oldest beyond `save_total_limit`, but not that of the step `spared`.
pub(crate) fn save(
    prepared: &Prepared,
    optimizer: &Optimizer,
    run_folder: &RunFolder,
    reference: &Reference,
    state: &TrainingState,
    epoch: f64,
    spared: Option<u64>,
) -> Result<PathBuf> {
    let output = &prepared.recipe.output;
    let path = folder(&output.output_dir, state.step);
    let folder = AtomicFolder::create(&path)?;
    save_weights(prepared, folder.path())?;
    save_optimizer(optimizer, folder.path())?;
    reference.write(folder.path())?;
    run_folder.save_state(folder.path(), state.step, epoch, state.tokens_seen)?;
    save_recipe(&prepared.recipe, folder.path())?;
    let text = serde_json::to_vec_pretty(state).map_err(std::io::Error::from)?;
    danlu_formats::write_file_atomically(folder.path().join(STATE), &text)?;
    folder.commit()?;
    if let Some(limit) = output.save_total_limit {
        let mut checkpoints = list(&output.output_dir)?;
        // Those of steps that the run has yet to reach belong to an abandoned one and go first.
        checkpoints.sort_by_key(|(step, _)| (*step <= state.step, *step));
        let excess = checkpoints.len().saturating_sub(limit.max(1));
        // The newest stays too, to go on from.
        checkpoints.retain(|(step, _)| Some(*step) != spared && *step != state.step);
        for (_, old) in checkpoints.into_iter().take(excess) {
            remove(&old)?;
        }
    }
    Ok(path)
}

/// Writes the recipe as a run of its own: without what it continues.
pub fn save_recipe(recipe: &Recipe, folder: &Path) -> Result<()> {
    let mut own = recipe.clone();
    own.output.resume_from_checkpoint = None;
    Ok(danlu_formats::write_file_atomically(folder.join(RECIPE), own.to_yaml()?.as_bytes())?)
}

/// What of the recipe is not as it was when `checkpoint` was written, where that is known: `key` with the value then and
/// now. Folders, logs and the machine are nobody's concern.
pub fn changes(checkpoint: &Path, recipe: &Recipe) -> Vec<String> {
    let Ok(text) = fs::read_to_string(checkpoint.join(RECIPE)) else { return Vec::new() };
    let Ok(before) = Recipe::parse::<&str>(RECIPE, &text, &[]) else { return Vec::new() };
    let alike = |recipe: &Recipe| {
        let mut recipe = recipe.clone();
        recipe.output = OutputOptions::default();
        let TrainingOptions { threads, max_memory, recompute, .. } = TrainingOptions::default();
        recipe.training = TrainingOptions { threads, max_memory, recompute, ..recipe.training };
        serde_json::to_value(recipe).unwrap_or_default()
    };
    let (before, now) = (alike(&before.recipe), alike(recipe));
    let written = |value: &serde_json::Value| match value {
        serde_json::Value::Null => "not set".to_owned(),
        value => format!("`{}`", value.as_str().map_or_else(|| value.to_string(), str::to_owned)),
    };
    let keys = now.as_object().into_iter().flat_map(|keys| keys.keys());
    keys.filter(|key| before[key.as_str()] != now[key.as_str()])
        .map(|key| format!("`{key}` was {} and is {}", written(&before[key]), written(&now[key])))
        .collect()
}

/// Makes the weights of the checkpoint of `step` the result of the run.
pub fn copy_weights(output_dir: &Path, step: u64) -> Result<()> {
    let checkpoint = folder(output_dir, step);
    for entry in fs::read_dir(&checkpoint)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_state = name.starts_with(OPTIMIZER)
            || [STATE, RECIPE, reference::FILE_NAME, "trainer_state.json"].contains(&name.as_str());
        if is_state || !path.is_file() {
            continue;
        }
        let partial = output_dir.join(format!(".{name}.partial"));
        fs::copy(&path, &partial)?;
        fs::rename(&partial, output_dir.join(&name))?;
    }
    Ok(())
}

/// Writes the state of the optimizer; one without state has no file.
fn save_optimizer(optimizer: &Optimizer, folder: &Path) -> Result<()> {
    let (floats, codes): (Vec<_>, Vec<_>) =
        (optimizer.state.floats().collect(), optimizer.state.codes().collect());
    let info = |name: &str, dtype, elements| TensorInfo { name: name.into(), dtype, shape: vec![elements] };
    let mut tensors: Vec<TensorInfo> =
        floats.iter().map(|(name, values)| info(name, Dtype::F32, values.len())).collect();
    tensors.extend(codes.iter().map(|(name, values)| info(name, Dtype::U8, values.len())));
    if tensors.is_empty() {
        return Ok(());
    }
    let options = WriteOptions { base_name: OPTIMIZER.into(), max_shard_bytes: usize::MAX };
    write_safetensors(folder, &options, &tensors, |place, sink| -> danlu_formats::Result<()> {
        match floats.get(place) {
            Some((_, values)) => values.host().chunks(CHUNK).try_for_each(|values| {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                sink.write(&bytes)
            }),
            None => sink.write(codes[place - floats.len()].1.host()),
        }
    })?;
    Ok(())
}

/// Writes what is trained: the model with its tokenizer, or the adapter with its tokenizer.
pub fn save_weights(prepared: &Prepared, folder: &Path) -> Result<()> {
    let Prepared { model, tokenizer, recipe, .. } = prepared;
    match &prepared.adapter {
        None => save_folder(model, Some(tokenizer), folder, danlu_formats::DEFAULT_MAX_SHARD_BYTES)?,
        Some(config) => {
            let base = recipe.model.model_name_or_path.as_deref().unwrap_or_default();
            save_adapter(model, config, base, folder)?;
            tokenizer.save(folder)?;
        }
    }
    Ok(())
}

/// Writes `epoch_E.pth`, counted from 0, for a model that came as such a file, whose programs know no other.
pub fn save_epoch(prepared: &Prepared, epoch: u64) -> Result<Option<PathBuf>> {
    let Prepared { model, tokenizer, recipe, adapter, .. } = prepared;
    let source = recipe.model.model_name_or_path.as_deref().map(|name| recipe.model.place(name));
    let is_pth = source.is_some_and(|source| source.extension().is_some_and(|end| end == "pth"));
    if !is_pth || adapter.is_some() || model.config().family != Family::BabyLlama2 {
        return Ok(None);
    }
    let path = recipe.output.output_dir.join(format!("epoch_{epoch}.pth"));
    save_pth(model, Some(tokenizer), &path)?;
    Ok(Some(path))
}

/// Reads the state of a checkpoint.
///
/// # Errors
/// A checkpoint that is damaged, or that other data, another seed, batch size, optimizer or other parameters made.
pub(crate) fn read_state(checkpoint: &Path, prepared: &Prepared, now: &Identity) -> Result<TrainingState> {
    let error = |problem: String| TrainError::Resume { path: checkpoint.into(), problem };
    let text = fs::read_to_string(checkpoint.join(STATE))?;
    let state: TrainingState =
        serde_json::from_str(&text).map_err(|cause| error(format!("`{STATE}`: {cause}")))?;
    if let Some(difference) = state.identity.difference(now, prepared.needs_reference()) {
        return Err(error(format!("{difference}; restore it, or start a new run")));
    }
    if state.step > prepared.total_steps {
        let total = prepared.total_steps;
        return Err(error(format!("it is at step {}, but the run ends at step {total}", state.step)));
    }
    Ok(state)
}

/// Reads the state of the optimizer, as [`save`] wrote it.
///
/// # Errors
/// A checkpoint that is damaged.
pub(crate) fn restore_optimizer(checkpoint: &Path, optimizer: &mut Optimizer) -> Result<()> {
    if optimizer.state.floats().next().is_none() {
        return Ok(());
    }
    let tensors = SafetensorsFolder::open_named(checkpoint, OPTIMIZER)?;
    let bytes = |name: &str| tensors.tensor(name).map(|tensor| tensor.bytes).unwrap_or_default();
    let wrong = |name: &str, expected: usize| {
        let problem = format!("`{OPTIMIZER}.safetensors`: `{name}` does not hold {expected} values");
        TrainError::Resume { path: checkpoint.into(), problem }
    };
    for (name, values) in optimizer.state.floats_mut() {
        if !read_f32(bytes(name), values) {
            return Err(wrong(name, values.len()));
        }
    }
    for (name, values) in optimizer.state.codes_mut() {
        let bytes = bytes(name);
        if bytes.len() != values.len() {
            return Err(wrong(name, values.len()));
        }
        values.host_mut().copy_from_slice(bytes);
    }
    Ok(())
}

fn read_f32(bytes: &[u8], values: &mut Buffer<f32>) -> bool {
    let (chunks, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() || chunks.len() != values.len() {
        return false;
    }
    for (value, bytes) in values.host_mut().iter_mut().zip(chunks) {
        *value = f32::from_le_bytes(*bytes);
    }
    true
}
