//! A read-only memory map of one file: the only place of this crate that needs `unsafe`.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use fs_err as fs;
use memmap2::Mmap;

use crate::{Error, Result};

#[derive(Debug)]
pub(crate) struct MappedFile {
    path: PathBuf,
    map: Mmap,
}

impl MappedFile {
    pub fn open(path: &Path) -> Result<Self> {
        // Asked before opening, because opening a pipe would wait for its writer.
        let metadata = fs::metadata(path).map_err(|error| Error::io(path, error))?;
        if !metadata.is_file() {
            return Err(Error::WrongKind { path: path.to_path_buf(), expected: "file" });
        }
        let file = fs::File::open(path).map_err(|error| Error::io(path, error))?;
        // SAFETY: the map is read-only, and danlu replaces files by renaming, never in place. A file that another
        // program changes meanwhile shows other bytes, which every reader here treats as data; one that it
        // shortens ends this process, as with every program that maps its model.
        let map = unsafe { Mmap::map(file.file()) }.map_err(|error| {
            let sentence = format!("failed to map `{}` into memory: {error}", path.display());
            Error::io(path, io::Error::new(error.kind(), sentence))
        })?;
        Ok(Self { path: path.to_path_buf(), map })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Lets the kernel take back the pages of `range`; reading them again reads the file again.
    ///
    /// Best effort: a refusal costs memory, not correctness.
    pub fn drop_pages(&self, range: &Range<usize>) {
        if range.is_empty() || range.end > self.map.len() {
            return;
        }
        #[cfg(unix)]
        {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the map is a shared, read-only map of a file, so dropped pages come back with the file's
            // bytes at the next access; borrowed slices keep their content.
            let _ = unsafe { self.map.unchecked_advise_range(advice, range.start, range.len()) };
        }
    }
}
