//! Questions as prompts: what is continued, and by what; and as token ids, for a model that is here.
//!
//! Each way of scoring words its prompts in a file of its own: [`lm_eval`], [`text`], [`seed`], [`reasoned`]. Here is what they share:
//! which examples a context has room for, and how a text or conversation becomes ids. A server gets the words as they are.

mod lm_eval;
mod reasoned;
mod seed;
mod text;

use danlu_tokenizer::{
    ChatTemplate, Error as TokenizerError, Guarded, Message, SpecialTokens, TemplateTokens, Tokenizer,
};

use super::questions::{LETTERS, OPTIONS, Question, Subject};
use super::subjects::Benchmark;
use super::{Options, Scoring};
use crate::log_likelihood::Request;
use crate::openai::{Continuation, Prompt};
use crate::{Error, Result};

/// Puts questions into words, which takes no vocabulary.
#[derive(Clone, Copy)]
pub(super) struct Wording<'a> {
    options: Options<'a>,
    benchmark: Benchmark,
}

/// Turns questions into what is asked of one model.
pub(super) struct Asker<'a> {
    wording: Wording<'a>,
    tokenizer: &'a Tokenizer,
    template_tokens: TemplateTokens,
    /// Most tokens that the model sees.
    context: usize,
}

/// One question as it is asked.
#[derive(Debug)]
pub(super) struct Asked {
    /// What the model is shown before the options, without the BOS that its tokenizer puts there.
    pub(super) prompt: String,
    /// Its tokens, BOS included.
    pub(super) prompt_tokens: usize,
    /// What is read off the model; nothing where the question alone does not fit the context.
    pub(super) wanted: Option<Wanted>,
    /// Whether examples or the description were left out to fit the model's context.
    pub(super) shortened: bool,
}

/// What decides between the options.
#[derive(Debug)]
pub(super) enum Wanted {
    /// How probable each option is.
    LogLikelihoods([Request; OPTIONS]),
    /// Logits of the next token.
    Logits(seed::Logits),
    /// The letter that reasons of at most `room` tokens arrive at.
    Reasons { prompt: Vec<u32>, room: usize },
}

/// A prompt as it is shown to people and as the model reads it.
struct Read {
    text: String,
    wanted: Wanted,
}

/// What stands before a question.
#[derive(Clone, Copy)]
struct Before<'a> {
    examples: &'a [Question],
    is_described: bool,
}

impl<'a> Asker<'a> {
    pub(super) fn new(
        tokenizer: &'a Tokenizer,
        options: &Options<'a>,
        benchmark: Benchmark,
        context: usize,
    ) -> Self {
        let template_tokens = tokenizer.template_tokens();
        Self { wording: Wording::new(options, benchmark), tokenizer, template_tokens, context }
    }

    pub(super) fn wording(&self) -> &Wording<'a> {
        &self.wording
    }

    /// Leaves out examples from the oldest on, and then the description, where the context is too short.
    pub(super) fn ask(&self, subject: &Subject, question: &Question) -> Result<Asked> {
        let examples = subject.examples.as_slice();
        let with =
            (0..=examples.len()).map(|oldest| Before { examples: &examples[oldest..], is_described: true });
        let alone = Before { examples: &[], is_described: false };
        let mut shortened = false;
        let mut last = None;
        for before in with.chain([alone]) {
            let Read { text, wanted } = self.read(subject, before, question)?;
            let (prompt_tokens, fits) = (wanted.prompt_tokens(), wanted.inputs() <= self.context);
            let asked =
                Asked { prompt: text, prompt_tokens, wanted: Some(wanted).filter(|_| fits), shortened };
            if fits {
                return Ok(asked);
            }
            shortened = true;
            last = Some(asked);
        }
        last.ok_or_else(|| Error::Row { at: question.source.clone(), problem: "cannot be asked".into() })
    }

    fn read(&self, subject: &Subject, before: Before, question: &Question) -> Result<Read> {
        let Wording { options, .. } = self.wording;
        let scored = match (options.reasoning, options.scoring, options.template) {
            (Some(reasoning), ..) => {
                let prompt = self.wording.reasoned(subject, before, question)?;
                let (text, encoded, special) = self.written(prompt)?;
                let bos = self.bos_before(&encoded, special);
                let ids = self.tokenizer.encode(&encoded, special)?;
                let prompt = bos.into_iter().chain(ids).collect();
                let room = reasoning.max_new_tokens.min(self.context / 2);
                return Ok(Read { text, wanted: Wanted::Reasons { prompt, room } });
            }
            (None, Scoring::LmEval, _) => self.wording.lm_eval(subject, before, question),
            (None, Scoring::Text, None) => self.wording.text(before, question),
            (None, Scoring::Text, Some(template)) => return self.text_in_chat(template, before, question),
            (None, Scoring::Seed, _) => return self.seed(subject, before, question),
        };
        let (prompt, continuations) = scored;
        let (text, encoded, special) = self.written(prompt)?;
        let wanted = self.requests(&encoded, continuations, special, question)?;
        Ok(Read { text, wanted })
    }

    /// A prompt as text, and as text to encode and how.
    fn written(&self, prompt: Prompt) -> Result<(String, String, SpecialTokens)> {
        match (prompt, self.wording.options.template) {
            (Prompt::Chat(messages), Some(template)) => self.rendered(template, &messages),
            (Prompt::Text(text), _) => Ok((text.clone(), text, SpecialTokens::AsText)),
            (Prompt::Chat(_), None) => {
                let problem = "a model that is here is asked in a chat by a template".to_owned();
                Err(Error::Option { option: "template", problem })
            }
        }
    }

    /// What goes on from a prompt, which has one BOS iff the vocabulary's files say so or the chat template wrote it. Blanks and
    /// line breaks at the prompt's end belong to what follows them, and a token that joins the end with the beginning too, as
    /// in lm-eval.
    fn requests(
        &self,
        prompt: &str,
        continuations: [String; OPTIONS],
        special: SpecialTokens,
        question: &Question,
    ) -> Result<Wanted> {
        let bos = self.bos_before(prompt, special);
        let before = self.tokenizer.encode(prompt.trim_end(), special)?;
        let mut requests = Vec::with_capacity(OPTIONS);
        for (option, continuation) in continuations.iter().enumerate() {
            let whole = self.tokenizer.encode(&format!("{prompt}{continuation}"), special)?;
            let start = match whole.len() > before.len() {
                true => before.len(),
                false => before.iter().zip(&whole).take_while(|(before, whole)| before == whole).count(),
            };
            let start = (start + usize::from(bos.is_some())).max(1);
            requests.push(request(bos.into_iter().chain(whole).collect(), start, question, option)?);
        }
        four(requests, question).map(Wanted::LogLikelihoods)
    }

    /// The BOS that a text is still to get.
    fn bos_before(&self, text: &str, special: SpecialTokens) -> Option<u32> {
        let bos_text = self.template_tokens.bos_token.as_str();
        let is_written = special != SpecialTokens::AsText && text.starts_with(bos_text);
        self.tokenizer.bos_id().filter(|_| self.tokenizer.adds_bos() && !is_written)
    }

    /// A conversation up to where the answer begins, as text, and as text to encode and how. A template without a place for
    /// a system message is asked without it, as in lm-eval.
    fn rendered(
        &self,
        template: &ChatTemplate,
        messages: &[Message],
    ) -> Result<(String, String, SpecialTokens)> {
        let render = |messages: &[Message]| template.render(messages, true, &self.template_tokens);
        let text = match render(messages) {
            Err(TokenizerError::Template { .. })
                if messages.iter().any(|message| message.role == "system") =>
            {
                let rest: Vec<Message> =
                    messages.iter().filter(|message| message.role != "system").cloned().collect();
                return self.rendered(template, &rest);
            }
            text => text?,
        };
        match self.tokenizer.guard(messages) {
            Some(Guarded { messages, guard }) => {
                Ok((text, render(&messages)?, SpecialTokens::Guarded(guard)))
            }
            None => Ok((text.clone(), text, SpecialTokens::Parse)),
        }
    }
}

