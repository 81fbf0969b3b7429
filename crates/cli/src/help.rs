//! Help texts in two languages, out of doc comments whose second paragraph is `zh: ` and Chinese.
//!
//! `-h` shows the English line, `--help` both; the reference takes each language apart with [`languages`].

use clap::builder::StyledStr;
use clap::{Arg, Command, CommandFactory};

use crate::commands::Cli;

const CHINESE: &str = "zh: ";

/// The command line with its help as it is shown.
pub fn command() -> Command {
    shown(Cli::command())
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
