//! Output that must follow a grammar: which tokens may come next, and whether the text may end.
//!
//! Works over the bytes of tokens; knows no tokenizer and no model.

mod vocabulary;

pub use vocabulary::Vocabulary;
