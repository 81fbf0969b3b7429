//! Benchmarks on models that are small enough for a test. One program, which links faster than one for each file.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

mod longbench;
mod metrics;
mod multiple_choice;
mod perplexity;
