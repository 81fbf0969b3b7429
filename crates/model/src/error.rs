//! What can go wrong with a model, in sentences that name the file and the field or tensor.

use std::path::PathBuf;

/// Result of this room.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this room.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tensor file is missing, damaged or unreadable.
    #[error(transparent)]
    Format(#[from] danlu_formats::Error),
    /// A tokenizer file is.
    #[error(transparent)]
    Tokenizer(#[from] danlu_tokenizer::Error),
    /// Reading or writing failed; the message carries the path.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A JSON file that does not parse.
    #[error("`{}`: {reason}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser said, with line and column.
        reason: String,
    },
    /// A field of a configuration that this program cannot run.
    #[error("`{}`: `{field}`: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The field.
        field: String,
        /// What is wrong and what was expected.
        reason: String,
    },
    /// Tensors that the configuration asks for and the file lacks.
    #[error(
        "`{}` lacks {} that its configuration asks for: {}", path.display(), tensors(names.len()), listed(names)
    )]
    MissingTensors {
        /// The file.
        path: PathBuf,
        /// Their names.
        names: Vec<String>,
    },
    /// Tensors that belong to nothing.
    #[error(
        "`{}` holds {} that no part of the model uses: {}; the configuration does not describe this file",
        path.display(), tensors(names.len()), listed(names)
    )]
    LeftoverTensors {
        /// The file.
        path: PathBuf,
        /// Their names.
        names: Vec<String>,
    },
    /// A tensor of the wrong shape or type.
    #[error("`{}`: tensor `{name}`: {reason}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What is wrong and what was expected.
        reason: String,
    },
    /// A tokenizer whose ids do not fit the model's embedding.
    #[error(
        "the tokenizer of `{}` gives text ids up to {highest}, but the model's embedding has {rows} rows; use the tokenizer \
         that the model was trained with", path.display()
    )]
    VocabularyMismatch {
        /// The model.
        path: PathBuf,
        /// Highest id of a token that is not special.
        highest: usize,
        /// Rows of the embedding.
        rows: usize,
    },
    /// A token id that the model has no embedding for.
    #[error("token id {id} has no row in the model's embedding, which ends at {}", vocabulary_size.saturating_sub(1))]
    TokenOutOfRange {
        /// The id.
        id: u32,
        /// The model's vocabulary size.
        vocabulary_size: usize,
    },
    /// More tokens than the context holds.
    #[error("{what} of {tokens} tokens does not fit the model's context of {context} tokens; {advice}")]
    TooLong {
        /// What is too long: a prompt, a sequence.
        what: &'static str,
        /// Its length.
        tokens: usize,
        /// `max_position_embeddings`.
        context: usize,
        /// What to do.
        advice: &'static str,
    },
    /// The caller wanted the work to end.
    #[error("stopped; nothing was written")]
    Cancelled,
    /// Anything else, said in full.
    #[error("{0}")]
    Message(String),
}

fn tensors(count: usize) -> String {
    if count == 1 { "a tensor".to_owned() } else { format!("{count} tensors") }
}

/// The first names, and how many more there are.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let mut text = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text += &format!(" and {} more", names.len() - SHOWN);
    }
    text
}
