//! The program as users and scripts run it. One program, which links faster than one for each file.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

mod adapters;
mod bench;
mod chat;
mod commands;
mod convert;
mod convert_limits;
mod data;
mod data_bad_rows;
mod data_batches;
mod data_clean;
mod data_dedup;
mod data_formats;
mod data_inspect;
mod data_templates;
mod docs;
mod doctor;
mod files;
mod generate;
mod gptq;
mod hub;
mod luban;
mod memory;
mod merge;
mod optimizers;
mod preferences;
mod quantized;
mod quickstart;
mod seed;
mod tokenizer;
mod training;
