//! What the columns of a row mean: a record becomes a document for pretraining or a conversation for fine-tuning.
//!
//! The layout is found by the usual column names of the first row of a file, or given by `columns`. Known are
//! `text`; alpaca (`instruction`, `input`, `output`, `history`, `system`); `prompt`/`answer` and its relatives;
//! `instruct`/`query`/`answer`; messages with `role`/`content` or `from`/`value`. It knows no templates or tokens.

use danlu_tokenizer::Message;
use serde_json::{Map, Value};

use crate::error::{RowProblem, nearest};
use crate::options::Columns;
use crate::records::{Content, kind_of};

type Fields = Map<String, Value>;
type Result<T> = std::result::Result<T, RowProblem>;

/// What rows are read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Documents (`stage: pt`).
    Pretraining,
    /// Conversations (`stage: sft`).
    Conversation,
}

/// A conversation: an optional system message, then turns of user and assistant, ending with an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Conversation {
    /// The messages in order; roles are `system`, `user` and `assistant`.
    pub messages: Vec<Message>,
    /// For each message the weight of the loss on its tokens: 0 unless it is an answer, 1 for an answer whose
    /// `loss_weight` says nothing else.
    pub loss_weights: Vec<f32>,
}

/// A row whose columns are understood.
#[derive(Debug, Clone, PartialEq)]
pub enum Row {
    /// Text for pretraining.
    Document(String),
    /// Turns for fine-tuning.
    Conversation(Conversation),
}

/// Names inside the objects of a message list (`tags` of `dataset_info.json`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tags {
    /// Key of the role; where absent, `role` or `from`, as the message has it.
    pub role: Option<String>,
    /// Key of the text; where absent, `content` or `value`.
    pub content: Option<String>,
    /// A further name of the role `user`.
    pub user: Option<String>,
    /// A further name of the role `assistant`.
    pub assistant: Option<String>,
    /// A further name of the role `system`.
    pub system: Option<String>,
}

/// Which columns of a file hold what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// Texts of these columns, joined by newlines.
    Document {
        /// The columns in order.
        columns: Vec<String>,
    },
    /// One question and answer a row, with earlier turns in `history`.
    Turns {
        /// What the user asks.
        prompt: String,
        /// Added to the prompt on a new line when not empty.
        query: Option<String>,
        /// The answer.
        response: String,
        /// Pairs of earlier questions and answers.
        history: Option<String>,
        /// The system message.
        system: Option<String>,
    },
    /// A list of messages.
    Messages {
        /// The column of the list.
        column: String,
        /// The system message, where it is not in the list.
        system: Option<String>,
        /// Names inside the messages.
        tags: Tags,
    },
}

/// Usual names of prompt, query and response, in the order in which they are tried.
const TURN_COLUMNS: [(&str, Option<&str>, &str); 7] = [
    ("instruction", Some("input"), "output"),
    ("instruct", Some("query"), "answer"),
    ("prompt", None, "answer"),
    ("prompt", None, "response"),
    ("prompt", None, "completion"),
    ("question", None, "answer"),
    ("query", None, "response"),
];
const MESSAGE_COLUMNS: [&str; 2] = ["messages", "conversations"];
/// The wanted and the unwanted answer of DPO and its relatives.
const PAIR_COLUMNS: [&str; 2] = ["chosen", "rejected"];
/// Whether the answer is wanted, in KTO.
const VERDICT_COLUMNS: [&str; 2] = ["label", "kto_tag"];
const EXPECTED_COLUMNS: &str = "`instruction` and `output`, `prompt` and `answer`, \
                                `instruct`, `query` and `answer`, or `messages`";

impl Layout {
    /// Finds the layout of a file by the columns of a row; `columns` and `tags` go before the usual names.
    pub fn detect(content: &Content, purpose: Purpose, columns: &Columns, tags: &Tags) -> Result<Self> {
        if purpose == Purpose::Pretraining {
            let columns = match (&columns.text, &columns.prompt) {
                (Some(names), _) => names.names().to_vec(),
                // `dataset_info.json` calls the text of a corpus `prompt`.
                (None, Some(prompt)) => vec![prompt.clone()],
                (None, None) => vec!["text".to_owned()],
            };
            return Ok(Self::Document { columns });
        }
        let Content::Fields(fields) = content else { return Err(RowProblem::PlainText) };
        // Looked up in every row: the first row of a file may lack what later ones have.
        let optional =
            |given: &Option<String>, usual: &str| Some(given.clone().unwrap_or_else(|| usual.to_owned()));
        if let Some(column) = &columns.messages {
            let system = optional(&columns.system, "system");
            return Ok(Self::Messages { column: column.clone(), system, tags: tags.clone() });
        }
        let has = |given: &Option<String>, usual: &str| match given {
            Some(name) => name == usual,
            None => fields.contains_key(usual),
        };
        let usual = TURN_COLUMNS
            .iter()
            .find(|(prompt, _, response)| has(&columns.prompt, prompt) && has(&columns.response, response));
        let turns = match (usual, &columns.prompt, &columns.response) {
            (Some((prompt, query, response)), ..) => Some((*prompt, *query, *response)),
            (None, Some(prompt), Some(response)) => Some((prompt.as_str(), None, response.as_str())),
            (None, Some(prompt), None) => {
                let response =
                    TURN_COLUMNS.iter().map(|known| known.2).find(|name| fields.contains_key(*name));
                Some((prompt.as_str(), None, response.unwrap_or("output")))
            }
            (None, None, Some(response)) => {
                let prompt = TURN_COLUMNS.iter().map(|known| known.0).find(|name| fields.contains_key(*name));
                Some((prompt.unwrap_or("instruction"), None, response.as_str()))
            }
            (None, None, None) => None,
        };
        if let Some((prompt, query, response)) = turns {
            return Ok(Self::Turns {
                prompt: prompt.to_owned(),
                query: columns.query.clone().or_else(|| query.map(str::to_owned)),
                response: response.to_owned(),
                history: optional(&columns.history, "history"),
                system: optional(&columns.system, "system"),
            });
        }
        if let Some(column) = MESSAGE_COLUMNS.into_iter().find(|name| fields.contains_key(*name)) {
            let system = optional(&columns.system, "system");
            return Ok(Self::Messages { column: column.to_owned(), system, tags: tags.clone() });
        }
        if is_preference_pair(fields) {
            return Err(RowProblem::PreferencePair);
        }
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
        Err(RowProblem::UnknownColumns { available, expected: EXPECTED_COLUMNS, nearest })
    }

