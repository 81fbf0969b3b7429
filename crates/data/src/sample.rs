//! A row → token ids, each with the weight of its loss.
//!
//! Pretraining cuts a document into pieces and loses no token; fine-tuning learns the answers and their end tokens,
//! preference tuning the last answers, of which unwanted ones have negative weights. It reads no files and counts nothing:
//! [`Outcome`] says what became of the row.

use danlu_tokenizer::{ChatTemplate, Guarded, Message, SpecialTokens, TemplateTokens, Tokenizer};

use crate::dataset_format::{Conversation, JudgedAnswer, PreferencePair};
use crate::error::{DataError, Result, RowProblem};
use crate::options::{DataOptions, Overlong};
use crate::records::Source;

/// Token ids and what is learned of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Token ids, shape `[T]`.
    pub ids: Vec<u32>,
    /// Shape `[T]`: `loss_weights[i]` is the weight of predicting `ids[i]` from `ids[..i]`; 0 at index 0, which
    /// nothing predicts, and negative in an answer that is to become less probable.
    pub loss_weights: Vec<f32>,
    /// The row that it comes from.
    pub source: Source,
}

impl Sample {
    /// Ids before the last trained one: those after it see nothing that is learned. 0 if nothing is trained.
    pub fn input_length(&self) -> usize {
        // Weights are for predicting an id from those before it: one at index 0 has no position.
        (1..self.ids.len()).rev().find(|&index| self.loss_weights[index] != 0.0).unwrap_or(0)
    }

    /// Number of ids that are learned.
    pub fn trained_tokens(&self) -> usize {
        self.loss_weights.iter().filter(|&&weight| weight != 0.0).count()
    }

    /// Whether its answer is to become less probable.
    pub fn is_unwanted(&self) -> bool {
        self.loss_weights.iter().any(|&weight| weight < 0.0)
    }
}

/// What became of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It is used.
    Used {
        /// One sample, or the pieces of a document.
        samples: Vec<Sample>,
        /// Tokens of the row before it was cut; of a pair, of the longer of its two.
        length: usize,
        /// What `cutoff_len` did to it.
        cut: Cut,
        /// Whether messages spell out special tokens, which became text.
        spells_special_tokens: bool,
        /// Whether its answers end, uncut, with a token that is no end token of the tokenizer.
        lacks_end: bool,
    },
    /// A document without text, or a conversation with an empty answer.
    Empty,
    /// A pair whose answers are the same tokens, so that neither can be preferred.
    IdenticalPair {
        /// Tokens of each.
        length: usize,
    },
    /// Longer than `cutoff_len`, left out.
    Overlong {
        /// Tokens of the row.
        length: usize,
    },
    /// So long before its first answer token that truncation would leave nothing to learn.
    PromptTooLong {
        /// Tokens of the row.
        length: usize,
    },
}

/// What became of a conversation that is longer than `cutoff_len`; documents are cut without loss.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Cut {
    /// It is whole.
    #[default]
    No,
    /// Its end was cut off.
    Truncated {
        /// Answer tokens that were lost.
        answer_tokens: usize,
    },
    /// It was split between its exchanges.
    Split {
        /// Exchanges that are too long alone, left out.
        left_out: usize,
    },
}

/// The ids of a document: the beginning-of-text token if the tokenizer adds one, the text, the end-of-text token; special
/// tokens spelled out in the text are text. None of a document without text.
pub fn document_ids(text: &str, tokenizer: &Tokenizer) -> Result<Option<Vec<u32>>> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    let eos = tokenizer.eos_id().ok_or_else(|| {
        DataError::Tokenizer(
            "it has no end-of-text token, which ends each document: set `eos_token`".to_owned(),
        )
    })?;
    let mut ids: Vec<u32> = tokenizer.bos_id().filter(|_| tokenizer.adds_bos()).into_iter().collect();
    ids.extend(tokenizer.encode(text, SpecialTokens::AsText).map_err(tokenizer_error)?);
    ids.push(eos);
    Ok(Some(ids))
}

