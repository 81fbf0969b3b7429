//! Contamination: benchmark questions that stand in rows of training data, which would be learned by heart.
//!
//! A row contains a question if at least 0.8 of the question's different runs of 13 characters stand in it, letters and
//! digits alone being compared. (Brown et al. 2020 and lm-evaluation-harness look for runs of 13 words; Chinese has no
//! spaces, and a share finds questions that were changed a little.) The text of a question is its stem; one below 13 Han
//! characters or 52 letters, which many harmless texts share, is looked for together with its options, and left out if
//! it is still shorter.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::Value;

use crate::deduplication::row_text::{normalise, push_shingles, row_text};
use crate::error::{DataError, Result};
use crate::records::{Content, Members, RawRecord, ReadOptions, Record, Records, Source};

/// Characters of a run.
pub const NGRAM: usize = 13;
/// Share of a question's runs that make a row contain it.
pub const SHARE: f64 = 0.8;

/// Bytes of rows that are searched together.
const BATCH_BYTES: usize = 4 << 20;

/// As many letters say about as much as one Han character.
const LETTERS_OF_HAN: usize = 4;

/// The names of the columns of options, as C-Eval and CMMLU, and as MMLU has them.
const OPTIONS: [[&str; 4]; 2] = [["A", "B", "C", "D"], ["choice0", "choice1", "choice2", "choice3"]];

/// The columns of MMLU's own files, which have no header.
const WITHOUT_HEADER: [&str; 6] = ["question", "A", "B", "C", "D", "answer"];

/// The questions of benchmarks.
pub struct Questions {
    ngram: usize,
    share: f64,
    sources: Vec<Source>,
    /// Different shingles of each question.
    sizes: Vec<u32>,
    /// Shingles with their questions, sorted.
    shingles: Vec<(u64, u32)>,
    /// For each value of the upper bits of a shingle, where it begins in `shingles`.
    starts: Vec<u32>,
    /// How far a shingle is shifted for those bits.
    shift: u32,
    too_short: u64,
}

/// A question found in a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found {
    /// Which of the questions.
    pub question: u32,
    /// The share of its runs that stand in the row.
    pub share: f64,
}

/// What a search found.
#[derive(Debug, Clone, PartialEq)]
pub struct Search {
    /// Each question that is found, and the row that has most of it.
    pub found: Vec<(Found, Source)>,
    /// Rows that cannot be read and were passed over.
    pub unreadable_rows: u64,
}

impl Questions {
    /// Reads benchmarks: files and folders, C-Eval, CMMLU and MMLU as they are published (MMLU without a header too), or
    /// any rows, each of which is a question as a whole.
    ///
    /// # Errors
    /// Files that cannot be read; no question in them.
    pub fn open(paths: &[PathBuf], ngram: usize, share: f64) -> Result<Self> {
        let mut gathered = Gathered::new(ngram);
        for path in paths {
            for file in Records::open(path)?.files() {
                gathered.file(file)?;
            }
        }
        match paths.first() {
            Some(path) if gathered.sources.is_empty() => Err(DataError::NoQuestions { path: path.clone() }),
            _ => Ok(gathered.finish(share)),
        }
    }

    /// Questions that were read already: the stem of each, its options, and where it stands. The second value says which of
    /// them each question is that is looked for; those that are too short are left out.
    pub fn of_texts<'a>(
        questions: impl Iterator<Item = (&'a str, String, Source)>,
        ngram: usize,
        share: f64,
    ) -> (Self, Vec<usize>) {
        let mut gathered = Gathered::new(ngram);
        let mut places = Vec::new();
        for (place, (stem, options, source)) in questions.enumerate() {
            if gathered.push(stem, &options, source) {
                places.push(place);
            }
        }
        (gathered.finish(share), places)
    }

    /// How many questions are looked for.
    pub fn count(&self) -> usize {
        self.sources.len()
    }

    /// How many are too short to be looked for.
    pub fn too_short(&self) -> u64 {
        self.too_short
    }

    /// Where a question stands.
    pub fn source(&self, question: u32) -> &Source {
        &self.sources[question as usize]
    }

    /// The questions that a text contains, in order.
    pub fn find(&self, text: &str) -> Vec<Found> {
        self.find_normalised(&normalise(text), &mut Vec::new())
    }

