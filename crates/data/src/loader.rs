//! Rows → samples: found by one thread, understood and tokenized by all, and accounted for by another in the order of the
//! rows, whatever the number of threads. Samples go into memory or, where they are kept between runs, to the disk.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use danlu_tokenizer::Tokenizer;
use rayon::prelude::*;

use crate::cache::{Account, Cache, Counts, Filling};
use crate::dataset::{Dataset, Task};
use crate::dataset_format::Row;
use crate::error::{DataError, Result};
use crate::inspection::{Findings, Inspect, Inspection, Look};
use crate::options::DataOptions;
use crate::records::Source;
use crate::report::{DatasetReport, LengthPercentiles};
use crate::rows::{FoundRow, ReadRow, Remarks, Rows, skip_or_fail};
use crate::sample::{
    Cut, Outcome, conversation_sample, document_ids, document_piece, document_samples, id_samples,
    judged_sample, pair_samples,
};
use crate::sample_store::{SampleSet, StoreBuilder, content_hash};
use crate::token_files;

/// Rows that are tokenized together, and the bytes of text after which fewer do: enough for all cores to share, few enough
/// to hold whole books.
const ROWS_AT_ONCE: usize = 1024;
const BYTES_AT_ONCE: usize = 4 << 20;

/// Words in memory before they are written, where samples are kept on disk.
const WORDS_AT_ONCE: usize = 4 << 20;
/// Time between two notes of how far the work is.
const BETWEEN_CHECKPOINTS: Duration = Duration::from_secs(5);

/// What a thread sends to the next: items as they were read, or after the work that needs no order.
enum Read<T> {
    /// A data set begins, of which at most so many rows are taken.
    Begin(Option<usize>),
    Items(Vec<T>),
    /// It is at its end.
    End,
}

/// What is read of a data set.
enum Item {
    Row(FoundRow),
    /// A document that was tokenized before.
    Ids(Vec<u32>, Source),
    /// A row that cannot be read, or the end of reading.
    Bad(DataError),
    /// Something that the user should know.
    Notice(String),
}

/// An item after the work that needs no order.
enum Done {
    Row(Tokenized),
    Bad(DataError),
    Notice(String),
}

/// A row that was tokenized.
struct Tokenized {
    remarks: Remarks,
    outcome: Result<Outcome>,
    /// Of a document that runs on into the next: its ids.
    ids: Vec<u32>,
    hash: u64,
    source: Source,
    look: Option<Look>,
}

pub(crate) struct Loader<'a> {
    pub(crate) options: &'a DataOptions,
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) task: Task<'a>,
    pub(crate) names: &'a [String],
    pub(crate) inspect: Option<Inspect<'a>>,
}

