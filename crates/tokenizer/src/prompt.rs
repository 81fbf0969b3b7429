//! What a model is given: a text to continue, or a conversation up to where the answer begins.
//!
//! What somebody typed never becomes a control token: only the template's own text does.

use serde_json::Value;

use crate::{ChatTemplate, Guarded, Message, Result, SpecialTokens, Tokenizer};

impl Tokenizer {
    /// The ids of a text that is continued, behind BOS if the tokenizer's own files put it there.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn prompt_ids(&self, text: &str) -> Result<Vec<u32>> {
        let bos = self.bos_id().filter(|_| self.adds_bos());
        let ids = self.encode(text, SpecialTokens::AsText)?;
        Ok(bos.into_iter().chain(ids).collect())
    }

    /// The ids of a conversation up to where the answer begins.
    ///
    /// # Errors
    /// What the template refuses.
    pub fn chat_ids(&self, template: &ChatTemplate, messages: &[Message]) -> Result<Vec<u32>> {
        self.chat_ids_with_tools(template, messages, &[])
    }

    /// As [`Tokenizer::chat_ids`], with the tools that the assistant may call.
    ///
    /// # Errors
    /// What the template refuses; and tools that it has no place for.
    pub fn chat_ids_with_tools(
        &self,
        template: &ChatTemplate,
        messages: &[Message],
        tools: &[Value],
    ) -> Result<Vec<u32>> {
        let tokens = self.template_tokens();
        let render = |messages: &[Message]| template.render_with_tools(messages, tools, true, &tokens);
        match self.guard(messages) {
            Some(Guarded { messages, guard }) => {
                self.encode(&render(&messages)?, SpecialTokens::Guarded(guard))
            }
            None => self.encode(&render(messages)?, SpecialTokens::Parse),
        }
    }
}
