//! Tokenized samples kept between runs: a folder that is named by the hash of everything that decides them, the content of
//! the files, the vocabulary, the template and the options, never by a name. While it is made its name ends in `.part`; a
//! killed run leaves it, and the next goes on behind the rows that it had noted.
//!
//! A folder holds `words.bin` (ids, and weights as runs), `samples.bin` (an entry for each sample) and `account.json`, in
//! the byte order of the machine: it is of use on the machine that made it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::SystemTime;

use danlu_formats::write_file_atomically;
use danlu_tokenizer::Tokenizer;
use fs_err as fs;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::data_files;
use crate::dataset::Task;
use crate::error::{DataError, Result};
use crate::options::DataOptions;
use crate::records::split_sheet;
use crate::report::{CacheReport, DatasetReport};
use crate::sample_store::{Entry, Files, SampleStore, StoreBuilder};

/// Data sets of fewer bytes are kept only where `tokenized_path` says so: they are tokenized in a moment.
const LEAST_BYTES: u64 = 32 << 20;
/// What the user's cache folder may hold; the folders that were not used for the longest time go first.
const MOST_BYTES: u64 = 20_000_000_000;
/// Part of the key: another form of the files, another meaning of the options.
const VERSION: u32 = 3;

const WORDS: &str = "words.bin";
const SAMPLES: &str = "samples.bin";
const ACCOUNT: &str = "account.json";

/// How far the work is, and what it came to so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Account {
    /// What was read of the data set that is not done: rows, with those that are bad, and remarks between them.
    pub read: u64,
    /// Rows of it that count for its limit.
    pub taken: usize,
    /// Words that were written.
    pub words: u64,
    /// Samples that were written.
    pub samples: u64,
    /// Number of samples up to the end of each data set that is done.
    pub dataset_ends: Vec<usize>,
    /// What was counted of each data set that was begun.
    pub counts: Vec<Counts>,
    /// Ids of documents that did not yet fill a block.
    pub carried: Vec<u32>,
    /// File and line of the row that they begin in.
    pub carried_from: Option<(PathBuf, u64)>,
    /// The counts of all data sets, once all is done.
    pub report: DatasetReport,
}

/// What was counted of a data set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub report: DatasetReport,
    /// Rows by their number of tokens.
    pub lengths: BTreeMap<usize, u64>,
    /// Samples whose last trained token is no end token.
    pub missing_ends: u64,
}

/// Where the samples of these files belong.
#[derive(Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
    /// Every file that is read, with its size and time.
    files: Vec<(PathBuf, u64, SystemTime)>,
    is_automatic: bool,
}

impl Cache {
    /// The place for the data sets `names`; none where they are small and no place is given, or where there is no folder
    /// for it.
    ///
    /// # Errors
    /// A data set that is not there, a file that cannot be read.
    pub(crate) fn find(
        options: &DataOptions,
        tokenizer: &Tokenizer,
        task: Task<'_>,
        names: &[String],
    ) -> Result<Option<Self>> {
        let mut files = Vec::new();
        let mut hash = Sha256::new();
        let (version, program) = (VERSION, env!("CARGO_PKG_VERSION"));
        hash.update(format!("{version} {program} {} {:?}\n", tokenizer.fingerprint(), deciding(options)));
        if let Task::Conversation { template, tokens }
        | Task::Preference { template, tokens }
        | Task::Judged { template, tokens } = task
        {
            let (variables, day) = (template.variables(), template.day());
            hash.update(format!("{tokens:?}\n{variables:?}\n{day:?}\n{}\n", template.source()));
        }
        for name in names {
            let (paths, meaning) = data_files::paths(options, task.purpose(), name)?;
            if !meaning.is_empty() {
                hash.update(format!("{meaning}\n"));
            }
            for path in paths {
                let metadata = fs::metadata(split_sheet(&path).0)?;
                files.push((path, metadata.len(), metadata.modified()?));
            }
            files.push((PathBuf::new(), 0, SystemTime::UNIX_EPOCH));
        }
        let bytes: u64 = files.iter().map(|file| file.1).sum();
        let root = match (&options.tokenized_path, default_root()) {
            (Some(root), _) => root.clone(),
            (None, Some(root)) if bytes >= LEAST_BYTES && fs::create_dir_all(&root).is_ok() => root,
            _ => return Ok(None),
        };
        for (path, bytes, _) in &files {
            // Its endings decide how it is read, and the sheet behind them; the entry without a name ends a data set.
            let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
            let endings = name.split_once('.').unwrap_or_default().1;
            hash.update(format!("{bytes} {endings}\n"));
            if !path.as_os_str().is_empty() {
                hash_file(split_sheet(path).0, &mut hash)?;
            }
        }
        files.retain(|(path, ..)| !path.as_os_str().is_empty());
        let key: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let is_automatic = options.tokenized_path.is_none();
        Ok(Some(Self { folder: root.join(&key[..32]), files, is_automatic }))
    }

