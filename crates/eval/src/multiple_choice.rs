//! Multiple choice: the option that a model finds most probable, by its letter or by its text.
//!
//! Questions are those of C-Eval, CMMLU and MMLU in the layouts that they are published in, or one's own
//! ([`Questions::read`]). How they are put, and what of the model's answer decides, says [`Scoring`].

mod answered;
mod by_server;
mod contamination;
mod folder;
mod layouts;
mod pieces;
mod prompts;
mod questions;
mod reasoning;
mod report;
mod results;
mod rows;
mod settings;
mod stated_letter;
mod subjects;
mod summary;
mod takes;

use danlu_model::{Generator, Model, Opened};
use danlu_tokenizer::{ChatTemplate, Tokenizer};

use crate::log_likelihood::log_likelihoods;
use crate::openai::Server;
use crate::{Error, Result};
use prompts::{Asked, Asker, Wanted};

pub use contamination::{Contamination, MOST_BYTES, Overlap, SearchedFile, look_for, run_of};
pub use folder::{EvaluationFolder, Take, settings_of};
pub use questions::{LETTERS, OPTIONS, Question, Questions, Selection, Subject};
pub use reasoning::Reasoning;
pub use report::write_report;
pub use results::{write_csv, write_submission, write_summary};
pub use settings::settings;
pub use subjects::Benchmark;
pub use summary::{GroupSummary, SubjectSummary, Summary, percent};
pub use takes::Takes;

/// How questions are put, and what decides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scoring {
    /// As lm-eval does: the log-likelihood of the letter behind question and options. Divided by the letter's length it is
    /// the same, so that lm-eval's `acc` and `acc_norm` are.
    #[default]
    LmEval,
    /// The log-likelihood of the option's text behind the question alone, divided by the text's number of characters
    /// (Unicode scalar values), as lm-eval's `acc_norm` is. No description.
    Text,
    /// As the older projects' scripts do: logits of the letter as the next token, with their repetition penalty and
    /// temperature. Their prompts, too.
    Seed,
}

/// Who is asked.
#[derive(Clone, Copy)]
pub enum Backend<'a> {
    /// A model that is open here.
    Opened(&'a Opened),
    /// One behind a server, which knows neither its vocabulary nor its context here.
    Server(&'a Server),
}

impl<'a> From<&'a Opened> for Backend<'a> {
    fn from(opened: &'a Opened) -> Self {
        Self::Opened(opened)
    }
}

impl<'a> From<&'a Server> for Backend<'a> {
    fn from(server: &'a Server) -> Self {
        Self::Server(server)
    }
}

/// How questions are asked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// How they are put, and what decides.
    pub scoring: Scoring,
    /// Ask in a chat: what is asked is the user's message, what is scored begins the assistant's answer, and examples are
    /// earlier turns. Without one the texts are continued as they are.
    pub template: Option<&'a ChatTemplate>,
    /// Ask a server in a chat, around which it puts a template of its own; only with [`Options::reasoning`].
    pub server_chat: bool,
    /// In a chat with [`Scoring::LmEval`], put the examples into the user's one message.
    pub one_turn: bool,
    /// Let the model write its reasons first; what it then states decides, in place of [`Options::scoring`].
    pub reasoning: Option<&'a Reasoning>,
}

impl Options<'_> {
    /// Whether questions are asked in a chat.
    #[must_use]
    pub fn is_chat(&self) -> bool {
        self.template.is_some() || self.server_chat
    }

    /// What decides, as results name it.
    pub(crate) fn decides(&self) -> serde_json::Value {
        match self.reasoning {
            Some(_) => "reasons".into(),
            None => serde_json::json!(self.scoring),
        }
    }
}

/// What the model said to one question.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Log-likelihood of each option (natural logarithm), in the order A to D; with [`Scoring::Seed`] of Chinese questions, the
    /// sum of the logits that decide. None where the question alone does not fit the model's context, and with
    /// [`Options::reasoning`].
    pub scores: Option<[f64; OPTIONS]>,
    /// The option with the highest score, the first of equals.
    pub most_likely: Option<usize>,
    /// The option with the highest score per character, the first of equals. For letters the same.
    pub chosen: Option<usize>,
    /// Whether examples or the description were left out to fit the model's context.
    pub shortened: bool,
    /// What it wrote, with [`Options::reasoning`].
    pub response: Option<String>,
}

impl Answer {
    /// Whether the question was put to the model.
    #[must_use]
    pub fn was_asked(&self) -> bool {
        self.scores.is_some() || self.response.is_some()
    }
}

