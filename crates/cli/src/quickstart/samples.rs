//! The same prompts before and after fine-tuning: the pretrained model continues them, the fine-tuned one answers them.

use std::ops::ControlFlow;
use std::path::Path;

use anyhow::Result;
use danlu_eval::multiple_choice::Questions;
use danlu_model::{GenerationOptions, Generator, Opened, Rest, Sampling, open};
use danlu_tokenizer::Message;

use crate::models::PrecisionChoice;
use crate::prompts::{raw_ids, template_of};

const PROMPTS: [&str; 2] = ["用挤出机挤塑生产塑料制品是", "介绍一下数控加工："];
const MAX_NEW_TOKENS: usize = 96;

/// One prompt.
pub struct Sample {
    pub prompt: String,
    /// The right answer, where there is one.
    pub right: Option<String>,
    /// How the pretrained model goes on.
    pub before: String,
    /// What the fine-tuned model answers.
    pub after: String,
}

/// Fixed prompts, and the first held-out question of each subject.
///
/// # Errors
/// A model that cannot be opened or run.
pub fn samples(pretrained: &Path, fine_tuned: &Path, questions: &Questions) -> Result<Vec<Sample>> {
    let pretrained = open_model(pretrained)?;
    let fine_tuned = open_model(fine_tuned)?;
    let fixed = PROMPTS.iter().map(|prompt| ((*prompt).to_owned(), None));
    let held_out = questions.subjects.iter().filter_map(|subject| subject.questions.first());
    let held_out = held_out.map(|question| {
        (question.question.clone(), question.right.map(|right| question.options[right].clone()))
    });
    fixed
        .chain(held_out)
        .map(|(prompt, right)| {
            let before = generate(&pretrained, &raw_ids(&pretrained, &prompt)?)?;
            let ids = match template_of(&fine_tuned, None)? {
                Some(template) => {
                    fine_tuned.tokenizer()?.chat_ids(&template, &[Message::new("user", &prompt)])?
                }
                None => raw_ids(&fine_tuned, &prompt)?,
            };
            let after = generate(&fine_tuned, &ids)?;
            Ok(Sample { prompt, right, before, after })
        })
        .collect()
}

/// A model as the verbs that only use it open it.
pub fn open_model(path: &Path) -> Result<Opened> {
    Ok(open(path, PrecisionChoice::Auto.resolve(path), Rest::Frozen)?)
}

/// The most probable continuation.
fn generate(opened: &Opened, ids: &[u32]) -> Result<String> {
    let options = GenerationOptions {
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        max_new_tokens: MAX_NEW_TOKENS,
        stop_ids: opened.stop_ids(),
        ..GenerationOptions::default()
    };
    let mut generator = Generator::new(&opened.model, ids.len() + MAX_NEW_TOKENS);
    let generated = generator.generate(ids, &options, |_| ControlFlow::Continue(()))?;
    Ok(opened.tokenizer()?.decode(&generated.ids, true)?.trim().to_owned())
}
