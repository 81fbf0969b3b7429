//! Where output goes: results to standard output, everything else to standard error.
//!
//! With `--json` the readable results are left out and one JSON object is the last line of standard output.
//! Colour and progress bars appear only on a terminal. It formats nothing that belongs to one verb.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use comfy_table::presets::NOTHING;

use comfy_table::{CellAlignment, LineStyle, Table, TableStyle};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

/// Without a terminal, progress is a line at most this often.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// One line under the header, none elsewhere.
const UNDERLINED: TableStyle = NOTHING.header_separator(LineStyle::none().fill('─').junction('─'));

/// Prints for one command.
pub struct Printer {
    json: bool,
    color: bool,
}

impl Printer {
    /// A printer for this process; colour needs a terminal and an unset `NO_COLOR`.
    pub fn new(json: bool) -> Self {
        Self { json, color: io::stdout().is_terminal() && danlu_data::inspect::color_is_wanted() }
    }

    /// Whether readable results may use colour.
    pub fn color(&self) -> bool {
        self.color
    }

    /// A line of a readable result.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn line(&self, text: impl Display) -> io::Result<()> {
        self.text(format_args!("{text}\n"))
    }

    /// A piece of a readable result, at once and as it is.
    ///
    /// # Errors
    /// As [`line`](Self::line).
    pub fn text(&self, text: impl Display) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        let mut stdout = io::stdout().lock();
        write!(stdout, "{text}")?;
        stdout.flush()
    }

    /// A table as a readable result; columns of numbers are aligned at the right.
    ///
    /// # Errors
    /// As [`line`](Self::line).
    pub fn table(&self, header: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
        let mut table = Table::new();
        table.load_style(UNDERLINED);
        table.set_header(header.to_vec());
        table.add_rows(rows);
        for index in 0..header.len() {
            let cells = rows.iter().filter_map(|row| row.get(index)).filter(|cell| !cell.is_empty());
            let mut numbers = cells.map(|cell| cell.trim_end_matches(['%', ' ']).parse::<f64>().is_ok());
            if numbers.next() == Some(true)
                && numbers.all(|is_number| is_number)
                && let Some(column) = table.column_mut(index)
            {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        self.line(table.trim_fmt())
    }

    /// The result for programs, the last line of standard output; nothing without `--json`.
    ///
    /// # Errors
    /// As [`line`](Self::line).
    pub fn json(&self, value: &Value) -> io::Result<()> {
        if !self.json {
            return Ok(());
        }
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{value}")?;
        stdout.flush()
    }

    /// A message: what is going on, what was chosen, how long it took.
    pub fn note(&self, text: impl Display) {
        // With nobody left to read messages, the work still goes on.
        _ = writeln!(io::stderr(), "{text}");
    }

    /// A message about something that the user should look at.
    pub fn warning(&self, text: impl Display) {
        self.note(format_args!("warning: {text}"));
    }

    /// Progress of `total` steps of `what`, or of so many as there will be: a bar on a terminal, else a line now and then.
    pub fn progress(&self, what: &str, total: impl Into<Option<u64>>) -> Progress {
        let total = total.into();
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
        let template = match total {
            Some(_) => "{prefix} {wide_bar} {pos}/{len} {msg} ETA {eta}",
            None => "{prefix} {pos} {msg}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━╸ "));
        }
        bar.set_prefix(what.to_owned());
        Progress { bar, what: what.to_owned(), total, last_line: Instant::now() }
    }
}

/// The progress of one piece of work; its bar disappears when it is dropped.
pub struct Progress {
    bar: ProgressBar,
    what: String,
    total: Option<u64>,
    last_line: Instant,
}

impl Progress {
    /// The first `done` steps took no time, because they were done before.
    pub fn skip(&self, done: u64) {
        self.bar.set_position(done);
        self.bar.reset_eta();
    }

    /// `done` steps are finished; `message` is shown beside them.
    pub fn set(&mut self, done: u64, message: impl Display) {
        if !self.bar.is_hidden() {
            self.bar.set_message(message.to_string());
            self.bar.set_position(done);
        } else if self.last_line.elapsed() >= BETWEEN_LINES {
            self.last_line = Instant::now();
            let total = self.total.map(|total| format!("/{total}")).unwrap_or_default();
            _ = writeln!(io::stderr(), "{} {done}{total} {message}", self.what);
        }
    }

    /// A message that does not tear the bar.
    pub fn note(&self, text: impl Display) {
        self.bar.suspend(|| _ = writeln!(io::stderr(), "{text}"));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
