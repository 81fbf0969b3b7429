//! Token files as pretraining data: the folders and `.bin` files that `danlu tokenizer encode` writes, and headerless
//! ones of uint16 as Baby-Llama2 has them. They give documents of ids; what the ids mean is the vocabulary's to know.

use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use danlu_formats::TokenIndex;
use danlu_tokenizer::Tokenizer;
use fs_err as fs;

use crate::dataset_info::locate;
use crate::error::{DataError, Result};
use crate::options::{DataOptions, TokenFileUnit};
use crate::records::Source;

/// Bytes that are read at once.
const BUFFER_BYTES: usize = 1 << 20;

/// Takes a file, the number of a stretch of ids in it, and the ids.
type UseIds<'a> = dyn FnMut(&Path, u64, &[u32]) -> Result<()> + 'a;

/// Whether a path is a token file, or a folder of them.
pub fn is_token_file(path: &Path) -> bool {
    let is_bin = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("bin"));
    is_bin && path.is_file() || index_of(path).is_some()
}

/// The token files that a dataset's name stands for; none where it stands for texts.
pub(crate) fn find(name: &str, options: &DataOptions) -> Result<Option<PathBuf>> {
    let path = locate(name, options)?.path;
    Ok(is_token_file(&path).then_some(path))
}

/// The error of token files where texts are needed.
pub(crate) fn no_texts(path: &Path, needed: &str) -> DataError {
    DataError::TokenFile { path: path.to_owned(), problem: format!("it holds token ids: expected {needed}") }
}

/// Calls `use_ids(ids, place)` for each stretch of ids that samples are cut from, as `token_files` and `max_samples` say;
/// gives their number, and a remark on what is left out.
///
/// # Errors
/// As [`documents`], and what `use_ids` gives.
pub(crate) fn read(
    path: &Path,
    options: &DataOptions,
    tokenizer: &Tokenizer,
    use_ids: &mut dyn FnMut(Vec<u32>, Source) -> Result<()>,
) -> Result<(u64, Option<String>)> {
    let DataOptions { cutoff_len, max_samples, token_files: unit, .. } = options;
    let bos = tokenizer.bos_id().filter(|_| tokenizer.adds_bos());
    let mut taken = 0;
    let mut add = |path: &Path, number: u64, ids: &[u32]| {
        if max_samples.is_some_and(|most| taken >= most as u64) {
            return Ok(());
        }
        taken += 1;
        // As before a text, so that the same samples come of both.
        let added = bos.filter(|bos| *unit == TokenFileUnit::Documents && ids.first() != Some(bos));
        // In place of the line: the number of the document.
        use_ids(
            added.into_iter().chain(ids.iter().copied()).collect(),
            Source { path: path.into(), line: number },
        )
    };
    let left = match unit {
        TokenFileUnit::Documents => documents(path, tokenizer, &mut add).map(|()| 0)?,
        TokenFileUnit::Rows => rows(path, tokenizer, *cutoff_len, &mut add)?,
    };
    let notice = || {
        format!("the last {left} ids of `{}` fill no row of `cutoff_len` and are left out", path.display())
    };
    Ok((taken, (left > 0).then(notice)))
}

/// Every file that decides the ids of [`find`]'s path.
pub(crate) fn paths(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_dir() {
        let mut paths = Vec::new();
        for entry in fs::read_dir(path)? {
            paths.push(entry?.path());
        }
        paths.retain(|path| path.is_file());
        paths.sort();
        return Ok(paths);
    }
    let mut index = path.as_os_str().to_owned();
    index.push(".json");
    let beside = [index.into(), path.with_extension("idx"), path.with_file_name("index.json")];
    Ok(std::iter::once(path.to_owned()).chain(beside.into_iter().filter(|path| path.is_file())).collect())
}

/// One `.bin` file.
struct TokenFile {
    path: PathBuf,
    /// Bytes of an id: 2 or 4.
    width: usize,
    /// Ends of its documents, in ids, where they are known.
    ends: Option<Vec<u64>>,
}

/// Calls `use_document(file, number of the document in it, ids)` for each document. Where no file tells their ends, a
/// document ends with the end-of-text token, which belongs to it.
///
/// # Errors
/// A file that cannot be read, or is not one of this vocabulary.
fn documents(path: &Path, tokenizer: &Tokenizer, use_document: &mut UseIds<'_>) -> Result<()> {
    for file in files(path, tokenizer)? {
        let (mut ids, mut number, mut position) = (Vec::new(), 1, 0_u64);
        let mut ends = file.ends.as_ref().map(|ends| ends.iter().copied());
        let mut next = ends.as_mut().and_then(Iterator::next);
        file.read(tokenizer.vocabulary_size(), &mut |id| {
            ids.push(id);
            position += 1;
            let is_end = match &mut ends {
                Some(ends) if next == Some(position) => {
                    next = ends.next();
                    true
                }
                Some(_) => false,
                None => tokenizer.eos_id() == Some(id),
            };
            if is_end {
                use_document(&file.path, number, &ids)?;
                number += 1;
                ids.clear();
            }
            Ok(())
        })?;
        if !ids.is_empty() {
            use_document(&file.path, number, &ids)?;
        }
    }
    Ok(())
}

