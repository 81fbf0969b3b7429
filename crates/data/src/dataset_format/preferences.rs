//! Columns → two answers to one prompt, in the forms of LLaMA-Factory, TRL (also with the prompt inside of both),
//! MiniMind, and `question`, `answer_zh`, `answer_en`.

use danlu_tokenizer::Message;
use serde_json::Value;

use super::PreferencePair;
use super::conversations::{ConversationLayout, add_system};
use super::fields::{Fields, Result, missing, optional_text, required};
use super::messages::{Tags, Turn, Turns, answer};
use super::transcripts;
use crate::error::RowProblem;

/// How the columns of a row make a pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairLayout {
    /// What is asked; none where both answers are whole conversations.
    pub prompt: Option<ConversationLayout>,
    /// The wanted answer: text, a message, or messages.
    pub chosen: String,
    /// The unwanted answer.
    pub rejected: String,
    /// The system message.
    pub system: Option<String>,
    /// Names inside the messages.
    pub tags: Tags,
}

impl PairLayout {
    pub(super) fn read(&self, fields: &Fields, default_system: Option<&str>) -> Result<PreferencePair> {
        let asked = match &self.prompt {
            Some(layout) => Some(layout.turns(fields, true)?),
            None => None,
        };
        let chosen = self.answer(fields, &self.chosen)?;
        let rejected = self.answer(fields, &self.rejected)?;
        let tools = if chosen.tools.is_empty() { rejected.tools } else { chosen.tools };
        let (mut chosen, mut rejected) = (chosen.turns, rejected.turns);
        for (column, turns) in [(&self.chosen, &chosen), (&self.rejected, &rejected)] {
            if turns.is_empty() {
                return Err(RowProblem::NoPairAnswer { column: column.clone() });
            }
        }
        let (mut prompt, tools) = match asked {
            _ if begins(&chosen) && begins(&rejected) => {
                (split_off_prompt(&mut chosen, &mut rejected), tools)
            }
            Some(asked) if !begins(&chosen) && !begins(&rejected) => {
                (asked.turns, [asked.tools, tools].concat())
            }
            Some(_) => return Err(self.different_prompts()),
            None => return Err(missing(fields, "prompt")),
        };
        let is_answer = |turns: &[Turn]| turns.first().is_some_and(|(turn, _)| turn.role == "assistant");
        if !is_answer(&chosen) || !is_answer(&rejected) {
            return Err(self.different_prompts());
        }
        add_system(&mut prompt, optional_text(fields, &self.system)?, default_system);
        let messages =
            |turns: Vec<Turn>| -> Vec<Message> { turns.into_iter().map(|(turn, _)| turn).collect() };
        Ok(PreferencePair {
            prompt: messages(prompt),
            chosen: messages(chosen),
            rejected: messages(rejected),
            tools,
            loss_weight: 1.0,
        })
    }

    fn answer(&self, fields: &Fields, column: &str) -> Result<Turns> {
        let value = required(fields, column)?;
        match (value, &self.prompt) {
            (Value::String(text), None) if transcripts::is_transcript(text) => {
                Ok(Turns { turns: transcripts::turns(text, column)?, tools: Vec::new() })
            }
            _ => answer(value, column, &self.tags),
        }
    }

    fn different_prompts(&self) -> RowProblem {
        RowProblem::DifferentPrompts { chosen: self.chosen.clone(), rejected: self.rejected.clone() }
    }
}

/// Whether turns are a whole conversation rather than an answer.
fn begins(turns: &[Turn]) -> bool {
    turns.first().is_some_and(|(turn, _)| turn.role == "system" || turn.role == "user")
}

/// Takes from two conversations what they begin with in common; the last message of each stays.
fn split_off_prompt(chosen: &mut Vec<Turn>, rejected: &mut Vec<Turn>) -> Vec<Turn> {
    let most = chosen.len().min(rejected.len()) - 1;
    let common = chosen.iter().zip(rejected.iter()).take_while(|(one, other)| one.0 == other.0).count();
    // An answer that is the same in both may be followed by calls that differ, so it is no prompt's end.
    let mut length = common.min(most);
    while length > 0 && chosen[length - 1].0.role == "assistant" {
        length -= 1;
    }
    rejected.drain(..length);
    chosen.drain(..length).collect()
}
