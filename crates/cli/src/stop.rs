//! Ctrl-C: the first one asks work that polls to come to an orderly end, the second ends the program at once.

use std::fmt;
use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;

/// Exit code of an interrupted program: 128 + SIGINT.
pub const INTERRUPTED: u8 = 130;

static REQUESTED: AtomicBool = AtomicBool::new(false);
static POLLED: AtomicBool = AtomicBool::new(false);
/// What the first Ctrl-C is answered with.
static ANSWER: Mutex<Option<String>> = Mutex::new(None);

/// Takes over Ctrl-C and a polite request to terminate.
///
/// # Errors
/// The system refuses.
pub fn install() -> anyhow::Result<()> {
    let handler = || {
        let is_second = REQUESTED.swap(true, Ordering::Relaxed);
        if !is_second && let Ok(Some(answer)) = ANSWER.lock().as_deref() {
            _ = writeln!(std::io::stderr(), "\n{answer}");
        }
        if is_second || !POLLED.load(Ordering::Relaxed) {
            std::process::exit(i32::from(INTERRUPTED));
        }
    };
    ctrlc::set_handler(handler).context("cannot take over Ctrl-C")
}

/// Answers the first Ctrl-C at once: for work that takes a while to come to its end, or that needs none because what is
/// done is kept as it goes.
pub fn answer_with(text: impl Into<String>) {
    if let Ok(mut answer) = ANSWER.lock() {
        *answer = Some(text.into());
    }
}

/// Whether the user wants the work to end. The first call says that the work polls; until then Ctrl-C ends the
/// program at once.
pub fn requested() -> bool {
    POLLED.store(true, Ordering::Relaxed);
    REQUESTED.load(Ordering::Relaxed)
}

/// Whether the program was asked to end.
pub fn was_requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// The request was followed, and other work goes on that does not poll.
pub fn clear() {
    REQUESTED.store(false, Ordering::Relaxed);
    POLLED.store(false, Ordering::Relaxed);
}

/// What work returns that ended because it was asked to.
#[derive(Debug)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}
