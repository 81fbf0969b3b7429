//! Token ids of a corpus on disk: flat little-endian `.bin` files, as nanoGPT and Baby-Llama2 read them, that grow, survive
//! a kill, and are recognised again by a key. What the ids mean is not known here.
//!
//! A folder holds `shard-00000.bin`, … (uint16 or uint32), beside each `shard-00000.idx` (for each document the number of
//! ids in the shard up to its end, uint64), and `index.json` when all is done. The headerless form is one `.bin` file and
//! a `.json` with the same content beside it.

use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::{Deserialize, Serialize};

use crate::{Error, Result, write_file_atomically};

const INDEX: &str = "index.json";
const PROGRESS: &str = "progress.json";

/// What token files hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenIndex {
    /// Hash of everything that decides the content.
    pub key: String,
    /// `uint16` or `uint32`.
    pub dtype: String,
    /// Ids that can occur: 0 to this, exclusive.
    pub vocabulary_size: usize,
    /// Rows of the corpus that were read.
    pub records: u64,
    /// Documents that were written.
    pub documents: u64,
    /// Ids in all.
    pub tokens: u64,
    /// Each `.bin` file.
    pub shards: Vec<TokenShard>,
}

/// One `.bin` file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenShard {
    /// Its name.
    pub file: String,
    /// Its ids.
    pub tokens: u64,
    /// Its documents, none of which reaches into another file.
    pub documents: u64,
}

/// Where to write token files, and how.
#[derive(Debug, Clone)]
pub struct TokenShardOptions {
    /// Folder of shards, or the `.bin` file of the headerless form.
    pub output: PathBuf,
    /// One `.bin` file without an index of documents.
    pub headerless: bool,
    /// As [`TokenIndex::key`].
    pub key: String,
    /// As [`TokenIndex::vocabulary_size`]; up to 65,536 an id takes two bytes, else four.
    pub vocabulary_size: usize,
    /// A shard is full with so many ids.
    pub tokens_per_shard: u64,
}

/// What is found where token files are to be written.
#[derive(Debug)]
pub enum TokenFiles {
    /// All of it is there already.
    Complete(TokenIndex),
    /// Work to do: from the start, or behind the [`TokenIndex::records`] of a run that was killed.
    Open(Box<TokenShardWriter>),
}

/// Token files under construction.
#[derive(Debug)]
pub struct TokenShardWriter {
    options: TokenShardOptions,
    index: TokenIndex,
    open: Option<(BufWriter<fs::File>, Option<BufWriter<fs::File>>)>,
    /// Of the document that is written, to spare growing.
    bytes: Vec<u8>,
}

impl TokenShardOptions {
    /// Looks at what is there, and continues it or starts anew.
    ///
    /// # Errors
    /// Files of another corpus, or that cannot be read or written.
    pub fn open(self) -> Result<TokenFiles> {
        let failed = |error| Error::io(&self.output, error);
        let folder =
            if self.headerless { self.output.parent().unwrap_or(Path::new("")) } else { &self.output };
        if !folder.as_os_str().is_empty() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let (index, progress) = (self.index_path(), self.progress_path());
        if let Some(found) = self.read(&index)? {
            let part = self.data_path("");
            if self.headerless && !self.output.exists() && part.exists() {
                fs::rename(part, &self.output).map_err(failed)?;
            }
            if self.holds(&found) {
                return Ok(TokenFiles::Complete(found));
            }
        }
        let is_begun = progress.exists();
        let started = self.read(&progress)?;
        let is_taken = match self.headerless {
            true => self.output.exists(),
            false => fs::read_dir(&self.output).map_err(failed)?.next().is_some(),
        };
        if !is_begun && is_taken {
            let expected = "new or empty place for token files";
            return Err(Error::WrongKind { path: self.output, expected });
        }
        let dtype = if self.vocabulary_size <= 1 << 16 { "uint16" } else { "uint32" };
        let fresh = || TokenIndex {
            key: self.key.clone(),
            dtype: dtype.into(),
            vocabulary_size: self.vocabulary_size,
            records: 0,
            documents: 0,
            tokens: 0,
            shards: Vec::new(),
        };
        if started.is_none() && !self.headerless {
            // What another corpus left that was given up, or mended since.
            for entry in fs::read_dir(&self.output).map_err(failed)? {
                let path = entry.map_err(failed)?.path();
                let name = path.file_name().and_then(|name| name.to_str());
                if name.is_some_and(|name| {
                    name.starts_with("shard-") && (name.ends_with(".bin") || name.ends_with(".idx"))
                }) {
                    fs::remove_file(path).map_err(failed)?;
                }
            }
        }
        let index = started.unwrap_or_else(fresh);
        let mut writer = TokenShardWriter { options: self, index, open: None, bytes: Vec::new() };
        if let Some(last) = writer.index.shards.last().cloned() {
            writer.continue_shard(&last)?;
        }
        writer.save_progress()?;
        Ok(TokenFiles::Open(Box::new(writer)))
    }

