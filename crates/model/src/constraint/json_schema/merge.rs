//! Two schemas as one that allows what both allow: `allOf`, and what stands beside `$ref`, `anyOf` and `oneOf`.

use serde_json::{Map, Value, json};

/// Keywords that change nothing about what is allowed.
const ANNOTATIONS: [&str; 18] = [
    "$schema",
    "$id",
    "$anchor",
    "$comment",
    "$defs",
    "definitions",
    "title",
    "description",
    "default",
    "example",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "discriminator",
    "contentEncoding",
    "contentMediaType",
    "strict",
];

pub(super) fn is_annotation(keyword: &str) -> bool {
    ANNOTATIONS.contains(&keyword) || keyword.starts_with("x-")
}

/// Both at once; none where they contradict each other.
///
/// # Errors
/// Keywords that both have and that cannot be put together.
pub(super) fn merge(
    a: &Map<String, Value>,
    b: &Map<String, Value>,
) -> Result<Option<Map<String, Value>>, String> {
    let (a, b) = (close(a, b), close(b, a));
    for (one, other) in [(&a, &b), (&b, &a)] {
        let differs = |name: &str| other.contains_key(name) && one.get(name) != other.get(name);
        if one.contains_key("prefixItems") && (differs("items") || differs("prefixItems")) {
            return Err("`prefixItems` beside other items in `allOf` is not supported".into());
        }
    }
    let mut merged = a;
    for (keyword, value) in b {
        let Some(own) = merged.get(&keyword) else {
            merged.insert(keyword, value);
            continue;
        };
        if *own == value {
            continue;
        }
        let both = match keyword.as_str() {
            "type" => match types(own, &value) {
                types if types.is_empty() => return Ok(None),
                types => json!(types),
            },
            "properties" => properties(own, &value),
            "required" => join(own, &value),
            "enum" => {
                let others = value.as_array().map(Vec::as_slice).unwrap_or_default();
                own.as_array().into_iter().flatten().filter(|one| others.contains(one)).cloned().collect()
            }
            "const" => return Ok(None),
            "items" | "additionalProperties" => json!({ "allOf": [own, value] }),
            "minimum" | "exclusiveMinimum" | "minLength" | "minItems" | "minProperties" => {
                if own.as_f64() < value.as_f64() { value } else { own.clone() }
            }
            "maximum" | "exclusiveMaximum" | "maxLength" | "maxItems" | "maxProperties" => {
                if own.as_f64() > value.as_f64() { value } else { own.clone() }
            }
            "uniqueItems" => json!(true),
            "unevaluatedProperties" | "unevaluatedItems" => json!(false),
            // Followed when its turn comes.
            "allOf" => join(own, &value),
            "$ref" | "anyOf" | "oneOf" => {
                let also = json!([{ keyword: value }]);
                let all = merged.get("allOf").map_or_else(|| also.clone(), |own| join(own, &also));
                merged.insert("allOf".into(), all);
                continue;
            }
            _ => return Err(format!("`allOf`: two different `{keyword}` cannot be put together")),
        };
        merged.insert(keyword, both);
    }
    Ok(Some(merged))
}

/// Without annotations, and with those properties that only `other` names as `additionalProperties` has them.
fn close(schema: &Map<String, Value>, other: &Map<String, Value>) -> Map<String, Value> {
    let kept = schema.iter().filter(|(keyword, _)| !is_annotation(keyword));
    let mut closed: Map<String, Value> =
        kept.map(|(keyword, value)| (keyword.clone(), value.clone())).collect();
    if let (Some(additional), Some(Value::Object(others))) =
        (schema.get("additionalProperties"), other.get("properties"))
        && *additional != Value::Bool(true)
    {
        let own = closed.entry("properties").or_insert_with(|| json!({}));
        if let Value::Object(own) = own {
            for name in others
                .keys()
                .filter(|name| schema.get("properties").is_none_or(|own| own.get(*name).is_none()))
            {
                own.insert(name.clone(), additional.clone());
            }
        }
    }
    closed
}

fn join(a: &Value, b: &Value) -> Value {
    let (a, b) = (a.as_array(), b.as_array());
    let mut all: Vec<Value> = a.into_iter().flatten().cloned().collect();
    for value in b.into_iter().flatten() {
        if !all.contains(value) {
            all.push(value.clone());
        }
    }
    all.into()
}

fn properties(a: &Value, b: &Value) -> Value {
    let (Value::Object(a), Value::Object(b)) = (a, b) else { return a.clone() };
    let mut all = a.clone();
    for (name, schema) in b {
        let both = match a.get(name) {
            Some(own) if own != schema => json!({ "allOf": [own, schema] }),
            _ => schema.clone(),
        };
        all.insert(name.clone(), both);
    }
    all.into()
}

/// The types that both have; an integer is a number.
fn types(a: &Value, b: &Value) -> Vec<String> {
    let list = |value: &Value| match value {
        Value::String(one) => vec![one.clone()],
        value => value.as_array().into_iter().flatten().filter_map(Value::as_str).map(String::from).collect(),
    };
    let (a, b) = (list(a), list(b));
    let has = |list: &[String], name: &str| {
        list.iter().any(|one| one == name || name == "integer" && one == "number")
    };
    let both = a.iter().chain(&b).filter(|name| has(&a, name) && has(&b, name));
    let mut types: Vec<String> = Vec::new();
    for name in both {
        if !types.contains(name) {
            types.push(name.clone());
        }
    }
    types
}
