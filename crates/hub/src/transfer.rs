//! One file over the network: `NAME.incomplete` grows beside it, goes on where it ended, is checked, and is renamed.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::thread::sleep;

use fs_err as fs;
use sha2::{Digest, Sha256};

use crate::client::{Client, TRIES, is_passing, looks_like_html};
use crate::{Error, RemoteFile, Repository, Result};

const CHUNK: usize = 256 << 10;

/// A file to fetch.
pub(crate) struct Transfer<'a> {
    pub(crate) client: &'a Client,
    pub(crate) repository: &'a Repository,
    pub(crate) url: String,
    pub(crate) file: &'a RemoteFile,
    pub(crate) target: &'a Path,
}

/// Where a file grows until it is whole.
pub(crate) fn incomplete(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".incomplete");
    name.into()
}

/// The SHA-256 of what is left of `file`, in hexadecimal digits.
pub(crate) fn sha256(file: &mut impl Read) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(digits(hash)),
            read => hash.update(&buffer[..read]),
        }
    }
}

fn digits(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What one answer led to.
enum Ended {
    /// All bytes are there.
    Whole,
    /// The connection broke, or the server had a fault; some bytes may have come.
    Cut(Error),
}

/// A file that grows, and the hash of what it holds.
struct Growing {
    file: fs::File,
    length: u64,
    hash: Sha256,
    /// Bytes that came from the network.
    came: u64,
}

impl Growing {
    /// Opens what an earlier download left, for one process at a time.
    fn open(path: &Path, longest: u64) -> io::Result<Self> {
        let mut options = fs::OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).truncate(false).open(path)?;
        let system: &File = file.file();
        match system.lock() {
            // Some network disks know no locks.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
            locked => locked?,
        }
        let mut growing = if file.metadata()?.len() > longest {
            file.set_len(0)?;
            Self { file, length: 0, hash: Sha256::new(), came: 0 }
        } else {
            let mut hash = Sha256::new();
            let length = io::copy(&mut file, &mut hash)?;
            Self { file, length, hash, came: 0 }
        };
        growing.file.seek(SeekFrom::Start(growing.length))?;
        Ok(growing)
    }

    fn clear(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        (self.length, self.hash) = (0, Sha256::new());
        Ok(())
    }

    fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
        self.came += bytes.len() as u64;
        Ok(())
    }
}

impl Transfer<'_> {
    /// Fetches the file; `progress` is told how many bytes of it are here. Gives how many came.
    ///
    /// # Errors
    /// A refusal, a network that stays away, a content that is not what the list says.
    pub(crate) fn run(&self, progress: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<u64> {
        let part = incomplete(self.target);
        if let Some(folder) = part.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut growing = Growing::open(&part, self.file.size)?;
        // Another process may have fetched it while this one waited for the file.
        if self.target.exists() {
            return Ok(0);
        }
        let mut tries = 1;
        while growing.length < self.file.size {
            let before = growing.length;
            match self.once(&mut growing, progress)? {
                Ended::Whole => break,
                // Something came: the next break is a new one.
                Ended::Cut(_) if growing.length > before => tries = 1,
                Ended::Cut(error) if tries >= TRIES => return Err(error),
                Ended::Cut(_) => tries += 1,
            }
            sleep(self.client.pause(tries));
        }
        let Growing { file, hash, came, .. } = growing;
        if self.file.sha256.as_ref().is_some_and(|expected| !expected.eq_ignore_ascii_case(&digits(hash))) {
            fs::remove_file(&part)?;
            return Err(Error::Checksum { file: self.file.path.clone() });
        }
        file.sync_all()?;
        fs::rename(&part, self.target)?;
        Ok(came)
    }

    /// One request, and as much of its answer as comes.
    fn once(&self, growing: &mut Growing, progress: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<Ended> {
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
                return self.wrong_size(growing.length + announced);
            }
            is_first = false;
            if read == 0 {
                break;
            }
            growing.push(bytes)?;
            if growing.length > self.file.size {
                return self.wrong_size(growing.length);
            }
            if progress(growing.length).is_break() {
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

    fn wrong_size(&self, found: u64) -> Result<Ended> {
        fs::remove_file(incomplete(self.target))?;
        Err(Error::Size { file: self.file.path.clone(), expected: self.file.size, found })
    }
}

/// `bytes 100-199/200` → 100.
fn range_start(content_range: Option<&str>) -> Option<u64> {
    content_range?.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

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
