//! Cleaning of a corpus: read by one thread, cleaned by all, written in order. Memory holds a few batches and one part,
//! not the corpus; a run that was killed goes on where it was, and its result is that of an uninterrupted one.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant, UNIX_EPOCH};

use danlu_formats::write_file_atomically;
use fs_err as fs;
use rayon::prelude::*;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::boilerplate::LineCounter;
use super::cleaner::{CleanedRow, Cleaner, Fate};
use super::journal::{Journal, Parts};
use super::output::Form;
use super::report::{CleaningReport, DroppedSample, Sample};
use crate::error::{DataError, Result, RowProblem};
use crate::exact_numbers::ExactNumbers;
use crate::options::OnBadRow;
use crate::records::{Content, RawRecord, ReadOptions, Record, Records, Source, split_sheet};

/// Bytes of text that are cleaned at once.
const BATCH: usize = 4 << 20;
/// Rows of a batch, however short.
const BATCH_ROWS: usize = 1 << 13;
/// Bytes of a part.
const PART: usize = 32 << 20;
/// Time after which a part is written although it is small.
const BETWEEN_PARTS: Duration = Duration::from_secs(10);

/// What is cleaned, and where to.
pub struct CleaningJob<'a> {
    /// Files of rows or documents, in order.
    pub files: Vec<PathBuf>,
    /// How files are read that do not say it themselves.
    pub reading: ReadOptions,
    /// The file that is written; its ending says its form.
    pub output: &'a Path,
    /// The rules.
    pub cleaner: Cleaner,
    /// What happens to a row that cannot be read or lacks a column.
    pub on_bad_row: OnBadRow,
    /// Samples of each rule in the report.
    pub samples: usize,
    /// Threads that clean.
    pub threads: usize,
}

/// How far the work is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// A former run left the first `rows` rows done.
    Resumed {
        /// Rows.
        rows: u64,
    },
    /// A former run left rows of other sources or options, which are of no use.
    StartedOver,
    /// About so many bytes of the files are counted for boilerplate.
    Counting(u64),
    /// About so many bytes of the files are cleaned.
    Cleaning(u64),
}

/// Cleans the files into the output and writes a report beside it, `OUT.report.md`; `progress` may stop the work, which
/// a later call continues.
///
/// # Errors
/// A row or file that cannot be read, or that changes meanwhile; an output that cannot be written;
/// [`DataError::Cancelled`].
pub fn clean_files(
    mut job: CleaningJob<'_>,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<CleaningReport> {
    let form = Form::of(job.output)?;
    if form == Form::Texts && job.cleaner.options().output_column.is_none() {
        job.cleaner.write_single("text");
    }
    let sources: Vec<Stamp> = job.files.iter().map(|path| Stamp::of(path)).collect::<Result<_>>()?;
    let parts = Parts::open(job.output)?;
    let cleaned = job.clean_into(&parts, form, &sources, progress);
    if cleaned.is_ok() || parts.journal().is_none() {
        // Nothing lies there that a later run could use. That the folder stays costs space, not correctness.
        _ = parts.remove();
    }
    cleaned
}

