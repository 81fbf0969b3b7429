//! The program as users and scripts run it. One program, which links faster than one for each file.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

mod bench;
mod chat;
mod commands;
mod convert;
mod convert_limits;
mod data;
mod docs;
mod doctor;
mod generate;
mod gptq;
mod hub;
mod luban;
mod memory;
mod merge;
mod optimizers;
mod quantized;
mod quickstart;
mod seed;
mod training;
