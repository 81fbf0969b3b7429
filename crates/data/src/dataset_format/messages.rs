//! A list of messages → turns: roles in all their spellings, text parts, weights of the loss, reasoning, tool calls.

use danlu_tokenizer::Message;
use serde_json::{Value, json};

use super::fields::{Fields, Result, get, present, shortened, text, wrong_type};
use crate::error::{RowProblem, nearest};

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
    /// A further name of the role that holds what a function returned.
    pub observation: Option<String>,
    /// A further name of the role that holds an assistant's call of a function.
    pub function: Option<String>,
}

/// A message and the usual weight of its loss.
pub(super) type Turn = (Message, f32);

/// Turns, and the tools that one of the messages brought.
#[derive(Debug, Default)]
pub(super) struct Turns {
    pub(super) turns: Vec<Turn>,
    pub(super) tools: Vec<Value>,
}

#[derive(Clone, Copy, PartialEq)]
enum Role {
    System,
    User,
    Assistant,
    /// An assistant's call of a function, as its own message.
    Call,
    /// What a function returned.
    Tool,
}

const ROLES: [(&str, Role); 15] = [
    ("system", Role::System),
    ("developer", Role::System),
    ("user", Role::User),
    ("human", Role::User),
    ("assistant", Role::Assistant),
    ("gpt", Role::Assistant),
    ("model", Role::Assistant),
    ("bot", Role::Assistant),
    ("function_call", Role::Call),
    ("tool_call", Role::Call),
    ("tool", Role::Tool),
    ("observation", Role::Tool),
    ("function", Role::Tool),
    ("function_response", Role::Tool),
    ("tool_response", Role::Tool),
];

/// The usual turn of a role.
pub(super) fn message(role: &str, content: String) -> Turn {
    (Message::new(role, content), if role == "assistant" { 1.0 } else { 0.0 })
}

/// The turns of a list of messages.
pub(super) fn messages(value: &Value, field: &str, tags: &Tags) -> Result<Turns> {
    let items = value.as_array().ok_or_else(|| wrong_type(field, "a list of messages", value))?;
    let mut turns = Turns::default();
    for (index, item) in items.iter().enumerate() {
        let field = format!("{field}[{index}]");
        let item = item.as_object().ok_or_else(|| wrong_type(&field, "a message", item))?;
        match exchange(item, &field, tags)? {
            Some(exchange) => turns.turns.extend(exchange),
            None => turns.turns.push(one(item, &field, tags)?),
        }
        // MiniMind puts the functions beside the system text.
        if let Some(value) = item.get("tools") {
            turns.tools.extend(tools(value, &format!("{field}.tools"))?);
        }
    }
    Ok(turns)
}

/// Question and answer in one object (`{"human": …, "assistant": …}`), as Firefly has them.
fn exchange(item: &Fields, field: &str, tags: &Tags) -> Result<Option<[Turn; 2]>> {
    if tags.role.is_some() || item.contains_key("role") || item.contains_key("from") {
        return Ok(None);
    }
    let half = |found, missing| RowProblem::HalfExchange { field: field.to_owned(), found, missing };
    let (question, answer) = match (item.get("human"), item.get("assistant")) {
        (Some(question), Some(answer)) => (question, answer),
        (Some(_), None) => return Err(half("human", "assistant")),
        (None, Some(_)) => return Err(half("assistant", "human")),
        (None, None) => return Ok(None),
    };
    let question = message_text(question, &format!("{field}.human"))?;
    let answer = message_text(answer, &format!("{field}.assistant"))?;
    let (answer, usual) = message("assistant", answer);
    Ok(Some([message("user", question), (answer, usual * loss_weight(item, field)?)]))
}

/// An answer: text, a message, or a list of messages.
pub(super) fn answer(value: &Value, field: &str, tags: &Tags) -> Result<Turns> {
    match value {
        Value::Array(items) if items.iter().all(Value::is_object) => messages(value, field, tags),
        Value::Object(item) => Ok(Turns { turns: vec![one(item, field, tags)?], tools: Vec::new() }),
        _ => Ok(Turns { turns: vec![message("assistant", text(value, field)?)], tools: Vec::new() }),
    }
}

/// The functions of a JSON list, or of the text of one, as `{"type": "function", "function": …}`.
pub(super) fn tools(value: &Value, field: &str) -> Result<Vec<Value>> {
    const EXPECTED: &str = "a JSON list of functions";
    let functions = match parsed(value, field, EXPECTED)? {
        Value::Null => Vec::new(),
        Value::Array(functions) => functions,
        function => vec![function],
    };
    let function = |function: Value| match function {
        Value::Object(object) if object.contains_key("function") => Ok(Value::Object(object)),
        Value::Object(object) if object.contains_key("name") => {
            Ok(json!({"type": "function", "function": object}))
        }
        _ => Err(wrong_type(field, EXPECTED, value)),
    };
    functions.into_iter().map(function).collect()
}

