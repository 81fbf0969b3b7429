//! Words that must not be trained on: rows with them are dropped, or the words masked.

use std::path::Path;

use aho_corasick::{AhoCorasick, MatchKind};
use fs_err as fs;

use super::Change;
use crate::error::{DataError, Result};

/// A list of words; letters of ASCII are the same in both cases.
pub struct Blocklist(AhoCorasick);

impl Blocklist {
    /// Reads a list, one word a line.
    ///
    /// # Errors
    /// A file that cannot be read or holds no word.
    pub fn open(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)?;
        Self::new(
            text.trim_start_matches('\u{feff}').lines().map(str::trim).filter(|word| !word.is_empty()),
            path,
        )
    }

    fn new<'a>(words: impl Iterator<Item = &'a str>, path: &Path) -> Result<Self> {
        let words: Vec<&str> = words.collect();
        let problem = |problem: String| DataError::Option { option: "blocklist", problem };
        if words.is_empty() {
            return Err(problem(format!("`{}` is empty: expected one word a line", path.display())));
        }
        let built = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .ascii_case_insensitive(true)
            .build(&words);
        Ok(Self(built.map_err(|error| problem(format!("`{}`: {error}", path.display())))?))
    }

    /// The first word of the list in a text.
    pub fn find<'t>(&self, text: &'t str) -> Option<&'t str> {
        self.0.find(text).map(|found| &text[found.range()])
    }

    /// Each character of the words becomes `*`.
    pub fn mask(&self, text: &str) -> Option<Change> {
        let (mut changed, mut end, mut count) = (String::new(), 0, 0);
        for found in self.0.find_iter(text) {
            changed.push_str(&text[end..found.start()]);
            changed.extend(text[found.range()].chars().map(|_| '*'));
            end = found.end();
            count += 1;
        }
        changed.push_str(&text[end..]);
        (count > 0).then_some(Change { text: changed, count })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_word_is_found_in_any_case() {
        let list = Blocklist::new(["赌博", "赌博网站", "Spam"].into_iter(), Path::new("words")).unwrap();
        assert_eq!(list.find("上赌博网站"), Some("赌博网站"));
        assert_eq!(list.mask("SPAM，赌博网站").unwrap().text, "****，****");
        assert!(list.mask("车床").is_none());
    }
}
