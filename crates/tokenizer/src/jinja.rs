//! Jinja as transformers runs chat templates: its block trimming, functions and filters, on minijinja.

use crate::{Error, Result};
use chrono::Datelike;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, ErrorKind, State, Value};
use std::fmt::Write;

/// Name of the one template in the environment.
pub(crate) const NAME: &str = "chat_template";

/// Variable of two characters that stand around what `{% generation %}` renders; where it is not set, nothing does.
pub(crate) const MARKS: &str = "__generation_marks";

/// Function behind `{% generation %}`.
const GENERATION: &str = "__generation";
/// Function by which templates write the date.
const STRFTIME: &str = "strftime_now";

/// Parses `source` once, into an environment of its own.
pub(crate) fn environment(source: &str) -> Result<Environment<'static>> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(error)?;
    environment.set_syntax(syntax);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function(STRFTIME, |format: &str| strftime(chrono::Local::now(), format));
    environment.add_filter("tojson", to_json);
    environment.add_function(GENERATION, generation);
    environment.add_template_owned(NAME, rewritten_tags(source).0).map_err(error)?;
    Ok(environment)
}

/// Whether a template marks what the assistant writes by `{% generation %}`.
pub(crate) fn has_generation_tags(source: &str) -> bool {
    rewritten_tags(source).1
}

/// A value of JSON as templates see it.
pub(crate) fn from_json(value: &serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(value) => (*value).into(),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => number.into(),
            (None, Some(number)) => number.into(),
            (None, None) => number.as_f64().into(),
        },
        serde_json::Value::String(text) => text.as_str().into(),
        serde_json::Value::Array(items) => items.iter().map(from_json).collect::<Vec<_>>().into(),
        serde_json::Value::Object(fields) => {
            Value::from_pairs(fields.iter().map(|(name, value)| (name.as_str(), from_json(value))))
        }
    }
}

/// Keeps the line and what was said there.
pub(crate) fn error(error: minijinja::Error) -> Error {
    let message = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    Error::Template { line: error.line().unwrap_or(0), message }
}

/// The source with tags that minijinja does not know written in others. `{% generation %}` marks the assistant's text for
/// transformers, which runs it as a call block too: with a scope of its own. Also says whether there is one.
fn rewritten_tags(source: &str) -> (String, bool) {
    let mut rest = source;
    let mut result = String::with_capacity(source.len());
    let mut found = false;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        let end = tag.find("%}").map_or(tag.len(), |end| end + 2);
        let (tag, after) = tag.split_at(end);
        let name = tag.trim_start_matches("{%").trim_end_matches("%}").trim_matches(['-', '+']).trim();
        result += before;
        result += &match name {
            "generation" => {
                found = true;
                tag.replace("generation", &format!("call {GENERATION}()"))
            }
            "endgeneration" => tag.replace("endgeneration", "endcall"),
            // minijinja 3.0 panics when it turns an empty list around by a slice.
            _ => tag.replace("[::-1]", " | reverse"),
        };
        rest = after;
    }
    (result + rest, found)
}

fn generation(state: &mut State, options: Kwargs) -> Result<String, minijinja::Error> {
    let marks = state.lookup(MARKS);
    let body = options.get::<Value>("caller")?.call(state, &[])?.to_string();
    let mut marks = marks.as_ref().and_then(Value::as_str).unwrap_or_default().chars();
    Ok(match (marks.next(), marks.next()) {
        (Some(start), Some(end)) => format!("{start}{body}{end}"),
        _ => body,
    })
}

/// Whether a template writes the date.
pub(crate) fn writes_date(source: &str) -> bool {
    source.contains(STRFTIME)
}

/// Today, as `20260131`.
pub(crate) fn today() -> u32 {
    let today = chrono::Local::now().date_naive();
    today.year().unsigned_abs() * 10_000 + today.month() * 100 + today.day()
}

/// Lets the templates of `environment` write this day, at noon; a number that is no day changes nothing.
pub(crate) fn set_day(environment: &mut Environment<'static>, day: u32) {
    let date = chrono::NaiveDate::from_ymd_opt((day / 10_000) as i32, day / 100 % 100, day % 100);
    let noon = date.and_then(|date| date.and_hms_opt(12, 0, 0)?.and_local_timezone(chrono::Local).earliest());
    if let Some(noon) = noon {
        environment.add_function(STRFTIME, move |format: &str| strftime(noon, format));
    }
}

fn strftime(time: chrono::DateTime<chrono::Local>, format: &str) -> Result<String, minijinja::Error> {
    let mut text = String::new();
    write!(text, "{}", time.format(format)).map_err(|_| {
        minijinja::Error::new(ErrorKind::InvalidOperation, format!("`{format}` is not a date format"))
    })?;
    Ok(text)
}

/// `json.dumps(value, ensure_ascii=False, indent=indent)`: keys in order, Python's spacing, nothing escaped for HTML.
fn to_json(value: &Value, options: Kwargs) -> Result<String, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    // Other options of json.dumps (ensure_ascii, separators) occur with these very values.
    let mut text = String::new();
    write_json(value, indent, 0, &mut text)?;
    Ok(text)
}

fn write_json(
    value: &Value,
    indent: Option<usize>,
    depth: usize,
    text: &mut String,
) -> Result<(), minijinja::Error> {
    let newline = |text: &mut String, depth: usize| {
        if let Some(indent) = indent {
            text.push('\n');
            text.extend(std::iter::repeat_n(' ', indent * depth));
        }
    };
    let comma = |text: &mut String, index: usize| {
        if index > 0 {
            text.push_str(if indent.is_some() { "," } else { ", " });
        }
        newline(text, depth + 1);
    };
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => text.push_str("null"),
        ValueKind::Bool => text.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number if value.is_integer() => text.push_str(&value.to_string()),
        ValueKind::Number => text.push_str(&f64::try_from(value.clone()).map(python_float)?),
        ValueKind::String => text.push_str(&serde_json::Value::from(value.to_string()).to_string()),
        ValueKind::Map => {
            text.push('{');
            for (index, key) in value.try_iter()?.enumerate() {
                comma(text, index);
                text.push_str(&serde_json::Value::from(key.to_string()).to_string());
                text.push_str(": ");
                write_json(&value.get_item(&key)?, indent, depth + 1, text)?;
            }
            if value.len() != Some(0) {
                newline(text, depth);
            }
            text.push('}');
        }
        ValueKind::Seq | ValueKind::Iterable => {
            text.push('[');
            for (index, item) in value.try_iter()?.enumerate() {
                comma(text, index);
                write_json(&item, indent, depth + 1, text)?;
            }
            if value.len() != Some(0) {
                newline(text, depth);
            }
            text.push(']');
        }
        kind => {
            let message = format!("a value of type {kind} cannot be written as JSON");
            return Err(minijinja::Error::new(ErrorKind::InvalidOperation, message));
        }
    }
    Ok(())
}

/// A float as Python writes it: the shortest digits, with an exponent where that is below -4 or above 15.
fn python_float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>().unwrap_or(0) {
        -4..16 => format!("{value:?}"),
        exponent => format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_in_python() {
        for (value, written) in [
            (1.0, "1.0"),
            (-2.5, "-2.5"),
            (0.0001, "0.0001"),
            (1e-5, "1e-05"),
            (1.25e-7, "1.25e-07"),
            (123456789012345.0, "123456789012345.0"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (-1.5e300, "-1.5e+300"),
            (f64::INFINITY, "Infinity"),
        ] {
            assert_eq!(python_float(value), written);
        }
    }
}
