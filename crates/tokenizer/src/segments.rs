//! What of a rendered conversation is learned: the answers and their end-of-turn markers.
//!
//! A template with `{% generation %}` says it itself. For the others, an answer is what stands behind the generation
//! prompt of the messages before it, which is where the model will go on from.

use std::ops::Range;

use minijinja::Value;

use crate::template::{Chat, THINKING, message_value};
use crate::{ChatTemplate, Error, Message, Result, TemplateTokens, jinja};

/// A stretch of a rendered conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The text, never empty.
    pub text: String,
    /// Whether the model learns to write it: an answer and its end-of-turn marker.
    pub trained: bool,
    /// Index of the message whose answer it is, or that it leads to; of text behind the last answer, their count.
    pub message: usize,
}

/// A learned stretch of a text, in bytes, and the message that it answers with.
type Answer = (Range<usize>, usize);

impl ChatTemplate {
    /// The conversation in stretches of untrained and trained text, which concatenate to `render(messages, false)`.
    /// Trained is what stands in `{% generation %}`; in a template without it, what the model writes after the
    /// generation prompt: the answer up to and with its end-of-turn marker, without the line break that some formats
    /// put after it.
    ///
    /// # Errors
    /// As for rendering; and a template that renders a shorter conversation differently, so that training and use
    /// would not see the same text. Thoughts that it leaves out of earlier answers are no such difference.
    pub fn segments(&self, messages: &[Message], tokens: &TemplateTokens) -> Result<Vec<Segment>> {
        self.segments_with_tools(messages, &[], tokens)
    }

    /// As [`ChatTemplate::segments`], with the tools that the assistant may call.
    ///
    /// # Errors
    /// As there; and tools or calls that the template has no place for.
    pub fn segments_with_tools(
        &self,
        messages: &[Message],
        tools: &[serde_json::Value],
        tokens: &TemplateTokens,
    ) -> Result<Vec<Segment>> {
        let chat = self.chat(messages, tools, tokens)?;
        let text = self.write(&chat, &chat.messages, false, &[])?;
        let answers = match self.marks_answers {
            true => self.marked_answers(&chat, messages, &text)?,
            false => self.answers_by_prompts(&chat, messages, &text)?,
        };
        let mut segments = Vec::with_capacity(2 * answers.len() + 1);
        let mut add = |range: Range<usize>, trained: bool, message: usize| {
            if !range.is_empty() {
                segments.push(Segment { text: text[range].to_owned(), trained, message });
            }
        };
        let mut done = 0;
        for (range, message) in answers {
            add(done..range.start, false, message);
            done = range.end;
            add(range, true, message);
        }
        add(done..text.len(), false, messages.len());
        Ok(segments)
    }

    /// What stands in `{% generation %}`.
    fn marked_answers(&self, chat: &Chat<'_>, messages: &[Message], text: &str) -> Result<Vec<Answer>> {
        let mut unused = ('\u{E000}'..=char::MAX).filter(|mark| !text.contains(*mark));
        let (Some(start), Some(end)) = (unused.next(), unused.next()) else { return Ok(Vec::new()) };
        let marked = |messages: &[Value]| -> Result<Vec<Range<usize>>> {
            let marks = Value::from(format!("{start}{end}"));
            let marked = self.write(chat, messages, false, &[(jinja::MARKS, marks)])?;
            Ok(marked_ranges(&marked, start, end))
        };
        let ranges = marked(&chat.messages)?;
        let answering: Vec<usize> = assistants(messages).collect();
        if ranges.len() == answering.len() {
            return Ok(ranges.into_iter().zip(answering).collect());
        }
        // An answer in several stretches, or in none.
        let mut answers = Vec::with_capacity(ranges.len());
        let mut ranges = ranges.into_iter();
        for (nth, &index) in answering.iter().enumerate() {
            let is_last = nth + 1 == answering.len();
            let until = if is_last { usize::MAX } else { marked(&chat.messages[..=index])?.len() };
            let count = until.saturating_sub(answers.len());
            answers.extend(ranges.by_ref().take(count).map(|range| (range, index)));
        }
        Ok(answers)
    }

    /// What stands behind the generation prompts.
    fn answers_by_prompts(&self, chat: &Chat<'_>, messages: &[Message], text: &str) -> Result<Vec<Answer>> {
        let mut answers = Vec::new();
        let mut done = 0;
        for index in assistants(messages) {
            let unstable = |cause| Error::NotPrefixStable { message: index, cause };
            let is_last = index + 1 == messages.len();
            let shorter;
            let turn = match is_last {
                true => text,
                false => {
                    shorter = self.write(chat, &chat.messages[..=index], false, &[])?;
                    &shorter
                }
            };
            let before = &chat.messages[..index];
            let fits = |prompt: &String| turn.starts_with(prompt) && prompt.len() >= done;
            let mut prompt = self.write(chat, before, true, &[])?;
            if !fits(&prompt) || !text.starts_with(&prompt) {
                // An answer with thoughts goes on from the prompt that asks for them.
                let thinking = THINKING.map(|name| (name, Value::from(true)));
                prompt = self.write(chat, before, true, &thinking)?;
            }
            if !fits(&prompt) {
                return Err(unstable("the answer is still to come"));
            }
            let rest = text.strip_prefix(&prompt).ok_or_else(|| unstable("more messages follow"))?;
            let kept = kept(&turn[prompt.len()..], rest, &messages[index].content);
            let answer = kept.ok_or_else(|| unstable("more messages follow"))?;
            // Some templates write the next answer's header in any case; then it would be trained after the last answer.
            if is_last && self.write(chat, &chat.messages, true, &[])? == text {
                let mut next = chat.messages.clone();
                next.push(message_value(&Message::new("user", "")));
                if !self.write(chat, &next, false, &[])?.starts_with(text) {
                    return Err(unstable("more messages follow, because it ignores add_generation_prompt"));
                }
            }
            let content = &messages[index].content;
            let content = answer.find(content).map_or(0, |at| at + content.len());
            let end = prompt.len() + answer.trim_end().len().max(content);
            answers.push((prompt.len()..end, index));
            done = end;
        }
        Ok(answers)
    }
}

fn assistants(messages: &[Message]) -> impl Iterator<Item = usize> {
    let is_answer = |(_, message): &(usize, &Message)| message.role == "assistant";
    messages.iter().enumerate().filter(is_answer).map(|(index, _)| index)
}

/// The answer as it stands in the whole text, which goes on with `rest`: some formats leave its thoughts out there.
fn kept<'a>(answer: &'a str, rest: &str, content: &str) -> Option<&'a str> {
    if rest.starts_with(answer) {
        return Some(answer);
    }
    let said = content.rsplit("</think>").next().unwrap_or_default().trim();
    let suffixes = answer.char_indices().map(|(at, _)| &answer[at..]);
    let mut kept = suffixes.take_while(|suffix| suffix.contains(said));
    kept.find(|suffix| !suffix.trim().is_empty() && rest.starts_with(suffix))
}

/// The stretches between marks, where they would lie without the marks.
fn marked_ranges(marked: &str, start: char, end: char) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let (mut depth, mut from, mut at) = (0_usize, 0, 0);
    for character in marked.chars() {
        if character == start {
            if depth == 0 {
                from = at;
            }
            depth += 1;
        } else if character == end {
            depth = depth.saturating_sub(1);
            if depth == 0 && at > from {
                ranges.push(from..at);
            }
        } else {
            at += character.len_utf8();
        }
    }
    ranges
}
