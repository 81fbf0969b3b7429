//! Output that must follow a grammar: which tokens may come next, and whether the text may end.
//!
//! Works over the bytes of tokens; knows no tokenizer and no model.

mod automaton;
mod expression;
mod gbnf;
mod grammar;
mod json_schema;
mod state;
mod utf8;
mod vocabulary;

pub use automaton::Mask;
pub use grammar::Grammar;
pub use state::{Constraint, ConstraintState};
pub use vocabulary::Vocabulary;
