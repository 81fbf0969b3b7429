//! `run.json`: what a result was made by and from, so that it can be made again: versions, machine, seeds, hashes of the data.
//!
//! The options are in `recipe.yaml` beside it.

use danlu_kernels::{cpu, team};
use danlu_model::Precision;
use serde::Serialize;
use serde_json::{Value, json};

use crate::machine;
use crate::prepare::Prepared;

/// The record.
#[derive(Clone, Debug, Serialize)]
pub struct RunRecord {
    /// Version of the program.
    danlu: &'static str,
    /// Processor, level of its instructions, threads: with another level the bits differ.
    machine: Value,
    /// `f32` or `bf16`.
    precision: &'static str,
    seed: u64,
    data_seed: u64,
    /// Names, numbers and hashes of what was trained on.
    data: Value,
    /// Hash of the vocabulary.
    tokenizer: String,
    total_steps: u64,
    /// The step that this process went on from.
    resumed_at: u64,
}

impl RunRecord {
    /// What is known of a run before its first step; `data_fingerprint` is that of checkpoints.
    pub fn new(prepared: &Prepared, data_fingerprint: u64, resumed_at: u64) -> Self {
        let (data, training) = (&prepared.recipe.data, &prepared.recipe.training);
        Self {
            danlu: env!("CARGO_PKG_VERSION"),
            machine: json!({
                "processor": machine::processor(),
                "isa": format!("{:?}", cpu::level()).to_lowercase(),
                "threads": team::threads(),
            }),
            precision: match prepared.model.precision() {
                Precision::F32 => "f32",
                Precision::Bf16 => "bf16",
            },
            seed: training.seed,
            data_seed: training.data_seed(),
            data: json!({
                "dataset": data.dataset,
                "eval_dataset": data.eval_dataset,
                "training_samples": prepared.training.len(),
                "training_tokens": prepared.training.tokens(),
                "validation_samples": prepared.validation.len(),
                // Of every token, loss weight and the order.
                "fingerprint": format!("{data_fingerprint:016x}"),
            }),
            tokenizer: prepared.tokenizer.fingerprint(),
            total_steps: prepared.total_steps,
            resumed_at,
        }
    }
}
