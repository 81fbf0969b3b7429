//! What a model knows, in numbers: multiple choice by log-likelihood, perplexity, entities that answers name, long texts, how near
//! answers are to reference answers; and which of several models is better: results side by side, ratings from votes, a judge.
//!
//! Nothing is trained. Only [`openai`] has a network. It prints nothing: results are values that serialise to JSON.

pub mod arena;
pub mod compare;
pub mod entities;
mod error;
pub mod generation;
pub mod judge;
pub mod line_file;
mod log_likelihood;
pub mod longbench;
pub mod metrics;
pub mod multiple_choice;
pub mod openai;
mod parallel;
pub mod perplexity;
mod resampling;

pub use error::{Error, Result};
