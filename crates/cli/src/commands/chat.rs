//! `danlu chat`: a conversation, line by line, on a terminal or through a pipe.

use std::io::{self, BufRead, IsTerminal};
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::{Context, Result};
use danlu_model::{GenerationOptions, Generator, Opened};
use danlu_tokenizer::{ChatTemplate, Message, Tokenizer};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use serde_json::json;

use crate::commands::generate::{
    AllSamplingArgs, ConstraintArgs, TemplateArgs, constraint_of, report_speed, vocabulary_of,
};
use crate::failure::wrong_input;
use crate::models::{ActivationArgs, ModelArgs};
use crate::printer::Printer;
use crate::stop;
use crate::text_stream::TextStream;

/// Longest conversation that is remembered, in tokens, if the model allows as much.
const LONGEST_CONTEXT: usize = 8192;

const HELP: &str = "\
/reset          forget the conversation / 清空对话
/system TEXT    set the system message, and forget the conversation / 设置系统提示并清空对话
/help           this list / 帮助
/quit           end, as an empty line or Ctrl-D does / 结束（空行或 Ctrl-D 亦可）
Ctrl-C stops an answer. / Ctrl-C 停止回答。";

/// Whom to talk with, and how.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    activations: ActivationArgs,
    /// Longest answer, in tokens
    ///
    /// zh: 回答的最大词元数
    #[arg(long, value_name = "N", default_value = "512", value_parser = super::generate::one_or_more)]
    max_new_tokens: NonZeroUsize,
    #[command(flatten)]
    sampling: AllSamplingArgs,
    #[command(flatten)]
    constraint: ConstraintArgs,
    #[command(flatten)]
    template: TemplateArgs,
}

/// Runs `danlu chat`.
///
/// # Errors
/// A model or template that cannot be used.
pub fn run(args: Args, printer: &Printer) -> Result<()> {
    let sampling = args.sampling.sampling()?;
    let grammar = args.constraint.read()?;
    let located = args.model.locate(printer)?;
    let opened = args.model.open_to_generate(&located, args.activations, printer)?;
    let tokenizer = opened.tokenizer()?;
    let template = args.template.open(&opened)?.ok_or_else(|| {
        wrong_input(
            "the model has no chat template: choose one with `--template`, or continue texts with `danlu generate --raw`",
        )
    })?;
    let context = opened.model.config().context_length().min(LONGEST_CONTEXT);
    let options = GenerationOptions {
        constraint: constraint_of(grammar.as_ref(), &opened)?,
        vocabulary: vocabulary_of(&sampling, &opened),
        sampling,
        max_new_tokens: args.max_new_tokens.get(),
        stop_ids: opened.stop_ids(),
        ..GenerationOptions::default()
    };
    let mut conversation = Conversation {
        opened: &opened,
        tokenizer,
        template,
        generator: Generator::new(&opened.model, context),
        context,
        options,
        messages: args.template.system.iter().map(|text| Message::new("system", text)).collect(),
    };
    let mut lines = Lines::open(printer)?;
    while let Some(line) = lines.next()? {
        match line.trim() {
            "" | "/quit" => break,
            "/help" => printer.note(HELP),
            "/reset" => {
                conversation.messages.retain(|message| message.role == "system");
                printer.note("the conversation is forgotten");
            }
            line => match line.strip_prefix("/system") {
                Some(text) => {
                    let text = text.trim();
                    conversation.messages =
                        if text.is_empty() { Vec::new() } else { vec![Message::new("system", text)] };
                    printer.note("the system message is set, the conversation is forgotten");
                }
                None if line.starts_with('/') => printer.note(HELP),
                None => conversation.answer(line, printer)?,
            },
        }
    }
    let messages: Vec<_> = conversation
        .messages
        .iter()
        .map(|message| json!({ "role": message.role, "content": message.content }))
        .collect();
    Ok(printer.json(&json!({ "messages": messages }))?)
}

struct Conversation<'m> {
    opened: &'m Opened,
    tokenizer: &'m Tokenizer,
    template: ChatTemplate,
    generator: Generator<'m>,
    context: usize,
    options: GenerationOptions,
    messages: Vec<Message>,
}

impl Conversation<'_> {
    /// Answers a line and remembers both.
    fn answer(&mut self, line: &str, printer: &Printer) -> Result<()> {
        self.messages.push(Message::new("user", line));
        let Some(prompt) = self.prompt(printer)? else { return Ok(()) };
        let mut stream = TextStream::new(self.tokenizer);
        let mut written = Ok(());
        let start = Instant::now();
        let mut first = None;
        let generated = self.generator.generate(&prompt, &self.options, |id| {
            first.get_or_insert_with(Instant::now);
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
        report_speed(printer, prompt.len(), start, first, generated.ids.len(), generated.finish_reason);
        self.messages.push(Message::new("assistant", stream.into_text().trim()));
        Ok(())
    }

    /// The conversation's ids with room for an answer; the oldest turns go first. None if the last line alone is too
    /// long, which is then forgotten.
    fn prompt(&mut self, printer: &Printer) -> Result<Option<Vec<u32>>> {
        let room = self.options.max_new_tokens.min(self.context / 4);
        let mut dropped = 0;
        loop {
            let ids = self.tokenizer.chat_ids(&self.template, &self.messages)?;
            let first = usize::from(self.messages[0].role == "system");
            if ids.len() + room <= self.context
                || (self.messages.len() == first + 1 && ids.len() <= self.context)
            {
                if dropped > 0 {
                    printer.note(format_args!(
                        "the context is full: the {dropped} oldest messages are left out"
                    ));
                }
                return Ok(Some(ids));
            }
            if self.messages.len() == first + 1 {
                self.messages.pop();
                let (tokens, context) = (ids.len(), self.context);
                printer.warning(format_args!(
                    "{tokens} tokens do not fit the context of {context} tokens of `{}`: shorten the text",
                    self.opened.path.display()
                ));
                return Ok(None);
            }
            // A question goes with its answer.
            let answer = self.messages[first..].iter().position(|message| message.role == "assistant");
            let end = first + answer.map_or(1, |answer| answer + 1);
            dropped += end - first;
            self.messages.drain(first..end);
        }
    }
}

/// What is typed, or comes through a pipe.
enum Lines {
    Terminal(DefaultEditor),
    Pipe(io::Lines<io::StdinLock<'static>>),
}

impl Lines {
    fn open(printer: &Printer) -> Result<Self> {
        if !io::stdin().is_terminal() {
            return Ok(Self::Pipe(io::stdin().lock().lines()));
        }
        printer.note("/help lists commands; an empty line ends / 输入 /help 查看命令，空行结束");
        Ok(Self::Terminal(DefaultEditor::new().context("cannot read from the terminal")?))
    }

    /// The next line; none at the end or at Ctrl-C.
    fn next(&mut self) -> Result<Option<String>> {
        match self {
            Self::Pipe(lines) => Ok(lines.next().transpose().context("cannot read standard input")?),
            Self::Terminal(editor) => match editor.readline("> ") {
                Ok(line) => {
                    // A line that the history does not take can still be answered.
                    _ = editor.add_history_entry(&line);
                    Ok(Some(line))
                }
                Err(ReadlineError::Eof | ReadlineError::Interrupted) => Ok(None),
                Err(error) => Err(error).context("cannot read from the terminal"),
            },
        }
    }
}
