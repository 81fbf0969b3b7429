//! Compiled grammars: rules over bytes, without parts that could never end, refused where a rule would call itself before
//! it has read anything.

use std::collections::HashMap;
use std::sync::Arc;

use super::expression::Expression;
use super::utf8::byte_ranges;

/// Symbols of a compiled grammar at most.
const MOST_SYMBOLS: usize = 2_000_000;

/// What texts a model may write.
#[derive(Debug, Clone)]
pub struct Grammar {
    pub(super) rules: Arc<Rules>,
}

/// A step of an alternative of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Symbol {
    /// A byte of this set.
    Byte(u32),
    /// What this rule is.
    Rule(u32),
    /// The alternative is over.
    End,
}

/// A set of bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct ByteSet([u64; 4]);

impl ByteSet {
    fn insert(&mut self, (first, last): (u8, u8)) {
        for byte in first..=last {
            self.0[usize::from(byte / 64)] |= 1 << (byte % 64);
        }
    }

    pub(super) fn contains(&self, byte: u8) -> bool {
        self.0[usize::from(byte / 64)] >> (byte % 64) & 1 == 1
    }
}

/// The rules.
#[derive(Debug)]
pub(super) struct Rules {
    /// All alternatives, one behind the other, each with its end.
    pub(super) symbols: Vec<Symbol>,
    pub(super) sets: Vec<ByteSet>,
    /// Where the alternatives of each rule begin.
    pub(super) starts: Vec<Vec<u32>>,
    pub(super) root: u32,
}

impl Grammar {
    /// Compiles rules with their names, of which one is the root.
    ///
    /// # Errors
    /// A rule that calls itself before it has read anything, a root that never ends, and too much.
    pub(super) fn compile(rules: &[(String, Expression)], root: usize) -> Result<Self, String> {
        let alternatives = vec![Vec::new(); rules.len()];
        let mut compiler = Compiler {
            alternatives,
            sets: Vec::new(),
            by_set: HashMap::new(),
            classes: HashMap::new(),
            size: 0,
        };
        for (index, (_, expression)) in rules.iter().enumerate() {
            compiler.alternatives[index] = compiler.alternatives_of(expression)?;
        }
        let Compiler { mut alternatives, sets, .. } = compiler;
        let ends = ends(&alternatives);
        if !ends[root] {
            return Err(format!("the grammar's rule `{}` never ends: nothing fulfils it", rules[root].0));
        }
        for of_rule in &mut alternatives {
            of_rule.retain(|alternative| !has_endless(alternative, &ends));
        }
        if let Some(rule) = left_recursive(&alternatives) {
            // A helper belongs to no name: the rules that reach it are in its own cycle or before it.
            let name = rules.get(rule).map_or("a repetition of what may be empty", |(name, _)| name);
            return Err(format!(
                "the grammar's rule `{name}` calls itself before it has read anything (left recursion): write `x*` or put the \
                 call last"
            ));
        }
        let mut symbols = Vec::new();
        let mut starts = Vec::with_capacity(alternatives.len());
        for of_rule in alternatives {
            let mut starts_of_rule = Vec::with_capacity(of_rule.len());
            for alternative in of_rule {
                starts_of_rule.push(symbols.len() as u32);
                symbols.extend(alternative);
                symbols.push(Symbol::End);
            }
            starts.push(starts_of_rule);
        }
        Ok(Self { rules: Arc::new(Rules { symbols, sets, starts, root: root as u32 }) })
    }
}

type Alternatives = Vec<Vec<Symbol>>;

struct Compiler {
    alternatives: Vec<Alternatives>,
    sets: Vec<ByteSet>,
    by_set: HashMap<ByteSet, u32>,
    /// Rules of classes that take more than one byte.
    classes: HashMap<Vec<(u32, u32)>, u32>,
    size: usize,
}

