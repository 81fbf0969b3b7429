//! What cleaning did: each rule with its counts and a few samples.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Characters of a sample on each side of what changed.
const CONTEXT: usize = 20;
/// Characters of what changed, and of a dropped text.
const SHOWN: usize = 60;

/// What became of all rows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CleaningReport {
    /// Rows that were read, the unreadable ones among them.
    pub rows: u64,
    /// Rows that were written.
    pub kept: u64,
    /// Rows that a rule dropped.
    pub dropped: u64,
    /// Rows that could not be read or lack a column, by reason.
    pub bad_rows: BTreeMap<String, u64>,
    /// The first of them: file, line, field and what was expected.
    pub bad_row_samples: Vec<String>,
    /// Characters of the texts that were read.
    pub characters_read: u64,
    /// Characters of the texts that were written.
    pub characters_kept: u64,
    /// Rules that change texts, in the order in which they are applied.
    pub changes: Vec<RuleReport>,
    /// Rules that drop rows, in the order in which they are asked.
    pub drops: Vec<DropReport>,
    /// What the user should know of the files, such as encodings other than UTF-8.
    pub notices: Vec<String>,
}

/// What a rule changed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RuleReport {
    /// The rule.
    pub rule: String,
    /// Rows that it changed.
    pub rows: u64,
    /// How often it did something.
    pub times: u64,
    /// Characters that it took away; negative if it added some.
    pub characters_removed: i64,
    /// The first changes.
    pub samples: Vec<Sample>,
}

/// A text before and after a rule, around the first change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// File and line of its row.
    pub source: String,
    /// A piece of the text before.
    pub before: String,
    /// The same piece after.
    pub after: String,
}

/// What a rule dropped.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DropReport {
    /// The rule.
    pub rule: String,
    /// Rows that it dropped.
    pub rows: u64,
    /// The first of them.
    pub samples: Vec<DroppedSample>,
}

/// A row that was dropped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DroppedSample {
    /// File and line of the row.
    pub source: String,
    /// What the rule found.
    pub found: String,
    /// The beginning of its text.
    pub text: String,
}

/// The pieces of two texts around their first difference.
pub(super) fn around_change(before: &str, after: &str) -> (String, String) {
    let same = |a: &mut dyn Iterator<Item = char>, b: &mut dyn Iterator<Item = char>| {
        a.zip(b).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum::<usize>()
    };
    let start = same(&mut before.chars(), &mut after.chars());
    let (old, new) = (&before[start..], &after[start..]);
    let end = same(&mut old.chars().rev(), &mut new.chars().rev());
    let lead = last(&before[..start], CONTEXT);
    let tail = first(&old[old.len() - end..], CONTEXT);
    let piece = |changed: &str| {
        let dots = if first(changed, SHOWN).len() < changed.len() { "…" } else { "" };
        let tail = if dots.is_empty() { tail } else { "" };
        one_line(&format!("{lead}{}{dots}{tail}", first(changed, SHOWN)))
    };
    (piece(&old[..old.len() - end]), piece(&new[..new.len() - end]))
}

/// The beginning of a text on one line.
pub(super) fn beginning(text: &str) -> String {
    let start = first(text, SHOWN);
    one_line(&format!("{start}{}", if start.len() < text.len() { "…" } else { "" }))
}

fn first(text: &str, characters: usize) -> &str {
    text.char_indices().nth(characters).map_or(text, |(end, _)| &text[..end])
}

fn last(text: &str, characters: usize) -> &str {
    text.char_indices().rev().nth(characters.saturating_sub(1)).map_or(text, |(start, _)| &text[start..])
}

/// What nobody would see is spelled out.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        if character == ' '
            || !(character.is_control() || character.is_whitespace() || is_invisible(character))
        {
            line.push(character);
        } else {
            line.extend(character.escape_default());
        }
    }
    line
}

fn is_invisible(character: char) -> bool {
    matches!(character, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

impl fmt::Display for CleaningReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bad: u64 = self.bad_rows.values().sum();
        writeln!(
            formatter,
            "{} of {} rows kept, {} dropped, {bad} unreadable",
            self.kept, self.rows, self.dropped
        )?;
        write!(formatter, "{} of {} characters kept", self.characters_kept, self.characters_read)?;
        let (changes, silent): (Vec<_>, Vec<_>) = self.changes.iter().partition(|rule| rule.times > 0);
        if !changes.is_empty() {
            write!(formatter, "\n\nchanged:")?;
        }
        for rule in changes {
            let (rows, times, characters) = (rule.rows, rule.times, -rule.characters_removed);
            write!(formatter, "\n- {}: {times} times in {rows} rows, {characters:+} characters", rule.rule)?;
            for Sample { source, before, after } in &rule.samples {
                write!(formatter, "\n  - {source}: ⟦{before}⟧ → ⟦{after}⟧")?;
            }
        }
        let (drops, unused): (Vec<_>, Vec<_>) = self.drops.iter().partition(|rule| rule.rows > 0);
        if !drops.is_empty() {
            write!(formatter, "\n\ndropped:")?;
        }
        for rule in drops {
            write!(formatter, "\n- {}: {} rows", rule.rule, rule.rows)?;
            for DroppedSample { source, found, text } in &rule.samples {
                write!(formatter, "\n  - {source}: {found}: ⟦{text}⟧")?;
            }
        }
        if bad > 0 {
            write!(formatter, "\n\nunreadable:")?;
        }
        for (reason, rows) in &self.bad_rows {
            write!(formatter, "\n- {reason}: {rows} rows")?;
        }
        for sample in &self.bad_row_samples {
            write!(formatter, "\n  - {sample}")?;
        }
        let idle: Vec<&str> =
            silent.iter().map(|rule| &*rule.rule).chain(unused.iter().map(|rule| &*rule.rule)).collect();
        if !idle.is_empty() {
            write!(formatter, "\n\nfound nothing to do: {}", idle.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_show_the_change() {
        let (before, after) = around_change("车\u{200b}床\r\n", "车床\n");
        assert_eq!((before.as_str(), after.as_str()), (r"车\u{200b}床\r\n", r"车床\n"));
        let long = "字".repeat(500);
        let (before, after) = around_change(&format!("{long}！！{long}"), &format!("{long}！{long}"));
        assert_eq!(before.chars().count(), 41);
        assert_eq!(after.chars().count(), 40);
        assert_eq!(around_change("aa", "a"), ("aa".to_owned(), "a".to_owned()));
        assert_eq!(beginning(&long).chars().count(), SHOWN + 1);
    }
}
