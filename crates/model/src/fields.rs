//! Fields of a `config.json`, read strictly: a wrong type is an error that names file and field.

use std::path::Path;

use serde_json::{Map, Value};

use crate::{Error, Result};

/// The fields of an object in a file.
pub(crate) struct Fields<'a> {
    path: &'a Path,
    /// The field that holds this object, with a dot behind it; empty for the file's own.
    prefix: String,
    fields: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(path: &'a Path, fields: &'a Map<String, Value>) -> Self {
        Self { path, prefix: String::new(), fields }
    }

    /// The fields of `value`, which `field` holds.
    pub(crate) fn inside(&self, field: &str, value: &'a Value) -> Result<Fields<'a>> {
        let fields = value.as_object();
        let fields =
            fields.ok_or_else(|| self.error(field, format!("expected an object, found `{value}`")))?;
        Ok(Fields { path: self.path, prefix: format!("{}{field}.", self.prefix), fields })
    }

    pub(crate) fn error(&self, field: &str, reason: impl Into<String>) -> Error {
        let field = format!("{}{field}", self.prefix);
        Error::Config { path: self.path.into(), field, reason: reason.into() }
    }

    /// The field, unless it is missing or null.
    pub(crate) fn get(&self, field: &str) -> Option<&'a Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    /// The rotary settings: `rope_scaling`, or `rope_parameters` as transformers 5 calls it.
    pub(crate) fn rope(&self) -> Option<(&'static str, &'a Value)> {
        ["rope_scaling", "rope_parameters"].into_iter().find_map(|field| Some((field, self.get(field)?)))
    }

    pub(crate) fn all(&self) -> &'a Map<String, Value> {
        self.fields
    }

    pub(crate) fn text(&self, field: &str) -> Option<&'a str> {
        self.get(field)?.as_str()
    }

    pub(crate) fn required(&self, field: &str) -> Result<usize> {
        self.optional(field)?.ok_or_else(|| self.error(field, "missing; expected a whole number"))
    }

    pub(crate) fn optional(&self, field: &str) -> Result<Option<usize>> {
        self.get(field)
            .map(|value| {
                let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
                number.ok_or_else(|| self.error(field, format!("expected a whole number, found `{value}`")))
            })
            .transpose()
    }

    pub(crate) fn required_number(&self, field: &str) -> Result<f64> {
        self.number(field)?.ok_or_else(|| self.error(field, "missing; expected a number"))
    }

    pub(crate) fn number(&self, field: &str) -> Result<Option<f64>> {
        self.get(field)
            .map(|value| {
                let number = value.as_f64().filter(|number| number.is_finite() && *number >= 0.0);
                number.ok_or_else(|| {
                    self.error(field, format!("expected a number of 0 or more, found `{value}`"))
                })
            })
            .transpose()
    }

    pub(crate) fn flag(&self, field: &str) -> Result<bool> {
        self.flag_or(field, false)
    }

    pub(crate) fn flag_or(&self, field: &str, default: bool) -> Result<bool> {
        self.get(field).map_or(Ok(default), |value| {
            value
                .as_bool()
                .ok_or_else(|| self.error(field, format!("expected true or false, found `{value}`")))
        })
    }

    /// One id or a list of ids.
    pub(crate) fn ids(&self, field: &str) -> Result<Vec<u32>> {
        let Some(value) = self.get(field) else { return Ok(Vec::new()) };
        let one = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = match value {
            Value::Array(values) => values.iter().map(one).collect(),
            value => one(value).map(|id| vec![id]),
        };
        ids.ok_or_else(|| {
            self.error(field, format!("expected a token id or a list of them, found `{value}`"))
        })
    }
}
