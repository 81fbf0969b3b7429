//! `danlu generate --interactive`: a question a line, each answered on its own. Conversations are `danlu chat`'s.

use std::io::{self, BufRead, IsTerminal, Write};
use std::ops::ControlFlow;

use anyhow::Result;
use danlu_model::{GenerationOptions, Generator, Opened};

use crate::printer::Printer;
use crate::stop;
use crate::text_stream::TextStream;

/// Answers lines of standard input until an empty one.
///
/// # Errors
/// A model without a vocabulary, a prompt that cannot be used.
pub fn run(
    opened: &Opened,
    options: &GenerationOptions,
    ids_of: impl Fn(&str) -> Result<Vec<u32>>,
    printer: &Printer,
) -> Result<()> {
    let tokenizer = opened.tokenizer()?;
    let context = opened.model.config().context_length();
    let mut generator = Generator::new(&opened.model, context);
    printer.note("every line is a question of its own; an empty line ends / 每行是一个独立的问题；空行结束");
    let mut lines = io::stdin().lock().lines();
    loop {
        if io::stdin().is_terminal() {
            eprint!("Input:");
            io::stderr().flush()?;
        }
        let Some(line) = lines.next().transpose()? else { return Ok(()) };
        if line.trim().is_empty() {
            return Ok(());
        }
        let ids = ids_of(&line)?;
        if ids.len() > context {
            printer.warning(format_args!(
                "{} tokens do not fit the model's context of {context} tokens: shorten the question",
                ids.len()
            ));
            continue;
        }
        let mut stream = TextStream::new(tokenizer);
        printer.text("Response:  ")?;
        let mut written = Ok(());
        generator.generate(&ids, options, |id| {
            written = printer.text(stream.push(id));
            if written.is_err() || stop::requested() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        stop::clear();
        written?;
        printer.line(stream.finish())?;
        printer.line("")?;
    }
}
