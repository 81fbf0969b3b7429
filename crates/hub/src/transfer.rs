//! One file over the network: `NAME.incomplete` grows beside it, goes on where it ended, is checked, and is renamed.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use fs_err as fs;

use crate::check::{Check, is_here};
use crate::client::{Client, TRIES, is_passing, looks_like_html};
use crate::{Error, RemoteFile, Repository, Result};

const CHUNK: usize = 256 << 10;
/// How long nobody is asked whether to go on.
const TICK: Duration = Duration::from_millis(100);

/// A file to fetch.
pub(crate) struct Transfer<'a> {
    pub(crate) client: &'a Client,
    pub(crate) repository: &'a Repository,
    pub(crate) url: String,
    pub(crate) file: &'a RemoteFile,
    pub(crate) target: &'a Path,
    /// Whether the target is named by its hash.
    pub(crate) is_blob: bool,
}

/// What is told of a transfer, whose answer may end it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    /// So many bytes of the file are here.
    Here(u64),
    /// Another process fetches the file.
    Waiting,
}

pub(crate) type Tell<'a> = dyn FnMut(Step) -> ControlFlow<()> + 'a;

/// Where a file grows until it is whole.
pub(crate) fn incomplete(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".incomplete");
    name.into()
}

/// Does nothing for a while, unless it is told to end.
fn pause(duration: Duration, step: Step, tell: &mut Tell<'_>) -> Result<()> {
    let end = Instant::now() + duration;
    loop {
        if tell(step).is_break() {
            return Err(Error::Cancelled);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        sleep(left.min(TICK));
    }
}

/// Opens what an earlier download left, for one process at a time.
fn open_alone(path: &Path, tell: &mut Tell<'_>) -> Result<fs::File> {
    loop {
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let system: &File = file.file();
        match system.try_lock() {
            Ok(()) => {}
            // Some network disks know no locks.
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(error.into()),
            Err(TryLockError::WouldBlock) => {
                pause(TICK, Step::Waiting, tell)?;
                continue;
            }
        }
        // Whoever had the lock may have renamed or removed the file in between.
        if is_at(&file, path)? {
            return Ok(file);
        }
    }
}

/// Whether `path` names the open file.
fn is_at(file: &fs::File, path: &Path) -> io::Result<bool> {
    let there = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        there => there?,
    };
    let here = file.metadata()?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        Ok((here.dev(), here.ino()) == (there.dev(), there.ino()))
    }
    #[cfg(not(unix))]
    Ok(here.len() == there.len())
}

/// What one answer led to.
enum Ended {
    /// All bytes are there.
    Whole,
    /// The connection broke, or the server had a fault; some bytes may have come.
    Cut(Error),
}

/// A file that grows, and the hash of what it holds.
struct Growing<'a> {
    file: fs::File,
    length: u64,
    check: Check<'a>,
    listed: &'a RemoteFile,
    /// Bytes that came from the network.
    came: u64,
}

impl<'a> Growing<'a> {
    /// Goes on with what `file` holds, if its end can tell whether that was right.
    fn new(mut file: fs::File, listed: &'a RemoteFile, tell: &mut Tell<'_>) -> Result<Self> {
        let mut check = Check::new(listed);
        let is_of_use = file.metadata()?.len() <= listed.size && !matches!(check, Check::Nothing);
        let mut length = 0;
        if is_of_use {
            length = check.read(&mut file, &mut |here| tell(Step::Here(here)))?;
        } else {
            file.set_len(0)?;
        }
        Ok(Self { file, length, check, listed, came: 0 })
    }

    fn clear(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        (self.length, self.check) = (0, Check::new(self.listed));
        Ok(())
    }

    fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.check.update(bytes);
        self.length += bytes.len() as u64;
        self.came += bytes.len() as u64;
        Ok(())
    }
}