    /// The questions that rows of a file contain: for each that is found the row that has most of it, the first of equals.
    /// Rows that cannot be read are passed over and counted. `progress` is told how many bytes of rows are done.
    ///
    /// # Errors
    /// A file that cannot be read, or is none of rows or texts.
    pub fn search(&self, file: &Path, mut progress: impl FnMut(u64)) -> Result<Search> {
        let mut records = Records::of_files(vec![file.to_owned()]);
        let mut unreadable_rows = 0;
        let mut found: BTreeMap<u32, (f64, Source)> = BTreeMap::new();
        let mut bytes = 0;
        loop {
            let mut rows = Vec::new();
            let mut in_batch = 0;
            while in_batch < BATCH_BYTES
                && let Some(row) = records.next_raw()
            {
                match row {
                    Ok(row) => {
                        in_batch += row.bytes();
                        rows.push(row);
                    }
                    Err(DataError::Row { problem, .. }) if problem.can_be_skipped() => unreadable_rows += 1,
                    Err(error) => return Err(error),
                }
            }
            if rows.is_empty() {
                let found = found.into_iter();
                let found = found.map(|(question, (share, source))| (Found { question, share }, source));
                return Ok(Search { found: found.collect(), unreadable_rows });
            }
            let in_row = |row: RawRecord| -> Option<Vec<(Found, Source)>> {
                let Record { content, source } = row.parse().ok()?;
                let text = row_text(&content, &[]).unwrap_or_default();
                Some(self.find(&text).into_iter().map(|found| (found, source.clone())).collect())
            };
            let of_batch: Vec<_> = rows.into_par_iter().map(in_row).collect();
            unreadable_rows += of_batch.iter().filter(|row| row.is_none()).count() as u64;
            for (Found { question, share }, source) in of_batch.into_iter().flatten().flatten() {
                if found.get(&question).is_none_or(|(known, _)| share > *known) {
                    found.insert(question, (share, source));
                }
            }
            bytes += in_batch as u64;
            progress(bytes);
        }
    }

    pub(crate) fn find_normalised(&self, text: &str, hashes: &mut Vec<u64>) -> Vec<Found> {
        hashes.clear();
        push_shingles(hashes, text, self.ngram);
        let mut met: Vec<(u32, u64)> = Vec::new();
        for &hash in &*hashes {
            let upper = (hash >> self.shift) as usize;
            let (from, to) = (self.starts[upper] as usize, self.starts[upper + 1] as usize);
            let questions = self.shingles[from..to].iter().filter(|(shingle, _)| *shingle == hash);
            met.extend(questions.map(|&(shingle, question)| (question, shingle)));
        }
        met.sort_unstable();
        met.dedup();
        met.chunk_by(|a, b| a.0 == b.0)
            .filter_map(|group| {
                let question = group[0].0;
                let share = group.len() as f64 / f64::from(self.sizes[question as usize]);
                (share >= self.share).then_some(Found { question, share })
            })
            .collect()
    }
}

/// Questions while they are read.
struct Gathered {
    ngram: usize,
    sources: Vec<Source>,
    sizes: Vec<u32>,
    shingles: Vec<(u64, u32)>,
    too_short: u64,
}

impl Gathered {
    fn new(ngram: usize) -> Self {
        Self { ngram, sources: Vec::new(), sizes: Vec::new(), shingles: Vec::new(), too_short: 0 }
    }

    fn finish(self, share: f64) -> Questions {
        let Self { ngram, sources, sizes, mut shingles, too_short } = self;
        shingles.sort_unstable();
        let bits = shingles.len().max(2).ilog2();
        let shift = u64::BITS - bits;
        let mut starts = vec![0; (1 << bits) + 1];
        shingles.iter().for_each(|(shingle, _)| starts[(shingle >> shift) as usize + 1] += 1);
        (1..starts.len()).for_each(|at| starts[at] += starts[at - 1]);
        Questions { ngram, share, sources, sizes, shingles, starts, shift, too_short }
    }

