//! A row in each of the forms that are written.

use std::collections::BTreeMap;

use danlu_tokenizer::Message;
use serde_json::{Map, Value, json};

use crate::dataset_format::{Conversation, JudgedAnswer, PreferencePair, Row, transcript};
use crate::error::RowProblem;

type Object = Map<String, Value>;
type Result<T> = std::result::Result<T, RowProblem>;
type Lost = BTreeMap<&'static str, u64>;

/// The form of the rows that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `instruction`, `input`, `output`, with `system` and `history`; `chosen` and `rejected`, or `kto_tag`.
    Alpaca,
    /// `conversations` of `from` and `value`, with `system` and `tools`.
    Sharegpt,
    /// `messages` of `role` and `content`, with `tools`.
    Openai,
    /// `text`, `messages`, `prompt` and `completion`, `prompt`, `chosen` and `rejected`, or with `label`.
    Trl,
    /// `text`, or `conversations` of `role` and `content`; `chosen` and `rejected` as whole conversations.
    Minimind,
    /// One column `text`: a document, or `<s>Human: …\n</s><s>Assistant: …\n</s>`.
    Text,
    /// `prompt` and `answer` of a single turn.
    PromptAnswer,
    /// `prompt`, `chosen` and `rejected` as lists of messages.
    Dpo,
    /// `messages` and `label`; a pair becomes two rows.
    Kto,
}

