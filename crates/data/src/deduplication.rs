//! Deduplication of corpora and data sets: rows in, the rows out that repeat no other, whole or nearly.
//!
//! In passes over the files, so that memory holds a few bytes a row: keys for each row, which rows share a key, the shingles
//! of those (compared, unless the method decides by keys alone), and the rows that stay. What does not fit waits in a
//! folder beside the output, which goes away with the run; a killed run is done again from the start, with the same result.

mod character_signatures;
mod decide;
mod findings;
mod fingerprints;
mod known;
mod min_hash;
mod partitions;
mod passes;
mod positioned_read;
mod random_state;
pub mod row_text;
mod rows_out;
mod shingle_sets;
mod signatures;
mod sketcher;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use danlu_formats::AtomicFolder;
use fs_err as fs;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use character_signatures::Permutations;
pub use decide::Duplicate;
pub use min_hash::Bands;

use self::decide::{Crowds, Memberships, NearFingerprints, Order, all_that_share};
use self::findings::Findings;
use self::known::Known;
use self::partitions::{PARTITIONS, Partitions};
use self::passes::{Met, Row};
use self::row_text::normalise;
use self::rows_out::RowsOut;
use self::shingle_sets::ShingleSets;
use self::signatures::{Description, SignatureWriter, SignedFile};
use self::sketcher::Sketcher;
use crate::contamination::Questions;
use crate::error::{DataError, Result};
use crate::options::OnBadRow;
use crate::record_writer::RecordWriter;
use crate::records::{ReadOptions, Records, split_sheet};

/// Rows of a bucket beyond which its pairs are not all compared.
const CROWD: usize = 64;

/// What makes a row a duplicate of an earlier one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Nothing does: only benchmark questions are looked for.
    Nothing,
    /// The same text, byte by byte.
    Exact,
    /// A Jaccard similarity of the sets of shingles of at least `threshold`, with a kept row.
    MinHash {
        /// Characters of a shingle.
        ngram: usize,
        /// The least similarity of duplicates.
        threshold: f64,
        /// Values of a signature.
        num_perm: usize,
        /// Whether the similarity is computed; if not, a shared band decides, and the row may have been left out itself.
        verify: bool,
    },
    /// At most 3 of 128 bits of the SimHash of runs of 3 characters differ from those of a kept row.
    SimHash,
    /// As Baby-Llama2: a band of 19 of 256 values is shared with any earlier row; the sets are of single characters.
    BabyLlama2(Permutations),
}

/// Which of the duplicates stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Keep {
    /// The first in the order of the inputs.
    #[default]
    First,
    /// The one with the longest text; of equally long ones the first.
    Longest,
}

/// A share of the work: every `of`-th file from the `number`-th on, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Which part, from 1.
    pub number: usize,
    /// How many parts there are.
    pub of: usize,
}

/// What is deduplicated, and how.
pub struct Deduplication {
    /// The files, in order.
    pub files: Vec<InputFile>,
    /// The columns that are a row's text; none means [`row_text`](row_text::row_text)'s own choice.
    pub columns: Vec<String>,
    /// How files are read that do not say it themselves.
    pub reading: ReadOptions,
    /// What makes a duplicate.
    pub method: Method,
    /// Which duplicate stays.
    pub keep: Keep,
    /// What happens to rows that cannot be read.
    pub on_bad_row: OnBadRow,
    /// Bytes of keys that are held before they go to files.
    pub max_memory: u64,
    /// Threads that work on texts.
    pub threads: usize,
    /// Benchmark questions that no row may contain.
    pub questions: Option<Questions>,
}

/// A file of the inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputFile {
    /// The file.
    pub path: PathBuf,
    /// Its name below the input that it belongs to.
    pub name: PathBuf,
    bytes: u64,
    modified: Option<SystemTime>,
}

