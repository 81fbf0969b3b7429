//! Results of an evaluation, question by question: `questions.jsonl` of multiple choice, `generated.jsonl` of generation, or
//! the output folder that holds one of them.
//!
//! | file | fields |
//! |---|---|
//! | `questions.jsonl` | `subject`, `index`, `right`, `chosen`, `correct`, `most_likely` |
//! | `generated.jsonl` | `prompt`, `reference`, `prediction`, `scores` (names of metrics and numbers), `category` |
//!
//! Groups of subjects are those of the `summary.json` beside it; what was asked, and how often, says the `evaluation.json` and the
//! `summary.json` of the folder.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use danlu_data::{Content, Record, Records};
use fs_err as fs;
use serde_json::{Map, Value};

use super::{ACCURACY, UNNORMALIZED};
use crate::{Error, Result};

/// Where an output folder has them.
const QUESTIONS: &str = "questions.jsonl";
const FILES: [&str; 4] = [QUESTIONS, "generated.jsonl", "take0/questions.jsonl", "take0/generated.jsonl"];
const SUMMARY: &str = "summary.json";
const ASKED: &str = "evaluation.json";
const NO_GROUP: &str = "(no group)";

/// The results of one evaluation.
#[derive(Debug, Clone, PartialEq)]
pub struct Results {
    /// The file.
    pub path: PathBuf,
    /// Takes with answers drawn anew that this is one of, where there are more than one.
    pub takes: Option<u64>,
    questions: Vec<Answered>,
    /// By subject.
    groups: HashMap<String, String>,
    /// Of the questions that were asked, where the folder tells it.
    questions_sha256: Option<String>,
}

/// What one model said to one question, and what that is worth.
#[derive(Debug, Clone, PartialEq)]
pub struct Answered {
    /// Its subject or category, where there are such.
    pub subject: Option<String>,
    /// The question's text, where it is told.
    pub text: Option<String>,
    /// The right answer or the reference.
    pub right: String,
    /// What the model said.
    pub answer: String,
    /// Each metric's value; accuracy is 0 or 1.
    pub scores: BTreeMap<String, f64>,
    /// Tells the question from the others: its text, or its number in the subject.
    id: String,
    /// From 1.
    row: usize,
}

impl Answered {
    /// Subject and number, or the number of the row.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.subject {
            Some(subject) if self.text.as_ref() != Some(&self.id) => format!("{subject} {}", self.id),
            _ => format!("row {}", self.row),
        }
    }
}

impl Results {
    /// Reads a file, or that of an output folder.
    ///
    /// # Errors
    /// A path without such a file; a row without an answer or a score.
    pub fn read(path: &Path) -> Result<Self> {
        let file = match path.is_dir() {
            true => FILES.iter().map(|name| path.join(name)).find(|file| file.exists()).ok_or_else(|| {
                let problem = format!("has no results: expected one of `{}` in it", FILES.join("`, `"));
                Error::File { path: path.into(), problem }
            })?,
            false => path.to_owned(),
        };
        let mut questions = Vec::new();
        let mut rows = 0;
        for record in Records::open(&file)? {
            rows += 1;
            questions.extend(answered(record?, rows)?);
        }
        if questions.is_empty() {
            return Err(Error::File { path: file, problem: "has no questions with a score".into() });
        }
        // Of a take, whose folder stands in that of the evaluation.
        let is_of_take = file.file_name().is_some_and(|name| name == QUESTIONS);
        let folder = file.parent().and_then(Path::parent).filter(|_| is_of_take);
        let told = |name: &str| json(&folder?.join(name));
        let questions_sha256 =
            told(ASKED).and_then(|asked| Some(asked.get("questions_sha256")?.as_str()?.to_owned()));
        let takes = told(SUMMARY).and_then(|summary| summary.get("takes")?.as_u64());
        Ok(Self { takes, groups: groups_beside(&file), path: file, questions, questions_sha256 })
    }

    /// The group that the question's subject belongs to.
    pub(super) fn group_of(&self, question: &Answered) -> String {
        let group = question.subject.as_ref().and_then(|subject| self.groups.get(subject));
        group.map_or_else(|| NO_GROUP.to_owned(), String::clone)
    }

    /// Names of the metrics that every question has.
    pub(super) fn metrics(&self) -> Vec<&String> {
        let names = self.questions.first().map(|first| first.scores.keys()).into_iter().flatten();
        names
            .filter(|name| self.questions.iter().all(|question| question.scores.contains_key(*name)))
            .collect()
    }
}

