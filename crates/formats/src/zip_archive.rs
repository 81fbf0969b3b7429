//! Reading zip archives whose entries are stored uncompressed, so that they can be mapped: the form of `torch.save`.
//!
//! Format: PKWARE's APPNOTE.TXT 6.3, with its 64-bit extension. It does not decompress, and it does not compare
//! checksums: PyTorch itself can be told to write none.

use std::collections::HashMap;
use std::ops::Range;

use crate::mapped_file::MappedFile;
use crate::{Error, Result};

const END: &[u8] = b"PK\x05\x06";
const END_BYTES: usize = 22;
const END64: &[u8] = b"PK\x06\x06";
const END64_LOCATOR: &[u8] = b"PK\x06\x07";
const END64_LOCATOR_BYTES: usize = 20;
const CENTRAL: &[u8] = b"PK\x01\x02";
const CENTRAL_BYTES: usize = 46;
const LOCAL: &[u8] = b"PK\x03\x04";
const LOCAL_BYTES: usize = 30;
const ZIP64_FIELD: u16 = 1;
const ENCRYPTED: u16 = 1;

/// The entries of an archive: name → place of the data in the file.
#[derive(Debug)]
pub(crate) struct ZipArchive {
    entries: HashMap<String, Range<usize>>,
    /// Names of the entries that are compressed or encrypted.
    packed: Vec<String>,
}

impl ZipArchive {
    /// Reads the directory; every stored entry lies within the file, none overlaps another, and no name occurs twice.
    pub fn read(file: &MappedFile) -> Result<Self> {
        let bytes = file.bytes();
        let invalid = |reason: String| Error::Invalid {
            path: file.path().to_path_buf(),
            format: "zip",
            reason: format!("{reason}; it was not written or copied completely"),
        };
        let directory = directory(bytes).map_err(|reason| invalid(reason.to_string()))?;
        let mut rest = &bytes[directory.clone()];
        let mut entries = HashMap::new();
        let mut packed = Vec::new();
        while !rest.is_empty() {
            let entry = CentralEntry::read(&mut rest).ok_or_else(|| {
                invalid(format!("entry {} of its directory is damaged", entries.len() + packed.len()))
            })?;
            let name = String::from_utf8_lossy(entry.name).into_owned();
            if entry.method != 0 || entry.flags & ENCRYPTED != 0 || entry.stored_size != entry.size {
                packed.push(name);
                continue;
            }
            let place = entry
                .place(&bytes[..directory.start])
                .ok_or_else(|| invalid(format!("entry `{name}` does not lie within it")))?;
            if entries.contains_key(&name) {
                return Err(invalid(format!("it has two entries `{name}`")));
            }
            entries.insert(name, place);
        }
        let mut places: Vec<&Range<usize>> = entries.values().collect();
        places.sort_unstable_by_key(|place| (place.start, place.end));
        if places.windows(2).any(|pair| pair[0].end > pair[1].start) {
            return Err(invalid("two of its entries overlap".to_string()));
        }
        Ok(Self { entries, packed })
    }

    pub fn get(&self, name: &str) -> Option<Range<usize>> {
        self.entries.get(name).cloned()
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// An entry that cannot be mapped, because it is compressed or encrypted.
    pub fn first_packed(&self) -> Option<&str> {
        self.packed.first().map(String::as_str)
    }
}

/// Where the central directory lies.
fn directory(bytes: &[u8]) -> std::result::Result<Range<usize>, &'static str> {
    let last = bytes.len().checked_sub(END_BYTES).ok_or("it is too short for a zip archive")?;
    // A comment of up to 65,535 bytes may follow.
    let first = last.saturating_sub(usize::from(u16::MAX));
    let end = (first..=last)
        .rev()
        .find(|start| bytes[*start..].starts_with(END))
        .ok_or("it has no directory at its end")?;
    let size = u32_at(bytes, end + 12).map(u64::from);
    let start = u32_at(bytes, end + 16).map(u64::from);
    let locator = end.checked_sub(END64_LOCATOR_BYTES).filter(|at| bytes[*at..].starts_with(END64_LOCATOR));
    let (size, start) = match locator {
        None => (size, start),
        Some(locator) => {
            let end64 = u64_at(bytes, locator + 8).and_then(|at| usize::try_from(at).ok());
            let end64 = end64.filter(|at| bytes.get(*at..).is_some_and(|rest| rest.starts_with(END64)));
            let end64 = end64.ok_or("the 64-bit record of its directory is not where it should be")?;
            (u64_at(bytes, end64 + 40), u64_at(bytes, end64 + 48))
        }
    };
    let range = start.zip(size).and_then(|(start, size)| {
        let end = start.checked_add(size)?;
        Some(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
    });
    range.filter(|range| range.end <= end).ok_or("its directory does not lie within it")
}

struct CentralEntry<'a> {
    flags: u16,
    method: u16,
    stored_size: u64,
    size: u64,
    header_start: u64,
    name: &'a [u8],
}

impl<'a> CentralEntry<'a> {
    /// Reads one entry and moves on; `None` if it is damaged.
    fn read(rest: &mut &'a [u8]) -> Option<Self> {
        let bytes = *rest;
        let name_length = usize::from(u16_at(bytes, 28)?);
        let extra_length = usize::from(u16_at(bytes, 30)?);
        let comment_length = usize::from(u16_at(bytes, 32)?);
        let extra_start = CENTRAL_BYTES + name_length;
        let comment_start = extra_start + extra_length;
        if !bytes.starts_with(CENTRAL) {
            return None;
        }
        *rest = bytes.get(comment_start + comment_length..)?;
        let mut wide = zip64_field(&bytes[extra_start..comment_start]);
        // What does not fit into 32 bits is all ones there, and stands in the extra field in this order.
        let mut widened = |narrow: u32| {
            if narrow != u32::MAX {
                return Some(u64::from(narrow));
            }
            let value = u64_at(wide, 0)?;
            wide = &wide[8..];
            Some(value)
        };
        let size = widened(u32_at(bytes, 24)?)?;
        let stored_size = widened(u32_at(bytes, 20)?)?;
        let header_start = widened(u32_at(bytes, 42)?)?;
        Some(Self {
            flags: u16_at(bytes, 8)?,
            method: u16_at(bytes, 10)?,
            stored_size,
            size,
            header_start,
            name: &bytes[CENTRAL_BYTES..extra_start],
        })
    }

    /// Where the data lies: behind the entry's own header, which repeats the name and has an extra field of its own.
    fn place(&self, bytes: &[u8]) -> Option<Range<usize>> {
        let header_start = usize::try_from(self.header_start).ok()?;
        let header = bytes.get(header_start..)?;
        if !header.starts_with(LOCAL) {
            return None;
        }
        let name_length = usize::from(u16_at(header, 26)?);
        let extra_length = usize::from(u16_at(header, 28)?);
        let start = header_start + LOCAL_BYTES + name_length + extra_length;
        let end = start.checked_add(usize::try_from(self.size).ok()?)?;
        (end <= bytes.len()).then_some(start..end)
    }
}

/// The content of the 64-bit extra field, empty if there is none.
fn zip64_field(mut extra: &[u8]) -> &[u8] {
    while let (Some(id), Some(length)) = (u16_at(extra, 0), u16_at(extra, 2)) {
        let Some(content) = extra[4..].get(..usize::from(length)) else { break };
        if id == ZIP64_FIELD {
            return content;
        }
        extra = &extra[4 + content.len()..];
    }
    &[]
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array_at(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array_at(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array_at(bytes, at).map(u64::from_le_bytes)
}
