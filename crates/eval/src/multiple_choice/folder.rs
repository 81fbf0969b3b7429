//! The folder of an evaluation: what was asked of which model (`evaluation.json`), and a folder `take0`, `take1`, … for each
//! time that it was asked. What is finished stands there when the program is killed, and the same command goes on behind it.
//!
//! It refuses a folder that holds the answers to something else, and removes nothing but remains of its own.

use std::path::{Path, PathBuf};

use danlu_formats::{AtomicFolder, write_file_atomically};
use fs_err as fs;
use serde_json::{Map, Value};

use super::answered::{Answered, Prompt};
use super::pieces::{self, pieces};
use super::questions::{OPTIONS, Questions};
use super::{Answer, Backend, Options, answers, by_server, prompts};
use crate::line_file::LineFile;
use crate::{Error, Result};

const SETTINGS: &str = "evaluation.json";
const QUESTIONS: &str = "questions.jsonl";
/// Longest values that a refusal shows.
const SHOWN: usize = 40;

/// A folder for one evaluation.
#[derive(Debug)]
pub struct EvaluationFolder {
    path: PathBuf,
}

/// One time that all questions are asked.
#[derive(Debug)]
pub struct Take {
    path: PathBuf,
    /// `questions.jsonl`.
    file: LineFile,
    answers: Vec<Answer>,
}

impl EvaluationFolder {
    /// Makes the folder, or opens it again for an evaluation with the same settings.
    ///
    /// # Errors
    /// A folder of an evaluation with other settings, a place that cannot be written.
    pub fn open(path: &Path, settings: &Map<String, Value>) -> Result<Self> {
        let refused = |problem: String| Err(Error::File { path: path.into(), problem });
        if path.is_file() {
            return refused("is a file: expected a folder to write to".into());
        }
        match settings_of(path)? {
            Some(earlier) => {
                let changed = changed(&earlier, settings);
                if !changed.is_empty() {
                    return refused(format!(
                        "holds another evaluation ({}): choose another folder, or remove this one to begin anew",
                        changed.join(", ")
                    ));
                }
            }
            None if take_path(path, 0).exists() => {
                return refused(format!(
                    "has a folder `take0` but no `{SETTINGS}` that says of what: choose another folder"
                ));
            }
            None => {
                fs::create_dir_all(path)?;
                write_json(&path.join(SETTINGS), settings)?;
            }
        }
        Ok(Self { path: path.into() })
    }

    /// How many takes it has.
    #[must_use]
    pub fn takes(&self) -> usize {
        (0..).take_while(|&number| take_path(&self.path, number).is_dir()).count()
    }

    /// Opens a take with the answers that an earlier run has kept of these questions.
    ///
    /// # Errors
    /// Another program that writes it at this moment, a place that cannot be read or written.
    pub fn take<'a>(
        &self,
        number: usize,
        backend: impl Into<Backend<'a>>,
        questions: &Questions,
        options: &Options,
    ) -> Result<Take> {
        let path = take_path(&self.path, number);
        let most = pieces::kept(backend.into(), options);
        let mut answers = Vec::new();
        let (file, _) = LineFile::open(&path.join(QUESTIONS), "the answer to a question", |lines| {
            answers = kept(lines, questions, most);
            Ok(answers.len())
        })?;
        Ok(Take { path, file, answers })
    }

    /// Makes takes `1..number` of take 0, which knows no chance.
    ///
    /// # Errors
    /// A place that cannot be written.
    pub fn repeat_first(&self, number: usize) -> Result<()> {
        for take in 1..number {
            let copy = AtomicFolder::create(take_path(&self.path, take))?;
            for entry in fs::read_dir(take_path(&self.path, 0))? {
                let entry = entry?;
                fs::copy(entry.path(), copy.path().join(entry.file_name()))?;
            }
            copy.commit()?;
        }
        Ok(())
    }
}

impl Take {
    /// Where its files are.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Answers that are kept, in the order of the questions.
    pub fn answers(&self) -> &[Answer] {
        &self.answers
    }

