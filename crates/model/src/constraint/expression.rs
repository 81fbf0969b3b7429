//! What grammars are written in before they are compiled: expressions over texts and rules.

/// What a part of a text may be.
#[derive(Clone, Debug)]
pub(super) enum Expression {
    /// These bytes.
    Literal(Vec<u8>),
    /// One character of these ranges of code points, both ends included.
    Class(Vec<(u32, u32)>),
    /// What a rule is.
    Rule(usize),
    /// One behind the other.
    Sequence(Vec<Expression>),
    /// One of these; none of none.
    Choice(Vec<Expression>),
    /// One several times.
    Repeat {
        item: Box<Expression>,
        least: usize,
        /// None without a bound.
        most: Option<usize>,
    },
}

impl Expression {
    pub(super) fn text(text: impl AsRef<str>) -> Self {
        Self::Literal(text.as_ref().as_bytes().to_vec())
    }

    pub(super) fn empty() -> Self {
        Self::Sequence(Vec::new())
    }

    pub(super) fn repeat(item: Self, least: usize, most: impl Into<Option<usize>>) -> Self {
        Self::Repeat { item: Box::new(item), least, most: most.into() }
    }

    pub(super) fn optional(item: Self) -> Self {
        Self::Choice(vec![item, Self::empty()])
    }

    /// One of these characters.
    pub(super) fn one_of(characters: &str) -> Self {
        Self::Class(characters.chars().map(|one| (one.into(), one.into())).collect())
    }

    /// A character from one to the other.
    pub(super) fn range(first: char, last: char) -> Self {
        Self::Class(vec![(first.into(), last.into())])
    }

    pub(super) fn digits(least: usize, most: impl Into<Option<usize>>) -> Self {
        Self::repeat(Self::range('0', '9'), least, most)
    }
}

/// Ranges that cover every character that these do not.
pub(super) fn complement(mut ranges: Vec<(u32, u32)>) -> Vec<(u32, u32)> {
    ranges.sort_unstable();
    let mut next = 0;
    let mut others = Vec::new();
    for (first, last) in ranges {
        if first > next {
            others.push((next, first - 1));
        }
        next = next.max(last.saturating_add(1));
    }
    if next <= u32::from(char::MAX) {
        others.push((next, char::MAX.into()));
    }
    others
}

/// What both have.
pub(super) fn intersection(a: &[(u32, u32)], b: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let both = a.iter().flat_map(|a| b.iter().map(|b| (a.0.max(b.0), a.1.min(b.1))));
    both.filter(|(first, last)| first <= last).collect()
}
