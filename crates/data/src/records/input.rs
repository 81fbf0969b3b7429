//! Files and members of archives → their bytes, unpacked while they are read. A file that changes meanwhile is an error.

use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use encoding_rs::GB18030;
use flate2::CrcReader;
use flate2::read::{DeflateDecoder, MultiGzDecoder};
use fs_err as fs;
use zip::{CompressionMethod, ZipArchive};

use super::forms::{FileKind, Packing};
use super::is_beside_data;
use crate::error::{DataError, Result};

/// Bytes of a packed file that are read at once.
const BUFFER: usize = 128 << 10;

/// A file whose size and time of change must be at its end what they were at its start.
pub(super) struct InputFile {
    file: fs::File,
    length: u64,
    modified: Option<SystemTime>,
}

impl InputFile {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = fs::File::open(path)?;
        let metadata = file.metadata()?;
        Ok(Self { length: metadata.len(), modified: metadata.modified().ok(), file })
    }

    /// # Errors
    /// The file is not what it was when it was opened.
    pub(super) fn check(&self) -> io::Result<()> {
        let metadata = self.file.metadata()?;
        if metadata.is_file() && (metadata.len(), metadata.modified().ok()) != (self.length, self.modified) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "`{}` changed while it was read: start again when nothing writes it",
                    self.file.path().display()
                ),
            ));
        }
        Ok(())
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn try_clone(&self) -> io::Result<fs::File> {
        self.file.try_clone()
    }
}

impl Read for InputFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read(buffer)?;
        if length == 0 && !buffer.is_empty() {
            self.check()?;
        }
        Ok(length)
    }
}

impl Seek for InputFile {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.file.seek(position)
    }
}

/// Unpacks, with the name of the file in what goes wrong.
struct Unpacked<R> {
    reader: R,
    path: PathBuf,
}

impl<R: Read> Read for Unpacked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer).map_err(|error| {
            // An error of the file has its path already.
            let message = error.to_string();
            let path = self.path.display();
            if message.contains(&*path.to_string()) || error.kind() == io::ErrorKind::Interrupted {
                return error;
            }
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("`{path}` cannot be unpacked ({message}): it is damaged or cut off"),
            )
        })
    }
}

/// The bytes of a file, unpacked.
pub(super) fn open_packed(
    input: impl NamedInput + 'static,
    packing: Packing,
) -> Result<Box<dyn Read + Send>> {
    let path = input.path();
    Ok(match packing {
        Packing::None => Box::new(input),
        Packing::Gzip => {
            let reader = MultiGzDecoder::new(BufReader::with_capacity(BUFFER, input));
            Box::new(Unpacked { reader, path })
        }
        Packing::Zstandard => {
            let mut reader = zstd::Decoder::new(input)?;
            // The format's own limit for decoders that are told nothing is 8 MiB; `zstd --long` writes up to 2 GiB.
            reader.window_log_max(27)?;
            Box::new(Unpacked { reader, path })
        }
    })
}

/// A reader that knows what it reads.
pub(super) trait NamedInput: Read + Send {
    fn path(&self) -> PathBuf;
}

impl NamedInput for InputFile {
    fn path(&self) -> PathBuf {
        self.file.path().to_owned()
    }
}

/// A zip archive and those of its members that are read.
pub(super) struct Archive {
    path: PathBuf,
    pub(super) members: Vec<Member>,
    /// Names of those that are not read.
    pub(super) ignored: Vec<String>,
}

pub(super) struct Member {
    name: String,
    kind: FileKind,
    start: u64,
    packed: u64,
    unpacked: u64,
    crc: u32,
    method: CompressionMethod,
}

impl Archive {
    /// Lists the members, in the order of their names.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let damaged = |error: zip::result::ZipError| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("`{}` is no zip archive that can be read: {error}", path.display()),
            )
        };
        let mut zip = ZipArchive::new(BufReader::new(fs::File::open(path)?)).map_err(damaged)?;
        let mut members = Vec::new();
        let mut ignored = Vec::new();
        for index in 0..zip.len() {
            let entry = zip.by_index_raw(index).map_err(damaged)?;
            let name = name_of(entry.name_raw());
            if entry.is_dir() {
                continue;
            }
            let inner = Path::new(&name);
            let kind = FileKind::of(inner).filter(|kind| kind.is_text() && !is_beside_data(inner));
            let (Some(kind), false) = (kind, name.starts_with("__MACOSX/")) else {
                ignored.push(name);
                continue;
            };
            let refused = |problem: &str| {
                DataError::Io(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("`{}`: `{name}` {problem}: unpack it", path.display()),
                ))
            };
            if entry.encrypted() {
                return Err(refused("is encrypted"));
            }
            if !matches!(entry.compression(), CompressionMethod::Stored | CompressionMethod::Deflated) {
                return Err(refused(&format!("is packed as {}, expected deflate", entry.compression())));
            }
            let start = entry.data_start().ok_or_else(|| refused("has no place in the archive"))?;
            members.push(Member {
                kind,
                start,
                packed: entry.compressed_size(),
                unpacked: entry.size(),
                crc: entry.crc32(),
                method: entry.compression(),
                name,
            });
        }
        members.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { path: path.to_owned(), members, ignored })
    }

    /// The name of a member behind that of the archive, and what it is.
    pub(super) fn member(&self, index: usize) -> (PathBuf, FileKind) {
        (self.path.join(&self.members[index].name), self.members[index].kind)
    }

    pub(super) fn read(&self, index: usize) -> Result<impl NamedInput + use<>> {
        let member = &self.members[index];
        let mut file = InputFile::open(&self.path)?;
        file.seek(SeekFrom::Start(member.start))?;
        let packed = BufReader::with_capacity(BUFFER, file).take(member.packed);
        let bytes: Box<dyn Read + Send> = match member.method {
            CompressionMethod::Stored => Box::new(packed),
            _ => Box::new(DeflateDecoder::new(packed)),
        };
        let reader =
            Checked { bytes: CrcReader::new(bytes), crc: member.crc, length: member.unpacked, read: 0 };
        Ok(Unpacked { reader, path: self.member(index).0 })
    }
}

impl<R: Read + Send> NamedInput for Unpacked<R> {
    fn path(&self) -> PathBuf {
        self.path.clone()
    }
}

/// Compares the checksum and length of a member at its end.
struct Checked {
    bytes: CrcReader<Box<dyn Read + Send>>,
    crc: u32,
    length: u64,
    read: u64,
}

impl Read for Checked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.bytes.read(buffer)?;
        self.read += length as u64;
        let is_end = length == 0 && !buffer.is_empty();
        if is_end && (self.bytes.crc().sum(), self.read) != (self.crc, self.length) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its checksum or length is another"));
        }
        Ok(length)
    }
}

/// Names are UTF-8, or what Windows in China writes.
fn name_of(raw: &[u8]) -> String {
    match std::str::from_utf8(raw) {
        Ok(name) => name.to_owned(),
        Err(_) => GB18030.decode_without_bom_handling(raw).0.into_owned(),
    }
}
