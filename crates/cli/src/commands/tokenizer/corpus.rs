//! `danlu tokenizer encode --input`: a corpus to token files.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use danlu_data::records::split_sheet;
use danlu_data::{
    ColumnNames, Columns, CorpusTokens, DataError, EncodedCorpus, ReadOptions, encode_corpus,
    refuse_output_in,
};
use danlu_formats::TokenIndex;
use danlu_hub::size;
use danlu_kernels::team;
use danlu_tokenizer::Tokenizer;
use danlu_train::machine;
use serde_json::json;

use super::texts;
use crate::failure::{keys_as_flags, wrong_input};
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
    #[arg(long, value_name = "PATH", conflicts_with = "text")]
    out: Option<PathBuf>,
    /// Column of the text in rows; several, separated by commas, are joined by newlines
    ///
    /// zh: 文本所在的列；多列以逗号分隔，用换行连接
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_value = "text", conflicts_with = "text")]
    column: Vec<String>,
    /// Encoding of all text files that carry no mark, such as `gb18030`; without it, it is told by their content
    ///
    /// zh: 所有不带标记的文本文件的编码，如 `gb18030`；不设时按内容识别
    #[arg(long, value_name = "NAME", conflicts_with = "text")]
    encoding: Option<String>,
    /// What one document of a .txt file is
    ///
    /// zh: .txt 文件中一篇文档的单位
    #[arg(long, value_name = "UNIT", default_value = "file", value_parser = ["file", "line", "paragraph"], conflicts_with = "text")]
    text_unit: String,
    /// One flat .bin file without an index, as Baby-Llama2 and nanoGPT read it; documents of five ids and fewer are left
    /// out, as Baby-Llama2 does
    ///
    /// zh: 写成不带索引的单个 .bin 文件，与 Baby-Llama2、nanoGPT 的格式相同；同 Baby-Llama2 一样略去不足六个编号的文档
    #[arg(long, conflicts_with = "text")]
    headerless: bool,
    /// Put no EOS behind each document
    ///
    /// zh: 文档之后不加 EOS
    #[arg(long, conflicts_with = "text")]
    no_eos: bool,
    /// Ids of a shard, 1,000 or more: each is a file of its own
    ///
    /// zh: 每个分片的编号数，不少于 1000：每个分片是一个文件
    #[arg(long, value_name = "N", default_value_t = 100_000_000, conflicts_with = "text", value_parser = clap::value_parser!(u64).range(1_000..))]
    shard_tokens: u64,
}

/// A corpus is read twice, by what its token files are known again and for its texts.
fn refuse_pipes(files: &[PathBuf]) -> Result<()> {
    for file in files {
        let path = split_sheet(file).0;
        if !fs_err::metadata(path)?.is_file() {
            return Err(wrong_input(format!(
                "`{}` is a pipe or a device, and a corpus is read twice: write it into a file first",
                path.display()
            )));
        }
    }
    Ok(())
}

/// Writes the token files of the corpus in `inputs`.
///
/// # Errors
/// Files that cannot be read or written.
pub fn run(inputs: &[PathBuf], args: &CorpusArgs, tokenizer: &Tokenizer, printer: &Printer) -> Result<()> {
    let Some(output) = &args.out else {
        return Err(wrong_input("`--input` needs `--out`, the place for the token files"));
    };
    let reading = ReadOptions {
        encoding: args.encoding.clone(),
        text_unit: serde_json::from_value(json!(args.text_unit))?,
        csv_columns: None,
    };
    refuse_output_in(inputs, output)?;
    let columns = Columns { text: Some(ColumnNames::Many(args.column.clone())), ..Columns::default() };
    let files = texts::open(inputs, &columns, &reading, printer)?.files().to_vec();
    refuse_pipes(&files)?;
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
        columns,
        reading,
        tokenizer,
        end_of_document: end.transpose()?,
        min_tokens: if args.headerless { BABY_LLAMA2_LEAST } else { 1 },
        files,
        threads: team::threads().max(1),
    };
    let total = texts::bytes(&corpus.files);
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
    let EncodedCorpus { index, is_new, notices } = match encoded {
        Err(DataError::Cancelled) => return Err(Interrupted.into()),
        Err(error) => return Err(texts::without_recipe(error)),
        Ok(done) => done,
    };
    notices.iter().for_each(|notice| printer.note(keys_as_flags(notice)));
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
