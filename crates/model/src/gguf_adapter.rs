//! A PEFT adapter as the GGUF file that `llama-cli --lora` and Ollama's `ADAPTER` take.
//!
//! llama.cpp scales all of a file's products by alpha over their rank; what an adapter scales otherwise goes into B. It
//! knows low-rank matrices of linear layers only: an adapter with anything else is refused, because it can be merged.

use std::collections::BTreeMap;
use std::path::Path;

use danlu_formats::{Dtype, TensorInfo, Value, write_gguf};
use danlu_kernels::rope::RopeLayout;

use crate::adapter_folder::{AdapterFolder, BaseTensors, Change};
use crate::checkpoint::{halves_to_pairs, is_rotated};
use crate::families::GGUF_NAMES;
use crate::layout::FileTensor;
use crate::names::{self, TensorSpec};
use crate::save::little_endian;
use crate::{Config, Error, Result, gguf_out};

/// Writes the adapter in `folder`, which belongs to a model of this configuration, to the file `out`.
///
/// # Errors
/// As [`crate::read_adapter`]; an adapter that llama.cpp cannot use; a file that cannot be written.
pub fn write_gguf_adapter(config: &Config, folder: &Path, out: &Path) -> Result<()> {
    let base = BaseTensors::new(config);
    let adapter = AdapterFolder::open(folder, &base)?;
    // llama.cpp takes an alpha of zero as none.
    let alpha = if adapter.config.lora_alpha == 0.0 { 1.0 } else { adapter.config.lora_alpha };
    let architecture = gguf_out::architecture(config)?;
    // The base's GGUF has rotated rows side by side, and the adapter in two halves.
    let turns = config.rope_layout == RopeLayout::HalfSplit && gguf_out::has_neighbouring_pairs(architecture);
    let specs = names::tensors(config);
    let mut matrices = BTreeMap::new();
    for (name, changes) in &adapter.changes {
        let file = base.files.iter().find(|file| file.name == *name);
        for change in changes {
            let (Some(file), Change::LowRank { a, b, magnitude: None, is_embedding: false, rank, scale }) =
                (file, change)
            else {
                return Err(not_in_gguf(&adapter, name));
            };
            let factor = (scale * *rank as f64 / alpha) as f32;
            let mut b = adapter.values(b)?;
            b.iter_mut().for_each(|value| *value *= factor);
            let a = adapter.values(a)?;
            for (own, mut rows) in split(file, &specs, &b, *rank) {
                let spec = &specs[own];
                if turns && is_rotated(spec) {
                    halves_to_pairs(&mut rows, config.head_dim, *rank);
                }
                let name = GGUF_NAMES.of(spec.role);
                let info = |suffix: &str, shape: [usize; 2]| TensorInfo {
                    name: format!("{name}.{suffix}"),
                    dtype: Dtype::F32,
                    shape: shape.into(),
                };
                matrices.insert((own, 0), (info("lora_a", [*rank, a.len() / rank]), a.clone()));
                matrices.insert((own, 1), (info("lora_b", [rows.len() / rank, *rank]), rows));
            }
        }
    }
    let text = |key: &str, value: &str| (key.to_owned(), Value::String(value.into()));
    let mut metadata = vec![
        text("general.architecture", architecture),
        text("general.type", "adapter"),
        text("adapter.type", "lora"),
        ("adapter.lora.alpha".to_owned(), Value::F32(alpha as f32)),
    ];
    if let Some(name) = folder.file_name() {
        metadata.insert(1, text("general.name", &name.to_string_lossy()));
    }
    let (infos, values): (Vec<TensorInfo>, Vec<Vec<f32>>) = matrices.into_values().unzip();
    write_gguf(out, &metadata, &infos, |index, sink| -> Result<()> {
        Ok(sink.write(&little_endian(&values[index]))?)
    })
}

/// The rows of B for each of the model's tensors that one of the file is.
fn split(file: &FileTensor, specs: &[TensorSpec], b: &[f32], rank: usize) -> BTreeMap<usize, Vec<f32>> {
    let mut parts: BTreeMap<usize, Vec<f32>> = BTreeMap::new();
    let mut row = 0;
    for piece in &file.pieces {
        let size = specs[piece.tensor].shape[0] * rank;
        let part = parts.entry(piece.tensor).or_insert_with(|| vec![0.0; size]);
        let rows = row * rank..(row + piece.rows.len()) * rank;
        part[piece.rows.start * rank..piece.rows.end * rank].copy_from_slice(&b[rows]);
        row += piece.rows.len();
    }
    parts
}

fn not_in_gguf(adapter: &AdapterFolder, name: &str) -> Error {
    Error::Message(format!(
        "`{}` changes `{name}` in a way that GGUF adapters do not have (they are low-rank matrices of linear layers); \
         make a model of it with `danlu merge` and convert that",
        adapter.path.display()
    ))
}
