//! `training_state.json`: how far a run was, and what must be the same for it to go on.

use danlu_data::{SampleSet, StepOrder};
use serde::{Deserialize, Serialize};

use crate::guard;
use crate::prepare::Prepared;
use crate::recipe::Optim;
use crate::since_log::SinceLog;

/// The file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TrainingState {
    /// Finished optimizer steps.
    pub(crate) step: u64,
    /// Tokens read so far.
    pub(crate) tokens_seen: u64,
    /// Samples trained so far.
    #[serde(default)]
    pub(crate) samples_seen: u64,
    /// Steps taken, those that changed nothing included; not those that a rollback passed over.
    #[serde(default)]
    pub(crate) steps_taken: u64,
    /// Time that it took to come here; that of steps which a kill or a rollback gave up does not count.
    #[serde(default)]
    pub(crate) elapsed_seconds: f64,
    /// Sum of the losses of the finished steps.
    #[serde(default)]
    pub(crate) loss_sum: f64,
    /// What the next line of the log will sum up.
    #[serde(default)]
    pub(crate) since_log: SinceLog,
    /// What the guard of the run remembers.
    #[serde(default)]
    pub(crate) guard: guard::Memory,
    #[serde(flatten)]
    pub(crate) identity: Identity,
}

impl TrainingState {
    /// That of a run before its first step.
    pub(crate) fn before_all(identity: Identity) -> Self {
        let (since_log, guard) = (SinceLog::default(), guard::Memory::default());
        Self {
            step: 0,
            tokens_seen: 0,
            samples_seen: 0,
            steps_taken: 0,
            elapsed_seconds: 0.0,
            loss_sum: 0.0,
            since_log,
            guard,
            identity,
        }
    }
}

/// What must not change between a run and its continuation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// The optimizer whose state it is.
    #[serde(default)]
    optim: Optim,
    /// Seed of the order of samples.
    seed: u64,
    /// Samples of one step.
    samples_per_step: u64,
    /// Hash of the training samples' tokens, weights and order.
    pub(crate) data_fingerprint: u64,
    /// The same of the validation samples, in the order of their rows; none in a checkpoint that does not know it.
    #[serde(default)]
    pub(crate) validation_fingerprint: Option<u64>,
    /// Name and shape of each trained parameter, in the order in which the optimizer's state has them.
    #[serde(default)]
    parameters: Vec<String>,
    /// The day that the chat template writes into the samples (`20260131`), where it writes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) day: Option<u32>,
}

impl Identity {
    /// That of a run.
    pub(crate) fn of(prepared: &Prepared) -> Self {
        let training = &prepared.recipe.training;
        let parameters = prepared.model.parameters().list().iter();
        Self {
            optim: training.optim,
            seed: training.data_seed(),
            samples_per_step: training.samples_per_step() as u64,
            data_fingerprint: samples_fingerprint(&prepared.training)
                ^ StepOrder::fingerprint(&prepared.order),
            validation_fingerprint: Some(samples_fingerprint(&prepared.validation)),
            parameters: parameters.map(|one| format!("{} {:?}", one.name, one.shape)).collect(),
            day: prepared.day,
        }
    }

    /// The first thing that is not as it was, in words. What was known of the validation samples when the run began counts
    /// where a reference was computed of them.
    pub(super) fn difference(&self, now: &Self, has_reference: bool) -> Option<String> {
        let numbers = [
            (
                "the training samples are not the same: data, tokenizer, template or `cutoff_len`",
                self.data_fingerprint,
                now.data_fingerprint,
            ),
            ("`data_seed` (or `seed`) is not the same", self.seed, now.seed),
            (
                "the samples of a step (batch size times accumulation) are not as many",
                self.samples_per_step,
                now.samples_per_step,
            ),
        ];
        if let Some((what, before, now)) = numbers.into_iter().find(|(_, before, now)| before != now) {
            return Some(format!("{what} ({before} then, {now} now)"));
        }
        if has_reference && self.validation_differs(now) {
            return Some(
                "the validation samples are not those whose log-probabilities at the beginning of the run it holds".into(),
            );
        }
        if self.optim != now.optim {
            let (before, now) = (self.optim.name(), now.optim.name());
            return Some(format!(
                "it holds the state of `optim: {before}`, and the recipe says `optim: {now}`"
            ));
        }
        self.other_parameters(now)
    }

    /// Whether a loss of this validation and one of the other do not compare.
    pub(crate) fn validation_differs(&self, now: &Self) -> bool {
        self.validation_fingerprint.is_some_and(|before| Some(before) != now.validation_fingerprint)
    }

    fn other_parameters(&self, now: &Self) -> Option<String> {
        if self.parameters.is_empty() || self.parameters == now.parameters {
            return None;
        }
        let missing = |all: &[String], from: &[String]| -> Option<String> {
            let mut missing = all.iter().filter(|one| !from.contains(one));
            let first = format!("`{}`", missing.next()?);
            Some(match missing.count() {
                0 => first,
                others => format!("{first} and {others} more"),
            })
        };
        let only_then = missing(&self.parameters, &now.parameters).map(|names| format!("{names} then alone"));
        let only_now = missing(&now.parameters, &self.parameters).map(|names| format!("{names} now alone"));
        let parts: Vec<String> = [only_then, only_now].into_iter().flatten().collect();
        let parts = if parts.is_empty() { "in another order".to_owned() } else { parts.join(", ") };
        Some(format!("what is trained is not the same: {parts}"))
    }
}

/// A hash of every token and weight, in order: FNV-1a over words of 32 bits.
pub(crate) fn samples_fingerprint(samples: &SampleSet) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |word: u32| hash = (hash ^ u64::from(word)).wrapping_mul(0x0100_0000_01b3);
    for sample in samples.iter() {
        add(sample.ids.len() as u32);
        sample.ids.iter().for_each(|&id| add(id));
        sample.loss_weights.iter().for_each(|weight| add(weight.to_bits()));
    }
    hash
}
