//! Whole datasets: found, read, tokenized on all cores, and accounted for. The order of the samples is that of the
//! rows, whatever the number of threads.

use danlu_tokenizer::{ChatTemplate, TemplateTokens, Tokenizer};
use rayon::prelude::*;

use crate::dataset_format::{Purpose, Row};
use crate::error::{DataError, Result};
use crate::options::DataOptions;
use crate::order::epoch_order;
use crate::records::Source;
use crate::report::{DatasetReport, LengthPercentiles};
use crate::rows::{Rows, skip_or_fail};
use crate::sample::{Outcome, Sample, conversation_sample, document_samples};

/// Rows that are tokenized together: enough for all cores, few enough to hold whole books.
const ROWS_AT_ONCE: usize = 256;

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
}

/// Samples and the account of how they came to be.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// Samples in the order of the rows.
    pub samples: Vec<Sample>,
    /// What was read, skipped, dropped and cut.
    pub report: DatasetReport,
}

/// Samples to train on and samples to validate with; no sample is in both.
#[derive(Debug, Clone)]
pub struct Split {
    /// Samples to train on, in the order of the rows.
    pub training: Vec<Sample>,
    /// Samples to validate with, in the order of the rows.
    pub validation: Vec<Sample>,
}

impl Dataset {
    /// Loads `dataset`. It is an error if no sample is left.
    pub fn load(options: &DataOptions, tokenizer: &Tokenizer, task: Task<'_>) -> Result<Self> {
        if options.dataset.is_empty() {
            let problem =
                "found none: expected a file, a folder, or a name in `dataset_info.json`".to_owned();
            return Err(DataError::Option { option: "dataset", problem });
        }
        Loader::new(options, tokenizer, task).load(&options.dataset)
    }

    /// Loads `eval_dataset`, if one is given.
    pub fn load_eval(options: &DataOptions, tokenizer: &Tokenizer, task: Task<'_>) -> Result<Option<Self>> {
        if options.eval_dataset.is_empty() {
            return Ok(None);
        }
        Loader::new(options, tokenizer, task).load(&options.eval_dataset).map(Some)
    }

    /// Takes samples for validation out of the dataset, chosen by the seed: a fraction of them if `val_size` is
    /// below 1 (at least one), else so many.
    pub fn split(self, val_size: f64, seed: u64) -> Result<Split> {
        let samples = self.samples.len();
        let count = match val_size {
            0.0 => 0,
            fraction if fraction < 1.0 => ((samples as f64 * fraction).round() as usize).max(1),
            count => count as usize,
        };
        if count >= samples {
            let problem = format!("{val_size} leaves nothing to train on: the dataset has {samples} samples");
            return Err(DataError::Option { option: "val_size", problem });
        }
        let mut is_validation = vec![false; samples];
        for index in epoch_order(samples, seed, SPLIT_EPOCH).into_iter().take(count) {
            is_validation[index] = true;
        }
        let mut split = Split { training: Vec::with_capacity(samples - count), validation: Vec::new() };
        for (sample, is_validation) in self.samples.into_iter().zip(is_validation) {
            if is_validation { split.validation.push(sample) } else { split.training.push(sample) }
        }
        Ok(split)
    }
}

/// The texts of `dataset` that a vocabulary is learned from: documents, or the messages of conversations. They are those
/// of the rows that [`Dataset::load`] reads: a bad row is the same error here, or skipped here and counted there.
pub fn texts(options: &DataOptions, purpose: Purpose) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    let mut report = DatasetReport::default();
    for name in &options.dataset {
        let mut rows = Rows::open(options, purpose, name, &mut report)?;
        while let Some((row, _)) = rows.next(&mut report)? {
            match row {
                Row::Document(text) => texts.push(text),
                Row::Conversation(conversation) => {
                    texts.extend(conversation.messages.into_iter().map(|message| message.content));
                }
            }
        }
    }
    Ok(texts)
}

