//! The vocabulary of a GGUF file by itself: of any architecture, and of files that hold nothing else.

use std::path::Path;

use anyhow::{Context, Result};
use danlu_formats::Gguf;
use danlu_tokenizer::{GgufVocabulary, Tokenizer};

use crate::failure::wrong_input;

/// Opens the vocabulary of a GGUF file.
///
/// # Errors
/// There is none, or it is damaged.
pub fn open(path: &Path) -> Result<Tokenizer> {
    let gguf = Gguf::open(path)?;
    let Some(model) = gguf.get_str("tokenizer.ggml.model")? else {
        return Err(wrong_input(format!("`{}` holds no tokenizer", path.display())));
    };
    let strings = |key: &str| -> Result<Vec<String>> {
        let strings = gguf.get_strings(key)?.into_iter().flat_map(|list| list.iter());
        Ok(strings.map(|text| String::from_utf8_lossy(text).into_owned()).collect())
    };
    let id =
        |key: &str| -> Result<Option<u32>> { Ok(gguf.get_usize(key)?.and_then(|id| u32::try_from(id).ok())) };
    let vocabulary = GgufVocabulary {
        model: model.to_owned(),
        pre: gguf.get_str("tokenizer.ggml.pre")?.map(str::to_owned),
        tokens: strings("tokenizer.ggml.tokens")?,
        scores: gguf.get_f32s("tokenizer.ggml.scores")?.map(<[f32]>::to_vec).unwrap_or_default(),
        token_types: gguf.get_i32s("tokenizer.ggml.token_type")?.map(<[i32]>::to_vec).unwrap_or_default(),
        merges: strings("tokenizer.ggml.merges")?,
        bos_id: id("tokenizer.ggml.bos_token_id")?,
        eos_id: id("tokenizer.ggml.eos_token_id")?,
        unk_id: id("tokenizer.ggml.unknown_token_id")?,
        pad_id: id("tokenizer.ggml.padding_token_id")?,
        eot_id: id("tokenizer.ggml.eot_token_id")?,
        add_bos: gguf.get_bool("tokenizer.ggml.add_bos_token")?,
        add_eos: gguf.get_bool("tokenizer.ggml.add_eos_token")?,
        add_space_prefix: gguf.get_bool("tokenizer.ggml.add_space_prefix")?,
        chat_template: gguf.get_str("tokenizer.chat_template")?.map(str::to_owned),
    };
    Tokenizer::from_gguf(vocabulary).with_context(|| format!("`{}`", path.display()))
}
