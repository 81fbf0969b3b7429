//! Vocabularies and templates against what was recorded of other programs. One program, which links faster than one for each file.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

mod conversations;
mod gguf;
mod sentencepiece;
mod templates;
mod tokenizer;
mod training;