struct Loader<'a> {
    options: &'a DataOptions,
    tokenizer: &'a Tokenizer,
    task: Task<'a>,
    samples: Vec<Sample>,
    lengths: Vec<usize>,
    missing_ends: u64,
    report: DatasetReport,
    waiting: Vec<(Row, Source)>,
}

impl<'a> Loader<'a> {
    fn new(options: &'a DataOptions, tokenizer: &'a Tokenizer, task: Task<'a>) -> Self {
        Self {
            options,
            tokenizer,
            task,
            samples: Vec::new(),
            lengths: Vec::new(),
            missing_ends: 0,
            report: DatasetReport::default(),
            waiting: Vec::with_capacity(ROWS_AT_ONCE),
        }
    }

    fn load(mut self, names: &[String]) -> Result<Dataset> {
        self.options.validate()?;
        for name in names {
            self.read(name)?;
        }
        self.tokenize_waiting()?;
        if self.samples.is_empty() {
            return Err(DataError::NoSamples { rows: self.report.rows, reasons: self.report.losses() });
        }
        // A model that never learns an end token does not stop.
        if self.missing_ends > 0 {
            self.report.notices.push(format!(
                "the last trained token of {} samples is no end token of this tokenizer, the model would not learn \
                 to stop: choose the `template` that belongs to the tokenizer",
                self.missing_ends
            ));
        }
        self.report.samples = self.samples.len() as u64;
        self.report.tokens = self.samples.iter().map(|sample| sample.ids.len() as u64).sum();
        self.report.trained_tokens = self.samples.iter().map(|sample| sample.trained_tokens() as u64).sum();
        self.report.lengths = LengthPercentiles::of(self.lengths);
        Ok(Dataset { samples: self.samples, report: self.report })
    }

    fn read(&mut self, name: &str) -> Result<()> {
        let purpose = match self.task {
            Task::Pretraining => Purpose::Pretraining,
            Task::Conversation { .. } => Purpose::Conversation,
        };
        let mut rows = Rows::open(self.options, purpose, name, &mut self.report)?;
        while let Some(row) = rows.next(&mut self.report)? {
            self.waiting.push(row);
            if self.waiting.len() == ROWS_AT_ONCE {
                self.tokenize_waiting()?;
            }
        }
        Ok(())
    }

    fn tokenize_waiting(&mut self) -> Result<()> {
        let (options, tokenizer, task) = (self.options, self.tokenizer, self.task);
        let rows = std::mem::take(&mut self.waiting);
        let outcomes: Vec<Result<Outcome>> = rows
            .into_par_iter()
            .map(|(row, source)| match (row, task) {
                (Row::Document(text), _) => document_samples(&text, tokenizer, options, source),
                (Row::Conversation(conversation), Task::Conversation { template, tokens }) => {
                    conversation_sample(&conversation, tokenizer, template, tokens, options, source)
                }
                (Row::Conversation(_), Task::Pretraining) => Ok(Outcome::Empty),
            })
            .collect();
        for outcome in outcomes {
            match outcome {
                Ok(outcome) => self.account(outcome),
                Err(error) => skip_or_fail(error, options, &mut self.report)?,
            }
        }
        Ok(())
    }

    fn account(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Used { samples, length, cut_answer_tokens, spells_special_tokens, lacks_end } => {
                self.missing_ends += u64::from(lacks_end);
                self.report.spelled_special_tokens += u64::from(spells_special_tokens);
                let kept: usize = samples.iter().map(|sample| sample.ids.len()).sum();
                if kept < length {
                    self.report.truncated += 1;
                    self.report.cut_answer_tokens += cut_answer_tokens as u64;
                }
                self.lengths.push(length);
                self.samples.extend(samples);
            }
            Outcome::Empty => self.report.empty += 1,
            Outcome::Overlong { length } => {
                self.lengths.push(length);
                self.report.dropped_overlong += 1;
            }
            Outcome::PromptTooLong { length } => {
                self.lengths.push(length);
                self.report.dropped_prompt_too_long += 1;
            }
        }
    }
}
