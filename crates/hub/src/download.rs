//! From an id to a folder: what is here already, else the list of files, the space for them, one file after another,
//! small ones first, so that weights are never there without what explains them.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use fs_err as fs;

use crate::cache::{self, Want};
use crate::check::is_here;
use crate::client::Client;
use crate::transfer::{Step, Transfer, incomplete};
use crate::{DatasetPart, Error, Listing, RemoteFile, Repository, Result, Service, Settings, dataset_files};

/// A hub and the folders of what came from it.
pub struct Hub {
    client: Client,
}

/// How far a download is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The file that is coming.
    pub file: &'a str,
    /// Bytes of all files that are here.
    pub done: u64,
    /// Bytes of all files.
    pub total: u64,
    /// Whether another process is fetching the file, for which this one waits.
    pub is_waiting: bool,
}

/// What a download left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Downloaded {
    /// Where the files are.
    pub folder: PathBuf,
    /// The commit; of ModelScope the revision.
    pub commit: String,
    /// Paths within the folder.
    pub files: Vec<String>,
    /// Bytes of these files.
    pub bytes: u64,
    /// Bytes that came over the network this time.
    pub transferred: u64,
}

impl Hub {
    /// A hub as `settings` say.
    pub fn new(settings: Settings) -> Self {
        Self { client: Client::new(settings) }
    }

    /// How it is set up.
    pub fn settings(&self) -> &Settings {
        &self.client.settings
    }

    /// The folder that holds what is wanted of `repository`, without asking the network.
    pub fn find(&self, repository: &Repository, want: Want) -> Option<PathBuf> {
        cache::find(self.settings(), repository, self.client.revision(repository), want)
    }

    /// The files of `repository`.
    ///
    /// # Errors
    /// Offline, no connection, a repository that is not there or not for everyone, an answer that is none.
    pub fn listing(&self, repository: &Repository) -> Result<Listing> {
        if self.settings().offline {
            return Err(self.offline(repository));
        }
        self.client.listing(repository)
    }

    /// The text of a small file.
    ///
    /// # Errors
    /// As [`listing`](Self::listing).
    pub(crate) fn text(&self, repository: &Repository, commit: &str, path: &str) -> Result<String> {
        self.client.text(&self.client.file_url(repository, commit, path), repository)
    }

    /// The files of `part` of a data set that was downloaded before, with its folder.
    ///
    /// # Errors
    /// None was downloaded; as [`dataset_files`].
    pub fn local_dataset_files(
        &self,
        repository: &Repository,
        part: &DatasetPart,
    ) -> Result<(PathBuf, Vec<RemoteFile>)> {
        let folder = self.find(repository, Want::Any).ok_or_else(|| self.offline(repository))?;
        let mut files = Vec::new();
        list(&folder, "", &mut files)?;
        files.sort_by(|one, other| one.path.cmp(&other.path));
        let card = fs::read_to_string(folder.join("README.md")).ok();
        let files = dataset_files(repository, &files, card.as_deref(), part)?;
        Ok((folder, files))
    }

    fn offline(&self, repository: &Repository) -> Error {
        let Repository { id, kind, .. } = repository;
        Error::Offline { id: id.clone(), kind: kind.name(), cache: self.settings().cache.clone() }
    }

