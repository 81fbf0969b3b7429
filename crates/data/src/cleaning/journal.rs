//! How far a run is, beside its output: `OUT.parts/` holds the rows that are done and a journal. A run that was killed
//! goes on behind them, if sources and options are the same; a finished one removes the folder.

use std::path::{Path, PathBuf};

use danlu_formats::write_file_atomically;
use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::report::CleaningReport;
use super::run::parts_folder;
use crate::error::{DataError, Result};

/// How far a run is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Journal {
    /// Hash of sources and options.
    pub key: String,
    /// Files that are done.
    pub files: usize,
    /// Rows of the file behind them that are done.
    pub rows: u64,
    /// Parts that hold what was written.
    pub parts: u64,
    /// What was counted.
    pub report: CleaningReport,
}

/// The folder of parts, locked.
#[derive(Debug)]
pub(super) struct Parts {
    folder: PathBuf,
    _lock: fs::File,
}

impl Parts {
    /// Opens the folder, which is created.
    ///
    /// # Errors
    /// Another run that holds it; a place that cannot be written.
    pub fn open(output: &Path) -> Result<Self> {
        let folder = parts_folder(output);
        fs::create_dir_all(&folder)?;
        let lock = fs::File::create(folder.join("lock"))?;
        // A file system without locks cannot tell.
        if let Err(std::fs::TryLockError::WouldBlock) = lock.try_lock() {
            return Err(DataError::Busy { path: output.to_owned() });
        }
        Ok(Self { folder, _lock: lock })
    }

    /// Where other files of the run may lie.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// What a former run left. A damaged journal is as good as none.
    pub fn journal(&self) -> Option<Journal> {
        serde_json::from_slice(&fs::read(self.journal_path()).ok()?).ok()
    }

    /// Removes the journal, and with it the meaning of the parts.
    ///
    /// # Errors
    /// A file that cannot be removed.
    pub fn forget(&self) -> Result<()> {
        Ok(fs::remove_file(self.journal_path())?)
    }

    /// Adds a part to those of the journal.
    ///
    /// # Errors
    /// A full disk.
    pub fn save(&self, part: &mut Vec<u8>, journal: &mut Journal) -> Result<()> {
        if !part.is_empty() {
            write_file_atomically(self.part(journal.parts), part)?;
            journal.parts += 1;
            part.clear();
        }
        let text = serde_json::to_vec(journal).map_err(std::io::Error::from)?;
        Ok(write_file_atomically(self.journal_path(), &text)?)
    }

    /// The parts in order.
    pub fn parts(&self, journal: &Journal) -> impl Iterator<Item = PathBuf> {
        (0..journal.parts).map(|number| self.part(number))
    }

    /// Removes the folder.
    ///
    /// # Errors
    /// A folder that cannot be removed.
    pub fn remove(self) -> Result<()> {
        Ok(fs::remove_dir_all(&self.folder)?)
    }

    fn part(&self, number: u64) -> PathBuf {
        self.folder.join(format!("part-{number:06}"))
    }

    fn journal_path(&self) -> PathBuf {
        self.folder.join("journal.json")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_runs_do_not_share_a_folder_and_damage_is_no_journal() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        let parts = Parts::open(&output).unwrap();
        assert!(matches!(Parts::open(&output), Err(DataError::Busy { .. })));
        let mut journal = Journal { key: "k".into(), rows: 7, ..Journal::default() };
        parts.save(&mut b"{}\n".to_vec(), &mut journal).unwrap();
        drop(parts);
        let parts = Parts::open(&output).unwrap();
        assert_eq!(parts.journal(), Some(journal));
        fs::write(parts.journal_path(), "{").unwrap();
        assert_eq!(parts.journal(), None);
    }
}
