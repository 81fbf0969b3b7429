//! Folders that other programs filled: the cache of `huggingface_hub` (`models--org--name/{refs,blobs,snapshots}`) and
//! ModelScope's plain folders. Found here, a model needs no network.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::Deserialize;

use crate::select::{holds_vocabulary, is_weights};
use crate::{Kind, Repository, Service, Settings};

/// Within a folder of ModelScope's: the revision of its files, or nothing while they come. Other programs write none.
pub(crate) const RECORD: &str = ".danlu-revision";

/// What a folder must hold to be of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// All weights of a model or adapter.
    Model,
    /// A vocabulary.
    Tokenizer,
    /// Anything.
    Any,
}

/// The folder of a repository within the cache.
pub(crate) fn folder_of(settings: &Settings, repository: &Repository) -> PathBuf {
    match settings.service {
        Service::HuggingFace => {
            let name = format!("{}--{}", repository.kind.plural(), repository.id.replace('/', "--"));
            settings.cache.join(name)
        }
        Service::ModelScope => {
            settings.cache.join(repository.kind.plural()).join(model_scope_name(repository))
        }
    }
}

/// ModelScope's own programs write no dots into names of folders.
fn model_scope_name(repository: &Repository) -> PathBuf {
    let (owner, name) = repository.id.split_once('/').unwrap_or(("", &repository.id));
    Path::new(owner).join(name.replace('.', "___"))
}

/// The folder with the files of `repository`, if it is there; `revision` is what its main branch is called.
pub(crate) fn find(
    settings: &Settings,
    repository: &Repository,
    revision: &str,
    want: Want,
) -> Option<PathBuf> {
    let folder = folder_of(settings, repository);
    let folders = match settings.service {
        Service::HuggingFace => {
            let commit = match repository.commit() {
                Some(commit) => commit.to_owned(),
                None => fs::read_to_string(folder.join("refs").join(revision)).ok()?.trim().to_owned(),
            };
            let is_name = !commit.is_empty() && commit.bytes().all(|byte| byte.is_ascii_alphanumeric());
            if !is_name {
                return None;
            }
            vec![folder.join("snapshots").join(commit)]
        }
        // Older versions had one folder less.
        Service::ModelScope => {
            let name = model_scope_name(repository);
            let older = match repository.kind {
                Kind::Model => vec![settings.cache.join("hub").join(&name), settings.cache.join(&name)],
                Kind::Dataset => Vec::new(),
            };
            [folder].into_iter().chain(older).collect()
        }
    };
    let is_meant = |folder: &Path| {
        settings.service == Service::HuggingFace || is_at(folder, repository.revision.is_some(), revision)
    };
    folders.into_iter().find(|folder| folder.is_dir() && is_meant(folder) && is_complete(folder, want))
}

/// Whether a plain folder holds `revision`. What other programs left is taken only if none `is_named`, and only if
/// nothing in it is half there.
fn is_at(folder: &Path, is_named: bool, revision: &str) -> bool {
    match fs::read_to_string(folder.join(RECORD)) {
        Ok(record) => record == revision,
        Err(_) => !is_named && !holds_incomplete(folder),
    }
}

fn holds_incomplete(folder: &Path) -> bool {
    fs::read_dir(folder).into_iter().flatten().flatten().any(|entry| {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        entry.path().extension().is_some_and(|end| end == "incomplete")
            || is_folder && holds_incomplete(&entry.path())
    })
}

#[derive(Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

/// Whether what is wanted is all there: a download may have been broken off.
fn is_complete(folder: &Path, want: Want) -> bool {
    let names: Vec<String> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        // A link to nothing is no file.
        .filter(|path| path.is_file())
        .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
        .collect();
    match want {
        Want::Any => fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()),
        Want::Tokenizer => holds_vocabulary(&names),
        Want::Model => {
            let indexes = names.iter().filter(|name| name.ends_with(".index.json"));
            let indexes: Vec<Option<Index>> = indexes.map(|name| read_index(&folder.join(name))).collect();
            let files = |index: &Index| index.weight_map.values().cloned().collect::<HashSet<String>>();
            let parts: Vec<HashSet<String>> = indexes.iter().flatten().map(files).collect();
            let is_part = |name: &String| {
                !indexes.is_empty() && name.contains("-of-") || parts.iter().any(|parts| parts.contains(name))
            };
            parts.iter().any(|parts| !parts.is_empty() && parts.iter().all(|part| names.contains(part)))
                || names.iter().any(|name| is_weights(name) && !is_part(name))
        }
    }
}

fn read_index(path: &Path) -> Option<Index> {
    serde_json::from_str(&fs::read_to_string(path).ok()?).ok()
}

/// Puts `path` of the snapshot in place: a link to its blob, as `huggingface_hub` makes it.
pub(crate) fn link(blob: &Path, snapshot: &Path, path: &str) -> std::io::Result<()> {
    let place = snapshot.join(path);
    if place.exists() {
        return Ok(());
    }
    if let Some(folder) = place.parent() {
        fs::create_dir_all(folder)?;
    }
    // A link to a blob that is gone.
    if fs::symlink_metadata(&place).is_ok() {
        fs::remove_file(&place)?;
    }
    let up = "../".repeat(path.split('/').count() + 1);
    let name = blob.file_name().unwrap_or_default();
    let target = Path::new(&up).join("blobs").join(name);
    #[cfg(unix)]
    return fs::os::unix::fs::symlink(target, place);
    #[cfg(not(unix))]
    {
        _ = target;
        fs::hard_link(blob, place)
    }
}
