//! Which texts of a row are cleaned: `text`, or where there is none, every text under a usual name, those inside
//! lists of messages and sections too. Roles, ids, labels and tool calls stay as they are.

use serde_json::{Map, Value};

use crate::error::{RowProblem, nearest};
use crate::records::{Content, kind_of};

/// Names of texts: in rows of a corpus, of questions and answers, of preferences, and inside messages and sections.
const TEXT_NAMES: [&str; 31] = [
    "text",
    "content",
    "title",
    "summary",
    "sections",
    "paragraphs",
    "completion",
    "instruction",
    "input",
    "output",
    "instruct",
    "query",
    "question",
    "answer",
    "prompt",
    "response",
    "target",
    "system",
    "history",
    "messages",
    "conversations",
    "conversation",
    "dialogue",
    "chosen",
    "rejected",
    "answer_zh",
    "answer_en",
    "value",
    "reasoning_content",
    "original_text",
    "desc",
];

type Result<T> = std::result::Result<T, RowProblem>;

/// The texts of a row that are cleaned, in their order.
///
/// # Errors
/// A column of `columns` that is not there or holds no text; without `columns`, a row with no usual name.
pub fn texts_of<'a>(content: &'a mut Content, columns: &[String]) -> Result<Vec<&'a mut String>> {
    let mut texts = Vec::new();
    let fields = match content {
        Content::Text(text) => return Ok(vec![text]),
        Content::Fields(fields) => fields,
    };
    if columns.is_empty() {
        let is_corpus = fields.get("text").is_some_and(Value::is_string);
        let is_cleaned = |name: &str| if is_corpus { name == "text" } else { TEXT_NAMES.contains(&name) };
        if !fields.keys().any(|name| is_cleaned(name)) {
            return Err(unknown(fields));
        }
        let cleaned = fields.iter_mut().filter(|(name, _)| is_cleaned(name));
        cleaned.for_each(|(_, value)| collect(value, &mut texts));
        return Ok(texts);
    }
    if let Some(column) = columns.iter().find(|column| !fields.contains_key(*column)) {
        let available: Vec<String> = fields.keys().cloned().collect();
        let nearest = nearest(column, &available).cloned();
        return Err(RowProblem::MissingColumn { column: column.clone(), available, nearest });
    }
    for (name, value) in fields.iter_mut().filter(|(name, _)| columns.contains(name)) {
        if matches!(value, Value::Number(_) | Value::Bool(_)) {
            return Err(RowProblem::WrongType {
                field: name.clone(),
                expected: "a text",
                found: kind_of(value).to_owned(),
            });
        }
        collect(value, &mut texts);
    }
    Ok(texts)
}

fn unknown(fields: &Map<String, Value>) -> RowProblem {
    let available: Vec<String> = fields.keys().cloned().collect();
    let known: Vec<String> = TEXT_NAMES.iter().map(|&name| name.to_owned()).collect();
    let near = available.iter().find_map(|name| Some((name.clone(), nearest(name, &known)?.clone())));
    RowProblem::UnknownColumns {
        available,
        expected: "`text`, or usual names such as `instruction` and `output`, or `messages`",
        nearest: near,
    }
}

fn collect<'a>(value: &'a mut Value, texts: &mut Vec<&'a mut String>) {
    match value {
        Value::String(text) => texts.push(text),
        Value::Array(values) => values.iter_mut().for_each(|value| collect(value, texts)),
        Value::Object(fields) => fields
            .iter_mut()
            .filter(|(name, _)| TEXT_NAMES.contains(&name.as_str()))
            .for_each(|(_, value)| collect(value, texts)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(row: Value, columns: &[&str]) -> std::result::Result<Vec<String>, String> {
        let Value::Object(fields) = row else { panic!("{row}") };
        let columns: Vec<String> = columns.iter().map(|&name| name.to_owned()).collect();
        let mut content = Content::Fields(fields);
        let texts = texts_of(&mut content, &columns).map_err(|problem| problem.to_string())?;
        Ok(texts.into_iter().map(|text| text.clone()).collect())
    }

    #[test]
    fn text_comes_first_and_nested_messages_are_reached() {
        assert_eq!(texts(json!({"id": "1", "text": "a", "title": "b"}), &[]).unwrap(), ["a"]);
        let row = json!({"messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": [{"type": "text", "text": "b"}], "tool_calls": [{"name": "x"}]}
        ], "id": "7"});
        assert_eq!(texts(row, &[]).unwrap(), ["a", "b"]);
        let row =
            json!({"instruction": "a", "input": "", "output": "b", "history": [["c", "d"]], "label": "x"});
        assert_eq!(texts(row, &[]).unwrap(), ["a", "", "b", "c", "d"]);
        assert_eq!(texts(json!({"a": "1", "b": ["2", null], "c": "3"}), &["b"]).unwrap(), ["2"]);
    }

    #[test]
    fn columns_that_are_not_there_are_named() {
        let message = texts(json!({"txt": "a"}), &["text"]).unwrap_err();
        assert!(message.starts_with("missing column `text`: the row has `txt`"), "{message}");
        let message = texts(json!({"textt": "a"}), &[]).unwrap_err();
        assert!(message.contains("did you mean `text` by `textt`?"), "{message}");
        let message = texts(json!({"text": 1}), &["text"]).unwrap_err();
        assert_eq!(message, "field `text`: expected a text, found a number");
    }
}
