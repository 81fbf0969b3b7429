//! What a model knows, in numbers: multiple choice by log-likelihood, and perplexity.
//!
//! Everything here reads probabilities that the model gives to texts that exist; nothing is generated and nothing
//! is trained. It prints nothing: results are values that serialise to JSON.

mod error;
mod log_likelihood;
pub mod multiple_choice;
pub mod perplexity;

pub use error::{Error, Result};
