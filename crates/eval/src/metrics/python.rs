//! Texts as Python's `str` and `re` see them, where Rust's standard library sees them otherwise.

use std::sync::LazyLock;

use fancy_regex::{Match, Regex};

/// Decimal digits of every script.
static NUMBERS: LazyLock<Pattern> = LazyLock::new(|| Pattern::new(r"\d+"));

/// `str.isspace` of a character: also the separators U+001C to U+001F.
#[must_use]
pub fn is_space(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\u{1c}'..='\u{1f}')
}

/// `str.split()`.
pub fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|part| !part.is_empty())
}

/// `str.strip()`.
#[must_use]
pub fn trim(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `str.rstrip()`.
#[must_use]
pub fn trim_end(text: &str) -> &str {
    text.trim_end_matches(is_space)
}

/// `re.findall(r"\d+", text)`.
#[must_use]
pub fn numbers(text: &str) -> Vec<&str> {
    NUMBERS.find_all(text).map(|found| found.as_str()).collect()
}

/// `round(number, 2)` of a float: the nearest decimal of its exact value.
#[must_use]
pub fn round_to_hundredths(number: f64) -> f64 {
    format!("{number:.2}").parse().unwrap_or(number)
}

/// A pattern that is right, as recorded cases show: a wrong one finds nothing.
pub(super) struct Pattern(Option<Regex>);

impl Pattern {
    pub(super) fn new(pattern: &str) -> Self {
        Self(Regex::new(pattern).ok())
    }

    /// `re.finditer`.
    pub(super) fn find_all<'t>(&self, text: &'t str) -> impl Iterator<Item = Match<'t>> {
        self.0.iter().flat_map(move |regex| regex.find_iter(text)).flatten()
    }
}

/// Patterns and what `re.sub` puts in their place, one after another.
pub(super) struct Substitutions(Vec<(Pattern, &'static str)>);

impl Substitutions {
    pub(super) fn new(rules: &[(&str, &'static str)]) -> Self {
        Self(rules.iter().map(|(pattern, replacement)| (Pattern::new(pattern), *replacement)).collect())
    }

    /// The text after all of them.
    pub(super) fn apply(&self, text: &str) -> String {
        let rules =
            self.0.iter().filter_map(|(Pattern(regex), replacement)| Some((regex.as_ref()?, replacement)));
        rules.fold(text.to_owned(), |text, (regex, replacement)| {
            regex.replace_all(&text, *replacement).into_owned()
        })
    }
}
