//! Text and ids: vocabularies, their training, and chat templates.
//!
//! Knows no models and reads no tensor files: a vocabulary comes from Hugging Face or sentencepiece files, from
//! training, or from the plain fields of a GGUF file's metadata. Nothing here ever adds BOS or EOS by itself.

mod bytes;
mod decode;
mod error;
mod extension;
mod files;
mod gguf;
mod gguf_out;
mod guard;
mod jinja;
mod json_out;
mod llama2c;
mod long_text;
mod model_file;
mod sentencepiece;
mod template;
mod tiktoken;
mod tokenizer;
mod training;

pub use decode::DecodeStream;
pub use error::{Error, Result};
pub use extension::Extension;
pub use gguf::GgufVocabulary;
pub use guard::Guarded;
pub use template::{ChatTemplate, Message, Segment, TemplateTokens};
pub use tokenizer::{SpecialTokens, Tokenizer};
pub use training::{
    TextNormalization, TokenRole, TrainedToken, TrainingProgress, VocabularyKind, VocabularyTraining,
};
