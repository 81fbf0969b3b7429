//! Contamination: questions that stand in the data that the model was trained on, as the `run.json` of its runs names it.
//!
//! A run is followed to the model that it began with. What is found is a notice, not a judgement: scores stay as they are.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use danlu_data::contamination::{Found, NGRAM, Questions as Wanted, SHARE};
use danlu_data::sha256_of;
use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::folder::write_json;
use super::questions::{Question, Questions};
use crate::{Error, Result};

const RECORD: &str = "run.json";
/// Most bytes of training data that are searched unless it is asked for.
pub const MOST_BYTES: u64 = 256 << 20;

/// What is known of a run, of what stands in its `run.json`.
#[derive(Deserialize)]
struct Record {
    model: Option<Model>,
    data: Data,
}

#[derive(Deserialize)]
struct Model {
    files: Option<Vec<ModelFile>>,
}

#[derive(Deserialize)]
struct ModelFile {
    path: PathBuf,
}

#[derive(Deserialize)]
struct Data {
    files: Vec<DataFile>,
}

#[derive(Deserialize)]
struct DataFile {
    path: PathBuf,
    bytes: u64,
    sha256: Option<String>,
}

/// What was found, as it stands in `contamination.json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Contamination {
    /// The folders of the runs, the last one first.
    pub runs: Vec<PathBuf>,
    /// Their data.
    pub files: Vec<SearchedFile>,
    /// Questions of the evaluation.
    pub questions: usize,
    /// Questions that are too short to be told from harmless texts, and are not looked for.
    pub too_short: u64,
    /// Questions that are found.
    pub overlapping: usize,
    /// Which, and where.
    pub overlaps: Vec<Overlap>,
}

/// A file of training data.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SearchedFile {
    /// Where the run has read it.
    pub path: PathBuf,
    /// Whether its rows were searched.
    pub searched: bool,
    /// Rows that cannot be read and were passed over.
    #[serde(skip_serializing_if = "is_zero")]
    pub unreadable_rows: u64,
    /// Why not, or what is to be known of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remark: Option<String>,
}

/// A question that stands in training data.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Overlap {
    /// The subject.
    pub subject: String,
    /// The question's place in it, from 0.
    pub index: usize,
    /// The question.
    pub question: String,
    /// The share of its runs of 13 characters that stand in the row.
    pub share: f64,
    /// The row, by file and line.
    pub found_at: String,
}

/// The run folder that a model or adapter lies in: its own folder, that of its file, or the one above.
pub fn run_of(model: &Path) -> Option<PathBuf> {
    model.ancestors().take(3).find(|folder| folder.join(RECORD).is_file()).map(Path::to_owned)
}

/// Looks for the questions in the data of these runs and of those that they began with. Files are searched as long as all
/// have at most `most_bytes`. `progress` is told how many bytes of rows are done.
///
/// # Errors
/// A folder without `run.json`, or with a damaged one.
pub fn look_for(
    questions: &Questions,
    runs: &[PathBuf],
    most_bytes: u64,
    mut progress: impl FnMut(u64),
) -> Result<Contamination> {
    let all: Vec<(&str, usize, &Question)> = questions
        .subjects
        .iter()
        .flat_map(|subject| {
            let numbered = subject.questions.iter().enumerate();
            numbered.map(|(index, question)| (subject.key.as_str(), index, question))
        })
        .collect();
    let texts = all.iter().map(|(_, _, question)| {
        (question.question.as_str(), question.options.join("\n"), question.source.clone())
    });
    let (wanted, places) = Wanted::of_texts(texts, NGRAM, SHARE);
    let hashes = hashes(&all);
    let runs = with_origins(runs)?;
    let mut files = Vec::new();
    let mut found: BTreeMap<usize, (f64, String)> = BTreeMap::new();
    let (mut left, mut done) = (most_bytes, 0);
    for (run, record) in &runs {
        for file in &record.data.files {
            let own_hash = file.sha256.as_ref().and_then(|hash| hashes.get(hash));
            for &place in own_hash.into_iter().flatten() {
                found.insert(place, (1.0, file.path.display().to_string()));
            }
            let of_benchmark = own_hash.map(|_| "is a file of the questions".to_owned());
            let file_of = |path: &Path, searched: bool, remark: Option<String>| SearchedFile {
                path: path.to_owned(),
                searched,
                unreadable_rows: 0,
                remark,
            };
            let Some(path) = place_of(&file.path, run) else {
                let remark = of_benchmark.unwrap_or_else(|| "is not there any more".into());
                files.push(file_of(&file.path, false, Some(remark)));
                continue;
            };
            let bytes = match fs::metadata(danlu_data::records::split_sheet(&path).0) {
                Ok(metadata) => metadata.len(),
                Err(error) => {
                    files.push(file_of(&path, false, Some(format!("not searched: {error}"))));
                    continue;
                }
            };
            if bytes > left {
                let remark =
                    format!("not searched: {bytes} bytes; `--train-run {}` searches it", run.display());
                files.push(file_of(&path, false, Some(remark)));
                continue;
            }
            left -= bytes;
            match wanted.search(&path, |bytes| progress(done + bytes)) {
                Ok(search) => {
                    for (Found { question, share }, row) in search.found {
                        let place = places[question as usize];
                        if found.get(&place).is_none_or(|(known, _)| share > *known) {
                            found.insert(place, (share, row.to_string()));
                        }
                    }
                    let has_changed = bytes != file.bytes;
                    let remark = has_changed.then(|| "has changed since the run".to_owned()).or(of_benchmark);
                    let unreadable_rows = search.unreadable_rows;
                    files.push(SearchedFile { unreadable_rows, ..file_of(&path, true, remark) });
                }
                Err(error) => files.push(file_of(&path, false, Some(format!("not searched: {error}")))),
            }
            done += bytes;
        }
    }
    let overlap = |(place, (share, found_at)): (usize, (f64, String))| {
        let (subject, index, question) = all[place];
        Overlap { subject: subject.to_owned(), index, question: question.question.clone(), share, found_at }
    };
    let overlaps: Vec<Overlap> = found.into_iter().map(overlap).collect();
    Ok(Contamination {
        runs: runs.into_iter().map(|(run, _)| run).collect(),
        files,
        questions: all.len(),
        too_short: wanted.too_short(),
        overlapping: overlaps.len(),
        overlaps,
    })
}