impl Loader<'_> {
    pub(crate) fn load(self, progress: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<Dataset> {
        self.options.validate()?;
        let cache = Cache::find(self.options, self.tokenizer, self.task, self.names)?;
        if let Some(cache) = &cache {
            if self.options.overwrite_cache {
                cache.clear()?;
            }
            if let Some((store, account)) = cache.read()? {
                let findings = self.look_again(progress)?;
                return Ok(self.dataset(SampleSet::all(store), account, findings));
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
                Work { filling: Some(filling), builder, account, ..Work::default() }
            }
            None => Work::default(),
        };
        let is_resumed = !work.account.counts.is_empty();
        self.run(&mut work, progress)?;
        let mut findings = std::mem::take(&mut work.findings);
        let (samples, account) = self.finish(work)?;
        if is_resumed {
            findings = self.look_again(progress)?;
        }
        Ok(self.dataset(samples, account, findings))
    }

    /// Looks at rows that were tokenized by an earlier run, if they are to be looked at.
    fn look_again(&self, progress: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<Vec<Findings>> {
        let mut work = Work { keeps_words: false, ..Work::default() };
        if self.inspect.is_some() {
            self.run(&mut work, progress)?;
        }
        Ok(work.findings)
    }

    fn run(&self, work: &mut Work<'_>, progress: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<()> {
        let (found, items) = sync_channel(2);
        let (tokenized, done) = sync_channel(0);
        let place = (work.account.dataset_ends.len(), work.account.read);
        // How many of the data sets need no more rows.
        let enough = &AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let reader = scope.spawn(move || self.read(place, enough, found));
            scope.spawn(move || self.tokenize(items, tokenized));
            let taken = self.take_all(done, enough, work, progress);
            let read = reader.join().map_err(|_| std::io::Error::other("reading the data failed"))?;
            taken.and(read)
        })
    }

    /// Sends what is in the data sets in order, from a place on: a data set, and how much of it was read before. A receiver
    /// that is gone has seen enough.
    fn read(&self, place: (usize, u64), enough: &AtomicUsize, sender: SyncSender<Read<Item>>) -> Result<()> {
        for (number, name) in self.names.iter().enumerate().skip(place.0) {
            let skip = if number == place.0 { place.1 } else { 0 };
            let mut sending = Sending { sender: &sender, skip, items: Vec::new(), bytes: 0 };
            if let Some(path) = token_files::find(name, self.options)? {
                _ = sender.send(Read::Begin(None));
                self.read_token_files(&path, &mut sending)?;
            } else {
                let mut notices = Vec::new();
                let mut rows = Rows::open(self.options, self.task.purpose(), name, &mut notices)?;
                _ = sender.send(Read::Begin(rows.limit()));
                let mut is_wanted = true;
                while is_wanted && enough.load(Ordering::Relaxed) <= number {
                    let found = rows.find(&mut notices);
                    notices.drain(..).for_each(|notice| is_wanted &= sending.push(Item::Notice(notice), 0));
                    match found {
                        Ok(None) => break,
                        Ok(Some(row)) => {
                            let bytes = row.bytes();
                            is_wanted &= sending.push(Item::Row(row), bytes);
                        }
                        Err(error) => {
                            is_wanted &= error.is_of_one_row();
                            sending.push(Item::Bad(error), 0);
                        }
                    }
                }
            }
            if !sending.send() || sender.send(Read::End).is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn read_token_files(&self, path: &Path, sending: &mut Sending<'_>) -> Result<()> {
        if !matches!(self.task, Task::Pretraining) {
            return Err(token_files::no_texts(path, "rows with columns, or `stage: pt`"));
        }
        let mut add = |ids: Vec<u32>, source: Source| {
            let bytes = size_of_val(ids.as_slice());
            // A receiver that is gone has seen enough; the rest of the file is read for nothing.
            sending.push(Item::Ids(ids, source), bytes);
            Ok(())
        };
        let notice = token_files::read(path, self.options, self.tokenizer, &mut add)?;
        notice.into_iter().for_each(|notice| _ = sending.push(Item::Notice(notice), 0));
        Ok(())
    }

    /// Passes on what comes, tokenized by all threads. A receiver that is gone has seen enough.
    fn tokenize(&self, items: Receiver<Read<Item>>, sender: SyncSender<Read<Done>>) {
        for read in items {
            let done = match read {
                Read::Begin(most) => Read::Begin(most),
                Read::Items(items) => {
                    Read::Items(items.into_par_iter().map(|item| self.tokenize_item(item)).collect())
                }
                Read::End => Read::End,
            };
            if sender.send(done).is_err() {
                return;
            }
        }
    }

    fn take_all(
        &self,
        done: Receiver<Read<Done>>,
        enough: &AtomicUsize,
        work: &mut Work<'_>,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut limit = usize::MAX;
        for read in done {
            match read {
                Read::Begin(most) => {
                    limit = most.unwrap_or(usize::MAX);
                    // Of a data set that a killed run had begun, the counts are there.
                    work.account.counts.resize_with(work.account.dataset_ends.len() + 1, Counts::default);
                    work.findings.extend(self.inspect.map(|_| Findings::new(self.tokenizer)));
                }
                Read::Items(items) => {
                    for item in items {
                        if work.account.taken >= limit {
                            break;
                        }
                        self.take(item, work)?;
                    }
                }
                Read::End => self.end(work),
            }
            if work.account.taken >= limit {
                enough.store(work.account.dataset_ends.len() + 1, Ordering::Relaxed);
            }
            let rows = work.account.counts.iter().map(|counts| counts.report.rows).sum();
            let is_stopped = progress(rows).is_break();
            work.write(is_stopped)?;
            if is_stopped {
                return Err(DataError::Stopped { rows, is_kept: work.filling.is_some() });
            }
        }
        Ok(())
    }

    /// Whether documents run on into each other.
    fn runs_on(&self) -> bool {
        let is_packed = self.options.packing != Some(false);
        matches!(self.task, Task::Pretraining) && !self.options.neat_packing && is_packed
    }

    fn tokenize_item(&self, item: Item) -> Done {
        let (options, tokenizer) = (self.options, self.tokenizer);
        let row = match item {
            Item::Notice(text) => return Done::Notice(text),
            Item::Bad(error) => return Done::Bad(error),
            Item::Ids(ids, source) => {
                let look = self.inspect.map(|inspect| inspect.ids(&ids, tokenizer)).transpose();
                let tokenized = look.map(|look| {
                    let (outcome, ids) = if self.runs_on() {
                        (Outcome::Empty, ids)
                    } else {
                        (id_samples(&ids, options.cutoff_len, source.clone()), Vec::new())
                    };
                    Tokenized::new(Remarks::default(), Ok(outcome), ids, source, look)
                });
                return tokenized.map_or_else(Done::Bad, Done::Row);
            }
            Item::Row(row) => row,
        };
        let ReadRow { mut row, source, remarks } = match row.read(options) {
            Ok(row) => row,
            Err(error) => return Done::Bad(error),
        };
        let look = self.inspect.filter(|_| remarks.is_inside()).map(|inspect| inspect.row(&mut row));
        let at = source.clone();
        let (outcome, ids) = match (row, self.task) {
            _ if !remarks.is_inside() => (Ok(Outcome::Empty), Vec::new()),
            (Row::Document(text), _) if self.runs_on() => match document_ids(&text, tokenizer) {
                Ok(ids) => (Ok(Outcome::Empty), ids.unwrap_or_default()),
                Err(error) => (Err(error), Vec::new()),
            },
            (Row::Document(text), _) => (document_samples(&text, tokenizer, options, source), Vec::new()),
            (Row::Conversation(conversation), Task::Conversation { template, tokens }) => {
                let sample = conversation_sample(&conversation, tokenizer, template, tokens, options, source);
                (sample, Vec::new())
            }
            (Row::Pair(pair), Task::Preference { template, tokens } | Task::Judged { template, tokens }) => {
                (pair_samples(&pair, tokenizer, template, tokens, options, source), Vec::new())
            }
            (Row::Judged(judged), Task::Judged { template, tokens }) => {
                (judged_sample(&judged, tokenizer, template, tokens, options, source), Vec::new())
            }
            // Rows are read for the task, so that there are no others.
            _ => (Ok(Outcome::Empty), Vec::new()),
        };
        Done::Row(Tokenized::new(remarks, outcome, ids, at, look))
    }

    fn take(&self, item: Done, work: &mut Work<'_>) -> Result<()> {
        work.account.read += 1;
        let Work { account, findings, .. } = work;
        let Some(counts) = account.counts.last_mut() else { return Ok(()) };
        counts.report.rows += u64::from(!matches!(item, Done::Notice(_)));
        let Tokenized { remarks, outcome, ids, hash, source, look } = match item {
            Done::Row(row) => row,
            Done::Bad(error) => return skip_or_fail(error, self.options, &mut counts.report),
            Done::Notice(text) => {
                counts.report.notices.push(text);
                return Ok(());
            }
        };
        if !remarks.count(&mut counts.report) {
            return Ok(());
        }
        account.taken += 1;
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => return skip_or_fail(error, self.options, &mut counts.report),
        };
        if let (Some(findings), Some(look)) = (findings.last_mut(), look) {
            findings.account(&source, &outcome, &ids, look);
        }
        if ids.is_empty() {
            work.account(outcome, hash);
            return Ok(());
        }
        *counts.lengths.entry(ids.len()).or_default() += 1;
        let here = (source.path.to_path_buf(), source.line);
        account.carried_from.get_or_insert_with(|| here.clone());
        account.carried.extend(ids);
        let carried = std::mem::take(&mut account.carried);
        let (cutoff_len, mut start) = (self.options.cutoff_len, 0);
        // A block ends with an id that the next begins with, as context.
        while carried.len() - start > cutoff_len {
            work.push_block(&carried[start..start + cutoff_len]);
            work.account.carried_from = Some(here.clone());
            start += cutoff_len - 1;
        }
        work.account.carried.extend(&carried[start..]);
        Ok(())
    }

    /// The end of a data set. The rest of documents that run on is a shorter block, so that nothing is lost.
    fn end(&self, work: &mut Work<'_>) {
        let ids = std::mem::take(&mut work.account.carried);
        if ids.len() > 1 {
            work.push_block(&ids);
        }
        let Work { account, builder, .. } = work;
        account.carried_from = None;
        let start = account.dataset_ends.last().copied().unwrap_or(0);
        account.dataset_ends.push(builder.entries.len());
        (account.read, account.taken) = (0, 0);
        if let Some(Counts { report, lengths, .. }) = account.counts.last_mut() {
            report.samples = (builder.entries.len() - start) as u64;
            [report.tokens, report.trained_tokens] = builder.tokens_from(start);
            report.lengths = LengthPercentiles::of(lengths);
        }
    }

    fn finish(&self, work: Work<'_>) -> Result<(SampleSet, Account)> {
        let Work { filling, builder, mut account, .. } = work;
        let (mut report, mut lengths, mut missing_ends) = (DatasetReport::default(), Lengths::new(), 0);
        for counts in &account.counts {
            report.join(&counts.report);
            counts.lengths.iter().for_each(|(&length, rows)| *lengths.entry(length).or_default() += rows);
            missing_ends += counts.missing_ends;
        }
        if builder.entries.is_empty() {
            return Err(DataError::NoSamples { rows: report.rows, reasons: report.losses() });
        }
        // A model that never learns an end token does not stop.
        if missing_ends > 0 {
            report.notices.push(format!(
                "the last trained token of {missing_ends} samples is no end token of this tokenizer, the model would not \
                 learn to stop: choose the `template` that belongs to the tokenizer"
            ));
        }
        report.lengths = LengthPercentiles::of(&lengths);
        account.report = report;
        let store = match filling {
            Some(filling) => filling.finish(builder, &mut account)?,
            None => builder.in_memory(),
        };
        Ok((SampleSet::all(store), account))
    }

    fn dataset(&self, samples: SampleSet, account: Account, findings: Vec<Findings>) -> Dataset {
        let Account { dataset_ends, counts, report, .. } = account;
        let starts = std::iter::once(0).chain(dataset_ends.iter().copied());
        let datasets = starts.zip(dataset_ends.iter().copied()).map(|(start, end)| start..end).collect();
        let inspections = self.names.iter().zip(counts).zip(findings);
        let inspections =
            inspections.map(|((name, counts), findings)| Inspection::new(name, counts, findings)).collect();
        let (samples_per_row, runs_on) = (self.task.samples_per_row(), self.runs_on());
        Dataset { samples, datasets, samples_per_row, report, inspections, runs_on }
    }
}

