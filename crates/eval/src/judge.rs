//! A judge by URL: an OpenAI-compatible server says which of two answers is better, and its verdicts become votes.
//!
//! Each pair is asked in both orders, because judges favour a place; a winner counts only where both verdicts name it, else
//! the vote is a tie (Zheng et al. 2023). Votes are appended to a file of JSON lines, which [`crate::arena`] rates; what
//! stands there is not asked again.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use danlu_data::{Content, Records, Source};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::arena::Winner;
use crate::line_file::LineFile;
use crate::openai::Client;
use crate::parallel::in_parallel;
use crate::{Error, Result};

const QUESTIONS: [&str; 6] = ["prompt", "question", "instruct", "instruction", "text", "Input"];
const QUERIES: [&str; 2] = ["query", "input"];
const ANSWERS: [&str; 6] = ["prediction", "predict", "answer", "output", "response", "Output"];
const REFERENCES: [&str; 3] = ["reference", "label", "Reference"];
/// Room for the judge's reasons and its verdict.
const MAX_TOKENS: usize = 2048;

const SYSTEM: &str = "\
You compare two answers to the same question and say which one serves the person who asked it better. Judge whether an answer \
is right, does what was asked, is complete where it matters, and is clear. Being longer, coming first, or sounding confident is \
no merit. Give your reasons in a few sentences. Then end with your verdict on a line of its own: [[A]] if answer A is better, \
[[B]] if answer B is better, [[C]] if neither is.";

/// What one model answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answers {
    /// Its name.
    pub model: String,
    path: PathBuf,
    rows: Vec<Row>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    question: String,
    answer: String,
    reference: Option<String>,
}

/// Two answers to one question.
#[derive(Debug, Clone, Copy)]
pub struct Pair<'a> {
    /// Number of the question, from 1.
    pub number: usize,
    a: (&'a str, &'a Row),
    b: (&'a str, &'a Row),
}

/// How many pairs were judged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Judged {
    /// Pairs whose vote was there already.
    pub known: usize,
    /// Pairs that the judge was asked about and gave a verdict in both orders.
    pub asked: usize,
    /// Of these, pairs whose two verdicts differ, which are ties.
    pub disagreed: usize,
    /// Pairs without a vote, because an answer of the judge held no verdict.
    pub without_verdict: usize,
    /// Pairs without a vote, because the server refuses them, such as those that are too long for it.
    pub refused: usize,
    /// Its words on the first of them.
    pub first_refusal: Option<String>,
}

/// Reads a file of answers for each model: rows with `prompt` and `prediction`, or names like these. A model's name is `model` in
/// the rows, else the file's name without its ending, or where these are equal its folder's.
///
/// # Errors
/// Fewer than two files, a file that cannot be read, a row without question or answer, other questions in one file than in
/// the first, two models of one name.
pub fn read_answers(paths: &[PathBuf]) -> Result<Vec<Answers>> {
    if paths.len() < 2 {
        return Err(Error::Option {
            option: "answers",
            problem: format!("expected the files of at least 2 models, found {}", paths.len()),
        });
    }
    let stem =
        |path: &Path| path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let folder = |path: &Path| path.parent().map(stem).filter(|name| !name.is_empty());
    let stems: Vec<String> = paths.iter().map(|path| stem(path)).collect();
    let has_twins = (1..stems.len()).any(|place| stems[..place].contains(&stems[place]));
    let mut all: Vec<Answers> = Vec::with_capacity(paths.len());
    for (path, stem) in paths.iter().zip(stems) {
        let by_file = if has_twins { folder(path).unwrap_or(stem) } else { stem };
        let answers = read_file(path, by_file)?;
        if let Some(first) = all.first() {
            same_questions(first, &answers)?;
        }
        if let Some(other) = all.iter().find(|other| other.model == answers.model) {
            let problem = format!(
                "is of a model `{}`, as `{}` is: give each row its `model`, or the files different names",
                answers.model,
                other.path.display()
            );
            return Err(Error::File { path: path.clone(), problem });
        }
        all.push(answers);
    }
    Ok(all)
}

fn read_file(path: &Path, by_file: String) -> Result<Answers> {
    let mut rows = Vec::new();
    let mut model = None;
    for record in Records::open(path)? {
        let record = record?;
        let Content::Fields(fields) = &record.content else {
            return Err(missing(record.source, "question", &QUESTIONS));
        };
        let text =
            |names: &[&str]| names.iter().find_map(|name| fields.get(*name)?.as_str()).map(str::to_owned);
        let Some(question) = text(&QUESTIONS) else {
            return Err(missing(record.source, "question", &QUESTIONS));
        };
        let question = match text(&QUERIES).filter(|query| !query.is_empty()) {
            Some(query) => format!("{question}\n{query}"),
            None => question,
        };
        let Some(answer) = text(&ANSWERS) else {
            return Err(missing(record.source, "answer", &ANSWERS));
        };
        model = model.or_else(|| text(&["model", "model_id"]));
        rows.push(Row { question, answer, reference: text(&REFERENCES).filter(|text| !text.is_empty()) });
    }
    if rows.is_empty() {
        return Err(Error::File { path: path.into(), problem: "has no answers".into() });
    }
    Ok(Answers { model: model.unwrap_or(by_file), path: path.into(), rows })
}

