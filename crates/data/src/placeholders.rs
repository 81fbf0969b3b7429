//! `{{name}}` in the texts of a dataset → its value. Names that have no value stay as they are and are reported.

use std::collections::{BTreeMap, BTreeSet};

/// Replaces every `{{name}}` that has a value; adds the names that have none to `unfilled`.
///
/// A name consists of letters, digits and `_`; other braces are text. Values are not searched again.
pub fn fill(text: &str, values: &BTreeMap<String, String>, unfilled: &mut BTreeSet<String>) -> String {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find("{{") {
        let inside = &rest[open + 2..];
        let length = inside.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(inside.len());
        let name = &inside[..length];
        if name.is_empty() || !inside[length..].starts_with("}}") {
            // One brace only: the second may open a placeholder itself.
            filled.push_str(&rest[..=open]);
            rest = &rest[open + 1..];
            continue;
        }
        let end = open + 2 + length + 2;
        match values.get(name) {
            Some(value) => {
                filled.push_str(&rest[..open]);
                filled.push_str(value);
            }
            None => {
                unfilled.insert(name.to_owned());
                filled.push_str(&rest[..end]);
            }
        }
        rest = &rest[end..];
    }
    filled.push_str(rest);
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_and_the_rest_reported() {
        let values = BTreeMap::from([
            ("name".to_owned(), "丹炉".to_owned()),
            ("作者".to_owned(), "{{name}}".to_owned()),
        ]);
        let mut unfilled = BTreeSet::new();
        let text =
            fill("我是{{name}}，{{作者}}的{{kind}}，{{{name}}} {{ x }} {{}} {{name", &values, &mut unfilled);
        assert_eq!(text, "我是丹炉，{{name}}的{{kind}}，{丹炉} {{ x }} {{}} {{name");
        assert_eq!(unfilled, BTreeSet::from(["kind".to_owned()]));
    }
}
