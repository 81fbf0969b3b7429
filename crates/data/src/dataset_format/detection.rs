//! Which layout the rows of a file have, by the columns of its first row.

use serde_json::Value;

use super::conversations::ConversationLayout;
use super::documents::DocumentLayout;
use super::fields::{Fields, Result, is_truth, present};
use super::messages::Tags;
use super::preferences::PairLayout;
use super::{Layout, Purpose, transcripts};
use crate::error::{RowProblem, nearest};
use crate::options::Columns;
use crate::records::Content;

/// Usual names of prompt, query and response, in the order in which they are tried.
const TURN_COLUMNS: [(&str, Option<&str>, &str); 11] = [
    ("instruction", Some("input"), "output"),
    ("instruct", Some("query"), "answer"),
    ("prompt", None, "answer"),
    ("prompt", None, "response"),
    ("prompt", None, "completion"),
    ("question", None, "answer"),
    ("question", None, "response"),
    ("query", None, "response"),
    ("instruction", Some("input"), "response"),
    ("input", None, "target"),
    ("input", None, "output"),
];
const MESSAGE_COLUMNS: [&str; 3] = ["messages", "conversations", "conversation"];
const DIALOGUE_COLUMNS: [&str; 2] = ["dialogue", "dialog"];
/// The wanted and the unwanted answer of DPO and its relatives.
const PAIR_COLUMNS: [[&str; 2]; 3] =
    [["chosen", "rejected"], ["chosen_messages", "rejected_messages"], ["answer_zh", "answer_en"]];
/// Whether the answer is wanted, in KTO.
const VERDICT_COLUMNS: [&str; 2] = ["label", "kto_tag"];
const EXPECTED_COLUMNS: &str = "`instruction` and `output`, `prompt` and `answer`, \
                                `instruct`, `query` and `answer`, or `messages`";

const EXPECTED_PAIR: &str = "`chosen` and `rejected`, the two answers of a preference pair";
const EXPECTED_VERDICT: &str =
    "`label` or `kto_tag` (true or false) beside the conversation, or `chosen` and `rejected`";

impl Layout {
    /// Finds the layout of a file by the columns of a row; `columns` and `tags` go before the usual names.
    ///
    /// # Errors
    /// Columns that are not known, or that the purpose has no use for.
    pub fn detect(content: &Content, purpose: Purpose, columns: &Columns, tags: &Tags) -> Result<Self> {
        let fields = match (content, purpose) {
            (Content::Fields(fields), _) => fields,
            (Content::Text(_), Purpose::Conversation | Purpose::Preference | Purpose::Judged) => {
                return Err(RowProblem::PlainText);
            }
            (Content::Text(_), _) => return Ok(Self::Document(DocumentLayout::detect(None, columns))),
        };
        let document = || Self::Document(DocumentLayout::detect(Some(fields), columns));
        if purpose == Purpose::Pretraining {
            return Ok(document());
        }
        let pair = pair(fields, columns);
        let verdict = verdict(fields, columns);
        if purpose == Purpose::Conversation {
            if let Some([chosen, rejected]) = pair {
                return Err(RowProblem::PreferencePair { chosen, rejected });
            }
            if let Some(field) = verdict {
                return Err(RowProblem::JudgedAnswer { field });
            }
            let found = conversation(fields, columns, tags);
            return found.map(Self::Conversation).ok_or_else(|| unknown_columns(fields));
        }
        let expected = match purpose {
            Purpose::Preference if pair.is_none() => Some(EXPECTED_PAIR),
            Purpose::Judged if pair.is_none() && verdict.is_none() => Some(EXPECTED_VERDICT),
            _ => None,
        };
        if let Some(expected) = expected {
            let available = fields.keys().cloned().collect();
            return Err(RowProblem::UnknownColumns { available, expected, nearest: None });
        }
        if let Some([chosen, rejected]) = pair {
            let prompt = prompt(fields, columns, tags);
            let system = optional(&columns.system, "system");
            let layout = PairLayout { prompt, chosen, rejected, system, tags: tags.clone() };
            return Ok(Self::Pair(Box::new(layout)));
        }
        let is_corpus = columns.text.is_some()
            || columns.response.is_none() && columns.prompt.as_ref().is_some_and(|_| !has_response(fields));
        let conversational = match purpose {
            Purpose::Question => Self::Prompt,
            _ => Self::Conversation,
        };
        match (conversation(fields, columns, tags), verdict) {
            (Some(conversation), Some(verdict)) => Ok(Self::Judged { conversation, verdict }),
            _ if purpose == Purpose::Judged => Err(unknown_columns(fields)),
            (Some(ConversationLayout::Transcript { column }), None) => {
                Ok(conversational(ConversationLayout::Transcript { column }))
            }
            (Some(conversation), None) if !is_corpus => Ok(conversational(conversation)),
            _ if is_corpus || DocumentLayout::known(fields).is_some() => Ok(document()),
            _ => {
                let mut prompt = prompt(fields, columns, tags).ok_or_else(|| unknown_columns(fields))?;
                if purpose == Purpose::Question {
                    prompt.expect_answers();
                }
                Ok(Self::Prompt(prompt))
            }
        }
    }

