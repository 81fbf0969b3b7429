//! Votes between two models: rows as FastChat and Chatbot Arena publish them, or with shorter names.
//!
//! | field | also | value |
//! |---|---|---|
//! | `model_a`, `model_b` | `a`, `b` | names of models |
//! | `winner` | | `model_a`, `model_b` (or `A`, `B`, or the model's name), `tie`, `tie (bothbad)` |
//! | `tstamp` | | where every row has one, votes are put into this order |
//! | `anony` | | `false`: the voter saw the names, the vote does not count |
//!
//! JSON lines, a JSON array, CSV or Parquet. Other fields have no meaning here, but that a row with an id which equals an
//! earlier row in everything counts once.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use danlu_data::{Content, Record, Records};
use serde_json::{Map, Value};

use crate::{Error, Result};

/// Who won.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Winner {
    /// The first model.
    A,
    /// The second one.
    B,
    /// Neither: both were good, or both were bad.
    Tie,
}

impl Winner {
    /// The same verdict with the models in the other order.
    #[must_use]
    pub fn swapped(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
            Self::Tie => Self::Tie,
        }
    }

    /// As it stands in a file of votes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "model_a",
            Self::B => "model_b",
            Self::Tie => "tie",
        }
    }
}

/// One comparison; models by their place in [`Votes::models`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vote {
    /// The first model.
    pub a: usize,
    /// The second one, another than the first.
    pub b: usize,
    /// Who won.
    pub winner: Winner,
}

/// The votes of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Votes {
    /// Names, in the order of their first vote.
    pub models: Vec<String>,
    /// The votes, in the order of time.
    pub votes: Vec<Vote>,
    /// Rows that say again what an earlier row with the same id says, and do not count.
    pub repeated: usize,
    /// Votes whose voter saw the names, which do not count.
    pub not_anonymous: usize,
}

const MODEL_A: [&str; 2] = ["model_a", "a"];
const MODEL_B: [&str; 2] = ["model_b", "b"];
/// Fields that tell one vote from another.
const IDS: [&str; 5] = ["conversation_id", "vote_id", "id", "uid", "tstamp"];

impl Votes {
    /// Reads a file.
    ///
    /// # Errors
    /// A file that cannot be read or holds no vote that counts; a row without models or winner, with an unknown winner, or
    /// with the same model twice.
    pub fn read(path: &Path) -> Result<Self> {
        let mut read = Self::default();
        let mut places = HashMap::new();
        let mut seen = HashSet::new();
        let mut times = Vec::new();
        for record in Records::open(path)? {
            let record = record?;
            let row = Row::of(&record)?;
            if row.has_id && !seen.insert(row.hash) {
                read.repeated += 1;
                continue;
            }
            if !row.is_anonymous {
                read.not_anonymous += 1;
                continue;
            }
            let mut place = |name: &str| match places.get(name) {
                Some(place) => *place,
                None => {
                    read.models.push(name.to_owned());
                    places.insert(name.to_owned(), read.models.len() - 1);
                    read.models.len() - 1
                }
            };
            let (a, b) = (place(row.a), place(row.b));
            read.votes.push(Vote { a, b, winner: row.winner });
            times.extend(row.time);
        }
        if read.votes.is_empty() {
            let problem = "holds no vote that counts: expected rows such as {\"model_a\": \"one\", \"model_b\": \"other\", \
                           \"winner\": \"model_a\"}";
            return Err(Error::File { path: path.into(), problem: problem.into() });
        }
        if times.len() == read.votes.len() {
            let mut timed: Vec<(f64, Vote)> = times.into_iter().zip(read.votes).collect();
            timed.sort_by(|one, other| one.0.total_cmp(&other.0));
            read.votes = timed.into_iter().map(|(_, vote)| vote).collect();
        }
        Ok(read)
    }
}

/// What a row says.
struct Row<'a> {
    a: &'a str,
    b: &'a str,
    winner: Winner,
    time: Option<f64>,
    is_anonymous: bool,
    has_id: bool,
    /// Of the whole row.
    hash: u64,
}

impl<'a> Row<'a> {
    fn of(record: &'a Record) -> Result<Self> {
        let error = |problem: String| Error::Row { at: record.source.clone(), problem };
        let Content::Fields(fields) = &record.content else {
            return Err(error(
                "expected an object with `model_a`, `model_b` and `winner`, found a text".into(),
            ));
        };
        let model = |names: [&str; 2]| {
            let name = names.iter().find_map(|name| fields.get(*name)).and_then(Value::as_str);
            name.map(str::trim).filter(|name| !name.is_empty()).ok_or_else(|| {
                error(format!(
                    "has no `{}`: expected the name of a model there, or in `{}`",
                    names[0], names[1]
                ))
            })
        };
        let (a, b) = (model(MODEL_A)?, model(MODEL_B)?);
        if a == b {
            return Err(error(format!("compares `{a}` with itself: expected two models")));
        }
        let told = fields.get("winner").unwrap_or(&Value::Null);
        let winner = told.as_str().and_then(|text| winner(text.trim(), a, b)).ok_or_else(|| {
            error(format!(
                "`winner` is `{}`: expected `model_a`, `model_b`, `tie` or `tie (bothbad)`",
                told.as_str().map_or_else(|| told.to_string(), str::to_owned)
            ))
        })?;
        let is_anonymous = match fields.get("anony") {
            Some(Value::Bool(is_anonymous)) => *is_anonymous,
            Some(Value::String(text)) => !text.eq_ignore_ascii_case("false"),
            _ => true,
        };
        let has_id = IDS.iter().any(|name| fields.contains_key(*name));
        Ok(Self { a, b, winner, time: time(fields), is_anonymous, has_id, hash: hash(fields) })
    }
}

fn winner(text: &str, a: &str, b: &str) -> Option<Winner> {
    match text.to_lowercase().as_str() {
        "model_a" | "a" => Some(Winner::A),
        "model_b" | "b" => Some(Winner::B),
        "tie" | "tie (bothbad)" | "bothbad" | "both_bad" => Some(Winner::Tie),
        _ if text == a => Some(Winner::A),
        _ if text == b => Some(Winner::B),
        _ => None,
    }
}

fn time(fields: &Map<String, Value>) -> Option<f64> {
    let value = fields.get("tstamp")?;
    value.as_f64().or_else(|| value.as_str()?.trim().parse().ok()).filter(|time| time.is_finite())
}

fn hash(fields: &Map<String, Value>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for (name, value) in fields {
        (name, value.to_string()).hash(&mut hasher);
    }
    hasher.finish()
}
