//! Ids of a hub where a path is expected: a path that exists wins, then what this or another program downloaded, then
//! the network.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use danlu_data::dataset_info::{HubEntry, hub_entries};
use danlu_hub::{
    DatasetPart, Downloaded, Error, Hub, Kind, Listing, RemoteFile, Repository, Service, Settings, Want,
    model_entry, model_files, size, tokenizer_files,
};
use danlu_train::Recipe;

use crate::failure::wrong_input;
use crate::printer::Printer;
use crate::stop::{self, Interrupted};

/// Whether what is not here may be downloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetch {
    /// After its size was said.
    Allowed,
    /// A plan downloads no model.
    Never,
}

/// Where a model, adapter or vocabulary is: `path` itself, or the place of the id that it spells.
///
/// # Errors
/// An id whose files are not here and do not come.
pub fn place(path: &Path, want: Want, fetch: Fetch, printer: &Printer) -> Result<PathBuf> {
    let Some(repository) = id_of(path) else { return Ok(path.to_owned()) };
    let hub = Hub::new(Settings::from_environment());
    if let Some(folder) = hub.find(&repository, want) {
        return Ok(model_entry(folder));
    }
    let no_path = || format!("`{repository}` is no file or folder here");
    if fetch == Fetch::Never {
        let id = &repository.id;
        return Err(wrong_input(format!(
            "{}; if it is the id of a hub, get it with `danlu download model {id}` first",
            no_path()
        )));
    }
    let listing = hub.listing(&repository).with_context(no_path)?;
    let files = match want {
        Want::Tokenizer => tokenizer_files(&repository, &listing.files)?,
        _ => model_files(&repository, &listing.files)?,
    };
    let downloaded = download(&hub, &repository, &listing, &files, None, printer)?;
    Ok(model_entry(downloaded.folder))
}

/// The folder of a model that was downloaded before, by its id.
pub fn downloaded(id: &str) -> Option<PathBuf> {
    let repository = id_of(Path::new(id))?;
    Hub::new(Settings::from_environment()).find(&repository, Want::Model).map(model_entry)
}

/// How files of models end, and no id.
const FILES: [&str; 6] = ["bin", "gguf", "json", "model", "pth", "safetensors"];

/// The id that stands where a path could stand; none if the path is there, or its first folder is.
fn id_of(path: &Path) -> Option<Repository> {
    let is_file_name = path.extension().is_some_and(|end| FILES.iter().any(|file| end == *file));
    if path.exists() || is_file_name {
        return None;
    }
    let repository = Repository::parse(Kind::Model, path.to_str()?).ok()?;
    let owner = repository.id.split('/').next()?;
    (!Path::new(owner).is_dir()).then_some(repository)
}

/// Finds or fetches every model and data set of a hub that `recipe` names.
///
/// # Errors
/// As [`place`]; a data set that is not read.
pub fn settle(recipe: &mut Recipe, fetch: Fetch, printer: &Printer) -> Result<()> {
    settle_models(recipe, fetch, printer)?;
    settle_data(recipe, printer)
}

/// As [`settle`], the models.
pub fn settle_models(recipe: &mut Recipe, fetch: Fetch, printer: &Printer) -> Result<()> {
    let model = &recipe.model;
    let mut places = BTreeMap::new();
    let models = model.model_name_or_path.iter().chain(&model.adapter_name_or_path.0);
    let models = models.chain(&recipe.distillation.teacher_model_name_or_path);
    let named = models.map(|name| (name, Want::Model));
    for (name, want) in named.chain(model.tokenizer_name_or_path.iter().map(|name| (name, Want::Tokenizer))) {
        if id_of(Path::new(name)).is_some() {
            places.insert(name.clone(), place(Path::new(name), want, fetch, printer)?);
        }
    }
    recipe.model.places = places;
    Ok(())
}

/// As [`settle`], the data sets.
pub fn settle_data(recipe: &mut Recipe, printer: &Printer) -> Result<()> {
    let names: Vec<String> = recipe.data.dataset.iter().chain(&recipe.data.eval_dataset).cloned().collect();
    for entry in hub_entries(&names, &recipe.data.dataset_dir)? {
        let files = dataset(&entry, printer)
            .with_context(|| format!("dataset `{}` of `dataset_info.json`", entry.name))?;
        recipe.data.downloaded.insert(entry.name, files);
    }
    Ok(())
}

/// The files of a data set that `dataset_info.json` names by its id: of ModelScope if that is chosen or the only one.
fn dataset(entry: &HubEntry, printer: &Printer) -> Result<Vec<PathBuf>> {
    let chosen = Settings::from_environment();
    let (service, id) = match (&entry.hugging_face, &entry.model_scope) {
        (_, Some(id)) if chosen.service == Service::ModelScope => (Service::ModelScope, id),
        (Some(id), _) => (Service::HuggingFace, id),
        (None, Some(id)) => (Service::ModelScope, id),
        (None, None) => return Ok(Vec::new()),
    };
    let hub = Hub::new(if service == chosen.service { chosen } else { Settings::of(service) });
    let repository = Repository::parse(Kind::Dataset, id)?;
    let part = DatasetPart {
        subset: entry.subset.clone(),
        folder: entry.folder.clone(),
        split: entry.split.clone(),
    };
    let listing = match hub.listing(&repository) {
        Err(Error::Offline { .. } | Error::Network { .. }) if hub.find(&repository, Want::Any).is_some() => {
            printer.note(format_args!("`{repository}` as it was downloaded before"));
            None
        }
        listing => Some(listing?),
    };
    let (folder, files) = match listing {
        Some(listing) => {
            let rows = hub.dataset_files(&repository, &listing, &part)?;
            // The card says which files are which, when there is no network.
            let card = listing.files.iter().filter(|file| file.path == "README.md");
            let all: Vec<RemoteFile> = rows.iter().chain(card).cloned().collect();
            (download(&hub, &repository, &listing, &all, None, printer)?.folder, rows)
        }
        None => hub.local_dataset_files(&repository, &part)?,
    };
    Ok(files.iter().map(|file| folder.join(&file.path)).collect())
}

/// Downloads `files`, with their size before and a bar meanwhile.
///
/// # Errors
/// As [`Hub::download`].
pub fn download(
    hub: &Hub,
    repository: &Repository,
    listing: &Listing,
    files: &[RemoteFile],
    to: Option<&Path>,
    printer: &Printer,
) -> Result<Downloaded> {
    let total: u64 = files.iter().map(|file| file.size).sum();
    printer.note(format_args!(
        "{repository}: {} files, {}, from {}",
        files.len(),
        size(total),
        hub.settings().endpoint
    ));
    let mut bar = None;
    let mut has_waited = false;
    let downloaded = hub.download(repository, listing, files, to, &mut |progress| {
        if progress.is_waiting && !has_waited {
            has_waited = true;
            printer.note(format_args!("another process downloads `{}`: waiting for it", progress.file));
        }
        let megabytes = progress.total.div_ceil(1_000_000);
        let bar = bar.get_or_insert_with(|| printer.progress("downloading", megabytes));
        bar.set(progress.done / 1_000_000, format_args!("MB, {}", progress.file));
        if stop::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    drop(bar);
    // What follows may not look at it: Ctrl-C ends the program again.
    if !stop::was_requested() {
        stop::clear();
    }
    match downloaded {
        Err(Error::Cancelled) => {
            printer.note(Error::Cancelled);
            Err(Interrupted.into())
        }
        downloaded => Ok(downloaded?),
    }
}
