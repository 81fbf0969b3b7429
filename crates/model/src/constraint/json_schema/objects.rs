//! Objects and arrays as JSON writes them. Named properties come in the schema's order; others come only where the schema says
//! so, or names none.

use serde_json::{Map, Value};

use crate::constraint::expression::Expression;

use super::Converter;
use super::strings::{count, other_than};

/// Longest name that further properties must differ from.
const LONGEST_NAME: usize = 1000;

impl Converter<'_> {
    /// An object that the schema allows.
    pub(super) fn object(&mut self, schema: &Map<String, Value>, path: &str) -> Result<Expression, String> {
        let empty = Map::new();
        let properties = match schema.get("properties") {
            None => &empty,
            Some(Value::Object(properties)) => properties,
            Some(other) => return Err(format!("`properties`: expected an object, found {other}")),
        };
        let required = required(schema)?;
        let additional = additional(schema)?;
        let mut members: Vec<(&str, Expression, bool)> = Vec::new();
        for (name, property) in properties {
            let value = self.rule(property, &format!("{path}/properties/{name}"))?;
            members.push((name, value, required.contains(&name.as_str())));
        }
        for &name in required.iter().filter(|name| !properties.contains_key(**name)) {
            let value = match additional {
                Some(additional) => self.rule(additional, &format!("{path}/additionalProperties"))?,
                None if schema
                    .get("additionalProperties")
                    .is_none_or(|value| *value == Value::Bool(true)) =>
                {
                    self.any()?
                }
                None => Expression::Choice(Vec::new()),
            };
            members.push((name, value, true));
        }
        let least_further = check_counts(schema, &members, additional.is_some())?;
        let further = match additional {
            None => None,
            Some(additional) => {
                let names: Vec<&str> = members.iter().map(|(name, ..)| *name).collect();
                if let Some(name) = names.iter().find(|name| name.len() > LONGEST_NAME) {
                    let length = name.len();
                    return Err(format!(
                        "a name of {length} bytes beside further properties is not supported"
                    ));
                }
                let name =
                    if names.is_empty() { self.any_string() } else { other_than(&names, &mut self.rules) };
                let value = self.rule(additional, &format!("{path}/additionalProperties"))?;
                Some(self.named(path, Expression::Sequence(vec![name, self.colon(), value])))
            }
        };
        let most_further = if members.is_empty() { count(schema, "maxProperties")? } else { None };
        // What follows the first of the properties, and what begins before any was written, from the last property on.
        let (mut rest, mut first) = match &further {
            None => (Expression::empty(), Expression::empty()),
            Some(further) => {
                let again = Expression::Sequence(vec![self.comma(), further.clone()]);
                let list = match most_further {
                    Some(0) => Expression::empty(),
                    most => Expression::Sequence(vec![
                        further.clone(),
                        Expression::repeat(again.clone(), 0, most.map(|most| most - 1)),
                    ]),
                };
                let first = if least_further > 0 { list } else { Expression::optional(list) };
                (Expression::repeat(again, 0, None), first)
            }
        };
        for (name, value, is_required) in members.into_iter().rev() {
            let key = Expression::text(Value::from(name).to_string());
            let member = self.named(path, Expression::Sequence(vec![key, self.colon(), value]));
            let with = vec![member, rest.clone()];
            let next = Expression::Sequence([vec![self.comma()], with.clone()].concat());
            if is_required {
                (rest, first) = (next, Expression::Sequence(with));
            } else {
                (rest, first) = (
                    Expression::Choice(vec![next, rest]),
                    Expression::Choice(vec![Expression::Sequence(with), first]),
                );
            }
            (rest, first) = (self.named(path, rest), self.named(path, first));
        }
        Ok(Expression::Sequence(vec![
            Expression::text("{"),
            self.space(),
            first,
            self.space(),
            Expression::text("}"),
        ]))
    }

    /// An array that the schema allows.
    pub(super) fn array(&mut self, schema: &Map<String, Value>, path: &str) -> Result<Expression, String> {
        if schema.get("uniqueItems").is_some_and(|value| *value != Value::Bool(false)) {
            return Err("`uniqueItems` is not supported".into());
        }
        let (least, most) = (count(schema, "minItems")?.unwrap_or(0), count(schema, "maxItems")?);
        // Before 2020 a list in `items` was what `prefixItems` is now.
        let (prefix, items) = match (schema.get("prefixItems"), schema.get("items")) {
            (None, Some(prefix @ Value::Array(_))) => (Some(prefix), schema.get("additionalItems")),
            (prefix, items) => (prefix, items),
        };
        let prefix = match prefix {
            None => &[][..],
            Some(Value::Array(prefix)) => prefix,
            Some(other) => return Err(format!("`prefixItems`: expected a list, found {other}")),
        };
        let mut parts = Vec::new();
        for (place, item) in prefix.iter().enumerate().take(most.unwrap_or(usize::MAX)) {
            let item = self.rule(item, &format!("{path}/prefixItems/{place}"))?;
            parts.extend((place > 0).then(|| self.comma()));
            parts.push(item);
        }
        let least = least.saturating_sub(prefix.len());
        let most = most.map(|most| most.saturating_sub(prefix.len()));
        // Behind items that are named one by one, others come only where the schema says so or must.
        let others = match items {
            Some(items) => Some(self.rule(items, &format!("{path}/items"))?),
            None if prefix.is_empty() || least > 0 => Some(self.any()?),
            None => None,
        };
        if let (Some(item), false) = (others, most == Some(0)) {
            let item = self.named(path, item);
            let again = Expression::Sequence(vec![self.comma(), item.clone()]);
            if prefix.is_empty() {
                let list = Expression::Sequence(vec![
                    item,
                    Expression::repeat(again, least.saturating_sub(1), most.map(|most| most - 1)),
                ]);
                parts.push(if least == 0 { Expression::optional(list) } else { list });
            } else {
                parts.push(Expression::repeat(again, least, most));
            }
        }
        if most.is_some_and(|most| most < least) {
            return Ok(Expression::Choice(Vec::new()));
        }
        let (open, close) = (Expression::text("["), Expression::text("]"));
        Ok(Expression::Sequence([vec![open, self.space()], parts, vec![self.space(), close]].concat()))
    }
}