    /// Whether the files of a finished index are there as it says.
    fn holds(&self, index: &TokenIndex) -> bool {
        let width = if self.is_wide() { 4 } else { 2 };
        index.shards.iter().all(|shard| {
            let path = if self.headerless { self.output.clone() } else { self.output.join(&shard.file) };
            fs::metadata(path).is_ok_and(|metadata| metadata.len() == shard.tokens * width)
        })
    }

    /// An index of this very corpus; none where the work on another one was not finished.
    fn read(&self, path: &Path) -> Result<Option<TokenIndex>> {
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(path).map_err(|error| Error::io(path, error))?;
        let found: Option<TokenIndex> = serde_json::from_str(&text).ok();
        match found {
            Some(index) if index.key == self.key => Ok(Some(index)),
            Some(_) if path == self.progress_path() => Ok(None),
            _ => {
                let expected = "place for this corpus: what is there is of another one, vocabulary or choice of options; give another name";
                Err(Error::WrongKind { path: path.into(), expected })
            }
        }
    }

    fn beside(&self, end: &str) -> PathBuf {
        let mut name = self.output.as_os_str().to_owned();
        name.push(end);
        name.into()
    }

    fn index_path(&self) -> PathBuf {
        if self.headerless { self.beside(".json") } else { self.output.join(INDEX) }
    }

    fn progress_path(&self) -> PathBuf {
        if self.headerless { self.beside(".progress.json") } else { self.output.join(PROGRESS) }
    }

    fn data_path(&self, file: &str) -> PathBuf {
        if self.headerless { self.beside(".part") } else { self.output.join(file) }
    }

    fn is_wide(&self) -> bool {
        self.vocabulary_size > 1 << 16
    }
}

impl TokenShardWriter {
    /// Rows of the corpus that are done already.
    pub fn records(&self) -> u64 {
        self.index.records
    }

    /// What was written so far.
    pub fn index(&self) -> &TokenIndex {
        &self.index
    }

    /// Writes a document.
    ///
    /// # Errors
    /// An id outside of the vocabulary, a file that cannot be written.
    pub fn push(&mut self, ids: &[u32]) -> Result<()> {
        let highest = ids.iter().copied().max();
        if let Some(id) = highest.filter(|&id| id as usize >= self.options.vocabulary_size) {
            let reason = format!("id {id} is outside of the vocabulary of {}", self.options.vocabulary_size);
            return Err(Error::Unsupported { path: self.options.output.clone(), reason });
        }
        let is_full = |shard: &TokenShard| shard.tokens >= self.options.tokens_per_shard;
        if self.open.is_none() || self.index.shards.last().is_none_or(is_full) && !self.options.headerless {
            self.flush()?;
            let number = self.index.shards.len();
            let file = match (self.options.headerless, self.options.output.file_name()) {
                (true, Some(name)) => name.to_string_lossy().into_owned(),
                _ => format!("shard-{number:05}.bin"),
            };
            self.index.shards.push(TokenShard { file: file.clone(), tokens: 0, documents: 0 });
            self.continue_shard(&TokenShard { file, tokens: 0, documents: 0 })?;
        }
        let (Some((data, ends)), Some(shard)) = (&mut self.open, self.index.shards.last_mut()) else {
            return Ok(());
        };
        shard.tokens += ids.len() as u64;
        shard.documents += 1;
        self.index.tokens += ids.len() as u64;
        self.index.documents += 1;
        let is_wide = self.options.is_wide();
        self.bytes.clear();
        match is_wide {
            true => self.bytes.extend(ids.iter().flat_map(|id| id.to_le_bytes())),
            false => self.bytes.extend(ids.iter().flat_map(|&id| (id as u16).to_le_bytes())),
        }
        let mut write = || {
            data.write_all(&self.bytes)?;
            ends.as_mut().map_or(Ok(()), |ends| ends.write_all(&shard.tokens.to_le_bytes()))
        };
        write().map_err(|error| Error::io(&self.options.output, error))
    }

    /// Says that the first `records` rows of the corpus are done, so that a killed run goes on behind them.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn checkpoint(&mut self, records: u64) -> Result<()> {
        self.index.records = records;
        self.flush()?;
        self.save_progress()
    }

    /// Closes the files: the corpus had `records` rows.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn finish(mut self, records: u64) -> Result<TokenIndex> {
        self.checkpoint(records)?;
        let failed = |error| Error::io(&self.options.output, error);
        if self.open.take().is_none() && self.options.headerless {
            fs::write(self.options.data_path(""), []).map_err(failed)?;
        }
        write_json(&self.options.index_path(), &self.index)?;
        if self.options.headerless {
            fs::rename(self.options.data_path(""), &self.options.output).map_err(failed)?;
        }
        fs::remove_file(self.options.progress_path()).map_err(failed)?;
        Ok(self.index)
    }

    fn flush(&mut self) -> Result<()> {
        let failed = |error| Error::io(&self.options.output, error);
        let Some((data, ends)) = &mut self.open else { return Ok(()) };
        // What the progress counts must be there after a loss of power too.
        for file in std::iter::once(data).chain(ends) {
            file.flush().map_err(failed)?;
            file.get_ref().sync_data().map_err(failed)?;
        }
        Ok(())
    }

    fn save_progress(&self) -> Result<()> {
        write_json(&self.options.progress_path(), &self.index)
    }

    /// Opens a shard's files behind what is known to be in them.
    fn continue_shard(&mut self, shard: &TokenShard) -> Result<()> {
        let data = self.options.data_path(&shard.file);
        let ends = (!self.options.headerless).then(|| data.with_extension("idx"));
        let width = if self.options.is_wide() { 4 } else { 2 };
        let data = open_at(&data, shard.tokens * width)?;
        let ends = ends.map(|ends| open_at(&ends, shard.documents * 8)).transpose()?;
        self.open = Some((data, ends));
        Ok(())
    }
}

