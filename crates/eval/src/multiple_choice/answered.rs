//! A line of `questions.jsonl`: one question, what the model said to it, and whether that is right.
//!
//! Numbers are written so that they are read back to the bit.

use serde::{Deserialize, Serialize};

use super::questions::{LETTERS, OPTIONS, Question, Subject};
use super::{Answer, Scoring};

/// The line of a question that was answered.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Answered {
    subject: String,
    /// Its place in the subject, from 0.
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// The right letter; none where it is withheld.
    right: Option<String>,
    /// None where the question alone does not fit the model's context.
    chosen: Option<String>,
    /// The letter of the highest score as it is, not divided by length.
    most_likely: Option<String>,
    correct: Option<bool>,
    /// Of A to D, natural logarithm.
    #[serde(skip_serializing_if = "Option::is_none")]
    log_likelihoods: Option<[f64; OPTIONS]>,
    /// In their place, what the older projects compare.
    #[serde(skip_serializing_if = "Option::is_none")]
    logits: Option<[f64; OPTIONS]>,
    shortened: bool,
    /// What the model wrote, where it was asked for reasons.
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<String>,
    #[serde(flatten)]
    prompt: Option<Prompt>,
}

/// What the model was shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Prompt {
    /// The text before the option, to the byte.
    pub prompt: String,
    /// Its tokens, that at the beginning included; none where only a server knows them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_tokens: Option<usize>,
}

impl Answered {
    /// The line of a question.
    pub(super) fn new(
        subject: &Subject,
        index: usize,
        question: &Question,
        answer: &Answer,
        scoring: Scoring,
        prompt: Option<Prompt>,
    ) -> Self {
        let letter = |option: usize| LETTERS[option].to_owned();
        Self {
            subject: subject.key.clone(),
            index,
            id: question.id.clone(),
            right: question.right.map(letter),
            chosen: answer.chosen.map(letter),
            most_likely: answer.most_likely.map(letter),
            correct: question.right.map(|right| answer.chosen == Some(right)),
            log_likelihoods: answer.scores.filter(|_| scoring != Scoring::Seed),
            logits: answer.scores.filter(|_| scoring == Scoring::Seed),
            shortened: answer.shortened,
            response: answer.response.clone(),
            prompt,
        }
    }

    /// The answer, if this is the line of that question.
    pub(super) fn answer(&self, subject: &Subject, index: usize) -> Option<Answer> {
        let option = |letter: &Option<String>| {
            LETTERS.iter().position(|known| letter.as_ref().is_some_and(|letter| letter == known))
        };
        let answer = Answer {
            scores: self.log_likelihoods.or(self.logits),
            most_likely: option(&self.most_likely),
            chosen: option(&self.chosen),
            shortened: self.shortened,
            response: self.response.clone(),
        };
        let is_whole = answer.response.is_some() || answer.scores.is_some() == answer.chosen.is_some();
        let is_of_question = (self.subject.as_str(), self.index) == (subject.key.as_str(), index);
        (is_whole && is_of_question).then_some(answer)
    }
}
