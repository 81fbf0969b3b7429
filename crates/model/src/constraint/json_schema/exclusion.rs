//! Whether what is written for one schema can be valid under another: `oneOf` allows only what fulfils a single branch.

use serde_json::{Map, Value};

use super::objects::{additional, required};
use super::{Converter, KINDS, kinds};

/// Properties within properties that are compared.
const DEEPEST: usize = 6;

impl Converter<'_> {
    /// Whether nothing that is written for `written` is valid under `other`, as far as can be told.
    pub(super) fn excludes(&self, written: &Value, other: &Value, depth: usize) -> bool {
        let (Some(written), Some(other)) = (self.plainly(written), self.plainly(other)) else { return false };
        let (types, others) = (written_types(written), allowed_types(other));
        let meets =
            |a: &str, b: &str| a == b || matches!((a, b), ("integer", "number") | ("number", "integer"));
        if !types.iter().any(|a| others.iter().any(|b| meets(a, b))) {
            return true;
        }
        if let (Some(values), Some(other_values)) = (values(written), values(other)) {
            return !values.iter().any(|value| other_values.contains(value));
        }
        if types != ["object"] || depth == DEEPEST {
            return false;
        }
        self.excludes_object(written, other, depth).unwrap_or(false)
    }

    fn excludes_object(
        &self,
        written: &Map<String, Value>,
        other: &Map<String, Value>,
        depth: usize,
    ) -> Option<bool> {
        let property = |schema: &Map<String, Value>, name: &str| schema.get("properties")?.get(name).cloned();
        let (always, demanded) = (required(written).ok()?, required(other).ok()?);
        let is_closed = additional(written).ok()?.is_none();
        let never = |name: &&str| is_closed && property(written, name).is_none() && !always.contains(name);
        if demanded.iter().any(never) {
            return Some(true);
        }
        let refuses = other.get("additionalProperties") == Some(&Value::Bool(false));
        Some(always.iter().any(|name| match (property(written, name), property(other, name)) {
            (Some(own), Some(others)) => self.excludes(&own, &others, depth + 1),
            (_, None) => refuses,
            (None, Some(_)) => false,
        }))
    }

    /// The schema behind a reference, if nothing else is put together from parts.
    fn plainly<'v>(&'v self, mut schema: &'v Value) -> Option<&'v Map<String, Value>> {
        for _ in 0..DEEPEST {
            let map = schema.as_object()?;
            match map.get("$ref").and_then(Value::as_str) {
                Some(reference) => schema = self.resolve(reference).ok()?,
                None => return Some(map),
            }
        }
        None
    }
}

/// The only values, where they are given.
fn values(schema: &Map<String, Value>) -> Option<Vec<&Value>> {
    match (schema.get("const"), schema.get("enum")) {
        (Some(value), _) => Some(vec![value]),
        (None, Some(values)) => Some(values.as_array()?.iter().collect()),
        (None, None) => None,
    }
}

/// The types of what is written.
fn written_types(schema: &Map<String, Value>) -> Vec<&str> {
    values(schema).map_or_else(|| kinds(schema), |values| values.into_iter().map(type_of).collect())
}

/// The types that are valid.
fn allowed_types(schema: &Map<String, Value>) -> Vec<&str> {
    match values(schema) {
        Some(values) => values.into_iter().map(type_of).collect(),
        None if schema.contains_key("type") => kinds(schema),
        None => KINDS.to_vec(),
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.as_f64().is_some_and(|number| number.fract() == 0.0) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