/// Rows by their number of tokens.
type Lengths = std::collections::BTreeMap<usize, u64>;

impl Tokenized {
    fn new(
        remarks: Remarks,
        outcome: Result<Outcome>,
        ids: Vec<u32>,
        source: Source,
        look: Option<Look>,
    ) -> Self {
        let hash = match &outcome {
            Ok(Outcome::Used { samples, .. }) => {
                let pieces = samples.iter().map(|sample| content_hash(&sample.ids));
                // The pieces of a document stay together.
                pieces.reduce(|hash, piece| hash.rotate_left(7) ^ piece).unwrap_or_default()
            }
            _ => 0,
        };
        Self { remarks, outcome, ids, hash, source, look }
    }
}

/// Gathers items for the thread that takes them.
struct Sending<'a> {
    sender: &'a SyncSender<Read<Item>>,
    /// Items that a killed run had read.
    skip: u64,
    items: Vec<Item>,
    bytes: usize,
}

impl Sending<'_> {
    /// Says whether more is wanted.
    fn push(&mut self, item: Item, bytes: usize) -> bool {
        if self.skip > 0 {
            self.skip -= 1;
            return true;
        }
        self.items.push(item);
        self.bytes += bytes;
        self.items.len() < ROWS_AT_ONCE && self.bytes < BYTES_AT_ONCE || self.send()
    }

    fn send(&mut self) -> bool {
        self.bytes = 0;
        self.sender.send(Read::Items(std::mem::take(&mut self.items))).is_ok()
    }
}