/// Asks every question and counts. `progress` is told how many options of how many are scored.
///
/// # Errors
/// A model without a vocabulary, a chat template that refuses the conversation, a server that cannot be asked.
pub fn evaluate<'a>(
    backend: impl Into<Backend<'a>>,
    questions: &Questions,
    options: &Options,
    mut progress: impl FnMut(usize, usize),
) -> Result<Summary> {
    let backend = backend.into();
    let mut all = Vec::with_capacity(questions.len());
    for (_, piece) in pieces::pieces(questions, pieces::size(backend, options), 0) {
        let scored = OPTIONS * all.len();
        let told = |done, _| progress(scored + done, OPTIONS * questions.len());
        all.extend(answers(backend, &piece, options, told)?);
    }
    Ok(Summary::new(questions, options, &all))
}

/// The answers to all questions, in their order.
///
/// # Errors
/// As [`evaluate`].
pub fn answers<'a>(
    backend: impl Into<Backend<'a>>,
    questions: &Questions,
    options: &Options,
    progress: impl FnMut(usize, usize),
) -> Result<Vec<Answer>> {
    let opened = match backend.into() {
        Backend::Opened(opened) => opened,
        Backend::Server(server) => {
            let mut all = Vec::with_capacity(questions.len());
            by_server::ask(server, questions, options, progress, |answer| {
                all.push(answer);
                Ok(())
            })?;
            return Ok(all);
        }
    };
    let asker = asker(opened, questions, options)?;
    let asked: Vec<Asked> =
        questions.each().map(|(subject, question)| asker.ask(subject, question)).collect::<Result<_>>()?;
    if let Some(reasoning) = options.reasoning {
        return reasoning::answers(opened, reasoning, &asker, &asked, progress);
    }
    let scores = scores(&opened.model, &asked, progress)?;
    let answer = |(((_, question), asked), scores): ((_, &Asked), _)| {
        answer(question, scores, options.scoring, asked.shortened)
    };
    Ok(questions.each().zip(&asked).zip(scores).map(answer).collect())
}

/// The prompts of all questions, in their order: the text that stands before the options, and its number of tokens, which only a
/// model that is here tells.
///
/// # Errors
/// As [`evaluate`].
pub fn prompts<'a>(
    backend: impl Into<Backend<'a>>,
    questions: &Questions,
    options: &Options,
) -> Result<Vec<(String, Option<usize>)>> {
    match backend.into() {
        Backend::Opened(opened) => {
            let asker = asker(opened, questions, options)?;
            let prompt = |(subject, question)| {
                let Asked { prompt, prompt_tokens, .. } = asker.ask(subject, question)?;
                Ok((prompt, Some(prompt_tokens)))
            };
            questions.each().map(prompt).collect()
        }
        Backend::Server(_) => by_server::prompts(questions, options),
    }
}

fn asker<'a>(opened: &'a Opened, questions: &Questions, options: &Options<'a>) -> Result<Asker<'a>> {
    let tokenizer: &Tokenizer = opened.tokenizer()?;
    Ok(Asker::new(tokenizer, options, questions.benchmark, opened.model.config().context_length()))
}

/// The scores of each question's options.
fn scores(
    model: &Model,
    asked: &[Asked],
    mut progress: impl FnMut(usize, usize),
) -> Result<Vec<Option<[f64; OPTIONS]>>> {
    let all = OPTIONS * asked.len();
    let mut scores = vec![None; asked.len()];
    let (mut requests, mut owners) = (Vec::new(), Vec::new());
    let longest = asked.iter().map(|asked| asked.prompt_tokens).max().unwrap_or(0);
    let mut generator = None;
    let mut done = 0;
    for (index, asked) in asked.iter().enumerate() {
        match &asked.wanted {
            None | Some(Wanted::Reasons { .. }) => done += OPTIONS,
            Some(Wanted::LogLikelihoods(of_question)) => {
                requests.extend_from_slice(of_question);
                owners.push(index);
            }
            Some(Wanted::Logits(logits)) => {
                let generator = generator.get_or_insert_with(|| Generator::new(model, longest));
                scores[index] = Some(logits.sums(generator)?);
                done += OPTIONS;
                progress(done, all);
            }
        }
    }
    let sums = log_likelihoods(model, &requests, |answered, _| progress(done + answered, all))?;
    for (owner, sums) in owners.into_iter().zip(sums.as_chunks::<OPTIONS>().0) {
        scores[owner] = Some(*sums);
    }
    match scores.iter().flatten().flatten().all(|score| score.is_finite()) {
        true => Ok(scores),
        false => Err(Error::NotFinite),
    }
}

fn answer(question: &Question, scores: Option<[f64; OPTIONS]>, scoring: Scoring, shortened: bool) -> Answer {
    let by_length = |mut scores: [f64; OPTIONS]| {
        for (value, text) in scores.iter_mut().zip(&question.options) {
            *value /= text.trim().chars().count() as f64;
        }
        scores
    };
    let most_likely = scores.map(first_highest);
    let chosen = match scoring {
        Scoring::LmEval | Scoring::Seed => most_likely,
        Scoring::Text => scores.map(by_length).map(first_highest),
    };
    Answer { scores, most_likely, chosen, shortened, response: None }
}

fn first_highest(values: [f64; OPTIONS]) -> usize {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    best
}
