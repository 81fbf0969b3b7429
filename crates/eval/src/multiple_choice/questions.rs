//! Questions from CSV files: C-Eval's folders, a plain folder, or a single file. Every cell stays the text it is.
//!
//! | layout | questions | examples |
//! |---|---|---|
//! | C-Eval | `DIR/val/<subject>_val.csv` (or another split) | `DIR/dev/<subject>_dev.csv` |
//! | plain folder | `DIR/<subject>.csv` | none |
//! | one file | `<subject>.csv` | none |
//!
//! The header is `id,question,A,B,C,D,answer`; other columns, such as `explanation`, are not read.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use danlu_data::{Content, Record, Records, Source};
use fs_err as fs;
use serde_json::{Map, Value};

use super::subjects::chinese_name;
use crate::{Error, Result};

/// Options of a question.
pub const OPTIONS: usize = 4;

pub(super) const LETTERS: [&str; OPTIONS] = ["A", "B", "C", "D"];

const EXAMPLES: &str = "dev";

/// One question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// What is asked.
    pub question: String,
    /// The texts of A to D.
    pub options: [String; OPTIONS],
    /// Index of the right option.
    pub right: usize,
    /// Where it stands.
    pub source: Source,
}

/// The questions of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The file's name without ending and split.
    pub key: String,
    /// What prompts call it: C-Eval's Chinese name, else the key.
    pub name: String,
    /// Solved questions to show before each question.
    pub examples: Vec<Question>,
    /// The questions.
    pub questions: Vec<Question>,
}

/// The questions of an evaluation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Questions {
    /// By subject, in the order of the files' names; none is empty.
    pub subjects: Vec<Subject>,
    /// Examples before each question.
    pub shots: usize,
}

/// Which questions are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// Folder of C-Eval's layout that the questions are in.
    pub split: String,
    /// Examples before each question: the first ones of the `dev` file.
    pub shots: usize,
    /// Subjects by file name or Chinese name; all where none is given.
    pub subjects: Vec<String>,
    /// The first so many questions of each subject.
    pub limit: Option<usize>,
}

impl Default for Selection {
    /// All questions of `val`, without examples.
    fn default() -> Self {
        Self { split: "val".into(), shots: 0, subjects: Vec::new(), limit: None }
    }
}

impl Questions {
    /// Reads the questions of a folder or file. Only the files of the selected subjects are read.
    ///
    /// # Errors
    /// A path that is missing or in none of the layouts, an unknown subject, a file that is empty, is not UTF-8 or lacks
    /// a column, an unknown answer, too few examples; each with file and line.
    pub fn read(path: &Path, selection: &Selection) -> Result<Self> {
        if selection.limit == Some(0) {
            let problem = "expected at least 1 question a subject, found 0".to_owned();
            return Err(Error::Option { option: "limit", problem });
        }
        let (files, example_folder) = question_files(path, &selection.split)?;
        let files = select(path, files, &selection.subjects)?;
        let subjects = files.into_iter().map(|(key, file)| {
            let mut questions = read_file(&file)?;
            questions.truncate(selection.limit.unwrap_or(usize::MAX));
            let examples = match selection.shots {
                0 => Vec::new(),
                shots => examples(&file, example_folder.as_deref(), &key, shots)?,
            };
            let name = chinese_name(&key).map_or_else(|| key.clone(), str::to_owned);
            Ok(Subject { key, name, examples, questions })
        });
        Ok(Self { subjects: subjects.collect::<Result<_>>()?, shots: selection.shots })
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

/// Subjects with their files in the order of the names, and the folder with the examples, if the layout has one.
type Files = (Vec<(String, PathBuf)>, Option<PathBuf>);

fn question_files(path: &Path, split: &str) -> Result<Files> {
    let problem = |problem: String| Err(Error::File { path: path.into(), problem });
    if !path.exists() {
        return problem("does not exist: expected a folder of questions or a CSV file".into());
    }
    if !path.is_dir() {
        return Ok((vec![(key_of(path, split), path.into())], None));
    }
    let split_folder = path.join(split);
    let is_split = split_folder.is_dir();
    let folder = if is_split { &split_folder } else { path };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv")) {
            files.push((key_of(&file, split), file));
        }
    }
    if files.is_empty() {
        return problem(format!(
            "found no questions: expected the folders `{split}` and `{EXAMPLES}` with files like \
             `law_{split}.csv`, or CSV files"
        ));
    }
    files.sort();
    Ok((files, is_split.then(|| path.join(EXAMPLES))))
}

