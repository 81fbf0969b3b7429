//! Questions as token ids: which prompt is continued, and by what.

use danlu_tokenizer::{ChatTemplate, Message, SpecialTokens, TemplateTokens, Tokenizer};

use super::questions::{LETTERS, OPTIONS, Question, Subject};
use super::{Options, Scoring};
use crate::log_likelihood::Request;
use crate::{Error, Result};

/// Turns questions into requests for one model.
pub(super) struct Asker<'a> {
    tokenizer: &'a Tokenizer,
    template_tokens: TemplateTokens,
    template: Option<&'a ChatTemplate>,
    scoring: Scoring,
    /// Most tokens that the model sees.
    context: usize,
}

/// One question's options, each with its prompt.
pub(super) struct Asked {
    pub(super) requests: [Request; OPTIONS],
    pub(super) shortened: bool,
}

impl<'a> Asker<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, options: &Options<'a>, context: usize) -> Self {
        let template_tokens = tokenizer.template_tokens();
        let Options { scoring, template } = *options;
        Self { tokenizer, template_tokens, template, scoring, context }
    }

    /// Leaves out examples from the last on, then the prompt's beginning, where the context is too short.
    pub(super) fn ask(&self, subject: &Subject, question: &Question) -> Result<Asked> {
        let mut shots = subject.examples.len();
        loop {
            let requests = self.requests(subject, &subject.examples[..shots], question)?;
            // The last id is no input.
            let fits = requests.iter().all(|request| request.ids.len() <= self.context + 1);
            if fits || shots == 0 {
                let shortened = !fits || shots < subject.examples.len();
                let mut requests = requests;
                for request in &mut requests {
                    self.cut_beginning(request, question)?;
                }
                return Ok(Asked { requests, shortened });
            }
            shots -= 1;
        }
    }

    fn requests(
        &self,
        subject: &Subject,
        examples: &[Question],
        question: &Question,
    ) -> Result<[Request; OPTIONS]> {
        let mut requests = Vec::with_capacity(OPTIONS);
        for option in 0..OPTIONS {
            requests.push(match self.template {
                Some(template) => self.in_chat(template, subject, examples, question, option)?,
                None => self.continued(subject, examples, question, option)?,
            });
        }
        requests.try_into().map_err(|_| Error::Row {
            at: question.source.clone(),
            problem: format!("expected {OPTIONS} options"),
        })
    }

    /// The text as it is, BOS in front iff the vocabulary's files say so.
    fn continued(
        &self,
        subject: &Subject,
        examples: &[Question],
        question: &Question,
        option: usize,
    ) -> Result<Request> {
        // lm-eval puts a blank between C-Eval's prompt and the letter.
        let delimiter = if self.scoring == Scoring::Letter { " " } else { "" };
        let mut prompt = self.description(subject);
        for example in examples {
            let answer = self.answer(example, example.right);
            prompt += &format!("{}{delimiter}{answer}\n\n", self.asked(example));
        }
        prompt += &self.asked(question);
        let whole = format!("{prompt}{delimiter}{}", self.answer(question, option));
        let encode = |text: &str| self.tokenizer.encode(text, SpecialTokens::AsText);
        let (prompt, whole) = (encode(&prompt)?, encode(&whole)?);
        // A token that joins the prompt's end with the option's beginning belongs to the option.
        let common = prompt.iter().zip(&whole).take_while(|(prompt, whole)| prompt == whole).count();
        let bos = self.tokenizer.bos_id().filter(|_| self.tokenizer.adds_bos());
        let mut ids: Vec<u32> = bos.into_iter().collect();
        let start = (ids.len() + common).max(1);
        ids.extend(whole);
        self.request(ids, start, question, option)
    }

    /// A conversation, tokenized stretch by stretch as in training; the end of the turn is not scored.
    fn in_chat(
        &self,
        template: &ChatTemplate,
        subject: &Subject,
        examples: &[Question],
        question: &Question,
        option: usize,
    ) -> Result<Request> {
        let mut messages = Vec::new();
        let mut before = self.description(subject);
        for example in examples {
            messages.push(Message::new("user", std::mem::take(&mut before) + &self.asked(example)));
            messages.push(Message::new("assistant", self.answer(example, example.right)));
        }
        let answer = self.answer(question, option);
        messages.push(Message::new("user", before + &self.asked(question)));
        messages.push(Message::new("assistant", answer));
        let segments = template.segments(&messages, &self.template_tokens)?;
        let last = segments.iter().rposition(|segment| segment.trained).unwrap_or_default();
        let mut ids = Vec::new();
        for segment in &segments[..last] {
            ids.extend(self.tokenizer.encode_after(&ids, &segment.text, SpecialTokens::Parse)?);
        }
        let turn = segments.get(last).map_or("", |segment| &segment.text);
        let end = turn.find(answer).map_or(turn.len(), |at| at + answer.len());
        let start = ids.len().max(1);
        ids.extend(self.tokenizer.encode_after(&ids, &turn[..end], SpecialTokens::Parse)?);
        self.request(ids, start, question, option)
    }

    fn request(&self, ids: Vec<u32>, start: usize, question: &Question, option: usize) -> Result<Request> {
        if ids.len() > start {
            return Ok(Request { ids, start });
        }
        let problem = format!("option {} becomes no token in this vocabulary", LETTERS[option]);
        Err(Error::Row { at: question.source.clone(), problem })
    }

    fn cut_beginning(&self, request: &mut Request, question: &Question) -> Result<()> {
        let option = request.ids.len() - request.start;
        let context = self.context;
        if option > context {
            let problem =
                format!("an option of {option} tokens does not fit the model's context of {context} tokens");
            return Err(Error::Row { at: question.source.clone(), problem });
        }
        let excess = request.ids.len().saturating_sub(context + 1);
        let bos = usize::from(self.tokenizer.bos_id() == request.ids.first().copied());
        let kept = bos.min(request.start - excess);
        request.ids.drain(kept..kept + excess);
        request.start -= excess;
        Ok(())
    }

    fn description(&self, subject: &Subject) -> String {
        match self.scoring {
            Scoring::Letter => {
                format!("以下是中国关于{}的单项选择题，请选出其中的正确答案。\n\n", subject.name)
            }
            Scoring::Text => String::new(),
        }
    }

    fn asked(&self, question: &Question) -> String {
        let asked = question.question.trim();
        match self.scoring {
            Scoring::Letter => {
                let [a, b, c, d] = &question.options;
                format!("{asked}\nA. {a}\nB. {b}\nC. {c}\nD. {d}\n答案：")
            }
            Scoring::Text if self.template.is_some() => asked.to_owned(),
            Scoring::Text => format!("{asked}\n答案："),
        }
    }

    fn answer<'q>(&self, question: &'q Question, option: usize) -> &'q str {
        match self.scoring {
            Scoring::Letter => LETTERS[option],
            Scoring::Text => question.options[option].trim(),
        }
    }
}
