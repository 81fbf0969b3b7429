//! Whole datasets: found, read by one thread, tokenized by all, and accounted for. The order of the samples is that of the
//! rows, whatever the number of threads.

use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use danlu_tokenizer::{ChatTemplate, TemplateTokens, Tokenizer};
use rayon::prelude::*;

use crate::cache::{Account, Cache, Filling};
use crate::dataset_format::{Purpose, Row};
use crate::error::{DataError, Result};
use crate::mixing::{members, mix};
use crate::options::{DataOptions, ValSplit};
use crate::order::epoch_order;
use crate::records::Source;
use crate::report::{DatasetReport, LengthPercentiles};
use crate::rows::{Rows, skip_or_fail};
use crate::sample::{
    Outcome, conversation_sample, document_ids, document_piece, document_samples, id_samples,
};
use crate::sample_store::{SampleSet, StoreBuilder, content_hash};
use crate::token_files;

/// Rows that are tokenized together, and the bytes of text after which fewer do: enough for all cores to share, few enough
/// to hold whole books.
const ROWS_AT_ONCE: usize = 2048;
const BYTES_AT_ONCE: usize = 4 << 20;

/// Words in memory before they are written, where samples are kept on disk.
const WORDS_AT_ONCE: usize = 4 << 20;
/// Time between two notes of how far the work is.
const BETWEEN_CHECKPOINTS: Duration = Duration::from_secs(5);

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

impl Task<'_> {
    /// What its rows are read for.
    pub fn purpose(self) -> Purpose {
        match self {
            Task::Pretraining => Purpose::Pretraining,
            Task::Conversation { .. } => Purpose::Conversation,
        }
    }
}

