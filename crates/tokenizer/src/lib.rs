//! Text and ids: vocabularies, their training, and chat templates.
//!
//! Knows no models and reads no tensor files: a vocabulary comes from Hugging Face or sentencepiece files, from
//! training, or from the plain fields of a GGUF file's metadata. Nothing here ever adds BOS or EOS by itself.

mod byte_level;
mod bytes;
mod decode;
mod error;
mod extension;
mod files;
mod files_out;
mod gguf;
mod gguf_out;
mod guard;
mod id_cache;
mod jinja;
mod json_out;
mod llama2c;
mod long_text;
mod model_file;
mod named;
mod pair_table;
mod prompt;
mod segments;
mod sentencepiece;
mod template;
mod tiktoken;
mod tokenizer;
mod training;
mod word_pattern;

pub use decode::DecodeStream;
pub use error::{Error, Result};
pub use extension::{Extension, Reached};
pub use gguf::GgufVocabulary;
pub use guard::Guarded;
pub use segments::Segment;
pub use template::{ChatTemplate, Message, TemplateTokens};
pub use tokenizer::{SpecialTokens, Tokenizer};
pub use training::{
    TextNormalization, TokenRole, TrainedToken, TrainingProgress, VocabularyKind, VocabularyTraining,
};
