//! What can go wrong with a file, in sentences that name it. Every variant carries the path.

use std::io;
use std::path::{Path, PathBuf};

/// Result of reading or writing a tensor file.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong with which file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused; `error` comes from `fs_err` and says what was tried on which path.
    #[error("{error}")]
    Io { path: PathBuf, error: io::Error },
    /// The file system holds no more bytes, or the user's quota is used up.
    #[error(
        "cannot write `{}`: the disk is full; what was there before is unchanged, free some space and run again",
        path.display()
    )]
    DiskFull { path: PathBuf },
    /// The folder lacks what was looked for.
    #[error("`{}` holds no {expected}", path.display())]
    Missing { path: PathBuf, expected: String },
    /// The path is of the wrong kind: a folder where a file is needed, or the reverse.
    #[error("`{}` is not a {expected}", path.display())]
    WrongKind { path: PathBuf, expected: &'static str },
    /// The content breaks the rules of its format: it is damaged, cut short, or something else.
    #[error("`{}` is not a valid {format} file: {reason}", path.display())]
    Invalid { path: PathBuf, format: &'static str, reason: String },
    /// The content is valid but not read here; the reason says what to do instead.
    #[error("`{}` cannot be read: {reason}", path.display())]
    Unsupported { path: PathBuf, reason: String },
    /// JSON with a wrong syntax or a field of a wrong type; `error` names line and column.
    #[error("`{}` is not as expected: {error}", path.display())]
    Json { path: PathBuf, error: serde_json::Error },
    /// A metadata value is there, but of another type.
    #[error("`{}`: metadata `{key}` should be {expected}, but is {found}", path.display())]
    MetadataType { path: PathBuf, key: String, expected: &'static str, found: String },
    /// A tensor that cannot be written as asked.
    #[error("cannot write `{}`: tensor `{name}` {reason}", path.display())]
    Tensor { path: PathBuf, name: String, reason: String },
}

impl Error {
    /// An input or output error on `path`; a full disk gets its own sentence.
    pub fn io(path: impl AsRef<Path>, error: io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            _ => Self::Io { path, error },
        }
    }

    /// The file or folder that the error is about.
    pub fn path(&self) -> &Path {
        match self {
            Self::Io { path, .. }
            | Self::DiskFull { path }
            | Self::Missing { path, .. }
            | Self::WrongKind { path, .. }
            | Self::Invalid { path, .. }
            | Self::Unsupported { path, .. }
            | Self::Json { path, .. }
            | Self::MetadataType { path, .. }
            | Self::Tensor { path, .. } => path,
        }
    }
}
