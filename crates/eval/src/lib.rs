//! What a model knows, in numbers: multiple choice by log-likelihood, perplexity, entities that answers name, long texts, and how
//! near answers are to reference answers.
//!
//! Nothing is trained. It prints nothing: results are values that serialise to JSON.

pub mod entities;
mod error;
pub mod generation;
pub mod line_file;
mod log_likelihood;
pub mod longbench;
pub mod metrics;
pub mod multiple_choice;
pub mod perplexity;

pub use error::{Error, Result};