/// Turns a document into samples of at most `cutoff_len` ids.
pub fn document_samples(
    text: &str,
    tokenizer: &Tokenizer,
    options: &DataOptions,
    source: Source,
) -> Result<Outcome> {
    let ids = document_ids(text, tokenizer)?;
    Ok(ids.map_or(Outcome::Empty, |ids| id_samples(&ids, options.cutoff_len, source)))
}

/// Cuts the ids of a document into samples of at most `cutoff_len` ids. Every id but the first is learned exactly once.
pub fn id_samples(ids: &[u32], cutoff_len: usize, source: Source) -> Outcome {
    let samples: Vec<Sample> =
        pieces(ids, cutoff_len).map(|piece| document_piece(piece, source.clone())).collect();
    if samples.is_empty() {
        return Outcome::Empty;
    }
    Outcome::Used { samples, length: ids.len(), cut: Cut::No, spells_special_tokens: false, lacks_end: false }
}

/// A sample of which all is learned but the first id, which nothing predicts.
pub(crate) fn document_piece(ids: &[u32], source: Source) -> Sample {
    let mut loss_weights = vec![1.0; ids.len()];
    if let Some(first) = loss_weights.first_mut() {
        *first = 0.0;
    }
    Sample { ids: ids.to_vec(), loss_weights, source }
}

/// Pieces of at most `cutoff_len` ids (at least 2); each begins with the last id of the one before, as context.
fn pieces(ids: &[u32], cutoff_len: usize) -> impl Iterator<Item = &[u32]> {
    let step = cutoff_len.max(2) - 1;
    (0..ids.len().saturating_sub(1))
        .step_by(step)
        .map(move |start| &ids[start..ids.len().min(start + step + 1)])
}

/// Turns a conversation into a sample by a chat template, whose segments are tokenized one after another as they are
/// when the model goes on from a prompt; answers and their end tokens are learned. Special tokens spelled out in a message are text:
/// only the template ends a turn.
pub fn conversation_sample(
    conversation: &Conversation,
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    tokens: &TemplateTokens,
    options: &DataOptions,
    source: Source,
) -> Result<Outcome> {
    let is_empty_answer = |message: &Message| message.role == "assistant" && message.is_empty();
    if conversation.messages.iter().any(is_empty_answer) {
        return Ok(Outcome::Empty);
    }
    let write = |conversation: &Conversation| {
        Written::of(conversation, tokenizer, template, tokens, options.mask_history, &source)
    };
    let mut written = write(conversation)?;
    let Some(prompt_length) = written.first_trained() else {
        let problem = if written.answer.iter().any(Option::is_some) {
            RowProblem::NoWeight
        } else {
            RowProblem::Template { message: "it writes no answer that could be learned".to_owned() }
        };
        return Err(DataError::Row { at: source, problem });
    };
    let last = written.answer.iter().rposition(is_trained).unwrap_or(prompt_length);
    let lacks_end = !tokenizer.end_of_turn_ids().contains(&written.ids[last]);
    let (length, cutoff_len) = (written.ids.len(), options.cutoff_len);
    let spells_special_tokens = written.spells_special_tokens;
    let (parts, cut) = match options.overlong {
        _ if length <= cutoff_len => (vec![written], Cut::No),
        Overlong::Drop => return Ok(Outcome::Overlong { length }),
        Overlong::Error => return Err(DataError::Overlong { at: source, length, cutoff_len }),
        // With no token before it, the first answer token could not be learned.
        Overlong::Truncate if prompt_length.max(1) >= cutoff_len => {
            return Ok(Outcome::PromptTooLong { length });
        }
        Overlong::Truncate => {
            let answer_tokens = written.answer.drain(cutoff_len..).filter(is_trained).count();
            written.ids.truncate(cutoff_len);
            (vec![written], Cut::Truncated { answer_tokens })
        }
        Overlong::Split => {
            let (parts, left_out) = split(conversation, cutoff_len, write)?;
            if parts.is_empty() {
                return Ok(Outcome::Overlong { length });
            }
            (parts, Cut::Split { left_out })
        }
    };
    let prompt_weight = if options.train_on_prompt { 1.0 } else { 0.0 };
    let samples = parts.into_iter().map(|part| part.sample(prompt_weight, source.clone())).collect();
    Ok(Outcome::Used { samples, length, cut, spells_special_tokens, lacks_end })
}

