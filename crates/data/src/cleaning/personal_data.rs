//! Personal data → placeholders: telephone numbers of mainland China, e-mail addresses, ID card and bank card numbers.
//!
//! Numbers with a check digit are masked only where it is right. What stands inside a longer number or word is left
//! alone; names and addresses are not looked for.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::Change;

/// A kind of personal data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PersonalData {
    /// The 18 characters of a resident's ID card (GB 11643), with a real date and the right check digit.
    IdCard,
    /// 16 to 19 digits, in groups of four or not, with the right check digit (Luhn, ISO/IEC 7812).
    BankCard,
    /// Mobile numbers, with or without +86 and separators, and landline numbers with their area code.
    Phone,
    /// E-mail addresses.
    Email,
}

impl PersonalData {
    /// All kinds, in the order in which they are looked for: the ones with check digits first.
    pub const ALL: [Self; 4] = [Self::IdCard, Self::BankCard, Self::Phone, Self::Email];

    /// Its name in options and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::IdCard => "id-card",
            Self::BankCard => "bank-card",
            Self::Phone => "phone",
            Self::Email => "email",
        }
    }

    /// What is written in its place by default.
    pub fn placeholder(self) -> &'static str {
        match self {
            Self::IdCard => "[身份证号]",
            Self::BankCard => "[银行卡号]",
            Self::Phone => "[电话]",
            Self::Email => "[邮箱]",
        }
    }

    /// Replaces each by `placeholder`.
    pub fn mask(self, text: &str, placeholder: &str) -> Option<Change> {
        let spans = match self {
            Self::IdCard => numbers(text, id_card),
            Self::BankCard => numbers(text, bank_card),
            Self::Phone => numbers(text, phone),
            Self::Email => emails(text),
        };
        if spans.is_empty() {
            return None;
        }
        let (mut changed, mut end) = (String::with_capacity(text.len()), 0);
        for span in &spans {
            changed.push_str(&text[end..span.start]);
            changed.push_str(placeholder);
            end = span.end;
        }
        changed.push_str(&text[end..]);
        Some(Change { text: changed, count: spans.len() as u64 })
    }
}

type Span = Range<usize>;

/// The most groups of digits that a number is written in: those of a bank card.
const GROUPS: usize = 5;

/// Spans that `recognise` finds at the start of some of the runs of digits from an index on.
fn numbers(text: &str, recognise: impl Fn(&[u8], &[Span]) -> Option<Span>) -> Vec<Span> {
    let bytes = text.as_bytes();
    let mut runs: Vec<Span> = Vec::new();
    let mut place = 0;
    while let Some(start) = bytes[place..].iter().position(u8::is_ascii_digit).map(|offset| place + offset) {
        let length = bytes[start..].iter().position(|byte| !byte.is_ascii_digit());
        place = length.map_or(bytes.len(), |length| start + length);
        runs.push(start..place);
    }
    let mut spans: Vec<Span> = Vec::new();
    for index in 0..runs.len() {
        if spans.last().is_some_and(|span| span.end > runs[index].start) {
            continue;
        }
        if let Some(span) = recognise(bytes, &runs[index..])
            && stands_alone(bytes, &span)
        {
            spans.push(span);
        }
    }
    spans
}

/// Whether neither side goes on with a letter, a digit or a decimal fraction.
fn stands_alone(bytes: &[u8], span: &Span) -> bool {
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let at = |place: Option<usize>| place.and_then(|place| bytes.get(place));
    let before = at(span.start.checked_sub(1));
    let goes_on_before = before.is_some_and(is_word)
        || before == Some(&b'.') && at(span.start.checked_sub(2)).is_some_and(u8::is_ascii_digit);
    let after = at(Some(span.end));
    let goes_on_after = after.is_some_and(is_word)
        || after == Some(&b'.') && at(Some(span.end + 1)).is_some_and(u8::is_ascii_digit);
    !goes_on_before && !goes_on_after
}

