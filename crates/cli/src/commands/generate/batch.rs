//! `danlu generate --input`: every question of a file, several at a time, into one file of answers.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use danlu_data::{Question, questions, refuse_output_in};
use danlu_formats::write_file_atomically;
use danlu_model::{FinishReason, GenerationOptions, Opened, Sampling, generate_all};
use danlu_tokenizer::{ChatTemplate, Message};
use serde_json::{Map, Value, json};

use super::TemplateArgs;
use super::kept::{Answer, Kept};
use super::room;
use crate::failure::wrong_input;
use crate::printer::Printer;
use crate::prompts::raw_ids;
use crate::stop;
use crate::text_stream::TextStream;

/// Which questions, and where the answers go.
#[derive(Debug, Clone, clap::Args)]
pub struct BatchArgs {
    /// Answer every question of this file: lines of text, or rows such as alpaca, instruct and query, or messages
    ///
    /// zh: 回答此文件中的每个问题：每行一条文本，或 alpaca、instruct/query、messages 等格式的数据
    #[arg(long, value_name = "FILE", requires = "out", conflicts_with_all = ["prompt", "prompt_ids", "prompt_file", "top_logprobs"])]
    input: Option<PathBuf>,
    /// File for the answers: `.json`, an array, or `.jsonl`, one a line
    ///
    /// zh: 保存回答的文件：`.json`（数组）或 `.jsonl`（每行一条）
    #[arg(long, value_name = "FILE", requires = "input")]
    out: Option<PathBuf>,
    /// Questions that are answered at the same time
    ///
    /// zh: 同时回答的问题数
    #[arg(long, value_name = "N", default_value_t = 8, requires = "input", value_parser = clap::value_parser!(u16).range(1..))]
    at_once: u16,
    /// Only the first N questions
    ///
    /// zh: 只取前 N 个问题
    #[arg(long, value_name = "N", requires = "input")]
    limit: Option<usize>,
}

/// What is asked, as text and as ids.
struct Prompt {
    text: String,
    ids: Vec<u32>,
}

impl BatchArgs {
    /// The questions, and the file for the answers, if that is what is wanted.
    ///
    /// # Errors
    /// Questions that cannot be read, an output that cannot be written.
    pub fn read(&self) -> Result<Option<(Vec<Question>, &Path)>> {
        let (Some(input), Some(out)) = (&self.input, &self.out) else { return Ok(None) };
        if !matches!(ending(out), Some("json" | "jsonl")) {
            let message = format!("`--out {}`: expected a name ending in `.json` or `.jsonl`", out.display());
            return Err(wrong_input(message));
        }
        refuse_output_in(std::slice::from_ref(input), out)?;
        let folder = folder_of(out);
        if ["config.json", "params.json"].iter().any(|name| folder.join(name).exists()) {
            return Err(wrong_input(format!(
                "`--out {}`: a model is in that folder, whose `generation_config.json` would be replaced: choose another",
                out.display()
            )));
        }
        if !folder.is_dir() {
            return Err(wrong_input(format!(
                "`--out {}`: there is no folder `{}`",
                out.display(),
                folder.display()
            )));
        }
        Ok(Some((questions(input, self.limit)?, out)))
    }

