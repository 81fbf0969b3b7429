//! Files of every format, of others and damaged ones too. One program, which links faster than one for each file.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

mod adapter_config;
mod atomic;
mod consolidated;
mod damaged;
mod gguf;
mod gguf_writer;
mod llama2c;
mod pytorch;
mod safetensors;