    /// Reads a row. A conversation ends with its last answer: what follows it could not be learned.
    pub fn read(&self, content: Content, default_system: Option<&str>) -> Result<Row> {
        let fields = match content {
            Content::Text(text) if matches!(self, Self::Document { .. }) => return Ok(Row::Document(text)),
            Content::Text(_) => return Err(RowProblem::PlainText),
            Content::Fields(fields) => fields,
        };
        self.refuse_preferences(&fields)?;
        let (system, mut turns) = match self {
            Self::Document { columns } => return document(&fields, columns).map(Row::Document),
            Self::Turns { prompt, query, response, history, system } => {
                let mut turns = match history.as_ref().and_then(|name| Some((name, fields.get(name)?))) {
                    Some((name, value)) => earlier_turns(value, name)?,
                    None => Vec::new(),
                };
                let mut question = text(required(&fields, prompt)?, prompt)?;
                let query = optional_text(&fields, query)?;
                if !query.is_empty() {
                    if !question.is_empty() {
                        question.push('\n');
                    }
                    question.push_str(&query);
                }
                turns.push(message("user", question));
                turns.push(message("assistant", text(required(&fields, response)?, response)?));
                (optional_text(&fields, system)?, turns)
            }
            Self::Messages { column, system, tags } => {
                (optional_text(&fields, system)?, messages(required(&fields, column)?, column, tags)?)
            }
        };
        let last_answer =
            turns.iter().rposition(|(turn, _)| turn.role == "assistant").ok_or(RowProblem::NoAnswer)?;
        turns.truncate(last_answer + 1);
        if turns[0].0.role != "system" {
            let system =
                if system.is_empty() { default_system.unwrap_or_default().to_owned() } else { system };
            if !system.is_empty() {
                turns.insert(0, message("system", system));
            }
        }
        let (messages, loss_weights) = turns.into_iter().unzip();
        Ok(Row::Conversation(Conversation { messages, loss_weights }))
    }

    /// Refuses rows of preference learning, whose answers are not all to be imitated, unless `columns` names the
    /// column that would tell.
    fn refuse_preferences(&self, fields: &Fields) -> Result<()> {
        let named: Vec<&String> = match self {
            Self::Document { .. } => return Ok(()),
            Self::Turns { prompt, query, response, history, system } => {
                let optional = [query, history, system].into_iter().flatten();
                [prompt, response].into_iter().chain(optional).collect()
            }
            Self::Messages { column, system, .. } => [column].into_iter().chain(system).collect(),
        };
        let is_named = |name: &str| named.iter().any(|named| *named == name);
        if is_preference_pair(fields) && !PAIR_COLUMNS.into_iter().any(is_named) {
            return Err(RowProblem::PreferencePair);
        }
        let is_verdict = |name: &&str| !is_named(name) && fields.get(*name).is_some_and(is_boolean);
        match VERDICT_COLUMNS.into_iter().find(is_verdict) {
            Some(field) => Err(RowProblem::JudgedAnswer { field }),
            None => Ok(()),
        }
    }
}

fn is_preference_pair(fields: &Fields) -> bool {
    PAIR_COLUMNS.iter().all(|name| fields.get(*name).is_some_and(|value| !value.is_null()))
}

/// Whether a value is true or false; CSV has them as text.
fn is_boolean(value: &Value) -> bool {
    let is_word = |text: &str| ["true", "false"].iter().any(|word| text.eq_ignore_ascii_case(word));
    value.is_boolean() || value.as_str().is_some_and(is_word)
}

/// A message and the usual weight of its loss.
type Turn = (Message, f32);

fn message(role: &str, content: String) -> Turn {
    (Message::new(role, content), if role == "assistant" { 1.0 } else { 0.0 })
}

