//! Benchmarks on models that are small enough for a test. One program, which links faster than one for each file.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
mod server;

mod arena;
mod layouts;
mod lm_eval;
mod longbench;
mod metrics;
mod multiple_choice;
mod openai;
mod perplexity;
mod prompts;
