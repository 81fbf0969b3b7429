//! Whole datasets: samples with the account of how they came to be, and those of them that are kept for validation. How rows
//! become samples is the loader's.

use std::ops::{ControlFlow, Range};

use danlu_tokenizer::{ChatTemplate, TemplateTokens, Tokenizer};

use crate::dataset_format::{Purpose, Row};
use crate::error::{DataError, Result};
use crate::inspection::{Inspect, Inspection};
use crate::loader::Loader;
use crate::mixing::{members, mix};
use crate::options::{DataOptions, ValSplit};
use crate::order::epoch_order;
use crate::report::DatasetReport;
use crate::rows::Rows;
use crate::sample_store::SampleSet;
use crate::token_files;

/// The order of the split is that of an epoch that no run reaches.
const SPLIT_EPOCH: u64 = u64::MAX;

/// What rows become.
#[derive(Clone, Copy)]
pub enum Task<'a> {
    /// Documents, every token learned (`stage: pt`).
    Pretraining,
    /// Conversations, answers learned (`stage: sft`).
    Conversation {
        /// The model's chat template.
        template: &'a ChatTemplate,
        /// The special tokens that it may write.
        tokens: &'a TemplateTokens,
    },
    /// Preference pairs, each of which becomes two samples: the wanted answer learned, and the unwanted one.
    Preference {
        /// The model's chat template.
        template: &'a ChatTemplate,
        /// The special tokens that it may write.
        tokens: &'a TemplateTokens,
    },
    /// Judged answers, each of which becomes a sample; those of a pair are taken apart.
    Judged {
        /// The model's chat template.
        template: &'a ChatTemplate,
        /// The special tokens that it may write.
        tokens: &'a TemplateTokens,
    },
}

impl Task<'_> {
    /// What its rows are read for.
    pub fn purpose(self) -> Purpose {
        match self {
            Task::Pretraining => Purpose::Pretraining,
            Task::Conversation { .. } => Purpose::Conversation,
            Task::Preference { .. } => Purpose::Preference,
            Task::Judged { .. } => Purpose::Judged,
        }
    }

    /// Samples that belong together: the two of a pair.
    pub fn samples_per_row(self) -> usize {
        if let Task::Preference { .. } = self { 2 } else { 1 }
    }
}

/// Samples and the account of how they came to be.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// Samples in the order of the rows.
    pub samples: SampleSet,
    /// The samples of each data set.
    pub datasets: Vec<Range<usize>>,
    /// Samples that belong together and behind each other: 2 for the answers of a pair, else 1.
    pub samples_per_row: usize,
    /// What was read, skipped, dropped and cut.
    pub report: DatasetReport,
    /// What is in each data set, where that was asked for.
    pub inspections: Vec<Inspection>,
}

/// What goes on beside loading.
pub struct Watch<'a> {
    /// Called with the rows that are done. It may stop the work, which a later call continues where the samples are kept
    /// on disk.
    pub progress: &'a mut dyn FnMut(u64) -> ControlFlow<()>,
    /// Looks at the rows while they are tokenized.
    pub inspect: Option<Inspect<'a>>,
}

/// Samples to train on and samples to validate with; no sample is in both.
#[derive(Debug, Clone)]
pub struct Split {
    /// Samples to train on, in the order of the rows or, of several datasets, of the mixture.
    pub training: SampleSet,
    /// Samples to validate with, in the order of the rows.
    pub validation: SampleSet,
}

impl Dataset {
    /// Loads `dataset`. It is an error if no sample is left.
    pub fn load(options: &DataOptions, tokenizer: &Tokenizer, task: Task<'_>) -> Result<Self> {
        let mut progress = |_| ControlFlow::Continue(());
        Self::load_watched(options, tokenizer, task, Watch { progress: &mut progress, inspect: None })
    }

    /// As [`load`](Self::load), watched.
    ///
    /// # Errors
    /// As for `load`, and [`DataError::Stopped`].
    pub fn load_watched(
        options: &DataOptions,
        tokenizer: &Tokenizer,
        task: Task<'_>,
        watch: Watch<'_>,
    ) -> Result<Self> {
        if options.dataset.is_empty() {
            let problem =
                "found none: expected a file, a folder, or a name in `dataset_info.json`".to_owned();
            return Err(DataError::Option { option: "dataset", problem });
        }
        let Watch { progress, inspect } = watch;
        Loader { options, tokenizer, task, names: &options.dataset, inspect }.load(progress)
    }

