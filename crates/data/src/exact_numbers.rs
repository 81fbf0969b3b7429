//! Numbers of JSON as they are written: integers beyond 64 bits and fractions such as `1.10`, which parsed values do not
//! give back, so that rows that are written again keep them.

use std::collections::HashMap;
use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};
use serde_json::{Number, Value};

use crate::error::Result;

/// Digits that fit into 64 bits.
const SAFE_DIGITS: usize = 18;

/// The floating-point numbers of a row as they are written; none, if their values give back all of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct ExactNumbers(Vec<(f64, String)>);

impl ExactNumbers {
    /// Those of a JSON text.
    pub fn of(json: &[u8]) -> Self {
        let (mut numbers, mut is_exact) = (Vec::new(), true);
        let mut rest = json;
        while let Some((&byte, after)) = rest.split_first() {
            rest = after;
            if byte == b'"' {
                rest = behind_text(after);
            } else if byte == b'-' || byte.is_ascii_digit() {
                let is_part = |byte: &u8| byte.is_ascii_digit() || b"+-.eE".contains(byte);
                let length = after.iter().take_while(|byte| is_part(byte)).count();
                let literal = &json[json.len() - after.len() - 1..][..length + 1];
                rest = &after[length..];
                let is_small = literal.len() <= SAFE_DIGITS && literal.iter().all(u8::is_ascii_digit);
                let number = if is_small { None } else { serde_json::from_slice::<Number>(literal).ok() };
                if let Some(number) = number.filter(Number::is_f64) {
                    is_exact &= number.to_string().as_bytes() == literal;
                    let literal = String::from_utf8_lossy(literal).into_owned();
                    numbers.push((number.as_f64().unwrap_or_default(), literal));
                }
            }
        }
        Self(if is_exact { Vec::new() } else { numbers })
    }

    /// An integer beyond 64 bits.
    pub fn wide_integer(&self) -> Option<&str> {
        let is_integer = |literal: &&str| !literal.contains(['.', 'e', 'E']) && *literal != "-0";
        self.0.iter().map(|(_, literal)| literal.as_str()).find(is_integer)
    }

    /// Appends a value in which these numbers are, in their order where they are equal.
    ///
    /// # Errors
    /// None that is foreseen.
    pub fn push_json(&self, buffer: &mut Vec<u8>, value: &impl Serialize) -> Result<()> {
        let written = if self.0.is_empty() {
            serde_json::to_writer(buffer, value)
        } else {
            value.serialize(&mut Serializer::with_formatter(buffer, self.literals()))
        };
        Ok(written.map_err(io::Error::from)?)
    }

    /// To be taken in the order in which the row is read.
    pub fn literals(&self) -> Literals<'_> {
        let mut numbers: HashMap<u64, Vec<&str>> = HashMap::new();
        for (number, literal) in self.0.iter().rev() {
            numbers.entry(number.to_bits()).or_default().push(literal);
        }
        Literals(numbers)
    }
}

/// What follows a text whose first quote is gone.
fn behind_text(mut rest: &[u8]) -> &[u8] {
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'"' => break,
            b'\\' => rest = after.get(1..).unwrap_or_default(),
            _ => {}
        }
    }
    rest
}

/// Gives each number once as it was written: by the bits of its value, the first of equal ones last.
pub(crate) struct Literals<'a>(HashMap<u64, Vec<&'a str>>);

impl<'a> Literals<'a> {
    fn take(&mut self, number: f64) -> Option<&'a str> {
        self.0.get_mut(&number.to_bits()).and_then(Vec::pop)
    }

    /// A number or truth value as text.
    pub fn text(&mut self, value: &Value) -> String {
        let number = if value.is_f64() { value.as_f64() } else { None };
        number.and_then(|number| self.take(number)).map_or_else(|| value.to_string(), str::to_owned)
    }
}

impl Formatter for Literals<'_> {
    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        match self.take(value) {
            Some(literal) => writer.write_all(literal.as_bytes()),
            None => CompactFormatter.write_f64(writer, value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_they_were_read() {
        for row in [
            r#"{"a":18446744073709551616,"b":[1.10,1.1,1.100],"c":"-1.0 \\\" 2.50","d":{"e":-0,"f":1E2}}"#,
            r#"{"a":1,"b":-9223372036854775808,"c":18446744073709551615,"d":0.1}"#,
            r#"{"a":3.14159265358979323846264338327950288,"b":123456789012345678901234567890,"c":-5e-324}"#,
        ] {
            let value: Value = serde_json::from_str(row).unwrap();
            let mut written = Vec::new();
            ExactNumbers::of(row.as_bytes()).push_json(&mut written, &value).unwrap();
            assert_eq!(String::from_utf8(written).unwrap(), row);
        }
        assert!(ExactNumbers::of(br#"{"a":0.5,"b":"1.50"}"#).0.is_empty());
        assert!(ExactNumbers::of(br#"{"a":"#).0.is_empty());
    }

    #[test]
    fn a_row_of_many_numbers_is_written_in_linear_time() {
        let row =
            format!("[{}]", (0..40_000).map(|index| format!("{index}.50")).collect::<Vec<_>>().join(","));
        let value: Value = serde_json::from_str(&row).unwrap();
        let numbers = ExactNumbers::of(row.as_bytes());
        let start = std::time::Instant::now();
        let mut written = Vec::new();
        numbers.push_json(&mut written, &value).unwrap();
        assert!(start.elapsed().as_secs_f64() < 2.0, "{:?}", start.elapsed());
        assert_eq!(String::from_utf8(written).unwrap(), row);
    }
}
