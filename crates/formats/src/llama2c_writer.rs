//! Writing llama2.c's model files, versions 0, 1 and 2, value by value, as its `export.py` does.

use std::path::Path;

use crate::llama2c::{HEADER_BYTES, MAGIC};
use crate::{AtomicFile, Dtype, Error, Llama2cConfig, Llama2cVersion, Result, TensorInfo};

/// The base of the rotations that llama2.c's programs use.
const ROPE_THETA: f32 = 10000.0;
const BUFFER_BYTES: usize = 1 << 20;

/// Takes the values of one tensor, in as many pieces as the caller likes.
pub struct Llama2cSink<'a> {
    file: &'a mut AtomicFile,
    path: &'a Path,
    info: &'a TensorInfo,
    /// Of a tensor that is quantized.
    group_size: Option<usize>,
    group: Vec<f32>,
    scales: Vec<u8>,
    buffer: Vec<u8>,
    written: usize,
}

impl Llama2cSink<'_> {
    /// Appends values of the tensor, row by row.
    pub fn write(&mut self, values: &[f32]) -> Result<()> {
        self.written += values.len();
        if self.written > self.info.elements().unwrap_or(0) {
            return Err(self.wrong_length());
        }
        match self.group_size {
            None => {
                for value in values {
                    self.buffer.extend(value.to_le_bytes());
                    self.flush_at(BUFFER_BYTES)?;
                }
            }
            Some(group_size) => {
                for value in values {
                    self.group.push(*value);
                    if self.group.len() == group_size {
                        self.quantize_group()?;
                        self.flush_at(BUFFER_BYTES)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The largest magnitude becomes 127; the rest is rounded to the nearest, ties to even.
    fn quantize_group(&mut self) -> Result<()> {
        let largest = self.group.iter().fold(0f32, |largest, value| largest.max(value.abs()));
        if !self.group.iter().all(|value| value.is_finite()) {
            return Err(self.error("has values that are not finite numbers".to_string()));
        }
        let scale = largest / 127.0;
        // A group of zeros has the scale 0, and 0/0 becomes 0 as an integer.
        let quantized = self.group.drain(..).map(|value| (value / scale).round_ties_even() as i8);
        self.buffer.extend(quantized.map(i8::cast_unsigned));
        self.scales.extend(scale.to_le_bytes());
        Ok(())
    }

    fn flush_at(&mut self, length: usize) -> Result<()> {
        if self.buffer.len() >= length {
            self.file.write(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        if self.written != self.info.elements().unwrap_or(0) {
            return Err(self.wrong_length());
        }
        self.flush_at(1)?;
        self.file.write(&self.scales)
    }

    fn wrong_length(&self) -> Error {
        let (shape, written) = (&self.info.shape, self.written);
        self.error(format!("of shape {shape:?} was given {written} values"))
    }

    fn error(&self, reason: String) -> Error {
        Error::Tensor { path: self.path.to_path_buf(), name: self.info.name.clone(), reason }
    }
}

/// Writes the file that `config` describes; `give_values` is called once for each of
/// [`Llama2cConfig::tensors`], in this order, and may stop with its own error.
///
/// Values are f32 in every version; version 2 quantizes them here. The file appears when it is complete.
pub fn write_llama2c<E: From<Error>>(
    path: impl AsRef<Path>,
    config: &Llama2cConfig,
    mut give_values: impl FnMut(&TensorInfo, &mut Llama2cSink<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let path = path.as_ref();
    let header = header(config).map_err(|reason| Error::Unsupported {
        path: path.to_path_buf(),
        reason: format!("llama2.c has no form for this model: {reason}"),
    })?;
    let mut file = AtomicFile::create(path)?;
    file.write(&header)?;
    let tensors = config.tensors();
    for info in &tensors {
        if info.name == "output.weight" {
            write_rotations(&mut file, config)?;
        }
        let group_size = match config.version {
            Llama2cVersion::V2 { group_size } if info.dtype == Dtype::I8 => Some(group_size),
            _ => None,
        };
        let mut sink = Llama2cSink {
            file: &mut file,
            path,
            info,
            group_size,
            group: Vec::new(),
            scales: Vec::new(),
            buffer: Vec::new(),
            written: 0,
        };
        give_values(info, &mut sink)?;
        sink.finish()?;
    }
    if config.shared_classifier {
        write_rotations(&mut file, config)?;
    }
    file.commit()?;
    Ok(())
}

fn header(config: &Llama2cConfig) -> Result<Vec<u8>, String> {
    config.file_bytes()?;
    let sizes = [
        config.dim,
        config.hidden_dim,
        config.n_layers,
        config.n_heads,
        config.n_kv_heads,
        config.vocab_size,
        config.max_seq_len,
    ];
    let mut ints = Vec::with_capacity(sizes.len());
    for size in sizes {
        ints.push(i32::try_from(size).map_err(|_| format!("{size} does not fit into 32 bits"))?);
    }
    let (version, group_size) = match config.version {
        Llama2cVersion::V0 => {
            if !config.shared_classifier {
                ints[5] = -ints[5];
            }
            return Ok(ints.iter().flat_map(|int| int.to_le_bytes()).collect());
        }
        Llama2cVersion::V1 => (1i32, 0),
        Llama2cVersion::V2 { group_size } => (2i32, group_size),
    };
    let mut header = MAGIC.to_vec();
    header.extend(version.to_le_bytes());
    header.extend(ints.iter().flat_map(|int| int.to_le_bytes()));
    header.push(u8::from(config.shared_classifier));
    header.extend((group_size as u32).to_le_bytes());
    header.resize(HEADER_BYTES, 0);
    Ok(header)
}

/// The tables of version 0, which llama2.c's own programs skip: cosines, then sines, `[max_seq_len, head_dim / 2]`.
fn write_rotations(file: &mut AtomicFile, config: &Llama2cConfig) -> Result<()> {
    if config.version != Llama2cVersion::V0 {
        return Ok(());
    }
    let head_dim = config.head_dim();
    let frequency = |pair: usize| 1.0 / ROPE_THETA.powf((2 * pair) as f32 / head_dim as f32);
    let frequencies: Vec<f32> = (0..head_dim / 2).map(frequency).collect();
    for function in [f32::cos, f32::sin] {
        let values = (0..config.max_seq_len).flat_map(|position| {
            frequencies.iter().map(move |frequency| function(position as f32 * frequency))
        });
        let table: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
        file.write(&table)?;
    }
    Ok(())
}
