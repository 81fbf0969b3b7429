//! The option's own text behind the question alone: `{question}\n答案：` (MMLU: `\nAnswer: `) and the text; in a chat the
//! question is the user's message and the text is the assistant's. No description.

use danlu_tokenizer::{ChatTemplate, Message, SpecialTokens};

use super::{Asker, Before, Prompt, Read, Wanted, Wording, four, request};
use crate::Result;
use crate::log_likelihood::Request;
use crate::multiple_choice::questions::{OPTIONS, Question};
use crate::multiple_choice::subjects::Benchmark;

/// Ends the thoughts that templates of reasoning models write before an answer.
const THOUGHTS_END: &str = "</think>";

impl Wording<'_> {
    /// Without a chat.
    pub(super) fn text(&self, before: Before, question: &Question) -> (Prompt, [String; OPTIONS]) {
        let (word, blank) =
            if self.benchmark == Benchmark::Mmlu { ("Answer:", " ") } else { ("答案：", "") };
        let asked = |question: &Question| format!("{}\n{word}", question.question.trim());
        let mut text = String::new();
        for example in before.examples {
            text += &format!("{}{blank}{}\n\n", asked(example), right_text(example));
        }
        text += &asked(question);
        let continuations = question.options.each_ref().map(|option| format!("{blank}{}", option.trim()));
        (Prompt::Text(text), continuations)
    }
}

impl Asker<'_> {
    /// A conversation, tokenized stretch by stretch as in training; the end of the turn is not scored.
    pub(super) fn text_in_chat(
        &self,
        template: &ChatTemplate,
        before: Before,
        question: &Question,
    ) -> Result<Read> {
        let mut messages = Vec::new();
        for example in before.examples {
            messages.push(Message::new("user", example.question.trim()));
            messages.push(Message::new("assistant", right_text(example)));
        }
        messages.push(Message::new("user", question.question.trim()));
        let text = template.render(&messages, true, &self.template_tokens)?;
        let requests = (0..OPTIONS).map(|option| self.answered_with(template, &messages, question, option));
        let requests = four(requests.collect::<Result<_>>()?, question)?;
        Ok(Read { text, wanted: Wanted::LogLikelihoods(requests) })
    }

    fn answered_with(
        &self,
        template: &ChatTemplate,
        messages: &[Message],
        question: &Question,
        option: usize,
    ) -> Result<Request> {
        let answer = question.options[option].trim();
        let messages = [messages, &[Message::new("assistant", answer)]].concat();
        let segments = template.segments(&messages, &self.template_tokens)?;
        let last = segments.iter().rposition(|segment| segment.trained).unwrap_or_default();
        let mut ids = Vec::new();
        for segment in &segments[..last] {
            ids.extend(self.tokenizer.encode_after(&ids, &segment.text, SpecialTokens::Parse)?);
        }
        let turn = segments.get(last).map_or("", |segment| &segment.text);
        // What a template writes before the answer, such as empty thoughts, is given and not scored.
        let given = turn.find(THOUGHTS_END).map_or(0, |at| {
            let behind = &turn[at + THOUGHTS_END.len()..];
            turn.len() - behind.trim_start().len()
        });
        let begin = turn[given..].find(answer).map_or(given, |at| given + at);
        let end = if turn[begin..].starts_with(answer) { begin + answer.len() } else { turn.len() };
        if begin > 0 {
            ids.extend(self.tokenizer.encode_after(&ids, &turn[..begin], SpecialTokens::Parse)?);
        }
        let start = ids.len().max(1);
        ids.extend(self.tokenizer.encode_after(&ids, &turn[begin..end], SpecialTokens::Parse)?);
        request(ids, start, question, option)
    }
}

fn right_text(question: &Question) -> &str {
    question.right.map_or("", |right| question.options[right].trim())
}
