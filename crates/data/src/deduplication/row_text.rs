//! The text of a row, what of it is compared, and its shingles: the overlapping runs of n characters.

use std::borrow::Cow;

use serde_json::Value;

use crate::error::{RowProblem, nearest};
use crate::records::Content;

/// Keys whose texts say nothing about the content: who speaks, and numbers of rows.
const NO_CONTENT: [&str; 3] = ["role", "from", "id"];

/// The text of a row: of these columns, or, where none is named, of `text`, else of everything in the row. Several
/// texts, such as the messages of a conversation, are joined by newlines; roles and `id` are left out.
///
/// # Errors
/// None of the columns is in the row.
pub fn row_text<'a>(content: &'a Content, columns: &[String]) -> Result<Cow<'a, str>, RowProblem> {
    let fields = match content {
        Content::Text(text) => return Ok(text.into()),
        Content::Fields(fields) => fields,
    };
    let mut text = String::new();
    if !columns.is_empty() {
        let mut values = columns.iter().filter_map(|name| fields.get(name)).peekable();
        if values.peek().is_none() {
            let available: Vec<String> = fields.keys().cloned().collect();
            let nearest = nearest(&columns[0], &available).cloned();
            return Err(RowProblem::MissingColumn { column: columns[0].clone(), available, nearest });
        }
        for value in values {
            match value {
                Value::Number(_) | Value::Bool(_) => push(&mut text, &value.to_string()),
                value => push_texts(&mut text, value),
            }
        }
    } else if let Some(Value::String(whole)) = fields.get("text") {
        return Ok(whole.into());
    } else {
        let named = fields.iter().filter(|(name, _)| !NO_CONTENT.contains(&name.as_str()));
        named.for_each(|(_, value)| push_texts(&mut text, value));
    }
    Ok(text.into())
}

fn push(text: &mut String, more: &str) {
    if !text.is_empty() && !more.is_empty() {
        text.push('\n');
    }
    text.push_str(more);
}

fn push_texts(text: &mut String, value: &Value) {
    match value {
        Value::String(more) => push(text, more),
        Value::Array(values) => values.iter().for_each(|value| push_texts(text, value)),
        Value::Object(fields) => {
            let named = fields.iter().filter(|(name, _)| !NO_CONTENT.contains(&name.as_str()));
            named.for_each(|(_, value)| push_texts(text, value));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// What of a text is compared: its letters and digits, in lower case and half width. A text without any stays as it is.
pub fn normalise(text: &str) -> String {
    let mut normal = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '一'..='鿿' => normal.push(character),
            '0'..='9' | 'a'..='z' => normal.push(character),
            'A'..='Z' => normal.push(character.to_ascii_lowercase()),
            '\0'..='\x7f' => {}
            // Full-width forms lie 0xfee0 above ASCII.
            '！'..='～' => {
                let half = char::from_u32(character as u32 - 0xfee0).unwrap_or(character);
                if half.is_ascii_alphanumeric() {
                    normal.push(half.to_ascii_lowercase());
                }
            }
            character if character.is_alphanumeric() => normal.extend(character.to_lowercase()),
            _ => {}
        }
    }
    if normal.is_empty() { text.to_owned() } else { normal }
}

/// Appends a 64-bit hash of each run of `length` characters; of a shorter text, one of the whole.
pub fn push_shingles(hashes: &mut Vec<u64>, text: &str, length: usize) {
    /// Of the polynomial in the characters; odd, so that no character is lost.
    const BASE: u64 = 0x9e37_79b9_7f4a_7c15;
    let highest = (0..length).fold(1u64, |power, _| power.wrapping_mul(BASE));
    let mut leaving = text.chars();
    let (mut hash, mut entered) = (0u64, 0);
    for character in text.chars() {
        hash = hash.wrapping_mul(BASE).wrapping_add(character as u64 + 1);
        entered += 1;
        if entered > length
            && let Some(first) = leaving.next()
        {
            hash = hash.wrapping_sub(highest.wrapping_mul(first as u64 + 1));
        }
        if entered >= length {
            hashes.push(mix(hash));
        }
    }
    if entered < length {
        hashes.push(mix(hash));
    }
}

/// The set of a text's shingles, sorted; of each the upper 32 bits, which tell those of two texts apart.
pub fn shingle_set(text: &str, length: usize) -> Vec<u32> {
    let mut hashes = Vec::with_capacity(text.len() / 2);
    push_shingles(&mut hashes, text, length);
    let mut set: Vec<u32> = hashes.into_iter().map(|hash| (hash >> 32) as u32).collect();
    set.sort_unstable();
    set.dedup();
    set
}

/// Jaccard similarity of two sorted sets: what they share over what they have together.
pub fn jaccard(a: &[u32], b: &[u32]) -> f64 {
    let (mut i, mut j, mut shared) = (0, 0, 0);
    while i < a.len() && j < b.len() {
        shared += usize::from(a[i] == b[j]);
        let (x, y) = (a[i], b[j]);
        i += usize::from(x <= y);
        j += usize::from(y <= x);
    }
    shared as f64 / (a.len() + b.len() - shared).max(1) as f64
}

/// A hash by which another text is noticed.
pub fn digest(text: &str) -> u64 {
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
    text.as_bytes().chunks(8).fold(text.len() as u64, |digest, bytes| mix(digest ^ word(bytes)))
}

/// Spreads a hash over all its bits (the finalizer of MurmurHash3).
pub fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::json;

    use super::*;

    fn text(row: Value, columns: &[&str]) -> Result<String, String> {
        let columns: Vec<String> = columns.iter().map(|name| (*name).to_owned()).collect();
        let content = Content::Fields(row.as_object().unwrap().clone());
        row_text(&content, &columns).map(Cow::into_owned).map_err(|problem| problem.to_string())
    }

    #[test]
    fn the_text_of_a_row_is_what_people_wrote() {
        let row = json!({"id": "7", "conversations": [{"from": "human", "value": "问"}, {"from": "gpt", "value": "答"}]});
        assert_eq!(text(row, &[]).unwrap(), "问\n答");
        assert_eq!(text(json!({"text": "文", "source": "网"}), &[]).unwrap(), "文");
        let row = json!({"instruction": "甲", "input": "", "output": "乙", "score": 3});
        assert_eq!(text(row.clone(), &[]).unwrap(), "甲\n乙");
        assert_eq!(text(row.clone(), &["output", "score", "absent"]).unwrap(), "乙\n3");
        let missing = text(row, &["ouput"]).unwrap_err();
        assert!(missing.contains("missing column `ouput`") && missing.contains("`output`"), "{missing}");
    }

    #[test]
    fn spaces_punctuation_case_and_width_do_not_count() {
        assert_eq!(normalise("Ａｂ１ ，C。車～é\u{3000}"), "ab1c車é");
        assert_eq!(normalise("。。"), "。。");
    }

    #[test]
    fn shingles_are_the_runs_of_n_characters() {
        let text = "abcabcabd人";
        let characters: Vec<char> = text.chars().collect();
        for length in 1..12 {
            let runs: HashSet<&[char]> = characters.windows(length.min(characters.len())).collect();
            assert_eq!(shingle_set(text, length).len(), runs.len(), "{length}");
        }
        let (a, b) = (shingle_set("abcdef", 2), shingle_set("xbcdey", 2));
        assert_eq!(jaccard(&a, &b), 3.0 / 7.0);
        assert_eq!(jaccard(&a, &a), 1.0);
    }
}
