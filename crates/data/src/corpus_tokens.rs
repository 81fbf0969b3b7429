//! A corpus → token files: read and written by one thread, parsed and cut by all, in order. Memory holds a few batches, not
//! the corpus; a killed run goes on where it was, and a finished one is recognised by the hash of all that decides its ids.

use std::collections::VecDeque;
use std::io::{Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use danlu_formats::{TokenFiles, TokenIndex, TokenShardOptions};
use danlu_tokenizer::Tokenizer;
use fs_err as fs;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::documents::{Document, Documents};
use crate::error::{DataError, Result};
use crate::options::Columns;
use crate::records::{RawRecord, ReadOptions, split_sheet};

/// Part of the key: raised whenever other texts are made of the same rows. How texts are cut is the vocabulary's to say.
const VERSION: u32 = 1;
/// Bytes of rows that one thread cuts at once.
const BATCH: usize = 1 << 19;
/// Rows of a batch, however short.
const BATCH_ROWS: usize = 1 << 12;
/// Bytes of rows that are cut while more are read.
const AHEAD: usize = 32 << 20;
/// Bytes of a file that one thread hashes at once.
const PIECE: u64 = 4 << 20;
/// Time between two notes of how far the work is.
const BETWEEN_CHECKPOINTS: Duration = Duration::from_secs(5);

/// What becomes token files, and how.
#[derive(Debug)]
pub struct CorpusTokens<'a> {
    /// Files of rows or documents, no pipes: they are read twice.
    pub files: Vec<PathBuf>,
    /// Which columns are the text of a row.
    pub columns: Columns,
    /// How files are read.
    pub reading: ReadOptions,
    /// The vocabulary.
    pub tokenizer: &'a Tokenizer,
    /// Put behind each document.
    pub end_of_document: Option<u32>,
    /// Documents with fewer ids, the end counted, are left out.
    pub min_tokens: usize,
    /// Threads that cut texts.
    pub threads: usize,
}

/// A stretch of the corpus.
#[derive(Default)]
struct Batch {
    /// The last may be an error, behind which nothing is read.
    rows: Vec<Result<RawRecord>>,
    bytes: usize,
    /// Rows up to its end.
    records: u64,
}

/// A stretch of the corpus that is cut.
#[derive(Default)]
struct EncodedBatch {
    ids: Vec<u32>,
    /// The end of each document in `ids`.
    ends: Vec<usize>,
    /// Bytes of text.
    bytes: u64,
    records: u64,
}

/// A corpus that is token files.
#[derive(Debug)]
pub struct EncodedCorpus {
    /// The files and what they hold.
    pub index: TokenIndex,
    /// False where a former run had done all of it.
    pub is_new: bool,
    /// What the user should know of the files that were read.
    pub notices: Vec<String>,
}

/// Writes the corpus as token files into `output`; `progress(bytes of text done)` may stop the work, which a later call
/// continues.
///
/// # Errors
/// A row or file that cannot be read, an output that cannot be written or holds another corpus,
/// [`DataError::Cancelled`].
pub fn encode_corpus(
    corpus: &CorpusTokens<'_>,
    output: &Path,
    headerless: bool,
    tokens_per_shard: u64,
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<EncodedCorpus> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(corpus.threads).build();
    let pool = pool.map_err(std::io::Error::other)?;
    let options = TokenShardOptions {
        output: output.to_owned(),
        headerless,
        key: pool.install(|| corpus.key(headerless, tokens_per_shard))?,
        vocabulary_size: corpus.tokenizer.vocabulary_size(),
        tokens_per_shard,
    };
    let mut writer = match options.open()? {
        TokenFiles::Complete(index) => {
            return Ok(EncodedCorpus { index, is_new: false, notices: Vec::new() });
        }
        TokenFiles::Open(writer) => writer,
    };
    let mut records = writer.records();
    let mut documents = Documents::of_files(corpus.files.clone(), &corpus.columns, &corpus.reading);
    pool.in_place_scope(|scope| {
        let (mut bytes, mut saved) = (0, Instant::now());
        let batches = EncodedBatches {
            corpus,
            documents: &mut documents,
            done: records,
            read: 0,
            is_end: false,
            under_way: VecDeque::new(),
            bytes: 0,
            scope,
        };
        for batch in batches {
            let batch = batch?;
            let mut start = 0;
            for end in batch.ends {
                if end - start >= corpus.min_tokens {
                    writer.push(&batch.ids[start..end])?;
                }
                start = end;
            }
            records = batch.records;
            bytes += batch.bytes;
            let is_stopped = progress(bytes).is_break();
            if is_stopped || saved.elapsed() >= BETWEEN_CHECKPOINTS {
                writer.checkpoint(records)?;
                saved = Instant::now();
            }
            if is_stopped {
                return Err(DataError::Cancelled);
            }
        }
        Ok(())
    })?;
    Ok(EncodedCorpus { index: writer.finish(records)?, is_new: true, notices: documents.take_notices() })
}

