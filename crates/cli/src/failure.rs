//! What an error means to the one who typed the command: its sentence, and the exit code.
//!
//! 2 says that the command line or an input must be changed; 1 that the machine or the program failed.

use std::error::Error;
use std::fmt;
use std::io;

use danlu_data::DataError;
use danlu_train::TrainError;
use danlu_train::recipe::RecipeError;

use crate::stop::{INTERRUPTED, Interrupted};

const FAILED: u8 = 1;
const WRONG_INPUT: u8 = 2;

/// A command line, or an input, that cannot work; the text says what to do.
#[derive(Debug)]
pub struct WrongInput(pub String);

impl fmt::Display for WrongInput {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Error for WrongInput {}

/// An error of wrong input.
pub fn wrong_input(text: impl Into<String>) -> anyhow::Error {
    WrongInput(text.into()).into()
}

/// A sentence on rows or files with the options of a command in place of a recipe's keys.
pub fn keys_as_flags(sentence: &str) -> String {
    sentence.replace("`encoding`", "`--encoding`")
}

/// The error and its causes as one sentence; a cause that the text before it already tells is left out.
pub fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            text = if text.is_empty() { cause } else { format!("{text}: {cause}") };
        }
    }
    text
}

/// The exit code of the first cause that tells one.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    error.chain().find_map(code).unwrap_or(FAILED)
}

/// Whether the reader of standard output went away, as `head` does.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe;
    error.chain().filter_map(|cause| cause.downcast_ref()).any(broken)
}

fn code(error: &(dyn Error + 'static)) -> Option<u8> {
    if error.is::<Interrupted>() {
        return Some(INTERRUPTED);
    }
    if error.is::<WrongInput>() {
        return Some(WRONG_INPUT);
    }
    if let Some(error) = error.downcast_ref() {
        return Some(of_io(error));
    }
    if let Some(error) = error.downcast_ref() {
        return Some(of_format(error));
    }
    if let Some(error) = error.downcast_ref() {
        return Some(of_tokenizer(error));
    }
    if let Some(error) = error.downcast_ref() {
        return Some(of_model(error));
    }
    if let Some(error) = error.downcast_ref::<danlu_eval::Error>() {
        return Some(match error {
            danlu_eval::Error::Io(error) => of_io(error),
            danlu_eval::Error::Format(error) => of_format(error),
            danlu_eval::Error::Report(_) => FAILED,
            danlu_eval::Error::Model(error) => of_model(error),
            danlu_eval::Error::Tokenizer(error) => of_tokenizer(error),
            danlu_eval::Error::Server { .. } => FAILED,
            _ => WRONG_INPUT,
        });
    }
    if let Some(error) = error.downcast_ref::<danlu_hub::Error>() {
        return Some(of_hub(error));
    }
    if let Some(error) = error.downcast_ref::<DataError>() {
        return Some(match error {
            DataError::Io(error) => of_io(error),
            DataError::Format(error) => of_format(error),
            _ => WRONG_INPUT,
        });
    }
    if let Some(error) = error.downcast_ref::<RecipeError>() {
        return Some(if let RecipeError::Io(error) = error { of_io(error) } else { WRONG_INPUT });
    }
    if let Some(error) = error.downcast_ref::<TrainError>() {
        return of_train(error);
    }
    None
}

/// A run's error is that of the room it came from.
fn of_train(error: &TrainError) -> Option<u8> {
    match error {
        TrainError::Model(error) => code(error),
        TrainError::Data(error) => code(error),
        TrainError::Tokenizer(error) => code(error),
        TrainError::Format(error) => code(error),
        TrainError::RunFolder(error) => code(error),
        TrainError::Recipe(error) => code(error),
        TrainError::Io(error) => code(error),
        TrainError::Option { .. } | TrainError::Resume { .. } | TrainError::Memory { .. } => {
            Some(WRONG_INPUT)
        }
        TrainError::Stopped | TrainError::TeacherStopped => Some(INTERRUPTED),
        TrainError::Diverged { .. } | TrainError::MissingGradient { .. } => Some(FAILED),
    }
}

/// A path that is not there, or is something else than expected, was typed wrong; the rest is the machine's.
fn of_io(error: &io::Error) -> u8 {
    use io::ErrorKind::{InvalidData, IsADirectory, NotADirectory, NotFound};
    if matches!(error.kind(), NotFound | IsADirectory | NotADirectory | InvalidData) {
        WRONG_INPUT
    } else {
        FAILED
    }
}

fn of_format(error: &danlu_formats::Error) -> u8 {
    use danlu_formats::Error::{DiskFull, Io, Tensor};
    match error {
        Io { error, .. } => of_io(error),
        DiskFull { .. } | Tensor { .. } => FAILED,
        _ => WRONG_INPUT,
    }
}

fn of_model(error: &danlu_model::Error) -> u8 {
    match error {
        danlu_model::Error::Io(error) => of_io(error),
        danlu_model::Error::Format(error) => of_format(error),
        danlu_model::Error::Tokenizer(error) => of_tokenizer(error),
        _ => WRONG_INPUT,
    }
}

/// What a hub says of an id is about the command line; what the network and the disk do is not.
fn of_hub(error: &danlu_hub::Error) -> u8 {
    use danlu_hub::Error::{Access, Files, Id, Io, NotFound, Offline, Revision};
    match error {
        Io(error) => of_io(error),
        Access { .. } | Files { .. } | Id { .. } | NotFound { .. } | Offline { .. } | Revision { .. } => {
            WRONG_INPUT
        }
        _ => FAILED,
    }
}

fn of_tokenizer(error: &danlu_tokenizer::Error) -> u8 {
    if let danlu_tokenizer::Error::File(error) = error { of_io(error) } else { WRONG_INPUT }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_tell_the_users_mistakes_from_the_machines() {
        let io = |kind: io::ErrorKind| anyhow::Error::from(io::Error::from(kind));
        assert_eq!(exit_code(&io(io::ErrorKind::NotFound)), 2);
        assert_eq!(exit_code(&io(io::ErrorKind::StorageFull)), 1);
        assert_eq!(exit_code(&io(io::ErrorKind::PermissionDenied).context("cannot save")), 1);
        assert_eq!(exit_code(&wrong_input("no").context("more")), 2);
        assert_eq!(exit_code(&Interrupted.into()), 130);
        assert_eq!(exit_code(&anyhow::anyhow!("unforeseen")), 1);
        let full = danlu_formats::Error::DiskFull { path: "x".into() };
        assert_eq!(exit_code(&danlu_model::Error::Format(full).into()), 1);
        let missing = DataError::Io(io::ErrorKind::NotFound.into());
        assert_eq!(exit_code(&missing.into()), 2);
        assert!(is_broken_pipe(&io(io::ErrorKind::BrokenPipe).context("printing")));
    }

    #[test]
    fn causes_are_told_once() {
        let error =
            wrong_input("`a.json`: not JSON").context("reading `a.json`: not JSON").context("cannot start");
        assert_eq!(sentence(&error), "cannot start: reading `a.json`: not JSON");
    }
}
