//! Fine-tuning rows: every fact asked in several wordings, summaries of subjects, and the written introductions of
//! `tables/introductions.csv`.
//!
//! Most answers are the value alone, which is the text that the multiple-choice score weighs. No row uses a held-out wording.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::Sizes;
use super::facts::{Fact, Knowledge};
use super::random::Random;
use super::spacing::spaced;

const INTRODUCTIONS: &str = include_str!("tables/introductions.csv");
/// Asks for a whole sentence, so that the form of the answer is no guess.
const AS_SENTENCE: &str = "请用完整的句子回答。";

/// One row of alpaca form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub instruction: String,
    pub output: String,
}

/// All rows, shuffled.
pub fn generate(knowledge: &Knowledge, seed: u64, sizes: &Sizes) -> Result<Vec<Row>> {
    let mut random = Random::new(seed, "instructions");
    let mut rows = Vec::new();
    for fact in &knowledge.facts {
        let wordings = &knowledge.attribute(fact)?.wordings;
        let questions = random.sample(&wordings.train, sizes.wordings_per_fact);
        let whole_sentences = questions.len().saturating_sub(sizes.sentences_per_fact);
        for (index, question) in questions.iter().enumerate() {
            let instruction = knowledge.fill(question, fact)?;
            rows.push(if index < whole_sentences {
                Row { instruction, output: fact.value.clone() }
            } else {
                let sentence = &wordings.sentence[random.below(wordings.sentence.len())];
                Row {
                    instruction: format!("{instruction}{AS_SENTENCE}"),
                    output: knowledge.fill(sentence, fact)?,
                }
            });
        }
    }
    let introductions = introductions()?;
    let summaries = summaries(knowledge)?;
    rows.extend(
        summaries
            .into_iter()
            .filter(|summary| introductions.iter().all(|row| row.instruction != summary.instruction)),
    );
    for _ in 0..sizes.introduction_repeats {
        rows.extend(introductions.iter().cloned());
    }
    random.shuffle(&mut rows);
    Ok(rows)
}

fn introductions() -> Result<Vec<Row>> {
    csv::Reader::from_reader(INTRODUCTIONS.as_bytes())
        .deserialize()
        .map(|record| {
            let [instruction, output]: [String; 2] = record.context("table `introductions`")?;
            Ok(Row { instruction, output })
        })
        .collect()
}

/// For each subject with more than one fact, a row that tells all of them.
fn summaries(knowledge: &Knowledge) -> Result<Vec<Row>> {
    let mut by_subject: BTreeMap<&str, Vec<&Fact>> = BTreeMap::new();
    for fact in &knowledge.facts {
        by_subject.entry(&fact.subject).or_default().push(fact);
    }
    by_subject
        .into_iter()
        .filter(|(_, facts)| facts.len() > 1)
        .map(|(subject, facts)| {
            let clauses = facts
                .iter()
                .map(|fact| Ok(format!("{}是{}", knowledge.attribute(fact)?.phrase, fact.value)))
                .collect::<Result<Vec<_>>>()?;
            Ok(Row {
                instruction: spaced(&format!("介绍一下{subject}：")),
                output: spaced(&format!("{subject}的{}。", clauses.join("，"))),
            })
        })
        .collect()
}
