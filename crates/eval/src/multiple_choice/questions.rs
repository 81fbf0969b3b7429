//! The questions of an evaluation, by subject, with the examples that are shown before them.
//!
//! It chooses among what `layouts` finds and `rows` understands; how questions are put is known in `prompts`.

use std::path::Path;

use danlu_data::Source;

use super::layouts::{EXAMPLES, Layout};
use super::rows;
use super::subjects::Benchmark;
use crate::{Error, Result};

/// Options of a question.
pub const OPTIONS: usize = 4;

/// The letters that stand for the options.
pub const LETTERS: [&str; OPTIONS] = ["A", "B", "C", "D"];

/// One question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// What its file calls it, in the column `id` or in one without a name.
    pub id: Option<String>,
    /// What is asked.
    pub question: String,
    /// The texts of A to D.
    pub options: [String; OPTIONS],
    /// Index of the right option; none where the benchmark withholds it.
    pub right: Option<usize>,
    /// Why it is right, in the column `explanation`.
    pub explanation: Option<String>,
    /// Where it stands.
    pub source: Source,
}

/// The questions of one subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// What its file or the column `subject` calls it.
    pub key: String,
    /// What prompts call it: the benchmark's name for it, else the key.
    pub name: String,
    /// Solved questions to show before each question.
    pub examples: Vec<Question>,
    /// The questions.
    pub questions: Vec<Question>,
}

/// The questions of an evaluation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Questions {
    /// Whose questions they are.
    pub benchmark: Benchmark,
    /// The split that they are of.
    pub split: String,
    /// By subject, in the order of their keys; none is empty.
    pub subjects: Vec<Subject>,
    /// Examples before each question.
    pub shots: usize,
    /// Subjects of the benchmark that are not there, where all were asked for and some are there.
    pub missing: Vec<&'static str>,
}

/// Which questions are read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Whose questions they are.
    pub benchmark: Benchmark,
    /// The split that they are of; the benchmark's own where none is given.
    pub split: Option<String>,
    /// Examples before each question: the first ones of the split `dev`.
    pub shots: usize,
    /// Subjects by key or name; all where none is given.
    pub subjects: Vec<String>,
    /// The first so many questions of each subject.
    pub limit: Option<usize>,
}

impl Questions {
    /// Reads the questions of a folder, an archive or a file, in any of the layouts of `layouts`.
    ///
    /// # Errors
    /// A path that is missing or in none of the layouts, an unknown subject, a file that is empty, is not UTF-8 or lacks
    /// a column, an unknown answer, too few examples; each with file and line.
    pub fn read(path: &Path, selection: &Selection) -> Result<Self> {
        if selection.limit == Some(0) {
            let problem = "expected at least 1 question a subject, found 0".to_owned();
            return Err(Error::Option { option: "limit", problem });
        }
        let benchmark = selection.benchmark;
        let split = selection.split.as_deref().unwrap_or(benchmark.split());
        let layout = Layout::find(path, split)?;
        let keys = layout.subjects(split)?;
        let missing = missing(&keys, selection);
        let subjects = chosen(path, &keys, selection)?.into_iter().map(|key| {
            let mut questions = read(&layout, split, key)?;
            questions.truncate(selection.limit.unwrap_or(usize::MAX));
            let examples = match selection.shots {
                0 => Vec::new(),
                shots => examples(&layout, split, key, shots)?,
            };
            let name = benchmark.subject_name(key).unwrap_or(key).to_owned();
            Ok(Subject { key: key.to_owned(), name, examples, questions })
        });
        let subjects = subjects.collect::<Result<_>>()?;
        Ok(Self { benchmark, split: split.to_owned(), subjects, shots: selection.shots, missing })
    }

    /// All questions with their subjects, in their order.
    pub fn each(&self) -> impl Iterator<Item = (&Subject, &Question)> {
        self.subjects
            .iter()
            .flat_map(|subject| subject.questions.iter().map(move |question| (subject, question)))
    }

    /// Number of questions.
    pub fn len(&self) -> usize {
        self.subjects.iter().map(|subject| subject.questions.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The benchmark's subjects that are not among `keys`; a folder with none of them is of other subjects.
fn missing(keys: &[&str], selection: &Selection) -> Vec<&'static str> {
    let benchmark = selection.benchmark;
    let missing: Vec<&str> = benchmark.subjects().filter(|key| !keys.contains(key)).collect();
    let is_part = selection.subjects.is_empty() && missing.len() < benchmark.subjects().count();
    if is_part { missing } else { Vec::new() }
}

fn chosen<'a>(path: &Path, keys: &[&'a str], selection: &Selection) -> Result<Vec<&'a str>> {
    let name_of = |key: &str| selection.benchmark.subject_name(key);
    let is_called = |key: &str, name: &str| key == name || name_of(key) == Some(name);
    for name in &selection.subjects {
        if !keys.iter().any(|key| is_called(key, name)) {
            let names = keys.iter().flat_map(|key| [Some(*key), name_of(key)]).flatten();
            let nearest = nearest(name, names).map(str::to_owned);
            return Err(Error::UnknownSubject { name: name.clone(), path: path.into(), nearest });
        }
    }
    let is_wanted = |key: &&&str| {
        selection.subjects.is_empty() || selection.subjects.iter().any(|name| is_called(key, name))
    };
    Ok(keys.iter().filter(is_wanted).copied().collect())
}

fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|known| (strsim::jaro_winkler(name, known), known))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

fn read(layout: &Layout, split: &str, key: &str) -> Result<Vec<Question>> {
    let questions = rows::questions(layout.rows(split, key)?.unwrap_or_default())?;
    if questions.is_empty() {
        let problem = "is empty: expected at least one question".to_owned();
        return Err(Error::File { path: layout.file(split, key).into(), problem });
    }
    Ok(questions)
}

fn examples(layout: &Layout, split: &str, key: &str, shots: usize) -> Result<Vec<Question>> {
    let problem = |file: &Path, problem: String| Err(Error::File { path: file.into(), problem });
    if !layout.has_examples() {
        return problem(
            layout.file(split, key),
            format!(
                "there are no examples for {shots} shots: expected a folder `{EXAMPLES}` beside the questions, or 0 shots"
            ),
        );
    }
    let mut examples = rows::questions(layout.rows(EXAMPLES, key)?.unwrap_or_default())?;
    let file = layout.file(EXAMPLES, key);
    if examples.len() < shots {
        let found = examples.len();
        return problem(
            file,
            format!("expected at least {shots} examples of `{key}` for {shots} shots, found {found}"),
        );
    }
    examples.truncate(shots);
    match examples.iter().any(|example| example.right.is_none()) {
        true => problem(file, "has examples without answers: expected A, B, C or D".into()),
        false => Ok(examples),
    }
}