/// Opens a file, which is cut to so many bytes, for writing behind them.
fn open_at(path: &Path, length: u64) -> Result<BufWriter<fs::File>> {
    let open = || {
        let mut file = fs::OpenOptions::new().create(length == 0).truncate(false).write(true).open(path)?;
        if file.metadata()?.len() < length {
            let path = path.display();
            let message =
                format!("`{path}` should have at least {length} bytes; remove what a killed run left");
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, message));
        }
        file.set_len(length)?;
        file.seek(SeekFrom::End(0))?;
        Ok(BufWriter::with_capacity(1 << 18, file))
    };
    open().map_err(|error| Error::io(path, error))
}

fn write_json(path: &Path, index: &TokenIndex) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(index).map_err(|error| Error::io(path, error.into()))?;
    text.push(b'\n');
    write_file_atomically(path, &text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    fn options(output: PathBuf, headerless: bool) -> TokenShardOptions {
        TokenShardOptions {
            output,
            headerless,
            key: "k".into(),
            vocabulary_size: 70_000,
            tokens_per_shard: 4,
        }
    }

    fn writer(options: TokenShardOptions) -> TokenShardWriter {
        let TokenFiles::Open(writer) = options.open().unwrap() else { panic!("complete") };
        *writer
    }

    #[test]
    fn work_that_was_not_finished_does_not_stand_in_the_way_of_another_corpus() {
        let folder = tempfile::tempdir().unwrap();
        for headerless in [false, true] {
            let wrong = options(folder.path().join(format!("out{headerless}")), headerless);
            let mut given_up = writer(wrong.clone());
            (0..4).for_each(|_| given_up.push(&[1, 2, 3, 4]).unwrap());
            given_up.checkpoint(4).unwrap();
            drop(given_up);
            let right = TokenShardOptions { key: "other".into(), ..wrong };
            let mut anew = writer(right.clone());
            assert_eq!(anew.records(), 0);
            anew.push(&[5]).unwrap();
            anew.finish(1).unwrap();
            if !headerless {
                assert_eq!(
                    fs::read_dir(&right.output).unwrap().count(),
                    3,
                    "a shard, its index and `index.json`"
                );
            }
        }
    }

    #[test]
    fn a_killed_run_goes_on_and_gives_the_same_files() {
        let folder = tempfile::tempdir().unwrap();
        let documents: [&[u32]; 4] = [&[1, 2, 69_999], &[3], &[4, 5], &[6]];
        for headerless in [false, true] {
            let whole = options(folder.path().join(format!("whole{headerless}")), headerless);
            let mut all = writer(whole.clone());
            documents.iter().for_each(|ids| all.push(ids).unwrap());
            let index = all.finish(4).unwrap();
            assert_eq!(index.shards.len(), if headerless { 1 } else { 2 });

            let killed = options(folder.path().join(format!("killed{headerless}")), headerless);
            let mut first = writer(killed.clone());
            documents[..2].iter().for_each(|ids| first.push(ids).unwrap());
            first.checkpoint(2).unwrap();
            first.push(documents[2]).unwrap();
            first.flush().unwrap();
            drop(first);
            let mut second = writer(killed.clone());
            assert_eq!((second.records(), second.index().documents), (2, 2));
            documents[2..].iter().for_each(|ids| second.push(ids).unwrap());
            second.finish(4).unwrap();
            let files = if headerless { vec![""] } else { vec!["shard-00000.bin", "shard-00001.idx"] };
            for file in files {
                let read = |output: &Path| match headerless {
                    true => fs::read(output).unwrap(),
                    false => fs::read(output.join(file)).unwrap(),
                };
                assert_eq!(read(&whole.output), read(&killed.output));
            }
            assert!(
                matches!(killed.clone().open().unwrap(), TokenFiles::Complete(found) if found.tokens == 7)
            );
            let data = if headerless { killed.output.clone() } else { killed.output.join("shard-00000.bin") };
            fs::remove_file(data).unwrap();
            assert!(!matches!(killed.clone().open(), Ok(TokenFiles::Complete(_))), "nothing is there");
            assert!(TokenShardOptions { key: "other".into(), ..killed }.open().is_err());
        }
    }
}