    /// Asks what is not answered yet, and keeps the answers piece by piece, those of a server one by one. `progress` is told how
    /// many options of all are scored. With `log_samples`, the lines have the prompts.
    ///
    /// # Errors
    /// As [`answers`](super::answers), and a disk that is full.
    pub fn go_on<'a>(
        &mut self,
        backend: impl Into<Backend<'a>>,
        questions: &Questions,
        options: &Options,
        log_samples: bool,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<()> {
        let backend = backend.into();
        let all = OPTIONS * questions.len();
        let most = pieces::size(backend, options);
        for (first_index, piece) in pieces(questions, most, self.answers.len()) {
            let before = self.answers.len();
            let told = |done, _| progress(OPTIONS * before + done, all);
            let prompts = if log_samples { prompts(backend, &piece, options)? } else { Vec::new() };
            let asked: Vec<_> = piece.each().collect();
            let mut keep = |given: Vec<Answer>| -> Result<()> {
                let lines = given.iter().zip(self.answers.len() - before..).map(|(answer, place)| {
                    let prompt = prompts.get(place).cloned();
                    let prompt = prompt.map(|(prompt, prompt_tokens)| Prompt { prompt, prompt_tokens });
                    let (subject, question) = asked[place];
                    Answered::new(subject, first_index + place, question, answer, options.scoring, prompt)
                });
                self.file.push_all(lines)?;
                self.answers.extend(given);
                Ok(())
            };
            match backend {
                Backend::Opened(_) => keep(answers(backend, &piece, options, told)?)?,
                Backend::Server(server) => {
                    by_server::ask(server, &piece, options, told, |answer| keep(vec![answer]))?;
                }
            }
        }
        Ok(())
    }
}

fn take_path(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("take{number}"))
}

/// What the evaluation in a folder was made with; none where there is none.
///
/// # Errors
/// A file that cannot be read, or is none of these.
pub fn settings_of(folder: &Path) -> Result<Option<Map<String, Value>>> {
    let path = folder.join(SETTINGS);
    if !path.is_file() {
        return Ok(None);
    }
    let damaged = |error: serde_json::Error| Error::File {
        path: path.clone(),
        problem: format!("is damaged ({error}): choose another folder, or remove this one to begin anew"),
    };
    serde_json::from_slice(&fs::read(&path)?).map(Some).map_err(damaged)
}

/// What differs, in words; values where they are short.
fn changed(earlier: &Map<String, Value>, now: &Map<String, Value>) -> Vec<String> {
    let mut names: Vec<&String> = earlier.keys().chain(now.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let text = |value: Option<&Value>| value.map_or_else(|| "none".to_owned(), Value::to_string);
    let difference = |name: &String| {
        let (there, here) = (earlier.get(name), now.get(name));
        let (earlier, now) = (text(there), text(here));
        match (there == here, earlier.len().max(now.len()) <= SHOWN) {
            (true, _) => None,
            (false, true) => Some(format!("`{name}` is {earlier} there and {now} here")),
            (false, false) => Some(format!("`{name}` differs")),
        }
    };
    names.into_iter().filter_map(difference).collect()
}

/// The answers that lines hold of these questions, as far as they make whole pieces.
fn kept(lines: &[Answered], questions: &Questions, most: usize) -> Vec<Answer> {
    let mut answers = Vec::new();
    for (first_index, piece) in pieces(questions, most, 0) {
        let of_piece: Option<Vec<Answer>> = piece
            .each()
            .enumerate()
            .zip(answers.len()..)
            .map(|((place, (subject, _)), line)| lines.get(line)?.answer(subject, first_index + place))
            .collect();
        let Some(of_piece) = of_piece else { break };
        answers.extend(of_piece);
    }
    answers
}

/// Writes a value in lines of their own, two blanks deep, as the older projects do.
pub(super) fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value).map_err(std::io::Error::from)?;
    text.push(b'\n');
    Ok(write_file_atomically(path, &text)?)
}