    /// Answers the questions; `model` says which files do.
    ///
    /// # Errors
    /// A question that is too long, a template that refuses one, an output that cannot be written.
    #[allow(clippy::too_many_arguments)]
    pub fn run(
        &self,
        opened: &Opened,
        model: Map<String, Value>,
        questions: &[Question],
        out: &Path,
        template: Option<(&ChatTemplate, &TemplateArgs)>,
        options: &GenerationOptions,
        printer: &Printer,
    ) -> Result<()> {
        let prompts = questions
            .iter()
            .map(|question| prompt(opened, question, template))
            .collect::<Result<Vec<_>>>()?;
        let context = opened.model.config().context_length();
        for (prompt, question) in prompts.iter().zip(questions) {
            let tokens = prompt.ids.len();
            if tokens > context {
                return Err(wrong_input(format!(
                    "{}: a prompt of {tokens} tokens does not fit the model's context of {context} tokens: shorten it",
                    question.source
                )));
            }
        }
        let texts: Vec<&str> = prompts.iter().map(|prompt| prompt.text.as_str()).collect();
        let settings = json!({ "model": model, "generation": generation_config(options) });
        let mut kept = Kept::open(out, &settings, &texts)?;
        let open: Vec<usize> = (0..prompts.len()).filter(|&row| kept.answers[row].is_none()).collect();
        let ids: Vec<Vec<u32>> = open.iter().map(|&row| prompts[row].ids.clone()).collect();
        let tokenizer = opened.tokenizer()?;
        let room = room::at_once(&opened.model, &ids, options.max_new_tokens, self.at_once.into(), printer);
        let at_once = match room {
            Ok(at_once) => at_once,
            // The same command with other options begins anew.
            Err(error) if open.len() == prompts.len() => return kept.remove().and(Err(error)),
            Err(error) => return Err(error),
        };
        let mut done = prompts.len() - open.len();
        let mut bar = printer.progress("answers", prompts.len() as u64);
        if done > 0 {
            bar.skip(done as u64);
            bar.note(format_args!("{done} of {} questions are answered already", prompts.len()));
        }
        let (mut tokens, mut failed) = (0, Ok(()));
        let start = std::time::Instant::now();
        generate_all(&opened.model, &ids, options, at_once, |step| {
            tokens += step.tokens;
            for (index, generated) in step.finished {
                let row = open[index];
                let ends = generated.finish_reason == FinishReason::Stop;
                let own = &generated.ids[..generated.ids.len() - usize::from(ends)];
                let mut stream = TextStream::new(tokenizer);
                own.iter().for_each(|&id| _ = stream.push(id));
                stream.finish();
                let (input, output) = (prompts[row].text.clone(), stream.into_text());
                done += 1;
                if failed.is_ok() {
                    failed = kept.keep(row, Answer { input, output, ended_by_length: !ends });
                }
            }
            let rate = tokens as f64 / start.elapsed().as_secs_f64().max(1e-9);
            bar.set(done as u64, format_args!("{rate:.1} tokens/s"));
            if failed.is_err() || stop::requested() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        failed?;
        drop(bar);
        if done < prompts.len() {
            printer
                .note(format_args!("{done} of {} answers are kept; the same command goes on", prompts.len()));
            return Err(stop::Interrupted.into());
        }
        let seconds = start.elapsed().as_secs_f64();
        let cut = kept.answers.iter().flatten().filter(|answer| answer.ended_by_length).count();
        let rows: Vec<Value> = (kept.answers.iter().flatten().zip(questions))
            .map(|(answer, question)| {
                let mut row = json!({ "Input": answer.input, "Output": answer.output });
                if let Some(reference) = &question.reference {
                    row["Reference"] = json!(reference);
                }
                row
            })
            .collect();
        write(out, &rows)?;
        let config = folder_of(out).join("generation_config.json");
        let text = serde_json::to_string_pretty(&generation_config(options))? + "\n";
        write_file_atomically(&config, text.as_bytes())?;
        kept.remove()?;
        if cut > 0 {
            printer.warning(format_args!(
                "{cut} answers ended by length; a higher `--max-new-tokens` than {} lets them end, as far as the model's context does",
                options.max_new_tokens
            ));
        }
        let (count, rate) = (rows.len(), tokens as f64 / seconds.max(1e-9));
        printer.line(format_args!(
            "`{}`: {count} answers, {tokens} tokens, {rate:.1} tokens/s",
            out.display()
        ))?;
        Ok(printer.json(&json!({
            "out": out, "answers": count, "tokens": tokens, "seconds": seconds, "ended_by_length": cut,
        }))?)
    }
}

fn prompt(
    opened: &Opened,
    question: &Question,
    template: Option<(&ChatTemplate, &TemplateArgs)>,
) -> Result<Prompt> {
    let tokenizer = opened.tokenizer()?;
    let Some((template, args)) = template else {
        let text =
            question.messages.iter().map(|message| message.content.as_str()).collect::<Vec<_>>().join("\n");
        return Ok(Prompt { ids: raw_ids(opened, &text)?, text });
    };
    let has_system = question.messages.first().is_some_and(|first| first.role == "system");
    let system = args.system.iter().filter(|_| !has_system).map(|text| Message::new("system", text));
    let messages: Vec<Message> = system.chain(question.messages.iter().cloned()).collect();
    let tokens = tokenizer.template_tokens();
    let text = template
        .render_with_tools(&messages, &question.tools, true, &tokens)
        .with_context(|| question.source.to_string())?;
    Ok(Prompt { text, ids: tokenizer.chat_ids_with_tools(template, &messages, &question.tools)? })
}

fn write(out: &Path, rows: &[Value]) -> Result<()> {
    let mut text = String::new();
    if ending(out) == Some("json") {
        text = serde_json::to_string_pretty(rows)? + "\n";
    } else {
        for row in rows {
            text += &row.to_string();
            text.push('\n');
        }
    }
    Ok(write_file_atomically(out, text.as_bytes())?)
}

/// How tokens were chosen, in the field's file for it.
fn generation_config(options: &GenerationOptions) -> Value {
    let mut config = json!({ "do_sample": options.sampling.temperature > 0.0 });
    config["max_new_tokens"] = json!(options.max_new_tokens);
    config["eos_token_id"] = json!(options.stop_ids);
    // What is as if it were not there is not told.
    let (given, default) = (json!(options.sampling), json!(Sampling::default()));
    for (name, value) in given.as_object().into_iter().flatten() {
        let is_basic =
            ["temperature", "top_k", "top_p", "repetition_penalty", "seed"].contains(&name.as_str());
        if is_basic || default[name] != *value {
            config[name] = value.clone();
        }
    }
    config
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn ending(path: &Path) -> Option<&str> {
    path.extension()?.to_str()
}
