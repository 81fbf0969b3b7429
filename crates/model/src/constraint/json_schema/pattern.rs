//! Regular expressions of JSON schemas (ECMA 262), as far as they are plain: characters, classes, groups, alternatives,
//! repetitions, and anchors at the ends. Inside of a string's quotes, with what JSON escapes.

use crate::constraint::expression::{Expression, complement, intersection};

use super::strings::{any_characters, escaped};

/// Groups within groups at most, and the largest number in braces.
const DEEPEST: usize = 100;
const MOST_REPETITIONS: usize = 10_000;

/// Texts, as between the quotes of JSON, in which the pattern is found.
///
/// # Errors
/// What is not supported, or where the pattern is none.
pub(super) fn pattern(pattern: &str) -> Result<Expression, String> {
    let mut parser = Parser { characters: pattern.chars().collect(), position: 0 };
    let expression = parser.whole().map_err(|reason| format!("`pattern`: `{pattern}`: {reason}"))?;
    Ok(expression)
}

struct Parser {
    characters: Vec<char>,
    position: usize,
}

type Ranges = Vec<(u32, u32)>;

impl Parser {
    fn peek(&self) -> Option<char> {
        self.characters.get(self.position).copied()
    }

    fn take(&mut self, text: &str) -> bool {
        let is_next = self.characters[self.position.min(self.characters.len())..]
            .iter()
            .copied()
            .take(text.len())
            .eq(text.chars());
        self.position += if is_next { text.len() } else { 0 };
        is_next
    }

    fn whole(&mut self) -> Result<Expression, String> {
        let mut choices = Vec::new();
        loop {
            let is_first = self.take("^");
            let inner = self.sequence(0)?;
            let is_last = self.take("$");
            let before = if is_first { Expression::empty() } else { any_characters() };
            let behind = if is_last { Expression::empty() } else { any_characters() };
            choices.push(Expression::Sequence(vec![before, inner, behind]));
            match self.peek() {
                None => return Ok(Expression::Choice(choices)),
                Some('|') => self.position += 1,
                Some(')') => return Err("a `)` has no `(`".into()),
                Some(_) => return Err("`$` is supported only at the end".into()),
            }
        }
    }

    fn sequence(&mut self, depth: usize) -> Result<Expression, String> {
        let mut parts = Vec::new();
        while let Some(next) = self.peek() {
            let part = match next {
                '|' | ')' | '$' => break,
                '^' => return Err("`^` is supported only at the beginning".into()),
                '*' | '+' | '?' | '{' => return Err(format!("there is nothing before `{next}`")),
                '(' => self.group(depth)?,
                '[' => escaped(&self.class()?),
                '.' => {
                    self.position += 1;
                    escaped(&complement([0xA, 0xD, 0x2028, 0x2029].map(|one| (one, one)).to_vec()))
                }
                '\\' => escaped(&self.escape()?),
                one => {
                    self.position += 1;
                    escaped(&[(one.into(), one.into())])
                }
            };
            parts.push(self.repeated(part)?);
        }
        Ok(Expression::Sequence(parts))
    }

    fn group(&mut self, depth: usize) -> Result<Expression, String> {
        self.position += 1;
        if !self.take("?:") && self.peek() == Some('?') {
            return Err("looking around and named groups are not supported".into());
        }
        if depth == DEEPEST {
            return Err("groups stand in each other too deep".into());
        }
        let mut choices = vec![self.sequence(depth + 1)?];
        while self.take("|") {
            choices.push(self.sequence(depth + 1)?);
        }
        match self.peek() {
            Some(')') => self.position += 1,
            Some(_) => return Err("`$` is supported only at the end".into()),
            None => return Err("a `(` has no `)`".into()),
        }
        Ok(Expression::Choice(choices))
    }

