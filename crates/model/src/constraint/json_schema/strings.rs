//! Strings as JSON writes them: of some length, of a pattern, of a format, and other than some names.

use serde_json::{Map, Value};

use crate::constraint::expression::{Expression, complement, intersection};

use super::pattern::pattern;

/// Formats whose texts are written, each as a pattern. Not every text of a format is, but none that is not of it.
const FORMATS: [(&str, &str); 7] = [
    ("date", DATE),
    ("time", TIME),
    ("date-time", ""),
    ("uuid", "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"),
    ("ipv4", r"^((25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\.){3}(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)$"),
    (
        "email",
        r"^[A-Za-z0-9]{1,20}([._+-][A-Za-z0-9]{1,20}){0,2}@[A-Za-z0-9]{1,12}([.-][A-Za-z0-9]{1,12}){0,3}\.[a-z]{2,10}$",
    ),
    ("uri", r"^https?://[a-z0-9]{1,12}([.-][a-z0-9]{1,12}){0,3}(:[1-9]\d{1,3})?(/[A-Za-z0-9._~-]*)*$"),
];
/// Without the leap days.
const DATE: &str =
    r"^[1-9]\d{3}-((0[1-9]|1[0-2])-(0[1-9]|1\d|2[0-8])|(0[13-9]|1[0-2])-(29|30)|(0[13578]|1[02])-31)$";
const TIME: &str = r"^([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$";

/// A string that the schema allows.
///
/// # Errors
/// A sentence on a keyword that cannot be followed.
pub(super) fn string(schema: &Map<String, Value>) -> Result<Expression, String> {
    let length = |name: &str| count(schema, name);
    let (least, most) = (length("minLength")?, length("maxLength")?);
    let given: Vec<&str> =
        ["pattern", "format"].into_iter().filter(|name| schema.contains_key(*name)).collect();
    let is_bounded = least.is_some() || most.is_some();
    if given.len() == 2 || !given.is_empty() && is_bounded {
        let other = if given.len() == 2 { "`format`" } else { "`minLength` or `maxLength`" };
        return Err(format!("`{}` beside {other} is not supported", given[0]));
    }
    let inside = match given[..] {
        [] => {
            if most.is_some_and(|most| most < least.unwrap_or(0)) {
                return Ok(Expression::Choice(Vec::new()));
            }
            Expression::repeat(character(), least.unwrap_or(0), most)
        }
        [keyword, ..] => {
            let value = &schema[keyword];
            let Some(text) = value.as_str() else {
                return Err(format!("`{keyword}`: expected a text, found {value}"));
            };
            if keyword == "pattern" { pattern(text)? } else { format(text)? }
        }
    };
    Ok(quoted(inside))
}

/// A whole number, 0 or more, of a schema.
pub(super) fn count(schema: &Map<String, Value>, name: &str) -> Result<Option<usize>, String> {
    let Some(value) = schema.get(name) else { return Ok(None) };
    let whole = value.as_u64().or_else(|| {
        value.as_f64().filter(|value| *value >= 0.0 && value.fract() == 0.0).map(|value| value as u64)
    });
    match whole {
        Some(count) if count <= 100_000 => Ok(Some(count as usize)),
        Some(count) if name.starts_with("max") => Ok((count > 100_000).then_some(100_000)),
        _ => Err(format!("`{name}`: expected a whole number from 0 to 100000, found {value}")),
    }
}

fn format(name: &str) -> Result<Expression, String> {
    if name == "date-time" {
        return Ok(Expression::Sequence(vec![pattern(DATE)?, Expression::text("T"), pattern(TIME)?]));
    }
    match FORMATS.iter().find(|(known, _)| *known == name) {
        Some((_, text)) => pattern(text),
        None => {
            let known = FORMATS.map(|(name, _)| format!("`{name}`")).join(", ");
            Err(format!("`format`: `{name}` is not supported, only {known}"))
        }
    }
}