impl CleaningJob<'_> {
    fn clean_into(
        &mut self,
        parts: &Parts,
        form: Form,
        sources: &[Stamp],
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<CleaningReport> {
        let key = self.key(form, sources)?;
        let mut journal = Journal { key, report: self.cleaner.empty_report(), ..Journal::default() };
        if let Some(former) = parts.journal() {
            let is_same = former.key == journal.key && parts.parts(&former).all(|part| part.exists());
            let event =
                if is_same { Progress::Resumed { rows: former.report.rows } } else { Progress::StartedOver };
            if is_same {
                journal = former;
            } else {
                parts.forget()?;
            }
            proceed(progress(event))?;
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.threads).build();
        let pool = pool.map_err(std::io::Error::other)?;
        let files = self.files.as_slice();
        if let Some(most) = self.cleaner.options().max_line_rows {
            let mut counter = LineCounter::new(parts.path());
            each_batch(
                files,
                &self.reading,
                sources,
                Position::default(),
                |Batch { rows, position, .. }| {
                    // Rows that cannot be used are told when they are cleaned.
                    let lines = |row: Row| self.cleaner.lines(row.content.ok()?).ok();
                    let lines: Vec<Vec<u64>> =
                        pool.install(|| rows.into_par_iter().filter_map(lines).collect());
                    lines.into_iter().try_for_each(|lines| counter.add(lines))?;
                    proceed(progress(Progress::Counting(position.bytes)))
                },
            )?;
            self.cleaner.remove_lines(counter.finish(most)?);
        }

        let (mut part, mut saved) = (Vec::new(), Instant::now());
        let start = Position { files: journal.files, rows: journal.rows, bytes: 0 };
        each_batch(files, &self.reading, sources, start, |Batch { rows, position, notices }| {
            for notice in notices {
                // A run that goes on reads its first file again.
                if !journal.report.notices.contains(&notice) {
                    journal.report.notices.push(notice);
                }
            }
            let wants_sample: Vec<bool> =
                journal.report.changes.iter().map(|rule| rule.samples.len() < self.samples).collect();
            let clean = |row: Row| {
                let cleaned = row.content.and_then(|content| self.cleaner.clean(content, &wants_sample));
                (row.source, row.numbers, cleaned)
            };
            let cleaned: Vec<_> = pool.install(|| rows.into_par_iter().map(clean).collect());
            for (source, numbers, row) in cleaned {
                if let Some(row) = self.note(source, row, &mut journal.report)? {
                    form.push(&row, &numbers, &mut part)?;
                }
            }
            (journal.files, journal.rows) = (position.files, position.rows);
            let is_stopped = progress(Progress::Cleaning(position.bytes)).is_break();
            if is_stopped || part.len() >= PART || saved.elapsed() >= BETWEEN_PARTS {
                parts.save(&mut part, &mut journal)?;
                saved = Instant::now();
            }
            if is_stopped { Err(DataError::Cancelled) } else { Ok(()) }
        })?;
        form.assemble(self.output, parts.parts(&journal), &part)?;
        let report = format!("# {}\n\n{}\n", self.output.display(), journal.report);
        write_file_atomically(beside(self.output, ".report.md"), report.as_bytes())?;
        Ok(journal.report)
    }

    /// Counts what became of a row, and returns it if it is kept.
    fn note(
        &self,
        source: Source,
        row: std::result::Result<CleanedRow, RowProblem>,
        report: &mut CleaningReport,
    ) -> Result<Option<Map<String, Value>>> {
        report.rows += 1;
        let CleanedRow { changes, characters_read, fate } = match row {
            Ok(row) => row,
            Err(problem) if self.on_bad_row == OnBadRow::Skip && problem.can_be_skipped() => {
                *report.bad_rows.entry(problem.reason()).or_default() += 1;
                if report.bad_row_samples.len() < self.samples {
                    report.bad_row_samples.push(format!("{source}: {problem}"));
                }
                return Ok(None);
            }
            Err(problem) => return Err(DataError::Row { at: source, problem }),
        };
        for (rule, change) in changes {
            let rule = &mut report.changes[rule];
            rule.rows += 1;
            rule.times += change.times;
            rule.characters_removed += change.characters_removed;
            if let Some((before, after)) = change.sample.filter(|_| rule.samples.len() < self.samples) {
                rule.samples.push(Sample { source: source.to_string(), before, after });
            }
        }
        report.characters_read += characters_read;
        match fate {
            Fate::Kept { row, characters } => {
                report.kept += 1;
                report.characters_kept += characters;
                Ok(Some(row))
            }
            Fate::Dropped { filter, found, text } => {
                report.dropped += 1;
                let rule = &mut report.drops[filter];
                rule.rows += 1;
                if rule.samples.len() < self.samples {
                    rule.samples.push(DroppedSample { source: source.to_string(), found, text });
                }
                Ok(None)
            }
        }
    }

    /// The hash of all that decides the output and its report.
    fn key(&self, form: Form, sources: &[Stamp]) -> Result<String> {
        let mut hash = Sha256::new();
        let options = self.cleaner.options();
        let text = serde_json::to_string(options).map_err(std::io::Error::from)?;
        hash.update(format!(
            "{} {form:?} {:?} {} {:?} ",
            env!("CARGO_PKG_VERSION"),
            self.on_bad_row,
            self.samples,
            self.reading
        ));
        hash.update(text);
        for path in options.files() {
            hash.update(fs::read(path)?);
            hash.update([0]);
        }
        for (path, stamp) in self.files.iter().zip(sources) {
            hash.update(path.as_os_str().as_encoded_bytes());
            hash.update(format!("\n{stamp:?}\n"));
        }
        Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// Where the parts of an unfinished run lie.
pub fn parts_folder(output: &Path) -> PathBuf {
    beside(output, ".parts")
}

fn beside(output: &Path, suffix: &str) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn proceed(answer: ControlFlow<()>) -> Result<()> {
    if answer.is_break() { Err(DataError::Cancelled) } else { Ok(()) }
}

/// A file's state, by which a change is noticed.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    modified: Option<Duration>,
}

impl Stamp {
    fn of(path: &Path) -> Result<Self> {
        let metadata = fs::metadata(split_sheet(path).0)?;
        let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Ok(Self { bytes: metadata.len(), modified })
    }
}

/// How much of the files is read.
#[derive(Debug, Clone, Copy, Default)]
struct Position {
    /// Files that are done.
    files: usize,
    /// Rows of the file behind them.
    rows: u64,
    /// About so many bytes of all.
    bytes: u64,
}

/// A row as it was read, or what is wrong with it.
struct Row {
    source: Source,
    /// Its numbers as they are written.
    numbers: ExactNumbers,
    content: std::result::Result<Content, RowProblem>,
}

/// Rows that are worked on at once.
struct Batch {
    rows: Vec<Row>,
    /// Where it ends.
    position: Position,
    /// What the user should know of the files.
    notices: Vec<String>,
}

/// Gives the rows behind `start` to `take`, a batch at a time and in order, while the next one is read.
fn each_batch(
    files: &[PathBuf],
    reading: &ReadOptions,
    sources: &[Stamp],
    start: Position,
    mut take: impl FnMut(Batch) -> Result<()>,
) -> Result<()> {
    let (sender, batches) = sync_channel(1);
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || read(files, reading, sources, start, &sender));
        let mut take_all = |batches: Receiver<Batch>| batches.into_iter().try_for_each(&mut take);
        // The receiver is gone when it returns, so that the reader ends too.
        let taken = take_all(batches);
        let read = reader.join().map_err(|_| std::io::Error::other("reading the files failed"))?;
        taken.and(read)
    })
}

