//! The tables in `tables/`, read into facts and wordings. It does not generate text.
//!
//! Each table has a column `名称` (the fact's subject) and one column per attribute; an empty cell is no fact.
//! `attributes.csv` says for each attribute its multiple-choice subject, its set of wordings, its name in a sentence, and
//! the text before and after a cell. `wordings.csv` holds the wordings with `{S}` for the subject, `{A}` for the attribute,
//! `{V}` for the value.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

use super::spacing::spaced;

const TABLES: [(&str, &str); 11] = [
    ("materials", include_str!("tables/materials.csv")),
    ("elements", include_str!("tables/elements.csv")),
    ("processes", include_str!("tables/processes.csv")),
    ("finishing", include_str!("tables/finishing.csv")),
    ("faults", include_str!("tables/faults.csv")),
    ("instruments", include_str!("tables/instruments.csv")),
    ("parts", include_str!("tables/parts.csv")),
    ("threads", include_str!("tables/threads.csv")),
    ("bolts", include_str!("tables/bolts.csv")),
    ("bearings", include_str!("tables/bearings.csv")),
    ("units", include_str!("tables/units.csv")),
];
const ATTRIBUTES: &str = include_str!("tables/attributes.csv");
const WORDINGS: &str = include_str!("tables/wordings.csv");

/// One true statement: `attribute` of `subject` is `value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    pub subject: String,
    /// Key of [`Knowledge::attributes`].
    pub attribute: String,
    /// Short text with its unit, such as `8.96 g/cm³`.
    pub value: String,
}

/// How an attribute is spoken of.
#[derive(Clone, Debug)]
pub struct Attribute {
    /// Multiple-choice subject, which names its file.
    pub mcq_subject: String,
    /// Name in a sentence.
    pub phrase: String,
    prefix: String,
    unit: String,
    pub wordings: Wordings,
}

/// Wordings of one set.
#[derive(Clone, Debug, Default)]
pub struct Wordings {
    /// Questions that fine-tuning uses.
    pub train: Vec<String>,
    /// Questions that only the multiple-choice items use.
    pub held_out: Vec<String>,
    /// Answers as a whole sentence.
    pub sentence: Vec<String>,
}

/// Everything that the tables say.
pub struct Knowledge {
    /// In the order of the tables.
    pub facts: Vec<Fact>,
    pub attributes: BTreeMap<String, Attribute>,
    /// Subjects by table.
    pub names: BTreeMap<String, Vec<String>>,
}

impl Knowledge {
    /// Reads the embedded tables.
    pub fn load() -> Result<Self> {
        let wordings = read_wordings()?;
        let mut attributes = BTreeMap::new();
        for record in csv::Reader::from_reader(ATTRIBUTES.as_bytes()).deserialize() {
            let [name, mcq_subject, set, phrase, prefix, unit]: [String; 6] =
                record.context("table `attributes`")?;
            let wordings = wordings
                .get(&set)
                .with_context(|| format!("no wordings `{set}` for attribute `{name}`"))?
                .clone();
            attributes.insert(name, Attribute { mcq_subject, phrase, prefix, unit, wordings });
        }
        let mut knowledge = Self { facts: Vec::new(), attributes, names: BTreeMap::new() };
        for (table, text) in TABLES {
            knowledge.add_table(table, text).with_context(|| format!("table `{table}`"))?;
        }
        Ok(knowledge)
    }

    fn add_table(&mut self, table: &str, text: &str) -> Result<()> {
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let header = reader.headers()?.clone();
        let mut names = Vec::new();
        for record in reader.records() {
            let record = record?;
            let subject = record.get(0).unwrap_or_default().to_owned();
            for (column, cell) in
                header.iter().zip(record.iter()).skip(1).filter(|(_, cell)| !cell.is_empty())
            {
                let attribute =
                    self.attributes.get(column).with_context(|| format!("unknown attribute `{column}`"))?;
                self.facts.push(Fact {
                    subject: subject.clone(),
                    attribute: column.to_owned(),
                    value: format!("{}{cell}{}", attribute.prefix, attribute.unit),
                });
            }
            names.push(subject);
        }
        self.names.insert(table.to_owned(), names);
        Ok(())
    }

    /// The attribute of a fact.
    pub fn attribute(&self, fact: &Fact) -> Result<&Attribute> {
        self.attributes
            .get(&fact.attribute)
            .with_context(|| format!("unknown attribute `{}`", fact.attribute))
    }

    /// All values of an attribute, in the order of the tables.
    pub fn values(&self, attribute: &str) -> Vec<String> {
        self.facts.iter().filter(|fact| fact.attribute == attribute).map(|fact| fact.value.clone()).collect()
    }

    /// A wording with this fact put in.
    pub fn fill(&self, wording: &str, fact: &Fact) -> Result<String> {
        let phrase = &self.attribute(fact)?.phrase;
        let text = wording.replace("{A}", phrase).replace("{S}", &fact.subject).replace("{V}", &fact.value);
        Ok(spaced(&text))
    }
}

fn read_wordings() -> Result<BTreeMap<String, Wordings>> {
    let mut sets: BTreeMap<String, Wordings> = BTreeMap::new();
    for record in csv::Reader::from_reader(WORDINGS.as_bytes()).deserialize() {
        let [set, role, text]: [String; 3] = record.context("table `wordings`")?;
        let set = sets.entry(set).or_default();
        match role.as_str() {
            "train" => set.train.push(text),
            "held_out" => set.held_out.push(text),
            "sentence" => set.sentence.push(text),
            _ => bail!("unknown role `{role}` of wording `{text}`"),
        }
    }
    Ok(sets)
}