impl Transfer<'_> {
    /// Fetches the file, unless another process did so meanwhile. Gives how many bytes came.
    ///
    /// # Errors
    /// A refusal, a network that stays away, a content that is not what the list says, `tell` that breaks.
    pub(crate) fn run(&self, tell: &mut Tell<'_>) -> Result<u64> {
        let part = incomplete(self.target);
        if let Some(folder) = part.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = open_alone(&part, tell)?;
        if is_here(self.file, self.target, self.is_blob, &mut |here| tell(Step::Here(here)))? {
            discard(&file, &part)?;
            return Ok(0);
        }
        let mut growing = Growing::new(file, self.file, tell)?;
        let is_continued = growing.length > 0;
        self.fill(&mut growing, tell)?;
        if is_continued && growing.check.difference().is_some() {
            // What was there may have been the beginning of another version.
            growing.clear()?;
            self.fill(&mut growing, tell)?;
        }
        let Growing { file, check, came, .. } = growing;
        if let Some(hash) = check.difference() {
            discard(&file, &part)?;
            return Err(Error::Checksum { file: self.file.path.clone(), hash });
        }
        file.sync_all()?;
        fs::rename(&part, self.target)?;
        Ok(came)
    }

    /// Requests until all bytes are there.
    fn fill(&self, growing: &mut Growing<'_>, tell: &mut Tell<'_>) -> Result<()> {
        let mut tries = 1;
        while growing.length < self.file.size {
            let before = growing.length;
            match self.once(growing, tell)? {
                Ended::Whole => break,
                // Something came: the next break is a new one.
                Ended::Cut(_) if growing.length > before => tries = 1,
                Ended::Cut(error) if tries >= TRIES => return Err(error),
                Ended::Cut(_) => tries += 1,
            }
            pause(self.client.pause(tries), Step::Here(growing.length), tell)?;
        }
        Ok(())
    }

    /// One request, and as much of its answer as comes.
    fn once(&self, growing: &mut Growing<'_>, tell: &mut Tell<'_>) -> Result<Ended> {
        let response = match self.client.get(&self.url, growing.length) {
            Ok(response) => response,
            Err(error) => return Ok(Ended::Cut(self.client.unreachable(&error))),
        };
        let status = response.status().as_u16();
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        match status {
            206 if range_start(header("content-range")) == Some(growing.length) => {}
            // A server that does not continue begins anew.
            200 => growing.clear()?,
            206 | 416 => {
                growing.clear()?;
                return Ok(Ended::Cut(Error::Server { url: self.url.clone(), status, tries: TRIES }));
            }
            status if is_passing(status) => {
                return Ok(Ended::Cut(Error::Server { url: self.url.clone(), status, tries: TRIES }));
            }
            _ => return Err(self.client.refusal(&self.url, self.repository, &response, 1)),
        }
        let is_page = [".html", ".htm"].iter().any(|end| self.file.path.to_lowercase().ends_with(end));
        let content_type = header("content-type").map(str::to_owned);
        let announced = header("content-length").and_then(|text| text.parse::<u64>().ok());
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; CHUNK];
        let mut is_first = true;
        loop {
            let read = match body.read(&mut buffer) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Ok(Ended::Cut(self.client.unreachable(&ureq::Error::Io(error)))),
            };
            let bytes = &buffer[..read];
            // The middle of a file may look like anything.
            let start = if is_first && growing.length == 0 { bytes } else { &[] };
            if is_first && !is_page && looks_like_html(content_type.as_deref(), start) {
                return Err(self.client.html(&self.url, &format!("the file `{}`", self.file.path)));
            }
            if let Some(announced) = announced.filter(|_| is_first)
                && growing.length + announced != self.file.size
            {
                return self.wrong_size(growing, growing.length + announced);
            }
            is_first = false;
            if read == 0 {
                break;
            }
            growing.push(bytes)?;
            if growing.length > self.file.size {
                return self.wrong_size(growing, growing.length);
            }
            if tell(Step::Here(growing.length)).is_break() {
                return Err(Error::Cancelled);
            }
        }
        match growing.length == self.file.size {
            true => Ok(Ended::Whole),
            false => {
                Ok(Ended::Cut(self.client.unreachable(&io::Error::from(io::ErrorKind::UnexpectedEof).into())))
            }
        }
    }

    fn wrong_size(&self, growing: &Growing<'_>, found: u64) -> Result<Ended> {
        discard(&growing.file, &incomplete(self.target))?;
        Err(Error::Size { file: self.file.path.clone(), expected: self.file.size, found })
    }
}

/// Empties the part before its name goes: who has it open by now finds nothing in it.
fn discard(file: &fs::File, part: &Path) -> io::Result<()> {
    file.set_len(0)?;
    fs::remove_file(part)
}

/// `bytes 100-199/200` → 100.
fn range_start(content_range: Option<&str>) -> Option<u64> {
    content_range?.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waited_for_a_part_that_was_renamed_opens_a_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let (part, target) = (folder.path().join("a.incomplete"), folder.path().join("a"));
        let mut first = open_alone(&part, &mut |_| ControlFlow::Continue(())).unwrap();
        first.write_all(b"whole").unwrap();
        let (sender, waits) = std::sync::mpsc::channel();
        let path = part.clone();
        let second = std::thread::spawn(move || {
            open_alone(&path, &mut |step| {
                assert!(matches!(step, Step::Waiting));
                _ = sender.send(());
                ControlFlow::Continue(())
            })
        });
        waits.recv().unwrap();
        assert!(is_at(&first, &part).unwrap());
        fs::rename(&part, &target).unwrap();
        assert!(!is_at(&first, &part).unwrap());
        fs::write(&part, "").unwrap();
        assert!(!is_at(&first, &part).unwrap());
        drop(first);
        second.join().unwrap().unwrap().set_len(0).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"whole");
    }

    #[test]
    fn ranges_say_where_they_start() {
        assert_eq!(range_start(Some("bytes 100-199/200")), Some(100));
        assert_eq!(range_start(Some("bytes */200")), None);
        assert_eq!(range_start(None), None);
    }

    #[test]
    fn names_of_parts_stand_beside_the_file() {
        assert_eq!(incomplete(Path::new("a/model.bin")), Path::new("a/model.bin.incomplete"));
    }
}
