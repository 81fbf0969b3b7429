//! llama.cpp's grammar files (GBNF): rules, texts, classes of characters, groups, repetitions, comments. Not its tokens (`<…>`).

use std::collections::HashMap;

use super::expression::{Expression, complement};
use super::grammar::Grammar;

/// Groups within groups at most.
const DEEPEST: usize = 200;
/// Largest number in braces.
const MOST_REPETITIONS: usize = 100_000;

impl Grammar {
    /// Reads a grammar in GBNF, whose texts are those of the rule `root`.
    ///
    /// # Errors
    /// A sentence with line and column, both from 1, where the text is no such grammar; a rule that is left out or given twice; and
    /// a grammar that cannot be followed.
    pub fn from_gbnf(text: &str) -> Result<Self, String> {
        let mut parser = Parser {
            characters: text.chars().collect(),
            position: 0,
            rules: Vec::new(),
            names: HashMap::new(),
        };
        parser.skip(true);
        while parser.peek().is_some() {
            parser.rule()?;
            parser.skip(true);
        }
        let mut rules = Vec::with_capacity(parser.rules.len());
        for Rule { name, expression, first_use } in std::mem::take(&mut parser.rules) {
            let Some(expression) = expression else {
                parser.position = first_use;
                return Err(
                    parser.error(&format!("there is no rule `{name}`: define it with `{name} ::= …`"))
                );
            };
            rules.push((name, expression));
        }
        match parser.names.get("root") {
            Some(root) => Self::compile(&rules, *root),
            None => Err("the grammar has no rule `root`: name its first rule so".into()),
        }
    }
}

struct Rule {
    name: String,
    expression: Option<Expression>,
    first_use: usize,
}

struct Parser {
    characters: Vec<char>,
    position: usize,
    rules: Vec<Rule>,
    names: HashMap<String, usize>,
}

impl Parser {
    fn peek(&self) -> Option<char> {
        self.characters.get(self.position).copied()
    }

    fn take(&mut self, character: char) -> bool {
        let is_next = self.peek() == Some(character);
        self.position += usize::from(is_next);
        is_next
    }

    /// A sentence on where the parser stands.
    fn error(&self, message: &str) -> String {
        let before = &self.characters[..self.position.min(self.characters.len())];
        let line = before.iter().filter(|one| **one == '\n').count() + 1;
        let column = before.iter().rev().take_while(|one| **one != '\n').count() + 1;
        format!("the grammar's line {line}, column {column}: {message}")
    }

    fn expected(&self, what: &str) -> String {
        let found = self.peek().map_or("the end".into(), |one| format!("`{}`", one.escape_debug()));
        self.error(&format!("expected {what}, found {found}"))
    }

    /// Blanks and comments, with line breaks where they mean nothing.
    fn skip(&mut self, over_lines: bool) {
        while let Some(one) = self.peek() {
            match one {
                '#' => {
                    while self.peek().is_some_and(|one| one != '\n') {
                        self.position += 1;
                    }
                }
                '\n' | '\r' if !over_lines => return,
                ' ' | '\t' | '\n' | '\r' | '\u{FEFF}' => self.position += 1,
                _ => return,
            }
        }
    }

    fn name(&mut self) -> Result<usize, String> {
        let start = self.position;
        while self.peek().is_some_and(|one| one.is_ascii_alphanumeric() || one == '-' || one == '_') {
            self.position += 1;
        }
        if start == self.position {
            return Err(self.expected("a rule's name"));
        }
        let name: String = self.characters[start..self.position].iter().collect();
        Ok(*self.names.entry(name.clone()).or_insert_with(|| {
            self.rules.push(Rule { name, expression: None, first_use: start });
            self.rules.len() - 1
        }))
    }

