//! `danlu tokenizer encode --input`: a corpus to token files.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use danlu_data::{ColumnNames, Columns, CorpusTokens, DataError, Records, encode_corpus};
use danlu_formats::TokenIndex;
use danlu_hub::size;
use danlu_kernels::team;
use danlu_tokenizer::Tokenizer;
use danlu_train::machine;
use fs_err as fs;
use serde_json::json;

use crate::failure::wrong_input;
use crate::printer::Printer;
use crate::stop::{self, Interrupted};

/// Baby-Llama2 leaves out documents of five ids and fewer, the end counted.
const BABY_LLAMA2_LEAST: usize = 6;

/// What of a corpus to encode, and where to.
#[derive(Debug, clap::Args)]
pub struct CorpusArgs {
    /// Folder for the token files, or with `--headerless` the .bin file; a run that was killed goes on there
    ///
    /// zh: 存放词元文件的文件夹；配合 `--headerless` 时为 .bin 文件；中断后再次运行会接着做
    #[arg(long, value_name = "PATH", requires = "input")]
    out: Option<PathBuf>,
    /// Column of the text in rows; several, separated by commas, are joined by newlines
    ///
    /// zh: 文本所在的列；多列以逗号分隔，用换行连接
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_value = "text", requires = "input")]
    column: Vec<String>,
    /// One flat .bin file without an index, as Baby-Llama2 and nanoGPT read it; documents of five ids and fewer are left
    /// out, as Baby-Llama2 does
    ///
    /// zh: 写成不带索引的单个 .bin 文件，与 Baby-Llama2、nanoGPT 的格式相同；同 Baby-Llama2 一样略去不足六个编号的文档
    #[arg(long, requires = "input")]
    headerless: bool,
    /// Put no EOS behind each document
    ///
    /// zh: 文档之后不加 EOS
    #[arg(long, requires = "input")]
    no_eos: bool,
    /// Ids of a shard
    ///
    /// zh: 每个分片的编号数
    #[arg(long, value_name = "N", default_value_t = 100_000_000, requires = "input")]
    shard_tokens: u64,
}

/// Writes the token files of the corpus in `inputs`.
///
/// # Errors
/// Files that cannot be read or written.
pub fn run(inputs: &[PathBuf], args: &CorpusArgs, tokenizer: &Tokenizer, printer: &Printer) -> Result<()> {
    let Some(output) = &args.out else {
        return Err(wrong_input("`--input` needs `--out`, the place for the token files"));
    };
    let files = list(inputs)?;
    let end = (!args.no_eos).then(|| {
        let missing =
            || wrong_input("the vocabulary has no EOS to put behind each document: give `--no-eos`");
        tokenizer.eos_id().ok_or_else(missing)
    });
    if args.headerless && tokenizer.vocabulary_size() > 1 << 16 {
        printer.warning(
            "the vocabulary has more than 65,536 tokens: the ids are uint32, which Baby-Llama2 does not read",
        );
    }
    let corpus = CorpusTokens {
        columns: Columns { text: Some(ColumnNames::Many(args.column.clone())), ..Columns::default() },
        tokenizer,
        end: end.transpose()?,
        least: if args.headerless { BABY_LLAMA2_LEAST } else { 1 },
        files,
        threads: team::threads().max(1),
    };
    let total: u64 = corpus.files.iter().map(|path| Ok(fs::metadata(path)?.len())).sum::<Result<u64>>()?;
    let start = Instant::now();
    let mut bar = printer.progress("encoding", total);
    let mut text = 0;
    let mut progress = |bytes: u64| {
        text = bytes;
        bar.set(bytes, format_args!("{} of {}", size(bytes), size(total)));
        if stop::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let encoded = encode_corpus(&corpus, output, args.headerless, args.shard_tokens, &mut progress);
    drop(bar);
    let (index, is_new) = match encoded {
        Err(DataError::Cancelled) => return Err(Interrupted.into()),
        Err(error) => return Err(super::train::without_recipe(error)),
        Ok(done) => done,
    };
    let seconds = start.elapsed().as_secs_f64();
    report(output, &index, is_new, text, seconds, printer)
}

fn report(
    output: &Path,
    index: &TokenIndex,
    is_new: bool,
    text: u64,
    seconds: f64,
    printer: &Printer,
) -> Result<()> {
    let speed = text as f64 / 1e6 / seconds;
    printer.line(format_args!(
        "{} · {} documents · {} tokens of {} in {} files · {}",
        output.display(),
        index.documents,
        index.tokens,
        index.dtype,
        index.shards.len(),
        if is_new { format!("{speed:.1} MB/s") } else { "there already, with the same content".into() },
    ))?;
    Ok(printer.json(&json!({
        "path": output,
        "documents": index.documents,
        "records": index.records,
        "tokens": index.tokens,
        "dtype": index.dtype,
        "shards": index.shards.len(),
        "is_new": is_new,
        "text_bytes": text,
        "seconds": seconds,
        "mb_per_s": speed,
        "peak_rss_mb": machine::peak().map(|bytes| bytes >> 20),
    }))?)
}

/// All files of the inputs, of which none is left out in silence.
fn list(inputs: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for input in inputs {
        if !input.exists() {
            let input = input.display();
            return Err(wrong_input(format!("`{input}` does not exist; expected a file or folder of texts")));
        }
        let records = Records::open(input)?;
        if let Some(path) = records.ignored().first() {
            return Err(wrong_input(format!(
                "`{}` holds {} files that are neither .txt, .jsonl, .json nor .csv, such as `{}`",
                input.display(),
                records.ignored().len(),
                path.display()
            )));
        }
        files.extend(records.files().map(Path::to_path_buf));
    }
    Ok(files)
}