/// A conversation as a template writes it.
struct Written {
    ids: Vec<u32>,
    /// The weight of each token of an answer; none for a token of the prompt.
    answer: Vec<Option<f32>>,
    spells_special_tokens: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "iterators over weights pass references")]
fn is_trained(weight: &Option<f32>) -> bool {
    weight.is_some_and(|weight| weight > 0.0)
}

impl Written {
    fn of(
        conversation: &Conversation,
        tokenizer: &Tokenizer,
        template: &ChatTemplate,
        tokens: &TemplateTokens,
        mask_history: bool,
        source: &Source,
    ) -> Result<Self> {
        let guarded = tokenizer.guard(&conversation.messages);
        let (messages, special) = match &guarded {
            Some(Guarded { messages, guard }) => (messages, SpecialTokens::Guarded(*guard)),
            None => (&conversation.messages, SpecialTokens::Parse),
        };
        let segments = template.segments_with_tools(messages, &conversation.tools, tokens);
        let segments = segments.map_err(|error| DataError::Row {
            at: source.clone(),
            problem: RowProblem::Template { message: error.to_string() },
        })?;
        // With `mask_history`, an earlier answer is a part of the prompt.
        let first_answer = if mask_history { messages.len().saturating_sub(1) } else { 0 };
        let (mut ids, mut answer) = (Vec::new(), Vec::new());
        for segment in segments {
            ids.extend(tokenizer.encode_after(&ids, &segment.text, special).map_err(tokenizer_error)?);
            let is_answer = segment.trained && segment.message >= first_answer;
            answer.resize(ids.len(), is_answer.then(|| conversation.loss_weights[segment.message]));
        }
        Ok(Self { ids, answer, spells_special_tokens: guarded.is_some() })
    }

    fn first_trained(&self) -> Option<usize> {
        self.answer.iter().position(is_trained)
    }

    fn sample(self, prompt_weight: f32, source: Source) -> Sample {
        let weights = self.answer.into_iter().map(|weight| weight.unwrap_or(prompt_weight));
        let mut loss_weights: Vec<f32> = weights.collect();
        loss_weights[0] = 0.0;
        Sample { ids: self.ids, loss_weights, source }
    }
}

/// Parts of a conversation of at most `cutoff_len` tokens that begin with a question, behind its system message, and end with
/// an answer: as many exchanges in each as fit. Gives also the number of exchanges that are too long alone.
fn split(
    conversation: &Conversation,
    cutoff_len: usize,
    write: impl Fn(&Conversation) -> Result<Written>,
) -> Result<(Vec<Written>, usize)> {
    let messages = &conversation.messages;
    let system = messages.iter().take_while(|message| message.role == "system").count();
    // Where exchanges begin, and where the last one ends.
    let mut bounds = vec![system];
    bounds.extend(
        (system + 1..messages.len())
            .filter(|&at| messages[at].role == "user" && messages[at - 1].role == "assistant"),
    );
    bounds.push(messages.len());
    let part = |exchanges: &[usize]| {
        let range = exchanges[0]..exchanges[exchanges.len() - 1];
        write(&Conversation {
            messages: [&messages[..system], &messages[range.clone()]].concat(),
            loss_weights: [&conversation.loss_weights[..system], &conversation.loss_weights[range]].concat(),
            tools: conversation.tools.clone(),
        })
    };
    let (mut parts, mut left_out, mut first) = (Vec::new(), 0, 0);
    while first + 1 < bounds.len() {
        let (mut end, mut too_long, mut longest) = (first, bounds.len(), None);
        while end + 1 < too_long {
            let middle = (end + too_long) / 2;
            let written = part(&bounds[first..=middle])?;
            if written.ids.len() <= cutoff_len {
                (end, longest) = (middle, Some(written));
            } else {
                too_long = middle;
            }
        }
        left_out += usize::from(longest.is_none());
        // Answers whose weight is 0 give no sample of their own.
        parts.extend(longest.filter(|written| written.first_trained().is_some()));
        first = end.max(first + 1);
    }
    Ok((parts, left_out))
}

