//! Rules of the user: regular expressions, one a line, whose matches are removed in the order of the lines, as
//! `re.sub(pattern, "", text)` does. Python's syntax, with look-around.

use std::path::{Path, PathBuf};

use fancy_regex::Regex;
use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::Change;
use crate::error::{DataError, Result};

/// The rules of literary-alpaca2's `ill_ocr_regex.txt`, for books that were read by machine.
const LITERARY_ALPACA2: [&str; 20] = [
    "[a-z]",
    "[\u{e003}-\u{e7a4}]",
    "□",
    "■",
    "[①-⑳]",
    "[⑴-⒇]",
    "[㈠-㈩]",
    "[⒈-⒓]",
    r"\*",
    r"\{",
    r"\}",
    "§",
    "︴",
    "-",
    "—",
    "_",
    "【",
    "】",
    "○",
    "\u{fffd}",
];

/// Where rules come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleSource {
    /// A file with one expression a line.
    File(PathBuf),
    /// The twenty expressions of literary-alpaca2.
    LiteraryAlpaca2,
}

/// An expression whose matches are removed.
pub struct Pattern {
    /// Its place and text, as reports name it.
    pub name: String,
    regex: Regex,
}

impl RuleSource {
    /// Reads the expressions.
    ///
    /// # Errors
    /// A file that cannot be read; an expression that is none, with its line.
    pub fn patterns(&self) -> Result<Vec<Pattern>> {
        match self {
            Self::LiteraryAlpaca2 => {
                let rules = LITERARY_ALPACA2.iter().zip(1..);
                rules
                    .map(|(pattern, line)| Pattern::new(pattern, Path::new("literary-alpaca2"), line))
                    .collect()
            }
            Self::File(path) => {
                let text = fs::read_to_string(path)?;
                let lines = text.trim_start_matches('\u{feff}').lines().zip(1..);
                lines
                    .filter(|(pattern, _)| !pattern.is_empty())
                    .map(|(pattern, line)| Pattern::new(pattern, path, line))
                    .collect()
            }
        }
    }
}

impl Pattern {
    fn new(pattern: &str, path: &Path, line: u64) -> Result<Self> {
        let regex = Regex::new(pattern).map_err(|error| DataError::Rule {
            path: path.to_owned(),
            line,
            pattern: pattern.to_owned(),
            message: error.to_string(),
        })?;
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        Ok(Self { name: format!("{file}:{line} `{pattern}`"), regex })
    }

    /// Removes the matches.
    ///
    /// # Errors
    /// An expression with look-around that takes too long on this text.
    pub fn remove(&self, text: &str) -> std::result::Result<Option<Change>, String> {
        let (mut changed, mut end, mut count) = (String::new(), 0, 0);
        for found in self.regex.find_iter(text) {
            let found = found.map_err(|error| format!("{}: {error}", self.name))?;
            // An empty match removes nothing.
            if !found.as_str().is_empty() {
                changed.push_str(&text[end..found.start()]);
                end = found.end();
                count += 1;
            }
        }
        if count == 0 {
            return Ok(None);
        }
        changed.push_str(&text[end..]);
        Ok(Some(Change { text: changed, count }))
    }
}

/// Each `；` becomes a line end, as literary-alpaca2's cleaning does.
pub fn semicolons_to_line_ends(text: &str) -> Option<Change> {
    Change::of_characters(text, |character| Some(if character == '；' { '\n' } else { character }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(patterns: &[Pattern], text: &str) -> String {
        patterns.iter().fold(text.to_owned(), |text, pattern| match pattern.remove(&text).unwrap() {
            Some(change) => change.text,
            None => text,
        })
    }

    /// The vector was recorded from the original.
    #[test]
    fn books_are_cleaned_as_in_literary_alpaca2() {
        let patterns = RuleSource::LiteraryAlpaca2.patterns().unwrap();
        let cleaned = apply(&patterns, "第①章abc—DEF_【注】；正文*重要*○完");
        assert_eq!(semicolons_to_line_ends(&cleaned).unwrap().text, "第章DEF注\n正文重要完");
    }

    #[test]
    fn rules_follow_each_other_and_a_wrong_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rules.txt");
        fs::write(&path, "b\r\n\nac\n(?<!第)\\d+章\n").unwrap();
        let patterns = RuleSource::File(path.clone()).patterns().unwrap();
        assert_eq!(apply(&patterns, "abc 第3章 4章"), " 第3章 ");
        assert_eq!(patterns[1].name, "rules.txt:3 `ac`");
        fs::write(&path, "a\n[b\n").unwrap();
        let message = RuleSource::File(path).patterns().err().unwrap().to_string();
        assert!(message.contains("rules.txt:2: `[b` is no regular expression: "), "{message}");
    }
}
