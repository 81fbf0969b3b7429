//! The files that data sets are read from, told apart by their content: for the record of a run.

use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::cache::hash_file;
use crate::dataset_format::Purpose;
use crate::error::Result;
use crate::options::DataOptions;
use crate::records::split_sheet;
use crate::rows::Rows;
use crate::token_files;

/// What is hashed of a list of files in all, each that still fits; the others are told by their size alone.
const MOST_BYTES: u64 = 1 << 30;

/// A file of a data set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DataFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Hash of its content; none where the files before and it are more than 1 GiB.
    pub sha256: Option<String>,
}

/// Every file that the data sets `names` are read from, in order.
///
/// # Errors
/// A data set that is not there, a file that cannot be read.
pub fn data_files(options: &DataOptions, purpose: Purpose, names: &[String]) -> Result<Vec<DataFile>> {
    let (mut files, mut left) = (Vec::new(), MOST_BYTES);
    for name in names {
        for path in paths(options, purpose, name)?.0 {
            let file = split_sheet(&path).0;
            let bytes = fs::metadata(file)?.len();
            let is_hashed = bytes <= left;
            left -= if is_hashed { bytes } else { 0 };
            let sha256 = is_hashed.then(|| sha256_of(file)).transpose()?;
            files.push(DataFile { path, bytes, sha256 });
        }
    }
    Ok(files)
}

/// SHA-256 of a file's content, hexadecimal.
///
/// # Errors
/// A file that cannot be read.
pub fn sha256_of(file: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    hash_file(file, &mut hash)?;
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The files of a data set, and everything beside them and the options that decides what its rows mean.
pub(crate) fn paths(options: &DataOptions, purpose: Purpose, name: &str) -> Result<(Vec<PathBuf>, String)> {
    if let Some(path) = token_files::find(name, options)? {
        return Ok((token_files::paths(&path)?, String::new()));
    }
    let rows = Rows::open(options, purpose, name, &mut Vec::new())?;
    Ok((rows.files().map(ToOwned::to_owned).collect(), rows.meaning()))
}