    /// Whether the rows are documents for pretraining, rather than something to answer.
    pub fn is_document(&self) -> bool {
        matches!(self, Self::Document(_))
    }
}

/// Refuses rows of preference learning, whose answers are not all to be imitated, unless the layout names the column
/// that would tell.
pub(super) fn refuse_preferences(layout: &ConversationLayout, fields: &Fields) -> Result<()> {
    let named = layout.columns();
    let is_free = |name: &str| !named.contains(&name);
    if let Some([chosen, rejected]) = usual_pair(fields)
        && is_free(&chosen)
        && is_free(&rejected)
    {
        return Err(RowProblem::PreferencePair { chosen, rejected });
    }
    let is_verdict = |name: &&str| is_free(name) && fields.get(*name).is_some_and(is_truth);
    match VERDICT_COLUMNS.into_iter().find(is_verdict) {
        Some(field) => Err(RowProblem::JudgedAnswer { field: field.to_owned() }),
        None => Ok(()),
    }
}

fn usual_pair(fields: &Fields) -> Option<[String; 2]> {
    let is_there = |names: &[&str; 2]| names.iter().all(|name| present(fields, name).is_some());
    PAIR_COLUMNS.into_iter().find(is_there).map(|names| names.map(str::to_owned))
}

/// The columns of a pair, unless one of them is named as something else.
fn pair(fields: &Fields, columns: &Columns) -> Option<[String; 2]> {
    if columns.chosen.is_some() || columns.rejected.is_some() {
        let name = |given: &Option<String>, usual: &str| given.clone().unwrap_or_else(|| usual.to_owned());
        return Some([name(&columns.chosen, "chosen"), name(&columns.rejected, "rejected")]);
    }
    usual_pair(fields).filter(|pair| !pair.iter().any(|name| is_named(columns, name)))
}

fn verdict(fields: &Fields, columns: &Columns) -> Option<String> {
    let is_verdict = |name: &&str| !is_named(columns, name) && fields.get(*name).is_some_and(is_truth);
    columns.kto_tag.clone().or_else(|| VERDICT_COLUMNS.into_iter().find(is_verdict).map(str::to_owned))
}

fn is_named(columns: &Columns, name: &str) -> bool {
    let Columns { prompt, query, response, history, system, messages, .. } = columns;
    [prompt, query, response, history, system, messages].into_iter().flatten().any(|named| named == name)
}

/// A column that rows may have: looked up in every row, for the first of a file may lack what later ones have.
fn optional(given: &Option<String>, usual: &str) -> Option<String> {
    Some(given.clone().unwrap_or_else(|| usual.to_owned()))
}

fn has_response(fields: &Fields) -> bool {
    TURN_COLUMNS.iter().any(|(.., response)| fields.contains_key(*response))
}

fn conversation(fields: &Fields, columns: &Columns, tags: &Tags) -> Option<ConversationLayout> {
    let is_transcript =
        |name: &str| present(fields, name).and_then(Value::as_str).is_some_and(transcripts::is_transcript);
    if columns.messages.is_some() {
        return messages(fields, columns, tags);
    }
    if let Some([column]) = columns.text.as_ref().map(|names| names.names()) {
        return is_transcript(column).then(|| ConversationLayout::Transcript { column: column.clone() });
    }
    turns(fields, columns).or_else(|| messages(fields, columns, tags)).or_else(|| {
        if ["original_text", "equation", "ans"].iter().all(|name| fields.contains_key(*name)) {
            return Some(ConversationLayout::Math23k);
        }
        is_transcript("text").then(|| ConversationLayout::Transcript { column: "text".to_owned() })
    })
}

