//! Data as users bring it. One program, which links faster than one for each file.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

mod any_rows;
mod bad_rows;
mod batches;
mod cleaning;
mod conversion;
mod dataset;
mod dataset_format;
mod deduplication;
mod formats;
mod inspection;
mod record_files;
mod records;
mod templates;
