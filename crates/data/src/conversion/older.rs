//! The texts of older projects' own converters, byte for byte, where they differ from what is trained on here.

use serde_json::{Map, Value, json};

use super::Form;
use crate::error::RowProblem;
use crate::options::DataOptions;
use crate::records::Content;

/// An older project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OlderForm {
    /// Alpaca and Belle → `prompt`, `answer`: instruction and input without anything between, and prompts of 10 to 256 and
    /// answers of 5 to 256 characters unless the options say otherwise.
    BabyLlama2,
    /// Math23K → `text` or alpaca; dialogues (LCCC) → `text`, with a last question that nobody answers.
    LiteraryAlpaca2,
}

impl OlderForm {
    /// The row, or none where its texts are too short or too long.
    pub(super) fn row(
        self,
        content: Content,
        form: Form,
        options: &DataOptions,
    ) -> Result<Option<Map<String, Value>>, RowProblem> {
        let Content::Fields(fields) = content else { return Err(RowProblem::PlainText) };
        let text = |name: &str| fields.get(name).and_then(Value::as_str);
        let number_or_text = |name: &str| match fields.get(name) {
            Some(Value::String(text)) => Some(text.clone()),
            Some(value @ Value::Number(_)) => Some(value.to_string()),
            _ => None,
        };
        let row = match (self, form) {
            (Self::BabyLlama2, Form::PromptAnswer) => {
                text("instruction").zip(text("output")).map(|(instruction, answer)| {
                    json!({"prompt": format!("{instruction}{}", text("input").unwrap_or_default()), "answer": answer})
                })
            }
            (Self::LiteraryAlpaca2, Form::Text | Form::Alpaca) => {
                let solution = text("original_text").zip(text("equation")).zip(number_or_text("ans"));
                match (solution, fields.get("dialogue").and_then(Value::as_array)) {
                    (Some(((problem, equation), answer)), _) if form == Form::Text => Some(json!({
                        "text": format!("<s>Human: {problem}</s><s>Assistant: 根据方程式{equation}解得:\n{answer}</s>")
                    })),
                    (Some(((problem, equation), answer)), _) => Some(json!({
                        "instruction": problem,
                        "input": format!("根据方程式:{equation}"),
                        "output": format!("解得:{answer}"),
                    })),
                    (None, Some(utterances)) if form == Form::Text => {
                        let utterances = utterances.iter().enumerate().map(|(index, utterance)| {
                            let speaker = ["Human", "Assistant"][index % 2];
                            Some(format!("<s>{speaker}: {}\n</s>", utterance.as_str()?))
                        });
                        utterances.collect::<Option<String>>().map(|text| json!({"text": text}))
                    }
                    _ => None,
                }
            }
            _ => None,
        };
        match row {
            Some(Value::Object(row)) => Ok(self.has_wanted_length(&row, options).then_some(row)),
            _ => Err(RowProblem::UnknownColumns {
                available: fields.keys().cloned().collect(),
                expected: match self {
                    Self::BabyLlama2 => "`instruction` and `output` as texts, for `prompt-answer-csv`",
                    Self::LiteraryAlpaca2 => {
                        "`original_text`, `equation` and `ans`, for `text` or `alpaca`, or lists of utterances, for `text`"
                    }
                },
                nearest: None,
            }),
        }
    }

    fn has_wanted_length(self, row: &Map<String, Value>, options: &DataOptions) -> bool {
        let is_within = |name: &str, least: usize, most: usize| {
            let chars = row.get(name).and_then(Value::as_str).map_or(0, |text| text.chars().count());
            (least..=most).contains(&chars)
        };
        let DataOptions { min_prompt_chars, max_prompt_chars, min_answer_chars, max_answer_chars, .. } =
            options;
        self != Self::BabyLlama2
            || is_within("prompt", min_prompt_chars.unwrap_or(10), max_prompt_chars.unwrap_or(256))
                && is_within("answer", min_answer_chars.unwrap_or(5), max_answer_chars.unwrap_or(256))
    }
}
