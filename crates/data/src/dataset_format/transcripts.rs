//! Several turns in one text: `<s>Human: …\n</s><s>Assistant: …\n</s>` as in Llama2-Chinese, and `\n\nHuman: …` as in
//! the HH-RLHF pairs.

use danlu_tokenizer::Message;

use super::messages::{Turn, message};
use crate::error::RowProblem;

/// Marks that begin a turn, and its role.
const MARKS: [(&str, &str); 3] =
    [("<s>System: ", "system"), ("<s>Human: ", "user"), ("<s>Assistant: ", "assistant")];
const END: &str = "</s>";
const HH_MARKS: [(&str, &str); 2] = [("\n\nHuman:", "user"), ("\n\nAssistant:", "assistant")];

/// Whether a text looks like a transcript.
pub(super) fn is_transcript(text: &str) -> bool {
    is_marked(text) || text.starts_with(HH_MARKS[0].0)
}

fn is_marked(text: &str) -> bool {
    let text = text.trim_start();
    MARKS.iter().any(|(mark, _)| text.starts_with(mark.trim_end()))
}

/// The turns of a transcript; the line break before an end mark belongs to the form.
pub(super) fn turns(text: &str, field: &str) -> Result<Vec<Turn>, RowProblem> {
    if !is_marked(text) && text.starts_with(HH_MARKS[0].0) {
        return Ok(hh_turns(text));
    }
    let mut turns = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let start = MARKS.iter().find_map(|(mark, role)| Some((*role, rest.strip_prefix(mark.trim_end())?)));
        let Some((role, after)) = start else {
            let (field, found) = (field.to_owned(), super::fields::shortened(rest));
            return Err(RowProblem::Transcript { field, found });
        };
        let after = after.strip_prefix(' ').unwrap_or(after);
        // An end mark ends a turn only where another begins, or the text ends: answers may speak of it.
        let is_end = |&(at, _): &(usize, &str)| {
            let next = after[at + END.len()..].trim_start();
            next.is_empty() || is_marked(next)
        };
        let end = after.match_indices(END).find(is_end).map(|(at, _)| at);
        let content = &after[..end.unwrap_or(after.len())];
        let content = content.strip_suffix('\n').unwrap_or(content);
        turns.push(message(role, content.to_owned()));
        rest = end.map_or("", |end| after[end + END.len()..].trim_start());
    }
    Ok(turns)
}

fn hh_turns(text: &str) -> Vec<Turn> {
    let mut starts: Vec<(usize, &str, &str)> = HH_MARKS
        .iter()
        .flat_map(|(mark, role)| text.match_indices(mark).map(|(at, _)| (at, *mark, *role)))
        .collect();
    starts.sort_unstable();
    let ends = starts.iter().skip(1).map(|(at, ..)| *at).chain([text.len()]);
    starts
        .iter()
        .zip(ends)
        .map(|((at, mark, role), end)| message(role, text[at + mark.len()..end].trim().to_owned()))
        .collect()
}

/// The messages as one text of the first form; none if one of them has a role that it does not know.
pub fn transcript(messages: &[Message]) -> Option<String> {
    let turn = |message: &Message| {
        let (mark, _) = MARKS.iter().find(|(_, role)| *role == message.role)?;
        Some(format!("{mark}{}\n{END}", message.content))
    };
    messages.iter().map(turn).collect()
}
