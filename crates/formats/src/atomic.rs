//! Files and folders that are there whole or not at all: written beside their destination, synced, then renamed.
//!
//! What is being written lies in `.NAME.tmp-PID-N` and is locked. When a run is killed the lock ends with it, and the
//! next write to NAME removes the remains. It does not coordinate two runs that write the same name: the last one wins.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use fs_err as fs;

use crate::{Error, Result};

/// A folder under construction. Dropped without [`commit`](Self::commit), it disappears.
#[derive(Debug)]
pub struct AtomicFolder {
    temporary: PathBuf,
    destination: Destination,
    committed: bool,
    /// Open and locked while the folder is written, so that others see that it is alive.
    _lock: fs::File,
}

impl AtomicFolder {
    /// Starts an empty folder beside `destination`, whose parents are created.
    ///
    /// Also brings back the previous folder if a run was killed while replacing it ([`recover`](Self::recover)),
    /// and removes what killed runs left. A symbolic link to a folder is followed.
    pub fn create(destination: impl AsRef<Path>) -> Result<Self> {
        let destination = Destination::new(destination.as_ref())?;
        if destination.path.exists() && !destination.path.is_dir() {
            return Err(Error::WrongKind { path: destination.path, expected: "folder" });
        }
        fs::create_dir_all(&destination.parent).map_err(|error| destination.failed(error))?;
        destination.settle_previous()?;
        destination.remove_leftovers();

        let temporary = destination.temporary();
        let create = || {
            fs::create_dir(&temporary)?;
            fs::File::open(&temporary)
        };
        let lock = create().map_err(|error| destination.failed(error))?;
        // A file system without locks keeps its leftovers, because then nobody's lock can be taken.
        let _ = lock.try_lock();
        Ok(Self { temporary, destination, committed: false, _lock: lock })
    }

    /// Where to write until [`commit`](Self::commit).
    pub fn path(&self) -> &Path {
        &self.temporary
    }

    /// Puts the folder, with everything in it on the disk, in the place of its destination.
    ///
    /// A folder that was there is replaced as a whole. At every instant the old or the new one is complete under
    /// its name, except between two renames, when a kill leaves the old one as `.NAME.previous`, which
    /// [`create`](Self::create) and [`recover`](Self::recover) bring back.
    pub fn commit(mut self) -> Result<()> {
        let Destination { path, parent, .. } = &self.destination;
        let previous = self.destination.previous();
        let replace = || {
            sync_all_below(&self.temporary)?;
            if path.exists() {
                // Older than what is there now; recovery has had its chance in `create`.
                remove(&previous)?;
                fs::rename(path, &previous)?;
            }
            if let Err(error) = fs::rename(&self.temporary, path) {
                let _ = fs::rename(&previous, path);
                return Err(error);
            }
            sync(parent)
        };
        replace().map_err(|error| self.destination.failed(error))?;
        self.committed = true;
        // The new folder is in place; a failure here leaves only garbage, which the next `create` removes.
        let _ = remove(&previous);
        Ok(())
    }

    /// Brings back the folder `destination` if a run was killed in the middle of replacing it; else does nothing.
    ///
    /// To be called before reading a folder that an interrupted run may have been writing.
    pub fn recover(destination: impl AsRef<Path>) -> Result<()> {
        Destination::new(destination.as_ref())?.settle_previous()
    }
}

impl Drop for AtomicFolder {
    fn drop(&mut self) {
        if !self.committed {
            let _ = remove(&self.temporary);
        }
    }
}

/// A file under construction. Dropped without [`commit`](Self::commit), it disappears.
#[derive(Debug)]
pub struct AtomicFile {
    temporary: PathBuf,
    destination: Destination,
    committed: bool,
    /// Locked, as the folder of [`AtomicFolder`] is.
    file: fs::File,
}

impl AtomicFile {
    /// Starts an empty file beside `destination`, whose folder must be there. A symbolic link to a file is followed.
    pub fn create(destination: impl AsRef<Path>) -> Result<Self> {
        let destination = Destination::new(destination.as_ref())?;
        // Renaming over a device such as `/dev/null` would replace it.
        if destination.path.exists() && !destination.path.is_file() {
            return Err(Error::WrongKind { path: destination.path, expected: "file" });
        }
        destination.remove_leftovers();
        let temporary = destination.temporary();
        let file = fs::File::create_new(&temporary).map_err(|error| destination.failed(error))?;
        let _ = file.try_lock();
        Ok(Self { temporary, destination, committed: false, file })
    }

    /// Appends bytes. Not buffered: give it pieces of many kilobytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|error| self.destination.failed(error))
    }

    /// Puts the file, with all its bytes on the disk, in the place of its destination.
    pub fn commit(mut self) -> Result<()> {
        let replace = || {
            self.file.sync_all()?;
            fs::rename(&self.temporary, &self.destination.path)?;
            sync(&self.destination.parent)
        };
        replace().map_err(|error| self.destination.failed(error))?;
        self.committed = true;
        Ok(())
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if !self.committed {
            let _ = remove(&self.temporary);
        }
    }
}

/// Writes a file as a whole: afterwards `path` holds `bytes`, or on an error what it held before.
pub fn write_file_atomically(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.write(bytes)?;
    file.commit()
}

/// A destination and the names beside it.
#[derive(Debug)]
struct Destination {
    /// As the caller named it, for messages.
    asked: PathBuf,
    path: PathBuf,
    parent: PathBuf,
    name: OsString,
}

