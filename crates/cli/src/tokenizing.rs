//! What a user sees while rows are tokenized, and Ctrl-C in that time.

use std::ops::ControlFlow;

use anyhow::Result;
use danlu_data::{DataError, Inspect, Watch};
use danlu_train::TrainError;

use crate::printer::Printer;
use crate::stop::{self, Interrupted};

/// Does `work`, which loads data, with the rows shown that are done. Ctrl-C ends it.
///
/// # Errors
/// What `work` says, or that the user stopped it.
pub fn watched<T>(
    inspect: Option<Inspect<'_>>,
    printer: &Printer,
    work: impl FnOnce(Watch<'_>) -> danlu_train::Result<T>,
) -> Result<T> {
    let mut bar = None;
    let mut progress = |rows: u64| {
        bar.get_or_insert_with(|| printer.progress("tokenizing: rows", None)).set(rows, "");
        if stop::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let done = work(Watch { progress: &mut progress, inspect });
    drop(bar);
    if let Err(TrainError::Data(error @ DataError::Stopped { .. })) = &done {
        printer.note(error);
    }
    if stop::was_requested() {
        return Err(Interrupted.into());
    }
    // What follows may not look at it: Ctrl-C ends the program again.
    stop::clear();
    Ok(done?)
}
