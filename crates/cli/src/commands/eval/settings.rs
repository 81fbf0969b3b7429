//! `settings.json` beside answers: by which model and how they were given, so that a run that goes on does not mix two kinds.

use std::path::Path;
use std::time::UNIX_EPOCH;

use anyhow::Result;
use danlu_formats::write_file_atomically;
use danlu_model::Opened;
use fs_err as fs;
use serde_json::{Value, json};

use crate::failure::wrong_input;
use crate::models::{Located, ModelArgs};
use crate::printer::Printer;

/// Opens a model, and tells what of it decides its answers.
///
/// # Errors
/// A model that is not there, or cannot be opened.
pub fn open(args: &ModelArgs, printer: &Printer) -> Result<(Opened, Value)> {
    let located = args.locate(printer)?;
    let files = files_of(&located)?;
    let args = ModelArgs { model: Some(located.model), adapter: located.adapters, ..args.clone() };
    let opened = args.open(printer)?;
    let settings = json!({
        "model": files,
        "precision": format!("{:?}", args.precision).to_lowercase(),
        "quantization_bit": args.quantization_bit.map(|bits| format!("{bits:?}").to_lowercase()),
        "tokenizer": opened.tokenizer()?.fingerprint(),
    });
    Ok((opened, settings))
}

/// The files of a model and its adapters. Weights are large: their size and time say enough.
fn files_of(located: &Located) -> Result<Value> {
    let mut files = Vec::new();
    for path in [&located.model].into_iter().chain(&located.adapters) {
        let mut paths = vec![path.clone()];
        if path.is_dir() {
            paths = fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
            paths.retain(|path| path.is_file());
            paths.sort();
        }
        for path in paths {
            let metadata = fs::metadata(&path)?;
            let modified = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            files.push(json!({ "path": path, "bytes": metadata.len(), "modified": modified }));
        }
    }
    Ok(Value::from(files))
}

/// Makes a folder for answers, or one of these settings go on.
///
/// # Errors
/// Answers there that were given with other settings, and a folder that cannot be written.
pub fn claim(folder: &Path, settings: &Value) -> Result<()> {
    fs::create_dir_all(folder)?;
    let path = folder.join("settings.json");
    if path.exists() {
        let known: Value = serde_json::from_str(&fs::read_to_string(&path)?)
            .map_err(|error| wrong_input(format!("`{}`: {error}", path.display())))?;
        let keys = settings.as_object().into_iter().flatten().map(|(key, _)| key);
        if let Some(key) = keys.into_iter().find(|key| known[key.as_str()] != settings[key.as_str()]) {
            return Err(wrong_input(format!(
                "the answers in `{}` were given with another `{key}` (`settings.json` there tells which): give another \
                 `--output-dir`, or remove that folder",
                folder.display()
            )));
        }
        return Ok(());
    }
    Ok(write_file_atomically(path, &serde_json::to_vec_pretty(settings)?)?)
}
