//! The words of Chinese text, as jieba 0.42.1 cuts them by default: its dictionary, and its hidden Markov model for what is not in it.
//!
//! The crate has jieba's dictionary, but takes more characters for Chinese and leaves `state-of-the-art` whole: both are undone here.

use std::sync::LazyLock;

use jieba_rs::Jieba;

use super::python::Pattern;

/// Made at the first use, in some tenths of a second.
static JIEBA: LazyLock<Jieba> = LazyLock::new(Jieba::new);
/// What jieba keeps together of Latin letters and digits that are no word of its dictionary.
static LATIN: LazyLock<Pattern> = LazyLock::new(|| Pattern::new(r"[a-zA-Z0-9]+(?:\.\d+)?%?"));

/// `jieba.cut(text)`: every character of the text is in one word; runs of Latin letters are words, and so is each space.
#[must_use]
pub fn cut(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text;
    while let Some((place, character)) = rest.char_indices().find(|(_, character)| is_no_han(*character)) {
        add(&rest[..place], &mut words);
        let end = place + character.len_utf8();
        words.push(&rest[place..end]);
        rest = &rest[end..];
    }
    add(rest, &mut words);
    words
}

/// Whether jieba takes a character from Chinese on for a word of its own.
fn is_no_han(character: char) -> bool {
    matches!(character, '\u{3400}'..='\u{4dbf}' | '\u{9fd6}'..)
}

fn add<'t>(text: &'t str, words: &mut Vec<&'t str>) {
    for token in JIEBA.cut(text, true) {
        if !token.word.contains(['.', '_', '-']) {
            words.push(token.word);
            continue;
        }
        let mut end = 0;
        for found in LATIN.find_all(token.word) {
            words.extend(Some(&token.word[end..found.start()]).filter(|gap| !gap.is_empty()));
            words.push(&token.word[found.range()]);
            end = found.end();
        }
        words.extend(Some(&token.word[end..]).filter(|gap| !gap.is_empty()));
    }
}