fn missing(at: Source, what: &str, names: &[&str]) -> Error {
    Error::Row { at, problem: format!("has no {what}: expected one of `{}`", names.join("`, `")) }
}

fn same_questions(first: &Answers, other: &Answers) -> Result<()> {
    let problem = if first.rows.len() != other.rows.len() {
        format!("has {} answers, `{}` has {}", other.rows.len(), first.path.display(), first.rows.len())
    } else {
        let mut rows = first.rows.iter().zip(&other.rows);
        let Some(place) = rows.position(|(one, other)| one.question != other.question) else { return Ok(()) };
        format!("has another question in row {} than `{}`", place + 1, first.path.display())
    };
    let problem = format!("{problem}: expected answers to the same questions in the same order");
    Err(Error::File { path: other.path.clone(), problem })
}

/// Every two models' answers to every question, question by question.
#[must_use]
pub fn pairs(answers: &[Answers]) -> Vec<Pair<'_>> {
    let count = answers.first().map_or(0, |answers| answers.rows.len());
    let mut pairs = Vec::new();
    for index in 0..count {
        for (place, one) in answers.iter().enumerate() {
            for other in &answers[place + 1..] {
                if let (Some(a), Some(b)) = (one.rows.get(index), other.rows.get(index)) {
                    pairs.push(Pair { number: index + 1, a: (&one.model, a), b: (&other.model, b) });
                }
            }
        }
    }
    pairs
}

/// Asks `client` about each of `pairs` that `votes` does not hold, `parallel` pairs at a time, and appends the votes. `name` is
/// what the file calls the judge; `progress` is told how many pairs are done.
///
/// # Errors
/// A server that cannot be asked or refuses every pair, a file that is no file of JSON lines or is written by another run, votes
/// on other answers of these models to these questions.
pub fn judge(
    client: &Client,
    name: &str,
    pairs: &[Pair<'_>],
    votes: &Path,
    parallel: usize,
    mut progress: impl FnMut(usize),
) -> Result<Judged> {
    let mut file = VoteFile::open(votes, name)?;
    let mut judged = Judged::default();
    let mut open = Vec::new();
    for pair in pairs {
        if file.holds(pair)? { judged.known += 1 } else { open.push(*pair) }
    }
    let mut done = judged.known;
    let both_orders = |pair: &Pair<'_>| {
        Ok::<_, Error>([verdict(&ask(client, pair, false)?), verdict(&ask(client, pair, true)?)])
    };
    // A pair that is too long says nothing of the others.
    let in_both_orders = |pair: &Pair<'_>| match both_orders(pair) {
        Err(error @ Error::Refused { .. }) => Ok(Err(error)),
        verdicts => verdicts.map(Ok),
    };
    let mut refusal = None;
    in_parallel(&open, parallel, in_both_orders, |place, verdicts| {
        match verdicts {
            Ok([Some(first), Some(second)]) => {
                let second = second.swapped();
                judged.asked += 1;
                judged.disagreed += usize::from(first != second);
                file.append(&open[place], [first, second])?;
            }
            Ok(_) => judged.without_verdict += 1,
            Err(error) => {
                judged.refused += 1;
                refusal.get_or_insert(error);
            }
        }
        done += 1;
        progress(done);
        Ok(())
    })?;
    match refusal {
        // Not the pairs are wrong, but how the server is asked.
        Some(error) if judged.refused == pairs.len() => Err(error),
        refusal => Ok(Judged { first_refusal: refusal.map(|error| error.to_string()), ..judged }),
    }
}

/// What the judge says of a pair, the second answer first if `is_swapped`.
fn ask(client: &Client, pair: &Pair<'_>, is_swapped: bool) -> Result<String> {
    let (a, b) = if is_swapped { (pair.b.1, pair.a.1) } else { (pair.a.1, pair.b.1) };
    let reference = a.reference.as_ref().or(b.reference.as_ref());
    let reference = reference.map_or_else(String::new, |text| part("Reference answer", text));
    let texts =
        [part("Question", &a.question), reference, part("Answer A", &a.answer), part("Answer B", &b.answer)];
    client.chat(&[("system", SYSTEM), ("user", texts.concat().trim_end())], MAX_TOKENS)
}

fn part(title: &str, text: &str) -> String {
    format!("<{title}>\n{}\n</{title}>\n\n", text.trim())
}

