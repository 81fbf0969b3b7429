//! Multiple choice by log-likelihood: of the letter behind question and options, or of the option's own text behind
//! the question alone.
//!
//! Prompts are those of lm-eval's C-Eval; see [`Scoring`] for the exact texts. Test answers that are withheld are not
//! predicted here.

mod answered;
mod contamination;
mod folder;
mod pieces;
mod prompts;
mod questions;
mod report;
mod results;
mod settings;
mod subjects;
mod summary;

use danlu_model::Opened;
use danlu_tokenizer::{ChatTemplate, Tokenizer};

use crate::Result;
use crate::log_likelihood::log_likelihoods;
use prompts::Asker;

pub use contamination::{Contamination, MOST_BYTES, Overlap, SearchedFile, look_for, run_of};
pub use folder::{EvaluationFolder, Take, settings_of};
pub use questions::{OPTIONS, Question, Questions, Selection, Subject};
pub use report::write_report;
pub use results::{write_csv, write_submission, write_summary};
pub use settings::settings;
pub use summary::{GroupSummary, SubjectSummary, Summary, percent};

/// Whose log-likelihood decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scoring {
    /// The letter's, after question and options:
    /// `{question}\nA. {A}\nB. {B}\nC. {C}\nD. {D}\n答案：` and ` A` to ` D`.
    ///
    /// Before it all stands `以下是中国关于{subject}的单项选择题，请选出其中的正确答案。\n\n`, and before the question
    /// the examples with their letters, each followed by an empty line.
    Letter,
    /// The option's text after the question alone: `{question}\n答案：` and the text. The log-likelihood is divided by
    /// the text's number of characters (Unicode scalar values), as lm-eval's `acc_norm` does. No description.
    Text,
}

/// How questions are asked.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// Whose log-likelihood decides.
    pub scoring: Scoring,
    /// Ask in a chat: what is asked is the user's message (with [`Scoring::Text`] the bare question), what is scored
    /// begins the assistant's answer, and examples are earlier turns. Without one the texts are continued as they are.
    pub template: Option<&'a ChatTemplate>,
}

/// What the model said to one question.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Answer {
    /// Log-likelihood of each option (natural logarithm), in the order A to D.
    pub log_likelihoods: [f64; OPTIONS],
    /// The option with the highest log-likelihood, the first of equals.
    pub most_likely: usize,
    /// The option with the highest log-likelihood per character, the first of equals. For letters the same.
    pub chosen: usize,
    /// Whether examples were left out, or the prompt's beginning was cut off, to fit the model's context.
    pub shortened: bool,
}

/// Asks every question and counts. `progress` is told how many options of how many are scored.
///
/// # Errors
/// A model without a vocabulary, an option longer than the context, a chat template that refuses the conversation.
pub fn evaluate(
    opened: &Opened,
    questions: &Questions,
    options: &Options,
    progress: impl FnMut(usize, usize),
) -> Result<Summary> {
    let answers = answers(opened, questions, options, progress)?;
    Ok(Summary::new(questions, options, &answers))
}

/// The answers to all questions, in their order.
///
/// # Errors
/// As [`evaluate`].
pub fn answers(
    opened: &Opened,
    questions: &Questions,
    options: &Options,
    progress: impl FnMut(usize, usize),
) -> Result<Vec<Answer>> {
    let tokenizer: &Tokenizer = opened.tokenizer()?;
    let context = opened.model.config().context_length();
    let asker = Asker::new(tokenizer, options, context);
    let mut requests = Vec::with_capacity(OPTIONS * questions.len());
    let mut shortened = Vec::with_capacity(questions.len());
    for subject in &questions.subjects {
        for question in &subject.questions {
            let asked = asker.ask(subject, question)?;
            requests.extend(asked.requests);
            shortened.push(asked.shortened);
        }
    }
    let sums = log_likelihoods(&opened.model, &requests, progress)?;
    let all = questions.subjects.iter().flat_map(|subject| &subject.questions);
    Ok(all
        .zip(sums.as_chunks::<OPTIONS>().0)
        .zip(shortened)
        .map(|((question, sums), shortened)| answer(question, *sums, options.scoring, shortened))
        .collect())
}

fn answer(question: &Question, log_likelihoods: [f64; OPTIONS], scoring: Scoring, shortened: bool) -> Answer {
    let most_likely = first_highest(&log_likelihoods);
    let chosen = match scoring {
        Scoring::Letter => most_likely,
        Scoring::Text => {
            let mut normalised = log_likelihoods;
            for (value, text) in normalised.iter_mut().zip(&question.options) {
                *value /= text.trim().chars().count() as f64;
            }
            first_highest(&normalised)
        }
    };
    Answer { log_likelihoods, most_likely, chosen, shortened }
}

fn first_highest(values: &[f64]) -> usize {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    best
}
