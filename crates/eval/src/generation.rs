//! Questions with reference answers, and how near generated answers come to them.
//!
//! Rows are read as training reads them; questions without an answer are asked and not scored. All scores are 0 to 100. What
//! generates the answers is the caller's.

mod report;

use std::collections::BTreeMap;
use std::path::Path;

use danlu_tokenizer::Message;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::line_file::{LineFile, of_rows};
use crate::metrics::similarity::fuzzy_ratio;
use crate::metrics::{bleu, chrf, exact_match, rouge, words};
use crate::{Error, Result};

/// Questions of the project's own: 48 in 8 categories, half Chinese, half English.
const DANLU: &str = include_str!("generation/danlu.jsonl");
/// What Baby-Llama2 and Luban ask after fine-tuning.
const SEED_QUESTIONS: [&str; 3] = [
    "最近我在办公室坐久了会感到头晕，请问这是什么原因?有什么缓解办法吗？",
    "前列腺囊肿的症状是什么？",
    "请问，世界上最大的动物是什么？",
];
/// What they let a pretrained model continue.
const SEED_CONTINUATIONS: [&str; 5] = [
    "床前明月光，疑是地上霜。举头望明月，",
    "请你讲一个童话故事：",
    "《小王子》是一本畅销童话书，它讲述了：",
    "用挤出机挤塑生产塑料制品是",
    "介绍一下数控加工：",
];

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// The messages before the answer.
    pub messages: Vec<Message>,
    /// The tools that the assistant may call, as JSON schemas.
    pub tools: Vec<Value>,
    /// Whether the text of the only message is to be continued as it is, without a chat template.
    pub is_continuation: bool,
    /// The right answer, where there is one.
    pub reference: Option<String>,
    /// What it belongs to, where questions are grouped.
    pub category: Option<String>,
}

impl Question {
    fn of_text(text: &str, is_continuation: bool) -> Self {
        let messages = vec![Message::new("user", text)];
        Self { messages, tools: Vec::new(), is_continuation, reference: None, category: None }
    }

    /// The texts of its messages.
    #[must_use]
    pub fn prompt(&self) -> String {
        self.messages.iter().map(|message| message.content.as_str()).collect::<Vec<_>>().join("\n")
    }
}

/// Built-in questions: `danlu` or `seed`.
#[must_use]
pub fn built_in(name: &str) -> Option<Vec<Question>> {
    #[derive(Deserialize)]
    struct Line {
        category: String,
        question: String,
        answer: Option<String>,
    }
    let of_line = |line: &str| {
        let Line { category, question, answer } = serde_json::from_str(line).ok()?;
        let question = Question::of_text(&question, false);
        Some(Question { reference: answer, category: Some(category), ..question })
    };
    match name {
        "danlu" => Some(DANLU.lines().filter_map(of_line).collect()),
        "seed" => {
            let questions = SEED_QUESTIONS.iter().map(|text| Question::of_text(text, false));
            Some(
                questions
                    .chain(SEED_CONTINUATIONS.iter().map(|text| Question::of_text(text, true)))
                    .collect(),
            )
        }
        _ => None,
    }
}

/// Reads rows of any form of conversation; the last answer of each is the reference.
///
/// # Errors
/// Files that cannot be read, and rows that are no conversation.
pub fn read_questions(path: &Path) -> Result<Vec<Question>> {
    let questions: Vec<Question> = danlu_data::questions(path, None)?
        .into_iter()
        .map(|danlu_data::Question { messages, tools, reference, .. }| Question {
            messages,
            tools,
            is_continuation: false,
            reference,
            category: None,
        })
        .collect();
    if questions.is_empty() {
        return Err(Error::File { path: path.into(), problem: "has no rows".into() });
    }
    Ok(questions)
}

/// How near one answer is to its reference, or many on average, 0 to 100.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// BLEU-4 of the characters, as LLaMA-Factory has it.
    pub bleu_4: f64,
    /// ROUGE-1 F1 of jieba's words, as LLaMA-Factory has it, as the next two.
    pub rouge_1: f64,
    /// ROUGE-2.
    pub rouge_2: f64,
    /// ROUGE-L.
    pub rouge_l: f64,
    /// chrF2.
    pub chrf: f64,
    /// 100 where both are the same but for whitespace around them.
    pub exact_match: f64,
    /// `fuzz.ratio` of the texts, which code is scored by.
    pub edit_similarity: f64,
}

impl Scores {
    /// All, in the order of the fields.
    #[must_use]
    pub fn values(&self) -> [f64; 7] {
        let Self { bleu_4, rouge_1, rouge_2, rouge_l, chrf, exact_match, edit_similarity } = *self;
        [bleu_4, rouge_1, rouge_2, rouge_l, chrf, exact_match, edit_similarity]
    }

    fn of([bleu_4, rouge_1, rouge_2, rouge_l, chrf, exact_match, edit_similarity]: [f64; 7]) -> Self {
        Self { bleu_4, rouge_1, rouge_2, rouge_l, chrf, exact_match, edit_similarity }
    }
}

/// The scores of an answer.
#[must_use]
pub fn scores(reference: &str, prediction: &str) -> Scores {
    let [characters, predicted] = [reference, prediction].map(|text| text.chars().collect::<Vec<_>>());
    let rouge = rouge::of_words(&words::cut(reference), &words::cut(prediction));
    Scores {
        bleu_4: 100.0 * bleu::sentence(&characters, &predicted),
        rouge_1: 100.0 * rouge.one,
        rouge_2: 100.0 * rouge.two,
        rouge_l: 100.0 * rouge.l,
        chrf: chrf::sentence(reference, prediction),
        exact_match: if exact_match(reference, prediction) { 100.0 } else { 0.0 },
        edit_similarity: fuzzy_ratio(prediction, reference),
    }
}