impl Form {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Alpaca => "alpaca",
            Self::Sharegpt => "sharegpt",
            Self::Openai => "openai",
            Self::Trl => "trl",
            Self::Minimind => "minimind",
            Self::Text => "text",
            Self::PromptAnswer => "prompt-answer-csv",
            Self::Dpo => "dpo",
            Self::Kto => "kto",
        }
    }

    /// The row in this form; `lost` counts what it has no place for.
    pub(super) fn rows(self, row: Row, lost: &mut Lost) -> Result<Vec<Object>> {
        match row {
            Row::Document(text) => match self {
                Self::Text | Self::Trl | Self::Minimind => Ok(vec![object(json!({"text": text}))]),
                _ => Err(self.no_place("a document without turns")),
            },
            Row::Conversation(conversation) => Ok(vec![self.conversation(&conversation, lost)?]),
            Row::Prompt(prompt) => Ok(vec![self.prompt(&prompt)?]),
            Row::Pair(pair) => {
                let mut rows = self.pair(&pair)?;
                rows.iter_mut().for_each(|row| weigh(row, pair.loss_weight));
                Ok(rows)
            }
            Row::Judged(judged) => Ok(vec![self.judged(&judged, lost)?]),
        }
    }

    fn conversation(self, conversation: &Conversation, lost: &mut Lost) -> Result<Object> {
        let Conversation { messages, loss_weights, tools } = conversation;
        let is_answer = |message: &Message| message.role == "assistant";
        let mut answers = messages.iter().zip(loss_weights).filter(|(message, _)| is_answer(message));
        let is_weighed = answers.any(|(_, weight)| *weight != 1.0);
        if let Self::Dpo | Self::Kto = self {
            return Err(self.no_place("an answer that nothing judges or rejects"));
        }
        if self == Self::Trl
            && is_weighed
            && let Some(start) = learned_end(messages, loss_weights)
        {
            let (prompt, completion) = messages.split_at(start);
            let row = json!({"prompt": chat(prompt, &[], false), "completion": chat(completion, &[], false)});
            return Ok(with_tools(object(row), tools, false));
        }
        let keeps_weights = matches!(self, Self::Sharegpt | Self::Openai | Self::Minimind);
        if is_weighed && !keeps_weights {
            *lost.entry("loss weights").or_default() += 1;
        }
        let has_thoughts = messages.iter().any(|message| message.fields.contains_key("reasoning_content"));
        if has_thoughts && matches!(self, Self::Alpaca | Self::Text | Self::PromptAnswer) {
            *lost.entry("thoughts (`reasoning_content`)").or_default() += 1;
        }
        self.turns(messages, loss_weights, tools)
    }

    /// The messages with what belongs to them.
    fn turns(self, messages: &[Message], loss_weights: &[f32], tools: &[Value]) -> Result<Object> {
        let calls = || {
            messages.iter().any(|message| message.role == "tool" || message.fields.contains_key("tool_calls"))
        };
        let takes_tools =
            matches!(self, Self::Sharegpt | Self::Openai | Self::Trl | Self::Minimind | Self::Kto);
        if !takes_tools && (!tools.is_empty() || calls()) {
            return Err(self.no_place("functions and their calls"));
        }
        match self {
            Self::Openai | Self::Kto => {
                let row = object(json!({"messages": chat(messages, loss_weights, true)}));
                Ok(with_tools(row, tools, false))
            }
            Self::Trl => {
                Ok(with_tools(object(json!({"messages": chat(messages, &[], false)})), tools, false))
            }
            Self::Minimind => {
                let mut items = chat(messages, loss_weights, false);
                if let (Some(first), false) = (items.first_mut(), tools.is_empty()) {
                    first["tools"] = json!(json!(tools).to_string());
                }
                Ok(object(json!({"conversations": items})))
            }
            Self::Sharegpt => {
                let (system, turns, weights) = split_system(messages, loss_weights);
                let items: Vec<Value> = turns
                    .iter()
                    .enumerate()
                    .map(|(index, message)| self.sharegpt(message, weights.get(index)))
                    .collect::<Result<_>>()?;
                let mut row = object(json!({"conversations": items}));
                if let Some(system) = system {
                    row.insert("system".to_owned(), json!(system));
                }
                Ok(with_tools(row, tools, true))
            }
            Self::Alpaca => self.alpaca(messages),
            Self::Text => match transcript(messages) {
                Some(text) => Ok(object(json!({"text": text}))),
                None => Err(self.no_place("roles other than system, user and assistant")),
            },
            Self::PromptAnswer => match messages {
                [question, answer] if question.role == "user" && answer.role == "assistant" => {
                    Ok(object(json!({"prompt": question.content, "answer": answer.content})))
                }
                _ => Err(self.no_place("a system message or more than one turn")),
            },
            Self::Dpo => Err(self.no_place("an answer that nothing rejects")),
        }
    }

    /// Question and answer, with earlier pairs as history; the answer may be left to the caller.
    fn alpaca(self, messages: &[Message]) -> Result<Object> {
        let (system, turns, _) = split_system(messages, &[]);
        let is_turn = |(index, message): (usize, &Message)| message.role == ["user", "assistant"][index % 2];
        if turns.is_empty() || !turns.iter().enumerate().all(is_turn) {
            return Err(self.no_place("turns that are not by user and assistant in alternation"));
        }
        let pairs: Vec<&[Message]> = turns.chunks(2).collect();
        let (last, earlier) = pairs.split_last().unwrap_or((&turns, &[]));
        let mut row = object(json!({"instruction": last[0].content, "input": ""}));
        if let Some(answer) = last.get(1) {
            row.insert("output".to_owned(), json!(answer.content));
        }
        if let Some(system) = system {
            row.insert("system".to_owned(), json!(system));
        }
        if !earlier.is_empty() {
            let pairs: Vec<Value> = earlier
                .iter()
                .map(|pair| pair.iter().map(|message| json!(message.content)).collect())
                .collect();
            row.insert("history".to_owned(), json!(pairs));
        }
        Ok(row)
    }

    fn sharegpt(self, message: &Message, weight: Option<&f32>) -> Result<Value> {
        let calls = message.fields.get("tool_calls").and_then(Value::as_array);
        let (from, value) = match (message.role.as_str(), calls) {
            ("assistant", Some(calls)) if message.content.is_empty() => {
                let calls: Vec<Value> = calls.iter().map(|call| call["function"].clone()).collect();
                let calls = match calls.as_slice() {
                    [call] => call.to_string(),
                    calls => json!(calls).to_string(),
                };
                ("function_call", calls)
            }
            ("assistant", Some(_)) => return Err(self.no_place("text beside the call of a function")),
            ("assistant", None) => ("gpt", message.content.clone()),
            ("user", _) => ("human", message.content.clone()),
            ("tool", _) => ("observation", message.content.clone()),
            ("system", _) => ("system", message.content.clone()),
            _ => return Err(self.no_place("a role of its own")),
        };
        let mut item = json!({"from": from, "value": value});
        for (name, value) in message.fields.iter().filter(|(name, _)| *name != "tool_calls") {
            item[name] = value.clone();
        }
        add_weight(&mut item, message, weight);
        Ok(item)
    }

    fn prompt(self, prompt: &Conversation) -> Result<Object> {
        match self {
            Self::Trl => {
                let row = object(json!({"prompt": chat(&prompt.messages, &[], false)}));
                Ok(with_tools(row, &prompt.tools, false))
            }
            Self::Openai | Self::Sharegpt | Self::Alpaca => {
                self.turns(&prompt.messages, &prompt.loss_weights, &prompt.tools)
            }
            _ => Err(self.no_place("a prompt without an answer")),
        }
    }

    fn pair(self, pair: &PreferencePair) -> Result<Vec<Object>> {
        let PreferencePair { prompt, chosen, rejected, tools, .. } = pair;
        let whole = |answer: &[Message]| [prompt, answer].concat();
        let row = match self {
            Self::Trl | Self::Dpo => {
                let list = |messages: &[Message]| chat(messages, &[], false);
                let row = json!({"prompt": list(prompt), "chosen": list(chosen), "rejected": list(rejected)});
                with_tools(object(row), tools, false)
            }
            Self::Minimind => {
                let list = |answer: &[Message]| chat(&whole(answer), &[], false);
                with_tools(object(json!({"chosen": list(chosen), "rejected": list(rejected)})), tools, true)
            }
            Self::Kto => {
                let row = |answer: &[Message], is_wanted: bool| {
                    let row = json!({"messages": chat(&whole(answer), &[], true), "label": is_wanted});
                    with_tools(object(row), tools, false)
                };
                return Ok(vec![row(chosen, true), row(rejected, false)]);
            }
            Self::Alpaca | Self::Sharegpt | Self::Openai => {
                let ([one], [other]) = (chosen.as_slice(), rejected.as_slice()) else {
                    return Err(self.no_place("answers of several messages"));
                };
                let mut row = self.turns(prompt, &[], tools)?;
                for (name, message) in [("chosen", one), ("rejected", other)] {
                    let value = match self {
                        Self::Alpaca if message.fields.contains_key("tool_calls") => {
                            return Err(self.no_place("functions and their calls"));
                        }
                        Self::Alpaca => json!(message.content),
                        Self::Sharegpt => self.sharegpt(message, None)?,
                        _ => chat(std::slice::from_ref(message), &[], true).remove(0),
                    };
                    row.insert(name.to_owned(), value);
                }
                row
            }
            Self::Text | Self::PromptAnswer => return Err(self.no_place("a preference pair")),
        };
        Ok(vec![row])
    }

    fn judged(self, judged: &JudgedAnswer, lost: &mut Lost) -> Result<Object> {
        let JudgedAnswer { conversation, is_wanted } = judged;
        let Conversation { messages, loss_weights, tools } = conversation;
        let (mut row, name) = match self {
            Self::Kto => (self.turns(messages, &[], tools)?, "label"),
            Self::Openai => (self.conversation(conversation, lost)?, "label"),
            Self::Sharegpt | Self::Alpaca => (self.conversation(conversation, lost)?, "kto_tag"),
            Self::Trl => {
                let start = learned_end(messages, loss_weights).unwrap_or(messages.len().saturating_sub(1));
                let (prompt, completion) = messages.split_at(start.max(last_turn(messages)));
                let row =
                    json!({"prompt": chat(prompt, &[], false), "completion": chat(completion, &[], false)});
                (with_tools(object(row), tools, false), "label")
            }
            _ => return Err(self.no_place("the judgement of an answer")),
        };
        row.insert(name.to_owned(), json!(is_wanted));
        if let Self::Kto | Self::Trl = self {
            weigh(&mut row, loss_weights.last().copied().unwrap_or(1.0));
        }
        Ok(row)
    }

    fn no_place(self, what: &'static str) -> RowProblem {
        RowProblem::NoPlace { form: self.name(), what }
    }
}