/// The verdict in a judge's answer: the last of `[[A]]`, `[[B]]`, `[[C]]`, or a JSON object with `winner`, `verdict` or `choice`.
#[must_use]
pub fn verdict(text: &str) -> Option<Winner> {
    let marked = [("[[A]]", Winner::A), ("[[B]]", Winner::B), ("[[C]]", Winner::Tie)];
    let last = marked.into_iter().filter_map(|(mark, winner)| text.rfind(mark).map(|place| (place, winner)));
    if let Some((_, winner)) = last.max_by_key(|(place, _)| *place) {
        return Some(winner);
    }
    let object: Map<String, Value> =
        serde_json::from_str(text.get(text.find('{')?..=text.rfind('}')?)?).ok()?;
    let told = ["winner", "verdict", "choice"].iter().find_map(|name| object.get(*name)?.as_str())?;
    match told.trim().trim_matches(['[', ']']).to_lowercase().as_str() {
        "a" | "model_a" | "answer a" => Some(Winner::A),
        "b" | "model_b" | "answer b" => Some(Winner::B),
        "c" | "tie" => Some(Winner::Tie),
        _ => None,
    }
}

/// A file of votes that grows line by line.
struct VoteFile {
    path: PathBuf,
    file: LineFile,
    judge: String,
    /// Of each pair that the judge voted on, the fingerprint of the answers.
    known: HashMap<String, String>,
}

impl VoteFile {
    fn open(path: &Path, judge: &str) -> Result<Self> {
        if path.extension().is_none_or(|end| end != "jsonl") {
            let problem = "cannot take votes of a judge: expected a file ending in `.jsonl`".into();
            return Err(Error::File { path: path.into(), problem });
        }
        let (file, votes) = LineFile::open(path, "a vote", |votes: &[Vote]| Ok(votes.len()))?;
        let mut known = HashMap::new();
        for Vote(vote) in votes {
            let text = |name: &str| vote.get(name).and_then(Value::as_str).unwrap_or_default();
            if text("judge") == judge {
                let number = vote.get("question_id").and_then(Value::as_u64).unwrap_or(0);
                let key = key(number, text("prompt"), text("model_a"), text("model_b"));
                known.insert(key, text("answers").to_owned());
            }
        }
        Ok(Self { path: path.into(), file, judge: judge.to_owned(), known })
    }

    fn holds(&self, pair: &Pair<'_>) -> Result<bool> {
        let Pair { number, a, b } = pair;
        let told = |a: &(&str, &Row), b: &(&str, &Row)| {
            let told = self.known.get(&key(*number as u64, &a.1.question, a.0, b.0));
            told.map(|told| (told, fingerprint(a.1, b.1)))
        };
        match told(a, b).or_else(|| told(b, a)) {
            None => Ok(false),
            Some((told, found)) if *told == found => Ok(true),
            Some(_) => {
                let problem = format!(
                    "holds a vote on other answers of `{}` and `{}` to question {number}: choose another file for these answers",
                    a.0, b.0
                );
                Err(Error::File { path: self.path.clone(), problem })
            }
        }
    }

    fn append(&mut self, pair: &Pair<'_>, verdicts: [Winner; 2]) -> Result<()> {
        let winner = if verdicts[0] == verdicts[1] { verdicts[0] } else { Winner::Tie };
        let vote = json!({
            "question_id": pair.number,
            "model_a": pair.a.0,
            "model_b": pair.b.0,
            "winner": winner.name(),
            "judge": self.judge,
            "verdicts": verdicts.map(Winner::name),
            "prompt": pair.a.1.question,
            "answers": fingerprint(pair.a.1, pair.b.1),
        });
        self.file.push(&vote)
    }
}

/// A line of the file, by a judge or by somebody else.
#[derive(Deserialize)]
#[serde(try_from = "Map<String, Value>")]
struct Vote(Map<String, Value>);

impl TryFrom<Map<String, Value>> for Vote {
    type Error = &'static str;

    fn try_from(vote: Map<String, Value>) -> Result<Self, Self::Error> {
        let has = |name: &str| vote.contains_key(name);
        if (has("model_a") || has("a")) && (has("model_b") || has("b")) && has("winner") {
            return Ok(Self(vote));
        }
        Err("it needs `model_a`, `model_b` and `winner`")
    }
}

fn key(number: u64, question: &str, a: &str, b: &str) -> String {
    json!([number, question, a, b]).to_string()
}

/// Of two answers, the same on every machine (FNV-1a, 64 bits).
fn fingerprint(a: &Row, b: &Row) -> String {
    let bytes = a.answer.bytes().chain([0]).chain(b.answer.bytes());
    let hash = bytes.fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    });
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_marks_or_json() {
        use Winner::{A, B, Tie};
        for (text, expected) in [
            ("Not [[A]] at first sight.\n[[B]]", Some(B)),
            ("[[A]]", Some(A)),
            ("<think>[[A]]?</think> both fail [[C]]", Some(Tie)),
            ("```json\n{\"reason\": \"{x}\", \"winner\": \"A\"}\n```", Some(A)),
            ("{\"verdict\": \"[[B]]\"}", Some(B)),
            ("{\"choice\": \"tie\"}", Some(Tie)),
            ("{\"winner\": \"D\"}", None),
            ("} A {", None),
            ("A is better.", None),
            ("", None),
        ] {
            assert_eq!(verdict(text), expected, "{text}");
        }
    }
}
