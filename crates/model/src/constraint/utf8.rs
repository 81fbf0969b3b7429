//! Ranges of characters as sequences of ranges of bytes (UTF-8).

/// Sequences of byte ranges, both ends included, that spell the code points from `first` to `last`; surrogates are left out.
pub(super) fn byte_ranges(first: u32, last: u32) -> Vec<Vec<(u8, u8)>> {
    let mut sequences = Vec::new();
    // Code points of one length, without the surrogates.
    for (low, high) in [(0, 0x7F), (0x80, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFF), (0x1_0000, 0x10_FFFF)] {
        let (low, high) = (first.max(low), last.min(high));
        if let (Some(low), Some(high)) = (char::from_u32(low), char::from_u32(high))
            && low <= high
        {
            let (mut first, mut last) = ([0; 4], [0; 4]);
            split(
                low.encode_utf8(&mut first).as_bytes(),
                high.encode_utf8(&mut last).as_bytes(),
                &mut sequences,
            );
        }
    }
    sequences
}

/// Splits so that all bytes behind one that varies take their whole range. Both ends have one length.
fn split(first: &[u8], last: &[u8], out: &mut Vec<Vec<(u8, u8)>>) {
    let (Some((&head, rest)), Some((&end, rest_of_last))) = (first.split_first(), last.split_first()) else {
        return out.push(Vec::new());
    };
    let lowest = rest.iter().all(|byte| *byte == 0x80);
    let highest = rest_of_last.iter().all(|byte| *byte == 0xBF);
    let mut behind = |head: (u8, u8), first: &[u8], last: &[u8]| {
        let mut tails = Vec::new();
        split(first, last, &mut tails);
        out.extend(tails.into_iter().map(|tail| [&[head][..], &tail].concat()));
    };
    let (lows, highs) = (vec![0x80; rest.len()], vec![0xBF; rest.len()]);
    if head == end {
        return behind((head, head), rest, rest_of_last);
    }
    let whole = (head + u8::from(!lowest), end - u8::from(!highest));
    if !lowest {
        behind((head, head), rest, &highs);
    }
    if whole.0 <= whole.1 {
        behind(whole, &lows, &highs);
    }
    if !highest {
        behind((end, end), &lows, rest_of_last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequences_spell_exactly_the_range() {
        let ranges = [
            (0, 0x10_FFFF),
            (0x41, 0x41),
            (0x4E00, 0x9FFF),
            (0x7F, 0x801),
            (0xD000, 0xE010),
            (0x80, 0x10_FFFE),
        ];
        for (first, last) in ranges {
            let sequences = byte_ranges(first, last);
            for point in (0..=0x10_FFFF_u32)
                .filter(|point| point % 97 == 0 || point.abs_diff(last) < 80 || point.abs_diff(first) < 80)
            {
                let Some(character) = char::from_u32(point) else { continue };
                let mut bytes = [0; 4];
                let bytes = character.encode_utf8(&mut bytes).as_bytes();
                let spells = |ranges: &Vec<(u8, u8)>| {
                    ranges.len() == bytes.len()
                        && ranges.iter().zip(bytes).all(|(range, byte)| (range.0..=range.1).contains(byte))
                };
                let count = sequences.iter().filter(|ranges| spells(ranges)).count();
                assert_eq!(
                    count,
                    usize::from(first <= point && point <= last),
                    "{point:#x} in {first:#x}..{last:#x}"
                );
            }
        }
    }
}
