//! `danlu bench sft`: fine-tuning on the rows of a real file, at their real lengths, of a model with random weights.
//!
//! Rows take the way of `danlu train`: read, cut into prompt and answer, packed without padding, one optimizer step for a
//! batch. Prompt and answer stand one behind the other without a model's markers, as the peer's script has them.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use danlu_data::{DataOptions, Dataset, Overlong, Sample, Task, step_slices};
use danlu_hub::Want;
use danlu_kernels::Precision;
use danlu_kernels::blocks::BlockType;
use danlu_model::open_tokenizer;
use danlu_tokenizer::ChatTemplate;
use danlu_train::objective::step::Step;
use serde_json::json;

use super::Arithmetic;
use super::steps::{Mode, Shape, Training, base_type, peak_megabytes};
use crate::failure::wrong_input;
use crate::hub::{self, Fetch};
use crate::models::count;
use crate::printer::Printer;

/// The instruction with its input, a line end, the answer, and the end of the text.
const TEMPLATE: &str = "{% for message in messages %}{{ message['content'] }}\
                        {{ eos_token if message['role'] == 'assistant' else '\\n' }}{% endfor %}";

/// The rows and the model.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// File of questions and answers, such as alpaca JSON
    ///
    /// zh: 问答文件，例如 alpaca 格式的 JSON
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Vocabulary: tokenizer.json or tokenizer.model, a folder, a GGUF file, or a model's id at a hub
    ///
    /// zh: 词表：tokenizer.json、tokenizer.model、文件夹、GGUF 文件，或模型在 hub 上的 id
    #[arg(long, value_name = "PATH")]
    tokenizer: PathBuf,
    /// What learns
    ///
    /// zh: 训练哪些权重
    #[arg(long, value_enum, default_value = "lora")]
    mode: Mode,
    /// What the frozen layers of `--mode qlora` rest in
    ///
    /// zh: `--mode qlora` 冻结层的存放类型
    #[arg(long, value_name = "TYPE", value_parser = base_type(), default_value = "nf4")]
    base: BlockType,
    /// Arithmetic
    ///
    /// zh: 运算精度
    #[arg(long, value_enum, default_value = "bf16")]
    precision: Arithmetic,
    /// Hidden size
    ///
    /// zh: 隐藏层宽度
    #[arg(long, default_value_t = 576)]
    hidden: usize,
    /// Decoder blocks
    ///
    /// zh: 解码层数
    #[arg(long, default_value_t = 30)]
    layers: usize,
    /// Intermediate size of the feed-forward layers
    ///
    /// zh: 前馈层宽度
    #[arg(long, default_value_t = 1536)]
    intermediate: usize,
    /// Attention heads
    ///
    /// zh: 注意力头数
    #[arg(long, default_value_t = 9)]
    heads: usize,
    /// Key/value heads
    ///
    /// zh: 键值头数
    #[arg(long, default_value_t = 3)]
    kv_heads: usize,
    /// Rows of a step
    ///
    /// zh: 每步的行数
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Tokens of a row at most; more are cut off its answer
    ///
    /// zh: 每行的最多词元数；超出部分从回答末尾截去
    #[arg(long, default_value_t = 1024)]
    cutoff: usize,
    /// Rows to train on, from the beginning of the file
    ///
    /// zh: 从文件开头起用于训练的行数
    #[arg(long, default_value_t = 64)]
    rows: usize,
    /// Rank of the adapters of `--mode lora` and `--mode qlora`
    ///
    /// zh: `--mode lora` 与 `--mode qlora` 的适配器秩
    #[arg(long, default_value_t = 16)]
    rank: usize,
}

/// Runs the command.
pub fn run(args: &Args, printer: &Printer) -> Result<()> {
    if args.batch == 0 || args.rows == 0 {
        return Err(wrong_input("expected a batch and a number of rows of 1 or more"));
    }
    let tokenizer = hub::place(&args.tokenizer, Want::Tokenizer, Fetch::Allowed, printer)?;
    let tokenizer = open_tokenizer(&tokenizer)?;
    let mut tokens = tokenizer.template_tokens();
    if tokens.eos_token.is_empty() {
        // A bare tokenizer.json names no end of text; the peer's script takes the first id for it.
        tokens.eos_token = tokenizer.token_text(0).unwrap_or_default();
    }
    let options = DataOptions {
        dataset: vec![args.data.display().to_string()],
        cutoff_len: args.cutoff,
        overlong: Overlong::Truncate,
        max_samples: Some(args.rows),
        ..DataOptions::default()
    };
    let template = ChatTemplate::from_source(TEMPLATE)?;
    let task = Task::Conversation { template: &template, tokens: &tokens };
    let Dataset { samples, report, .. } = Dataset::load(&options, &tokenizer, task)?;
    printer.note(report);
    let shape = Shape {
        vocab: tokenizer.vocabulary_size(),
        hidden: args.hidden,
        layers: args.layers,
        intermediate: args.intermediate,
        heads: args.heads,
        kv_heads: args.kv_heads,
        tied: true,
        context: args.cutoff,
    };
    let model = shape.model(args.mode, args.base, Precision::from(args.precision), args.rank)?;
    printer.note(format_args!(
        "{} parameters, {} of them trained",
        count(model.parameter_count()),
        count(model.parameters().len())
    ));
    let step = |samples: &[Sample]| Step::of(step_slices(samples));
    let steps: Vec<Step> = samples.iter().collect::<Vec<_>>().chunks(args.batch).map(step).collect();
    let slices = steps.iter().flat_map(|step| &step.slices.slices);
    let longest = slices.map(|slice| slice.ids.len()).max().unwrap_or(1);
    let mut training = Training::new(model, longest);
    let start = Instant::now();
    let mut loss = 0.0;
    for step in &steps {
        loss = training.step(step)?;
    }
    let seconds = start.elapsed().as_secs_f64();
    let tokens = samples.tokens();
    let (rows_per_second, tokens_per_second) = (samples.len() as f64 / seconds, tokens as f64 / seconds);
    let peak = peak_megabytes();
    printer.line(format_args!(
        "{rows_per_second:.2} rows/s, {tokens_per_second:.0} tokens/s, {} rows in {seconds:.1} s, {peak} MB",
        samples.len()
    ))?;
    printer.json(&json!({
        "rows_per_s": rows_per_second, "tokens_per_s": tokens_per_second, "seconds": seconds,
        "rows": samples.len(), "tokens": tokens, "loss": loss, "peak_rss_mb": peak,
    }))?;
    Ok(())
}
