//! `danlu tokenizer compare`: how two vocabularies cut the same text.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::Result;
use danlu_tokenizer::{SpecialTokens, Tokenizer};
use fs_err as fs;
use serde_json::json;

use super::{open_at, readable};
use crate::failure::wrong_input;
use crate::printer::Printer;

/// Lines that are shown with both cuts.
const SHOWN: usize = 3;

/// What to compare.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// First vocabulary: model or tokenizer folder, tokenizer.json, tokenizer.model, or GGUF file
    ///
    /// zh: 第一个词表：模型或分词器文件夹、tokenizer.json、tokenizer.model 或 GGUF 文件
    #[arg(value_name = "A")]
    first: PathBuf,
    /// Second vocabulary
    ///
    /// zh: 第二个词表
    #[arg(value_name = "B")]
    second: PathBuf,
    /// Text to cut, UTF-8, line by line
    ///
    /// zh: 要切分的文本，UTF-8，逐行处理
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
}

/// A vocabulary and what it made of the text.
struct Side {
    path: PathBuf,
    tokenizer: Tokenizer,
    tokens: usize,
    used: HashSet<u32>,
    unknown: usize,
}

impl Side {
    fn open(path: &Path, printer: &Printer) -> Result<Self> {
        let tokenizer = open_at(path, printer)?;
        Ok(Self { path: path.to_owned(), tokenizer, tokens: 0, used: HashSet::new(), unknown: 0 })
    }

    /// The pieces of a line.
    fn cut(&mut self, line: &str) -> Result<Vec<Vec<u8>>> {
        let ids = self.tokenizer.encode(line, SpecialTokens::AsText)?;
        self.tokens += ids.len();
        self.unknown += ids.iter().filter(|&&id| self.tokenizer.unk_id() == Some(id)).count();
        let mut pieces: Vec<Vec<u8>> =
            ids.iter().map(|&id| self.tokenizer.token_bytes(id).unwrap_or_default()).collect();
        self.used.extend(ids);
        // The space that sentencepiece puts before a text says nothing about it.
        if let Some(first) = pieces.first_mut().filter(|first| first.first() == Some(&b' '))
            && !line.starts_with(' ')
        {
            first.remove(0);
        }
        pieces.retain(|piece| !piece.is_empty());
        Ok(pieces)
    }

    fn texts(&self) -> HashSet<String> {
        self.tokenizer.texts().into_iter().collect()
    }
}

/// Runs `danlu tokenizer compare`.
///
/// # Errors
/// Vocabularies or a text that cannot be read.
pub fn run(args: &Args, printer: &Printer) -> Result<()> {
    let (mut first, mut second) = (Side::open(&args.first, printer)?, Side::open(&args.second, printer)?);
    let text = fs::read_to_string(&args.text)?;
    let characters = text.lines().map(|line| line.chars().count()).sum::<usize>();
    if characters == 0 {
        return Err(wrong_input(format!("`{}` holds no text", args.text.display())));
    }
    let (mut lines, mut different, mut shown) = (0, 0, Vec::new());
    for line in text.lines().filter(|line| !line.is_empty()) {
        let cuts = [first.cut(line)?, second.cut(line)?];
        lines += 1;
        if cuts[0] != cuts[1] {
            different += 1;
            if shown.len() < SHOWN {
                shown.push(cuts);
            }
        }
    }
    let shared = first.texts().intersection(&second.texts()).count();
    let per_character = |side: &Side| side.tokens as f64 / characters as f64;
    let row = |name: &str, value: &dyn Fn(&Side) -> String| vec![name.into(), value(&first), value(&second)];
    let rows = [
        row("vocabulary size", &|side| side.tokenizer.vocabulary_size().to_string()),
        row("tokens", &|side| side.tokens.to_string()),
        row("tokens per character", &|side| format!("{:.4}", per_character(side))),
        row("bytes per token", &|side| format!("{:.3}", text.len() as f64 / side.tokens.max(1) as f64)),
        row("different tokens used", &|side| side.used.len().to_string()),
        row("unknown tokens", &|side| side.unknown.to_string()),
    ];
    let name = |side: &Side| side.path.display().to_string();
    printer.table(&["", &name(&first), &name(&second)], &rows)?;
    printer.line(format_args!(
        "{shared} pieces in both · {different} of {lines} lines are cut differently · {characters} characters"
    ))?;
    for cuts in &shown {
        for pieces in cuts {
            let pieces: Vec<String> = pieces.iter().map(|piece| readable(piece)).collect();
            printer.line(pieces.join("|"))?;
        }
        printer.line("")?;
    }
    let side = |side: &Side| {
        json!({
            "path": side.path,
            "vocabulary_size": side.tokenizer.vocabulary_size(),
            "tokens": side.tokens,
            "tokens_per_character": per_character(side),
            "used": side.used.len(),
            "unknown": side.unknown,
        })
    };
    Ok(printer.json(&json!({
        "vocabularies": [side(&first), side(&second)],
        "characters": characters,
        "lines": lines,
        "different_lines": different,
        "shared_pieces": shared,
    }))?)
}