/// The place behind the last message of the user: where the last answer begins.
fn last_turn(messages: &[Message]) -> usize {
    messages.iter().rposition(|message| message.role == "user").map_or(0, |at| at + 1)
}

/// Where the learned messages begin, if those of the assistant before it are not learned and all behind it are, once.
fn learned_end(messages: &[Message], loss_weights: &[f32]) -> Option<usize> {
    let answers = || {
        messages.iter().zip(loss_weights).enumerate().filter(|(_, (message, _))| message.role == "assistant")
    };
    let start = answers().find(|(_, (_, weight))| **weight > 0.0)?.0;
    answers().filter(|(index, _)| *index >= start).all(|(_, (_, weight))| *weight == 1.0).then_some(start)
}

fn object(value: Value) -> Object {
    match value {
        Value::Object(object) => object,
        _ => Object::new(),
    }
}

fn with_tools(mut row: Object, tools: &[Value], as_text: bool) -> Object {
    if !tools.is_empty() {
        let tools = if as_text { json!(json!(tools).to_string()) } else { json!(tools) };
        row.insert("tools".to_owned(), tools);
    }
    row
}

fn split_system<'a>(
    messages: &'a [Message],
    weights: &'a [f32],
) -> (Option<&'a str>, &'a [Message], &'a [f32]) {
    match messages.split_first() {
        Some((first, rest)) if first.role == "system" => {
            (Some(&first.content), rest, weights.get(1..).unwrap_or_default())
        }
        _ => (None, messages, weights),
    }
}

/// Messages with `role`, `content` and their further fields; OpenAI has the arguments of calls as text.
fn chat(messages: &[Message], loss_weights: &[f32], arguments_as_text: bool) -> Vec<Value> {
    let message = |(index, message): (usize, &Message)| {
        let mut item = json!({"role": message.role, "content": message.content});
        for (name, value) in &message.fields {
            item[name] = value.clone();
        }
        if let (true, Some(Value::Array(calls))) = (arguments_as_text, item.get_mut("tool_calls")) {
            for arguments in calls.iter_mut().filter_map(|call| call.pointer_mut("/function/arguments")) {
                if !arguments.is_string() {
                    *arguments = json!(arguments.to_string());
                }
            }
        }
        add_weight(&mut item, message, loss_weights.get(index));
        item
    };
    messages.iter().enumerate().map(message).collect()
}

/// Notes the weight of an answer that is not the usual one.
fn add_weight(item: &mut Value, message: &Message, weight: Option<&f32>) {
    if let Some(weight) = weight.filter(|weight| message.role == "assistant" && **weight != 1.0) {
        item["loss_weight"] = number(*weight);
    }
}

/// Notes the weight of a row that is not the usual one.
fn weigh(row: &mut Object, weight: f32) {
    if weight != 1.0 {
        row.insert("loss_weight".to_owned(), number(weight));
    }
}

/// By its text: 0.1 stays 0.1.
fn number(weight: f32) -> Value {
    weight.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}