/// How many runs from the first on are joined by the same single `-` or space, as far as a number has groups.
fn joined(bytes: &[u8], runs: &[Span]) -> usize {
    let separator = |pair: &[Span]| {
        let between = &bytes[pair[0].end..pair[1].start];
        (between == b"-" || between == b" ").then(|| between[0])
    };
    let first = runs.get(..2).and_then(separator);
    match first {
        None => 1,
        Some(_) => 1 + runs.windows(2).take(GROUPS).take_while(|pair| separator(pair) == first).count(),
    }
}

fn phone(bytes: &[u8], runs: &[Span]) -> Option<Span> {
    let first = runs[0].clone();
    let length = |index: usize| runs.get(index).map_or(0, |run| run.len());
    let is_mobile = |place: usize| bytes[place] == b'1' && matches!(bytes[place + 1], b'3'..=b'9');
    let start = match first.start.checked_sub(1).map(|place| bytes[place]) {
        Some(b'+') => first.start - 1,
        _ => first.start,
    };
    let digits = &bytes[first.clone()];
    let count = joined(bytes, runs);
    match digits.len() {
        11 if is_mobile(first.start) => Some(first),
        13 if digits.starts_with(b"86") && is_mobile(first.start + 2) => Some(start..first.end),
        2 if digits == b"86" && count > 1 => {
            let number = phone(bytes, &runs[1..]).filter(|number| is_mobile(number.start))?;
            Some(start..number.end)
        }
        3 if count >= 3 && is_mobile(first.start) && length(1) == 4 && length(2) == 4 => {
            Some(first.start..runs[2].end)
        }
        3 | 4 if digits[0] == b'0' && count >= 2 && matches!(length(1), 7 | 8) => {
            Some(first.start..runs[1].end)
        }
        _ => None,
    }
}

fn id_card(bytes: &[u8], runs: &[Span]) -> Option<Span> {
    const WEIGHTS: [u32; 17] = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2];
    const CHECKS: &[u8; 11] = b"10X98765432";
    let start = runs[0].start;
    let number = bytes.get(start..start + 18)?;
    let last = number[17].to_ascii_uppercase();
    if runs[0].len() < 17 || !(last.is_ascii_digit() || last == b'X') {
        return None;
    }
    let value = |range: Range<usize>| {
        number[range].iter().fold(0, |value, digit| value * 10 + u32::from(digit - b'0'))
    };
    let is_province =
        matches!(value(0..2), 11..=15 | 21..=23 | 31..=37 | 41..=46 | 50..=54 | 61..=65 | 71 | 81..=83);
    let days = match value(10..12) {
        2 => 29,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => 0,
    };
    let is_date = matches!(value(6..10), 1850..=2150) && (1..=days).contains(&value(12..14));
    let sum: u32 = number.iter().zip(WEIGHTS).map(|(digit, weight)| u32::from(digit - b'0') * weight).sum();
    (is_province && is_date && CHECKS[sum as usize % 11] == last).then_some(start..start + 18)
}

fn bank_card(bytes: &[u8], runs: &[Span]) -> Option<Span> {
    let groups = match runs[0].len() {
        16..=19 => 1,
        4 => {
            let whole = runs[..joined(bytes, runs)].iter().take_while(|run| run.len() == 4).take(4).count();
            let has_rest = runs.get(4).is_some_and(|rest| joined(bytes, runs) > 4 && rest.len() < 4);
            if whole < 4 {
                return None;
            }
            4 + usize::from(has_rest)
        }
        _ => return None,
    };
    let span = runs[0].start..runs[groups - 1].end;
    let digits =
        bytes[span.clone()].iter().filter(|byte| byte.is_ascii_digit()).map(|byte| u32::from(byte - b'0'));
    let sum: u32 = digits
        .rev()
        .enumerate()
        .map(|(place, digit)| if place % 2 == 0 { digit } else { digit * 2 / 10 + digit * 2 % 10 })
        .sum();
    // Payment cards begin with 2 to 6.
    (matches!(bytes[span.start], b'2'..=b'6') && sum.is_multiple_of(10)).then_some(span)
}

