//! Columns → turns: question and answer with history, lists of messages, transcripts, dialogues, Math23K.

use serde_json::Value;

use super::Conversation;
use super::fields::{Fields, Result, optional_text, present, required, text, wrong_type};
use super::messages::{self, Tags, Turn, Turns, message};
use super::transcripts;
use crate::error::RowProblem;

/// How the columns of a row make turns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConversationLayout {
    /// One question and answer a row, with earlier turns in `history`.
    Turns {
        /// What the user asks; or messages before the answer.
        prompt: String,
        /// Added to the prompt when not empty.
        query: Option<String>,
        /// Between prompt and query: a newline, except in the older projects.
        separator: &'static str,
        /// The answer; none of a mere prompt.
        response: Option<String>,
        /// Pairs of earlier questions and answers.
        history: Option<String>,
        /// The system message.
        system: Option<String>,
        /// The functions that the assistant may call.
        tools: Option<String>,
    },
    /// A list of messages.
    Messages {
        /// The column of the list.
        column: String,
        /// The system message, where it is not in the list.
        system: Option<String>,
        /// The functions that the assistant may call.
        tools: Option<String>,
        /// Names inside the messages.
        tags: Tags,
    },
    /// Several turns in one text (`<s>Human: …\n</s><s>Assistant: …`).
    Transcript {
        /// The column of the text.
        column: String,
    },
    /// A list of utterances, by two who take turns (LCCC).
    Dialogue {
        /// The column of the list.
        column: String,
    },
    /// `original_text`, `equation` and `ans` of a word problem.
    Math23k,
}

impl ConversationLayout {
    /// The columns that it reads.
    pub(super) fn columns(&self) -> Vec<&str> {
        match self {
            Self::Turns { prompt, query, response, history, system, .. } => {
                let optional = [query, response, history, system].into_iter().flatten();
                [prompt].into_iter().chain(optional).map(String::as_str).collect()
            }
            Self::Messages { column, system, .. } => {
                [column.as_str()].into_iter().chain(system.as_deref()).collect()
            }
            Self::Transcript { column } | Self::Dialogue { column } => vec![column],
            Self::Math23k => vec!["original_text", "equation", "ans"],
        }
    }

    /// Reads the turns; with `needs_answer` they end with the last answer.
    pub(super) fn read(
        &self,
        fields: &Fields,
        default_system: Option<&str>,
        needs_answer: bool,
    ) -> Result<Conversation> {
        let Turns { mut turns, tools } = self.turns(fields, needs_answer)?;
        if needs_answer {
            let is_answer = |(turn, _): &Turn| turn.role == "assistant";
            let last_answer = turns.iter().rposition(is_answer).ok_or(RowProblem::NoAnswer)?;
            turns.truncate(last_answer + 1);
        }
        let system = match self {
            Self::Turns { system, .. } | Self::Messages { system, .. } => optional_text(fields, system)?,
            _ => String::new(),
        };
        add_system(&mut turns, system, default_system);
        let (messages, loss_weights) = turns.into_iter().unzip();
        Ok(Conversation { messages, loss_weights, tools })
    }

