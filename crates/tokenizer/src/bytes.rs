//! How bytes are written as text: the alphabet of byte-level BPE (each byte as one printable character, as GPT-2 defined
//! it), sentencepiece's byte tokens, and hexadecimal digests.

/// Whether a byte stands for itself in the alphabet.
fn is_printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// The characters of all bytes, by byte. Bytes that are not printable take U+0100, U+0101, … in order.
pub(crate) fn alphabet() -> [char; 256] {
    let mut next = '\u{100}'..;
    std::array::from_fn(|byte| {
        let byte = byte as u8;
        if is_printable(byte) { char::from(byte) } else { next.next().unwrap_or(char::REPLACEMENT_CHARACTER) }
    })
}

/// The byte that a character of the alphabet stands for.
fn byte_of(character: char) -> Option<u8> {
    match u32::from(character) {
        code @ 0..=0xFF if is_printable(code as u8) => Some(code as u8),
        code @ 0x100..=0x120 => Some((code - 0x100) as u8),
        code @ 0x121..=0x142 => Some((code - 0x121 + 0x7F) as u8),
        0x143 => Some(0xAD),
        _ => None,
    }
}

/// The bytes of a byte-level token; `None` when the text is not written in the alphabet.
pub(crate) fn bytes_of(token: &str) -> Option<Vec<u8>> {
    token.chars().map(byte_of).collect()
}

/// The byte of a sentencepiece byte token such as `<0xE4>`.
pub(crate) fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// Two lower-case digits for each byte.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_character_and_comes_back() {
        let alphabet = alphabet();
        assert_eq!(alphabet[usize::from(b' ')], 'Ġ');
        assert_eq!(alphabet[usize::from(b'\n')], 'Ċ');
        for (byte, character) in alphabet.into_iter().enumerate() {
            assert_eq!(byte_of(character), Some(byte as u8));
        }
        assert_eq!(bytes_of("ä½ł"), Some("你".as_bytes().to_vec()));
        assert_eq!(bytes_of("你"), None);
    }
}
