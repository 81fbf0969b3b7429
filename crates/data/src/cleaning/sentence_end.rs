//! Texts that stop in the middle of a sentence.

use super::Change;

/// What ends a sentence, in the order of Baby-Llama2's `fixed_response`.
const ENDS: &str = ".。!！）)》}】?？\"”";

/// Cuts what follows the last mark that ends a sentence; a text without one stays.
pub fn cut_unfinished(text: &str) -> Option<Change> {
    let (place, mark) = text.char_indices().rev().find(|(_, character)| ENDS.contains(*character))?;
    let kept = &text[..place + mark.len_utf8()];
    (!text[kept.len()..].trim().is_empty()).then(|| Change { text: kept.to_owned(), count: 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_whole_sentence_stays() {
        assert_eq!(cut_unfinished("第一句。第二").map(|change| change.text).as_deref(), Some("第一句。"));
        assert!(cut_unfinished("第一句。\n").is_none() && cut_unfinished("无标点").is_none());
    }
}