impl ConversationLayout {
    /// Rows behind one without an answer may have theirs, in the usual column.
    fn expect_answers(&mut self) {
        if let Self::Turns { prompt, response: response @ None, .. } = self {
            *response = TURN_COLUMNS.iter().find(|known| known.0 == prompt).map(|known| known.2.to_owned());
        }
    }
}

fn turns(fields: &Fields, columns: &Columns) -> Option<ConversationLayout> {
    let has = |given: &Option<String>, usual: &str| match given {
        Some(name) => name == usual,
        None => fields.contains_key(usual),
    };
    let usual = TURN_COLUMNS
        .iter()
        .find(|(prompt, _, response)| has(&columns.prompt, prompt) && has(&columns.response, response));
    let (prompt, query, response) = match (usual, &columns.prompt, &columns.response) {
        (Some((prompt, query, response)), ..) => (*prompt, *query, *response),
        (None, Some(prompt), Some(response)) => (prompt.as_str(), None, response.as_str()),
        (None, Some(prompt), None) => {
            let response = TURN_COLUMNS.iter().map(|known| known.2).find(|name| fields.contains_key(*name));
            (prompt.as_str(), None, response.unwrap_or("output"))
        }
        (None, None, Some(response)) => {
            let prompt = TURN_COLUMNS.iter().map(|known| known.0).find(|name| fields.contains_key(*name));
            (prompt.unwrap_or("instruction"), None, response.as_str())
        }
        (None, None, None) => return None,
    };
    Some(question(prompt, query, Some(response), columns))
}

fn question(
    prompt: &str,
    query: Option<&str>,
    response: Option<&str>,
    columns: &Columns,
) -> ConversationLayout {
    ConversationLayout::Turns {
        prompt: prompt.to_owned(),
        query: columns.query.clone().or_else(|| query.map(str::to_owned)),
        separator: "\n",
        response: response.map(str::to_owned),
        history: optional(&columns.history, "history"),
        system: optional(&columns.system, "system"),
        tools: optional(&columns.tools, "tools"),
    }
}

fn messages(fields: &Fields, columns: &Columns, tags: &Tags) -> Option<ConversationLayout> {
    let is_dialogue = |name: &&str| {
        let texts = fields.get(*name).and_then(Value::as_array);
        texts.is_some_and(|texts| !texts.is_empty() && texts.iter().all(Value::is_string))
    };
    let named = columns.messages.as_deref();
    if let Some(column) = named.into_iter().chain(DIALOGUE_COLUMNS).find(is_dialogue) {
        return Some(ConversationLayout::Dialogue { column: column.to_owned() });
    }
    let column = named.or_else(|| MESSAGE_COLUMNS.into_iter().find(|name| fields.contains_key(*name)))?;
    Some(ConversationLayout::Messages {
        column: column.to_owned(),
        system: optional(&columns.system, "system"),
        tools: optional(&columns.tools, "tools"),
        tags: tags.clone(),
    })
}

/// The columns that ask, without those that answer.
fn prompt(fields: &Fields, columns: &Columns, tags: &Tags) -> Option<ConversationLayout> {
    if let Some(prompt) = &columns.prompt {
        let query = TURN_COLUMNS.iter().find(|known| known.0 == prompt).and_then(|known| known.1);
        return Some(question(prompt, query, None, columns));
    }
    messages(fields, columns, tags).or_else(|| {
        let known = TURN_COLUMNS.iter().find(|(prompt, ..)| fields.contains_key(*prompt))?;
        Some(question(known.0, known.1, None, columns))
    })
}

fn unknown_columns(fields: &Fields) -> RowProblem {
    let known: Vec<String> = TURN_COLUMNS
        .iter()
        .flat_map(|(prompt, _, response)| [*prompt, *response])
        .chain(MESSAGE_COLUMNS)
        .map(str::to_owned)
        .collect();
    let available: Vec<String> = fields.keys().cloned().collect();
    let nearest = available
        .iter()
        .filter(|name| !known.contains(name))
        .find_map(|name| nearest(name, &known).map(|known| (name.clone(), known.clone())));
    RowProblem::UnknownColumns { available, expected: EXPECTED_COLUMNS, nearest }
}