fn required<'a>(fields: &'a Fields, column: &str) -> Result<&'a Value> {
    fields.get(column).ok_or_else(|| {
        let available: Vec<String> = fields.keys().cloned().collect();
        let nearest = nearest(column, &available).cloned();
        RowProblem::MissingColumn { column: column.to_owned(), available, nearest }
    })
}

fn wrong_type(field: &str, expected: &'static str, found: &Value) -> RowProblem {
    RowProblem::WrongType { field: field.to_owned(), expected, found: kind_of(found) }
}

fn text(value: &Value, field: &str) -> Result<String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(_) | Value::Bool(_) => Ok(value.to_string()),
        _ => Err(wrong_type(field, "text", value)),
    }
}

/// The text of a column that a row may lack or leave null.
fn optional_text(fields: &Fields, column: &Option<String>) -> Result<String> {
    match column.as_ref().and_then(|name| Some((name, fields.get(name)?))) {
        Some((name, value)) if !value.is_null() => text(value, name),
        _ => Ok(String::new()),
    }
}

fn document(fields: &Fields, columns: &[String]) -> Result<String> {
    let present: Vec<&String> = columns.iter().filter(|name| fields.contains_key(*name)).collect();
    if present.is_empty() {
        required(fields, columns.first().map_or("text", String::as_str))?;
    }
    let mut lines = Vec::new();
    for name in present {
        match &fields[name] {
            Value::Null => {}
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    lines.push(text(item, &format!("{name}[{index}]"))?);
                }
            }
            value => lines.push(text(value, name)?),
        }
    }
    Ok(lines.join("\n"))
}

fn earlier_turns(value: &Value, field: &str) -> Result<Vec<Turn>> {
    const EXPECTED: &str = "a list of pairs of question and answer";
    let pairs = match value {
        Value::Array(pairs) => pairs,
        Value::Null => return Ok(Vec::new()),
        _ => return Err(wrong_type(field, EXPECTED, value)),
    };
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

fn messages(value: &Value, field: &str, tags: &Tags) -> Result<Vec<Turn>> {
    let items = value.as_array().ok_or_else(|| wrong_type(field, "a list of messages", value))?;
    items
        .iter()
        .enumerate()
        .map(|(index, item)| {
            let field = format!("{field}[{index}]");
            let item = item.as_object().ok_or_else(|| wrong_type(&field, "a message", item))?;
            let (role_key, role) = entry(item, &tags.role, ["role", "from"])?;
            let (content_key, content) = entry(item, &tags.content, ["content", "value"])?;
            let role_field = format!("{field}.{role_key}");
            let role = text(role, &role_field)?;
            let Some(known) = known_role(&role, tags) else {
                return Err(RowProblem::UnknownRole { field: role_field, role });
            };
            let (turn, usual) = message(known, message_text(content, &format!("{field}.{content_key}"))?);
            Ok((turn, usual * loss_weight(item, &field)?))
        })
        .collect()
}

/// The weight that a message may give to its loss.
fn loss_weight(item: &Fields, field: &str) -> Result<f32> {
    let value = match item.get("loss_weight") {
        None | Some(Value::Null) => return Ok(1.0),
        Some(value) => value,
    };
    let weight = value.as_f64().map(|weight| weight as f32);
    weight.filter(|weight| weight.is_finite() && *weight >= 0.0).ok_or_else(|| RowProblem::LossWeight {
        field: format!("{field}.loss_weight"),
        found: value.to_string(),
    })
}

/// The entry under the given key, or under the first usual one that is there.
fn entry<'a>(
    item: &'a Fields,
    given: &'a Option<String>,
    usual: [&'a str; 2],
) -> Result<(&'a str, &'a Value)> {
    let key = match given {
        Some(key) => key,
        None if item.contains_key(usual[0]) => usual[0],
        None if item.contains_key(usual[1]) => usual[1],
        None => usual[0],
    };
    Ok((key, required(item, key)?))
}

fn known_role(role: &str, tags: &Tags) -> Option<&'static str> {
    let is = |tag: &Option<String>| tag.as_deref() == Some(role);
    if is(&tags.user) {
        return Some("user");
    }
    if is(&tags.assistant) {
        return Some("assistant");
    }
    if is(&tags.system) {
        return Some("system");
    }
    match role {
        "user" | "human" => Some("user"),
        "assistant" | "gpt" => Some("assistant"),
        "system" => Some("system"),
        _ => None,
    }
}

/// The text of a message, or of its text parts (`[{"type": "text", "text": …}]`) one after another.
fn message_text(value: &Value, field: &str) -> Result<String> {
    let Value::Array(parts) = value else { return text(value, field) };
    let mut joined = String::new();
    for (index, part) in parts.iter().enumerate() {
        let part_text = match part.get("type").and_then(Value::as_str) {
            Some("text") => part.get("text").or_else(|| part.get("value")),
            _ => None,
        };
        let field = format!("{field}[{index}]");
        joined.push_str(&text(
            part_text.ok_or_else(|| wrong_type(&field, "a part of type `text`", part))?,
            &field,
        )?);
    }
    Ok(joined)
}
