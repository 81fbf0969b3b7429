//! Chat templates: a conversation as the one text that a model was, or will be, trained on.
//!
//! A rendered text has its own BOS where the format wants one: tokenize it with [`crate::SpecialTokens::Parse`] and
//! add nothing. What of a text is learned is found in `segments`; the formats with names are in `named`.

use std::path::Path;

use crate::{Error, Result, jinja, named};
use fs_err as fs;
use minijinja::{Environment, Value};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Map;

/// Variables by which templates are asked for thoughts.
pub(crate) const THINKING: [&str; 2] = ["enable_thinking", "open_thinking"];

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`, or what else the template knows.
    pub role: String,
    /// The text; empty where a call of a tool has none.
    #[serde(default, deserialize_with = "text_or_null")]
    pub content: String,
    /// What else templates know: `reasoning_content`, `tool_calls`, `tool_call_id`, `name` …
    #[serde(flatten)]
    pub fields: Map<String, serde_json::Value>,
}

fn text_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Message {
    /// A message of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), fields: Map::new() }
    }

    /// The message with a further field.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<serde_json::Value>) -> Self {
        self.fields.insert(name.into(), value.into());
        self
    }

    /// Whether it says nothing: no text, no thought and no call of a tool.
    pub fn is_empty(&self) -> bool {
        let says = |name: &str| match self.fields.get(name) {
            Some(serde_json::Value::String(text)) => !text.trim().is_empty(),
            Some(serde_json::Value::Array(items)) => !items.is_empty(),
            _ => false,
        };
        self.content.trim().is_empty() && !says("tool_calls") && !says("reasoning_content")
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

/// A parsed chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    /// Whether it has `{% generation %}`.
    pub(crate) marks_answers: bool,
    variables: Map<String, serde_json::Value>,
    day: Option<u32>,
}

/// A conversation as templates see it.
pub(crate) struct Chat<'a> {
    pub messages: Vec<Value>,
    tools: Value,
    tokens: &'a TemplateTokens,
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
        match named::source(name) {
            Some(source) => Self::from_source(&source),
            None => Err(Error::UnknownTemplate { name: name.into(), known: named::names().join(", ") }),
        }
    }

    /// Names for [`ChatTemplate::builtin`].
    pub fn builtin_names() -> &'static [&'static str] {
        named::names()
    }

    /// Parses a template as transformers has them in `tokenizer_config.json` or `chat_template.jinja`.
    ///
    /// # Errors
    /// A syntax error, with its line.
    pub fn from_source(source: &str) -> Result<Self> {
        Ok(Self {
            environment: jinja::environment(source)?,
            source: source.to_owned(),
            marks_answers: jinja::has_generation_tags(source),
            variables: Map::new(),
            day: None,
        })
    }

    /// The template with a variable that it may look at, such as `enable_thinking` (`chat_template_kwargs` elsewhere).
    #[must_use]
    pub fn with_variable(mut self, name: impl Into<String>, value: impl Into<serde_json::Value>) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    /// The template, asked for thoughts or for none, by the names that templates have for it.
    #[must_use]
    pub fn with_thinking(self, thinks: bool) -> Self {
        THINKING.into_iter().fold(self, |template, name| template.with_variable(name, thinks))
    }

    /// The template as it writes on one day (`20260131`), whatever day it is.
    #[must_use]
    pub fn on_day(mut self, day: u32) -> Self {
        jinja::set_day(&mut self.environment, day);
        self.day = Some(day);
        self
    }

    /// The day that it writes into texts; none where it writes no date (`strftime_now`).
    pub fn day(&self) -> Option<u32> {
        jinja::writes_date(&self.source).then(|| self.day.unwrap_or_else(jinja::today))
    }

    /// The Jinja source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The variables that it looks at, by which the same source writes other texts.
    pub fn variables(&self) -> &Map<String, serde_json::Value> {
        &self.variables
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
        self.render_with_tools(messages, &[], add_generation_prompt, tokens)
    }

    /// As [`ChatTemplate::render`], with the tools that the assistant may call, as JSON schemas.
    ///
    /// # Errors
    /// As there; and tools or calls that the template has no place for.
    pub fn render_with_tools(
        &self,
        messages: &[Message],
        tools: &[serde_json::Value],
        add_generation_prompt: bool,
        tokens: &TemplateTokens,
    ) -> Result<String> {
        let chat = self.chat(messages, tools, tokens)?;
        self.write(&chat, &chat.messages, add_generation_prompt, &[])
    }

    /// A conversation whose tools the template does not drop.
    pub(crate) fn chat<'a>(
        &self,
        messages: &[Message],
        tools: &[serde_json::Value],
        tokens: &'a TemplateTokens,
    ) -> Result<Chat<'a>> {
        let has_calls = messages.iter().any(|message| message.fields.contains_key("tool_calls"));
        for (what, is_given) in [("tools", !tools.is_empty()), ("tool_calls", has_calls)] {
            if is_given && !self.source.contains(what) {
                return Err(Error::NoPlace { what });
            }
        }
        // transformers passes `none` where there are no tools.
        let tools = match tools {
            [] => Value::from(()),
            tools => tools.iter().map(jinja::from_json).collect::<Vec<_>>().into(),
        };
        Ok(Chat { messages: messages.iter().map(message_value).collect(), tools, tokens })
    }

    /// Renders `messages`, some of those of the chat; `more` are variables for this time.
    pub(crate) fn write(
        &self,
        chat: &Chat<'_>,
        messages: &[Value],
        add_generation_prompt: bool,
        more: &[(&str, Value)],
    ) -> Result<String> {
        let always = [
            ("messages", Value::from(messages.to_vec())),
            ("add_generation_prompt", add_generation_prompt.into()),
            ("bos_token", chat.tokens.bos_token.as_str().into()),
            ("eos_token", chat.tokens.eos_token.as_str().into()),
            ("tools", chat.tools.clone()),
            ("documents", Value::from(())),
        ];
        let own = self.variables.iter().map(|(name, value)| (name.as_str(), jinja::from_json(value)));
        let context = Value::from_pairs(own.chain(more.iter().cloned()).chain(always));
        self.environment
            .get_template(jinja::NAME)
            .and_then(|template| template.render(context))
            .map_err(jinja::error)
    }
}

/// A message as templates see it.
pub(crate) fn message_value(message: &Message) -> Value {
    let own = [("role", message.role.as_str().into()), ("content", message.content.as_str().into())];
    let further = message.fields.iter().map(|(name, value)| (name.as_str(), jinja::from_json(value)));
    Value::from_pairs(own.into_iter().chain(further))
}
