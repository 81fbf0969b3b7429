//! Ollama's file beside a GGUF file: what to load, and how a conversation is written for it.
//!
//! Syntax: <https://github.com/ollama/ollama/blob/main/docs/modelfile.md>.

use std::path::{Path, PathBuf};

use danlu_tokenizer::Tokenizer;
use fs_err as fs;

use crate::Result;

/// The file for a model, with the template of a conversation where it is a known one.
pub fn modelfile(gguf: &Path, tokenizer: Option<&Tokenizer>) -> String {
    let name = gguf.file_name().unwrap_or_default().to_string_lossy();
    format!("FROM ./{name}\n{}", conversation(tokenizer))
}

/// How a turn begins and where it ends.
fn conversation(tokenizer: Option<&Tokenizer>) -> String {
    let mut text = String::new();
    let Some(tokenizer) = tokenizer else { return text };
    let source = tokenizer.chat_template().unwrap_or_default();
    let known = [
        (
            "<|im_start|>",
            "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n",
        ),
        (
            "<|start_header_id|>",
            "{{ range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ .Content }}<|eot_id|>{{ end }}\
             <|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        (
            "[INST]",
            "[INST] {{ if .System }}<<SYS>>\n{{ .System }}\n<</SYS>>\n\n{{ end }}{{ .Prompt }} [/INST]",
        ),
        ("Human: ", "Human: {{ .Prompt }}\n</s><s>Assistant: "),
    ];
    if let Some((_, template)) = known.iter().find(|(sign, _)| source.contains(sign)) {
        text += &format!("TEMPLATE \"\"\"{template}\"\"\"\n");
    }
    for id in tokenizer.end_of_turn_ids() {
        if let Some(token) = tokenizer.token_text(id) {
            text += &format!("PARAMETER stop \"{}\"\n", token.replace('"', "\\\""));
        }
    }
    text
}

/// Where [`modelfile`] is written for a GGUF file.
pub fn modelfile_path(gguf: &Path) -> PathBuf {
    gguf.with_extension("Modelfile")
}

/// The file for an adapter on the model at `base`, by its whole path: Ollama takes others from the folder of this file.
///
/// # Errors
/// A `base` that is not there.
pub fn adapter_modelfile(base: &Path, gguf: &Path, tokenizer: Option<&Tokenizer>) -> Result<String> {
    let name = gguf.file_name().unwrap_or_default().to_string_lossy();
    let base = fs::canonicalize(base)?;
    Ok(format!("FROM {}\nADAPTER ./{name}\n{}", base.display(), conversation(tokenizer)))
}