/// `…/law_val.csv` → `law`
fn key_of(file: &Path, split: &str) -> String {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let key = stem.strip_suffix(split).and_then(|key| key.strip_suffix('_'));
    key.filter(|key| !key.is_empty()).unwrap_or(&stem).to_owned()
}

fn select(
    path: &Path,
    mut files: Vec<(String, PathBuf)>,
    wanted: &[String],
) -> Result<Vec<(String, PathBuf)>> {
    let is_called = |key: &str, name: &str| key == name || chinese_name(key) == Some(name);
    for name in wanted {
        if !files.iter().any(|(key, _)| is_called(key, name)) {
            let names = files.iter().flat_map(|(key, _)| [Some(key.as_str()), chinese_name(key)]).flatten();
            let nearest = nearest(name, names).map(str::to_owned);
            return Err(Error::UnknownSubject { name: name.clone(), path: path.into(), nearest });
        }
    }
    files.retain(|(key, _)| wanted.is_empty() || wanted.iter().any(|name| is_called(key, name)));
    Ok(files)
}

fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|known| (strsim::jaro_winkler(name, known), known))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

fn examples(file: &Path, folder: Option<&Path>, key: &str, shots: usize) -> Result<Vec<Question>> {
    let Some(folder) = folder else {
        let problem = format!(
            "there are no examples for {shots} shots: expected C-Eval's layout with a folder `{EXAMPLES}`, or 0 shots"
        );
        return Err(Error::File { path: file.into(), problem });
    };
    let path = folder.join(format!("{key}_{EXAMPLES}.csv"));
    let mut examples = read_file(&path)?;
    if examples.len() < shots {
        let problem =
            format!("expected at least {shots} examples for {shots} shots, found {}", examples.len());
        return Err(Error::File { path, problem });
    }
    examples.truncate(shots);
    Ok(examples)
}

fn read_file(path: &Path) -> Result<Vec<Question>> {
    if path.extension().is_none_or(|extension| !extension.eq_ignore_ascii_case("csv")) {
        let problem = "expected a folder or a file ending in `.csv`".to_owned();
        return Err(Error::File { path: path.into(), problem });
    }
    let questions: Vec<Question> =
        Records::open(path)?.map(|record| question(record?)).collect::<Result<_>>()?;
    if questions.is_empty() {
        let problem = "is empty: expected at least one row under the header".to_owned();
        return Err(Error::File { path: path.into(), problem });
    }
    Ok(questions)
}

fn question(Record { content, source }: Record) -> Result<Question> {
    let Content::Fields(fields) = content else {
        return Err(Error::Row { at: source, problem: "expected a row with columns".into() });
    };
    let field = |name: &str| field(&fields, name, &source);
    let [a, b, c, d] = LETTERS;
    let options = [field(a)?, field(b)?, field(c)?, field(d)?].map(str::to_owned);
    let question = field("question")?.to_owned();
    let answer = field("answer")?.trim();
    let Some(right) = LETTERS.iter().position(|letter| *letter == answer) else {
        let problem = format!("column `answer`: expected A, B, C or D, found `{answer}`");
        return Err(Error::Row { at: source, problem });
    };
    Ok(Question { question, options, right, source })
}

fn field<'a>(fields: &'a Map<String, Value>, name: &str, source: &Source) -> Result<&'a str> {
    let Some(text) = fields.get(name).and_then(Value::as_str) else {
        let found: Vec<String> = fields.keys().map(|name| format!("`{name}`")).collect();
        let withheld =
            if name == "answer" { "; C-Eval withholds the answers of its split `test`" } else { "" };
        let problem = format!(
            "the header lacks the column `{name}`: expected `id,question,A,B,C,D,answer`, found {}{withheld}",
            found.join(", ")
        );
        return Err(Error::Row { at: Source { path: Arc::clone(&source.path), line: 1 }, problem });
    };
    if text.trim().is_empty() && name != "answer" {
        return Err(Error::Row {
            at: source.clone(),
            problem: format!("column `{name}` is empty: expected a text"),
        });
    }
    Ok(text)
}
