//! One spelling for texts that look the same: Unicode normalization forms (UAX #15), and half-width forms of
//! full-width characters.

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick, is_nfkc_quick};

use super::Change;

/// Distance of a full-width form from its ASCII character.
const FULL_WIDTH: u32 = 0xFEE0;
const IDEOGRAPHIC_SPACE: char = '\u{3000}';

/// Composed characters (NFC); nothing that is told apart in print changes.
pub fn nfc(text: &str) -> Option<Change> {
    // Asking the tables for each character is slow; most texts hold only what no form changes.
    let is_stable = |character| {
        matches!(character,
            '\0'..='\u{2ff}' | '\u{2010}'..='\u{2027}' | '\u{3001}'..='\u{3020}' | '\u{4e00}'..='\u{9fff}' | '！'..='～')
    };
    if text.chars().all(is_stable) {
        return None;
    }
    normalized(text, is_nfc_quick(text.chars()), |text| text.nfc().collect())
}

/// Composed characters without compatibility forms (NFKC): `①` becomes `1`, `，` becomes `,`, `ｱ` becomes `ア`.
pub fn nfkc(text: &str) -> Option<Change> {
    normalized(text, is_nfkc_quick(text.chars()), |text| text.nfkc().collect())
}

fn normalized(text: &str, quick: IsNormalized, compose: impl Fn(&str) -> String) -> Option<Change> {
    if quick == IsNormalized::Yes {
        return None;
    }
    let composed = compose(text);
    (composed != text).then_some(Change { text: composed, count: 1 })
}

/// Full-width letters and digits become ASCII; punctuation stays as Chinese writes it.
pub fn half_width_letters(text: &str) -> Option<Change> {
    narrowed(text, |character| matches!(character, '０'..='９' | 'Ａ'..='Ｚ' | 'ａ'..='ｚ'))
}

/// All full-width ASCII forms and the ideographic space become ASCII.
pub fn half_width(text: &str) -> Option<Change> {
    narrowed(text, |character| matches!(character, '！'..='～' | IDEOGRAPHIC_SPACE))
}

fn narrowed(text: &str, is_wide: impl Fn(char) -> bool) -> Option<Change> {
    Change::of_characters(text, |character| {
        if !is_wide(character) {
            return Some(character);
        }
        let narrow = char::from_u32(u32::from(character).wrapping_sub(FULL_WIDTH));
        Some(if character == IDEOGRAPHIC_SPACE { ' ' } else { narrow.unwrap_or(character) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(change: Option<Change>) -> String {
        change.map(|change| change.text).unwrap_or_default()
    }

    #[test]
    fn forms_are_those_of_unicode() {
        assert_eq!(text(nfc("cafe\u{301} ①，")), "caf\u{e9} ①，");
        assert_eq!(text(nfkc("①，ｱ ﬁ")), "1,ア fi");
        assert!(nfc("磨削 café").is_none() && nfkc("磨削 cafe").is_none());
    }

    #[test]
    fn what_is_taken_for_stable_is_so() {
        for character in ('\0'..='\u{ffff}').filter(|character| nfc(&character.to_string()).is_none()) {
            assert_eq!(character.nfc().next(), Some(character), "{character:?}");
        }
    }

    #[test]
    fn width_is_a_choice() {
        assert_eq!(text(half_width_letters("ＧＢ１８０３０，（ａ）　完")), "GB18030，（a）　完");
        assert_eq!(text(half_width("ＧＢ１８０３０，（ａ）　完～")), "GB18030,(a) 完~");
        assert_eq!(half_width_letters("Ａ，１").map(|change| change.count), Some(2));
        assert!(half_width_letters("，。").is_none());
    }
}