/// A file of JSON that may be there.
fn json(path: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// The groups of subjects that the summary beside a file tells, if there is one.
fn groups_beside(file: &Path) -> HashMap<String, String> {
    let summary = json(&file.with_file_name(SUMMARY));
    let subjects = summary.as_ref().and_then(|summary| summary.get("subjects")?.as_object());
    let group =
        |(subject, told): (&String, &Value)| Some((subject.clone(), told.get("group")?.as_str()?.to_owned()));
    subjects.into_iter().flatten().filter_map(group).collect()
}

/// The questions of `a` with those of `b`, in the order of `a`.
pub(super) fn matched<'a>(a: &'a Results, b: &'a Results) -> Result<Vec<(&'a Answered, &'a Answered)>> {
    let differs = |problem: String| Error::File { path: b.path.clone(), problem };
    let with = |path: &Path| format!("`{}`: compare results on the same questions", path.display());
    let (in_a, in_b) = (keys(a), keys(b));
    let places: HashMap<&Key<'_>, usize> = in_b.iter().enumerate().map(|(place, key)| (key, place)).collect();
    let mut pairs = Vec::with_capacity(in_a.len());
    let mut missing = Vec::new();
    for (question, key) in a.questions.iter().zip(&in_a) {
        match places.get(key) {
            Some(place) => pairs.push((question, &b.questions[*place])),
            None => missing.push(question),
        }
    }
    if let Some(first) = missing.first() {
        return Err(differs(format!(
            "lacks {} of the {} questions, the first of them `{}`, of {}",
            missing.len(),
            in_a.len(),
            first.name(),
            with(&a.path)
        )));
    }
    if in_b.len() > in_a.len() {
        return Err(differs(format!(
            "has {} questions more than {}",
            in_b.len() - in_a.len(),
            with(&a.path)
        )));
    }
    if let Some((one, other)) = pairs.iter().find(|(one, other)| one.right != other.right) {
        return Err(differs(format!(
            "has the right answer `{}` to `{}`, which is `{}` in {}",
            other.right,
            one.name(),
            one.right,
            with(&a.path)
        )));
    }
    if let (Some(one), Some(other)) = (&a.questions_sha256, &b.questions_sha256)
        && one != other
    {
        return Err(differs(format!(
            "is of other questions (`questions_sha256` in `{ASKED}` differs) than {}",
            with(&a.path)
        )));
    }
    Ok(pairs)
}

/// Subject, question, and how often it came before.
type Key<'a> = (&'a str, &'a str, usize);

fn keys(results: &Results) -> Vec<Key<'_>> {
    let mut seen: HashMap<(&str, &str), usize> = HashMap::new();
    let mut keys = Vec::with_capacity(results.questions.len());
    for question in &results.questions {
        let (subject, id) = (question.subject.as_deref().unwrap_or(""), question.id.as_str());
        let before = seen.entry((subject, id)).or_default();
        keys.push((subject, id, *before));
        *before += 1;
    }
    keys
}

/// What a row says; nothing where the answer has no reference, and so no score.
fn answered(record: Record, row: usize) -> Result<Option<Answered>> {
    let at = record.source;
    let error = |problem: &str| Error::Row { at: at.clone(), problem: problem.to_owned() };
    let Content::Fields(fields) = record.content else {
        return Err(error("expected a JSON object"));
    };
    let told = |name: &str| fields.get(name).filter(|value| !value.is_null());
    let mut scores = BTreeMap::new();
    match fields.get("correct") {
        Some(Value::Bool(correct)) => _ = scores.insert(ACCURACY.to_owned(), f64::from(u8::from(*correct))),
        Some(Value::Null) => return Err(error("the right answer is withheld: there is nothing to compare")),
        Some(_) => return Err(error("`correct`: expected `true` or `false`")),
        None => {}
    }
    if let (Some(right), Some(most_likely)) = (told("right"), told("most_likely")) {
        scores.insert(UNNORMALIZED.to_owned(), f64::from(u8::from(right == most_likely)));
    }
    if let Some(Value::Object(found)) = fields.get("scores") {
        let numbers = found.iter().filter_map(|(name, value)| Some((name.clone(), value.as_f64()?)));
        scores.extend(numbers);
    }
    if scores.is_empty() && fields.get("scores").is_some_and(Value::is_null) {
        return Ok(None);
    }
    if scores.is_empty() {
        return Err(error(
            "has no score: expected `correct`, or an object `scores` with a number for each metric",
        ));
    }
    let subject = text_of(&fields, &["subject"]);
    let text = text_of(&fields, &["question", "prompt"]).map(|text| match &subject {
        // Behind the examples, each of which ends in an empty line.
        Some(_) => text.rsplit("\n\n").next().unwrap_or_default().to_owned(),
        None => text,
    });
    let index = fields.get("index").map(plain);
    let id = if subject.is_some() { index.or(text.clone()) } else { text.clone().or(index) };
    let answer = |names: &[&str]| names.iter().find_map(|name| told(name).map(plain)).unwrap_or_default();
    Ok(Some(Answered {
        subject: subject.or_else(|| text_of(&fields, &["category"])),
        text,
        right: answer(&["right", "reference"]),
        answer: answer(&["chosen", "prediction"]),
        scores,
        id: id.unwrap_or_else(|| row.to_string()),
        row,
    }))
}

fn text_of(fields: &Map<String, Value>, names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| fields.get(*name)?.as_str()).map(str::to_owned)
}

/// A value as text, without the quotes of a text.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
