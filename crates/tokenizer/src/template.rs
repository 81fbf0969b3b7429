//! Chat templates: a conversation as the one text that a model was, or will be, trained on.
//!
//! A rendered text has its own BOS where the format wants one: tokenize it with [`crate::SpecialTokens::Parse`] and
//! add nothing.

use std::path::Path;

use crate::{Error, Result, jinja};
use fs_err as fs;
use minijinja::{Environment, Value, context};
use serde::{Deserialize, Serialize};

/// The formats that are built in, as Jinja sources. None has a system text of its own.
const BUILTIN: [(&str, &str); 5] = [
    (
        "chatml",
        "{% for message in messages %}\
         {{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}\
         {% endfor %}\
         {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    ),
    (
        "llama2",
        "{% if messages and messages[0]['role'] == 'system' %}\
         {% set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}{% set turns = messages[1:] %}\
         {% else %}{% set system = '' %}{% set turns = messages %}{% endif %}\
         {% for message in turns %}\
         {% if message['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') %}\
         {{ raise_exception('llama2: after an optional system message, user and assistant must take turns') }}\
         {% endif %}\
         {% if message['role'] == 'user' %}\
         {{ bos_token + '[INST] ' + (system if loop.first else '') + message['content'] + ' [/INST]' }}\
         {% else %}{{ ' ' + message['content'] + ' ' + eos_token }}{% endif %}\
         {% endfor %}",
    ),
    (
        "llama3",
        "{{ '<|begin_of_text|>' }}\
         {% for message in messages %}\
         {{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] + '<|eot_id|>' }}\
         {% endfor %}\
         {% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}",
    ),
    (
        "human_assistant",
        "{% set names = {'system': 'System', 'user': 'Human', 'assistant': 'Assistant'} %}\
         {% for message in messages %}\
         {% if message['role'] not in names %}\
         {{ raise_exception('human_assistant: the role must be system, user or assistant, not ' + message['role']) }}\
         {% endif %}\
         {{ '<s>' + names[message['role']] + ': ' + message['content'] + '\\n</s>' }}\
         {% endfor %}\
         {% if add_generation_prompt %}{{ '<s>Assistant: ' }}{% endif %}",
    ),
    // Baby-Llama2 and Luban: nothing but BOS between a question and its answer.
    (
        "baby_llama2",
        "{% for message in messages %}\
         {% if message['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') %}\
         {{ raise_exception('baby_llama2: user and assistant must take turns, and there is no system message') }}\
         {% endif %}\
         {{ message['content'] + (bos_token if message['role'] == 'user' else eos_token) }}\
         {% endfor %}",
    ),
];

const BUILTIN_NAMES: [&str; 5] = [BUILTIN[0].0, BUILTIN[1].0, BUILTIN[2].0, BUILTIN[3].0, BUILTIN[4].0];

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, or what else the template knows.
    pub role: String,
    /// The text.
    pub content: String,
}

impl Message {
    /// A message of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// The texts of special tokens that templates write; empty where a vocabulary has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TemplateTokens {
    /// Text of BOS.
    pub bos_token: String,
    /// Text of EOS.
    pub eos_token: String,
}

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

/// A parsed chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
}

impl ChatTemplate {
    /// The template in a file, or else the built-in format of this name.
    ///
    /// # Errors
    /// Neither, or a file that cannot be read or does not parse.
    pub fn open(name: &str) -> Result<Self> {
        let path = Path::new(name);
        if path.is_file() {
            let malformed = |error: Error| Error::Malformed { path: path.into(), message: error.to_string() };
            return Self::from_source(&fs::read_to_string(path)?).map_err(malformed);
        }
        Self::builtin(name)
    }

    /// A built-in format.
    ///
    /// # Errors
    /// An unknown name; the message lists the known ones.
    pub fn builtin(name: &str) -> Result<Self> {
        match BUILTIN.iter().find(|(known, _)| *known == name) {
            Some((_, source)) => Self::from_source(source),
            None => Err(Error::UnknownTemplate { name: name.into(), known: BUILTIN_NAMES.join(", ") }),
        }
    }

    /// Names for [`ChatTemplate::builtin`].
    pub fn builtin_names() -> &'static [&'static str] {
        &BUILTIN_NAMES
    }

    /// Parses a template as transformers has them in `tokenizer_config.json` or `chat_template.jinja`.
    ///
    /// # Errors
    /// A syntax error, with its line.
    pub fn from_source(source: &str) -> Result<Self> {
        Ok(Self { environment: jinja::environment(source)?, source: source.to_owned() })
    }

    /// The Jinja source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The conversation as text; with `add_generation_prompt` up to where the assistant's answer begins.
    ///
    /// # Errors
    /// What the template itself refuses (`raise_exception`) or stumbles over, with its line.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        tokens: &TemplateTokens,
    ) -> Result<String> {
        let message = |message: &Message| context! { role => message.role.as_str(), content => message.content.as_str() };
        let context = context! {
            messages => messages.iter().map(message).collect::<Vec<Value>>(),
            add_generation_prompt => add_generation_prompt,
            bos_token => tokens.bos_token.as_str(),
            eos_token => tokens.eos_token.as_str(),
            // transformers always passes these two.
            tools => Value::from(()),
            documents => Value::from(()),
        };
        self.environment
            .get_template(jinja::NAME)
            .and_then(|template| template.render(context))
            .map_err(jinja::error)
    }

    /// The conversation in stretches of untrained and trained text, which concatenate to `render(messages, false)`.
    /// Trained is what the model writes after the generation prompt: the answer up to and with its end-of-turn
    /// marker, without the line break that some formats put after it.
    ///
    /// # Errors
    /// As for rendering; and a template that renders a shorter conversation differently, so that training and use
    /// would not see the same text.
    pub fn segments(&self, messages: &[Message], tokens: &TemplateTokens) -> Result<Vec<Segment>> {
        let text = self.render(messages, false, tokens)?;
        let mut segments = Vec::new();
        let mut done = 0;
        let mut add = |from: usize, to: usize, trained: bool, message: usize| {
            if to > from {
                segments.push(Segment { text: text[from..to].to_owned(), trained, message });
            }
        };
        for (index, message) in messages.iter().enumerate().filter(|(_, message)| message.role == "assistant")
        {
            let unstable = |cause| Error::NotPrefixStable { message: index, cause };
            let prompt = self.render(&messages[..index], true, tokens)?;
            let turn = self.render(&messages[..=index], false, tokens)?;
            if !text.starts_with(&turn) {
                return Err(unstable("more messages follow"));
            }
            if !turn.starts_with(&prompt) || prompt.len() < done {
                return Err(unstable("the answer is still to come"));
            }
            let answer = &turn[prompt.len()..];
            let content = answer.find(&message.content).map_or(0, |at| at + message.content.len());
            // Some templates write the next answer's header in any case; then it would be trained after the last answer.
            if index + 1 == messages.len() && self.render(messages, true, tokens)? == text {
                let next = [messages, &[Message::new("user", "")]].concat();
                if !self.render(&next, false, tokens)?.starts_with(&text) {
                    return Err(unstable("more messages follow, because it ignores add_generation_prompt"));
                }
            }
            let end = prompt.len() + answer.trim_end().len().max(content);
            add(done, prompt.len(), false, index);
            add(prompt.len(), end, true, index);
            done = end;
        }
        add(done, text.len(), false, messages.len());
        Ok(segments)
    }
}