fn emails(text: &str) -> Vec<Span> {
    let bytes = text.as_bytes();
    let is_local = |byte: &u8| byte.is_ascii_alphanumeric() || b"._%+-".contains(byte);
    let is_domain = |byte: &u8| byte.is_ascii_alphanumeric() || b".-".contains(byte);
    let mut spans: Vec<Span> = Vec::new();
    for (at, _) in text.match_indices('@') {
        let floor = spans.last().map_or(0, |span| span.end);
        let local = bytes[floor..at].iter().rev().take_while(|byte| is_local(byte)).count();
        let domain = bytes[at + 1..].iter().take_while(|byte| is_domain(byte)).count();
        let start = at - local;
        let start = start + bytes[start..at].iter().take_while(|byte| !byte.is_ascii_alphanumeric()).count();
        // A full stop or hyphen behind it belongs to the sentence.
        let domain = text[at + 1..at + 1 + domain].trim_end_matches(['.', '-']);
        let is_whole = domain.rsplit_once('.').is_some_and(|(name, top)| {
            !name.is_empty()
                && !domain.contains("..")
                && top.len() >= 2
                && top.bytes().all(|byte| byte.is_ascii_alphabetic())
        });
        if start < at && is_whole {
            spans.push(start..at + 1 + domain.len());
        }
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(kind: PersonalData, text: &str) -> String {
        kind.mask(text, kind.placeholder()).map_or(text.to_owned(), |change| change.text)
    }

    #[test]
    fn telephone_numbers_of_any_writing_are_masked() {
        for number in [
            "13812345678",
            "138-1234-5678",
            "138 1234 5678",
            "+8613812345678",
            "8613812345678",
            "+86 13812345678",
            "+86-138-1234-5678",
            "010-12345678",
            "0571-1234567",
        ] {
            assert_eq!(masked(PersonalData::Phone, &format!("电话{number}。")), "电话[电话]。", "{number}");
        }
        for other in [
            "113812345678",
            "12812345678",
            "3.13812345678",
            "a13812345678b",
            "1381234-5678",
            "2023-10-11",
            "86",
        ] {
            assert_eq!(masked(PersonalData::Phone, other), other);
        }
        let two = PersonalData::Phone.mask("13812345678、13912345678", "*").unwrap();
        assert_eq!((two.text.as_str(), two.count), ("*、*", 2));
    }

    #[test]
    fn a_table_of_numbers_takes_linear_time() {
        let text = "1 ".repeat(1_000_000) + "138 1234 5678";
        assert_eq!(PersonalData::Phone.mask(&text, "*").unwrap().count, 1);
        assert!(PersonalData::BankCard.mask(&text, "*").is_none());
    }

    #[test]
    fn id_cards_are_known_by_their_check_digit() {
        // The example of GB 11643.
        assert_eq!(masked(PersonalData::IdCard, "证号11010519491231002X，"), "证号[身份证号]，");
        assert_eq!(masked(PersonalData::IdCard, "11010519491231002x"), "[身份证号]");
        assert_eq!(masked(PersonalData::IdCard, "440524188001010014"), "[身份证号]");
        for other in ["110105194912310021", "11010519491331002X", "1101051949123100", "0440524188001010014"] {
            assert_eq!(masked(PersonalData::IdCard, other), other);
        }
    }

    #[test]
    fn bank_cards_are_known_by_their_check_digit() {
        assert_eq!(masked(PersonalData::BankCard, "卡号4111 1111 1111 1111"), "卡号[银行卡号]");
        assert_eq!(
            masked(PersonalData::BankCard, "6222021234567890128"),
            masked(PersonalData::BankCard, "6222021234567890128")
        );
        assert_eq!(masked(PersonalData::BankCard, "4111111111111111"), "[银行卡号]");
        assert_eq!(masked(PersonalData::BankCard, "4111111111111112"), "4111111111111112");
        assert_eq!(masked(PersonalData::BankCard, "4111 1111 1111"), "4111 1111 1111");
    }

    #[test]
    fn e_mail_addresses_are_masked_without_the_sentence_around_them() {
        assert_eq!(masked(PersonalData::Email, "联系a.b+c@mail.example.com.或x@y.cn"), "联系[邮箱].或[邮箱]");
        for other in ["@张三", "a@b", "a@b.1", "1 @ 2.com", "@", "a@.com"] {
            assert_eq!(masked(PersonalData::Email, other), other);
        }
    }
}