    fn rule(&mut self) -> Result<(), String> {
        let start = self.position;
        let rule = self.name()?;
        self.skip(false);
        if !(self.take(':') && self.take(':') && self.take('=')) {
            return Err(self.expected("`::=`"));
        }
        if self.rules[rule].expression.is_some() {
            self.position = start;
            let message = format!("the rule `{}` is defined a second time", self.rules[rule].name);
            return Err(self.error(&message));
        }
        self.skip(true);
        let expression = self.choice(0)?;
        self.rules[rule].expression = Some(expression);
        match self.peek() {
            None | Some('\n' | '\r') => Ok(()),
            Some(_) => Err(self.expected("a part of a rule or the end of the line")),
        }
    }

    fn choice(&mut self, depth: usize) -> Result<Expression, String> {
        let mut choices = vec![self.sequence(depth)?];
        loop {
            // An alternative may begin the next line.
            let end = self.position;
            self.skip(true);
            if !self.take('|') {
                if depth == 0 {
                    self.position = end;
                }
                break;
            }
            self.skip(true);
            choices.push(self.sequence(depth)?);
        }
        Ok(if choices.len() == 1 { choices.remove(0) } else { Expression::Choice(choices) })
    }

    fn sequence(&mut self, depth: usize) -> Result<Expression, String> {
        let mut parts = Vec::new();
        loop {
            self.skip(depth > 0);
            let Some(next) = self.peek() else { break };
            let part = match next {
                '"' => self.literal()?,
                '[' => self.class()?,
                '.' => {
                    self.position += 1;
                    Expression::Class(complement(Vec::new()))
                }
                '(' if depth == DEEPEST => return Err(self.error("groups stand in each other too deep")),
                '(' => {
                    self.position += 1;
                    let group = self.choice(depth + 1)?;
                    if !self.take(')') {
                        return Err(self.expected("`)`"));
                    }
                    group
                }
                one if one.is_ascii_alphanumeric() || one == '_' => Expression::Rule(self.name()?),
                '*' | '+' | '?' | '{' => return Err(self.expected("something before a repetition")),
                '<' | '!' => return Err(self.error("tokens (`<…>`) are not supported: write their text")),
                _ => break,
            };
            parts.push(self.repeated(part, depth)?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Expression::Sequence(parts) })
    }

    fn repeated(&mut self, mut part: Expression, depth: usize) -> Result<Expression, String> {
        loop {
            self.skip(depth > 0);
            let (least, most) = match self.peek() {
                Some('*') => (0, None),
                Some('+') => (1, None),
                Some('?') => (0, Some(1)),
                Some('{') => self.bounds()?,
                _ => return Ok(part),
            };
            self.position += 1;
            part = Expression::repeat(part, least, most);
        }
    }

    /// `{m}`, `{m,}`, `{m,n}`, up to the brace that closes it.
    fn bounds(&mut self) -> Result<(usize, Option<usize>), String> {
        self.position += 1;
        let least = self.number()?;
        let mut most = Some(least);
        self.skip(true);
        if self.take(',') {
            self.skip(true);
            most = if self.peek() == Some('}') { None } else { Some(self.number()?) };
            self.skip(true);
        }
        if self.peek() != Some('}') {
            return Err(self.expected("`}`"));
        }
        match most {
            Some(most) if most < least => {
                Err(self.error(&format!("at least {least} and at most {most} times is never")))
            }
            most => Ok((least, most)),
        }
    }

    fn number(&mut self) -> Result<usize, String> {
        self.skip(true);
        let start = self.position;
        while self.peek().is_some_and(|one| one.is_ascii_digit()) {
            self.position += 1;
        }
        let digits: String = self.characters[start..self.position].iter().collect();
        match digits.parse() {
            Ok(number) if number <= MOST_REPETITIONS => Ok(number),
            _ if digits.is_empty() => Err(self.expected("a number of repetitions")),
            _ => Err(self.error(&format!("expected at most {MOST_REPETITIONS} repetitions, found {digits}"))),
        }
    }