/// What was tokenized so far.
struct Work<'a> {
    builder: StoreBuilder,
    account: Account,
    filling: Option<Filling<'a>>,
    written: Instant,
    /// Whether samples are wanted, rather than only what is found beside.
    keeps_words: bool,
    /// Of each data set, where it is looked at.
    findings: Vec<Findings>,
}

impl Default for Work<'_> {
    fn default() -> Self {
        Self {
            builder: StoreBuilder::default(),
            account: Account::default(),
            filling: None,
            written: Instant::now(),
            keeps_words: true,
            findings: Vec::new(),
        }
    }
}

impl Work<'_> {
    fn account(&mut self, outcome: Outcome, hash: u64) {
        let Some(Counts { report, lengths, missing_ends }) = self.account.counts.last_mut() else { return };
        let mut count = |length| *lengths.entry(length).or_default() += 1;
        match outcome {
            Outcome::Used { samples, length, cut, spells_special_tokens, lacks_end } => {
                count(length);
                *missing_ends += u64::from(lacks_end);
                report.spelled_special_tokens += u64::from(spells_special_tokens);
                match cut {
                    Cut::No => {}
                    Cut::Truncated { answer_tokens } => {
                        report.truncated += 1;
                        report.cut_answer_tokens += answer_tokens as u64;
                    }
                    Cut::Split { left_out } => {
                        report.split += 1;
                        report.dropped_exchanges += left_out as u64;
                    }
                }
                samples.iter().for_each(|sample| self.builder.push(sample, hash));
            }
            Outcome::Empty => report.empty += 1,
            Outcome::IdenticalPair { length } => {
                count(length);
                report.identical_pairs += 1;
            }
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
        if !self.keeps_words {
            self.builder.words.clear();
        }
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
