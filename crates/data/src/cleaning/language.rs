//! How much of a text is Chinese.

/// The share of Chinese, Japanese and Korean characters among those that are no space; 0 for an empty text.
pub fn cjk_share(text: &str) -> f64 {
    let (mut cjk, mut all) = (0_u64, 0_u64);
    for character in text.chars().filter(|character| !character.is_whitespace()) {
        all += 1;
        cjk += u64::from(is_cjk(character));
    }
    if all == 0 { 0.0 } else { cjk as f64 / all as f64 }
}

/// Ideographs with their punctuation, kana and hangul, and full-width forms.
pub fn is_cjk(character: char) -> bool {
    matches!(character,
        '\u{2e80}'..='\u{9fff}' // radicals, punctuation, kana, ideographs
        | '\u{ac00}'..='\u{d7af}'
        | '\u{f900}'..='\u{faff}'
        | '\u{fe30}'..='\u{fe4f}'
        | '\u{ff00}'..='\u{ffef}'
        | '\u{20000}'..='\u{3ffff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_what_is_no_space() {
        assert_eq!(cjk_share("磨削，\n ab c"), 0.5);
        assert_eq!(cjk_share(" \n"), 0.0);
        assert_eq!(cjk_share("𠮷〇々"), 1.0);
    }
}