/// The names in `required`.
pub(super) fn required(schema: &Map<String, Value>) -> Result<Vec<&str>, String> {
    let Some(value) = schema.get("required") else { return Ok(Vec::new()) };
    let names = value.as_array().map(|names| names.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
    let mut names =
        names.flatten().ok_or_else(|| format!("`required`: expected a list of names, found {value}"))?;
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// What properties beyond the named ones are; none where none is written.
pub(super) fn additional(schema: &Map<String, Value>) -> Result<Option<&Value>, String> {
    for name in ["unevaluatedProperties", "unevaluatedItems"] {
        if schema.get(name).is_some_and(|value| !value.is_boolean()) {
            return Err(format!("`{name}` with a schema is not supported"));
        }
    }
    let is_closed = schema.get("unevaluatedProperties") == Some(&Value::Bool(false));
    let names_some = schema.contains_key("properties") || schema.contains_key("required");
    Ok(match schema.get("additionalProperties") {
        Some(Value::Bool(false)) => None,
        None if is_closed || names_some => None,
        Some(additional) => Some(additional),
        None => Some(&Value::Bool(true)),
    })
}

/// Refuses numbers of properties that the order of writing does not keep; how many of further ones there must be.
fn check_counts(
    schema: &Map<String, Value>,
    members: &[(&str, Expression, bool)],
    is_open: bool,
) -> Result<usize, String> {
    let (least, most) = (count(schema, "minProperties")?.unwrap_or(0), count(schema, "maxProperties")?);
    let required = members.iter().filter(|(.., is_required)| *is_required).count();
    // Further names may be equal, so that more than one proves nothing.
    if least > required && !(members.is_empty() && least == 1) {
        return Err(format!(
            "`minProperties`: {least} is more than what is required, which is not supported"
        ));
    }
    if let Some(most) = most
        && !(members.is_empty() || !is_open && most >= members.len())
    {
        return Err(format!("`maxProperties`: {most} beside `properties` is not supported"));
    }
    Ok(least.saturating_sub(required))
}
