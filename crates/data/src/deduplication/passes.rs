//! Passes over the files: their rows in order, a batch at a time. One thread cuts the files into rows, all parse them, and
//! meanwhile the caller works on the batch before. What becomes of the rows is not known here.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::mpsc::{SyncSender, sync_channel};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::row_text::{digest, mix, row_text};
use super::{Deduplication, InputFile, Progress, Step};
use crate::error::{DataError, Result};
use crate::exact_numbers::ExactNumbers;
use crate::options::OnBadRow;
use crate::records::{Content, RawRecord, Record, Records, Source};

/// Bytes of rows that are worked on at once.
const BATCH: usize = 4 << 20;
/// Rows of a batch, however short.
const BATCH_ROWS: usize = 1 << 13;

/// A row with its text.
pub(super) struct Row {
    pub content: Content,
    pub source: Source,
    /// Number of its file.
    pub file: usize,
    /// Its numbers as they are written, where it is to be written.
    pub numbers: ExactNumbers,
    digest: u64,
    /// Its text, where that is not one of its fields as it stands there.
    joined: Option<String>,
}

impl Row {
    fn new(file: usize, raw: RawRecord, columns: &[String], is_written: bool) -> Result<Self> {
        let numbers = if is_written { raw.exact_numbers() } else { ExactNumbers::default() };
        let Record { content, source } = raw.parse()?;
        let (digest, joined) = match row_text(&content, columns) {
            Ok(text) => (digest(&text), matches!(text, Cow::Owned(_)).then(|| text.into_owned())),
            Err(problem) => return Err(DataError::Row { at: source, problem }),
        };
        Ok(Self { content, source, file, numbers, digest, joined })
    }

    pub fn text(&self) -> &str {
        match (&self.joined, &self.content) {
            (Some(text), _) | (None, Content::Text(text)) => text,
            (None, Content::Fields(fields)) => fields.get("text").and_then(Value::as_str).unwrap_or_default(),
        }
    }
}

/// A stretch of rows.
#[derive(Default)]
pub(super) struct Batch {
    /// Number of the first row.
    pub first: u32,
    pub rows: Vec<Row>,
    /// Bytes of all files up to its end, about.
    bytes: u64,
}

/// What a pass met.
#[derive(Default)]
pub(super) struct Met {
    pub rows: u32,
    pub skipped: BTreeMap<String, u64>,
    pub files: Vec<FileMet>,
    /// What the user should know of the files.
    pub notices: Vec<String>,
}

/// What a pass met in a file; in a file that is the same, the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMet {
    /// Rows that are used.
    pub rows: u32,
    /// Rows that could not be used.
    pub skipped: u32,
    /// A hash of the texts.
    pub digest: u64,
}

/// Rows that are not parsed yet, with the numbers of their files.
type RawRows = Vec<(usize, Result<RawRecord>)>;

impl Deduplication {
    pub(super) fn pool(&self) -> Result<rayon::ThreadPool> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.threads.max(1)).build();
        Ok(pool.map_err(std::io::Error::other)?)
    }

    /// Gives all rows of `files` in order to `work`, while the next ones are read. What was met in each file before must
    /// be met again; nothing, if this is the first pass.
    pub(super) fn pass(
        &self,
        (files, before): (&[InputFile], &[FileMet]),
        pool: &rayon::ThreadPool,
        step: Step,
        progress: Progress<'_>,
        work: &mut dyn FnMut(Batch) -> Result<()>,
    ) -> Result<Met> {
        let total: u64 = files.iter().map(|file| file.bytes).sum();
        let (sender, batches) = sync_channel::<Batch>(1);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| self.read_files(files, pool, step, sender));
            let worked = batches.into_iter().try_for_each(|batch| {
                let bytes = batch.bytes;
                work(batch)?;
                match progress(step, bytes.min(total), total) {
                    ControlFlow::Break(()) => Err(DataError::Cancelled),
                    ControlFlow::Continue(()) => Ok(()),
                }
            });
            // The receiver is gone, so that the reader ends too.
            let met = reader.join().map_err(|_| std::io::Error::other("reading the rows failed"))?;
            worked?;
            let met = met?;
            let others = files.iter().zip(before.iter().zip(&met.files)).find(|(_, (a, b))| a != b);
            match files.iter().find(|file| file.has_changed()).or(others.map(|(file, _)| file)) {
                Some(file) => Err(DataError::Changed { path: file.path.clone() }),
                None => Ok(met),
            }
        })
    }

    /// Sends the rows of `files`; a receiver that is gone has seen enough.
    fn read_files(
        &self,
        files: &[InputFile],
        pool: &rayon::ThreadPool,
        step: Step,
        sender: SyncSender<Batch>,
    ) -> Result<Met> {
        let mut met = Met { files: vec![FileMet::default(); files.len()], ..Met::default() };
        let (mut raw, mut held, mut bytes) = (RawRows::new(), 0, 0);
        for (file, input) in files.iter().enumerate() {
            let mut records = Records::of_files_with(vec![input.path.clone()], &self.reading);
            while let Some(record) = records.next_raw() {
                // An error may be the end of what can be read: it is looked at before anything else is.
                let is_error = record.is_err();
                held += record.as_ref().map_or(0, RawRecord::bytes);
                raw.push((file, record));
                if held >= BATCH || raw.len() >= BATCH_ROWS || is_error {
                    bytes += held as u64;
                    held = 0;
                    let batch = self.parse(std::mem::take(&mut raw), bytes, (pool, step), &mut met)?;
                    if sender.send(batch).is_err() {
                        return Ok(met);
                    }
                }
            }
            met.notices.extend(records.take_notices());
        }
        let last = self.parse(raw, bytes + held as u64, (pool, step), &mut met)?;
        // The worker that is gone has its own error.
        _ = sender.send(last);
        Ok(met)
    }

    /// The rows that can be used; the others are counted, or are an error.
    fn parse(
        &self,
        raw: RawRows,
        bytes: u64,
        (pool, step): (&rayon::ThreadPool, Step),
        met: &mut Met,
    ) -> Result<Batch> {
        let is_written = step == Step::Writing;
        let row = |(file, raw): (usize, Result<RawRecord>)| {
            (file, raw.and_then(|raw| Row::new(file, raw, &self.columns, is_written)))
        };
        let parsed: Vec<(usize, Result<Row>)> = pool.install(|| raw.into_par_iter().map(row).collect());
        let mut batch = Batch { first: met.rows, rows: Vec::with_capacity(parsed.len()), bytes };
        for (file, row) in parsed {
            match row {
                Ok(row) => {
                    met.rows =
                        met.rows.checked_add(1).filter(|rows| *rows < u32::MAX).ok_or_else(too_many)?;
                    let met = &mut met.files[file];
                    met.rows += 1;
                    met.digest = mix(met.digest ^ row.digest);
                    batch.rows.push(row);
                }
                Err(DataError::Row { problem, .. })
                    if self.on_bad_row == OnBadRow::Skip && problem.can_be_skipped() =>
                {
                    *met.skipped.entry(problem.reason()).or_default() += 1;
                    met.files[file].skipped += 1;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(batch)
    }
}

fn too_many() -> DataError {
    DataError::Option {
        option: "inputs",
        problem: "found more than 4,294,967,294 rows: deduplicate them in several runs".to_owned(),
    }
}
