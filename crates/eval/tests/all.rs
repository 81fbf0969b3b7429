//! Benchmarks on models that are small enough for a test. One program, which links faster than one for each file.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

mod layouts;
mod lm_eval;
mod multiple_choice;
mod perplexity;
mod prompts;