    fn literal(&mut self) -> Result<Expression, String> {
        let start = self.position;
        self.position += 1;
        let mut text = String::new();
        while !self.take('"') {
            if matches!(self.peek(), None | Some('\n')) {
                self.position = start;
                return Err(self.error("the text that begins here has no closing `\"`"));
            }
            text.push(self.character()?);
        }
        Ok(Expression::text(text))
    }

    fn class(&mut self) -> Result<Expression, String> {
        let start = self.position;
        self.position += 1;
        let is_negative = self.take('^');
        let mut ranges = Vec::new();
        while !self.take(']') {
            if matches!(self.peek(), None | Some('\n')) {
                self.position = start;
                return Err(self.error("the class that begins here has no closing `]`"));
            }
            let first = self.character()?;
            let mut last = first;
            if self.peek() == Some('-')
                && self.characters.get(self.position + 1).is_some_and(|one| *one != ']')
            {
                self.position += 1;
                last = self.character()?;
            }
            if last < first {
                let (first, last) = (first.escape_debug(), last.escape_debug());
                return Err(self.error(&format!("the range `{first}-{last}` runs backwards")));
            }
            ranges.push((first.into(), last.into()));
        }
        Ok(Expression::Class(if is_negative { complement(ranges) } else { ranges }))
    }

