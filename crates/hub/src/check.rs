//! Whether bytes are those that the hub's list means: by SHA-256, or by git's SHA-1 of a blob (`blob SIZE\0` and the
//! content), which is what Hugging Face tells of small files.

use std::io::{self, Read};
use std::ops::ControlFlow;
use std::path::Path;

use fs_err as fs;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::{Error, RemoteFile, Result};

const CHUNK: usize = 256 << 10;

/// The hash of a file while it grows, and what it should become.
pub(crate) enum Check<'a> {
    Sha256(Sha256, &'a str),
    Git(Sha1, &'a str),
    /// The hub tells no hash.
    Nothing,
}

impl<'a> Check<'a> {
    pub(crate) fn new(file: &'a RemoteFile) -> Self {
        match &file.sha256 {
            Some(expected) => Self::Sha256(Sha256::new(), expected),
            None if file.blob.len() == 2 * Sha1::output_size() => {
                Self::Git(Sha1::new_with_prefix(format!("blob {}\0", file.size)), &file.blob)
            }
            None => Self::Nothing,
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash, _) => hash.update(bytes),
            Self::Git(hash, _) => hash.update(bytes),
            Self::Nothing => {}
        }
    }

    /// Takes in the rest of `file` and gives its length; `tell` is told the bytes so far.
    pub(crate) fn read(
        &mut self,
        file: &mut impl Read,
        tell: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<u64> {
        let mut buffer = vec![0; CHUNK];
        let mut length = 0;
        loop {
            let read = match file.read(&mut buffer) {
                Ok(0) => return Ok(length),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            self.update(&buffer[..read]);
            length += read as u64;
            if tell(length).is_break() {
                return Err(Error::Cancelled);
            }
        }
    }

    /// The name of the hash if it is another than expected.
    pub(crate) fn difference(&self) -> Option<&'static str> {
        let (found, expected, name) = match self {
            Self::Sha256(hash, expected) => (digits(&hash.clone().finalize()), expected, "SHA-256"),
            Self::Git(hash, expected) => (digits(&hash.clone().finalize()), expected, "git hash"),
            Self::Nothing => return None,
        };
        (!found.eq_ignore_ascii_case(expected)).then_some(name)
    }
}

fn digits(hash: &[u8]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether `target` is `file`. A blob of the cache carries its hash as its name; another file is compared, and one
/// of which the hub tells no hash is never known to be the same.
pub(crate) fn is_here(
    file: &RemoteFile,
    target: &Path,
    is_blob: bool,
    tell: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<bool> {
    let is_like = fs::metadata(target).is_ok_and(|found| found.is_file() && found.len() == file.size);
    if !is_like || is_blob {
        return Ok(is_like);
    }
    let mut check = Check::new(file);
    if matches!(check, Check::Nothing) {
        return Ok(false);
    }
    check.read(&mut fs::File::open(target)?, tell)?;
    Ok(check.difference().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_names_a_blob_by_its_length_and_content() {
        // `printf hello | git hash-object --stdin`
        let blob = "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0".to_owned();
        let file = RemoteFile { path: "a".into(), size: 5, sha256: None, blob };
        let difference = |content: &[u8]| {
            let mut check = Check::new(&file);
            check.update(content);
            check.difference()
        };
        assert_eq!((difference(b"hello"), difference(b"hallo")), (None, Some("git hash")));
    }
}
