//! Where the words of a text begin and end, for counting: no token reaches beyond a word.

use std::borrow::Cow;

use regex_automata::meta::Cache;
use unicode_script::{Script, UnicodeScript};

use super::words::FoundWords;
use crate::gguf::QWEN2;
use crate::sentencepiece::{SPACE, SentencePiece};
use crate::word_pattern::WordPattern;

/// Longest run of Chinese characters that is counted as one word, and so the longest Chinese token.
const LONGEST_CHINESE: usize = 16;
/// The same for all other text.
const LONGEST_OTHER: usize = 32;
/// The same for sentencepiece, whose trainer has this limit on pieces of any script.
pub(super) const LONGEST_PIECE: usize = 16;

/// Cuts a text into words.
pub(super) enum WordRule {
    /// For byte-level BPE.
    ByteLevel(ByteLevel),
    /// As sentencepiece's trainer does, after this vocabulary's normalization.
    SentencePiece(Box<SentencePiece>),
}

/// A pattern, and texts that are tokens of their own.
pub(super) struct WordSplitter {
    pub rule: WordRule,
    /// Special and user-defined tokens; no word holds one.
    pub whole: Vec<String>,
}

/// The pattern `qwen2`.
pub(super) struct ByteLevel {
    pattern: WordPattern,
}

impl WordSplitter {
    /// The words of a stretch of text that begins and ends at lines.
    pub(super) fn split<'a>(&self, text: &'a str) -> FoundWords<'a> {
        match &self.rule {
            WordRule::ByteLevel(byte_level) => {
                let mut cache = None;
                FoundWords::new(text).find(|text, found| {
                    self.between(text, &mut |start, end| {
                        byte_level.find(text, start, end, &mut cache, found)
                    });
                })
            }
            WordRule::SentencePiece(pieces) => {
                let mut normalized = String::with_capacity(text.len() + text.len() / 8);
                for line in text.split('\n') {
                    let line = line.strip_suffix('\r').unwrap_or(line);
                    normalized.push_str(&pieces.normalize(line, true));
                    // No piece holds an end of line.
                    normalized.push('\0');
                }
                FoundWords::new(Cow::<str>::Owned(normalized)).find(|text, found| {
                    self.between(text, &mut |start, end| find_pieces(text, start, end, found));
                })
            }
        }
    }

    /// The stretches between tokens of their own.
    fn between(&self, text: &str, each: &mut dyn FnMut(usize, usize)) {
        // Where each token is next; looked for again only behind what was passed.
        let mut places: Vec<Option<usize>> = self.whole.iter().map(|token| text.find(token)).collect();
        let mut start = 0;
        while start < text.len() {
            for (token, place) in self.whole.iter().zip(&mut places) {
                if place.is_some_and(|at| at < start) {
                    *place = text[start..].find(token).map(|at| start + at);
                }
            }
            let next = self.whole.iter().zip(&places).filter_map(|(token, at)| Some(((*at)?, token.len())));
            match next.min_by_key(|&(at, length)| (at, std::cmp::Reverse(length))) {
                Some((at, length)) => {
                    each(start, at);
                    start = at + length;
                }
                None => {
                    each(start, text.len());
                    return;
                }
            }
        }
    }
}

impl ByteLevel {
    pub(super) fn new() -> Result<Self, String> {
        let pattern = WordPattern::new(QWEN2).ok_or("the pattern of words cannot be read")?;
        Ok(Self { pattern })
    }

    fn find(
        &self,
        text: &str,
        start: usize,
        end: usize,
        cache: &mut Option<Cache>,
        found: &mut dyn FnMut(usize, usize),
    ) {
        self.pattern.for_each(&text[start..end], cache, |(from, to)| {
            find_runs(text, start + from, start + to, found);
        });
    }
}

/// Cuts a piece into runs of Chinese and of other letters, none longer than allowed. A mark or space before the first
/// letter stays with it, as it does when text is encoded.
fn find_runs(text: &str, from: usize, to: usize, found: &mut dyn FnMut(usize, usize)) {
    let (mut start, mut length, mut chinese) = (from, 0, None);
    for (at, character) in text[from..to].char_indices() {
        let is_mark = at == 0 && !character.is_alphanumeric();
        let own = (!is_mark).then(|| is_chinese(character));
        let longest = if chinese == Some(true) { LONGEST_CHINESE } else { LONGEST_OTHER };
        if length > 0 && (chinese.is_some_and(|chinese| own != Some(chinese)) || length == longest) {
            found(start, from + at);
            (start, length) = (from + at, 0);
        }
        chinese = own;
        length += 1;
    }
    found(start, to);
}

