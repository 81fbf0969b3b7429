//! Appending tokens to a byte-level BPE in `tokenizer.json`: new entries of the vocabulary and merges behind the old ones.

use std::collections::HashMap;
use std::ops::Range;

use serde_json::{Value, json};

use super::joins::Joins;

/// The merges of a vocabulary.
pub(super) struct Merges {
    ids: HashMap<String, u32>,
    /// Rank and result by the two that are joined.
    ranks: HashMap<(u32, u32), (u32, u32)>,
    next_id: u32,
    /// What was appended: left, right.
    pub(super) appended: Vec<(String, String)>,
}

impl Merges {
    /// Reads `model` of a `tokenizer.json`; new tokens get ids from `next_id` on while they are planned.
    pub(super) fn of_json(model: &Value, next_id: u32) -> Result<Self, String> {
        let vocab = model["vocab"].as_object().ok_or("`model.vocab` is not an object")?;
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids: Option<HashMap<String, u32>> =
            vocab.iter().map(|(text, value)| Some((text.clone(), id(value)?))).collect();
        let ids = ids.ok_or("an entry of `model.vocab` is no id")?;
        let mut ranks = HashMap::new();
        for (rank, merge) in (0..).zip(model["merges"].as_array().into_iter().flatten()) {
            let pair = match merge {
                Value::String(line) => line.split_once(' '),
                pair => pair[0].as_str().zip(pair[1].as_str()),
            };
            let find = |text: &str| ids.get(text).copied();
            let known = pair.and_then(|(left, right)| {
                Some(((find(left)?, find(right)?), find(&format!("{left}{right}"))?))
            });
            let (pair, joined) = known.ok_or_else(|| format!("`model.merges[{rank}]` is {merge}"))?;
            ranks.entry(pair).or_insert((rank, joined));
        }
        Ok(Self { ids, ranks, next_id, appended: Vec::new() })
    }

    /// The id of a token.
    pub(super) fn id(&self, token: &str) -> Option<u32> {
        self.ids.get(token).copied()
    }
}

impl Joins for Merges {
    fn cut(&self, text: &str) -> Vec<Range<usize>> {
        let mut parts: Vec<(Range<usize>, Option<u32>)> = text
            .char_indices()
            .map(|(at, character)| {
                let range = at..at + character.len_utf8();
                (range.clone(), self.id(&text[range]))
            })
            .collect();
        loop {
            let rank =
                |pair: &[(Range<usize>, Option<u32>)]| self.ranks.get(&(pair[0].1?, pair[1].1?)).copied();
            let found = parts.windows(2).enumerate().filter_map(|(at, pair)| Some((rank(pair)?, at)));
            let Some(((_, id), at)) = found.min() else { break };
            parts[at] = (parts[at].0.start..parts[at + 1].0.end, Some(id));
            parts.remove(at + 1);
        }
        parts.into_iter().map(|(range, _)| range).collect()
    }

    fn join(&mut self, text: &str, parts: &[Range<usize>]) {
        let id = self.next_id;
        self.next_id += 1;
        self.ids.insert(text.to_owned(), id);
        if let [left, right] = parts
            && let (Some(first), Some(second)) = (self.id(&text[left.clone()]), self.id(&text[right.clone()]))
        {
            self.ranks.insert((first, second), (u32::MAX / 2 + self.appended.len() as u32, id));
            self.appended.push((text[left.clone()].to_owned(), text[right.clone()].to_owned()));
        }
    }
}

/// Puts new tokens and merges into a parsed `tokenizer.json`, and its added tokens into the vocabulary: behind it they
/// would be counted anew.
pub(super) fn append_to_json(
    tokenizer: &mut Value,
    tokens: &[(String, u32)],
    merges: &[(String, String)],
) -> Result<(), String> {
    let added: Vec<(String, Value)> = tokenizer["added_tokens"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|token| Some((token["content"].as_str()?.to_owned(), token["id"].clone())))
        .collect();
    let model = &mut tokenizer["model"];
    let vocab = model["vocab"].as_object_mut().ok_or("`model.vocab` is not an object")?;
    for (text, id) in added {
        vocab.entry(text).or_insert(id);
    }
    vocab.extend(tokens.iter().map(|(text, id)| (text.clone(), json!(id))));
    let list = model["merges"].as_array_mut().ok_or("`model.merges` is not a list")?;
    let as_lines = list.first().is_some_and(Value::is_string);
    list.extend(merges.iter().map(|(left, right)| match as_lines {
        true => json!(format!("{left} {right}")),
        false => json!([left, right]),
    }));
    Ok(())
}