/// Samples and the account of how they came to be.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// Samples in the order of the rows.
    pub samples: SampleSet,
    /// The samples of each data set.
    pub datasets: Vec<Range<usize>>,
    /// What was read, skipped, dropped and cut.
    pub report: DatasetReport,
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
        Self::load_watched(options, tokenizer, task, &mut |_| ControlFlow::Continue(()))
    }

    /// As [`load`](Self::load); `progress(rows done)` may stop the work, which a later call continues where the samples are
    /// kept on disk.
    ///
    /// # Errors
    /// As for `load`, and [`DataError::Cancelled`].
    pub fn load_watched(
        options: &DataOptions,
        tokenizer: &Tokenizer,
        task: Task<'_>,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Self> {
        if options.dataset.is_empty() {
            let problem =
                "found none: expected a file, a folder, or a name in `dataset_info.json`".to_owned();
            return Err(DataError::Option { option: "dataset", problem });
        }
        Loader { options, tokenizer, task, names: &options.dataset }.load(progress)
    }

    /// Loads `eval_dataset`, if one is given.
    pub fn load_eval(options: &DataOptions, tokenizer: &Tokenizer, task: Task<'_>) -> Result<Option<Self>> {
        if options.eval_dataset.is_empty() {
            return Ok(None);
        }
        let loader = Loader { options, tokenizer, task, names: &options.eval_dataset };
        loader.load(&mut |_| ControlFlow::Continue(())).map(Some)
    }

    /// Takes samples for validation out of the dataset, chosen by the seed: a fraction of them if `val_size` is
    /// below 1 (at least one), else so many. With `val_split: hash` those whose content falls into the fraction.
    pub fn split(&self, options: &DataOptions, seed: u64) -> Result<Split> {
        let samples = self.samples.len();
        let is_validation = match options.val_split {
            ValSplit::Random => self.random_split(options.val_size, seed),
            ValSplit::Hash => self.hash_split(options.val_size),
        };
        let validation: Vec<u32> =
            (0..samples as u32).filter(|&index| is_validation[index as usize]).collect();
        if validation.len() >= samples {
            let val_size = options.val_size;
            let problem = format!("{val_size} leaves nothing to train on: the dataset has {samples} samples");
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
        let training = mix(&datasets, options.mix_strategy, &options.interleave_probs, seed)?;
        Ok(Split { training: self.samples.subset(&training), validation: self.samples.subset(&validation) })
    }

    fn random_split(&self, val_size: f64, seed: u64) -> Vec<bool> {
        let samples = self.samples.len();
        let count = match val_size {
            0.0 => 0,
            fraction if fraction < 1.0 => ((samples as f64 * fraction).round() as usize).max(1),
            count => count as usize,
        };
        let mut is_validation = vec![false; samples];
        for index in epoch_order(samples, seed, SPLIT_EPOCH).into_iter().take(count) {
            is_validation[index] = true;
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
        let mut rows = Rows::open(options, purpose, name, &mut report)?;
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

/// What the reading thread sends.
enum Read {
    Rows(Vec<(Item, Source)>),
    /// The data set of this number is at its end.
    End(usize),
}

/// A row, or a document that was tokenized before.
enum Item {
    Row(Row),
    Ids(Vec<u32>),
}

/// A row that was tokenized.
struct Tokenized {
    outcome: Result<Outcome>,
    /// Of a document that runs on into the next: its ids.
    ids: Vec<u32>,
    hash: u64,
    source: Source,
}

struct Loader<'a> {
    options: &'a DataOptions,
    tokenizer: &'a Tokenizer,
    task: Task<'a>,
    names: &'a [String],
}

impl Loader<'_> {
    fn load(self, progress: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<Dataset> {
        self.options.validate()?;
        let cache = Cache::find(self.options, self.tokenizer, self.task, self.names)?;
        if let Some(cache) = &cache {
            if self.options.overwrite_cache {
                cache.clear()?;
            }
            if let Some((store, account)) = cache.read()? {
                return Ok(dataset(SampleSet::all(store), account));
            }
        }
        let result = self.make(cache.as_ref(), progress);
        if let (Some(cache), Err(DataError::Row { .. } | DataError::Overlong { .. })) = (&cache, &result) {
            // The files will be other files once that row is mended.
            cache.abandon()?;
        }
        result
    }

    fn make(
        &self,
        cache: Option<&Cache>,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Dataset> {
        let mut work = match cache.map(Cache::fill).transpose()?.flatten() {
            Some((filling, builder, account)) => {
                Work { filling: Some(filling), builder, account, written: Instant::now() }
            }
            None => Work::default(),
        };
        let (sender, received) = sync_channel(2);
        let read = std::thread::scope(|scope| {
            let reader = scope.spawn(move || self.read(sender));
            let tokenized = self.tokenize(received, &mut work, progress);
            let read = reader.join().map_err(|_| std::io::Error::other("reading the data failed"))?;
            tokenized.and(read)
        })?;
        self.finish(work, read)
    }

    /// Sends the rows of all data sets in order. A receiver that is gone has seen enough.
    fn read(&self, sender: SyncSender<Read>) -> Result<DatasetReport> {
        let mut report = DatasetReport::default();
        for (number, name) in self.names.iter().enumerate() {
            if let Some(path) = token_files::find(name, self.options)? {
                self.read_token_files(&path, &sender, &mut report)?;
                if sender.send(Read::End(number)).is_err() {
                    return Ok(report);
                }
                continue;
            }
            let mut rows = Rows::open(self.options, self.task.purpose(), name, &mut report)?;
            let (mut waiting, mut bytes) = (Vec::with_capacity(ROWS_AT_ONCE), 0);
            let failed = loop {
                match rows.next(&mut report) {
                    Ok(Some((row, source))) => {
                        bytes += text_bytes(&row);
                        waiting.push((Item::Row(row), source));
                    }
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                }
                if waiting.len() == ROWS_AT_ONCE || bytes >= BYTES_AT_ONCE {
                    bytes = 0;
                    if sender.send(Read::Rows(std::mem::take(&mut waiting))).is_err() {
                        return Ok(report);
                    }
                }
            };
            // What comes before an error is tokenized, so that the first error of the file is the one that is told.
            let is_gone = sender.send(Read::Rows(waiting)).is_err();
            if let Some(error) = failed {
                return Err(error);
            }
            if is_gone || sender.send(Read::End(number)).is_err() {
                return Ok(report);
            }
        }
        Ok(report)
    }

    fn read_token_files(
        &self,
        path: &Path,
        sender: &SyncSender<Read>,
        report: &mut DatasetReport,
    ) -> Result<()> {
        if let Task::Conversation { .. } = self.task {
            return Err(token_files::no_texts(path, "rows with columns, or `stage: pt`"));
        }
        let mut waiting = Vec::with_capacity(ROWS_AT_ONCE);
        let mut add = |ids: Vec<u32>, source: Source| {
            waiting.push((Item::Ids(ids), source));
            if waiting.len() == ROWS_AT_ONCE {
                // A receiver that is gone has seen enough; the rest of the file is read for nothing.
                _ = sender.send(Read::Rows(std::mem::take(&mut waiting)));
            }
            Ok(())
        };
        let (taken, notice) = token_files::read(path, self.options, self.tokenizer, &mut add)?;
        report.rows += taken;
        report.notices.extend(notice);
        _ = sender.send(Read::Rows(waiting));
        Ok(())
    }

    fn tokenize(
        &self,
        received: Receiver<Read>,
        work: &mut Work<'_>,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<()> {
        let done = work.account.rows;
        let mut seen = 0;
        for read in received {
            match read {
                Read::Rows(mut rows) => {
                    // Rows that a killed run had tokenized.
                    let skipped = rows.len().min(done.saturating_sub(seen) as usize);
                    rows.drain(..skipped);
                    seen += (skipped + rows.len()) as u64;
                    if rows.is_empty() {
                        continue;
                    }
                    let tokenized: Vec<Tokenized> =
                        rows.into_par_iter().map(|(row, source)| self.tokenize_row(row, source)).collect();
                    for row in tokenized {
                        self.take(row, work)?;
                    }
                    work.account.rows = seen;
                }
                Read::End(number) if number >= work.account.dataset_ends.len() => {
                    self.flush(work);
                    work.account.dataset_ends.push(work.builder.entries.len());
                }
                Read::End(_) => {}
            }
            let is_stopped = progress(work.account.rows).is_break();
            work.write(is_stopped)?;
            if is_stopped {
                return Err(DataError::Cancelled);
            }
        }
        Ok(())
    }

    /// Whether documents run on into each other.
    fn runs_on(&self) -> bool {
        let is_packed = self.options.packing != Some(false);
        matches!(self.task, Task::Pretraining) && !self.options.neat_packing && is_packed
    }

    fn tokenize_row(&self, row: Item, source: Source) -> Tokenized {
        let (options, tokenizer) = (self.options, self.tokenizer);
        let at = source.clone();
        let (outcome, ids) = match (row, self.task) {
            (Item::Row(Row::Document(text)), _) if self.runs_on() => match document_ids(&text, tokenizer) {
                Ok(ids) => (Ok(Outcome::Empty), ids.unwrap_or_default()),
                Err(error) => (Err(error), Vec::new()),
            },
            (Item::Row(Row::Document(text)), _) => {
                (document_samples(&text, tokenizer, options, source), Vec::new())
            }
            (Item::Ids(ids), _) if self.runs_on() => (Ok(Outcome::Empty), ids),
            (Item::Ids(ids), _) => (Ok(id_samples(&ids, options.cutoff_len, source)), Vec::new()),
            (Item::Row(Row::Conversation(conversation)), Task::Conversation { template, tokens }) => {
                let sample = conversation_sample(&conversation, tokenizer, template, tokens, options, source);
                (sample, Vec::new())
            }
            // Rows are read for the task, so that there are no others.
            (Item::Row(_), _) => (Ok(Outcome::Empty), Vec::new()),
        };
        let hash = match &outcome {
            Ok(Outcome::Used { samples, .. }) => {
                let pieces = samples.iter().map(|sample| content_hash(&sample.ids));
                // The pieces of a document stay together.
                pieces.reduce(|hash, piece| hash.rotate_left(7) ^ piece).unwrap_or_default()
            }
            _ => 0,
        };
        Tokenized { outcome, ids, hash, source: at }
    }

    fn take(&self, row: Tokenized, work: &mut Work<'_>) -> Result<()> {
        let Tokenized { outcome, ids, hash, source } = row;
        if !ids.is_empty() {
            *work.account.lengths.entry(ids.len()).or_default() += 1;
            let here = (source.path.to_path_buf(), source.line);
            work.account.carried_from.get_or_insert_with(|| here.clone());
            work.account.carried.extend(ids);
            // A block ends with an id that the next begins with, as context.
            while work.account.carried.len() > self.options.cutoff_len {
                let ids = work.account.carried[..self.options.cutoff_len].to_vec();
                work.account.carried.drain(..self.options.cutoff_len - 1);
                work.push_block(&ids);
                work.account.carried_from = Some(here.clone());
            }
            return Ok(());
        }
        match outcome {
            Ok(outcome) => work.account(outcome, hash),
            Err(error) => skip_or_fail(error, self.options, &mut work.account.report)?,
        }
        Ok(())
    }

    /// The rest of documents that run on: the last block is shorter, and nothing is lost.
    fn flush(&self, work: &mut Work<'_>) {
        let ids = std::mem::take(&mut work.account.carried);
        if ids.len() > 1 {
            work.push_block(&ids);
        }
        work.account.carried_from = None;
    }

    fn finish(&self, mut work: Work<'_>, read: DatasetReport) -> Result<Dataset> {
        let Account { report, lengths, missing_ends, .. } = &mut work.account;
        report.join_reading(read);
        if work.builder.entries.is_empty() {
            return Err(DataError::NoSamples { rows: report.rows, reasons: report.losses() });
        }
        // A model that never learns an end token does not stop.
        if *missing_ends > 0 {
            report.notices.push(format!(
                "the last trained token of {missing_ends} samples is no end token of this tokenizer, the model would not \
                 learn to stop: choose the `template` that belongs to the tokenizer"
            ));
        }
        report.lengths = LengthPercentiles::of(lengths);
        let [ids, trained] = work.builder.tokens();
        report.samples = work.builder.entries.len() as u64;
        report.tokens = ids;
        report.trained_tokens = trained;
        let Work { filling, builder, mut account, .. } = work;
        let store = match filling {
            Some(filling) => filling.finish(builder, &mut account)?,
            None => builder.in_memory(),
        };
        Ok(dataset(SampleSet::all(store), account))
    }
}

fn text_bytes(row: &Row) -> usize {
    match row {
        Row::Document(text) => text.len(),
        Row::Conversation(conversation) => {
            conversation.messages.iter().map(|message| message.content.len()).sum()
        }
        // Not read for training.
        Row::Prompt(_) | Row::Pair(_) | Row::Judged(_) => 0,
    }
}

fn dataset(samples: SampleSet, account: Account) -> Dataset {
    let starts = std::iter::once(0).chain(account.dataset_ends.iter().copied());
    let datasets = starts.zip(account.dataset_ends.iter().copied()).map(|(start, end)| start..end).collect();
    Dataset { samples, datasets, report: account.report }
}

/// What was tokenized so far.
struct Work<'a> {
    builder: StoreBuilder,
    account: Account,
    filling: Option<Filling<'a>>,
    written: Instant,
}

impl Default for Work<'_> {
    fn default() -> Self {
        let (builder, account) = (StoreBuilder::default(), Account::default());
        Self { builder, account, filling: None, written: Instant::now() }
    }
}

impl Work<'_> {
    fn account(&mut self, outcome: Outcome, hash: u64) {
        let report = &mut self.account.report;
        let mut count = |length| *self.account.lengths.entry(length).or_default() += 1;
        match outcome {
            Outcome::Used { samples, length, cut_answer_tokens, spells_special_tokens, lacks_end } => {
                count(length);
                self.account.missing_ends += u64::from(lacks_end);
                report.spelled_special_tokens += u64::from(spells_special_tokens);
                let kept: usize = samples.iter().map(|sample| sample.ids.len()).sum();
                if kept < length {
                    report.truncated += 1;
                    report.cut_answer_tokens += cut_answer_tokens as u64;
                }
                samples.iter().for_each(|sample| self.builder.push(sample, hash));
            }
            Outcome::Empty => report.empty += 1,
            Outcome::Overlong { length } => {
                count(length);
                report.dropped_overlong += 1;
            }
            Outcome::PromptTooLong { length } => {
                count(length);
                report.dropped_prompt_too_long += 1;
            }
        }
    }

    fn push_block(&mut self, ids: &[u32]) {
        if let Some((path, line)) = &self.account.carried_from {
            let source = Source { path: path.as_path().into(), line: *line };
            self.builder.push(&document_piece(ids, source), content_hash(ids));
        }
    }

    /// Writes what has gathered in memory, where samples are kept on disk.
    fn write(&mut self, must: bool) -> Result<()> {
        if let Some(filling) = &mut self.filling
            && (must
                || self.builder.words.len() >= WORDS_AT_ONCE
                || self.written.elapsed() >= BETWEEN_CHECKPOINTS)
        {
            filling.checkpoint(&mut self.builder, &mut self.account)?;
            self.written = Instant::now();
        }
        Ok(())
    }
}