    /// Loads `eval_dataset`, if one is given; `progress` is that of [`Watch`].
    ///
    /// # Errors
    /// As for `load_watched`.
    pub fn load_eval(
        options: &DataOptions,
        tokenizer: &Tokenizer,
        task: Task<'_>,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Option<Self>> {
        if options.eval_dataset.is_empty() {
            return Ok(None);
        }
        let names = &options.eval_dataset;
        Loader { options, tokenizer, task, names, inspect: None }.load(progress).map(Some)
    }

    /// Takes samples (of pairs: pairs) for validation out of the dataset, chosen by the seed: a fraction of them if
    /// `val_size` is below 1 (at least one), else so many. With `val_split: hash` those whose content falls into the fraction.
    pub fn split(&self, options: &DataOptions, seed: u64) -> Result<Split> {
        let (samples, per_row) = (self.samples.len(), self.samples_per_row);
        let is_validation = match options.val_split {
            ValSplit::Random => self.random_split(options.val_size, seed),
            ValSplit::Hash => self.hash_split(options.val_size),
        };
        let validation: Vec<u32> =
            (0..samples as u32).filter(|&index| is_validation[index as usize]).collect();
        if validation.len() >= samples {
            let val_size = options.val_size;
            let rows = samples / per_row;
            let problem = format!("{val_size} leaves nothing to train on: the dataset has {rows} samples");
            return Err(DataError::Option { option: "val_size", problem });
        }
        if validation.is_empty() && options.val_size > 0.0 {
            let problem = format!(
                "`hash` chooses none of {samples} samples for a `val_size` of {}: raise it, or set `val_split: random`",
                options.val_size
            );
            return Err(DataError::Option { option: "val_split", problem });
        }
        let datasets = members(&self.datasets, |index| !is_validation[index]);
        // What belongs together is one thing to the mixture.
        let rows = |dataset: &Vec<u32>| dataset.iter().step_by(per_row).copied().collect();
        let rows: Vec<Vec<u32>> = datasets.iter().map(rows).collect();
        let mixed = mix(&rows, options.mix_strategy, &options.interleave_probs, seed)?;
        let training: Vec<u32> = mixed.into_iter().flat_map(|first| first..first + per_row as u32).collect();
        Ok(Split { training: self.samples.subset(&training), validation: self.samples.subset(&validation) })
    }

    fn random_split(&self, val_size: f64, seed: u64) -> Vec<bool> {
        let per_row = self.samples_per_row;
        let rows = self.samples.len() / per_row;
        let count = match val_size {
            0.0 => 0,
            fraction if fraction < 1.0 => ((rows as f64 * fraction).round() as usize).max(1),
            count => count as usize,
        };
        let mut is_validation = vec![false; self.samples.len()];
        for row in epoch_order(rows, seed, SPLIT_EPOCH).into_iter().take(count) {
            is_validation[row * per_row..(row + 1) * per_row].fill(true);
        }
        is_validation
    }

    /// The seed has no part in it: the same rows are kept for validation in every run.
    fn hash_split(&self, val_size: f64) -> Vec<bool> {
        let limit = (val_size * 2_f64.powi(64)) as u64;
        self.samples.hashes().map(|hash| hash < limit).collect()
    }
}

/// The texts of `dataset` that a vocabulary is learned from: documents, or the messages of conversations. They are those
/// of the rows that [`Dataset::load`] reads: a bad row is the same error here, or skipped here and counted there.
pub fn texts(options: &DataOptions, purpose: Purpose) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    let mut report = DatasetReport::default();
    for name in &options.dataset {
        if let Some(path) = token_files::find(name, options)? {
            return Err(token_files::no_texts(
                &path,
                "texts to learn a vocabulary from; name one with `tokenizer_name_or_path`",
            ));
        }
        let mut rows = Rows::open(options, purpose, name, &mut report.notices)?;
        while let Some((row, _)) = rows.next(&mut report)? {
            match row {
                Row::Document(text) => texts.push(text),
                mut row => texts.extend(
                    row.messages_mut().into_iter().map(|message| std::mem::take(&mut message.content)),
                ),
            }
        }
    }
    Ok(texts)
}