    /// What an earlier run left; none if there is nothing that is whole.
    pub(crate) fn read(&self) -> Result<Option<(SampleStore, Account)>> {
        let account = self.folder.join(ACCOUNT);
        let Some(mut found) = read_account(&account) else { return Ok(None) };
        let entries = entries_of(&fs::read(self.folder.join(SAMPLES))?);
        let words = fs::File::open(self.folder.join(WORDS))?;
        let is_whole = entries.len() as u64 == found.samples
            && words.metadata()?.len() == 4 * found.words
            && found.dataset_ends.is_sorted()
            && found.dataset_ends.iter().all(|&end| end <= entries.len())
            && found.counts.len() == found.dataset_ends.len();
        let Some(store) = self.store(&words, entries)?.filter(|_| is_whole) else { return Ok(None) };
        // The time of its last use decides what is thrown away first.
        _ = fs::OpenOptions::new()
            .append(true)
            .open(account)
            .and_then(|file| file.file().set_modified(SystemTime::now()));
        found.report.cache = Some(self.report(&found, true));
        Ok(Some((store, found)))
    }

    /// Throws away what an earlier run finished; what a killed one left is as good as new.
    pub(crate) fn clear(&self) -> Result<()> {
        remove(&self.folder)
    }

    /// Throws away what was begun.
    pub(crate) fn abandon(&self) -> Result<()> {
        remove(&self.part())
    }

    /// Starts to fill the folder, or goes on where a killed run was; none while another process fills it.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub(crate) fn fill(&self) -> Result<Option<(Filling<'_>, StoreBuilder, Account)>> {
        let part = self.part();
        fs::create_dir_all(&part)?;
        let open = |name: &str| {
            let path = part.join(name);
            fs::OpenOptions::new().read(true).append(true).create(true).open(path)
        };
        let lock = open("lock")?;
        if lock.file().try_lock().is_err() {
            return Ok(None);
        }
        let (words, mut samples) = (open(WORDS)?, open(SAMPLES)?);
        let mut account = read_account(&part.join(ACCOUNT)).unwrap_or_default();
        let size = size_of::<Entry>() as u64;
        let is_short =
            words.metadata()?.len() < 4 * account.words || samples.metadata()?.len() < size * account.samples;
        if is_short {
            account = Account::default();
        }
        words.set_len(4 * account.words)?;
        samples.set_len(size * account.samples)?;
        let mut bytes = Vec::new();
        samples.read_to_end(&mut bytes)?;
        let mut builder = StoreBuilder {
            words: Vec::new(),
            written: account.words,
            entries: entries_of(&bytes),
            files: Files::default(),
        };
        // In the order of the listing, so that files of another name with the same content find theirs.
        self.files.iter().for_each(|(path, ..)| {
            builder.files.number(&path.as_path().into());
        });
        Ok(Some((Filling { cache: self, words, samples, syncing: None, _lock: lock }, builder, account)))
    }

    fn part(&self) -> PathBuf {
        let mut name = self.folder.clone().into_os_string();
        name.push(".part");
        name.into()
    }

    fn store(&self, words: &fs::File, entries: Vec<Entry>) -> Result<Option<SampleStore>> {
        let mut files = Files::default();
        self.files.iter().for_each(|(path, ..)| {
            files.number(&path.as_path().into());
        });
        // SAFETY: the file is of this program alone: it is finished under another name and never written again.
        let map = unsafe { memmap2::Mmap::map(words.file()) }?;
        Ok(SampleStore::mapped(map, entries, files.into_paths()))
    }

    fn report(&self, account: &Account, reused: bool) -> CacheReport {
        let bytes = 4 * account.words + size_of::<Entry>() as u64 * account.samples;
        CacheReport { path: self.folder.clone(), bytes, reused }
    }

    /// The first file that is not as it was when the key was made.
    fn changed(&self) -> Option<&Path> {
        let is_as_before = |(path, bytes, time): &&(PathBuf, u64, SystemTime)| {
            fs::metadata(split_sheet(path).0).is_ok_and(|now| {
                now.len() == *bytes && now.modified().is_ok_and(|modified| modified == *time)
            })
        };
        self.files.iter().find(|file| !is_as_before(file)).map(|(path, ..)| path.as_path())
    }
}

