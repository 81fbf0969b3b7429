//! `settings.json` beside answers: by which model and how they were given, so that a run that goes on does not mix two kinds.

use std::path::Path;

use anyhow::Result;
use danlu_formats::write_file_atomically;
use danlu_kernels::cpu::level;
use danlu_model::Opened;
use danlu_tokenizer::ChatTemplate;
use fs_err as fs;
use serde_json::{Value, json};

use crate::failure::wrong_input;
use crate::models::ModelArgs;
use crate::printer::Printer;

const SETTINGS: &str = "settings.json";

/// Opens a model, and tells what of it decides its answers.
///
/// # Errors
/// A model that is not there, or cannot be opened.
pub fn open(args: &ModelArgs, printer: &Printer) -> Result<(Opened, Value)> {
    let located = args.locate(printer)?;
    let opened = args.open_located(&located, printer)?;
    let mut settings = args.files(&located, &opened)?;
    settings.insert("tokenizer".into(), opened.tokenizer()?.fingerprint().into());
    // With other instructions the last bits differ, and another version may score otherwise.
    settings.insert("isa".into(), level().name().into());
    settings.insert("danlu".into(), env!("CARGO_PKG_VERSION").into());
    Ok((opened, settings.into()))
}

/// Says how conversations are written.
pub fn add_template(settings: &mut Value, template: Option<&ChatTemplate>) {
    settings["template"] = json!(template.map(
        |template| json!({ "source": template.source(), "variables": template.variables(), "day": template.day() })
    ));
}

/// A template that writes the date writes that of the answers which are there.
///
/// # Errors
/// Settings that are damaged.
pub fn on_its_day(folder: &Path, template: Option<ChatTemplate>) -> Result<Option<ChatTemplate>> {
    let known = known(folder)?;
    let day = known.as_ref().and_then(|known| known["template"]["day"].as_u64());
    Ok(match day.and_then(|day| u32::try_from(day).ok()) {
        Some(day) => template.map(|template| template.on_day(day)),
        None => template,
    })
}

/// The settings in a folder, if there are any.
fn known(folder: &Path) -> Result<Option<Value>> {
    let path = folder.join(SETTINGS);
    if !path.exists() {
        return Ok(None);
    }
    let known = serde_json::from_str(&fs::read_to_string(&path)?);
    known.map(Some).map_err(|error| wrong_input(format!("`{}`: {error}", path.display())))
}

/// Whose answers are in a folder, as a report says it: a model with its adapters, or a file of predictions.
///
/// # Errors
/// Settings that are damaged.
pub fn answerer(folder: &Path) -> Result<String> {
    let known = known(folder)?.unwrap_or_default();
    let name = |value: &Value| value.as_str().or(value["path"].as_str()).map(str::to_owned);
    let adapters = known["adapters"].as_array().into_iter().flatten();
    let all = [&known["model"], &known["predictions"]].into_iter().chain(adapters).filter_map(name);
    Ok(all.collect::<Vec<_>>().join(" + "))
}

/// Makes a folder for answers, or one of these settings go on.
///
/// # Errors
/// Answers there that were given with other settings, and a folder that cannot be written.
pub fn claim(folder: &Path, settings: &Value) -> Result<()> {
    fs::create_dir_all(folder)?;
    if let Some(known) = known(folder)? {
        let keys = settings.as_object().into_iter().flatten().map(|(key, _)| key);
        if let Some(key) = keys.into_iter().find(|key| known[key.as_str()] != settings[key.as_str()]) {
            return Err(wrong_input(format!(
                "the answers in `{}` were given with another `{key}` (`{SETTINGS}` there tells which): give another \
                 `--output-dir`, or remove that folder",
                folder.display()
            )));
        }
        return Ok(());
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "jsonl") {
            return Err(wrong_input(format!(
                "`{}` is there without a `{SETTINGS}` that says which model gave these answers: give another `--output-dir`, \
                 or move them away",
                path.display()
            )));
        }
    }
    Ok(write_file_atomically(folder.join(SETTINGS), &serde_json::to_vec_pretty(settings)?)?)
}
