//! `danlu generate`: one prompt in, one answer or continuation out; or a file of questions, or a question a line.

mod batch;
mod constraint;
mod interactive;
mod kept;
pub mod room;
mod sampling;

use std::io::{self, IsTerminal, Read};
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use danlu_model::{FinishReason, GenerationOptions, Generator, Opened};
use danlu_tokenizer::{ChatTemplate, Message};
use fs_err as fs;
use serde_json::{Value, json};

use crate::failure::wrong_input;
use crate::models::{ActivationArgs, ModelArgs};
use crate::printer::Printer;
use crate::prompts::{raw_ids, template_of};
use crate::stop;
use crate::text_stream::TextStream;

pub use constraint::{ConstraintArgs, constraint_of};
pub use sampling::{AllSamplingArgs, SamplingArgs, vocabulary_of};

/// What to generate from, and how.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    activations: ActivationArgs,
    /// Text to answer or continue (default: standard input)
    ///
    /// zh: 要回答或续写的文本（默认：标准输入）
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["prompt_ids", "prompt_file"], allow_hyphen_values = true)]
    prompt: Option<String>,
    /// Token ids to continue, separated by commas; nothing is added to them
    ///
    /// zh: 要续写的词元编号，以逗号分隔；不添加任何词元
    #[arg(long, value_name = "IDS", value_delimiter = ',', conflicts_with_all = ["prompt_file", "system", "template", "enable_thinking"])]
    prompt_ids: Option<Vec<u32>>,
    /// File with the text; its last line break is left out, as it is from standard input
    ///
    /// zh: 文本所在的文件；与标准输入一样去掉末尾换行
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
    /// Stop after so many tokens
    ///
    /// zh: 最多生成的词元数
    #[arg(long, value_name = "N", default_value = "512", value_parser = one_or_more)]
    max_new_tokens: NonZeroUsize,
    #[command(flatten)]
    sampling: AllSamplingArgs,
    #[command(flatten)]
    constraint: ConstraintArgs,
    #[command(flatten)]
    template: TemplateArgs,
    /// Continue the text as it is, without a chat template
    ///
    /// zh: 不用对话模板，直接续写
    #[arg(long, conflicts_with_all = ["system", "template", "enable_thinking"])]
    raw: bool,
    /// Report so many most probable tokens at each step, with `--json`
    ///
    /// zh: 与 `--json` 一起：报告每一步概率最高的若干词元
    #[arg(long, value_name = "K", requires = "json", default_value_t = 0, hide_default_value = true)]
    top_logprobs: usize,
    #[command(flatten)]
    batch: batch::BatchArgs,
    /// Answer a question a line, each on its own, until an empty one (`danlu chat` remembers what was said)
    ///
    /// zh: 逐行回答互不相关的问题，空行结束（`danlu chat` 会记住对话）
    #[arg(long, conflicts_with_all = ["prompt", "prompt_ids", "prompt_file", "input", "json"])]
    interactive: bool,
}

/// How a conversation is written.
#[derive(Debug, Clone, clap::Args)]
pub struct TemplateArgs {
    /// System message: how the model should behave
    ///
    /// zh: 系统提示：模型应如何表现
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Chat template: a name such as chatml, llama3 or qwen (docs: data), or a Jinja file (default: the model's own)
    ///
    /// zh: 对话模板：chatml、llama3、qwen 等名称（见文档 data）或 Jinja 文件（默认：模型自带）
    #[arg(long, value_name = "NAME|FILE")]
    pub template: Option<String>,
    /// Whether a template with thoughts is asked for them (default: as the template has it)
    ///
    /// zh: 带思考的模板是否要求思考（默认由模板决定）
    #[arg(long, value_name = "BOOL")]
    pub enable_thinking: Option<bool>,
}

impl TemplateArgs {
    /// The template that is asked for, or the model's own.
    ///
    /// # Errors
    /// A template that is not there or does not parse.
    pub fn open(&self, opened: &Opened) -> Result<Option<ChatTemplate>> {
        let template = template_of(opened, self.template.as_deref())?;
        Ok(match self.enable_thinking {
            Some(thinks) => template.map(|template| template.with_thinking(thinks)),
            None => template,
        })
    }
}

/// A number of tokens or of questions on the command line.
pub fn one_or_more(text: &str) -> Result<NonZeroUsize, &'static str> {
    text.parse().map_err(|_| "expected a whole number, 1 or more")
}