/// A folder that is being filled.
pub(crate) struct Filling<'a> {
    cache: &'a Cache,
    words: fs::File,
    samples: fs::File,
    /// Brings what was written to the disk meanwhile, so that the end does not wait for all of it.
    syncing: Option<JoinHandle<()>>,
    /// Held, so that others see that the folder is alive.
    _lock: fs::File,
}

impl Filling<'_> {
    /// Writes what is in memory and notes how far the work is.
    ///
    /// # Errors
    /// A full disk.
    pub(crate) fn checkpoint(&mut self, builder: &mut StoreBuilder, account: &mut Account) -> Result<()> {
        write(&mut self.words, bytemuck::cast_slice(&builder.words))?;
        builder.written += builder.words.len() as u64;
        builder.words.clear();
        if self.syncing.as_ref().is_none_or(JoinHandle::is_finished)
            && let Ok(words) = self.words.file().try_clone()
        {
            // What it could not do, the end does, and tells.
            self.syncing = Some(thread::spawn(move || _ = words.sync_data()));
        }
        let new = &builder.entries[account.samples as usize..];
        write(&mut self.samples, bytemuck::cast_slice(new))?;
        account.words = builder.written;
        account.samples = builder.entries.len() as u64;
        self.note(account)
    }

    fn note(&self, account: &Account) -> Result<()> {
        let bytes = serde_json::to_vec(account).map_err(std::io::Error::from)?;
        Ok(write_file_atomically(self.cache.part().join(ACCOUNT), &bytes)?)
    }

    /// Puts the folder in its place.
    ///
    /// # Errors
    /// A full disk, or a file of the data that was changed meanwhile.
    pub(crate) fn finish(mut self, mut builder: StoreBuilder, account: &mut Account) -> Result<SampleStore> {
        self.checkpoint(&mut builder, account)?;
        let part = self.cache.part();
        if let Some(path) = self.cache.changed() {
            let path = path.to_owned();
            remove(&part)?;
            return Err(DataError::Changed { path });
        }
        [&self.words, &self.samples].into_iter().try_for_each(sync)?;
        let Some(store) = self.cache.store(&self.words, builder.entries)? else {
            return Err(std::io::Error::other("the tokenized samples do not fit together").into());
        };
        remove(&self.cache.folder)?;
        fs::rename(part, &self.cache.folder)?;
        if let Some(root) = self.cache.folder.parent().filter(|_| self.cache.is_automatic) {
            // What cannot be thrown away costs room, and stops no run.
            _ = trim(root, &self.cache.folder, MOST_BYTES);
        }
        account.report.cache = Some(self.cache.report(account, false));
        Ok(store)
    }
}

