//! `danlu tokenizer info`: what a vocabulary is.

use anyhow::Result;
use serde_json::json;

use super::{TokenizerPath, open};
use crate::printer::Printer;

/// Runs `danlu tokenizer info`.
///
/// # Errors
/// A tokenizer that cannot be used.
pub fn run(path: &TokenizerPath, printer: &Printer) -> Result<()> {
    let tokenizer = open(path, printer)?;
    let token =
        |id: Option<u32>| id.and_then(|id| Some(json!({ "id": id, "text": tokenizer.token_text(id)? })));
    let ends: Vec<_> = tokenizer.end_of_turn_ids().into_iter().map(|id| token(Some(id))).collect();
    let special: Vec<_> = (0..tokenizer.vocabulary_size() as u32)
        .filter(|&id| tokenizer.is_special(id))
        .map(|id| token(Some(id)))
        .collect();
    let roles = [
        ("bos", tokenizer.bos_id()),
        ("eos", tokenizer.eos_id()),
        ("pad", tokenizer.pad_id()),
        ("unk", tokenizer.unk_id()),
    ];
    let yes = |flag: bool| if flag { "yes" } else { "no" };
    let mut rows = vec![vec!["vocabulary size".to_owned(), tokenizer.vocabulary_size().to_string()]];
    for (role, id) in roles {
        let text = id.and_then(|id| Some(format!("{} ({id})", tokenizer.token_text(id)?)));
        rows.push(vec![role.to_owned(), text.unwrap_or_else(|| "none".into())]);
    }
    rows.push(vec!["BOS before a raw text".into(), yes(tokenizer.adds_bos()).into()]);
    rows.push(vec!["EOS after a raw text".into(), yes(tokenizer.adds_eos()).into()]);
    let ids: Vec<String> =
        tokenizer.end_of_turn_ids().iter().filter_map(|&id| tokenizer.token_text(id)).collect();
    rows.push(vec!["ends an answer".into(), ids.join(" ")]);
    rows.push(vec!["special tokens".into(), special.len().to_string()]);
    rows.push(vec!["chat template".into(), yes(tokenizer.chat_template().is_some()).into()]);
    for row in &rows {
        printer.line(format_args!("{:<22} {}", row[0], row[1]))?;
    }
    let mut result = json!({
        "vocabulary_size": tokenizer.vocabulary_size(),
        "adds_bos": tokenizer.adds_bos(),
        "adds_eos": tokenizer.adds_eos(),
        "end_of_turn": ends,
        "special_tokens": special,
        "chat_template": tokenizer.chat_template(),
    });
    for (role, id) in roles {
        result[role] = json!(token(id));
    }
    Ok(printer.json(&result)?)
}