    /// The turns; one whose answer is in a column of its own may lack it, unless it `needs_answer`.
    pub(super) fn turns(&self, fields: &Fields, needs_answer: bool) -> Result<Turns> {
        match self {
            Self::Turns { response, history, tools, .. } => {
                let mut turns = Turns { turns: Vec::new(), tools: functions(fields, tools)? };
                if let Some((name, value)) =
                    history.as_ref().and_then(|name| Some((name, present(fields, name)?)))
                {
                    turns.turns = earlier_turns(value, name)?;
                }
                let asked = self.question(fields)?;
                turns.turns.extend(asked.turns);
                turns.tools.extend(asked.tools);
                let is_answered = |name: &&String| needs_answer || present(fields, name).is_some();
                if let Some(response) = response.as_ref().filter(is_answered) {
                    let answer = messages::answer(required(fields, response)?, response, &Tags::default())?;
                    turns.turns.extend(answer.turns);
                }
                Ok(turns)
            }
            Self::Messages { column, tools, tags, .. } => {
                let turns = messages::messages(required(fields, column)?, column, tags)?;
                Ok(Turns { tools: [functions(fields, tools)?, turns.tools].concat(), turns: turns.turns })
            }
            Self::Transcript { column } => {
                let transcript = text(required(fields, column)?, column)?;
                Ok(Turns { turns: transcripts::turns(&transcript, column)?, tools: Vec::new() })
            }
            Self::Dialogue { column } => dialogue(required(fields, column)?, column),
            Self::Math23k => {
                let part = |name: &str| text(required(fields, name)?, name);
                let [problem, equation, answer] = [part("original_text")?, part("equation")?, part("ans")?];
                let solution = format!("根据方程式{equation}解得:\n{answer}");
                Ok(Turns {
                    turns: vec![message("user", problem), message("assistant", solution)],
                    tools: Vec::new(),
                })
            }
        }
    }

    /// What is asked: the prompt's text with the query behind it, or messages, none of which is learned.
    fn question(&self, fields: &Fields) -> Result<Turns> {
        let Self::Turns { prompt, query, separator, .. } = self else { return Ok(Turns::default()) };
        let value = required(fields, prompt)?;
        if value.as_array().is_some_and(|items| items.iter().all(Value::is_object)) {
            let mut turns = messages::messages(value, prompt, &Tags::default())?;
            turns.turns.iter_mut().for_each(|(_, weight)| *weight = 0.0);
            return Ok(turns);
        }
        let mut question = text(value, prompt)?;
        let query = optional_text(fields, query)?;
        if !query.is_empty() {
            if !question.is_empty() {
                question.push_str(separator);
            }
            question.push_str(&query);
        }
        Ok(Turns { turns: vec![message("user", question)], tools: Vec::new() })
    }
}

/// Puts the system message first, where the turns have none.
pub(super) fn add_system(turns: &mut Vec<Turn>, system: String, default_system: Option<&str>) {
    if turns.first().is_some_and(|(turn, _)| turn.role == "system") {
        return;
    }
    let system = if system.is_empty() { default_system.unwrap_or_default().to_owned() } else { system };
    if !system.is_empty() {
        turns.insert(0, message("system", system));
    }
}

pub(super) fn functions(fields: &Fields, column: &Option<String>) -> Result<Vec<Value>> {
    match column.as_ref().and_then(|name| Some((name, present(fields, name)?))) {
        Some((name, value)) => messages::tools(value, name),
        None => Ok(Vec::new()),
    }
}

fn earlier_turns(value: &Value, field: &str) -> Result<Vec<Turn>> {
    const EXPECTED: &str = "a list of pairs of question and answer";
    // An empty cell of a table.
    if value.as_str().is_some_and(str::is_empty) {
        return Ok(Vec::new());
    }
    let pairs = value.as_array().ok_or_else(|| wrong_type(field, EXPECTED, value))?;
    let mut turns = Vec::with_capacity(2 * pairs.len());
    for (index, pair) in pairs.iter().enumerate() {
        let Some([question, answer]) = pair.as_array().map(Vec::as_slice) else {
            return Err(wrong_type(&format!("{field}[{index}]"), EXPECTED, pair));
        };
        turns.push(message("user", text(question, &format!("{field}[{index}][0]"))?));
        turns.push(message("assistant", text(answer, &format!("{field}[{index}][1]"))?));
    }
    Ok(turns)
}

fn dialogue(value: &Value, field: &str) -> Result<Turns> {
    let utterances = value.as_array().ok_or_else(|| wrong_type(field, "a list of utterances", value))?;
    let turn = |(index, utterance): (usize, &Value)| {
        let role = if index % 2 == 0 { "user" } else { "assistant" };
        Ok(message(role, text(utterance, &format!("{field}[{index}]"))?))
    };
    Ok(Turns { turns: utterances.iter().enumerate().map(turn).collect::<Result<_>>()?, tools: Vec::new() })
}
