//! Questions to a model behind a server: their words are sent as they are, and its own vocabulary decides what is scored.
//!
//! No context length is known, so nothing is left out for it; a server that finds a prompt too long ends the evaluation.

use super::prompts::Wording;
use super::questions::{OPTIONS, Questions};
use super::stated_letter::stated_letter;
use super::{Answer, Options, Reasoning, answer};
use crate::Result;
use crate::openai::{Generation, Server};

/// Asks questions and hands the answers on one by one, in their order; an error ends it, with the answers before it taken.
/// `progress` is told how many options of how many are decided.
pub(super) fn ask(
    server: &Server,
    questions: &Questions,
    options: &Options,
    mut progress: impl FnMut(usize, usize),
    mut take: impl FnMut(Answer) -> Result<()>,
) -> Result<()> {
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
        let mut done = 0;
        return client.answers(&prompts, &how, *parallel, |text| {
            // Servers that know no `stop` go on.
            let response = wording.first_answer(&text).trim().to_owned();
            let chosen = stated_letter(&response);
            take(Answer {
                scores: None,
                most_likely: chosen,
                chosen,
                shortened: false,
                response: Some(response),
            })?;
            done += OPTIONS;
            progress(done, all);
            Ok(())
        });
    }
    let mut requests = Vec::with_capacity(all);
    for (subject, question) in questions.each() {
        requests.extend(wording.continuations(subject, question)?);
    }
    let mut asked = questions.each();
    let mut sums = Vec::with_capacity(all);
    client.log_likelihoods(&requests, *parallel, |sum| {
        sums.push(sum);
        let (of_questions, rest) = sums.as_chunks::<OPTIONS>();
        if rest.is_empty()
            && let (Some((_, question)), Some(scores)) = (asked.next(), of_questions.last())
        {
            take(answer(question, Some(*scores), options.scoring, false))?;
        }
        progress(sums.len(), all);
        Ok(())
    })
}

/// The prompts of questions, whose numbers of tokens only the server knows.
pub(super) fn prompts(questions: &Questions, options: &Options) -> Result<Vec<(String, Option<usize>)>> {
    let wording = Wording::new(options, questions.benchmark);
    let prompt = |(subject, question)| Ok((wording.prompt(subject, question)?.text(), None));
    questions.each().map(prompt).collect()
}
