//! The quickstart's own data: facts of mechanical and process engineering, in Chinese, and what is generated from them by seed.
//!
//! [`write`] fills a folder:
//!
//! | file | for | content |
//! |---|---|---|
//! | `corpus/corpus.jsonl` | pretraining | `{"text"}` lines: plain industrial Chinese expanded from a grammar |
//! | `sft.jsonl` | fine-tuning | `{"instruction", "output"}` lines: every fact in several wordings, introductions, who the model is |
//! | `mcq/val/<subject>_val.csv` | the score | C-Eval's layout, one item per fact, wordings that no training text uses |
//! | `mcq/dev/<subject>_dev.csv` | few-shot examples | the same, five items per subject |
//!
//! What the score before and after fine-tuning means: the corpus teaches the language, the names of the subjects, and
//! the vocabulary of each attribute, but no sentence of it holds a subject together with the value that is asked for.
//! These facts are taught by the fine-tuning rows alone. A pretrained model therefore has to guess, and a fine-tuned one
//! has to recall the fact and to understand a wording it has not seen. The items measure recall of taught facts
//! under new wordings, not knowledge of facts that were never taught.
//!
//! Nothing here trains or scores a model, and nothing depends on the rest of the program.

mod corpus;
mod facts;
mod instructions;
mod multiple_choice;
mod random;
mod spacing;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use anyhow::Result;
use fs_err as fs;
use serde_json::json;

use facts::Knowledge;

/// How much is generated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Bytes of pretraining text, at least.
    pub corpus_bytes: usize,
    /// Fine-tuning rows of each fact, each with another wording; limited by the wordings that its attribute has.
    pub wordings_per_fact: usize,
    /// How many of these rows ask for, and give, a whole sentence instead of the value alone.
    pub sentences_per_fact: usize,
    /// How often each of the few written introductions is repeated among the fine-tuning rows.
    pub introduction_repeats: usize,
    /// Few-shot items per subject.
    pub dev_items_per_subject: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            corpus_bytes: 2_400_000,
            wordings_per_fact: 10,
            sentences_per_fact: 2,
            introduction_repeats: 3,
            dev_items_per_subject: 5,
        }
    }
}

/// What [`write`] has written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    pub facts: usize,
    pub corpus_documents: usize,
    /// Bytes of the documents' text, without the JSON around it.
    pub corpus_bytes: usize,
    pub sft_rows: usize,
    pub dev_items: usize,
    pub val_items: usize,
}

/// Writes corpus, fine-tuning rows and multiple-choice items below `folder`, which is created.
///
/// The same seed and sizes give the same bytes. Files that are already there are replaced.
///
/// # Errors
/// When a file cannot be written.
pub fn write(folder: &Path, seed: u64, sizes: &Sizes) -> Result<Summary> {
    let knowledge = Knowledge::load()?;
    let documents = corpus::generate(&knowledge, seed, sizes.corpus_bytes)?;
    let rows = instructions::generate(&knowledge, seed, sizes)?;
    write_lines(
        &folder.join("corpus").join("corpus.jsonl"),
        documents.iter().map(|text| json!({ "text": text })),
    )?;
    write_lines(
        &folder.join("sft.jsonl"),
        rows.iter().map(|row| json!({ "instruction": row.instruction, "output": row.output })),
    )?;
    let (dev_items, val_items) = write_items(&knowledge, &folder.join("mcq"), seed, sizes)?;
    Ok(Summary {
        facts: knowledge.facts.len(),
        corpus_documents: documents.len(),
        corpus_bytes: documents.iter().map(String::len).sum(),
        sft_rows: rows.len(),
        dev_items,
        val_items,
    })
}

/// Writes only the multiple-choice items, into `folder/dev` and `folder/val`; returns how many went into each.
///
/// Another seed asks the same facts with other held-out wordings, other distractors, and in another order of options.
///
/// # Errors
/// When a file cannot be written.
pub fn write_multiple_choice(folder: &Path, seed: u64, sizes: &Sizes) -> Result<(usize, usize)> {
    write_items(&Knowledge::load()?, folder, seed, sizes)
}

fn write_items(knowledge: &Knowledge, folder: &Path, seed: u64, sizes: &Sizes) -> Result<(usize, usize)> {
    let items = multiple_choice::generate(knowledge, seed, sizes.dev_items_per_subject)?;
    for (split, items) in [("dev", &items.dev), ("val", &items.val)] {
        let mut files: BTreeMap<&str, csv::Writer<Vec<u8>>> = BTreeMap::new();
        let mut ids: BTreeMap<&str, usize> = BTreeMap::new();
        for item in items {
            let subject = item.subject.as_str();
            let file = files.entry(subject).or_insert_with(|| csv::Writer::from_writer(Vec::new()));
            let id = ids.entry(subject).or_default();
            if *id == 0 {
                file.write_record(["id", "question", "A", "B", "C", "D", "answer"])?;
            }
            let [a, b, c, d] = &item.options;
            file.write_record([&id.to_string(), &item.question, a, b, c, d, &item.letter().to_string()])?;
            *id += 1;
        }
        fs::create_dir_all(folder.join(split))?;
        for (subject, file) in files {
            fs::write(folder.join(split).join(format!("{subject}_{split}.csv")), file.into_inner()?)?;
        }
    }
    Ok((items.dev.len(), items.val.len()))
}

fn write_lines(path: &Path, lines: impl Iterator<Item = serde_json::Value>) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut bytes = Vec::new();
    for line in lines {
        writeln!(bytes, "{line}")?;
    }
    fs::write(path, bytes)?;
    Ok(())
}

#[cfg(test)]
mod tests;
