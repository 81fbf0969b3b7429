//! What can go wrong in an evaluation, in sentences that name the file and the line.

use std::path::PathBuf;

use danlu_data::{DataError, Source};

/// Result of this room.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this room.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read; the message carries its path.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A file could not be written whole.
    #[error(transparent)]
    Format(#[from] danlu_formats::Error),
    /// A page or chart could not be written.
    #[error(transparent)]
    Report(#[from] danlu_report::ReportError),
    /// The model could not run.
    #[error(transparent)]
    Model(#[from] danlu_model::Error),
    /// The vocabulary or the chat template failed.
    #[error(transparent)]
    Tokenizer(#[from] danlu_tokenizer::Error),
    /// A question cannot be used.
    #[error("{at}: {problem}")]
    Row {
        /// File and line.
        at: Source,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// A file or folder cannot be used.
    #[error("`{}`: {problem}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// A model that gives something else than numbers.
    #[error(
        "the model's score of an option is not a number: its weights are damaged, or too large for the precision; try \
         `--precision f32`"
    )]
    NotFinite,
    /// No file is called like the subject that was asked for.
    #[error("no subject `{name}` in `{}`{}", path.display(), hint(nearest))]
    UnknownSubject {
        /// The name asked for.
        name: String,
        /// Where the subjects are.
        path: PathBuf,
        /// The nearest of them.
        nearest: Option<String>,
    },
    /// A server does not answer as it should.
    #[error("`{url}` {problem}")]
    Server {
        /// What was asked.
        url: String,
        /// What it does and what to do.
        problem: String,
    },
    /// An address, a key or the name of a model with which a server cannot be asked.
    #[error("`{url}` {problem}")]
    Address {
        /// What was given, or asked.
        url: String,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// A server that does not take a request, and may take another.
    #[error("`{url}` {problem}")]
    Refused {
        /// What was asked.
        url: String,
        /// What it says.
        problem: String,
        /// Whether the prompt is longer than the model's context.
        is_too_long: bool,
    },
    /// An option has a value that cannot work.
    #[error("`{option}`: {problem}")]
    Option {
        /// The option.
        option: &'static str,
        /// What was expected.
        problem: String,
    },
}

impl From<DataError> for Error {
    fn from(error: DataError) -> Self {
        match error {
            DataError::Io(error) => Self::Io(error),
            DataError::Format(error) => Self::Format(error),
            // Without the advice to skip the row: a benchmark is scored whole.
            DataError::Row { at, problem } => Self::Row { at, problem: problem.to_string() },
            other => Self::Io(std::io::Error::new(std::io::ErrorKind::InvalidData, other)),
        }
    }
}

fn hint(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}
