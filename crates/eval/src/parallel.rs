//! Several requests at a time, whose answers are taken in the order of the requests.
//!
//! It is for waiting on servers, not for arithmetic.

use std::panic::resume_unwind;
use std::thread::scope;

use crate::Result;

/// Asks for all `items`, `parallel` at a time, and hands each answer on in order; the first error of either ends it.
pub(crate) fn in_parallel<I: Sync, T: Send>(
    items: &[I],
    parallel: usize,
    ask: impl Fn(&I) -> Result<T> + Sync,
    mut take: impl FnMut(&I, T) -> Result<()>,
) -> Result<()> {
    for items in items.chunks(parallel.max(1)) {
        let ask = &ask;
        let answers: Vec<Result<T>> = scope(|scope| {
            let asked: Vec<_> = items.iter().map(|item| scope.spawn(move || ask(item))).collect();
            let answers =
                asked.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
            answers.collect()
        });
        // Answers that came beside an error are kept.
        let mut failed = Ok(());
        for (item, answer) in items.iter().zip(answers) {
            match answer {
                Ok(answer) => take(item, answer)?,
                Err(error) if failed.is_ok() => failed = Err(error),
                Err(_) => {}
            }
        }
        failed?;
    }
    Ok(())
}