/// Where the rows go that stay.
#[derive(Debug, Clone, Copy)]
pub enum Output<'a> {
    /// All into one file.
    File(&'a Path),
    /// Those of each input file into a file of the same name in this folder; those of `.txt` into `.jsonl`.
    Folder(&'a Path),
    /// Nowhere; what would be left out is only said. What does not fit in memory waits in this folder.
    Nowhere(&'a Path),
}

/// A step of the work, for who shows how far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Keys are made.
    Reading,
    /// Rows with the same key are looked for, and compared.
    Comparing,
    /// Rows are written.
    Writing,
}

/// Told how far a step is, of how much; may stop the work.
pub type Progress<'a> = &'a mut (dyn FnMut(Step, u64, u64) -> ControlFlow<()> + Send);

/// What was done.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Rows that were read.
    pub rows: u32,
    /// Rows that stay.
    pub kept: u32,
    /// Rows left out as duplicates.
    pub duplicates: u32,
    /// Rows left out because they contain a question.
    pub contaminated: u32,
    /// Rows that could not be used, by reason.
    pub skipped: BTreeMap<String, u64>,
    /// The bands that found the duplicates, where the method has any.
    pub bands: Option<Bands>,
    /// Whether keys did not fit in memory.
    pub spilled: bool,
    /// What the user should know of the files, such as encodings other than UTF-8.
    pub notices: Vec<String>,
}

impl Deduplication {
    /// All files of the inputs, folders in the order of names; beside them the files of folders that are not read.
    ///
    /// # Errors
    /// An input that is not there, or a folder without any file that is read.
    pub fn list(inputs: &[PathBuf]) -> Result<(Vec<InputFile>, Vec<PathBuf>)> {
        let (mut files, mut ignored) = (Vec::new(), Vec::new());
        for input in inputs {
            let records = Records::open(input)?;
            ignored.extend_from_slice(records.ignored());
            for path in records.files() {
                let name = path.strip_prefix(input).ok().filter(|name| !name.as_os_str().is_empty());
                let name = name.map(Path::to_owned).or_else(|| path.file_name().map(PathBuf::from));
                let metadata = fs::metadata(split_sheet(path).0)?;
                files.push(InputFile {
                    path: path.to_owned(),
                    name: name.unwrap_or_default(),
                    bytes: metadata.len(),
                    modified: metadata.modified().ok(),
                });
            }
        }
        Ok((files, ignored))
    }

    /// The bands of the method.
    ///
    /// # Errors
    /// Settings that cannot work.
    pub fn bands(&self) -> Result<Option<Bands>> {
        Ok(match Sketcher::new(&self.method)? {
            Sketcher::Shingles(signatures) => Some(signatures.bands),
            Sketcher::Characters(signatures) => Some(signatures.bands()),
            Sketcher::Nothing | Sketcher::Text | Sketcher::SimHash => None,
        })
    }

    /// Writes the keys of one part of the files to `path`, for [`run`](Self::run) to join.
    ///
    /// # Errors
    /// Files that cannot be read or written, fewer files than parts, [`DataError::Cancelled`].
    pub fn sign(&self, part: Part, path: &Path, progress: Progress<'_>) -> Result<Outcome> {
        if part.number == 0 || part.number > part.of || part.of > self.files.len() {
            let files = self.files.len();
            return Err(DataError::Option {
                option: "part",
                problem: format!(
                    "found {}/{}: expected I/N with I from 1 to N, and at least one file for each of the N parts, of which \
                     there are {files}",
                    part.number, part.of
                ),
            });
        }
        let sketcher = Sketcher::new(&self.method)?;
        let files: Vec<InputFile> =
            self.files.iter().skip(part.number - 1).step_by(part.of).cloned().collect();
        let mut writer = SignatureWriter::create(path)?;
        let pool = self.pool()?;
        let met = self.pass((&files, &[]), &pool, Step::Reading, progress, &mut |batch| {
            for (words, length) in sketcher.sketch(&batch.rows, &pool) {
                writer.push(&words, length)?;
            }
            Ok(())
        })?;
        let signed = files.iter().zip(&met.files).map(|(file, &met)| SignedFile {
            name: file.name.to_string_lossy().into_owned(),
            bytes: file.bytes,
            met,
        });
        writer.finish(&Description {
            part,
            settings: self.settings(),
            width: sketcher.width(),
            files: signed.collect(),
        })?;
        Ok(Outcome {
            rows: met.rows,
            kept: met.rows,
            duplicates: 0,
            contaminated: 0,
            skipped: met.skipped,
            bands: self.bands()?,
            spilled: false,
            notices: met.notices,
        })
    }

