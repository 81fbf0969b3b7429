//! Questions to a model behind a server: their words are sent as they are, and its own vocabulary decides what is scored.
//!
//! No context length is known, so nothing is left out for it; a server that finds a prompt too long ends the evaluation.

use super::prompts::Wording;
use super::questions::{OPTIONS, Questions};
use super::stated_letter::stated_letter;
use super::{Answer, Options, Reasoning, answer};
use crate::Result;
use crate::openai::{Generation, Server};

/// The answers to questions. `progress` is told how many options of how many are decided.
pub(super) fn answers(
    server: &Server,
    questions: &Questions,
    options: &Options,
    mut progress: impl FnMut(usize, usize),
) -> Result<Vec<Answer>> {
    let all = OPTIONS * questions.len();
    let Server { client, parallel } = server;
    let wording = Wording::new(options, questions.benchmark);
    if let Some(Reasoning { sampling, max_new_tokens }) = options.reasoning {
        let prompts = questions.each().map(|(subject, question)| wording.prompt(subject, question));
        let prompts = prompts.collect::<Result<Vec<_>>>()?;
        let how = Generation {
            sampling: sampling.clone(),
            max_tokens: *max_new_tokens,
            stop: wording.next_answer(),
        };
        let mut answers = Vec::with_capacity(prompts.len());
        client.answers(&prompts, &how, *parallel, |text| {
            // Servers that know no `stop` go on.
            let response = wording.first_answer(&text).trim().to_owned();
            let chosen = stated_letter(&response);
            answers.push(Answer {
                scores: None,
                most_likely: chosen,
                chosen,
                shortened: false,
                response: Some(response),
            });
            progress(OPTIONS * answers.len(), all);
            Ok(())
        })?;
        return Ok(answers);
    }
    let mut requests = Vec::with_capacity(all);
    for (subject, question) in questions.each() {
        requests.extend(wording.continuations(subject, question)?);
    }
    let sums = client.log_likelihoods(&requests, *parallel, |done| progress(done, all))?;
    let scores = sums.as_chunks::<OPTIONS>().0.iter();
    let answered = questions.each().zip(scores);
    Ok(answered
        .map(|((_, question), scores)| answer(question, Some(*scores), options.scoring, false))
        .collect())
}

/// The prompts of questions, whose numbers of tokens only the server knows.
pub(super) fn prompts(questions: &Questions, options: &Options) -> Result<Vec<(String, Option<usize>)>> {
    let wording = Wording::new(options, questions.benchmark);
    let prompt = |(subject, question)| Ok((wording.prompt(subject, question)?.text(), None));
    questions.each().map(prompt).collect()
}
