//! Line ends and spaces.

use super::Change;

/// CRLF, CR, form feeds and the separators of Unicode become LF.
pub fn line_ends(text: &str) -> Option<Change> {
    let mut characters = text.chars().peekable();
    let (mut changed, mut count) = (String::new(), 0);
    if !text.contains(['\r', '\u{b}', '\u{c}', '\u{2028}', '\u{2029}']) {
        return None;
    }
    changed.reserve(text.len());
    while let Some(character) = characters.next() {
        match character {
            '\r' => {
                characters.next_if_eq(&'\n');
                changed.push('\n');
                count += 1;
            }
            '\u{b}' | '\u{c}' | '\u{2028}' | '\u{2029}' => {
                changed.push('\n');
                count += 1;
            }
            _ => changed.push(character),
        }
    }
    Some(Change { text: changed, count })
}

/// Space at the end of each line and of the text goes. Counted are lines.
pub fn trim_ends(text: &str) -> Option<Change> {
    let kept = text.trim_end();
    let mut count = u64::from(kept.len() < text.len());
    if kept.lines().all(|line| !line.ends_with(char::is_whitespace)) {
        return (count > 0).then(|| Change { text: kept.to_owned(), count });
    }
    let mut changed = String::with_capacity(kept.len());
    for (index, line) in kept.split('\n').enumerate() {
        if index > 0 {
            changed.push('\n');
        }
        let trimmed = line.trim_end();
        count += u64::from(trimmed.len() < line.len());
        changed.push_str(trimmed);
    }
    Some(Change { text: changed, count })
}

/// Besides [`trim_ends`]: one space for several, at most one blank line, no indents with ideographic spaces. Indents of
/// ASCII spaces and tabs stay, because they are code's. Counted are lines.
pub fn collapse(text: &str) -> Option<Change> {
    let (mut changed, mut count, mut blank) = (String::with_capacity(text.len()), 0, 0_u64);
    for line in text.split('\n') {
        let mut words = line.split_whitespace();
        let Some(first) = words.next() else {
            blank += 1;
            count += u64::from(blank > 1 || !line.is_empty());
            continue;
        };
        // Blank lines at the beginning go too.
        let breaks = if changed.is_empty() { 0 } else { 1 + usize::from(blank > 0) };
        changed.extend(std::iter::repeat_n('\n', breaks));
        blank = 0;
        let start = changed.len();
        let indent = &line[..line.len() - line.trim_start().len()];
        if indent.bytes().all(|byte| byte == b' ' || byte == b'\t') {
            changed.push_str(indent);
        }
        changed.push_str(first);
        for word in words {
            changed.push(' ');
            changed.push_str(word);
        }
        count += u64::from(changed[start..] != *line);
    }
    (changed != text).then_some(Change { text: changed, count: count.max(1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(change: Option<Change>) -> (String, u64) {
        change.map(|change| (change.text, change.count)).unwrap_or_default()
    }

    #[test]
    fn every_line_end_is_lf() {
        assert_eq!(parts(line_ends("a\r\nb\rc\u{2028}d\u{c}\n")), ("a\nb\nc\nd\n\n".to_owned(), 4));
        assert!(line_ends("a\nb\n").is_none());
    }

    #[test]
    fn space_at_ends_goes_and_indents_stay() {
        assert_eq!(parts(trim_ends("　　甲 \n\n  乙\u{3000}\n\n")), ("　　甲\n\n  乙".to_owned(), 2));
        assert!(trim_ends("  a\n\nb").is_none());
        assert_eq!(parts(trim_ends(" \n")), (String::new(), 1));
    }

    #[test]
    fn space_collapses() {
        assert_eq!(parts(collapse("\n　　甲  乙\n\n\n\n丙\n丁 ")).0, "甲 乙\n\n丙\n丁");
        assert!(collapse("甲 乙\n\n丙").is_none());
        assert_eq!(parts(collapse("def f():\n    return  1")), ("def f():\n    return 1".to_owned(), 1));
    }
}
