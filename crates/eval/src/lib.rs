//! What a model knows, in numbers: multiple choice by log-likelihood, perplexity, entities that answers name.
//!
//! Everything here reads probabilities that the model gives to texts that exist, or answers that were given; nothing is
//! generated, nothing is trained. It prints nothing: results are values that serialise to JSON.

pub mod entities;
mod error;
mod log_likelihood;
pub mod multiple_choice;
pub mod perplexity;

pub use error::{Error, Result};
