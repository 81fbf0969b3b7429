//! Answers of a batch that is not finished: `OUT.partial` has a line for what decides them, and one for each answer. It is
//! removed when all answers stand in `OUT`.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;
use fs_err as fs;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::failure::wrong_input;

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
struct Line {
    row: usize,
    #[serde(flatten)]
    answer: Answer,
}

/// The file of a batch.
pub struct Kept {
    path: PathBuf,
    file: fs::File,
    /// What is answered, in the order of the prompts.
    pub answers: Vec<Option<Answer>>,
}

impl Kept {
    /// Begins the file beside `out`, or goes on with one of the same settings.
    ///
    /// # Errors
    /// A file of other settings, a place that cannot be read or written.
    pub fn open(out: &Path, settings: &Value, prompts: &[&str]) -> Result<Self> {
        let mut path = out.as_os_str().to_owned();
        path.push(".partial");
        let path = PathBuf::from(path);
        let mut answers = vec![None; prompts.len()];
        let mut bytes = 0;
        if path.is_file() {
            let text = fs::read(&path)?;
            let mut lines = text.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n"));
            if let Some(first) = lines.next() {
                if serde_json::from_slice::<Value>(first).ok().as_ref() != Some(settings) {
                    return Err(wrong_input(format!(
                        "`{}` holds answers of another model or other options: remove it, or choose another `--out`",
                        path.display()
                    )));
                }
                bytes = first.len();
            }
            for line in lines {
                let Ok(Line { row, answer }) = serde_json::from_slice(line) else { break };
                if prompts.get(row).is_some_and(|prompt| *prompt == answer.input) {
                    answers[row] = Some(answer);
                }
                bytes += line.len();
            }
        }
        let file = fs::File::options().create(true).append(true).open(&path)?;
        file.set_len(bytes as u64)?;
        let mut kept = Self { path, file, answers };
        if bytes == 0 {
            kept.write(settings)?;
        }
        Ok(kept)
    }

    /// Keeps an answer.
    ///
    /// # Errors
    /// A place that cannot be written.
    pub fn keep(&mut self, row: usize, answer: Answer) -> Result<()> {
        self.write(&serde_json::to_value(Line { row, answer: answer.clone() })?)?;
        self.answers[row] = Some(answer);
        Ok(())
    }

    /// Removes the file.
    ///
    /// # Errors
    /// A place that cannot be written.
    pub fn remove(self) -> Result<()> {
        match fs::remove_file(&self.path) {
            // Another run of the same command was faster.
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn write(&mut self, line: &Value) -> Result<()> {
        // One write, straight to the system, which keeps it when this program is killed.
        Ok(self.file.write_all(format!("{line}\n").as_bytes())?)
    }
}