    fn repeated(&mut self, part: Expression) -> Result<Expression, String> {
        let (least, most) = match self.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => {
                let end = self.characters[self.position..].iter().position(|one| *one == '}');
                let end = end.ok_or("a `{` has no `}`")? + self.position;
                let inside: String = self.characters[self.position + 1..end].iter().collect();
                self.position = end;
                let number = |text: &str| match text.parse() {
                    Ok(number) if number <= MOST_REPETITIONS => Ok(number),
                    _ => Err(format!("`{{{inside}}}` is no number of repetitions up to {MOST_REPETITIONS}")),
                };
                match inside.split_once(',') {
                    None => (number(&inside)?, Some(number(&inside)?)),
                    Some((least, "")) => (number(least)?, None),
                    Some((least, most)) => (number(least)?, Some(number(most)?)),
                }
            }
            _ => return Ok(part),
        };
        self.position += 1;
        // Whether it takes much or little first changes no text.
        self.take("?");
        if most.is_some_and(|most| most < least) {
            return Err(format!("at least {least} and at most {} times is never", most.unwrap_or_default()));
        }
        Ok(Expression::repeat(part, least, most))
    }

    fn class(&mut self) -> Result<Ranges, String> {
        self.position += 1;
        let is_negative = self.take("^");
        let mut ranges = Ranges::new();
        loop {
            let first = match self.peek() {
                None => return Err("a `[` has no `]`".into()),
                Some(']') => break,
                Some('\\') => self.escape()?,
                Some(one) => {
                    self.position += 1;
                    vec![(one.into(), one.into())]
                }
            };
            let ends = self.characters.get(self.position..self.position + 2);
            let is_range = ends.is_some_and(|next| next[0] == '-' && next[1] != ']');
            let (&[(low, high)], true) = (&first[..], is_range) else {
                ranges.extend(first);
                continue;
            };
            self.position += 1;
            let last = match self.peek() {
                Some('\\') => self.escape()?,
                Some(one) => {
                    self.position += 1;
                    vec![(one.into(), one.into())]
                }
                None => Ranges::new(),
            };
            match last[..] {
                [(last, end)] if low == high && last == end && low <= last => ranges.push((low, last)),
                _ => return Err("a range in `[…]` runs backwards or has no end".into()),
            }
        }
        self.position += 1;
        Ok(if is_negative { complement(ranges) } else { ranges })
    }

    /// What stands behind a backslash.
    fn escape(&mut self) -> Result<Ranges, String> {
        self.position += 1;
        let Some(one) = self.peek() else { return Err("there is nothing behind the last `\\`".into()) };
        self.position += 1;
        let ranges =
            |of: &[(char, char)]| of.iter().map(|(a, b)| (u32::from(*a), u32::from(*b))).collect::<Ranges>();
        let digits = ranges(&[('0', '9')]);
        let word = ranges(&[('a', 'z'), ('A', 'Z'), ('0', '9'), ('_', '_')]);
        let space = ranges(&[
            ('\t', '\r'),
            (' ', ' '),
            ('\u{A0}', '\u{A0}'),
            ('\u{1680}', '\u{1680}'),
            ('\u{2000}', '\u{200A}'),
            ('\u{2028}', '\u{2029}'),
            ('\u{202F}', '\u{202F}'),
            ('\u{205F}', '\u{205F}'),
            ('\u{3000}', '\u{3000}'),
            ('\u{FEFF}', '\u{FEFF}'),
        ]);
        // What all dialects call white space is enough to write; none of it is what is not.
        let plain_space = intersection(&space, &[(0x9, 0xA), (0xD, 0xD), (0x20, 0x20)]);
        let single = |point: u32| vec![(point, point)];
        Ok(match one {
            'd' => digits,
            'D' => complement(digits),
            'w' => word,
            'W' => complement(word),
            's' => plain_space,
            'S' => complement(space),
            't' => single(0x9),
            'n' => single(0xA),
            'v' => single(0xB),
            'f' => single(0xC),
            'r' => single(0xD),
            'x' | 'u' => {
                let count = if one == 'x' { 2 } else { 4 };
                let end = (self.position + count).min(self.characters.len());
                let code: String = self.characters[self.position..end].iter().collect();
                self.position = end;
                match u32::from_str_radix(&code, 16) {
                    Ok(point) if code.len() == count && char::from_u32(point).is_some() => single(point),
                    _ => return Err(format!("`\\{one}{code}` is no character's number")),
                }
            }
            one if one.is_alphanumeric() => return Err(format!("`\\{one}` is not supported")),
            one => single(one.into()),
        })
    }
}
