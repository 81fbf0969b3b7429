//! What can go wrong in this crate, in words for the user.

use std::path::PathBuf;

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Errors of tokenizers and chat templates.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written; the message carries its path.
    #[error(transparent)]
    File(#[from] std::io::Error),
    /// A tokenizer file was read but makes no sense.
    #[error("`{path}`: {message}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        message: String,
    },
    /// The tokenizer inside a GGUF file makes no sense.
    #[error("tokenizer of the GGUF file: {0}")]
    Gguf(String),
    /// A vocabulary that llama2.c's format cannot hold.
    #[error("tokenizer.bin of llama2.c: {0}")]
    Llama2C(String),
    /// A vocabulary that no `tokenizer.json` can hold.
    #[error("tokenizer.json: {0}")]
    Json(String),
    /// A vocabulary that no sentencepiece model can hold.
    #[error("sentencepiece model: {0}")]
    SentencePiece(String),
    /// Vocabulary training was asked for something impossible.
    #[error("vocabulary training: {0}")]
    Training(String),
    /// A vocabulary that cannot be extended.
    #[error("the vocabulary cannot be extended: {0}")]
    Extension(String),
    /// A text could not be turned into ids.
    #[error("cannot tokenize the text: {0}")]
    Encode(String),
    /// An id outside the vocabulary was to be decoded.
    #[error("token id {id} is not in the vocabulary (its ids end at {last})")]
    UnknownId {
        /// The id.
        id: u32,
        /// The highest id of the vocabulary.
        last: usize,
    },
    /// No built-in chat template has this name, and no file.
    #[error("`{name}` is neither a built-in chat template ({known}) nor a file")]
    UnknownTemplate {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A conversation has tools, or calls of them, that the chat template would leave out.
    #[error(
        "the chat template has no place for `{what}` of the conversation: use the model's own template, or one with \
         tools such as `qwen`"
    )]
    NoPlace {
        /// `tools` or `tool_calls`.
        what: &'static str,
    },
    /// A chat template does not parse, or fails while rendering (also by its own `raise_exception`).
    #[error("chat template, line {line}: {message}")]
    Template {
        /// Line of the template, from 1; 0 when unknown.
        line: usize,
        /// Jinja's or the template's own message.
        message: String,
    },
    /// The conversation cannot be cut into trained and untrained text.
    #[error(
        "the chat template is not prefix-stable: it renders the conversation up to message {message} differently \
         when {cause}, so the text to train on is not the text the model will see; give each answer its own \
         conversation, or choose a built-in template"
    )]
    NotPrefixStable {
        /// Index of the assistant's message, from 0.
        message: usize,
        /// What changes the rendering.
        cause: &'static str,
    },
}
