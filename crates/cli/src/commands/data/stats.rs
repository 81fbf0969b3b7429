//! `danlu data stats`: the numbers of `danlu data inspect`, without samples.

use anyhow::Result;

use super::inspect::{Data, look};
use crate::printer::Printer;

/// What to count.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    data: Data,
}

/// Runs `danlu data stats`.
///
/// # Errors
/// A recipe, model or dataset that cannot be used.
pub fn run(args: Args, printer: &Printer) -> Result<()> {
    let seen = look(args.data, printer)?;
    seen.describe(printer)?;
    Ok(printer.json(&seen.json())?)
}
