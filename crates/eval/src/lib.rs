//! What a model knows, in numbers: multiple choice by log-likelihood, perplexity, entities that answers name; and which of
//! several models is better: results side by side, ratings from votes, a judge.
//!
//! Everything here reads probabilities that the model gives to texts that exist, or answers that were given; nothing is
//! generated, nothing is trained. Only [`openai`] has a network. It prints nothing: results are values that serialise to JSON.

pub mod arena;
pub mod compare;
pub mod entities;
mod error;
pub mod judge;
mod log_likelihood;
pub mod multiple_choice;
pub mod openai;
mod parallel;
pub mod perplexity;
mod resampling;

pub use error::{Error, Result};
