//! The letter that a reasoned answer arrives at, in Chinese or English.
//!
//! What an answer says last counts, and what is announced as the answer counts before what is merely chosen. It guesses
//! nothing: an answer that states no letter, or two at once, has none.

use super::questions::LETTERS;

/// What announces a letter, the surest first.
const ANNOUNCED: [&[&str]; 2] = [
    &["boxed", "答案", "answer", "正确选项", "正确的选项", "正确的是"],
    &["故选", "应选", "选择", "选", "option", "choose", "choice"],
];

/// Words and signs that may stand between announcement and letter.
const BETWEEN: [&str; 22] = [
    "正确",
    "选项",
    "应该",
    "应当",
    "选择",
    "是",
    "为",
    "应",
    "选",
    "就",
    "的",
    "：",
    "，",
    "option",
    "should be",
    "must be",
    "choice",
    "is",
    "the",
    "correct",
    "text",
    "mathrm",
];

/// Before an announcement these say the opposite.
const DENIED: [&str; 5] = ["不", "别", "勿", "非", "not "];

/// The index of the letter A to D that `answer` states.
pub(super) fn stated_letter(answer: &str) -> Option<usize> {
    let answer: String = answer.chars().map(narrow).collect();
    // Letters stay where they are, so that places in one are places in the other.
    let lower = answer.to_ascii_lowercase();
    for phrases in ANNOUNCED {
        let mut found: Vec<(usize, usize)> = Vec::new();
        for phrase in phrases {
            let announced = lower.match_indices(phrase).filter(|(at, _)| !is_denied(&lower[..*at]));
            found.extend(announced.filter_map(|(at, _)| {
                let end = at + phrase.len();
                Some((at, letter_behind(&answer[end..], &lower[end..])?))
            }));
        }
        if let Some((_, letter)) = found.into_iter().max() {
            return Some(letter);
        }
    }
    alone(&answer)
}

/// Letters and brackets of full width as those of ASCII.
fn narrow(character: char) -> char {
    match character {
        'Ａ'..='Ｄ' => char::from_u32(character as u32 - 'Ａ' as u32 + 'A' as u32).unwrap_or(character),
        '（' => '(',
        '）' => ')',
        other => other,
    }
}

fn is_denied(before: &str) -> bool {
    DENIED.iter().any(|word| before.ends_with(word))
}

/// The letter that a text begins with, behind what may stand between.
fn letter_behind(text: &str, lower: &str) -> Option<usize> {
    let mut at = 0;
    loop {
        let rest = &lower[at..];
        let sign = rest.chars().next().filter(|sign| is_sign(*sign)).map(char::len_utf8);
        let word = || BETWEEN.iter().find(|word| rest.starts_with(**word)).map(|word| word.len());
        match sign.or_else(word) {
            Some(length) => at += length,
            None => return first_letter(&text[at..]),
        }
    }
}

fn is_sign(sign: char) -> bool {
    sign.is_whitespace() || "()[]{}<>【】「」《》“”‘’\"'`*_#$\\:-—=".contains(sign)
}

/// The letter at the beginning, where it is no part of a word or of several letters.
fn first_letter(text: &str) -> Option<usize> {
    let letter = LETTERS.iter().position(|letter| text.starts_with(letter))?;
    let behind = text[1..].trim_start_matches([' ', '、', ',', '，', '和', '或', '/', '&', ')', '(']);
    let joined = behind.len() < text.len() - 1
        && LETTERS.iter().any(|letter| {
            behind
                .strip_prefix(letter)
                .is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_alphanumeric()))
        });
    let is_word = text[1..].starts_with(|next: char| next.is_ascii_alphanumeric());
    (!joined && !is_word).then_some(letter)
}

/// The letter of a first or last line that says hardly more, as `B` or `B. text`.
fn alone(answer: &str) -> Option<usize> {
    let lines = || answer.lines().map(str::trim).filter(|line| !line.is_empty());
    let bare = |line: &str| {
        let line = line.trim_start_matches(is_sign);
        let letter = first_letter(line)?;
        let rest = line[1..].trim_start_matches([')', '*']);
        let is_bare = rest.is_empty() || rest.starts_with(['.', '。', '、', '：', ':', '．']);
        is_bare.then_some(letter)
    };
    lines().next().and_then(bare).or_else(|| lines().next_back().and_then(bare))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_found_in_many_phrasings() {
        for (answer, letter) in [
            ("答案是B", "B"),
            ("答案：(C)", "C"),
            ("所以答案是D。", "D"),
            ("综上，选D", "D"),
            ("故选 A。", "A"),
            ("因此应选（Ｃ）。", "C"),
            ("正确答案为选项 B：磨削。", "B"),
            ("答案应该是**A**。", "A"),
            ("【答案】C\n【解析】略", "C"),
            ("本题的正确答案是：\n\nB. 顺铣", "B"),
            ("答案是 $\\boxed{B}$", "B"),
            ("Thus \\boxed{\\text{D}}.", "D"),
            ("The answer is (A).", "A"),
            ("So the answer is: **C**", "C"),
            ("The correct answer is option B.", "B"),
            ("Answer: D", "D"),
            ("Therefore I choose B because it is hard.", "B"),
            ("A 是错的，B 也不对，所以选择C", "C"),
            ("起初我以为答案是A，但重新计算后答案是B。", "B"),
            ("不选A，也不选B，选C。", "C"),
            ("选A不对。答案是D", "D"),
            ("C", "C"),
            ("B. 顺铣", "B"),
            ("(D)", "D"),
            ("这是顺铣。\nB", "B"),
            ("A。因为刀具旋转", "A"),
            ("分析可知，正确选项是B。", "B"),
            ("正确的选项为 C", "C"),
            ("四个选项中正确的是D", "D"),
        ] {
            assert_eq!(stated_letter(answer).map(|index| LETTERS[index]), Some(letter), "{answer}");
        }
    }

    #[test]
    fn an_answer_without_a_letter_has_none() {
        for answer in [
            "",
            "我不知道。",
            "答案不是A",
            "The answer is not A",
            "The answer is a lathe.",
            "答案是AB",
            "答案是 A 和 C",
            "答案：A、B、C",
            "A lathe turns the workpiece.",
            "The answer is Cutting.",
            "答案是E",
            "不选A",
            "A 车削，B 铣削",
        ] {
            assert_eq!(stated_letter(answer), None, "{answer}");
        }
    }
}
