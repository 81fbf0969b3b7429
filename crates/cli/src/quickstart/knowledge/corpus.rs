//! Pretraining text: documents expanded from the grammar in `tables/grammar.txt`.
//!
//! A document with a sentence that holds a subject together with a value asked about it is thrown away, so that the multiple-choice
//! items cannot be answered from this text. Equal documents are kept once.

use std::collections::{HashMap, HashSet};

use anyhow::{Context, Result, bail, ensure};

use super::facts::Knowledge;
use super::random::Random;
use super::spacing::spaced;

const GRAMMAR: &str = include_str!("tables/grammar.txt");
const START: &str = "文档";
/// Of ten documents in a row at least one must be new and free of tested facts, or the grammar is at its end.
const ATTEMPTS_PER_DOCUMENT: usize = 10;

/// Documents of together at least `bytes` bytes.
pub fn generate(knowledge: &Knowledge, seed: u64, bytes: usize) -> Result<Vec<String>> {
    let grammar = Grammar::parse(GRAMMAR)?;
    let mut random = Random::new(seed, "corpus");
    let mut seen = HashSet::new();
    let mut documents: Vec<String> = Vec::new();
    let (mut written, mut attempts) = (0, 0);
    while written < bytes {
        attempts += 1;
        ensure!(
            attempts <= ATTEMPTS_PER_DOCUMENT * (documents.len() + 100),
            "the grammar yields no more than {written} of {bytes} bytes of different text"
        );
        let mut expansion = Expansion {
            grammar: &grammar,
            knowledge,
            random: &mut random,
            bound: HashMap::new(),
            last: HashMap::new(),
        };
        let text = expansion.rule(START)?;
        if !seen.contains(&text) && !tells_tested_fact(knowledge, &text) {
            written += text.len();
            seen.insert(text.clone());
            documents.push(text);
        }
    }
    Ok(documents)
}

/// Whether one sentence holds the subject and the value of the same fact.
pub fn tells_tested_fact(knowledge: &Knowledge, text: &str) -> bool {
    let sentences: Vec<&str> = text.split(['。', '！', '？', '\n']).collect();
    knowledge
        .facts
        .iter()
        .filter(|fact| text.contains(&fact.value))
        .any(|fact| sentences.iter().any(|part| part.contains(&fact.value) && part.contains(&fact.subject)))
}

/// Rules with their alternatives.
struct Grammar<'a> {
    rules: HashMap<&'a str, Vec<&'a str>>,
}

impl<'a> Grammar<'a> {
    fn parse(text: &'a str) -> Result<Self> {
        let mut rules: HashMap<&str, Vec<&str>> = HashMap::new();
        let mut current = "";
        for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
            match line.strip_prefix("  ") {
                Some(alternative) => rules.entry(current).or_default().push(alternative),
                None => current = line,
            }
        }
        ensure!(rules.contains_key(START), "the grammar has no rule `{START}`");
        Ok(Self { rules })
    }

    fn alternatives(&self, rule: &str) -> Result<Vec<String>> {
        let alternatives =
            self.rules.get(rule).with_context(|| format!("the grammar has no rule `{rule}`"))?;
        Ok(alternatives.iter().map(ToString::to_string).collect())
    }
}

/// The making of one document.
struct Expansion<'a> {
    grammar: &'a Grammar<'a>,
    knowledge: &'a Knowledge,
    random: &'a mut Random,
    /// Texts remembered by `{name=…}`.
    bound: HashMap<String, String>,
    /// The latest choice of each rule: neighbours should differ.
    last: HashMap<String, String>,
}

impl Expansion<'_> {
    fn rule(&mut self, name: &str) -> Result<String> {
        let alternatives = self.grammar.alternatives(name)?;
        let alternative = self.choose(name, &alternatives);
        self.text(&alternative)
    }

    fn text(&mut self, template: &str) -> Result<String> {
        let mut out = String::new();
        let mut rest = template;
        while let Some((before, after)) = rest.split_once('{') {
            let (slot, after) =
                after.split_once('}').with_context(|| format!("unclosed slot in `{template}`"))?;
            out.push_str(before);
            out.push_str(&self.slot(slot)?);
            rest = after;
        }
        out.push_str(rest);
        Ok(spaced(&out.replace("\\n", "\n")))
    }

    fn slot(&mut self, slot: &str) -> Result<String> {
        if let Some((name, inner)) = slot.split_once('=') {
            let text = self.slot(inner)?;
            self.bound.insert(name.to_owned(), text.clone());
            return Ok(text);
        }
        if let Some(text) = self.bound.get(slot) {
            return Ok(text.clone());
        }
        if let Some((low, high)) = slot.split_once("..") {
            return self.number(low, high);
        }
        if let Some(attribute) = slot.strip_prefix("值 ") {
            let (attribute, count) = repeated(attribute)?;
            return self.several(slot, &self.knowledge.values(attribute), count);
        }
        if let Some(table) = slot.strip_prefix("名 ") {
            let (table, count) = repeated(table)?;
            let names = self.knowledge.names.get(table).with_context(|| format!("no table `{table}`"))?;
            return self.several(slot, names, count);
        }
        let (rule, count) = repeated(slot)?;
        if count > 1 {
            let alternatives = self.grammar.alternatives(rule)?;
            return self.several(slot, &alternatives, count);
        }
        self.rule(rule)
    }

    fn number(&mut self, low: &str, high: &str) -> Result<String> {
        let decimals = low.split_once('.').map_or(0, |(_, digits)| digits.len());
        let scale = 10_usize.pow(u32::try_from(decimals)?);
        let whole = |text: &str| {
            text.replace('.', "").parse::<usize>().with_context(|| format!("`{text}` is not a number"))
        };
        let (low, high) = (whole(low)?, whole(high)?);
        ensure!(low <= high, "`{low}` is above `{high}`");
        let number = low + self.random.below(high - low + 1);
        Ok(match decimals {
            0 => number.to_string(),
            _ => format!("{}.{:0decimals$}", number / scale, number % scale),
        })
    }

    /// `count` different texts joined as a Chinese enumeration.
    fn several(&mut self, slot: &str, texts: &[String], count: usize) -> Result<String> {
        if texts.is_empty() {
            bail!("nothing to choose from for `{slot}`");
        }
        if count == 1 {
            return Ok(self.choose(slot, texts));
        }
        let mut chosen = self.random.sample(texts, count);
        let last = chosen.pop().unwrap_or_default();
        // Enumerations inside the values need a stronger mark between them.
        let within = |mark: char| chosen.iter().chain([&last]).any(|text| text.contains(mark));
        let (mark, last_mark) = match (within('、'), within('和')) {
            (true, _) => ("；", "；"),
            (false, true) => ("、", "、"),
            (false, false) => ("、", "和"),
        };
        Ok(format!("{}{last_mark}{last}", chosen.join(mark)))
    }

    fn choose(&mut self, key: &str, texts: &[String]) -> String {
        let mut index = self.random.below(texts.len());
        if texts.len() > 1 && self.last.get(key) == Some(&texts[index]) {
            index = (index + 1) % texts.len();
        }
        self.last.insert(key.to_owned(), texts[index].clone());
        texts[index].clone()
    }
}

/// `密度*3` → (`密度`, 3).
fn repeated(slot: &str) -> Result<(&str, usize)> {
    match slot.split_once('*') {
        Some((name, count)) => Ok((name, count.parse().with_context(|| format!("bad count in `{slot}`"))?)),
        None => Ok((slot, 1)),
    }
}
