//! JSON schemas as grammars. What is written is valid; not everything that is valid is written: named properties come in their
//! order, blanks are few, numbers have no more digits than are kept. What cannot be followed is refused by its name.

mod exclusion;
mod merge;
mod numbers;
mod objects;
mod pattern;
mod strings;

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::expression::Expression;
use super::grammar::Grammar;
use merge::{is_annotation, merge};
use strings::{any_characters, quoted};

/// The types of values.
const KINDS: [&str; 7] = ["object", "array", "string", "integer", "number", "boolean", "null"];
/// Schemas within schemas, and merges of merges, at most.
const DEEPEST: usize = 150;
/// Schemas at most, those that come of merging included.
const MOST_SCHEMAS: usize = 20_000;
/// Keywords that say something about values, with the type that they are of.
const KEYWORDS: [(&str, &str); 30] = [
    ("type", ""),
    ("enum", ""),
    ("const", ""),
    ("$ref", ""),
    ("anyOf", ""),
    ("oneOf", ""),
    ("allOf", ""),
    ("properties", "object"),
    ("required", "object"),
    ("additionalProperties", "object"),
    ("unevaluatedProperties", "object"),
    ("minProperties", "object"),
    ("maxProperties", "object"),
    ("items", "array"),
    ("prefixItems", "array"),
    ("additionalItems", "array"),
    ("unevaluatedItems", "array"),
    ("minItems", "array"),
    ("maxItems", "array"),
    ("uniqueItems", "array"),
    ("minLength", "string"),
    ("maxLength", "string"),
    ("pattern", "string"),
    ("format", "string"),
    ("minimum", "number"),
    ("maximum", "number"),
    ("exclusiveMinimum", "number"),
    ("exclusiveMaximum", "number"),
    ("multipleOf", "number"),
    ("nullable", ""),
];

impl Grammar {
    /// JSON texts that are valid under the schema (drafts 7 to 2020-12).
    ///
    /// # Errors
    /// A sentence with the place (a JSON pointer) and the keyword that is wrong or not supported.
    pub fn from_json_schema(schema: &Value) -> Result<Self, String> {
        let mut converter = Converter {
            root: schema,
            rules: Vec::new(),
            known: HashMap::new(),
            depth: 0,
            space: Expression::empty(),
        };
        converter.add_space();
        let expression = converter.rule(schema, "#")?;
        converter.rules.push(("#".into(), expression));
        let root = converter.rules.len() - 1;
        Self::compile(&converter.rules, root).map_err(|_| {
            "the JSON schema allows nothing, or nothing that ends: look for parts that contradict each other, and for required \
             properties that hold themselves"
                .into()
        })
    }

    /// JSON texts of any object.
    ///
    /// # Errors
    /// None, as far as is known.
    pub fn json_object() -> Result<Self, String> {
        Self::from_json_schema(&json!({ "type": "object" }))
    }
}

struct Converter<'s> {
    root: &'s Value,
    rules: Vec<(String, Expression)>,
    /// The rules of schemas, by their texts.
    known: HashMap<String, usize>,
    depth: usize,
    space: Expression,
}

