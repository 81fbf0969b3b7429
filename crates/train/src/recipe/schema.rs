//! The reference of the recipe, derived from its JSON schema: nothing in it is written by hand.

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::Recipe;

/// One key of the recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferenceRow {
    /// The YAML key.
    pub key: String,
    /// What it takes, in words, such as `a number` or ``one of `pt`, `sft` ``.
    pub expected: String,
    /// Default as YAML; empty when there is none.
    pub default: String,
    /// What it does, in English.
    pub description: String,
    /// What it does, in Chinese.
    pub description_zh: String,
    /// The names it takes with what each means (name, English, Chinese); empty unless it is a choice.
    pub choices: Vec<(String, String, String)>,
}

/// JSON schema (draft 2020-12) of a recipe, for editors: `recipe.schema.json`.
#[must_use]
pub fn recipe_schema() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<Recipe>().to_value();
    if let Some(schema) = schema.as_object_mut() {
        schema.remove("unevaluatedProperties");
        schema.insert("additionalProperties".into(), Value::Bool(false));
    }
    schema
}

/// Every key in the order of the option structs.
#[must_use]
pub fn recipe_reference() -> Vec<ReferenceRow> {
    let schema = recipe_schema();
    let properties = schema["properties"].as_object().cloned().unwrap_or_default();
    properties
        .iter()
        .map(|(key, property)| {
            let (description, description_zh) = languages(property);
            ReferenceRow {
                key: key.clone(),
                expected: expected(property),
                default: default(&property["default"]),
                description,
                description_zh,
                choices: variants(property)
                    .iter()
                    .filter_map(|variant| {
                        let (description, description_zh) = languages(variant);
                        Some((variant["const"].as_str()?.to_owned(), description, description_zh))
                    })
                    .collect(),
            }
        })
        .collect()
}

/// What a property takes, in words.
pub(crate) fn expected(property: &Value) -> String {
    let choices = choices(property);
    if !choices.is_empty() {
        let names: Vec<String> = choices.iter().map(|name| format!("`{name}`")).collect();
        return format!("one of {}", names.join(", "));
    }
    let mut kinds = Vec::new();
    collect_kinds(property, &mut kinds);
    kinds.dedup();
    if kinds.is_empty() { "a value".into() } else { kinds.join(" or ") }
}

/// The names that a property takes, when it is a choice among names.
pub(crate) fn choices(property: &Value) -> Vec<String> {
    let names =
        |values: Vec<&Value>| values.into_iter().filter_map(|name| Some(name.as_str()?.to_owned())).collect();
    match property["enum"].as_array() {
        Some(values) => names(values.iter().collect()),
        None => names(variants(property).iter().map(|variant| &variant["const"]).collect()),
    }
}

/// The variants of a choice, also of one that may be left out.
fn variants(property: &Value) -> &[Value] {
    let parts = property["anyOf"].as_array().into_iter().flatten();
    let choice = std::iter::once(property).chain(parts).find_map(|part| part["oneOf"].as_array());
    choice.map_or(&[], Vec::as_slice)
}

fn collect_kinds(property: &Value, kinds: &mut Vec<String>) {
    let types = match &property["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        other => other.as_str().into_iter().collect::<Vec<_>>(),
    };
    for kind in types {
        let kind = match kind {
            "integer" if property["minimum"].is_number() => "a whole number, 0 or more",
            "integer" => "a whole number",
            "number" => "a number",
            "boolean" => "`true` or `false`",
            "string" => "text",
            "array" if ["number", "integer"].iter().any(|kind| property["items"]["type"] == **kind) => {
                "a list of numbers"
            }
            "array" => "a list of texts",
            "object" => match property["properties"].as_object() {
                Some(known) => {
                    let names: Vec<String> = known.keys().map(|name| format!("`{name}`")).collect();
                    kinds.push(format!("a mapping with {}", names.join(", ")));
                    continue;
                }
                None => match property["additionalProperties"]["type"].as_str() {
                    Some("integer" | "number") => "a mapping of names to numbers",
                    Some("array") => "a mapping of names to lists of numbers",
                    _ => "a mapping of names to texts",
                },
            },
            _ => continue,
        };
        kinds.push(kind.to_owned());
    }
    for part in property["anyOf"].as_array().into_iter().flatten() {
        collect_kinds(part, kinds);
    }
}

/// The two paragraphs of a doc comment, each on one line.
fn languages(schema: &Value) -> (String, String) {
    let description = schema["description"].as_str().unwrap_or_default();
    let (english, chinese) = description.split_once("zh: ").unwrap_or((description, ""));
    let words: Vec<&str> = english.split_whitespace().collect();
    (words.join(" "), chinese.lines().map(str::trim).collect())
}

fn default(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
        }
        Value::Object(entries) if entries.is_empty() => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_explained_in_both_languages() {
        let rows = recipe_reference();
        assert!(rows.len() > 60, "{}", rows.len());
        for row in &rows {
            assert!(!row.description.is_empty() && !row.description_zh.is_empty(), "{row:?}");
            assert!(!row.expected.is_empty() && row.expected != "a value", "{row:?}");
            for (name, english, chinese) in &row.choices {
                assert!(!english.is_empty() && !chinese.is_empty(), "{}: {name}", row.key);
            }
        }
    }

    #[test]
    fn rows_carry_type_default_and_choices() {
        let rows = recipe_reference();
        let row = |key: &str| rows.iter().find(|row| row.key == key).unwrap().clone();
        assert_eq!(
            (row("learning_rate").expected.as_str(), row("learning_rate").default.as_str()),
            ("a number", "0.00005")
        );
        assert_eq!(row("stage").expected, "one of `pt`, `sft`, `dpo`, `kto`, `orpo`, `simpo`");
        assert_eq!(row("pref_loss").expected, "one of `sigmoid`, `ipo`, `hinge`, `orpo`, `simpo`, `cpo`");
        assert_eq!(row("stage").default, "sft");
        assert_eq!(row("stage").choices[0].2, "预训练：续写纯文本。");
        assert_eq!(row("lora_target").default, "all");
        assert_eq!(row("bf16").expected, "`true` or `false`");
        assert_eq!(row("val_size").description_zh, "留作验证的样本：小于 1 为比例，否则为个数。");
    }
}