pub(super) fn quoted(inside: Expression) -> Expression {
    Expression::Sequence(vec![Expression::text("\""), inside, Expression::text("\"")])
}

/// Characters that a string may hold as they are.
fn plain() -> Vec<(u32, u32)> {
    complement(vec![(0, 0x1F), ('"'.into(), '"'.into()), ('\\'.into(), '\\'.into())])
}

/// One character in any way that JSON writes it, but halves of surrogate pairs.
fn character() -> Expression {
    let hexadecimal = || {
        Expression::Class([('0', '9'), ('a', 'f'), ('A', 'F')].map(|(a, b)| (a.into(), b.into())).to_vec())
    };
    let digits = |count| Expression::repeat(hexadecimal(), count, count);
    let outside = Expression::Class(
        [('0', '9'), ('a', 'c'), ('e', 'f'), ('A', 'C'), ('E', 'F')]
            .map(|(a, b)| (a.into(), b.into()))
            .to_vec(),
    );
    let unicode = Expression::Choice(vec![
        Expression::Sequence(vec![outside, digits(3)]),
        Expression::Sequence(vec![Expression::one_of("dD"), Expression::range('0', '7'), digits(2)]),
    ]);
    let escape = Expression::Choice(vec![
        Expression::one_of("\"\\/bfnrt"),
        Expression::Sequence(vec![Expression::text("u"), unicode]),
    ]);
    Expression::Choice(vec![
        Expression::Class(plain()),
        Expression::Sequence(vec![Expression::text("\\"), escape]),
    ])
}

/// Any text between quotes.
pub(super) fn any_characters() -> Expression {
    Expression::repeat(character(), 0, None)
}

/// One character of these ranges, escaped where it has to be.
pub(super) fn escaped(ranges: &[(u32, u32)]) -> Expression {
    let mut choices = vec![Expression::Class(intersection(ranges, &plain()))];
    let escapes = (0..0x20).chain(['"'.into(), '\\'.into()]);
    for point in escapes.filter(|point| ranges.iter().any(|(first, last)| (first..=last).contains(&point))) {
        let written = Value::from(char::from_u32(point).map(String::from).unwrap_or_default()).to_string();
        choices.push(Expression::text(
            written.trim_start_matches('"').get(..written.len() - 2).unwrap_or_default(),
        ));
    }
    Expression::Choice(choices)
}

/// A name between quotes, of plain characters, that is none of these. Adds the rules that it needs.
pub(super) fn other_than(names: &[&str], rules: &mut Vec<(String, Expression)>) -> Expression {
    let plain_text = Expression::repeat(Expression::Class(plain()), 0, None);
    let mut sorted = names.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let rule = behind(&sorted, 0, &plain_text, rules);
    quoted(rule)
}

/// What may follow so many bytes that these names have in common.
fn behind(
    names: &[&str],
    depth: usize,
    plain_text: &Expression,
    rules: &mut Vec<(String, Expression)>,
) -> Expression {
    let mut choices = Vec::new();
    if !names.iter().any(|name| name.len() == depth) {
        choices.push(Expression::empty());
    }
    let mut taken = Vec::new();
    let mut rest: Vec<&str> = names.iter().copied().filter(|name| name.len() > depth).collect();
    while let Some(next) = rest.first().and_then(|name| name[depth..].chars().next()) {
        let (with, without): (Vec<&str>, Vec<&str>) =
            rest.iter().partition(|name| name[depth..].starts_with(next));
        rest = without;
        taken.push((next.into(), next.into()));
        let inner = behind(&with, depth + next.len_utf8(), plain_text, rules);
        rules.push(("a name".into(), inner));
        choices.push(Expression::Sequence(vec![
            Expression::Class(intersection(&[(next.into(), next.into())], &plain())),
            Expression::Rule(rules.len() - 1),
        ]));
    }
    let others = Expression::Class(intersection(&plain(), &complement(taken)));
    choices.push(Expression::Sequence(vec![others, plain_text.clone()]));
    Expression::Choice(choices)
}