impl Destination {
    fn new(path: &Path) -> Result<Self> {
        let absolute = match fs::canonicalize(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => std::path::absolute(path),
            found => found,
        };
        let absolute = absolute.map_err(|error| Error::io(path, error))?;
        match (absolute.parent(), absolute.file_name()) {
            (Some(parent), Some(name)) => {
                let (parent, name) = (parent.to_path_buf(), name.to_os_string());
                Ok(Self { asked: path.to_path_buf(), parent, name, path: absolute })
            }
            _ => Err(Error::WrongKind { path: path.to_path_buf(), expected: "name that can be written" }),
        }
    }

    fn beside(&self, suffix: &str) -> OsString {
        let mut name = OsString::from(".");
        name.push(&self.name);
        name.push(suffix);
        name
    }

    /// A name that no other write uses, in this process or another.
    fn temporary(&self) -> PathBuf {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        self.parent.join(self.beside(&format!(".tmp-{}-{number}", process::id())))
    }

    fn previous(&self) -> PathBuf {
        self.parent.join(self.beside(".previous"))
    }

    /// Names what was asked for; the text of `error` would name the temporary file.
    fn failed(&self, error: io::Error) -> Error {
        let asked = self.asked.display();
        let sentence = match error.get_ref().and_then(|error| error.source()) {
            _ if !self.parent.exists() => {
                format!(
                    "cannot write `{asked}`: there is no folder `{}`; create it first",
                    self.parent.display()
                )
            }
            Some(cause) => format!("cannot write `{asked}`: {cause}"),
            None => format!("cannot write `{asked}`: {error}"),
        };
        Error::io(&self.asked, io::Error::new(error.kind(), sentence))
    }

    /// A replaced folder that is still there: garbage if the new one is in place, else what a kill left of a commit.
    fn settle_previous(&self) -> Result<()> {
        let previous = self.previous();
        if !previous.exists() {
            return Ok(());
        }
        if self.path.exists() {
            let _ = remove(&previous);
            return Ok(());
        }
        fs::rename(&previous, &self.path).map_err(|error| self.failed(error))
    }

    /// Removes what killed runs left beside the destination. Best effort: leftovers cost space, not correctness.
    fn remove_leftovers(&self) {
        let prefix = self.beside(".tmp-");
        let Ok(entries) = fs::read_dir(&self.parent) else { return };
        for entry in entries.flatten() {
            if starts_with(&entry.file_name(), &prefix)
                && fs::File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok())
            {
                let _ = remove(&entry.path());
            }
        }
    }
}

fn starts_with(name: &OsStr, prefix: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(prefix.as_encoded_bytes())
}

/// Removes a file or a folder; that there is none is no error.
fn remove(path: &Path) -> io::Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn sync_all_below(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            sync_all_below(&entry.path())?;
        } else if kind.is_file() {
            sync(&entry.path())?;
        }
    }
    sync(folder)
}

fn sync(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_full_disk_is_said_and_leaves_the_previous_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        fs::write(&path, "before").unwrap();
        let mut file = AtomicFile::create(&path).unwrap();
        // Every write to this device fails as on a full disk.
        file.file = fs::File::options().write(true).open("/dev/full").unwrap();
        let error = file.write(b"after").unwrap_err();
        assert!(matches!(error, Error::DiskFull { .. }), "{error}");
        assert!(error.to_string().contains("state.json") && error.to_string().contains("the disk is full"));
        drop(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "before");
        assert_eq!(names(folder.path()), ["state.json"]);
    }

    #[test]
    fn a_kill_between_the_two_renames_is_repaired() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint-5");
        let destination = Destination::new(&path).unwrap();
        fs::create_dir(destination.previous()).unwrap();
        fs::write(destination.previous().join("weights"), "old").unwrap();
        AtomicFolder::recover(&path).unwrap();
        assert_eq!(fs::read_to_string(path.join("weights")).unwrap(), "old");
        assert_eq!(names(folder.path()), ["checkpoint-5"]);
    }

    #[test]
    fn a_kill_after_the_two_renames_leaves_the_new_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint-5");
        for (place, content) in [(Destination::new(&path).unwrap().previous(), "old"), (path.clone(), "new")]
        {
            fs::create_dir(&place).unwrap();
            fs::write(place.join("weights"), content).unwrap();
        }
        AtomicFolder::recover(&path).unwrap();
        assert_eq!(fs::read_to_string(path.join("weights")).unwrap(), "new");
        assert_eq!(names(folder.path()), ["checkpoint-5"]);
    }

    #[test]
    fn leftovers_of_dead_runs_go_and_those_of_live_ones_stay() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(".model.tmp-1-0")).unwrap();
        fs::write(folder.path().join(".model.tmp-1-0/half"), "x").unwrap();
        fs::write(folder.path().join(".model.tmp-1-1"), "x").unwrap();
        fs::write(folder.path().join(".other.tmp-1-0"), "x").unwrap();
        let live = AtomicFolder::create(folder.path().join("model")).unwrap();
        let second = AtomicFolder::create(folder.path().join("model")).unwrap();
        assert!(live.path().exists() && second.path().exists());
        let left = names(folder.path());
        assert_eq!(left.len(), 3, "{left:?}");
        assert!(left.contains(&".other.tmp-1-0".to_string()));
        drop((live, second));
        assert_eq!(names(folder.path()), [".other.tmp-1-0"]);
    }
}
