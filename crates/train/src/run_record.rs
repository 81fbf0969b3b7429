//! `run.json`: what a result was made by and from, so that it can be made again: versions, machine, seeds, hashes of the data,
//! sizes and times of the files of the model.
//!
//! The options are in `recipe.yaml` beside it.

use std::io::Error;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use danlu_data::data_files;
use danlu_formats::write_file_atomically;
use danlu_kernels::{cpu, team};
use fs_err as fs;
use serde::Serialize;
use serde_json::{Value, json};

use crate::error::Result;
use crate::machine;
use crate::prepare::Prepared;

/// A file of a model or an adapter. Weights are large: their size and time say enough.
#[derive(Serialize)]
struct ModelFile {
    path: PathBuf,
    bytes: u64,
    /// Seconds since 1970.
    modified: u64,
}

/// Writes what is known of a run before its first step; `data_fingerprint` is that of checkpoints.
///
/// # Errors
/// A file that cannot be read or written.
pub(crate) fn write(prepared: &Prepared, data_fingerprint: u64, resumed_at: u64) -> Result<()> {
    let recipe = &prepared.recipe;
    let (data, training) = (&recipe.data, &recipe.training);
    let purpose = recipe.purpose();
    let named = |name: &String| -> Result<Value> {
        Ok(json!({ "name": name, "files": files_of(&recipe.model.place(name))? }))
    };
    let record = json!({
        "danlu": env!("CARGO_PKG_VERSION"),
        // With other instructions the bits differ.
        "machine": {
            "processor": machine::processor(),
            "isa": format!("{:?}", cpu::level()).to_lowercase(),
            "threads": team::threads(),
        },
        "precision": prepared.precision(),
        "seed": training.seed,
        "data_seed": training.data_seed(),
        "model": recipe.model.model_name_or_path.as_ref().map(named).transpose()?,
        "teacher": recipe.distillation.teacher_model_name_or_path.as_ref().map(named).transpose()?,
        "adapters": recipe.model.adapter_name_or_path.0.iter().map(named).collect::<Result<Vec<_>>>()?,
        "data": {
            "dataset": data.dataset,
            "files": data_files(data, purpose, &data.dataset)?,
            "eval_dataset": data.eval_dataset,
            "eval_files": data_files(data, purpose, &data.eval_dataset)?,
            "training_samples": prepared.training.len(),
            "training_tokens": prepared.training.tokens(),
            "validation_samples": prepared.validation.len(),
            // Of every token, loss weight and the order.
            "fingerprint": format!("{data_fingerprint:016x}"),
        },
        "tokenizer": prepared.tokenizer.fingerprint(),
        "total_steps": prepared.total_steps,
        "resumed_at": resumed_at,
    });
    let text = serde_json::to_vec_pretty(&record).map_err(Error::from)?;
    Ok(write_file_atomically(recipe.output.output_dir.join("run.json"), &text)?)
}

/// The files of a model: itself, or those in its folder; none where a run that goes on needs it no more and it is gone.
fn files_of(path: &Path) -> Result<Option<Vec<ModelFile>>> {
    if !path.exists() {
        return Ok(None);
    }
    let mut paths = vec![path.to_owned()];
    if path.is_dir() {
        paths = fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        paths.retain(|path| path.is_file());
        paths.sort();
    }
    let file = |path: PathBuf| {
        let metadata = fs::metadata(&path)?;
        let modified = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Ok(ModelFile { path, bytes: metadata.len(), modified })
    };
    paths.into_iter().map(file).collect::<Result<_>>().map(Some)
}
