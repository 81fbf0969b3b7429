//! `danlu`: arguments, messages and exit codes. How anything is computed stands in the other crates.

mod commands;
mod failure;
mod help;
mod hub;
mod models;
mod printer;
mod prompts;
mod quickstart;
mod stop;
mod text_stream;
mod tokenizing;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::FromArgMatches;
use danlu_kernels::{cpu, team};

use crate::commands::Cli;
use crate::printer::Printer;

fn main() -> ExitCode {
    match run() {
        Ok(()) if stop::was_requested() => ExitCode::from(stop::INTERRUPTED),
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if let Some(usage) = error.downcast_ref::<clap::Error>() {
                _ = usage.print();
                return ExitCode::from(usage.exit_code() as u8);
            }
            if failure::is_broken_pipe(&error) {
                return ExitCode::SUCCESS;
            }
            if !error.is::<stop::Interrupted>() {
                _ = writeln!(std::io::stderr(), "error: {}", failure::sentence(&error));
            }
            ExitCode::from(failure::exit_code(&error))
        }
    }
}

fn run() -> Result<()> {
    let cli = Cli::from_arg_matches(&help::command().try_get_matches()?)?;
    stop::install()?;
    cpu::check_forced_level().map_err(|error| failure::wrong_input(error.to_string()))?;
    if let Some(threads) = cli.threads {
        team::set_threads(threads.into());
    }
    cli.command.run(&Printer::new(cli.json))
}