/// The batches of a corpus in their order, cut by other threads while more is read.
struct EncodedBatches<'a, 'scope> {
    corpus: &'scope CorpusTokens<'scope>,
    documents: &'a mut Documents,
    /// Rows that an earlier run has written.
    done: u64,
    /// Rows that were read.
    read: u64,
    is_end: bool,
    /// Their bytes, and where they come when they are cut.
    under_way: VecDeque<(usize, Receiver<Result<EncodedBatch>>)>,
    /// Of all that are under way.
    bytes: usize,
    scope: &'a rayon::Scope<'scope>,
}

impl EncodedBatches<'_, '_> {
    fn read(&mut self) -> Batch {
        let mut batch = Batch::default();
        while batch.bytes < BATCH && batch.rows.len() < BATCH_ROWS {
            let Some(row) = self.documents.next_raw() else {
                self.is_end = true;
                break;
            };
            self.read += 1;
            match &row {
                Ok(_) if self.read <= self.done => continue,
                Ok(row) => batch.bytes += row.bytes(),
                Err(_) => self.is_end = true,
            }
            batch.rows.push(row);
            if self.is_end {
                break;
            }
        }
        batch.records = self.read;
        batch
    }
}

impl Iterator for EncodedBatches<'_, '_> {
    type Item = Result<EncodedBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let most = self.corpus.threads + 2;
        while !self.is_end && self.under_way.len() < most && (self.bytes < AHEAD || self.under_way.is_empty())
        {
            let batch = self.read();
            let (sender, receiver) = sync_channel(1);
            self.bytes += batch.bytes;
            self.under_way.push_back((batch.bytes, receiver));
            let corpus = self.corpus;
            self.scope.spawn(move |_| _ = sender.send(corpus.encode(batch)));
        }
        let (bytes, next) = self.under_way.pop_front()?;
        self.bytes -= bytes;
        let stopped = |_| Err(std::io::Error::other("a thread that cuts texts has ended").into());
        Some(next.recv().unwrap_or_else(stopped))
    }
}

impl CorpusTokens<'_> {
    /// The hash of the texts' files, the vocabulary and the options.
    fn key(&self, headerless: bool, tokens_per_shard: u64) -> Result<String> {
        let mut hash = Sha256::new();
        hash.update(self.tokenizer.fingerprint());
        let Self { columns, reading, end_of_document, min_tokens, .. } = self;
        let options = format!("{columns:?} {reading:?} {end_of_document:?} {min_tokens}");
        hash.update(format!("{VERSION} {options} {headerless} {tokens_per_shard}"));
        for path in &self.files {
            let (path, sheet) = split_sheet(path);
            // Its endings decide how it is read.
            let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
            let endings = name.split_once('.').unwrap_or_default().1;
            let length = fs::metadata(path)?.len();
            hash.update(format!("\n{length} {endings} {sheet:?}\n"));
            let pieces = (0..length.div_ceil(PIECE)).into_par_iter();
            let pieces: Result<Vec<_>> = pieces.map(|piece| hash_piece(path, piece * PIECE)).collect();
            pieces?.iter().for_each(|piece| hash.update(piece));
        }
        Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    fn encode(&self, batch: Batch) -> Result<EncodedBatch> {
        let mut encoded = EncodedBatch { records: batch.records, ..EncodedBatch::default() };
        encoded.ids.reserve(batch.bytes / 2);
        for row in batch.rows {
            let text = Document::parse(row?, &self.columns)?.text;
            encoded.bytes += text.len() as u64;
            let problem = |error: danlu_tokenizer::Error| DataError::Tokenizer(error.to_string());
            self.add_ids(&text, &mut encoded.ids).map_err(problem)?;
            encoded.ids.extend(self.end_of_document);
            encoded.ends.push(encoded.ids.len());
        }
        Ok(encoded)
    }

    /// Adds the ids of a text to `ids`; several threads cut a long one.
    fn add_ids(&self, text: &str, ids: &mut Vec<u32>) -> danlu_tokenizer::Result<()> {
        let stretches = self.tokenizer.stretches(text);
        if let [text] = stretches[..] {
            return self.tokenizer.encode_stretch(text, true, ids);
        }
        let encode = |(place, stretch): (usize, &&str)| {
            let mut ids = Vec::new();
            self.tokenizer.encode_stretch(stretch, place == 0, &mut ids).map(|()| ids)
        };
        let encoded: danlu_tokenizer::Result<Vec<Vec<u32>>> =
            stretches.par_iter().enumerate().map(encode).collect();
        encoded?.iter().for_each(|stretch| ids.extend_from_slice(stretch));
        Ok(())
    }
}

/// The hash of [`PIECE`] bytes of a file from `start` on, or of fewer at its end.
fn hash_piece(path: &Path, start: u64) -> Result<impl AsRef<[u8]> + Send> {
    let mut file = fs::File::open(path)?;
    file.seek(SeekFrom::Start(start))?;
    let mut piece = file.take(PIECE);
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 17]);
    loop {
        match piece.read(&mut buffer)? {
            0 => return Ok(hash.finalize()),
            length => hash.update(&buffer[..length]),
        }
    }
}