impl Converter<'_> {
    /// A rule of what the schema allows.
    ///
    /// # Errors
    /// A sentence with the path and what is wrong or not supported.
    fn rule(&mut self, schema: &Value, path: &str) -> Result<Expression, String> {
        let empty = Map::new();
        let schema = match schema {
            Value::Bool(true) => &empty,
            Value::Bool(false) => return Ok(Expression::Choice(Vec::new())),
            Value::Object(schema) => schema,
            other => return Err(at(path, &format!("expected a schema, found {other}"))),
        };
        let key = Value::Object(schema.clone()).to_string();
        if let Some(rule) = self.known.get(&key) {
            return Ok(Expression::Rule(*rule));
        }
        if self.depth == DEEPEST || self.known.len() == MOST_SCHEMAS {
            return Err(at(path, "the schema is put together from too many schemas, or from itself"));
        }
        let rule = self.rules.len();
        self.rules.push((path.into(), Expression::empty()));
        self.known.insert(key, rule);
        self.depth += 1;
        self.rules[rule].1 = self.expression(schema, path)?;
        self.depth -= 1;
        Ok(Expression::Rule(rule))
    }

    fn expression(&mut self, schema: &Map<String, Value>, path: &str) -> Result<Expression, String> {
        if let Some(keyword) = schema
            .keys()
            .find(|keyword| !is_annotation(keyword) && !KEYWORDS.iter().any(|(known, _)| known == keyword))
        {
            return Err(at(path, &format!("`{keyword}` is not supported")));
        }
        if schema.get("nullable").is_some_and(|value| *value != Value::Bool(false)) {
            return Err(at(path, "`nullable` is not supported: write `\"type\": [\"…\", \"null\"]`"));
        }
        if let Some(reference) = schema.get("$ref") {
            let text = reference.as_str().ok_or_else(|| at(path, "`$ref`: expected a text"))?;
            let target = self.resolve(text).map_err(|reason| at(path, &reason))?.clone();
            return self.both(&without(schema, "$ref"), &target, path);
        }
        for keyword in ["anyOf", "oneOf"] {
            if let Some(branches) = schema.get(keyword) {
                return self.branches(schema, keyword, branches, path);
            }
        }
        if let Some(all) = schema.get("allOf") {
            let all = all.as_array().filter(|all| !all.is_empty());
            let all = all.ok_or_else(|| at(path, "`allOf`: expected a list of schemas"))?;
            let rest = without(schema, "allOf");
            let (first, others) = (&all[0], &all[1..]);
            let rest = if others.is_empty() { rest } else { with(rest, "allOf", json!(others)) };
            return self.both(&rest, first, path);
        }
        self.typed(schema, path)
    }

    /// What both allow.
    fn both(&mut self, rest: &Map<String, Value>, other: &Value, path: &str) -> Result<Expression, String> {
        match other {
            Value::Bool(true) => self.rule(&Value::Object(rest.clone()), path),
            Value::Object(other) if rest.keys().all(|keyword| is_annotation(keyword)) => {
                self.rule(&Value::Object(other.clone()), path)
            }
            Value::Object(other) => match merge(rest, other).map_err(|reason| at(path, &reason))? {
                Some(merged) => self.rule(&Value::Object(merged), path),
                None => Ok(Expression::Choice(Vec::new())),
            },
            other => self.rule(other, path),
        }
    }

    fn branches(
        &mut self,
        schema: &Map<String, Value>,
        keyword: &str,
        branches: &Value,
        path: &str,
    ) -> Result<Expression, String> {
        let list = branches.as_array().filter(|list| !list.is_empty());
        let list = list.ok_or_else(|| at(path, &format!("`{keyword}`: expected a list of schemas")))?;
        if keyword == "oneOf" {
            for (place, one) in list.iter().enumerate() {
                for (other_place, other) in list.iter().enumerate().skip(place + 1) {
                    if !(self.excludes(one, other, 0) && self.excludes(other, one, 0)) {
                        let message = format!(
                            "`oneOf`: one value may fulfil branches {place} and {other_place}; give them a property with different \
                             `const`s, or use `anyOf`"
                        );
                        return Err(at(path, &message));
                    }
                }
            }
        }
        let rest = without(schema, keyword);
        let mut choices = Vec::with_capacity(list.len());
        for (place, branch) in list.iter().enumerate() {
            choices.push(self.both(&rest, branch, &format!("{path}/{keyword}/{place}"))?);
        }
        Ok(Expression::Choice(choices))
    }

    /// A schema that is of types and values alone.
    fn typed(&mut self, schema: &Map<String, Value>, path: &str) -> Result<Expression, String> {
        let types = kinds(schema);
        if schema.get("type").is_some_and(|value| !(value.is_string() || value.is_array())) {
            return Err(at(path, "`type`: expected a name or a list of names"));
        }
        if let Some(unknown) = types.iter().find(|name| !KINDS.contains(name)) {
            return Err(at(path, &format!("`type`: `{unknown}` is none of `{}`", KINDS.join("`, `"))));
        }
        if schema.contains_key("enum") || schema.contains_key("const") {
            return self.values(schema, &types).map_err(|reason| at(path, &reason));
        }
        let mut choices = Vec::with_capacity(types.len());
        for kind in &types {
            let choice = match *kind {
                "object" => self.object(schema, path),
                "array" => self.array(schema, path),
                "string" => strings::string(schema),
                "integer" if types.contains(&"number") => continue,
                "integer" => numbers::integer(schema),
                "number" => numbers::number(schema),
                "boolean" => Ok(Expression::Choice(["true", "false"].map(Expression::text).to_vec())),
                _ => Ok(Expression::text("null")),
            };
            let choice = choice
                .map_err(|reason| if reason.starts_with(PREFIX) { reason } else { at(path, &reason) })?;
            choices.push(self.named(path, choice));
        }
        Ok(Expression::Choice(choices))
    }

    /// The values that are given one by one.
    fn values(&self, schema: &Map<String, Value>, types: &[&str]) -> Result<Expression, String> {
        if let Some(other) = schema.keys().find(|keyword| {
            !is_annotation(keyword) && !["type", "enum", "const", "nullable"].contains(&keyword.as_str())
        }) {
            return Err(format!("`{other}` beside `enum` or `const` is not supported"));
        }
        let mut values = match schema.get("enum") {
            None => Vec::new(),
            Some(Value::Array(values)) => values.iter().collect(),
            Some(other) => return Err(format!("`enum`: expected a list of values, found {other}")),
        };
        if let Some(only) = schema.get("const") {
            values.retain(|value| *value == only);
            if !schema.contains_key("enum") {
                values.push(only);
            }
        }
        let has = |name: &str| !schema.contains_key("type") || types.contains(&name);
        values.retain(|value| match value {
            Value::Null => has("null"),
            Value::Bool(_) => has("boolean"),
            Value::Number(number) => {
                has("number") || has("integer") && number.as_f64().is_some_and(|number| number.fract() == 0.0)
            }
            Value::String(_) => has("string"),
            Value::Array(_) => has("array"),
            Value::Object(_) => has("object"),
        });
        Ok(Expression::Choice(values.into_iter().map(|value| Expression::text(value.to_string())).collect()))
    }

    /// What a reference within the schema names.
    fn resolve(&self, reference: &str) -> Result<&Value, String> {
        let Some(pointer) = reference.strip_prefix('#') else {
            return Err(format!("`$ref`: `{reference}` lies outside of the schema, which is not supported"));
        };
        let mut bytes = Vec::with_capacity(pointer.len());
        let mut rest = pointer.as_bytes();
        while let Some((&byte, behind)) = rest.split_first() {
            let code = behind.get(..2).and_then(|code| std::str::from_utf8(code).ok());
            let code = code.filter(|_| byte == b'%').and_then(|code| u8::from_str_radix(code, 16).ok());
            bytes.push(code.unwrap_or(byte));
            rest = if code.is_some() { &behind[2..] } else { behind };
        }
        let pointer = String::from_utf8_lossy(&bytes);
        self.root.pointer(&pointer).ok_or_else(|| format!("`$ref`: there is no `{reference}` in the schema"))
    }

    /// The expression as a rule, so that it can be used several times.
    fn named(&mut self, path: &str, expression: Expression) -> Expression {
        self.rules.push((path.into(), expression));
        Expression::Rule(self.rules.len() - 1)
    }

    /// Any value.
    fn any(&mut self) -> Result<Expression, String> {
        self.rule(&Value::Bool(true), "#")
    }

    fn any_string(&mut self) -> Expression {
        quoted(any_characters())
    }

    /// Nothing, a blank, or a line break and what indents the next line: a model cannot go on with blanks for ever.
    fn add_space(&mut self) {
        let indent = Expression::repeat(Expression::one_of(" \t"), 0, 20);
        let line = Expression::Sequence(vec![Expression::text("\n"), indent]);
        let space = Expression::Choice(vec![Expression::empty(), Expression::text(" "), line]);
        self.space = self.named("blanks", space);
    }

    fn space(&self) -> Expression {
        self.space.clone()
    }

    fn colon(&self) -> Expression {
        Expression::Sequence(vec![Expression::text(":"), self.space()])
    }

    fn comma(&self) -> Expression {
        Expression::Sequence(vec![Expression::text(","), self.space()])
    }
}

const PREFIX: &str = "the JSON schema at `";

/// A sentence with its place.
fn at(path: &str, reason: &str) -> String {
    format!("{PREFIX}{path}`: {reason}")
}

/// The types that are written. Keywords of a type mean that type; without any, every value is meant.
fn kinds(schema: &Map<String, Value>) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(types)) => types.iter().map(|one| one.as_str().unwrap_or_default()).collect(),
        _ => {
            let named =
                |kind: &str| schema.keys().any(|keyword| KEYWORDS.contains(&(keyword.as_str(), kind)));
            let named: Vec<&str> = KINDS.into_iter().filter(|kind| named(kind)).collect();
            if named.is_empty() { KINDS.to_vec() } else { named }
        }
    }
}

fn without(schema: &Map<String, Value>, keyword: &str) -> Map<String, Value> {
    let kept = schema.iter().filter(|(name, _)| *name != keyword && !is_annotation(name));
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn with(mut schema: Map<String, Value>, keyword: &str, value: Value) -> Map<String, Value> {
    schema.insert(keyword.into(), value);
    schema
}

#[cfg(test)]
mod tests;
