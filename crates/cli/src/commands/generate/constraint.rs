//! The options of output that must be of a grammar or a JSON schema.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use danlu_model::{Constraint, Grammar, Opened};
use fs_err as fs;

use crate::failure::wrong_input;

/// What the output must be.
#[derive(Debug, Clone, clap::Args)]
pub struct ConstraintArgs {
    /// File with a grammar (llama.cpp's GBNF) that the output must follow
    ///
    /// zh: 语法文件（llama.cpp 的 GBNF），输出必须符合
    #[arg(long, value_name = "FILE", conflicts_with = "json_schema")]
    grammar: Option<PathBuf>,
    /// File with a JSON schema under which the output must be valid; `{"type": "object"}` for any JSON object
    ///
    /// zh: JSON schema 文件，输出必须有效；`{"type": "object"}` 表示任意 JSON 对象
    #[arg(long, value_name = "FILE")]
    json_schema: Option<PathBuf>,
}

impl ConstraintArgs {
    /// Reads the file that is given, if one is.
    ///
    /// # Errors
    /// A file that cannot be read or is no such grammar or schema.
    pub fn read(&self) -> Result<Option<Grammar>> {
        let wrong = |path: &Path, reason: String| wrong_input(format!("`{}`: {reason}", path.display()));
        let grammar = match (&self.grammar, &self.json_schema) {
            (Some(path), _) => {
                Grammar::from_gbnf(&fs::read_to_string(path)?).map_err(|reason| wrong(path, reason))?
            }
            (None, Some(path)) => {
                let text = fs::read_to_string(path)?;
                let schema = serde_json::from_str(text.trim_start_matches('\u{FEFF}'))
                    .map_err(|error| wrong(path, format!("expected JSON: {error}")))?;
                Grammar::from_json_schema(&schema).map_err(|reason| wrong(path, reason))?
            }
            (None, None) => return Ok(None),
        };
        Ok(Some(grammar))
    }
}

/// The grammar over a model's tokens.
///
/// # Errors
/// A model without a tokenizer.
pub fn constraint_of(grammar: Option<&Grammar>, opened: &Opened) -> Result<Option<Constraint>> {
    let Some(grammar) = grammar else { return Ok(None) };
    opened.tokenizer()?;
    Ok(opened.vocabulary().map(|vocabulary| Constraint::new(grammar, Arc::new(vocabulary))))
}
