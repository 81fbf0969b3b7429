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
    /// Whether the samples are blocks of documents that run on into each other.
    pub runs_on: bool,
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

    /// Takes samples (of pairs: pairs) for validation out of the dataset: a fraction of them if `val_size` is below 1 (at
    /// least one), else so many, in rows that the seed chooses. With `val_split: hash` those whose content falls into the
    /// fraction. The pieces of a row stay together; of documents that run on into each other the last blocks are taken.
    ///
    /// # Errors
    /// A `val_size` that leaves nothing to train on or to validate with, a choice by rows where blocks hold several.
    pub fn split(&self, options: &DataOptions, seed: u64) -> Result<Split> {
        let (samples, per_row) = (self.samples.len(), self.samples_per_row);
        let rows = match options.val_size {
            0.0 => 0,
            fraction if fraction < 1.0 => (((samples / per_row) as f64 * fraction).round() as usize).max(1),
            count => count as usize,
        };
        let count = rows.saturating_mul(per_row);
        if count >= samples && options.val_split == ValSplit::Random {
            let val_size = options.val_size;
            let rows = samples / per_row;
            let problem = format!("{val_size} leaves nothing to train on: the dataset has {rows} samples");
            return Err(DataError::Option { option: "val_size", problem });
        }
        let is_validation = match options.val_split {
            _ if count == 0 => vec![false; samples],
            ValSplit::Hash if self.runs_on => {
                let problem = "`hash` chooses whole rows, and with `neat_packing: false` a block holds the ends of \
                               several: set `val_split: random`, which takes the last blocks, or name an `eval_dataset`";
                return Err(DataError::Option { option: "val_split", problem: problem.to_owned() });
            }
            ValSplit::Hash => self.hash_split(options.val_size)?,
            ValSplit::Random if self.runs_on => self.last_blocks(count),
            ValSplit::Random => self.random_split(count, seed)?,
        };
        let validation: Vec<u32> =
            (0..samples as u32).filter(|&index| is_validation[index as usize]).collect();
        let datasets = members(&self.datasets, |index| !is_validation[index]);
        // What belongs together is one thing to the mixture.
        let rows = |dataset: &Vec<u32>| dataset.iter().step_by(per_row).copied().collect();
        let rows: Vec<Vec<u32>> = datasets.iter().map(rows).collect();
        let mixed = mix(&rows, options.mix_strategy, &options.interleave_probs, seed)?;
        let training: Vec<u32> = mixed.into_iter().flat_map(|first| first..first + per_row as u32).collect();
        Ok(Split { training: self.samples.subset(&training), validation: self.samples.subset(&validation) })
    }

    /// Rows in an order of chance, each that still fits; then one that comes nearer to the count by going beyond it.
    fn random_split(&self, count: usize, seed: u64) -> Result<Vec<bool>> {
        let rows = self.samples.rows();
        let (mut missing, mut is_validation) = (count, vec![false; self.samples.len()]);
        let mut shortest: Option<&Range<usize>> = None;
        for index in epoch_order(rows.len(), seed, SPLIT_EPOCH) {
            let row = &rows[index];
            if row.len() <= missing {
                is_validation[row.clone()].fill(true);
                missing -= row.len();
            } else if shortest.is_none_or(|shortest| row.len() < shortest.len()) {
                shortest = Some(row);
            }
        }
        let left = is_validation.iter().filter(|is_validation| !**is_validation).count();
        match shortest.filter(|row| row.len() < left) {
            Some(row) if row.len() < 2 * missing => is_validation[row.clone()].fill(true),
            _ if missing < count => {}
            _ => {
                let (pieces, shortest) = (self.samples.len(), shortest.map_or(0, Range::len));
                let problem = format!(
                    "asks for {count} of {pieces} samples, and the pieces of a row stay together, of which the shortest row \
                     has {shortest}: name an `eval_dataset`, or make shorter rows (`text_unit: paragraph` for a .txt file)"
                );
                return Err(DataError::Option { option: "val_size", problem });
            }
        }
        Ok(is_validation)
    }

    /// The end of each data set, in proportion: no more than one document of each is on both sides.
    fn last_blocks(&self, count: usize) -> Vec<bool> {
        let samples = self.samples.len();
        let mut is_validation = vec![false; samples];
        let share = |blocks: usize| (blocks * count + samples / 2) / samples;
        for blocks in &self.datasets {
            let taken = share(blocks.end) - share(blocks.start);
            is_validation[blocks.end - taken..blocks.end].fill(true);
        }
        is_validation
    }

    /// The seed has no part in it: the same rows are kept for validation in every run.
    fn hash_split(&self, val_size: f64) -> Result<Vec<bool>> {
        let limit = (val_size * 2_f64.powi(64)) as u64;
        let is_validation: Vec<bool> = self.samples.hashes().map(|hash| hash < limit).collect();
        let samples = is_validation.len();
        let problem = if !is_validation.contains(&true) {
            format!(
                "`hash` chooses none of {samples} samples for a `val_size` of {val_size}: raise it, or set `val_split: random`"
            )
        } else if !is_validation.contains(&false) {
            format!(
                "`hash` chooses all of {samples} samples for a `val_size` of {val_size}: lower it, or set `val_split: random`"
            )
        } else {
            return Ok(is_validation);
        };
        Err(DataError::Option { option: "val_split", problem })
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