/// Turns a preference pair into two samples: that of the wanted answer, and that of the unwanted one, whose weights are
/// negative. What is lost of one is lost of both.
pub fn pair_samples(
    pair: &PreferencePair,
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    tokens: &TemplateTokens,
    options: &DataOptions,
    source: Source,
) -> Result<Outcome> {
    let of = |answer: &[Message]| {
        let weight = |message: &Message| if message.role == "assistant" { pair.loss_weight } else { 0.0 };
        let prompt = pair.prompt.iter().map(|_| 0.0);
        let conversation = Conversation {
            messages: [&pair.prompt, answer].concat(),
            loss_weights: prompt.chain(answer.iter().map(weight)).collect(),
            tools: pair.tools.clone(),
        };
        conversation_sample(&conversation, tokenizer, template, tokens, options, source.clone())
    };
    let mut both = of(&pair.chosen)?;
    let Outcome::Used { samples, length, cut, spells_special_tokens, lacks_end } = &mut both else {
        return Ok(both);
    };
    match of(&pair.rejected)? {
        Outcome::Used {
            samples: more,
            length: other,
            cut: other_cut,
            spells_special_tokens: spells,
            lacks_end: lacks,
        } => {
            samples.extend(more);
            *length = other.max(*length);
            *cut = match (*cut, other_cut) {
                (Cut::No, cut) | (cut, Cut::No) => cut,
                (Cut::Truncated { answer_tokens }, Cut::Truncated { answer_tokens: more }) => {
                    Cut::Truncated { answer_tokens: answer_tokens + more }
                }
                (cut, _) => cut,
            };
            *spells_special_tokens |= spells;
            *lacks_end |= lacks;
        }
        lost => return Ok(lost),
    }
    // The parts of two answers do not answer each other.
    if let Cut::Split { .. } = cut {
        return Ok(Outcome::Overlong { length: *length });
    }
    if let [chosen, rejected] = &mut samples[..] {
        if chosen.ids == rejected.ids {
            return Ok(Outcome::IdenticalPair { length: *length });
        }
        negate(rejected);
    }
    Ok(both)
}

/// Turns a judged answer into a sample of which the last answer alone is learned, with negative weights if it is
/// unwanted.
pub fn judged_sample(
    judged: &JudgedAnswer,
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    tokens: &TemplateTokens,
    options: &DataOptions,
    source: Source,
) -> Result<Outcome> {
    let mut conversation = judged.conversation.clone();
    let is_answer = |message: &Message| message.role == "assistant" || message.role == "tool";
    let prompt = conversation.messages.iter().rposition(|message| !is_answer(message)).map_or(0, |at| at + 1);
    conversation.loss_weights[..prompt].fill(0.0);
    // Split between its exchanges, only the last would have an answer to learn.
    let overlong = match options.overlong {
        Overlong::Split => Overlong::Drop,
        other => other,
    };
    let options = DataOptions { overlong, ..options.clone() };
    let mut outcome = conversation_sample(&conversation, tokenizer, template, tokens, &options, source)?;
    if let Outcome::Used { samples, .. } = &mut outcome
        && !judged.is_wanted
    {
        samples.iter_mut().for_each(negate);
    }
    Ok(outcome)
}

fn negate(sample: &mut Sample) {
    // Tokens without weight keep a zero whose sign no hash could tell from another.
    sample.loss_weights.iter_mut().filter(|weight| **weight != 0.0).for_each(|weight| *weight = -*weight);
}

fn tokenizer_error(error: danlu_tokenizer::Error) -> DataError {
    DataError::Tokenizer(error.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pieces_predict_every_token_exactly_once(length in 0_usize..200, cutoff_len in 2_usize..40) {
            let ids: Vec<u32> = (0..length as u32).collect();
            let mut predicted = Vec::new();
            for piece in pieces(&ids, cutoff_len) {
                prop_assert!(piece.len() >= 2 && piece.len() <= cutoff_len);
                prop_assert!(piece.windows(2).all(|pair| pair[1] == pair[0] + 1));
                predicted.extend_from_slice(&piece[1..]);
            }
            prop_assert_eq!(&predicted, &ids.iter().skip(1).copied().collect::<Vec<_>>());
        }
    }
}