    /// One character, or one that is written as an escape.
    fn character(&mut self) -> Result<char, String> {
        let Some(one) = self.peek() else { return Err(self.expected("a character")) };
        self.position += 1;
        if one != '\\' {
            return Ok(one);
        }
        let escape = self.peek();
        self.position += 1;
        let digits = match escape {
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            Some('n') => return Ok('\n'),
            Some('r') => return Ok('\r'),
            Some('t') => return Ok('\t'),
            Some(one @ ('\\' | '"' | '[' | ']' | '-' | '^')) => return Ok(one),
            _ => {
                self.position -= 1;
                return Err(self.expected("one of `n r t x u U \\ \" [ ]` behind `\\`"));
            }
        };
        let end = (self.position + digits).min(self.characters.len());
        let code: String = self.characters[self.position..end].iter().collect();
        let number = if code.len() == digits { u32::from_str_radix(&code, 16).ok() } else { None };
        match number.and_then(char::from_u32) {
            Some(character) => {
                self.position = end;
                Ok(character)
            }
            None => Err(self.error(&format!("expected a character's number in {digits} hexadecimal digits"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Constraint, Vocabulary};
    use super::*;

    /// Every byte is a token.
    fn fulfils(grammar: &str, text: &str) -> Option<bool> {
        let grammar = Grammar::from_gbnf(grammar).unwrap();
        let vocabulary = Vocabulary::new((0..=255).map(|byte| vec![byte]));
        let mut state = Constraint::new(&grammar, Arc::new(vocabulary)).begin();
        for byte in text.bytes() {
            let is_allowed = state.allowed().contains(byte.into());
            assert_eq!(state.accept(byte.into()), is_allowed);
            if !is_allowed {
                return None;
            }
        }
        Some(state.may_end())
    }

    fn check(grammar: &str, whole: &[&str], beginnings: &[&str], others: &[&str]) {
        for (texts, expected) in [(whole, Some(true)), (beginnings, Some(false)), (others, None)] {
            for text in texts {
                assert_eq!(fulfils(grammar, text), expected, "`{text}` in `{grammar}`");
            }
        }
    }

    #[test]
    fn every_part_of_a_grammar_means_what_llama_cpp_has_it_mean() {
        check(r#"root ::= "a" | "bc""#, &["a", "bc"], &["", "b"], &["c", "ab"]);
        check("root ::= [a-c]+ [^a-c]?", &["a", "abz", "c中"], &[""], &["z", "azz"]);
        check("root ::= .{2,3}", &["中文", "a\n!"], &["", "中"], &["abcd"]);
        check("root ::= \"x\"{2} \"y\"{1,}", &["xxy", "xxyyyy"], &["xx"], &["xy", "xxx"]);
        check("root ::= \"x\"{0,2} \"y\"*", &["", "xxyy", "y"], &[], &["xxx"]);
        check(
            "# a comment\nroot ::= (\"a\" # one\n | b)\n\nb ::= \"b\"\n  | \"c\" # end",
            &["a", "b", "c"],
            &[""],
            &["d"],
        );
        check(
            r#"root ::= "\x41\u4e2d\U0001F600\n\"" [\]\\\-]"#,
            &["A中😀\n\"]", "A中😀\n\"\\"],
            &["A中"],
            &["a"],
        );
        check("root ::= pair\npair ::= \"(\" pair* \")\"", &["()", "((()()))"], &["(()"], &[")", "())"]);
        check("root ::= ((\"a\"?)* \"b\"?)*", &["", "aab", "bba"], &[], &["c"]);
        check("root ::= [中-文]", &["中", "丰"], &[""], &["龥", "a"]);
    }

    #[test]
    fn an_alternative_that_never_ends_is_never_begun() {
        check("root ::= \"a\" | \"b\" loop\nloop ::= \"b\" loop", &["a"], &[""], &["b"]);
        let error = Grammar::from_gbnf("root ::= \"b\" root").unwrap_err();
        assert_eq!(error, "the grammar's rule `root` never ends: nothing fulfils it");
    }

    #[test]
    fn errors_tell_line_and_column() {
        let cases = [
            ("root ::= \"a", "line 1, column 10: the text that begins here has no closing `\"`"),
            ("root ::= a\na = \"b\"", "line 2, column 3: expected `::=`, found `=`"),
            ("root ::= (\"a\"", "line 1, column 14: expected `)`, found the end"),
            ("root ::= \"a\" b", "line 1, column 14: there is no rule `b`: define it with `b ::= …`"),
            ("root ::= \"a\"\nroot ::= \"b\"", "line 2, column 1: the rule `root` is defined a second time"),
            ("root ::= [z-a]", "line 1, column 14: the range `z-a` runs backwards"),
            ("root ::= *", "line 1, column 10: expected something before a repetition, found `*`"),
            ("root ::= \"a\"{3,2}", "line 1, column 17: at least 3 and at most 2 times is never"),
            (
                "root ::= \"\\q\"",
                "line 1, column 12: expected one of `n r t x u U \\ \" [ ]` behind `\\`, found `q`",
            ),
            (
                "root ::= \"\\ud800\"",
                "line 1, column 13: expected a character's number in 4 hexadecimal digits",
            ),
            ("root ::= <think>", "line 1, column 10: tokens (`<…>`) are not supported: write their text"),
        ];
        for (grammar, expected) in cases {
            assert_eq!(Grammar::from_gbnf(grammar).unwrap_err(), format!("the grammar's {expected}"));
        }
        assert!(Grammar::from_gbnf("a ::= \"b\"").unwrap_err().contains("no rule `root`"));
        for recursive in [
            "root ::= root \"a\" | \"b\"",
            "root ::= x* root \"a\" | \"b\"\nx ::= \"x\"",
            "root ::= a \"b\" | \"c\"\na ::= root | \"d\"",
        ] {
            let error = Grammar::from_gbnf(recursive).unwrap_err();
            assert!(error.contains("calls itself before it has read anything"), "{error}");
        }
        let deep = "(".repeat(100_000);
        assert!(Grammar::from_gbnf(&format!("root ::= {deep}")).unwrap_err().contains("too deep"));
        let large = format!("root ::= {}", "\"a\"{100000} ".repeat(21));
        assert!(Grammar::from_gbnf(&large).unwrap_err().contains("too large"));
    }

    #[test]
    fn a_grammar_of_too_many_ways_ends_instead_of_growing_without_bound() {
        let doubling = "root ::= \"a\" root \"c\" | \"a\" root \"b\" | \"d\"";
        assert_eq!(fulfils(doubling, &"a".repeat(40)), None);
        assert_eq!(fulfils(doubling, "aadbc"), Some(true));
    }
}
