//! Data as users bring it. One program, which links faster than one for each file.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

mod dataset;
mod dataset_format;
mod records;