/// Calls `use_row(file, number of the row, ids)` for each `length` ids in a row across all files; gives the number of
/// ids that are left.
///
/// # Errors
/// As [`documents`].
fn rows(path: &Path, tokenizer: &Tokenizer, length: usize, use_row: &mut UseIds<'_>) -> Result<usize> {
    let (mut ids, mut number) = (Vec::with_capacity(length.min(BUFFER_BYTES)), 1);
    for file in files(path, tokenizer)? {
        file.read(tokenizer.vocabulary_size(), &mut |id| {
            ids.push(id);
            if ids.len() == length {
                use_row(&file.path, number, &ids)?;
                number += 1;
                ids.clear();
            }
            Ok(())
        })?;
    }
    Ok(ids.len())
}

impl TokenFile {
    fn read(&self, vocabulary_size: usize, use_id: &mut dyn FnMut(u32) -> Result<()>) -> Result<()> {
        let mut file = BufReader::with_capacity(BUFFER_BYTES, fs::File::open(&self.path)?);
        let (mut bytes, mut position) = ([0; 4], 0_u64);
        for _ in 0..fs::metadata(&self.path)?.len() / self.width as u64 {
            file.read_exact(&mut bytes[..self.width])?;
            let id = u32::from_le_bytes(bytes);
            position += 1;
            if id as usize >= vocabulary_size {
                let problem = format!(
                    "id {id} at position {position} is outside of the vocabulary of {vocabulary_size}: \
                     expected ids that this vocabulary has cut"
                );
                return Err(self.error(problem));
            }
            use_id(id)?;
        }
        Ok(())
    }

    /// Checks the length, which must be `tokens` ids where that is known.
    fn check(self, tokens: Option<u64>) -> Result<Self> {
        let (length, width) = (fs::metadata(&self.path)?.len(), self.width as u64);
        let is_whole =
            length % width == 0 && tokens.is_none_or(|tokens| tokens.checked_mul(width) == Some(length));
        if !is_whole {
            let expected = tokens.map_or_else(String::new, |tokens| format!("{tokens} "));
            return Err(self.error(format!("found {length} bytes: expected {expected}ids of {width} bytes")));
        }
        let ends = self.ends.iter().flatten();
        let is_ascending = ends.clone().zip(ends.skip(1)).all(|(one, next)| one < next);
        if !is_ascending
            || self.ends.as_ref().is_some_and(|ends| ends.last().copied().unwrap_or(0) != length / width)
        {
            return Err(
                self.error("the `.idx` file beside it is of another one: write both again".to_owned())
            );
        }
        Ok(self)
    }

    fn error(&self, problem: String) -> DataError {
        DataError::TokenFile { path: self.path.clone(), problem }
    }
}

fn files(path: &Path, tokenizer: &Tokenizer) -> Result<Vec<TokenFile>> {
    let width = |index: &TokenIndex| if index.dtype == "uint16" { 2 } else { 4 };
    if let Some(index) = index_of(path) {
        let file = |shard: &danlu_formats::TokenShard| {
            // The name comes from a file: it may not lead elsewhere.
            let name = Path::new(&shard.file).file_name().unwrap_or_default();
            let data = path.join(name);
            let ends = ends(&data.with_extension("idx"))?;
            TokenFile { path: data, width: width(&index), ends: Some(ends) }.check(Some(shard.tokens))
        };
        return index.shards.iter().map(file).collect();
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".json");
    let folder = path.parent().and_then(index_of);
    let (width, ends) = match (read_index(Path::new(&beside)), folder) {
        (Some(index), _) => (width(&index), None),
        (None, Some(index)) => (width(&index), Some(ends(&path.with_extension("idx"))?)),
        (None, None) => (if tokenizer.vocabulary_size() <= 1 << 16 { 2 } else { 4 }, None),
    };
    if ends.is_none() && tokenizer.eos_id().is_none() {
        return Err(DataError::Tokenizer(
            "it has no end-of-text token, which ends each document of a token file: set `eos_token`"
                .to_owned(),
        ));
    }
    Ok(vec![TokenFile { path: path.to_owned(), width, ends }.check(None)?])
}

/// The index of a folder of token files.
fn index_of(folder: &Path) -> Option<TokenIndex> {
    folder.is_dir().then(|| read_index(&folder.join("index.json"))).flatten()
}

fn read_index(path: &Path) -> Option<TokenIndex> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn ends(path: &Path) -> Result<Vec<u64>> {
    let bytes = fs::read(path)?;
    let end = |bytes: &[u8]| bytes.iter().rev().fold(0, |end, byte| end << 8 | u64::from(*byte));
    Ok(bytes.chunks(8).map(end).collect())
}
