//! What the columns of a row mean: a record becomes a document for pretraining, a conversation for fine-tuning, or what
//! preference tuning compares.
//!
//! The layout is found by the usual column names of the first row of a file, or given by `columns`. It knows no templates
//! or tokens.

mod conversations;
mod detection;
mod documents;
mod fields;
mod messages;
mod preferences;
mod transcripts;

use danlu_tokenizer::Message;
use serde_json::Value;

use crate::error::RowProblem;
use crate::records::Content;

pub use conversations::ConversationLayout;
pub use documents::DocumentLayout;
pub use messages::Tags;
pub use preferences::PairLayout;
pub use transcripts::transcript;

use fields::Result;

/// What rows are read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Documents (`stage: pt`).
    Pretraining,
    /// Conversations (`stage: sft`).
    Conversation,
    /// Preference pairs (`stage: dpo`).
    Preference,
    /// Judged answers, or the two of each pair (`stage: kto`).
    Judged,
    /// What a model is to answer: turns that end with a question, or with an answer to compare with.
    Question,
    /// Whatever the row is, to show it or to write it in another form.
    Any,
}

/// A conversation: an optional system message, then turns of user and assistant, ending with an answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Conversation {
    /// The messages in order; roles are `system`, `user`, `assistant` and `tool`.
    pub messages: Vec<Message>,
    /// For each message the weight of the loss on its tokens: 0 unless it is an answer, 1 for an answer whose
    /// `loss_weight` says nothing else.
    pub loss_weights: Vec<f32>,
    /// The functions that the assistant may call, as JSON schemas (`{"type": "function", "function": …}`).
    pub tools: Vec<Value>,
}

/// Two answers to one prompt, of which one is preferred.
#[derive(Debug, Clone, PartialEq)]
pub struct PreferencePair {
    /// What both answers follow; it does not end with an answer.
    pub prompt: Vec<Message>,
    /// The wanted answer: a message of the assistant, more where tools are used between.
    pub chosen: Vec<Message>,
    /// The unwanted answer.
    pub rejected: Vec<Message>,
    /// As [`Conversation::tools`].
    pub tools: Vec<Value>,
    /// Weight of the loss of the pair.
    pub loss_weight: f32,
}

/// A conversation whose last answer is wanted or not.
#[derive(Debug, Clone, PartialEq)]
pub struct JudgedAnswer {
    /// The conversation.
    pub conversation: Conversation,
    /// Whether its last answer is wanted.
    pub is_wanted: bool,
}

/// A row whose columns are understood.
#[derive(Debug, Clone, PartialEq)]
pub enum Row {
    /// Text for pretraining.
    Document(String),
    /// Turns for fine-tuning.
    Conversation(Conversation),
    /// Turns that an answer is still to come to, or, read for [`Purpose::Question`], may have come to; else only read for
    /// [`Purpose::Any`].
    Prompt(Conversation),
    /// Two answers, for DPO and its relatives; not read for pretraining or as conversations.
    Pair(PreferencePair),
    /// A judged answer, for KTO; only read for [`Purpose::Judged`] and [`Purpose::Any`].
    Judged(JudgedAnswer),
}

/// Characters of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowLengths {
    /// All messages that are no answers.
    pub prompt: usize,
    /// All answers together; one number for each of a pair's two.
    pub answers: Vec<usize>,
}

/// Which columns of a file hold what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// Text for pretraining.
    Document(DocumentLayout),
    /// Turns.
    Conversation(ConversationLayout),
    /// Turns without an answer.
    Prompt(ConversationLayout),
    /// Two answers.
    Pair(Box<PairLayout>),
    /// An answer and whether it is wanted.
    Judged {
        /// The turns.
        conversation: ConversationLayout,
        /// The column that says whether the last answer is wanted.
        verdict: String,
    },
}

impl Conversation {
    /// With the weights of its answers multiplied.
    fn weighed(mut self, weight: f32) -> Self {
        self.loss_weights.iter_mut().for_each(|own| *own *= weight);
        self
    }
}

impl Row {
    /// Characters of prompt and answers; none of a document.
    pub fn lengths(&self) -> Option<RowLengths> {
        let chars = |messages: &[Message], is_answer: bool| -> usize {
            let chosen = messages.iter().filter(|message| (message.role == "assistant") == is_answer);
            chosen.map(|message| message.content.chars().count()).sum()
        };
        let of = |conversation: &Conversation| RowLengths {
            prompt: chars(&conversation.messages, false),
            answers: vec![chars(&conversation.messages, true)],
        };
        match self {
            Self::Document(_) => None,
            Self::Conversation(conversation) => Some(of(conversation)),
            Self::Prompt(conversation) => Some(RowLengths { answers: Vec::new(), ..of(conversation) }),
            Self::Judged(judged) => Some(of(&judged.conversation)),
            Self::Pair(pair) => Some(RowLengths {
                prompt: chars(&pair.prompt, false),
                answers: vec![chars(&pair.chosen, true), chars(&pair.rejected, true)],
            }),
        }
    }

    /// Every message of the row; none of a document.
    pub fn messages_mut(&mut self) -> Vec<&mut Message> {
        match self {
            Self::Document(_) => Vec::new(),
            Self::Conversation(conversation)
            | Self::Prompt(conversation)
            | Self::Judged(JudgedAnswer { conversation, .. }) => conversation.messages.iter_mut().collect(),
            Self::Pair(PreferencePair { prompt, chosen, rejected, .. }) => {
                prompt.iter_mut().chain(chosen).chain(rejected).collect()
            }
        }
    }
}

impl Layout {
    /// Reads a row. A conversation ends with its last answer: what follows it could not be learned.
    ///
    /// # Errors
    /// A row with other columns or values than the layout says.
    pub fn read(&self, content: Content, default_system: Option<&str>) -> Result<Row> {
        let fields = match content {
            Content::Text(text) if matches!(self, Self::Document(_)) => return Ok(Row::Document(text)),
            Content::Text(_) => return Err(RowProblem::PlainText),
            Content::Fields(fields) => fields,
        };
        let weight = messages::row_weight(&fields)?;
        match self {
            Self::Document(layout) => layout.read(&fields).map(Row::Document),
            Self::Conversation(layout) => {
                detection::refuse_preferences(layout, &fields)?;
                let conversation = layout.read(&fields, default_system, true)?;
                Ok(Row::Conversation(conversation.weighed(weight)))
            }
            Self::Prompt(layout) => {
                detection::refuse_preferences(layout, &fields)?;
                layout.read(&fields, default_system, false).map(Row::Prompt)
            }
            Self::Pair(layout) => {
                let pair = layout.read(&fields, default_system)?;
                Ok(Row::Pair(PreferencePair { loss_weight: weight, ..pair }))
            }
            Self::Judged { conversation, verdict } => {
                let is_wanted = fields::truth(fields::required(&fields, verdict)?, verdict)?;
                let conversation = conversation.read(&fields, default_system, true)?;
                let conversation = conversation.weighed(weight);
                Ok(Row::Judged(JudgedAnswer { conversation, is_wanted }))
            }
        }
    }
}
