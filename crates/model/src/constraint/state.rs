//! How far an answer has come in what its constraint allows.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::automaton::{Automaton, DEAD, Mask};
use super::grammar::Grammar;
use super::vocabulary::Vocabulary;
use crate::FinishReason;

/// A grammar over the tokens of a vocabulary. Clones share what was found out about it: keep one for each grammar and model.
#[derive(Debug, Clone)]
pub struct Constraint {
    automaton: Arc<Mutex<Automaton>>,
    vocabulary: Arc<Vocabulary>,
}

/// One text under a constraint.
#[derive(Debug, Clone)]
pub struct ConstraintState {
    constraint: Constraint,
    state: u32,
}

impl Constraint {
    /// Texts of the grammar in tokens of the vocabulary.
    pub fn new(grammar: &Grammar, vocabulary: Arc<Vocabulary>) -> Self {
        Self { automaton: Arc::new(Mutex::new(Automaton::new(grammar))), vocabulary }
    }

    /// The state of the empty text.
    pub fn begin(&self) -> ConstraintState {
        let state = self.automaton().start();
        ConstraintState { constraint: self.clone(), state }
    }

    fn automaton(&self) -> MutexGuard<'_, Automaton> {
        self.automaton.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConstraintState {
    /// The tokens that may come next. Tokens without bytes, such as those that end a text, are not among them.
    pub fn allowed(&self) -> Arc<Mask> {
        self.constraint.automaton().mask(self.state, &self.constraint.vocabulary)
    }

    /// Goes on by a token; stays, and says so, where it is not allowed.
    pub fn accept(&mut self, id: u32) -> bool {
        let bytes = self.constraint.vocabulary.bytes(id);
        if bytes.is_empty() {
            return false;
        }
        let mut automaton = self.constraint.automaton();
        let state = bytes.iter().fold(self.state, |state, byte| automaton.step(state, *byte));
        if state == DEAD {
            return false;
        }
        self.state = state;
        true
    }

    /// Makes every token impossible that is not allowed. Tokens that end the text are allowed where it may end, and only there.
    pub(crate) fn mask(&self, logits: &mut [f32], stop_ids: &[u32]) {
        let (allowed, may_end) = (self.allowed(), self.may_end());
        for (id, logit) in logits.iter_mut().enumerate() {
            let id = id as u32;
            if !(allowed.contains(id) || may_end && stop_ids.contains(&id)) {
                *logit = f32::NEG_INFINITY;
            }
        }
        if !may_end {
            for &id in stop_ids {
                if let Some(logit) = logits.get_mut(id as usize) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
    }

    /// Goes on by the token that was drawn, or by an allowed one where all allowed ones were banned otherwise; why it is the last,
    /// if it must be.
    pub(crate) fn go_on(&mut self, drawn: u32, stop_ids: &[u32]) -> (u32, Option<FinishReason>) {
        if self.may_end() && stop_ids.contains(&drawn) {
            return (drawn, Some(FinishReason::Stop));
        }
        let mut id = drawn;
        if !self.accept(id) {
            id = self.allowed().first().unwrap_or(drawn);
            if !self.accept(id) {
                return (id, Some(FinishReason::Stuck));
            }
        }
        let ended = match (self.allowed().is_empty(), self.may_end()) {
            (false, _) => None,
            (true, true) => Some(FinishReason::Stop),
            (true, false) => Some(FinishReason::Stuck),
        };
        (id, ended)
    }

    /// Whether the text is whole as it is.
    pub fn may_end(&self) -> bool {
        self.constraint.automaton().may_end(self.state)
    }
}