/// Sends the rows behind `start`; a receiver that is gone has seen enough.
fn read(
    files: &[PathBuf],
    reading: &ReadOptions,
    sources: &[Stamp],
    start: Position,
    sender: &SyncSender<Batch>,
) -> Result<()> {
    let (mut rows, mut held, mut notices) = (Vec::new(), 0, Vec::new());
    let mut position = start;
    position.bytes = sources[..start.files].iter().map(|stamp| stamp.bytes).sum();
    for (path, stamp) in files.iter().zip(sources).skip(start.files) {
        let (before, done) = (position.bytes, std::mem::take(&mut position.rows));
        let mut text = 0;
        let mut records = Records::of_files_with(vec![path.clone()], reading);
        while let Some(record) = records.next_raw() {
            position.rows += 1;
            let numbers = record.as_ref().map(RawRecord::exact_numbers).unwrap_or_default();
            let row = match record.and_then(RawRecord::parse) {
                Ok(Record { content, source }) => Row { source, numbers, content: Ok(content) },
                Err(DataError::Row { at, problem }) => Row { source: at, numbers, content: Err(problem) },
                Err(error) => return Err(error),
            };
            let bytes = row.content.as_ref().map_or(0, size);
            text += bytes as u64;
            if position.rows <= done {
                continue;
            }
            rows.push(row);
            held += bytes;
            if held >= BATCH || rows.len() >= BATCH_ROWS {
                position.bytes = before + text.min(stamp.bytes);
                notices.extend(records.take_notices());
                let (rows, notices) = (std::mem::take(&mut rows), std::mem::take(&mut notices));
                if sender.send(Batch { rows, position, notices }).is_err() {
                    return Ok(());
                }
                held = 0;
            }
        }
        notices.extend(records.take_notices());
        if Stamp::of(path)? != *stamp {
            return Err(DataError::Changed { path: path.clone() });
        }
        position = Position { files: position.files + 1, rows: 0, bytes: before + stamp.bytes };
    }
    _ = sender.send(Batch { rows, position, notices });
    Ok(())
}

/// About the bytes of a row in a file.
fn size(content: &Content) -> usize {
    fn of(value: &Value) -> usize {
        match value {
            Value::String(text) => text.len() + 2,
            Value::Array(values) => values.iter().map(of).sum(),
            Value::Object(fields) => of_fields(fields),
            Value::Null | Value::Bool(_) | Value::Number(_) => 4,
        }
    }
    fn of_fields(fields: &Map<String, Value>) -> usize {
        fields.iter().map(|(name, value)| name.len() + of(value) + 4).sum()
    }
    match content {
        Content::Text(text) => text.len(),
        Content::Fields(fields) => of_fields(fields),
    }
}