    fn file(&mut self, path: &Path) -> Result<()> {
        let is_archive = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("zip"));
        let parts = match is_archive {
            true => archived_records(path)?.records.into_iter().map(|(_, records)| records).collect(),
            false => vec![records(path)],
        };
        for record in parts.into_iter().flatten() {
            let Record { content, source } = record?;
            let Content::Fields(fields) = &content else {
                let text = row_text(&content, &[]).unwrap_or_default();
                self.push(&text, "", source);
                continue;
            };
            let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
            let stem = fields.keys().find(|name| name.eq_ignore_ascii_case("question"));
            match stem {
                Some(stem) => {
                    let options = OPTIONS.iter().flatten().map(|name| text(name)).collect::<Vec<_>>();
                    self.push(text(stem), &options.join("\n"), source);
                }
                None => {
                    let text = row_text(&content, &[])
                        .map_err(|problem| DataError::Row { at: source.clone(), problem })?;
                    self.push(&text, "", source);
                }
            }
        }
        Ok(())
    }

    /// Whether it is long enough to be looked for.
    fn push(&mut self, stem: &str, options: &str, source: Source) -> bool {
        let long_enough = |text: &str| {
            let weight = |character| if ('一'..='鿿').contains(&character) { LETTERS_OF_HAN } else { 1 };
            text.chars().map(weight).sum::<usize>() >= LETTERS_OF_HAN * self.ngram
                && text.chars().nth(self.ngram - 1).is_some()
        };
        let mut text = normalise(stem);
        if !long_enough(&text) {
            text = normalise(&format!("{stem}{options}"));
        }
        if !long_enough(&text) {
            self.too_short += 1;
            return false;
        }
        let mut hashes = Vec::new();
        push_shingles(&mut hashes, &text, self.ngram);
        hashes.sort_unstable();
        hashes.dedup();
        let question = self.sources.len() as u32;
        self.sources.push(source);
        self.sizes.push(hashes.len() as u32);
        self.shingles.extend(hashes.into_iter().map(|hash| (hash, question)));
        true
    }
}

/// The rows of a file of questions. The columns of MMLU's own files, which have no header, are named `question`, `A` to `D` and
/// `answer`: where the first row is a question that these fit.
pub fn records(path: &Path) -> Records {
    let named = without_header();
    let files = vec![path.to_owned()];
    match is_question(Records::of_files_with(files.clone(), &named).next()) {
        true => Records::of_files_with(files, &named),
        false => Records::of_files(files),
    }
}

/// The same of each member of a zip archive.
///
/// # Errors
/// A file that is no such archive.
pub fn archived_records(path: &Path) -> Result<Members> {
    let named = without_header();
    let mut members = Records::of_members(path, &ReadOptions::default())?;
    let first = Records::of_members(path, &named)?.records;
    let again = Records::of_members(path, &named)?.records;
    for (((_, records), (_, mut first)), (_, again)) in members.records.iter_mut().zip(first).zip(again) {
        if is_question(first.next()) {
            *records = again;
        }
    }
    Ok(members)
}

fn without_header() -> ReadOptions {
    let columns = WITHOUT_HEADER.map(str::to_owned).to_vec();
    ReadOptions { csv_columns: Some(columns), ..ReadOptions::default() }
}

