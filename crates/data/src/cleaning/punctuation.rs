//! Runs of punctuation.

use super::Change;

/// The punctuation of Baby-Llama2's `remove_duplicate_punctuation`, without the letter `s` that an unescaped `\s`
/// put into it.
const PUNCTUATION: &str = "\n!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~×—‘’“”…●、。《》【】！（），：；？～￥";

/// The same mark again is left out: `！！！` becomes `！`. Marks that are written several times keep as many as is
/// usual: `……`, `——`, `...`, and three of those that draw lines.
pub fn collapse_repeated(text: &str) -> Option<Change> {
    let (mut previous, mut length) = (' ', 0);
    Change::of_characters(text, |character| {
        length = if character == previous { length + 1 } else { 1 };
        previous = character;
        (length <= longest_run(character)).then_some(character)
    })
}

fn longest_run(character: char) -> usize {
    match character {
        '。' | '！' | '？' | '，' | '、' | '；' | '：' | '!' | '?' | ',' | ';' => 1,
        '…' | '—' => 2,
        '.' | '-' | '=' | '_' | '*' | '#' | '~' | '～' | '·' | '●' | '■' | '□' => 3,
        _ => usize::MAX,
    }
}

/// Baby-Llama2's rule, mended: a space becomes `，`, and of each run of punctuation the first mark stays.
pub fn collapse_runs(text: &str) -> Option<Change> {
    first_of_runs(text, |character| is_ascii_mark(character) || PUNCTUATION.contains(character))
}

/// Baby-Llama2's rule as it was written, which takes the letter `s` for punctuation: `classes` becomes `clases`.
pub fn collapse_runs_and_s(text: &str) -> Option<Change> {
    first_of_runs(text, |character| {
        character == 's' || is_ascii_mark(character) || PUNCTUATION.contains(character)
    })
}

/// All ASCII marks are in the set; asking so is faster.
fn is_ascii_mark(character: char) -> bool {
    character.is_ascii_punctuation()
}

fn first_of_runs(text: &str, is_punctuation: impl Fn(char) -> bool) -> Option<Change> {
    let mut is_in_run = false;
    Change::of_characters(text, |character| {
        let character = if character == ' ' || character == '\u{3000}' { '，' } else { character };
        let was_in_run = is_in_run;
        is_in_run = is_punctuation(character);
        (!(is_in_run && was_in_run)).then_some(character)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(rule: impl Fn(&str) -> Option<Change>, text: &str) -> String {
        rule(text).map_or(text.to_owned(), |change| change.text)
    }

    /// Vectors recorded from the original; `s` is the defect.
    #[test]
    fn runs_collapse_as_in_baby_llama2() {
        for rule in [collapse_runs, collapse_runs_and_s] {
            assert_eq!(text(rule, "你好！！！世界"), "你好！世界");
            assert_eq!(text(rule, "a b  c"), "a，b，c");
            assert_eq!(text(rule, "一、二。。三\n\n四"), "一、二。三\n四");
            assert_eq!(text(rule, "你好\u{3000}世界"), "你好，世界");
        }
        assert_eq!(text(collapse_runs_and_s, "classes"), "clases");
        assert_eq!(text(collapse_runs_and_s, "miss. you"), "misyou");
        assert_eq!(text(collapse_runs, "classes"), "classes");
        assert_eq!(text(collapse_runs, "miss. you"), "miss.you");
    }

    #[test]
    fn the_set_has_its_57_characters() {
        assert_eq!(PUNCTUATION.chars().count() + 1, 57);
        assert!(
            (0..128_u8).map(char::from).filter(char::is_ascii_punctuation).all(|c| PUNCTUATION.contains(c))
        );
    }

    #[test]
    fn usual_repetitions_stay() {
        let usual = "他说：“……”——好吧... 3 - 2？！\n\n\n第二章 C++ && |---|";
        assert_eq!(text(collapse_repeated, usual), usual);
        assert_eq!(
            text(collapse_repeated, "太好了！！！！真的？？？？………………。。。。====="),
            "太好了！真的？……。==="
        );
    }
}
