//! Help texts in two languages, out of doc comments whose second paragraph is `zh: ` and Chinese.
//!
//! `-h` shows the English line, `--help` both; the reference takes each language apart with [`languages`].

use anyhow::Result;
use clap::builder::StyledStr;
use clap::error::{ContextKind, ErrorKind};
use clap::{Arg, ArgMatches, Command, CommandFactory};
use danlu_train::recipe::schema::recipe_schema;

use crate::commands::Cli;
use crate::failure::wrong_input;

const CHINESE: &str = "zh: ";

/// The command line with its help as it is shown.
pub fn command() -> CommandLine {
    CommandLine(shown(Cli::command()))
}

/// A command line whose errors know that keys of a recipe are no options.
pub struct CommandLine(Command);

impl CommandLine {
    /// Parses the arguments of the process.
    ///
    /// # Errors
    /// Arguments that cannot be used, a request for help among them.
    pub fn try_get_matches(self) -> Result<ArgMatches> {
        self.0.try_get_matches().map_err(|error| match key_as_option(&error) {
            Some(key) => wrong_input(format!(
                "`--{key}` is no option of this command: keys of a recipe are written `{key}=VALUE`, without dashes"
            )),
            None => error.into(),
        })
    }
}

/// The key of a recipe that was written as an option, behind a command that takes keys.
fn key_as_option(error: &clap::Error) -> Option<String> {
    let text = |kind| error.get(kind).map(ToString::to_string);
    let takes_keys = text(ContextKind::Usage)?.contains("KEY=VALUE");
    let name = text(ContextKind::InvalidArg)?.strip_prefix("--")?.replace('-', "_");
    let first = name.split('.').next().unwrap_or_default();
    let is_key = recipe_schema()["properties"].get(first).is_some();
    (error.kind() == ErrorKind::UnknownArgument && takes_keys && is_key).then_some(name)
}

/// English and Chinese of a help text.
pub fn languages(short: Option<&StyledStr>, long: Option<&StyledStr>) -> (String, String) {
    let text = long.or(short).map(ToString::to_string).unwrap_or_default();
    match text.split_once(CHINESE) {
        Some((english, chinese)) => (one_line(english, " ", '.'), one_line(chinese, "", '。')),
        None => (one_line(&text, " ", '.'), String::new()),
    }
}

fn shown(command: Command) -> Command {
    let both = both(command.get_about(), command.get_long_about());
    let command = match both {
        Some(both) => command.long_about(both),
        None => command,
    };
    command.mut_args(shown_argument).mut_subcommands(shown)
}

fn shown_argument(argument: Arg) -> Arg {
    match both(argument.get_help(), argument.get_long_help()) {
        Some(both) => argument.long_help(both),
        None => argument,
    }
}

/// Both languages, one below the other; none if there is only one.
fn both(short: Option<&StyledStr>, long: Option<&StyledStr>) -> Option<String> {
    let (english, chinese) = languages(short, long);
    (!chinese.is_empty()).then(|| format!("{english}\n{chinese}"))
}

/// One line without a full stop at its end.
fn one_line(text: &str, separator: &str, full_stop: char) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join(separator).trim_end_matches(full_stop).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(command: &Command, parent: &str) {
        let name = format!("{parent} {}", command.get_name());
        let (english, chinese) = languages(command.get_about(), command.get_long_about());
        assert!(!english.is_empty() && !chinese.is_empty(), "{name}: {english} / {chinese}");
        for argument in command.get_arguments() {
            let (english, chinese) = languages(argument.get_help(), argument.get_long_help());
            assert!(!english.is_empty() && !chinese.is_empty(), "{name} {}", argument.get_id());
        }
        command.get_subcommands().for_each(|command| check(command, &name));
    }

    #[test]
    fn everything_is_explained_in_both_languages() {
        check(&Cli::command(), "");
        Cli::command().debug_assert();
    }
}