impl Contamination {
    /// The files that were not searched, or not all rows of them, and why: the first few. `contamination.json` has them all.
    #[must_use]
    pub fn incomplete(&self) -> Option<String> {
        const NAMED: usize = 3;
        let told = |file: &SearchedFile| {
            let remark = match (&file.remark, file.unreadable_rows) {
                (Some(remark), _) if !file.searched => remark.clone(),
                (_, 0) => return None,
                (_, rows) => format!("{rows} rows cannot be read"),
            };
            Some(format!("`{}` ({remark})", file.path.display()))
        };
        let all: Vec<String> = self.files.iter().filter_map(told).collect();
        let more = if all.len() > NAMED { format!(", … ({} in all)", all.len()) } else { String::new() };
        (!all.is_empty()).then(|| all[..all.len().min(NAMED)].join(", ") + &more)
    }

    /// Writes `contamination.json`.
    ///
    /// # Errors
    /// A place that cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        write_json(&folder.join("contamination.json"), self)
    }
}

/// The runs, and behind each those that its model comes from.
fn with_origins(runs: &[PathBuf]) -> Result<Vec<(PathBuf, Record)>> {
    let mut known: Vec<(PathBuf, Record)> = Vec::new();
    let mut waiting: Vec<PathBuf> = runs.iter().rev().cloned().collect();
    while let Some(run) = waiting.pop() {
        let real = fs::canonicalize(&run)?;
        if known.iter().any(|(known, _)| fs::canonicalize(known).is_ok_and(|known| known == real)) {
            continue;
        }
        let path = run.join(RECORD);
        let damaged = |error: serde_json::Error| Error::File {
            path: path.clone(),
            problem: format!("is not the record of a training run: {error}"),
        };
        let record: Record = serde_json::from_slice(&fs::read(&path)?).map_err(damaged)?;
        let origin = record.model.as_ref().and_then(|model| model.files.as_ref()?.first());
        waiting.extend(origin.and_then(|file| run_of(&place_of(&file.path, &run)?)));
        known.push((run, record));
    }
    Ok(known)
}

/// Where a path of a record leads to: from the current folder, or from one above the run.
fn place_of(path: &Path, run: &Path) -> Option<PathBuf> {
    let is_there = |path: &PathBuf| danlu_data::records::split_sheet(path).0.exists();
    let above = run.ancestors().map(|folder| folder.join(path));
    std::iter::once(path.to_owned()).chain(above).find(is_there)
}

/// The questions by the hashes of the files that they stand in.
fn hashes(all: &[(&str, usize, &Question)]) -> HashMap<String, Vec<usize>> {
    let mut files: HashMap<&Path, Vec<usize>> = HashMap::new();
    for (place, (_, _, question)) in all.iter().enumerate() {
        files.entry(&question.source.path).or_default().push(place);
    }
    // Of an archive a member is no file.
    files.into_iter().filter_map(|(path, places)| Some((sha256_of(path).ok()?, places))).collect()
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}