impl Compiler {
    fn alternatives_of(&mut self, expression: &Expression) -> Result<Alternatives, String> {
        match expression {
            Expression::Choice(choices) => {
                let mut all = Vec::with_capacity(choices.len());
                for choice in choices {
                    all.extend(self.alternatives_of(choice)?);
                }
                Ok(all)
            }
            other => {
                let mut symbols = Vec::new();
                self.append(other, &mut symbols)?;
                Ok(vec![symbols])
            }
        }
    }

    fn append(&mut self, expression: &Expression, symbols: &mut Vec<Symbol>) -> Result<(), String> {
        match expression {
            Expression::Literal(bytes) => {
                for &byte in bytes {
                    let symbol = self.set(&[(byte, byte)]);
                    self.push(symbol, symbols)?;
                }
            }
            Expression::Class(ranges) => {
                let symbol = self.class(ranges)?;
                self.push(symbol, symbols)?;
            }
            Expression::Rule(rule) => self.push(Symbol::Rule(*rule as u32), symbols)?,
            Expression::Sequence(parts) => {
                for part in parts {
                    self.append(part, symbols)?;
                }
            }
            Expression::Choice(_) => {
                let alternatives = self.alternatives_of(expression)?;
                let rule = self.rule(alternatives);
                self.push(rule, symbols)?;
            }
            Expression::Repeat { item, least, most } => {
                let item = self.single(item)?;
                for _ in 0..*least {
                    self.push(item, symbols)?;
                }
                match most {
                    None => {
                        let again = self.rule(Vec::new());
                        if let Symbol::Rule(rule) = again {
                            self.alternatives[rule as usize] = vec![vec![item, again], Vec::new()];
                        }
                        self.push(again, symbols)?;
                    }
                    Some(most) => {
                        // Each more is an option of the one before it.
                        let mut more = None;
                        for _ in *least..*most {
                            let mut with = Vec::with_capacity(2);
                            self.push(item, &mut with)?;
                            with.extend(more);
                            more = Some(self.rule(vec![with, Vec::new()]));
                        }
                        symbols.extend(more);
                    }
                }
            }
        }
        Ok(())
    }

    fn push(&mut self, symbol: Symbol, symbols: &mut Vec<Symbol>) -> Result<(), String> {
        self.size += 1;
        if self.size > MOST_SYMBOLS {
            return Err("the grammar is too large: bound its repetitions by smaller numbers".into());
        }
        symbols.push(symbol);
        Ok(())
    }

    /// The expression as one symbol.
    fn single(&mut self, expression: &Expression) -> Result<Symbol, String> {
        let alternatives = self.alternatives_of(expression)?;
        Ok(match &alternatives[..] {
            [only] if only.len() == 1 => only[0],
            _ => self.rule(alternatives),
        })
    }

    fn rule(&mut self, alternatives: Alternatives) -> Symbol {
        self.alternatives.push(alternatives);
        Symbol::Rule(self.alternatives.len() as u32 - 1)
    }

    fn set(&mut self, ranges: &[(u8, u8)]) -> Symbol {
        let mut set = ByteSet::default();
        ranges.iter().for_each(|range| set.insert(*range));
        let sets = &mut self.sets;
        Symbol::Byte(*self.by_set.entry(set).or_insert_with(|| {
            sets.push(set);
            sets.len() as u32 - 1
        }))
    }

    fn class(&mut self, ranges: &[(u32, u32)]) -> Result<Symbol, String> {
        if let Some(rule) = self.classes.get(ranges) {
            return Ok(Symbol::Rule(*rule));
        }
        let sequences: Vec<_> = ranges.iter().flat_map(|(first, last)| byte_ranges(*first, *last)).collect();
        let single: Vec<(u8, u8)> = sequences.iter().filter(|one| one.len() == 1).map(|one| one[0]).collect();
        if single.len() == sequences.len() && !single.is_empty() {
            return Ok(self.set(&single));
        }
        let mut alternatives = Vec::new();
        if !single.is_empty() {
            alternatives.push(vec![self.set(&single)]);
        }
        for sequence in sequences.into_iter().filter(|sequence| sequence.len() > 1) {
            let mut symbols = Vec::with_capacity(sequence.len());
            for range in sequence {
                let symbol = self.set(&[range]);
                self.push(symbol, &mut symbols)?;
            }
            alternatives.push(symbols);
        }
        let symbol = self.rule(alternatives);
        if let Symbol::Rule(rule) = symbol {
            self.classes.insert(ranges.to_vec(), rule);
        }
        Ok(symbol)
    }
}