/// A line of `generated.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Number of the question, from 0.
    pub index: usize,
    /// What it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// What was asked.
    pub prompt: String,
    /// The right answer.
    pub reference: Option<String>,
    /// The answer.
    pub prediction: String,
    /// How near it comes.
    pub scores: Option<Scores>,
}

impl Answer {
    /// The answer to a question, scored.
    #[must_use]
    pub fn of(question: &Question, index: usize, prediction: String) -> Self {
        let Question { category, reference, .. } = question.clone();
        let scores = reference.as_ref().map(|reference| scores(reference, &prediction));
        Self { index, category, prompt: question.prompt(), reference, prediction, scores }
    }
}

/// Opens a file of answers to add to it, and tells those that are there.
///
/// # Errors
/// A file that cannot be read or written, or that has answers to other questions.
pub fn open_answers(path: &Path, questions: &[Question]) -> Result<(LineFile, Vec<Answer>)> {
    let expected =
        "an answer, {\"index\": …, \"prompt\": …, \"reference\": …, \"prediction\": …, \"scores\": …}";
    LineFile::open(path, expected, |answers: &[Answer]| {
        of_rows(path, answers, questions, |answer, question| {
            answer.prompt == question.prompt() && answer.reference == question.reference
        })
    })
}

/// Scores over all answers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Questions.
    pub rows: usize,
    /// Questions with a reference.
    pub scored: usize,
    /// What the scores are numbers of.
    pub unit: &'static str,
    /// Means over the questions with a reference.
    pub scores: Scores,
    /// Their standard errors: s / √n; nothing but zeros of fewer than two.
    pub standard_errors: Scores,
    /// sacrebleu's scores of all answers together.
    pub corpus: Corpus,
    /// By category.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub categories: BTreeMap<String, Category>,
}

/// The scores of a category.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Category {
    /// Questions with a reference.
    pub scored: usize,
    /// Means over them.
    #[serde(flatten)]
    pub scores: Scores,
}

/// sacrebleu's scores.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Corpus {
    /// BLEU.
    pub bleu: f64,
    /// chrF2.
    pub chrf: f64,
    /// The tokenizer of BLEU: `zh` where a reference has Chinese characters, else `13a`.
    pub tokenize: &'static str,
}

impl Summary {
    /// Of all answers.
    #[must_use]
    pub fn of(answers: &[Answer]) -> Self {
        let pairs = || {
            answers
                .iter()
                .filter_map(|answer| Some((answer.reference.as_deref()?, answer.prediction.as_str())))
        };
        let is_chinese = |text: &str| text.chars().any(|c| ('\u{4e00}'..='\u{9fff}').contains(&c));
        let (tokenization, tokenize) = match pairs().any(|(reference, _)| is_chinese(reference)) {
            true => (bleu::Tokenization::Chinese, "zh"),
            false => (bleu::Tokenization::Mteval13a, "13a"),
        };
        let (mut bleu, mut chrf) = (bleu::Corpus::default(), chrf::Chrf::default());
        for (reference, prediction) in pairs() {
            bleu.add(reference, prediction, tokenization);
            chrf.add(reference, prediction);
        }
        let all: Vec<Scores> = answers.iter().filter_map(|answer| answer.scores).collect();
        let mut categories: BTreeMap<String, Vec<Scores>> = BTreeMap::new();
        for answer in answers {
            if let (Some(category), Some(scores)) = (&answer.category, answer.scores) {
                categories.entry(category.clone()).or_default().push(scores);
            }
        }
        Self {
            rows: answers.len(),
            scored: all.len(),
            unit: "of 100",
            scores: mean(&all),
            standard_errors: standard_errors(&all),
            corpus: Corpus { bleu: bleu.score(), chrf: chrf.score(), tokenize },
            categories: categories
                .into_iter()
                .map(|(name, all)| (name, Category { scored: all.len(), scores: mean(&all) }))
                .collect(),
        }
    }
}

fn mean(all: &[Scores]) -> Scores {
    let sums = all.iter().fold([0.0; 7], |sums, scores| {
        let values = scores.values();
        std::array::from_fn(|metric| sums[metric] + values[metric])
    });
    Scores::of(sums.map(|sum| sum / all.len().max(1) as f64))
}

fn standard_errors(all: &[Scores]) -> Scores {
    let means = mean(all).values();
    let squares = all.iter().fold([0.0; 7], |squares, scores| {
        let values = scores.values();
        std::array::from_fn(|metric| squares[metric] + (values[metric] - means[metric]).powi(2))
    });
    let count = all.len() as f64;
    Scores::of(squares.map(|sum| if count > 1.0 { (sum / (count - 1.0) / count).sqrt() } else { 0.0 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_questions_are_48_in_8_categories_and_8() {
        let own = built_in("danlu").unwrap();
        let mut categories: BTreeMap<&str, usize> = BTreeMap::new();
        for question in &own {
            *categories.entry(question.category.as_deref().unwrap()).or_default() += 1;
        }
        assert_eq!((own.len(), categories.len()), (48, 8));
        assert!(categories.values().all(|count| *count == 6), "{categories:?}");
        assert_eq!(own.iter().filter(|question| question.reference.is_some()).count(), 42);
        let seed = built_in("seed").unwrap();
        assert_eq!((seed.len(), seed.iter().filter(|question| question.is_continuation).count()), (8, 5));
        assert!(built_in("rows.json").is_none());
    }
}