/// Whether a first row, read as if it had no header above it, is a question.
fn is_question(first: Option<Result<Record>>) -> bool {
    first.and_then(Result::ok).is_some_and(|record| match record.content {
        Content::Fields(fields) => {
            let is_letter = |value: &Value| matches!(value.as_str(), Some("A" | "B" | "C" | "D"));
            let is_name =
                |value: &Value| value.as_str().is_some_and(|text| text.eq_ignore_ascii_case("question"));
            fields.get("answer").is_some_and(is_letter) && !fields.values().any(is_name)
        }
        Content::Text(_) => false,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn questions(files: &[(&str, &str)]) -> Questions {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        Questions::open(&[folder.path().to_owned()], NGRAM, SHARE).unwrap()
    }

    fn lines(questions: &Questions, text: &str) -> Vec<String> {
        let name = |found: &Found| {
            let Source { path, line } = questions.source(found.question);
            format!("{}:{line}", path.file_name().unwrap().display())
        };
        questions.find(text).iter().map(name).collect()
    }

    #[test]
    fn published_benchmarks_are_found_in_texts() {
        let questions = questions(&[
            (
                "ceval.csv",
                "id,question,A,B,C,D,answer\n0,下列关于税法基本原则的表述中，不正确的是____。,税收法定原则,税收公平原则,税收效率原则,依法征税,D\n\
                 1,正确的是____。,车削加工外圆表面,铣,刨,磨,A\n2,对吗？,是,否,不,无,A\n",
            ),
            (
                "cmmlu.csv",
                ",Question,A,B,C,D,Answer\n0,在孵化室温度为二十四度的条件下最适温度为,36,37,38,39,B\n",
            ),
            (
                "mmlu.csv",
                "\"What is the embryological origin of the hyoid bone?\",arch one,arch two,arch three,arch four,D\nWhich of these branches of the trigeminal nerve contain somatic motor processes?,Afferent,Efferent,Both,None,B\n",
            ),
            ("mine.jsonl", "{\"text\": \"深孔钻削时切屑不易排出怎么办\"}\n"),
        ]);
        assert_eq!((questions.count(), questions.too_short()), (6, 1));
        let text = "题库：下列关于税法基本原则的表述中,不正确的是（　）。A.税收法定原则";
        assert_eq!(lines(&questions, text), ["ceval.csv:2"]);
        // A stem that is too short is looked for with its options.
        assert_eq!(lines(&questions, "正确的是：车削加工外圆表面。"), Vec::<String>::new());
        assert_eq!(lines(&questions, "正确的是：车削加工外圆表面、铣、刨、磨。"), ["ceval.csv:3"]);
        assert_eq!(
            lines(&questions, "What is the embryological origin of the hyoid bone?"),
            Vec::<String>::new()
        );
        let with_options =
            "WHAT IS THE EMBRYOLOGICAL ORIGIN OF THE HYOID BONE? (arch one; arch two; arch three)";
        assert_eq!(lines(&questions, with_options), ["mmlu.csv:1"]);
        let two = "在孵化室温度为二十四度的条件下，最适温度为多少；深孔钻削时，切屑不易排出怎么办？";
        assert_eq!(lines(&questions, two), ["cmmlu.csv:2", "mine.jsonl:1"]);
        assert_eq!(
            lines(
                &questions,
                "Which of these branches of the trigeminal nerve contain somatic motor processes"
            ),
            ["mmlu.csv:2"]
        );
    }

    #[test]
    fn a_first_question_with_two_equal_options_is_no_header() {
        let rows = "What is the embryological origin of the hyoid bone of adult humans?,arch,arch,arch,arch,D\n\
                    Which of these branches of the trigeminal nerve contain somatic motor processes?,Both,None,One,Two,B\n";
        let questions = questions(&[
            ("mmlu.csv", rows),
            (
                "ceval_test.csv",
                "id,question,A,B,C,D\n0,下列关于税法基本原则的表述中不正确的是____。,一,二,三,四\n",
            ),
        ]);
        assert_eq!(questions.count(), 3);
        let text = "what is the embryological origin of the hyoid bone of adult humans";
        assert_eq!(lines(&questions, text), ["mmlu.csv:1"]);
        assert_eq!(lines(&questions, "下列关于税法基本原则的表述中不正确的是"), ["ceval_test.csv:2"]);
    }

    #[test]
    fn a_row_contains_a_question_from_four_fifths_on() {
        let question: String = ('一'..).take(112).collect();
        let questions = questions(&[("q.txt", &question)]);
        let part = |length| question.chars().take(length).collect::<String>();
        // Of 100 runs, a part of n characters has n - 12.
        assert_eq!(questions.find(&part(92)), [Found { question: 0, share: 0.8 }]);
        assert_eq!(questions.find(&part(91)), []);
        assert_eq!(questions.find(&part(91).repeat(2)).len(), 0);
    }

    #[test]
    fn files_are_searched_and_the_fullest_row_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let stem = "下列关于税法基本原则的表述中，不正确的是哪一项原则的内容";
        let source = |line| Source { path: Path::new("q.csv").into(), line };
        let texts = [(stem, String::new(), source(2)), ("短", "一\n二".to_owned(), source(3))];
        let (questions, places) = Questions::of_texts(texts.into_iter().rev(), NGRAM, SHARE);
        assert_eq!((questions.count(), questions.too_short(), places), (1, 1, vec![1]));
        let rows = folder.path().join("rows.jsonl");
        let most: String = stem.chars().skip(2).collect();
        let lines = [r#"{"text": "车削"}"#.to_owned(), "{broken".to_owned()];
        let texts = [most, stem.to_owned(), stem.to_owned()].map(|text| json!({ "text": text }).to_string());
        std::fs::write(&rows, [&lines[..], &texts[..]].concat().join("\n")).unwrap();
        let mut done = 0;
        let search = questions.search(&rows, |bytes| done = bytes).unwrap();
        let line = |line| Source { path: rows.as_path().into(), line };
        assert_eq!(search.found, [(Found { question: 0, share: 1.0 }, line(4))]);
        assert_eq!(search.unreadable_rows, 1);
        assert!(done > 0);
        assert!(questions.search(&folder.path().join("gone.jsonl"), |_| {}).is_err());
    }

    #[test]
    fn a_benchmark_without_questions_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("q.jsonl");
        std::fs::write(&path, "{\"text\": \"短\"}\n").unwrap();
        assert!(Questions::open(&[path], NGRAM, SHARE).is_err());
    }
}
