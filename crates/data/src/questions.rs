//! Rows → what a model is asked, and the answer that a row may have to compare with. Knows no tokens.

use std::path::Path;

use danlu_tokenizer::Message;
use serde_json::Value;

use crate::dataset_format::{Conversation, Purpose, Row};
use crate::error::{DataError, Result, RowProblem};
use crate::options::DataOptions;
use crate::records::{Records, Source, TextUnit};
use crate::report::DatasetReport;
use crate::rows::Rows;

/// What a model is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// The conversation up to the answer: it ends with the user.
    pub messages: Vec<Message>,
    /// The tools that the assistant may call, as JSON schemas.
    pub tools: Vec<Value>,
    /// The answer of the row, if it has one that is wanted.
    pub reference: Option<String>,
    /// Where it stands.
    pub source: Source,
}

/// Reads the questions of a file or folder: a line of text each, or rows of any form that conversations have, with an answer
/// or without.
///
/// # Errors
/// A file that cannot be read, a row that is no question, and a file without any.
pub fn questions(path: &Path, limit: Option<usize>) -> Result<Vec<Question>> {
    let options = DataOptions {
        dataset: vec![path.display().to_string()],
        text_unit: TextUnit::Line,
        max_samples: limit,
        ..DataOptions::default()
    };
    // A name of no file is no data set either.
    drop(Records::open(path)?);
    let mut report = DatasetReport::default();
    let mut rows = Rows::open(&options, Purpose::Question, &options.dataset[0], &mut report.notices)?;
    let mut questions = Vec::new();
    while let Some((row, source)) = rows.next(&mut report)? {
        let (messages, tools, reference) = match row {
            Row::Document(text) => (vec![Message::new("user", text)], Vec::new(), None),
            Row::Prompt(conversation) | Row::Conversation(conversation) => before_the_answer(conversation),
            Row::Judged(judged) => {
                let (messages, tools, answer) = before_the_answer(judged.conversation);
                (messages, tools, answer.filter(|_| judged.is_wanted))
            }
            Row::Pair(pair) => {
                (pair.prompt, pair.tools, pair.chosen.into_iter().last().map(|answer| answer.content))
            }
        };
        if messages.last().is_none_or(|last| last.role != "user" && last.role != "tool") {
            return Err(DataError::Row { at: source, problem: RowProblem::NoQuestion });
        }
        let reference = reference.filter(|answer| !answer.trim().is_empty());
        questions.push(Question { messages, tools, reference, source });
    }
    Ok(questions)
}

fn before_the_answer(mut conversation: Conversation) -> (Vec<Message>, Vec<Value>, Option<String>) {
    let is_answer = conversation.messages.last().is_some_and(|last| last.role == "assistant");
    let reference = if is_answer { conversation.messages.pop() } else { None };
    (conversation.messages, conversation.tools, reference.map(|answer| answer.content))
}