    /// Fetches `files` of `listing` into the cache, or as they are into the folder `to`. What is here already is kept,
    /// what was begun goes on.
    ///
    /// # Errors
    /// Too little space, a network that stays away, a file that is not what the list says, `progress` that breaks.
    pub fn download(
        &self,
        repository: &Repository,
        listing: &Listing,
        files: &[RemoteFile],
        to: Option<&Path>,
        progress: &mut dyn FnMut(&Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Downloaded> {
        let place = Place::new(self.settings(), repository, listing, to);
        let mut files: Vec<&RemoteFile> = files.iter().collect();
        files.sort_by_key(|file| file.size);
        let total = files.iter().map(|file| file.size).sum();
        let mut missing = Vec::new();
        let (mut done, mut needed) = (0, 0);
        for file in files.iter().copied() {
            let target = place.target(file);
            let mut tell =
                |here| progress(&Progress { file: &file.path, done: done + here, total, is_waiting: false });
            if is_here(file, &target, place.repository.is_some(), &mut tell)? {
                done += file.size;
                continue;
            }
            let begun = fs::metadata(incomplete(&target)).map_or(0, |metadata| metadata.len());
            needed += file.size.saturating_sub(begun);
            missing.push((file, target));
        }
        check_space(&place.folder, needed)?;
        if !missing.is_empty() {
            place.record("")?;
        }
        let mut transferred = 0;
        for (file, target) in missing {
            let transfer = Transfer {
                client: &self.client,
                repository,
                url: self.client.file_url(repository, &listing.commit, &file.path),
                file,
                target: &target,
                is_blob: place.repository.is_some(),
            };
            transferred += transfer.run(&mut |step| {
                let (here, is_waiting) = match step {
                    Step::Here(here) => (here, false),
                    Step::Waiting => (0, true),
                };
                progress(&Progress { file: &file.path, done: done + here, total, is_waiting })
            })?;
            done += file.size;
        }
        for file in &files {
            place.link(file)?;
        }
        place.record(&listing.commit)?;
        place.remember(self.client.revision(repository), repository)?;
        let mut names: Vec<String> = files.iter().map(|file| file.path.clone()).collect();
        names.sort();
        let commit = listing.commit.clone();
        Ok(Downloaded { folder: place.folder, commit, files: names, bytes: total, transferred })
    }
}

/// Where files go.
struct Place {
    /// Where they are found.
    folder: PathBuf,
    /// Of the standard cache: the folder above `blobs` and `snapshots`.
    repository: Option<PathBuf>,
    /// Of ModelScope's cache: the file that says which revision the folder holds.
    record: Option<PathBuf>,
    commit: String,
}

impl Place {
    fn new(settings: &Settings, repository: &Repository, listing: &Listing, to: Option<&Path>) -> Self {
        let commit = listing.commit.clone();
        let root = cache::folder_of(settings, repository);
        match (to, settings.service) {
            (Some(folder), _) => Self { folder: folder.to_owned(), repository: None, record: None, commit },
            (None, Service::ModelScope) => {
                let record = Some(root.join(cache::RECORD));
                Self { folder: root, repository: None, record, commit }
            }
            (None, Service::HuggingFace) => {
                let folder = root.join("snapshots").join(&commit);
                Self { folder, repository: Some(root), record: None, commit }
            }
        }
    }

    /// The file that is written.
    fn target(&self, file: &RemoteFile) -> PathBuf {
        match &self.repository {
            Some(root) => root.join("blobs").join(&file.blob),
            None => self.folder.join(&file.path),
        }
    }

    /// Says which revision the folder holds; an empty one while files come.
    fn record(&self, revision: &str) -> Result<()> {
        let Some(path) = &self.record else { return Ok(()) };
        fs::create_dir_all(&self.folder)?;
        Ok(write_beside(path, revision)?)
    }

    fn link(&self, file: &RemoteFile) -> Result<()> {
        if let Some(root) = &self.repository {
            cache::link(&root.join("blobs").join(&file.blob), &self.folder, &file.path)?;
        }
        Ok(())
    }

    /// Says which commit the branch is at, once everything is here.
    fn remember(&self, revision: &str, repository: &Repository) -> Result<()> {
        let Some(root) = &self.repository else { return Ok(()) };
        if repository.commit().is_some() {
            return Ok(());
        }
        let path = root.join("refs").join(revision);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        if fs::read_to_string(&path).is_ok_and(|commit| commit.trim() == self.commit) {
            return Ok(());
        }
        Ok(write_beside(&path, &self.commit)?)
    }
}

/// Writes a small file under a name that no other process uses, and renames it.
fn write_beside(path: &Path, text: &str) -> std::io::Result<()> {
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
    let beside = path.with_added_extension(format!("{}-{number}.incomplete", std::process::id()));
    fs::write(&beside, text)?;
    fs::rename(beside, path)
}

/// The files below `folder`, with `/` in their names.
fn list(folder: &Path, above: &str, files: &mut Vec<RemoteFile>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(name) = name.filter(|name| *name != cache::RECORD) else { continue };
        let name = format!("{above}{name}");
        // A link to a blob counts as what it leads to; one to nothing is no file.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_dir() {
            list(&path, &format!("{name}/"), files)?;
        } else {
            files.push(RemoteFile { path: name, size: metadata.len(), sha256: None, blob: String::new() });
        }
    }
    Ok(())
}

/// Refuses to begin what the disk cannot hold.
fn check_space(folder: &Path, needed: u64) -> Result<()> {
    let mut existing = folder.ancestors().filter(|path| path.is_dir());
    let place = existing.next().unwrap_or(Path::new("."));
    let free = fs4::available_space(place)?;
    if needed > free {
        return Err(Error::Space { folder: place.to_owned(), needed, free });
    }
    Ok(())
}
