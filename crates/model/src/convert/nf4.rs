//! Hugging Face folders whose linear layers are NF4 with double quantization, as transformers writes them with
//! bitsandbytes. Embedding, head and vectors keep their types.

use std::path::Path;

use danlu_formats::{AtomicFolder, Dtype, TensorInfo, TensorSink, WriteOptions, write_safetensors};
use danlu_kernels::blocks::nf4::{
    self, CODEBOOK, DYNAMIC_MAP, DoubleQuantized, ELEMENTS, NESTED_ELEMENTS, Nf4,
};
use danlu_kernels::blocks::{BlockType, quantize_in_parallel};
use danlu_tokenizer::Tokenizer;
use serde_json::{Value, json};

use super::{Work, add_share};
use crate::checkpoint::is_quantizable;
use crate::layout::FileTensor;
use crate::save::{little_endian, write_description};
use crate::{Config, Error, Result};

/// A tensor of the folder.
enum Written {
    /// As it is in a folder of the model without quantization, at this place.
    Plain(usize),
    /// The nibbles of the layer at this place.
    Nibbles(usize),
    /// What lies beside the nibbles.
    Beside(Vec<u8>),
}

impl Work<'_> {
    pub(super) fn nf4(&mut self, output: &Path, tokenizer: Option<&Tokenizer>) -> Result<Config> {
        let mut config = self.hugging_face_config();
        if let Some(name) = self.checkpoint.quantization(self.layout, self.specs) {
            let note = format!("it was quantized before ({name}), so NF4 loses more than from the original");
            self.notes.push(note);
        }
        let (files, infos) = self.plain_tensors(config.family.names(), None)?;
        let linear = |file: &FileTensor| is_quantizable(&self.specs[file.pieces[0].tensor], BlockType::F32);
        let linear: Vec<bool> = files.iter().map(linear).collect();
        let elements = files.iter().zip(&linear).filter(|(_, linear)| **linear);
        self.total += elements.map(|(file, _)| file.shape.iter().product::<usize>() as u64).sum::<u64>();

        let (mut all, mut written) = (Vec::new(), Vec::new());
        for (place, (file, info)) in files.iter().zip(&infos).enumerate() {
            if !linear[place] {
                all.push(info.clone());
                written.push(Written::Plain(place));
                continue;
            }
            let bytes = file.shape.iter().product::<usize>().div_ceil(2);
            all.push(TensorInfo { name: file.name.clone(), dtype: Dtype::U8, shape: vec![bytes, 1] });
            written.push(Written::Nibbles(place));
            for (part, dtype, bytes) in self.beside(file, info.dtype)? {
                let shape = vec![bytes.len() / dtype.block_bytes()];
                all.push(TensorInfo { name: format!("{}.{part}", file.name), dtype, shape });
                written.push(Written::Beside(bytes));
            }
        }
        let folder = AtomicFolder::create(output)?;
        write_safetensors(folder.path(), &WriteOptions::default(), &all, |place, sink| {
            match &written[place] {
                Written::Plain(place) => self.give(&files[*place], &infos[*place], sink),
                Written::Nibbles(place) => self.give_nibbles(&files[*place], sink),
                Written::Beside(bytes) => {
                    add_share(&mut self.types, "NF4", 0, bytes.len() as u64);
                    Ok(sink.write(bytes)?)
                }
            }
        })?;
        let dtype = self.most_frequent();
        let head = config.family.names().head;
        let skipped = head.strip_suffix(".weight").unwrap_or(head);
        config.other_fields.insert("quantization_config".into(), quantization_config(dtype, skipped));
        write_description(&config, dtype, folder.path())?;
        self.companions(folder.path(), tokenizer, config.family == self.config.family)?;
        folder.commit()?;
        Ok(config)
    }

    /// What lies beside the nibbles of a layer that had weights of this type.
    fn beside(&mut self, file: &FileTensor, dtype: Dtype) -> Result<[(&'static str, Dtype, Vec<u8>); 5]> {
        let mut magnitudes = Vec::new();
        self.for_blocks(file, &mut |blocks| {
            magnitudes.extend(blocks.iter().map(|block| f32::from_le_bytes(block.absmax)));
            Ok(())
        })?;
        let nested = DoubleQuantized::of(&magnitudes);
        let state = json!({
            "quant_type": "nf4",
            "blocksize": ELEMENTS,
            "dtype": torch_name(dtype),
            "shape": file.shape,
            "nested_blocksize": NESTED_ELEMENTS,
            "nested_dtype": "float32",
            "nested_offset": nested.offset,
        });
        Ok([
            ("absmax", Dtype::U8, nested.codes),
            ("quant_map", Dtype::F32, little_endian(&CODEBOOK)),
            ("nested_absmax", Dtype::F32, little_endian(&nested.absmax)),
            ("nested_quant_map", Dtype::F32, little_endian(&DYNAMIC_MAP[..])),
            ("quant_state.bitsandbytes__nf4", Dtype::U8, state.to_string().into_bytes()),
        ])
    }

    fn give_nibbles(&mut self, file: &FileTensor, sink: &mut TensorSink<'_>) -> Result<()> {
        let mut left = file.shape.iter().product::<usize>().div_ceil(2);
        add_share(&mut self.types, "NF4", 1, left as u64);
        self.for_blocks(file, &mut |blocks| {
            for block in blocks {
                let count = left.min(block.nibbles.len());
                sink.write(&block.nibbles[..count])?;
                left -= count;
            }
            Ok(())
        })
    }

    /// Gives a tensor as blocks, which need not end with its rows; zeros fill the last one.
    fn for_blocks(&mut self, file: &FileTensor, take: &mut dyn FnMut(&[Nf4]) -> Result<()>) -> Result<()> {
        let (path, name) = (self.checkpoint.path(), &file.name);
        let mut blocks = Vec::new();
        let mut quantize = |values: &[f32]| -> Result<()> {
            blocks.resize(values.len() / ELEMENTS * BlockType::Nf4.block_bytes(), 0);
            quantize_in_parallel(BlockType::Nf4, values, ELEMENTS, None, &mut blocks).map_err(|error| {
                Error::Tensor { path: path.into(), name: name.clone(), reason: error.to_string() }
            })?;
            take(nf4::blocks(&blocks))
        };
        let mut pending = Vec::new();
        for piece in &file.pieces {
            self.values(piece.tensor, piece.rows.clone(), &mut |_, values| {
                pending.extend_from_slice(values);
                let whole = pending.len() / ELEMENTS * ELEMENTS;
                quantize(&pending[..whole])?;
                pending.drain(..whole);
                Ok(())
            })?;
        }
        pending.resize(pending.len().next_multiple_of(ELEMENTS), 0.0);
        quantize(&pending)
    }
}

fn torch_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F16 => "float16",
        Dtype::Bf16 => "bfloat16",
        _ => "float32",
    }
}

/// What transformers reads to know that and how the folder is quantized.
fn quantization_config(compute_dtype: &str, skipped: &str) -> Value {
    json!({
        "quant_method": "bitsandbytes",
        "load_in_4bit": true,
        "load_in_8bit": false,
        "_load_in_4bit": true,
        "_load_in_8bit": false,
        "bnb_4bit_compute_dtype": compute_dtype,
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": true,
        "llm_int8_enable_fp32_cpu_offload": false,
        "llm_int8_has_fp16_weight": false,
        "llm_int8_skip_modules": [skipped],
        "llm_int8_threshold": 6.0,
    })
}