/// Calls of functions as templates know them, their arguments as objects.
fn calls(value: &Value, field: &str) -> Result<Vec<Value>> {
    const EXPECTED: &str = "JSON objects with `name` and `arguments`";
    let calls = match parsed(value, field, EXPECTED)? {
        Value::Null => Vec::new(),
        Value::Array(calls) => calls,
        call => vec![call],
    };
    let wrong = || wrong_type(field, EXPECTED, value);
    let call = |call: Value| {
        let Value::Object(mut call) = call else { return Err(wrong()) };
        let id = call.remove("id");
        let function = call.remove("function").unwrap_or(Value::Object(call));
        let Value::Object(mut function) = function else { return Err(wrong()) };
        if !function.get("name").is_some_and(Value::is_string) {
            return Err(wrong());
        }
        // OpenAI has arguments as the text of an object.
        if let Some(text) = function.get("arguments").and_then(Value::as_str)
            && let Ok(arguments @ Value::Object(_)) = serde_json::from_str(text)
        {
            function.insert("arguments".to_owned(), arguments);
        }
        let mut call = json!({"type": "function", "function": function});
        if let Some(id) = id {
            call["id"] = id;
        }
        Ok(call)
    };
    calls.into_iter().map(call).collect()
}

/// A JSON value that may be written as text.
fn parsed(value: &Value, field: &str, expected: &'static str) -> Result<Value> {
    match value {
        Value::String(text) if text.trim().is_empty() => Ok(Value::Null),
        Value::String(text) => serde_json::from_str(text).map_err(|_| wrong_type(field, expected, value)),
        value => Ok(value.clone()),
    }
}

fn one(item: &Fields, field: &str, tags: &Tags) -> Result<Turn> {
    let (role_key, role) = entry(item, field, &tags.role, ["role", "from"])?;
    let role_field = format!("{field}.{role_key}");
    let role = text(role, &role_field)?;
    let Some(known) = known_role(&role, tags) else {
        let names: Vec<String> = ROLES.iter().map(|(name, _)| (*name).to_owned()).collect();
        let nearest = nearest(&role, &names).cloned();
        return Err(RowProblem::UnknownRole { field: role_field, role: shortened(&role), nearest });
    };
    let mut tool_calls = match present(item, "tool_calls") {
        Some(value) if known == Role::Assistant => calls(value, &format!("{field}.tool_calls"))?,
        _ => Vec::new(),
    };
    let content = match (entry(item, field, &tags.content, ["content", "value"]), known) {
        (Ok((key, value)), Role::Call) => {
            tool_calls = calls(value, &format!("{field}.{key}"))?;
            String::new()
        }
        // A message that only calls functions may have no text.
        (Err(_) | Ok((_, Value::Null)), _) if !tool_calls.is_empty() => String::new(),
        (content, _) => {
            let (key, content) = content?;
            message_text(content, &format!("{field}.{key}"))?
        }
    };
    let name = match known {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant | Role::Call => "assistant",
        Role::Tool => "tool",
    };
    let (mut turn, usual) = message(name, content);
    if !tool_calls.is_empty() {
        turn = turn.with("tool_calls", tool_calls);
    }
    let further: &[&str] = match known {
        Role::Assistant => &["reasoning_content"],
        Role::Tool => &["name", "tool_call_id"],
        _ => &[],
    };
    for name in further {
        if let Some(value) = present(item, name) {
            turn = turn.with(*name, text(value, &format!("{field}.{name}"))?);
        }
    }
    Ok((turn, usual * loss_weight(item, field)?))
}

/// The weight that a message may give to its loss: `loss_weight`, or `loss: false`.
fn loss_weight(item: &Fields, field: &str) -> Result<f32> {
    let value = match (present(item, "loss_weight"), present(item, "loss")) {
        (Some(value), _) => value,
        (None, Some(Value::Bool(false))) => return Ok(0.0),
        _ => return Ok(1.0),
    };
    weight(value, || format!("{field}.loss_weight"))
}

/// The weight that a row may give to its loss, by the column `loss_weight`.
pub(super) fn row_weight(fields: &Fields) -> Result<f32> {
    let value = present(fields, "loss_weight");
    value.map_or(Ok(1.0), |value| weight(value, || "loss_weight".to_owned()))
}

fn weight(value: &Value, field: impl Fn() -> String) -> Result<f32> {
    // Tables without types hold texts.
    let number = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok());
    let weight = number.map(|weight| weight as f32).filter(|weight| weight.is_finite() && *weight >= 0.0);
    weight.ok_or_else(|| RowProblem::LossWeight { field: field(), found: shortened(&value.to_string()) })
}

/// The entry under the given key, or under the first usual one that is there.
fn entry<'a>(
    item: &'a Fields,
    field: &str,
    given: &'a Option<String>,
    usual: [&'a str; 2],
) -> Result<(&'a str, &'a Value)> {
    let key = match given {
        Some(key) => key,
        None if item.contains_key(usual[0]) => usual[0],
        None if item.contains_key(usual[1]) => usual[1],
        None => usual[0],
    };
    let missing = || RowProblem::MissingKey {
        field: field.to_owned(),
        key: key.to_owned(),
        available: item.keys().cloned().collect(),
    };
    Ok((key, get(item, key).ok_or_else(missing)?))
}

fn known_role(role: &str, tags: &Tags) -> Option<Role> {
    let given = [
        (&tags.user, Role::User),
        (&tags.assistant, Role::Assistant),
        (&tags.system, Role::System),
        (&tags.observation, Role::Tool),
        (&tags.function, Role::Call),
    ];
    let given = given.into_iter().find(|(tag, _)| tag.as_deref() == Some(role));
    let usual = || ROLES.iter().find(|(name, _)| *name == role).map(|(_, known)| *known);
    given.map(|(_, known)| known).or_else(usual)
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