impl<'a> Wording<'a> {
    pub(super) fn new(options: &Options<'a>, benchmark: Benchmark) -> Self {
        Self { options: *options, benchmark }
    }

    /// The prompt of a question for a server, with all that stands before it.
    pub(super) fn prompt(&self, subject: &Subject, question: &Question) -> Result<Prompt> {
        let before = Before { examples: &subject.examples, is_described: true };
        match self.options.reasoning {
            Some(_) => self.reasoned(subject, before, question),
            None => Ok(self.scored(subject, before, question)?.0),
        }
    }

    /// How likely a server finds each option.
    pub(super) fn continuations(
        &self,
        subject: &Subject,
        question: &Question,
    ) -> Result<[Continuation; OPTIONS]> {
        let before = Before { examples: &subject.examples, is_described: true };
        let (prompt, texts) = self.scored(subject, before, question)?;
        let prompt = prompt.text();
        Ok(texts.map(|text| Continuation { prompt: prompt.clone(), text }))
    }

    fn scored(
        &self,
        subject: &Subject,
        before: Before,
        question: &Question,
    ) -> Result<(Prompt, [String; OPTIONS])> {
        match self.options.scoring {
            Scoring::LmEval => Ok(self.lm_eval(subject, before, question)),
            Scoring::Text => Ok(self.text(before, question)),
            Scoring::Seed => {
                let problem = "`seed` looks at logits, which servers do not tell: choose `lm-eval` or `text`";
                Err(Error::Option { option: "scoring", problem: problem.into() })
            }
        }
    }

    fn is_chat(&self) -> bool {
        self.options.is_chat()
    }
}

impl Wanted {
    /// Tokens that the model must see at a time.
    fn inputs(&self) -> usize {
        match self {
            // The last id is no input.
            Self::LogLikelihoods(requests) => {
                requests.iter().map(|request| request.ids.len() - 1).max().unwrap_or(0)
            }
            Self::Logits(logits) => logits.prompt.len(),
            Self::Reasons { prompt, room } => prompt.len() + room,
        }
    }

    fn prompt_tokens(&self) -> usize {
        match self {
            Self::LogLikelihoods(requests) => requests[0].start,
            Self::Logits(logits) => logits.prompt.len(),
            Self::Reasons { prompt, .. } => prompt.len(),
        }
    }
}

fn request(ids: Vec<u32>, start: usize, question: &Question, option: usize) -> Result<Request> {
    if ids.len() > start {
        return Ok(Request { ids, start });
    }
    let problem = format!("option {} becomes no token in this vocabulary", LETTERS[option]);
    Err(Error::Row { at: question.source.clone(), problem })
}

fn four<T>(values: Vec<T>, question: &Question) -> Result<[T; OPTIONS]> {
    values.try_into().map_err(|_| Error::Row {
        at: question.source.clone(),
        problem: format!("expected {OPTIONS} options"),
    })
}

/// The options of a question by letter, each on a line of its own.
fn lettered(question: &Question) -> String {
    LETTERS.iter().zip(&question.options).map(|(letter, option)| format!("\n{letter}. {option}")).collect()
}

/// The letter of the right option; none where it is withheld.
fn right_letter(question: &Question) -> &'static str {
    question.right.map_or("", |right| LETTERS[right])
}
