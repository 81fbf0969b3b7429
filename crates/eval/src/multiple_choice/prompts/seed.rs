//! Prompts of the older projects' scripts (Chinese-LLaMA-Alpaca-3 and those that follow it), byte for byte, and the logits
//! that decide there.
//!
//! C-Eval and CMMLU: `以下是中国关于{name}考试的单项选择题，请选出其中的正确答案。\n\n`, the examples as
//! `{question}\nA. {A}…\n答案：{letter}\n\n`, the question. The logits of the next token, with their repetition penalty of 1.1
//! and temperature of 0.2, decide: for each letter the sum of those of the letter alone and of the letter behind `：`.
//! In a chat there is their system message. Without examples all of the text is the user's message; with examples the
//! description is, the assistant promises to use what it knows, and each example is a turn. The scripts begin such a text
//! with BOS twice; here it has one.
//!
//! MMLU: `The following are multiple choice questions (with answers) about  {name}.\n\n` with two blanks, examples
//! as `{question}\nA. {A}…\nAnswer: {letter}\n\n`, no chat. The logits decide as they are; so do log-likelihoods, which differ
//! from them by one number. The scripts look at the letter without the blank that the examples teach; here it is what does
//! follow `Answer:`.

use danlu_model::{Generator, penalize};
use danlu_tokenizer::{ChatTemplate, Message, SpecialTokens};

use super::{Asker, Before, Read, Wanted, lettered, right_letter};
use crate::multiple_choice::questions::{LETTERS, OPTIONS, Question, Subject};
use crate::multiple_choice::subjects::Benchmark;
use crate::{Error, Result};

const SYSTEM: &str = "You are a helpful assistant. 你是一个乐于助人的助手。";
const REPETITION_PENALTY: f32 = 1.1;
const TEMPERATURE: f32 = 0.2;

/// The logits of the next token that decide.
#[derive(Debug)]
pub(in crate::multiple_choice) struct Logits {
    /// What stands before it.
    pub(super) prompt: Vec<u32>,
    /// For each option the tokens whose processed logits are summed.
    ids: [Vec<u32>; OPTIONS],
}

impl Logits {
    /// The sum for each option.
    pub(in crate::multiple_choice) fn sums(&self, generator: &mut Generator) -> Result<[f64; OPTIONS]> {
        let mut logits = generator.next_logits(&self.prompt)?.to_vec();
        penalize(&mut logits, &self.prompt, REPETITION_PENALTY);
        let processed = |id: &u32| f64::from(logits[*id as usize] / TEMPERATURE);
        Ok(self.ids.each_ref().map(|ids| ids.iter().map(processed).sum()))
    }
}

impl Asker<'_> {
    pub(super) fn seed(&self, subject: &Subject, before: Before, question: &Question) -> Result<Read> {
        if self.wording.benchmark == Benchmark::Mmlu {
            return self.older_mmlu(subject, before, question);
        }
        let name = self.wording.benchmark.older_name(&subject.key).unwrap_or(&subject.name);
        let description = match before.is_described {
            true => format!("以下是中国关于{name}考试的单项选择题，请选出其中的正确答案。\n\n"),
            false => String::new(),
        };
        let (text, prompt) = match self.wording.options.template {
            Some(template) => self.older_chat(template, name, description, before.examples, question)?,
            None => {
                let solved = |example| format!("{}{}\n\n", asked(example), right_letter(example));
                let examples: String = before.examples.iter().map(solved).collect();
                let text = format!("{description}{examples}{}", asked(question));
                let prompt = self.tokenizer.prompt_ids(&text)?;
                (text, prompt)
            }
        };
        let mut ids = [const { Vec::new() }; OPTIONS];
        for (ids, letter) in ids.iter_mut().zip(LETTERS) {
            ids.extend(self.encode(letter)?.first());
            ids.extend(self.encode(&format!("：{letter}"))?.last());
        }
        Ok(Read { text, wanted: Wanted::Logits(Logits { prompt, ids }) })
    }

    fn older_chat(
        &self,
        template: &ChatTemplate,
        name: &str,
        description: String,
        examples: &[Question],
        question: &Question,
    ) -> Result<(String, Vec<u32>)> {
        let mut messages = vec![Message::new("system", SYSTEM)];
        if examples.is_empty() {
            messages.push(Message::new("user", description + &asked(question)));
        } else {
            messages.push(Message::new("user", description));
            messages.push(Message::new("assistant", format!("好的，我会结合{name}相关知识回答")));
            for example in examples {
                messages.push(Message::new("user", asked(example)));
                messages.push(Message::new("assistant", right_letter(example)));
            }
            messages.push(Message::new("user", asked(question)));
        }
        let (text, encoded, special) = self.rendered(template, &messages)?;
        let bos = self.bos_before(&encoded, special);
        let ids = self.tokenizer.encode(&encoded, special)?;
        Ok((text, bos.into_iter().chain(ids).collect()))
    }

    fn older_mmlu(&self, subject: &Subject, before: Before, question: &Question) -> Result<Read> {
        if self.wording.options.template.is_some() {
            let problem =
                "MMLU is not asked in a chat by `seed`: add `--raw`, or choose `lm-eval`".to_owned();
            return Err(Error::Option { option: "scoring", problem });
        }
        let mut text = String::new();
        if before.is_described {
            let name = &subject.name;
            text += &format!("The following are multiple choice questions (with answers) about  {name}.\n\n");
        }
        let asked = |question: &Question| format!("{}{}\nAnswer:", question.question, lettered(question));
        for example in before.examples {
            text += &format!("{} {}\n\n", asked(example), right_letter(example));
        }
        text += &asked(question);
        let letters = LETTERS.map(|letter| format!(" {letter}"));
        let wanted = self.requests(&text, letters, SpecialTokens::AsText, question)?;
        Ok(Read { text, wanted })
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.tokenizer.encode(text, SpecialTokens::AsText)?)
    }
}

fn asked(question: &Question) -> String {
    format!("{}{}\n答案：", question.question, lettered(question))
}
