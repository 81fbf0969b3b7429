//! What a model file or folder is, without reading its weights.

use std::path::Path;

use danlu_tokenizer::Tokenizer;

use crate::checkpoint::Checkpoint;
use crate::convert::{TypeShare, add_share};
use crate::{Config, Error, Gptq, Result};

/// What was found.
pub struct Description {
    /// Kind and number of files: `safetensors, 2 files`.
    pub container: String,
    /// How its linear layers are quantized, if it is a folder of GPTQ.
    pub gptq: Option<Gptq>,
    /// Types with how many tensors and bytes have them.
    pub types: Vec<TypeShare>,
    /// The configuration, if this program can run the model; else why not.
    pub config: Result<Config>,
    /// The vocabulary, if there is one that can be read; else why not.
    pub tokenizer: Result<Option<Tokenizer>>,
}

/// Describes the model at `path`.
///
/// # Errors
/// Nothing there, or no model file; a model that cannot be run is none.
pub fn describe(path: &Path) -> Result<Description> {
    if !path.exists() {
        return Err(Error::Message(format!("`{}` does not exist", path.display())));
    }
    let checkpoint = Checkpoint::open(path)?;
    let mut types = Vec::new();
    for info in checkpoint.source().tensors() {
        let (name, tensors) = match checkpoint.source().scheme_of(&info.name) {
            Some((name, is_weight)) => (name, usize::from(is_weight)),
            None => (info.dtype.name(), 1),
        };
        add_share(&mut types, name, tensors, info.byte_length().unwrap_or(0) as u64);
    }
    let config = checkpoint.contents().map(|contents| contents.config);
    let (container, tokenizer) = (checkpoint.source().name(), checkpoint.tokenizer());
    let gptq = checkpoint.source().gptq();
    Ok(Description { container, gptq, types, config, tokenizer })
}
