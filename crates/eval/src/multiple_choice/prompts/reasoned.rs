//! Prompts that ask for reasoning before the letter, as C-Eval's chain of thought does.
//!
//! C-Eval, CMMLU, questions of one's own: `…\n答案：让我们一步一步思考，\n`, and in examples their explanation and
//! `\n所以答案是{letter}。\n\n`. MMLU: `…\nAnswer: Let's think step by step.\n`, and `\nThe answer is ({letter}).\n\n`. Description and question
//! are those of [`lm_eval`](super::lm_eval). In a chat the user's message asks for the steps and for how to end.

use danlu_tokenizer::Message;

use super::{Before, Prompt, Wording, lettered, right_letter};
use crate::multiple_choice::questions::{Question, Subject};
use crate::multiple_choice::subjects::Benchmark;
use crate::{Error, Result};

/// The words of a language.
struct Words {
    answer: &'static str,
    begin: &'static str,
    /// What stands before and behind the letter that an example ends with.
    end: [&'static str; 2],
    asked: &'static str,
}

const CHINESE: Words = Words {
    answer: "答案：",
    begin: "让我们一步一步思考，\n",
    end: ["\n所以答案是", "。"],
    asked: "让我们一步一步思考，最后写出“所以答案是”和字母。",
};

const ENGLISH: Words = Words {
    answer: "Answer: ",
    begin: "Let's think step by step.\n",
    end: ["\nThe answer is (", ")."],
    asked: "Let's think step by step, and end with “The answer is” and the letter.",
};

fn next_answer(Words { answer, begin, .. }: &Words) -> String {
    format!("\n{answer}{}", begin.trim_end())
}

fn text_before<'t>(text: &'t str, end: &str) -> &'t str {
    text.find(end).map_or(text, |at| &text[..at])
}

impl Wording<'_> {
    pub(super) fn reasoned(&self, subject: &Subject, before: Before, question: &Question) -> Result<Prompt> {
        let Words { answer, begin, asked, .. } = self.words();
        let description = if before.is_described { self.description(subject) } else { String::new() };
        let put = |question: &Question| format!("{}{}\n", question.question.trim(), lettered(question));
        if !self.is_chat() {
            let mut text = description;
            for example in before.examples {
                text += &format!("{}{answer}{begin}{}\n\n", put(example), self.explained(example)?);
            }
            text += &format!("{}{answer}{begin}", put(question));
            return Ok(Prompt::Text(text));
        }
        let mut messages = Vec::new();
        if before.is_described {
            messages.push(Message::new("system", description));
        }
        for example in before.examples {
            messages.push(Message::new("user", put(example) + asked));
            messages.push(Message::new("assistant", self.explained(example)?));
        }
        messages.push(Message::new("user", put(question) + asked));
        Ok(Prompt::Chat(messages))
    }

    /// The answer without what a model that goes on and on writes behind it.
    pub(in crate::multiple_choice) fn first_answer<'t>(&self, text: &'t str) -> &'t str {
        self.next_answer().map_or(text, |next| text_before(text, &next))
    }

    /// How the next answer, to a question of its own, would begin; none in a chat. Reasons may end with `答案：B` on a line of
    /// its own; only what opens reasons anew is another answer.
    pub(in crate::multiple_choice) fn next_answer(&self) -> Option<String> {
        (!self.is_chat()).then(|| next_answer(self.words()))
    }

    fn explained(&self, example: &Question) -> Result<String> {
        let Some(explanation) = &example.explanation else {
            return Err(Error::Row {
                at: example.source.clone(),
                problem: "the example has no `explanation` to show: expected that column, or `--shots 0`"
                    .into(),
            });
        };
        let [before, behind] = self.words().end;
        // An empty line ends an example.
        let explanation = explanation.trim().replace("\n\n", "\n");
        Ok(format!("{explanation}{before}{}{behind}", right_letter(example)))
    }

    fn words(&self) -> &'static Words {
        match self.benchmark {
            Benchmark::Ceval | Benchmark::Cmmlu | Benchmark::Own => &CHINESE,
            Benchmark::Mmlu => &ENGLISH,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conclusion_in_the_words_of_the_prompt_is_kept() {
        for (text, words, kept) in [
            ("车削是主运动。\n答案：B", &CHINESE, "车削是主运动。\n答案：B"),
            ("所以答案是B。\n\n刀具\n答案：让我们一步一步思考，\n答案是C", &CHINESE, "所以答案是B。\n\n刀具"),
            ("It turns.\nAnswer: B", &ENGLISH, "It turns.\nAnswer: B"),
            ("(B).\n\nWhat?\nAnswer: Let's think step by step.\nC", &ENGLISH, "(B).\n\nWhat?"),
        ] {
            assert_eq!(text_before(text, &next_answer(words)), kept);
        }
    }
}
