//! Objectives own the loss. The model gives log-probabilities and takes the loss's derivative by each of them.

pub mod language_modelling;
