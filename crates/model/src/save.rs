//! Writing a model as a Hugging Face folder of its family, which transformers, or the family's own code, and every tool
//! of the field load.

use std::ops::Range;
use std::path::Path;

use danlu_formats::{
    Alias, Dtype, TensorInfo, TensorSink, WriteOptions, write_file_atomically, write_pth, write_safetensors,
};
use danlu_kernels::Weight;
use danlu_tokenizer::Tokenizer;
use serde_json::{Value, json};

use crate::families::META_NAMES;
use crate::layout::{FileTensor, file_tensors};
use crate::names::TensorId;
use crate::{Config, Error, Model, Result};

/// Values that are converted and written at a time.
const CHUNK: usize = 1 << 16;

/// Writes `config.json`, `generation_config.json`, the weights (f32, shards of at most `max_shard_bytes`) and the
/// tokenizer's files into the existing `folder`. Write into a [`danlu_formats::AtomicFolder`] to replace a model whole.
pub fn save_folder(
    model: &Model,
    tokenizer: Option<&Tokenizer>,
    folder: &Path,
    max_shard_bytes: usize,
) -> Result<()> {
    let config = model.config();
    write_description(config, "float32", folder)?;
    let files = file_tensors(config, &model.specs, config.family.names());
    let infos = infos(&files);
    let options = WriteOptions { max_shard_bytes, ..WriteOptions::default() };
    write_safetensors(folder, &options, &infos, |index, sink| write_pieces(model, &files[index], sink))?;
    if let Some(tokenizer) = tokenizer {
        tokenizer.save(folder)?;
    }
    Ok(())
}

/// Writes a model of interleaved rotation as Baby-Llama2 and Luban save theirs: one `.pth` file, f32, with both names of
/// the tied matrix. What its shapes do not tell lies beside it: `config.json` and the tokenizer's files.
pub fn save_pth(model: &Model, tokenizer: Option<&Tokenizer>, path: &Path) -> Result<()> {
    let config = model.config();
    let files = file_tensors(config, &model.specs, &META_NAMES);
    let infos = infos(&files);
    let head = Alias { name: META_NAMES.head.into(), of: 0 };
    let aliases = if config.tie_word_embeddings { vec![head] } else { Vec::new() };
    let folder = path.parent().unwrap_or(Path::new(""));
    write_description(config, "float32", folder)?;
    if let Some(tokenizer) = tokenizer {
        tokenizer.save(folder)?;
    }
    write_pth(path, &infos, &aliases, |index, sink| write_pieces(model, &files[index], sink))
}

/// The tensors of a file as f32.
fn infos(files: &[FileTensor]) -> Vec<TensorInfo> {
    let info = |file: &FileTensor| TensorInfo {
        name: file.name.clone(),
        dtype: Dtype::F32,
        shape: file.shape.clone(),
    };
    files.iter().map(info).collect()
}

fn write_pieces(model: &Model, file: &FileTensor, sink: &mut TensorSink<'_>) -> Result<()> {
    file.pieces.iter().try_for_each(|piece| {
        let width = model.specs[piece.tensor].width();
        let range = piece.rows.start * width..piece.rows.end * width;
        model.values(piece.tensor, range, |values| Ok(sink.write(&little_endian(values))?))
    })
}

/// Writes `config.json` and `generation_config.json` for weights of this type.
pub(crate) fn write_description(config: &Config, dtype: &str, folder: &Path) -> Result<()> {
    write_json(&folder.join("config.json"), &config.to_json(dtype))?;
    let generation = json!({
        "_from_model_config": true,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_json(),
        "pad_token_id": config.pad_token_id,
    });
    write_json(&folder.join("generation_config.json"), &generation)
}

impl Model {
    /// The values `range` of a tensor in pieces, as f32.
    pub(crate) fn values(
        &self,
        tensor: TensorId,
        range: Range<usize>,
        mut take: impl FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        let spec = &self.specs[tensor];
        let (weight, width) = if spec.kind.is_vector() {
            (Weight::new(self.vector(tensor), spec.elements(), 1), 1)
        } else {
            (self.matrix(tensor), spec.width())
        };
        let rows_at_once = CHUNK / width + 1;
        let mut values = vec![0.0; rows_at_once.min(range.len() / width) * width];
        for first in (range.start / width..range.end / width).step_by(rows_at_once) {
            let count = rows_at_once.min(range.end / width - first);
            let values = &mut values[..count * width];
            for (row, values) in values.chunks_exact_mut(width).enumerate() {
                weight.row(first + row, values);
            }
            take(values)?;
        }
        Ok(())
    }
}

pub(crate) fn little_endian(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub(crate) fn write_json(path: &Path, value: &Value) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|error| Error::Json { path: path.into(), reason: error.to_string() })?;
    text.push(b'\n');
    Ok(write_file_atomically(path, &text)?)
}