    /// Finds what is to be left out, lists it in `report` (a row for each, in the order of the inputs), and writes the
    /// other rows. `signatures` are the files of all parts, if the keys were made by [`sign`](Self::sign).
    ///
    /// # Errors
    /// Files that cannot be read or written, rows that cannot be used, [`DataError::Cancelled`].
    pub fn run(
        &self,
        output: Output<'_>,
        report: Option<&Path>,
        signatures: &[PathBuf],
        progress: Progress<'_>,
    ) -> Result<Outcome> {
        let (Output::File(place) | Output::Folder(place) | Output::Nowhere(place)) = output;
        self.run_beside(place, output, report, signatures, progress).map_err(|error| match error {
            // Told by where the rows go, not by the name of a file that nobody asked for.
            DataError::Io(error) => match danlu_formats::Error::io(place, error) {
                danlu_formats::Error::Io { error, .. } => DataError::Io(error),
                error => error.into(),
            },
            DataError::Changed { path } if !signatures.is_empty() => DataError::Signatures {
                path,
                problem: "is not what it was when its signatures were made: expected the same texts, make them again"
                    .to_owned(),
            },
            error => error,
        })
    }

    fn run_beside(
        &self,
        place: &Path,
        output: Output<'_>,
        report: Option<&Path>,
        signatures: &[PathBuf],
        progress: Progress<'_>,
    ) -> Result<Outcome> {
        let sketcher = Sketcher::new(&self.method)?;
        let pool = self.pool()?;
        let mut rows_out = RowsOut::create(output, &self.files)?;
        if let Some(path) = report {
            // It disappears again: a wrong name is said before the work, not after it.
            RecordWriter::create(path)?;
        }
        let scratch = match output {
            Output::Nowhere(folder) => AtomicFolder::create(folder.join("dedup.working"))?,
            _ => {
                let mut name = place.file_name().unwrap_or_default().to_owned();
                name.push(".working");
                AtomicFolder::create(place.with_file_name(name))?
            }
        };
        let known = if signatures.is_empty() {
            self.read(&sketcher, scratch.path(), &pool, progress)?
        } else {
            self.join(&sketcher, signatures, scratch.path(), progress)?
        };
        let spilled = known.keys.is_spilled();
        let Known { met, keys, fingerprints, lengths, mut contaminated } = known;
        if let (true, Some(file)) = (met.rows == 0 && met.skipped.is_empty(), self.files.first()) {
            return Err(DataError::Empty { path: file.path.clone() });
        }
        let order = match self.keep {
            Keep::First => Order::First,
            Keep::Longest => Order::longest(&lengths),
        };
        let rows = met.rows;
        let duplicates =
            self.duplicates(keys, fingerprints, &met, &order, scratch.path(), &pool, progress)?;
        contaminated.sort_by_key(|(row, found)| (*row, found.question));
        let mut findings = Findings::new(duplicates, contaminated);
        let counted = self.pass((&self.files, &met.files), &pool, Step::Writing, progress, &mut |batch| {
            for (row, content) in (batch.first..).zip(batch.rows) {
                if !findings.leaves_out(row, &content.source) {
                    rows_out.write(content)?;
                }
            }
            Ok(())
        })?;
        if let Some(path) = report {
            findings.write(path, self.questions.as_ref())?;
        }
        rows_out.finish()?;
        let (duplicates, contaminated) = findings.counts();
        Ok(Outcome {
            rows,
            kept: rows - duplicates - contaminated,
            duplicates,
            contaminated,
            skipped: met.skipped,
            bands: self.bands()?,
            spilled,
            notices: counted.notices,
        })
    }

