//! Where a pre-tokenizer's pattern cuts a text into words, without going back over what was read.
//!
//! The patterns of byte-level vocabularies end in `\s+(?!\S)`: a run of spaces, but for the last one where a word follows. That
//! look-ahead alone keeps them from an automaton, so it is done here; patterns with another one stay with `fancy-regex`.

use std::fmt;

use regex_automata::meta::{Cache, Regex};
use regex_automata::util::syntax::parse;
use regex_automata::{Anchored, Input, PatternID};
use tokenizers::utils::SysRegex;

/// How patterns end that leave the last space to the word behind it, and how some match a space that no word takes.
const SPACES: &str = r"|\s+(?!\S)";
const ANY_SPACES: &str = r"|\s+";

/// A pattern that matches words.
pub(crate) enum WordPattern {
    /// Words, and runs of spaces.
    Automaton {
        regex: Regex,
        /// Whether a single space before something that does not take it is a match.
        any_spaces: bool,
    },
    Backtracking(SysRegex),
}

impl fmt::Debug for WordPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("WordPattern")
    }
}

impl WordPattern {
    /// `None` for what is no pattern.
    pub(crate) fn new(pattern: &str) -> Option<Self> {
        let (before, any_spaces) = match pattern.strip_suffix(ANY_SPACES) {
            Some(before) => (before, true),
            None => (pattern, false),
        };
        let words = before.strip_suffix(SPACES).filter(|words| is_plain(words));
        let automaton = words.and_then(|words| Regex::new_many(&[words, r"\s+"]).ok());
        automaton
            .map(|regex| Self::Automaton { regex, any_spaces })
            .or_else(|| SysRegex::new(pattern).ok().map(Self::Backtracking))
    }

    /// Calls `word` with where each match begins and ends. `cache` is what the automaton remembers from text to text.
    pub(crate) fn for_each(
        &self,
        text: &str,
        cache: &mut Option<Cache>,
        mut word: impl FnMut((usize, usize)),
    ) {
        let (regex, any_spaces) = match self {
            Self::Automaton { regex, any_spaces } => (regex, *any_spaces),
            Self::Backtracking(pattern) => return pattern.find_iter(text).for_each(word),
        };
        let cache = cache.get_or_insert_with(|| regex.create_cache());
        let mut input = Input::new(text);
        while input.start() < text.len() {
            // Nearly always a word begins where the one before it ended, and then only its end is to be found.
            input.set_anchored(Anchored::Yes);
            let here = regex.search_half_with(cache, &input);
            let (start, end, pattern) = if let Some(here) = here {
                (input.start(), here.offset(), here.pattern())
            } else {
                input.set_anchored(Anchored::No);
                let Some(found) = regex.search_with(cache, &input) else { return };
                (found.start(), found.end(), found.pattern())
            };
            let mut next = end;
            if pattern != PatternID::ZERO && end < text.len() {
                let last = text[start..end].char_indices().next_back().map_or(0, |(last, _)| last);
                if last > 0 {
                    next = start + last;
                } else if !any_spaces {
                    input.set_start(end);
                    continue;
                }
            }
            word((start, next));
            input.set_start(next);
        }
    }
}

/// Whether a pattern means the same to an automaton, and matches nothing that is empty.
fn is_plain(words: &str) -> bool {
    // Possessive repetition, which an automaton takes for a repetition of a repetition.
    let counted =
        |(at, _): (usize, &str)| words[..at].ends_with(|last: char| last.is_ascii_digit() || last == ',');
    let is_possessive = ["?+", "*+", "++"].iter().any(|repetition| words.contains(repetition))
        || words.match_indices("}+").any(counted);
    let shortest = parse(words).ok().and_then(|pattern| pattern.properties().minimum_len());
    !is_possessive && shortest.is_some_and(|shortest| shortest > 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::gguf::{GPT2, LLAMA3, QWEN2};

    proptest! {
        #[test]
        fn words_are_those_of_the_backtracking_pattern(text in "([abs12 '\t\r\n!数控\u{3000}]|[^\\p{C}]){0,40}") {
            for pattern in [GPT2, LLAMA3, QWEN2, r"'s|\p{L}+|\s+(?!\S)|\s+", r"[^\s]?\p{L}+|\s+(?!\S)"] {
                let ours = WordPattern::new(pattern).unwrap();
                let is_automaton = matches!(ours, WordPattern::Automaton { .. });
                prop_assert!(is_automaton);
                let (mut found, mut cache) = (Vec::new(), None);
                ours.for_each(&text, &mut cache, |word| found.push(word));
                let theirs: Vec<_> = SysRegex::new(pattern).unwrap().find_iter(&text).collect();
                prop_assert_eq!(found, theirs);
            }
        }
    }
    #[test]
    fn patterns_that_an_automaton_would_read_otherwise_stay_as_they_are() {
        for pattern in
            [r"'s|\p{L}*|\p{N}|\s+(?!\S)|\s+", r"\p{N}{1,3}+\p{L}|\p{L}++|\s+(?!\S)|\s+", r"a(?=b)|b|\s+"]
        {
            let ours = WordPattern::new(pattern).unwrap();
            assert!(matches!(ours, WordPattern::Backtracking(_)), "{pattern}");
            let mut found = Vec::new();
            ours.for_each("ab 12345 c\n数", &mut None, |word| found.push(word));
            let theirs: Vec<_> = SysRegex::new(pattern).unwrap().find_iter("ab 12345 c\n数").collect();
            assert_eq!(found, theirs);
        }
    }
}
