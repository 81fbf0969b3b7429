//! Prompts of lm-eval's tasks `ceval-valid`, `cmmlu` and `mmlu`, byte for byte: the letter behind question and options.
//!
//! | benchmark | description | question |
//! |---|---|---|
//! | C-Eval, questions of one's own | `以下是中国关于{name}的单项选择题，请选出其中的正确答案。\n\n` | `{question}\nA. {A}\nB. {B}\nC. {C}\nD. {D}\n答案：` |
//! | CMMLU | `以下是关于{name}的单项选择题，请直接给出正确答案的选项。\n\n` | the same |
//! | MMLU | `The following are multiple choice questions (with answers) about {name}.\n\n` | the same with `\nAnswer:` |
//!
//! Examples follow the description, each as `{question} {letter}\n\n`, and a blank stands before the letter that is scored.
//! In a chat the description is the system message, examples are earlier turns or, in one turn, stand before the question
//! in the user's message, and the letter has no blank before it.

use danlu_tokenizer::Message;

use super::{Before, Prompt, Wording, lettered, right_letter};
use crate::multiple_choice::questions::{LETTERS, OPTIONS, Question, Subject};
use crate::multiple_choice::subjects::Benchmark;

impl Wording<'_> {
    pub(super) fn lm_eval(
        &self,
        subject: &Subject,
        before: Before,
        question: &Question,
    ) -> (Prompt, [String; OPTIONS]) {
        if self.is_chat() {
            let messages = self.lm_eval_in_chat(subject, before, question);
            return (Prompt::Chat(messages), LETTERS.map(str::to_owned));
        }
        let mut text = if before.is_described { self.description(subject) } else { String::new() };
        text += &self.solved(before.examples);
        text += &self.asked(question);
        (Prompt::Text(text), LETTERS.map(|letter| format!(" {letter}")))
    }

    fn lm_eval_in_chat(&self, subject: &Subject, before: Before, question: &Question) -> Vec<Message> {
        let mut messages = Vec::new();
        if before.is_described {
            messages.push(Message::new("system", self.description(subject)));
        }
        let mut asked = self.asked(question);
        if self.options.one_turn {
            asked.insert_str(0, &self.solved(before.examples));
        } else {
            for example in before.examples {
                messages.push(Message::new("user", self.asked(example)));
                messages.push(Message::new("assistant", right_letter(example)));
            }
        }
        messages.push(Message::new("user", asked));
        messages
    }

    pub(super) fn description(&self, subject: &Subject) -> String {
        let name = &subject.name;
        match self.benchmark {
            Benchmark::Ceval | Benchmark::Own => {
                format!("以下是中国关于{name}的单项选择题，请选出其中的正确答案。\n\n")
            }
            Benchmark::Cmmlu => format!("以下是关于{name}的单项选择题，请直接给出正确答案的选项。\n\n"),
            Benchmark::Mmlu => {
                format!("The following are multiple choice questions (with answers) about {name}.\n\n")
            }
        }
    }

    fn solved(&self, examples: &[Question]) -> String {
        examples
            .iter()
            .map(|example| format!("{} {}\n\n", self.asked(example), right_letter(example)))
            .collect()
    }

    fn asked(&self, question: &Question) -> String {
        let answer = if self.benchmark == Benchmark::Mmlu { "Answer:" } else { "答案：" };
        format!("{}{}\n{answer}", question.question.trim(), lettered(question))
    }
}