    /// The rows that repeat another.
    #[expect(clippy::too_many_arguments, reason = "each is a step's result")]
    fn duplicates(
        &self,
        mut keys: Partitions,
        fingerprints: Vec<u128>,
        met: &Met,
        order: &Order,
        scratch: &Path,
        pool: &rayon::ThreadPool,
        progress: Progress<'_>,
    ) -> Result<Vec<Duplicate>> {
        let rows = met.rows;
        let bits = match self.method {
            Method::Nothing => return Ok(Vec::new()),
            Method::MinHash { verify: false, .. } | Method::BabyLlama2(_) => {
                let mut tick = ticker(progress, PARTITIONS as u64);
                return pool.install(|| all_that_share(&mut keys, rows, order, &mut tick));
            }
            Method::MinHash { .. } | Method::Exact => 0,
            Method::SimHash => fingerprints::NEAR,
        };
        let held = self.max_memory / 2;
        let pairs = Partitions::new(scratch.join("buckets"), held);
        let is_min_hash = matches!(self.method, Method::MinHash { .. });
        let mut crowds = Crowds::new(if is_min_hash { CROWD } else { usize::MAX }, rows);
        let mut tick = ticker(progress, PARTITIONS as u64);
        let mut memberships =
            pool.install(|| Memberships::gather(&mut keys, pairs, rows, order, &mut crowds, &mut tick))?;
        drop(tick);
        drop(keys);
        let members = memberships.members().len() as u64;
        if members == 0 {
            return Ok(Vec::new());
        }
        if let Method::MinHash { ngram, threshold, .. } = self.method {
            let wanted = memberships.members().to_vec();
            let mut sets = ShingleSets::create(&scratch.join("shingles"), wanted, ngram, threshold)?;
            self.pass((&self.files, &met.files), pool, Step::Comparing, progress, &mut |batch| {
                let wanted: Vec<(u32, &Row)> =
                    (batch.first..).zip(&batch.rows).filter(|(row, _)| sets.wants(*row)).collect();
                let set = |&(row, content): &(u32, &Row)| {
                    let set = sets.of(&normalise(content.text()));
                    if crowds.contain(row) {
                        sets.count(&set);
                    }
                    set
                };
                let made: Vec<Vec<u32>> = pool.install(|| wanted.par_iter().map(set).collect());
                made.iter().try_for_each(|set| sets.push(set))
            })?;
            sets.flush()?;
            let keys = Partitions::new(scratch.join("rare"), held);
            let mut tick = ticker(progress, members + PARTITIONS as u64);
            pool.install(|| {
                memberships.part_crowds(&sets, crowds, keys, order, &mut tick)?;
                memberships.decide(order, &sets, &mut tick)
            })
        } else {
            let near = NearFingerprints { fingerprints, bits };
            let mut tick = ticker(progress, members);
            pool.install(|| memberships.decide(order, &near, &mut tick))
        }
    }

    /// Everything that decides the keys.
    fn settings(&self) -> Value {
        let skips = self.on_bad_row == OnBadRow::Skip;
        json!({ "method": self.method, "columns": self.columns, "skip_bad_rows": skips, "encoding": self.reading.encoding })
    }
}

impl InputFile {
    fn has_changed(&self) -> bool {
        !fs::metadata(split_sheet(&self.path).0)
            .is_ok_and(|metadata| (metadata.len(), metadata.modified().ok()) == (self.bytes, self.modified))
    }
}

/// Progress of a step whose parts are counted.
fn ticker(progress: Progress<'_>, total: u64) -> impl FnMut() -> Result<()> {
    let mut done = 0;
    move || {
        done += 1;
        match progress(Step::Comparing, done.min(total), total) {
            ControlFlow::Break(()) => Err(DataError::Cancelled),
            ControlFlow::Continue(()) => Ok(()),
        }
    }
}
