//! Characters that nobody sees: controls, byte order marks, zero-width and direction marks, and the replacement
//! character that a wrong decoding left.

use super::Change;
use super::language::is_cjk;

/// Removes them. Tabs and line ends stay; joiners stay within scripts and emoji that need them.
pub fn remove_invisible(text: &str) -> Option<Change> {
    let mut previous = ' ';
    Change::of_characters(text, |character| {
        let is_removed = match character {
            '\t' | '\n' | '\r' => false,
            // Page and line separators are line ends.
            '\u{b}' | '\u{c}' => false,
            '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{ad}' | '\u{180e}' | '\u{200b}' => true,
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' => true,
            '\u{200c}' | '\u{200d}' => previous.is_ascii() || is_cjk(previous),
            '\u{feff}' | '\u{fff9}'..='\u{fffd}' | '\u{fdd0}'..='\u{fdef}' => true,
            // The last two of each plane are no characters.
            _ => u32::from(character) & 0xFFFE == 0xFFFE,
        };
        if is_removed {
            return None;
        }
        previous = character;
        Some(character)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_sees_is_removed() {
        let change =
            remove_invisible("\u{feff}a\0b\u{200b}车\u{200d}床\u{fffd}\u{85}\tc\n\u{10ffff}").unwrap();
        assert_eq!((change.text.as_str(), change.count), ("ab车床\tc\n", 7));
    }

    #[test]
    fn joiners_stay_where_they_are_part_of_the_writing() {
        assert!(remove_invisible("👩\u{200d}🔧 می\u{200c}خواهم").is_none());
    }
}
