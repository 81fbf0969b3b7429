//! From YAML text and overrides to one list of keys, values and the places where they were written.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::Spanned;

use super::error::{Place, RecipeError};

/// A key with its value.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub place: Place,
    pub key: String,
    pub value: Value,
}

/// The entries of a YAML mapping; `file` names it in errors. Null values are left out, as if they were not written.
pub(super) fn from_yaml(file: &str, text: &str) -> Result<Vec<Entry>, RecipeError> {
    let line = |line| Place::Line { file: file.to_owned(), line };
    let mapping: Option<Mapping> = serde_saphyr::from_str(text).map_err(|error| RecipeError::Yaml {
        place: error
            .location()
            .map_or_else(|| Place::Recipe(file.to_owned()), |location| line(location.line())),
        problem: one_line(&error),
    })?;
    let entries = mapping.map(|mapping| mapping.0).unwrap_or_default();
    let entries = entries.into_iter().map(|(key, value)| Entry {
        place: line(key.referenced.line()),
        key: key.value,
        value,
    });
    Ok(entries.filter(|entry| !entry.value.is_null()).collect())
}

/// The entry of an override `key=value`; the value is typed as YAML does, and null when it is empty.
pub(super) fn from_override(text: &str) -> Result<Entry, RecipeError> {
    let (key, value) = text.split_once('=').ok_or_else(|| RecipeError::Override { text: text.to_owned() })?;
    let place = Place::Override(text.to_owned());
    let value = if value.trim().is_empty() {
        Value::Null
    } else {
        serde_saphyr::from_str(value)
            .map_err(|error| RecipeError::Yaml { place: place.clone(), problem: one_line(&error) })?
    };
    Ok(Entry { place, key: key.trim().to_owned(), value })
}

/// Adds `new` to `entries`: an older entry of the same key is replaced, or removed when the new value is null.
/// `columns.text` sets one key inside `columns`.
pub(super) fn merge(entries: &mut Vec<Entry>, new: Entry) {
    let Some((outer, inner)) = new.key.split_once('.') else {
        entries.retain(|entry| entry.key != new.key);
        if !new.value.is_null() {
            entries.push(new);
        }
        return;
    };
    let position = entries.iter().position(|entry| entry.key == outer);
    let mut mapping = match position.map(|position| entries.remove(position).value) {
        Some(Value::Object(mapping)) => mapping,
        _ => Map::new(),
    };
    if new.value.is_null() {
        mapping.remove(inner);
    } else {
        mapping.insert(inner.to_owned(), new.value);
    }
    entries.push(Entry { place: new.place, key: outer.to_owned(), value: Value::Object(mapping) });
}

/// The parser's message without the excerpt that it draws, the place (named beside it) and advice for programmers.
fn one_line(error: &serde_saphyr::Error) -> String {
    let message = error.without_snippet().to_string();
    let line = message.lines().next().unwrap_or_default();
    let problem = line.split(" at line ").next().unwrap_or(line);
    let problem = problem.split(", set DuplicateKeyPolicy").next().unwrap_or(problem);
    problem
        .replace("expected mapping start", "expected lines of the form `key: value`")
        .replace(" rejected by the configured policy", ", where a finite number is expected")
}

/// A mapping in the order of the file, with the line of each key.
struct Mapping(Vec<(Spanned<String>, Value)>);

impl<'de> Deserialize<'de> for Mapping {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MappingVisitor;
        impl<'de> Visitor<'de> for MappingVisitor {
            type Value = Mapping;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("lines of the form `key: value`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Mapping, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = access.next_entry()? {
                    entries.push(entry);
                }
                Ok(Mapping(entries))
            }
        }
        deserializer.deserialize_map(MappingVisitor)
    }
}
