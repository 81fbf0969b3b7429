//! `precompiled_charsmap`: which characters become which others (NFKC and the like), longest match first.
//!
//! A double array of `u32` as darts-clone writes it, and behind it the replacements, each ended by a zero byte.

/// The map of a `.model` file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CharacterMap {
    units: Vec<u32>,
    replacements: Vec<u8>,
}

impl CharacterMap {
    /// Reads the bytes of the field; the error says what is wrong with them.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let damaged = || "`normalizer_spec.precompiled_charsmap` is damaged".to_owned();
        let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(damaged)?;
        let length = u32::from_le_bytes(*length) as usize;
        let (units, replacements) = rest.split_at_checked(length).ok_or_else(damaged)?;
        let (units, odd) = units.as_chunks::<4>();
        if units.is_empty() || !odd.is_empty() || std::str::from_utf8(replacements).is_err() {
            return Err(damaged());
        }
        let units = units.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
        Ok(Self { units, replacements: replacements.to_vec() })
    }

    /// The longest start of `text` that is replaced: its length in bytes, and by what.
    pub(crate) fn longest_match(&self, text: &str) -> Option<(usize, &str)> {
        let mut found = None;
        let mut node = offset(self.units[0]);
        for (index, byte) in text.bytes().enumerate() {
            node ^= usize::from(byte);
            let Some(&unit) = self.units.get(node) else { break };
            // The label of a node is its byte; of a leaf no byte.
            if unit & 0x8000_00FF != u32::from(byte) {
                break;
            }
            node ^= offset(unit);
            if unit >> 8 & 1 == 1
                && text.is_char_boundary(index + 1)
                && let Some(&leaf) = self.units.get(node)
            {
                found = Some((index + 1, (leaf & 0x7FFF_FFFF) as usize));
            }
        }
        let (length, at) = found?;
        let text = self.replacements.get(at..)?;
        let end = text.iter().position(|&byte| byte == 0)?;
        Some((length, std::str::from_utf8(&text[..end]).ok()?))
    }
}

/// Where the children of a node are, relative to it.
fn offset(unit: u32) -> usize {
    ((unit >> 10) << ((unit & 0x200) >> 6)) as usize
}
