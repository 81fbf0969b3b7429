//! In which order pieces are appended so that each of them is reached.
//!
//! A piece is made by joining two neighbours. Appended with the lowest priority of all, it changes no join that was
//! there; so a text that is cut into two parts becomes one piece when it is appended, and stays one whatever is appended
//! behind it. A text that is cut into more parts needs intermediate pieces first.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// How a vocabulary cuts a text, and grows.
pub(super) trait Joins {
    /// The parts of a text, in order.
    fn cut(&self, text: &str) -> Vec<Range<usize>>;
    /// Appends `text`, which is cut into these parts, two at most, or is a character, with the lowest priority.
    fn join(&mut self, text: &str, parts: &[Range<usize>]);
}

/// What was appended beyond or short of what was wanted.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Pieces on the way to others.
    pub intermediate: Vec<String>,
    /// Places of wanted pieces that nothing leads to.
    pub unreachable: HashSet<usize>,
}

/// Appends all of `wanted`, which are all new and different; those that are `last` behind the others.
pub(super) fn append_all(joins: &mut impl Joins, wanted: &[String], last: impl Fn(&str) -> bool) -> Plan {
    let mut plan = Plan::default();
    for is_last in [false, true] {
        let places = (0..wanted.len()).filter(|&place| last(&wanted[place]) == is_last);
        append(joins, wanted, places.map(|place| (place, usize::MAX)).collect(), &mut plan);
    }
    plan
}

/// Appends the `waiting` ones: their places, and how many parts they were cut into before.
fn append(joins: &mut impl Joins, wanted: &[String], mut waiting: Vec<(usize, usize)>, plan: &mut Plan) {
    loop {
        join_pairs(joins, wanted, &mut waiting);
        if waiting.is_empty() {
            return;
        }
        let cuts: Vec<Vec<Range<usize>>> =
            waiting.iter().map(|&(place, _)| joins.cut(&wanted[place])).collect();
        let open: HashSet<&str> = waiting.iter().map(|&(place, _)| wanted[place].as_str()).collect();
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for (&(place, _), cut) in waiting.iter().zip(&cuts) {
            for pair in cut.windows(2) {
                *counts.entry(&wanted[place][pair[0].start..pair[1].end]).or_default() += 1;
            }
        }
        let mut chosen: HashSet<&str> = HashSet::new();
        let mut next = Vec::with_capacity(waiting.len());
        for (&(place, parts_before), cut) in waiting.iter().zip(&cuts) {
            let text = wanted[place].as_str();
            let joined = |pair: &[Range<usize>]| &text[pair[0].start..pair[1].end];
            let free = cut.windows(2).rev().filter(|pair| !open.contains(joined(pair)));
            // Of the most frequent the leftmost, so that few intermediate pieces serve many.
            let best = free.max_by_key(|pair| counts.get(joined(pair)).copied());
            let Some(pair) = best.filter(|_| cut.len() < parts_before) else {
                plan.unreachable.insert(place);
                continue;
            };
            if chosen.insert(joined(pair)) {
                let (start, piece) = (pair[0].start, joined(pair));
                let parts: Vec<Range<usize>> =
                    pair.iter().map(|part| part.start - start..part.end - start).collect();
                joins.join(piece, &parts);
                plan.intermediate.push(piece.to_owned());
            }
            next.push((place, cut.len()));
        }
        waiting = next;
    }
}

/// Appends every waiting piece that is cut into two parts, until there is none.
fn join_pairs(joins: &mut impl Joins, wanted: &[String], waiting: &mut Vec<(usize, usize)>) {
    loop {
        let before = waiting.len();
        waiting.retain(|&(place, _)| {
            let text = &wanted[place];
            let parts = joins.cut(text);
            let is_pair = parts.len() <= 2;
            if is_pair {
                joins.join(text, &parts);
            }
            !is_pair
        });
        if waiting.len() == before {
            return;
        }
    }
}