fn has_endless(alternative: &[Symbol], ends: &[bool]) -> bool {
    alternative.iter().any(|symbol| matches!(symbol, Symbol::Rule(rule) if !ends[*rule as usize]))
}

/// Grows a set of rules until no more join: a rule joins when one of its alternatives holds of rules that have joined.
fn fixed_point(rules: &[Alternatives], holds: impl Fn(&[Symbol], &[bool]) -> bool) -> Vec<bool> {
    let mut joined = vec![false; rules.len()];
    let mut callers = vec![Vec::new(); rules.len()];
    for (caller, alternatives) in rules.iter().enumerate() {
        for symbol in alternatives.iter().flatten() {
            if let Symbol::Rule(rule) = symbol {
                callers[*rule as usize].push(caller);
            }
        }
    }
    let mut waiting: Vec<usize> = (0..rules.len()).collect();
    while let Some(rule) = waiting.pop() {
        if !joined[rule] && rules[rule].iter().any(|alternative| holds(alternative, &joined)) {
            joined[rule] = true;
            waiting.extend(&callers[rule]);
        }
    }
    joined
}

/// Which rules some text fulfils.
fn ends(rules: &[Alternatives]) -> Vec<bool> {
    fixed_point(rules, |alternative, joined| !has_endless(alternative, joined))
}

/// A rule that reaches itself without reading a byte, but for calls that stand last: those keep nothing to come back to.
fn left_recursive(rules: &[Alternatives]) -> Option<usize> {
    let is_empty = fixed_point(rules, |alternative, joined| {
        alternative.iter().all(|symbol| matches!(symbol, Symbol::Rule(rule) if joined[*rule as usize]))
    });
    // (called, whether something is left to come back to)
    let calls: Vec<Vec<(usize, bool)>> = rules
        .iter()
        .map(|alternatives| {
            let mut calls = Vec::new();
            for alternative in alternatives {
                for (place, symbol) in alternative.iter().enumerate() {
                    let Symbol::Rule(rule) = symbol else { break };
                    calls.push((*rule as usize, place + 1 < alternative.len()));
                    if !is_empty[*rule as usize] {
                        break;
                    }
                }
            }
            calls
        })
        .collect();
    let component = components(&calls);
    (0..rules.len()).find(|rule| {
        calls[*rule].iter().any(|(called, comes_back)| *comes_back && component[*rule] == component[*called])
    })
}

/// A number for each rule, equal for rules that reach each other (Tarjan's algorithm, without recursion).
fn components(calls: &[Vec<(usize, bool)>]) -> Vec<usize> {
    const NEW: usize = usize::MAX;
    let (mut order, mut low, mut component) =
        (vec![NEW; calls.len()], vec![0; calls.len()], vec![NEW; calls.len()]);
    let (mut open, mut counter) = (Vec::new(), 0);
    for root in 0..calls.len() {
        if order[root] != NEW {
            continue;
        }
        let mut path = vec![(root, 0)];
        while let Some((rule, next)) = path.last_mut() {
            let rule = *rule;
            if *next == 0 {
                (order[rule], low[rule]) = (counter, counter);
                counter += 1;
                open.push(rule);
            }
            if let Some(&(called, _)) = calls[rule].get(*next) {
                *next += 1;
                if order[called] == NEW {
                    path.push((called, 0));
                } else if component[called] == NEW {
                    low[rule] = low[rule].min(order[called]);
                }
                continue;
            }
            path.pop();
            if let Some((caller, _)) = path.last() {
                low[*caller] = low[*caller].min(low[rule]);
            }
            if low[rule] == order[rule] {
                while let Some(member) = open.pop() {
                    component[member] = rule;
                    if member == rule {
                        break;
                    }
                }
            }
        }
    }
    component
}
