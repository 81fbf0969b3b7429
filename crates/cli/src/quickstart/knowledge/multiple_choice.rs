//! Multiple-choice items: a held-out wording, the right value, and three other values of the same attribute.
//!
//! Letters are dealt in shuffled blocks of four, so that each is right equally often. It does not score anything.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use super::facts::{Fact, Knowledge};
use super::random::Random;

/// One item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Names the file.
    pub subject: String,
    pub question: String,
    pub options: [String; 4],
    /// Index of the right option.
    pub right: usize,
}

impl Item {
    /// `A` to `D`.
    pub fn letter(&self) -> char {
        ['A', 'B', 'C', 'D'][self.right]
    }
}

/// Items of both splits; no question is in both.
pub struct Items {
    pub dev: Vec<Item>,
    pub val: Vec<Item>,
}

/// One `val` item per fact, and `dev_per_subject` items of each subject with other wordings than these.
pub fn generate(knowledge: &Knowledge, seed: u64, dev_per_subject: usize) -> Result<Items> {
    let mut random = Random::new(seed, "multiple choice");
    let mut dealer = Dealer { hand: Vec::new() };
    let mut items = Items { dev: Vec::new(), val: Vec::new() };
    let mut dev_candidates = Vec::new();
    for fact in &knowledge.facts {
        let held_out = &knowledge.attribute(fact)?.wordings.held_out;
        let [first, second] = random.sample(held_out, 2).try_into().map_err(|_| {
            anyhow::anyhow!("attribute `{}` needs at least 2 held-out wordings", fact.attribute)
        })?;
        items.val.push(item(knowledge, fact, &first, &mut random, &mut dealer)?);
        dev_candidates.push((fact, second));
    }
    let subjects: BTreeSet<&str> = items.val.iter().map(|item| item.subject.as_str()).collect();
    for subject in subjects {
        let mut candidates = Vec::new();
        for candidate in &dev_candidates {
            if knowledge.attribute(candidate.0)?.mcq_subject == subject {
                candidates.push(candidate);
            }
        }
        for (fact, wording) in random.sample(&candidates, dev_per_subject) {
            items.dev.push(item(knowledge, fact, wording, &mut random, &mut dealer)?);
        }
    }
    Ok(items)
}

fn item(
    knowledge: &Knowledge,
    fact: &Fact,
    wording: &str,
    random: &mut Random,
    dealer: &mut Dealer,
) -> Result<Item> {
    let mut others = knowledge.values(&fact.attribute);
    others.retain(|value| *value != fact.value);
    let [first, second, third] = match <[String; 3]>::try_from(random.sample(&others, 3)) {
        Ok(distractors) => distractors,
        Err(_) => bail!("attribute `{}` has fewer than 4 values", fact.attribute),
    };
    let right = dealer.deal(random);
    let mut options = [fact.value.clone(), first, second, third];
    options.swap(0, right);
    Ok(Item {
        subject: knowledge.attribute(fact)?.mcq_subject.clone(),
        question: knowledge.fill(wording, fact)?,
        options,
        right,
    })
}

/// Deals the positions 0 to 3, each once before any comes again.
struct Dealer {
    hand: Vec<usize>,
}

impl Dealer {
    fn deal(&mut self, random: &mut Random) -> usize {
        if self.hand.is_empty() {
            self.hand = vec![0, 1, 2, 3];
            random.shuffle(&mut self.hand);
        }
        self.hand.pop().unwrap_or_default()
    }
}
