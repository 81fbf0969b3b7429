//! Models against what was recorded of other programs. One program, which links faster than one for each file.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

mod adapters;
mod bitsandbytes;
mod constrained;
mod containers;
mod families;
mod families_meta;
mod families_packed;
mod gguf_adapter;
mod gguf_families;
mod golden;
mod gptq;
mod importance;
mod merge;
mod real_checkpoints;
mod seed;