/// Runs `danlu generate`.
///
/// # Errors
/// A model, template or prompt that cannot be used.
pub fn run(args: Args, printer: &Printer) -> Result<()> {
    let sampling = args.sampling.sampling()?;
    let grammar = args.constraint.read()?;
    let questions = args.batch.read()?;
    let text = if questions.is_some() || args.interactive { None } else { args.text()? };
    let located = args.model.locate(printer)?;
    let opened = args.model.open_to_generate(&located, args.activations, printer)?;
    let constraint = constraint_of(grammar.as_ref(), &opened)?;
    if questions.is_some() || args.interactive {
        let options = GenerationOptions {
            constraint,
            vocabulary: vocabulary_of(&sampling, &opened),
            sampling,
            max_new_tokens: args.max_new_tokens.get(),
            stop_ids: opened.stop_ids(),
            ..GenerationOptions::default()
        };
        let Some((questions, out)) = questions else {
            let template = args.template_of(&opened, printer)?;
            let ids_of = |line: &str| args.ids_of(&opened, template.as_ref(), line);
            return interactive::run(&opened, &options, ids_of, printer);
        };
        let template = args.template_of(&opened, printer)?;
        let template = template.as_ref().map(|template| (template, &args.template));
        let model = args.model.files(&located, &opened)?;
        return args.batch.run(&opened, model, &questions, out, template, &options, printer);
    }
    let prompt_ids = args.ids(&opened, text.as_deref(), printer)?;
    let max_new_tokens = args.max_new_tokens.get();
    let options = GenerationOptions {
        constraint,
        vocabulary: vocabulary_of(&sampling, &opened),
        sampling,
        max_new_tokens,
        stop_ids: opened.stop_ids(),
        top_log_probabilities: args.top_logprobs,
        ..GenerationOptions::default()
    };
    let mut generator = Generator::new(&opened.model, prompt_ids.len().saturating_add(max_new_tokens));
    let mut stream = opened.tokenizer.as_ref().map(TextStream::new);
    let mut written = Ok(());
    let start = Instant::now();
    let mut first = None;
    let generated = generator.generate(&prompt_ids, &options, |id| {
        first.get_or_insert_with(Instant::now);
        if let Some(stream) = &mut stream {
            written = printer.text(stream.push(id));
        }
        if written.is_err() || stop::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    written?;
    let text = match stream {
        Some(mut stream) => {
            printer.line(stream.finish())?;
            Some(stream.into_text())
        }
        None => {
            let ids: Vec<String> = generated.ids.iter().map(ToString::to_string).collect();
            printer.line(ids.join(","))?;
            None
        }
    };
    report_speed(printer, prompt_ids.len(), start, first, generated.ids.len(), generated.finish_reason);
    let mut result = json!({
        "prompt_ids": prompt_ids,
        "ids": generated.ids,
        "text": text,
        "finish_reason": generated.finish_reason.name(),
    });
    if args.top_logprobs > 0 {
        result["logprobs"] = json!(generated.log_probabilities);
        let entry = |token: &danlu_model::TokenProbability| json!({ "id": token.id, "logprob": token.log_probability });
        let step = |step: &Vec<_>| Value::from_iter(step.iter().map(entry));
        result["top_logprobs"] = generated.top_log_probabilities.iter().map(step).collect();
    }
    Ok(printer.json(&result)?)
}

impl Args {
    /// The typed text, from wherever it comes; none where ids are given.
    fn text(&self) -> Result<Option<String>> {
        if self.prompt_ids.is_some() {
            return Ok(None);
        }
        let mut text = match (&self.prompt, &self.prompt_file) {
            (Some(text), _) => return Ok(Some(text.clone())),
            (None, Some(path)) => fs::read_to_string(path)?,
            (None, None) if io::stdin().is_terminal() => {
                let message = "there is no prompt: give `--prompt TEXT`, `--prompt-file FILE`, or a text on standard input";
                return Err(wrong_input(message));
            }
            (None, None) => {
                let mut text = String::new();
                io::stdin().read_to_string(&mut text)?;
                text
            }
        };
        let end = text.strip_suffix('\n').map(|text| text.strip_suffix('\r').unwrap_or(text).len());
        text.truncate(end.unwrap_or(text.len()));
        Ok(Some(text))
    }

    /// The template of the conversation; none where texts are continued.
    fn template_of(&self, opened: &Opened, printer: &Printer) -> Result<Option<ChatTemplate>> {
        if self.raw {
            return Ok(None);
        }
        let template = self.template.open(opened)?;
        if template.is_none() {
            if self.template.system.is_some() {
                return Err(wrong_input(
                    "the model has no chat template for `--system`: give one with `--template`",
                ));
            }
            printer.note("the model has no chat template: the text is continued as it is (`--raw`)");
        }
        Ok(template)
    }

    fn ids(&self, opened: &Opened, text: Option<&str>, printer: &Printer) -> Result<Vec<u32>> {
        if let Some(ids) = &self.prompt_ids {
            return Ok(ids.clone());
        }
        let text = text.unwrap_or_default();
        if text.is_empty() && !self.raw && self.template.open(opened)?.is_none() {
            return raw_ids(opened, text);
        }
        self.ids_of(opened, self.template_of(opened, printer)?.as_ref(), text)
    }

    fn ids_of(&self, opened: &Opened, template: Option<&ChatTemplate>, text: &str) -> Result<Vec<u32>> {
        let Some(template) = template else { return raw_ids(opened, text) };
        let system = self.template.system.iter().map(|text| Message::new("system", text));
        let messages: Vec<Message> = system.chain([Message::new("user", text)]).collect();
        Ok(opened.tokenizer()?.chat_ids(template, &messages)?)
    }
}

/// One line: how many tokens in which time, and whether the answer ended by itself.
pub fn report_speed(
    printer: &Printer,
    prompt_tokens: usize,
    start: Instant,
    first: Option<Instant>,
    tokens: usize,
    reason: FinishReason,
) {
    let end = match reason {
        FinishReason::Stop => "",
        FinishReason::Length => " · ended by length",
        FinishReason::Cancelled => " · stopped",
        FinishReason::Stuck => " · no token goes on as the grammar or schema has it",
    };
    let first = first.unwrap_or_else(Instant::now);
    let prompt_rate = prompt_tokens as f64 / first.duration_since(start).as_secs_f64().max(1e-9);
    // The first token comes with the prompt's last.
    let rate = match tokens {
        0 | 1 => String::new(),
        _ => format!(", {:.1} tokens/s", (tokens - 1) as f64 / first.elapsed().as_secs_f64().max(1e-9)),
    };
    printer.note(format_args!(
        "prompt {prompt_tokens} tokens, {prompt_rate:.0} tokens/s · generated {tokens}{rate}{end}"
    ));
}
