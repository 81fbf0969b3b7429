//! A corpus → token files: read by one thread, cut by all, written in order. Memory holds a few batches, not the corpus;
//! a killed run goes on where it was, and a finished one is recognised by the hash of all that decides its ids.

use std::io::Read;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use danlu_formats::{TokenFiles, TokenIndex, TokenShardOptions};
use danlu_tokenizer::Tokenizer;
use fs_err as fs;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::documents::{Document, Documents};
use crate::error::{DataError, Result};
use crate::options::Columns;
use crate::records::{ReadOptions, split_sheet};

/// Bytes of text that are cut at once.
const BATCH: usize = 4 << 20;
/// Documents of a batch, however short.
const BATCH_DOCUMENTS: usize = 1 << 14;
/// Time between two notes of how far the work is.
const BETWEEN_CHECKPOINTS: Duration = Duration::from_secs(5);

/// What becomes token files, and how.
#[derive(Debug)]
pub struct CorpusTokens<'a> {
    /// Files of rows or documents.
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
    texts: Vec<String>,
    bytes: usize,
    /// Rows up to its end.
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
    let options = TokenShardOptions {
        output: output.to_owned(),
        headerless,
        key: corpus.key(headerless, tokens_per_shard)?,
        vocabulary_size: corpus.tokenizer.vocabulary_size(),
        tokens_per_shard,
    };
    let mut writer = match options.open()? {
        TokenFiles::Complete(index) => {
            return Ok(EncodedCorpus { index, is_new: false, notices: Vec::new() });
        }
        TokenFiles::Open(writer) => writer,
    };
    let done = writer.records();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(corpus.threads).build();
    let pool = pool.map_err(std::io::Error::other)?;
    let (sender, batches) = sync_channel(1);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| corpus.read(done, sender));
        let mut write = |batches: Receiver<Batch>| -> Result<u64> {
            let (mut records, mut bytes, mut saved) = (done, 0, Instant::now());
            for batch in batches {
                for ids in corpus.encode(&batch.texts, &pool)? {
                    if ids.len() >= corpus.min_tokens {
                        writer.push(&ids)?;
                    }
                }
                records = batch.records;
                bytes += batch.bytes as u64;
                let is_stopped = progress(bytes).is_break();
                if is_stopped || saved.elapsed() >= BETWEEN_CHECKPOINTS {
                    writer.checkpoint(records)?;
                    saved = Instant::now();
                }
                if is_stopped {
                    return Err(DataError::Cancelled);
                }
            }
            Ok(records)
        };
        // The receiver is gone when it returns, so that the reader ends too.
        let written = write(batches);
        let read = reader.join().map_err(|_| std::io::Error::other("reading the corpus failed"))?;
        let records = written?;
        let notices = match read {
            Ok(notices) => notices,
            Err(error) => {
                writer.checkpoint(records)?;
                return Err(error);
            }
        };
        Ok(EncodedCorpus { index: writer.finish(records)?, is_new: true, notices })
    })
}

impl CorpusTokens<'_> {
    /// The hash of the texts' files, the vocabulary and the options.
    fn key(&self, headerless: bool, tokens_per_shard: u64) -> Result<String> {
        let mut hash = Sha256::new();
        hash.update(self.tokenizer.fingerprint());
        let Self { columns, reading, end_of_document, min_tokens, .. } = self;
        let options = format!("{columns:?} {reading:?} {end_of_document:?} {min_tokens}");
        hash.update(format!("{options} {headerless} {tokens_per_shard}"));
        let mut buffer = vec![0; 1 << 20];
        for path in &self.files {
            let (path, sheet) = split_sheet(path);
            // Its endings decide how it is read.
            let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
            let endings = name.split_once('.').unwrap_or_default().1;
            hash.update(format!("\n{} {endings} {sheet:?}\n", fs::metadata(path)?.len()));
            let mut file = fs::File::open(path)?;
            loop {
                match file.read(&mut buffer)? {
                    0 => break,
                    length => hash.update(&buffer[..length]),
                }
            }
        }
        Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Sends the documents behind the first `done` rows, and gives the notices; a receiver that is gone has seen enough.
    fn read(&self, done: u64, sender: SyncSender<Batch>) -> Result<Vec<String>> {
        let mut batch = Batch { records: done, ..Batch::default() };
        let mut documents = Documents::of_files(self.files.clone(), &self.columns, &self.reading);
        for (number, document) in (1..).zip(documents.by_ref()) {
            let Document { text, .. } = document?;
            if number <= done {
                continue;
            }
            batch.records = number;
            batch.bytes += text.len();
            batch.texts.push(text);
            if batch.bytes >= BATCH || batch.texts.len() >= BATCH_DOCUMENTS {
                let next = Batch { records: number, ..Batch::default() };
                if sender.send(std::mem::replace(&mut batch, next)).is_err() {
                    return Ok(Vec::new());
                }
            }
        }
        // With the rows that hold no text, the last batch may be empty.
        _ = sender.send(batch);
        Ok(documents.take_notices())
    }

    /// The ids of each text.
    fn encode(&self, texts: &[String], pool: &rayon::ThreadPool) -> Result<Vec<Vec<u32>>> {
        let stretches: Vec<(usize, &str, bool)> = texts
            .iter()
            .enumerate()
            .flat_map(|(text, whole)| {
                let stretches = self.tokenizer.stretches(whole).into_iter().enumerate();
                stretches.map(move |(place, stretch)| (text, stretch, place == 0))
            })
            .collect();
        let encode =
            |&(_, stretch, is_first): &(usize, &str, bool)| self.tokenizer.encode_stretch(stretch, is_first);
        let encoded: Result<Vec<Vec<u32>>, danlu_tokenizer::Error> =
            pool.install(|| stretches.par_iter().map(encode).collect());
        let encoded = encoded.map_err(|error| DataError::Tokenizer(error.to_string()))?;
        let mut ids: Vec<Vec<u32>> = vec![Vec::new(); texts.len()];
        for ((text, ..), encoded) in stretches.into_iter().zip(encoded) {
            match ids[text].is_empty() {
                true => ids[text] = encoded,
                false => ids[text].extend(encoded),
            }
        }
        if let Some(end) = self.end_of_document {
            ids.iter_mut().for_each(|ids| ids.push(end));
        }
        Ok(ids)
    }
}