/// Han characters, and kana, which run on in the same way.
fn is_chinese(character: char) -> bool {
    matches!(character, '\u{3040}'..='\u{30FF}' | '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}'
        | '\u{F900}'..='\u{FAFF}' | '\u{20000}'..='\u{3FFFF}')
}

/// The words of sentencepiece: a space begins one, and none is of two scripts.
fn find_pieces(text: &str, from: usize, to: usize, found: &mut dyn FnMut(usize, usize)) {
    let (mut start, mut length, mut script) = (from, 0, None);
    for (at, character) in text[from..to].char_indices() {
        let at = from + at;
        let is_space = SPACE.starts_with(character);
        let own = if is_space { None } else { script_of(character) };
        let is_other = own.is_some() && script.is_some() && own != script;
        if length > 0 && (is_space || character == '\0' || is_other || length == LONGEST_PIECE) {
            found(start, at);
            (start, length, script) = (at, 0, None);
        }
        if character == '\0' {
            start = at + 1;
            continue;
        }
        script = own.or(script);
        length += 1;
    }
    if length > 0 {
        found(start, to);
    }
}

/// The script of a character; none where it takes that of its neighbours.
fn script_of(character: char) -> Option<Script> {
    match character.script() {
        Script::Hiragana | Script::Katakana => Some(Script::Han),
        // The mark of a long vowel.
        Script::Common if character == '\u{30FC}' => Some(Script::Han),
        Script::Inherited => None,
        script => Some(script),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
    use tokenizers::tokenizer::{
        OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, SplitDelimiterBehavior,
    };

    fn words(text: &str, find: impl Fn(&str, &mut dyn FnMut(usize, usize))) -> Vec<&str> {
        let mut words = Vec::new();
        find(text, &mut |start, end| words.push(&text[start..end]));
        words
    }

    fn runs(text: &str) -> Vec<&str> {
        words(text, |text, found| find_runs(text, 0, text.len(), found))
    }

    #[test]
    fn runs_are_short_and_of_one_script() {
        assert_eq!(
            runs("，一二三四五六七八一二三四五六七八九"),
            ["，一二三四五六七八一二三四五六七", "八九"]
        );
        assert_eq!(runs("GDP增长"), ["GDP", "增长"]);
        assert!(runs(&"a".repeat(100)).iter().all(|run| run.len() <= LONGEST_OTHER));
    }

    #[test]
    fn pieces_are_those_that_sentencepiece_allows() {
        let pieces = |text| words(text, |text, found| find_pieces(text, 0, text.len(), found));
        assert_eq!(
            pieces("▁GDP增长▁▁3.5%，カーe\u{301}é\0尾"),
            ["▁GDP", "增长", "▁", "▁3.5%，", "カー", "e\u{301}é", "尾"]
        );
        assert_eq!(pieces(&"一".repeat(20)), ["一".repeat(16), "一".repeat(4)]);
    }

    #[test]
    fn tokens_of_their_own_are_in_no_word() {
        let splitter = WordSplitter {
            rule: WordRule::ByteLevel(ByteLevel::new().unwrap()),
            whole: vec!["<s>".into(), "<s>x".into()],
        };
        let between = |text| words(text, |text, found| splitter.between(text, found));
        assert_eq!(between("a<s>b<s>xc<s>"), ["a", "b", "c"]);
    }

    proptest! {
        #[test]
        fn the_pattern_cuts_as_the_one_with_look_ahead(text in "[ \t\r\na1'sé，一\u{3000}]{0,24}") {
            let byte_level = ByteLevel::new().unwrap();
            let ours = words(&text, |text, found| byte_level.find(text, 0, text.len(), &mut None, found));
            let split = Split::new(SplitPattern::Regex(QWEN2.into()), SplitDelimiterBehavior::Isolated, false);
            let mut pieces = PreTokenizedString::from(text.as_str());
            split.unwrap().pre_tokenize(&mut pieces).unwrap();
            let pieces = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
            let theirs: Vec<&str> = pieces.iter().flat_map(|(piece, _, _)| runs(piece)).collect();
            prop_assert_eq!(ours, theirs);
        }
    }
}
