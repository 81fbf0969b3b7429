//! Answers of a batch that is not finished: `OUT.partial` has a line for what decides them, and one for each answer. It is
//! removed when all answers stand in `OUT`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use danlu_eval::Error;
use danlu_eval::line_file::LineFile;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// An answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Answer {
    /// The prompt as the model saw it.
    pub input: String,
    /// What the model said.
    pub output: String,
    /// Whether it had more to say.
    pub ended_by_length: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Answer {
        row: usize,
        #[serde(flatten)]
        answer: Answer,
    },
    Settings(Value),
}

/// The file of a batch.
pub struct Kept {
    file: LineFile,
    /// What is answered, in the order of the prompts.
    pub answers: Vec<Option<Answer>>,
}

impl Kept {
    /// Begins the file beside `out`, or goes on with one of the same settings.
    ///
    /// # Errors
    /// A file of other settings, or that another run writes, a place that cannot be read or written.
    pub fn open(out: &Path, settings: &Value, prompts: &[&str]) -> Result<Self> {
        let mut path = out.as_os_str().to_owned();
        path.push(".partial");
        let path = PathBuf::from(path);
        let same_settings = |lines: &[Line]| match lines.first() {
            None => Ok(0),
            Some(Line::Settings(earlier)) if earlier == settings => Ok(lines.len()),
            Some(_) => {
                let problem =
                    "holds answers of another model or other options: remove it, or choose another `--out`"
                        .into();
                Err(Error::File { path: path.clone(), problem })
            }
        };
        let (mut file, lines) =
            LineFile::open(&path, "an answer that an earlier run has kept", same_settings)?;
        if lines.is_empty() {
            file.push(settings)?;
        }
        let mut answers = vec![None; prompts.len()];
        for line in lines {
            if let Line::Answer { row, answer } = line
                && prompts.get(row).is_some_and(|prompt| *prompt == answer.input)
            {
                answers[row] = Some(answer);
            }
        }
        Ok(Self { file, answers })
    }

    /// Keeps an answer.
    ///
    /// # Errors
    /// A place that cannot be written.
    pub fn keep(&mut self, row: usize, answer: Answer) -> Result<()> {
        self.file.push(&Line::Answer { row, answer: answer.clone() })?;
        self.answers[row] = Some(answer);
        Ok(())
    }

    /// Removes the file.
    ///
    /// # Errors
    /// A place that cannot be written.
    pub fn remove(self) -> Result<()> {
        Ok(self.file.remove()?)
    }
}
