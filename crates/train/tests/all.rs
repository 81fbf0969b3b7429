//! Training against what was recorded of other programs, and as a run. One program, which links faster than one for each file.
#![allow(clippy::unwrap_used, clippy::panic)]

mod adamw;
mod batches;
mod distillation;
mod optimizers;
mod preferences;
mod run;
mod trainable;