/// The options without those that decide only where samples come from and what becomes of them later.
fn deciding(options: &DataOptions) -> DataOptions {
    let default = DataOptions::default();
    DataOptions {
        dataset: default.dataset,
        dataset_dir: default.dataset_dir,
        eval_dataset: default.eval_dataset,
        downloaded: default.downloaded,
        val_size: default.val_size,
        val_split: default.val_split,
        mix_strategy: default.mix_strategy,
        interleave_probs: default.interleave_probs,
        packing: if options.neat_packing { None } else { options.packing },
        group_by_length: default.group_by_length,
        tokenized_path: default.tokenized_path,
        overwrite_cache: default.overwrite_cache,
        ..options.clone()
    }
}

/// A full disk gets the sentence that it has for every file that is written.
fn write(file: &mut fs::File, bytes: &[u8]) -> Result<()> {
    let written = file.file_mut().write_all(bytes);
    Ok(written.map_err(|error| danlu_formats::Error::io(file.path(), error))?)
}

fn sync(file: &fs::File) -> Result<()> {
    let synced = file.file().sync_all();
    Ok(synced.map_err(|error| danlu_formats::Error::io(file.path(), error))?)
}

fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    Ok(())
}

fn default_root() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")))?;
    Some(base.join("danlu/tokenized"))
}

pub(crate) fn hash_file(path: &Path, hash: &mut Sha256) -> Result<()> {
    let mut buffer = vec![0; 1 << 20];
    let mut file = fs::File::open(path)?;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            length => hash.update(&buffer[..length]),
        }
    }
}

/// None where there is no such file, or one that this program did not write.
fn read_account(path: &Path) -> Option<Account> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn entries_of(bytes: &[u8]) -> Vec<Entry> {
    let mut entries = vec![Entry::default(); bytes.len() / size_of::<Entry>()];
    let whole = size_of_val(entries.as_slice());
    bytemuck::cast_slice_mut(&mut entries).copy_from_slice(&bytes[..whole]);
    entries
}

/// Throws away folders of `root`, those that were not used for the longest time first, until all take at most `most` bytes.
fn trim(root: &Path, keep: &Path, most: u64) -> Result<()> {
    let mut folders = Vec::new();
    for folder in fs::read_dir(root)? {
        let folder = folder?.path();
        let (mut bytes, mut used) = (0, SystemTime::UNIX_EPOCH);
        for file in fs::read_dir(&folder).into_iter().flatten() {
            let metadata = file?.metadata()?;
            bytes += metadata.len();
            used = used.max(metadata.modified()?);
        }
        folders.push((used, bytes, folder));
    }
    folders.sort();
    let mut total: u64 = folders.iter().map(|(_, bytes, _)| bytes).sum();
    for (_, bytes, folder) in folders {
        if total > most && folder != keep {
            fs::remove_dir_all(folder)?;
            total -= bytes;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_said() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache { folder: root.path().join("key"), files: Vec::new(), is_automatic: false };
        let (mut filling, mut builder, mut account) = cache.fill().unwrap().unwrap();
        // Every write to this device fails as on a full disk.
        filling.words = fs::File::options().write(true).open("/dev/full").unwrap();
        builder.words.push(1);
        let error = filling.checkpoint(&mut builder, &mut account).unwrap_err().to_string();
        assert!(error.contains("the disk is full") && error.contains("free some space"), "{error}");
    }

    #[test]
    fn the_longest_unused_go_first() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, day: u64| {
            let folder = root.path().join(name);
            fs::create_dir(&folder).unwrap();
            let file = fs::File::create(folder.join(WORDS)).unwrap();
            file.set_len(100).unwrap();
            file.file().set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(day)).unwrap();
        };
        [("b", 2), ("a", 3), ("c", 1), ("own", 0)].into_iter().for_each(|(name, day)| write(name, day));
        trim(root.path(), &root.path().join("own"), 250).unwrap();
        let mut left: Vec<_> =
            fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["a", "own"]);
    }
}
