//! The space that technical Chinese puts between characters and Latin letters or digits. Punctuation needs none.

/// `text` with such spaces where they are missing.
pub fn spaced(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    let mut previous = None;
    for next in text.chars() {
        if previous.is_some_and(|previous| {
            (is_han(previous) && next.is_ascii_alphanumeric())
                || (previous.is_ascii_alphanumeric() && is_han(next))
        }) {
            out.push(' ');
        }
        out.push(next);
        previous = Some(next);
    }
    out
}

fn is_han(character: char) -> bool {
    ('\u{4e00}'..='\u{9fff}').contains(&character)
}
