//! Signature files: what one machine found in its part of the inputs, for another that joins the parts.
//!
//! For each row its keys (`width` words of 64 bits) and the length of its text (32 bits), little-endian; then a JSON object
//! that says of which files and how they were made; then the length of that object (64 bits) and `danlusig`.

use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use danlu_formats::AtomicFile;
use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::Part;
use super::passes::FileMet;
use crate::error::{DataError, Result};

const MAGIC: &[u8; 8] = b"danlusig";
/// Bytes behind the JSON object.
const TAIL: u64 = 16;
/// Larger descriptions than this are damage.
const LONGEST: u64 = 1 << 28;

/// A file whose rows were read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedFile {
    /// Its name below the input.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// What was met in it.
    pub met: FileMet,
}

/// What a signature file is about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// Which part of the inputs.
    pub part: Part,
    /// Everything that decides the signatures.
    pub settings: serde_json::Value,
    /// Words of a row.
    pub width: usize,
    /// The part's files in order.
    pub files: Vec<SignedFile>,
}

/// A signature file under construction.
pub struct SignatureWriter {
    file: AtomicFile,
    buffer: Vec<u8>,
}

impl SignatureWriter {
    /// Starts the file.
    ///
    /// # Errors
    /// A place that cannot be written.
    pub fn create(path: &Path) -> Result<Self> {
        Ok(Self { file: AtomicFile::create(path)?, buffer: Vec::new() })
    }

    /// Appends a row.
    ///
    /// # Errors
    /// A full disk.
    pub fn push(&mut self, words: &[u64], length: u32) -> Result<()> {
        words.iter().for_each(|word| self.buffer.extend_from_slice(&word.to_le_bytes()));
        self.buffer.extend_from_slice(&length.to_le_bytes());
        if self.buffer.len() >= 1 << 20 {
            self.file.write(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    /// A full disk.
    pub fn finish(mut self, description: &Description) -> Result<()> {
        let json = serde_json::to_vec(description).map_err(std::io::Error::from)?;
        self.buffer.extend_from_slice(&json);
        self.buffer.extend_from_slice(&(json.len() as u64).to_le_bytes());
        self.buffer.extend_from_slice(MAGIC);
        self.file.write(&self.buffer)?;
        Ok(self.file.commit()?)
    }
}

/// A signature file that is read.
pub struct Signatures {
    path: PathBuf,
    /// What it is about.
    pub description: Description,
}

impl Signatures {
    /// Reads the description and checks that the rows are all there.
    ///
    /// # Errors
    /// A file that cannot be read, or is no signature file.
    pub fn open(path: &Path) -> Result<Self> {
        let damaged =
            || wrong(path, "is no whole signature file; expected one written with `--part`, make it again");
        let mut file = fs::File::open(path)?;
        let size = file.metadata()?.len();
        let mut tail = [0; TAIL as usize];
        let tail_at = size.checked_sub(TAIL).ok_or_else(damaged)?;
        file.seek(SeekFrom::Start(tail_at))?;
        file.read_exact(&mut tail)?;
        let (length, magic) = tail.split_first_chunk().ok_or_else(damaged)?;
        let length = u64::from_le_bytes(*length);
        if magic != MAGIC || length > LONGEST || length > tail_at {
            return Err(damaged());
        }
        file.seek(SeekFrom::Start(tail_at - length))?;
        let mut json = vec![0; length as usize];
        file.read_exact(&mut json)?;
        let description: Description = serde_json::from_slice(&json).map_err(|_| damaged())?;
        let rows: u64 = description.files.iter().map(|file| u64::from(file.met.rows)).sum();
        let row_bytes = (description.width as u64).checked_mul(8).and_then(|bytes| bytes.checked_add(4));
        let expected = row_bytes.and_then(|bytes| bytes.checked_mul(rows));
        if expected != Some(tail_at - length) || description.width == 0 {
            return Err(damaged());
        }
        Ok(Self { path: path.to_owned(), description })
    }

    /// The rows in order.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn rows(&self) -> Result<SignedRows> {
        Ok(SignedRows {
            file: BufReader::with_capacity(1 << 20, fs::File::open(&self.path)?),
            bytes: vec![0; self.description.width * 8 + 4],
        })
    }

    /// An error about this file.
    pub fn wrong(&self, problem: impl Into<String>) -> DataError {
        wrong(&self.path, problem)
    }
}

/// The rows of a signature file.
pub struct SignedRows {
    file: BufReader<fs::File>,
    bytes: Vec<u8>,
}

impl SignedRows {
    /// Reads the words of the next row, and gives the length of its text.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn next(&mut self, words: &mut Vec<u64>) -> Result<u32> {
        self.file.read_exact(&mut self.bytes)?;
        words.clear();
        let mut chunks = self.bytes.chunks_exact(8);
        for chunk in &mut chunks {
            words.push(chunk.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte)));
        }
        Ok(chunks.remainder().iter().rev().fold(0, |length, &byte| length << 8 | u32::from(byte)))
    }
}

fn wrong(path: &Path, problem: impl Into<String>) -> DataError {
    DataError::Signatures { path: path.to_owned(), problem: problem.into() }
}
