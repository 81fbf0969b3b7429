//! Linear layers as bitsandbytes serialises them in Hugging Face folders: 4 bits (NF4, FP4; with and without double
//! quantization) and 8 bits (a scale for each row).
//!
//! A quantized `X.weight` has its scales in tensors beside it. NF4 whose rows are whole blocks is given as blocks; all
//! else as f32, because no block type holds its scales exactly. Nothing is quantized here.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::Path;

use danlu_formats::{Dtype, TensorFolder, TensorInfo};
use danlu_kernels::blocks::{BlockType, nf4};
use fs_err as fs;
use serde::Deserialize;
use serde_json::Value;

use crate::{Error, Result};

/// Before `nf4` or `fp4` in the name of the tensor that holds JSON.
const STATE: &str = ".quant_state.bitsandbytes__";
/// Behind the layer's name, the scales of 8-bit rows and how the rows lie.
const ROW_SCALES: &str = "SCB";
const ROW_FORMAT: &str = "weight_format";
/// A quant of an 8-bit row times its scale times this is the value, as bitsandbytes reckons.
const EIGHT_BITS: f32 = 7.874_016e-3;

/// The quantized layers of a folder, by the names of their weights.
#[derive(Default)]
pub(crate) struct Quantized {
    layers: BTreeMap<String, Layer>,
    /// Tensors that belong to them.
    beside: HashSet<String>,
}

/// One of them.
pub(crate) struct Layer {
    name: String,
    shape: Vec<usize>,
    scheme: Scheme,
}

enum Scheme {
    Four { name: &'static str, table: [f32; 16], block: usize, magnitudes: Magnitudes },
    Eight { scales: String },
}

/// Where the largest magnitudes of blocks are.
enum Magnitudes {
    Plain(String),
    /// Codes, what they mean, their scales, how many share one, and what is added to all.
    Nested {
        codes: String,
        map: Vec<f32>,
        absmax: Vec<f32>,
        block: usize,
        offset: f32,
    },
}

/// The JSON beside a 4-bit weight.
#[derive(Deserialize)]
struct State {
    quant_type: String,
    blocksize: usize,
    shape: Vec<usize>,
    nested_blocksize: Option<usize>,
    nested_offset: Option<f32>,
}

impl Quantized {
    /// Finds the quantized layers of a folder or file, and checks that all that belongs to them is there.
    ///
    /// # Errors
    /// A tensor beside a weight that is missing or of the wrong size; a `config.json` that tells of quantized layers
    /// where there are none.
    pub(crate) fn of(tensors: &TensorFolder, path: &Path) -> Result<Self> {
        let reader = Reader { tensors, path };
        let mut found = Self::default();
        for info in tensors.tensors() {
            let name = info.name.as_str();
            if let Some((weight, kind)) = name.split_once(STATE) {
                let layer = reader.four_bits(weight, kind, &mut found.beside)?;
                found.layers.insert(weight.into(), layer);
            } else if let Some(layer) = name.strip_suffix(ROW_SCALES)
                && layer.ends_with('.')
            {
                let layer = reader.eight_bits(layer, &mut found.beside)?;
                found.layers.insert(layer.name.clone(), layer);
            }
        }
        if reader.is_said_to_be_quantized()? {
            reader.check_that_nothing_is_left(&found)?;
        }
        Ok(found)
    }

    pub(crate) fn layer(&self, weight: &str) -> Option<&Layer> {
        self.layers.get(weight)
    }

    /// Whether the tensor belongs to a quantized layer without being its weight.
    pub(crate) fn is_beside(&self, name: &str) -> bool {
        self.beside.contains(name)
    }

    /// The type that a tensor of a quantized layer counts to, and whether it is the weight.
    pub(crate) fn scheme_of(&self, name: &str) -> Option<(&'static str, bool)> {
        if let Some(layer) = self.layers.get(name) {
            return Some((layer.scheme_name(), true));
        }
        let first = self.layers.values().next().filter(|_| self.beside.contains(name))?;
        Some((first.scheme_name(), false))
    }

    /// What most layers are, as a user calls it.
    pub(crate) fn name(&self) -> Option<String> {
        let layer = self.layers.values().next()?;
        let nested = match &layer.scheme {
            Scheme::Four { magnitudes: Magnitudes::Nested { .. }, .. } => ", double quantization",
            _ => "",
        };
        Some(format!("bitsandbytes {}{nested}", layer.scheme_name()))
    }
}

/// A folder, for messages.
struct Reader<'a> {
    tensors: &'a TensorFolder,
    path: &'a Path,
}

impl Reader<'_> {
    fn error(&self, name: &str, reason: String) -> Error {
        Error::Tensor { path: self.path.into(), name: name.into(), reason }
    }

    /// The bytes of a tensor that must be there, of this many bytes.
    fn bytes(&self, name: &str, dtype: Option<Dtype>, expected: usize) -> Result<&[u8]> {
        let tensor = self.tensors.tensor(name);
        let tensor = tensor.ok_or_else(|| {
            self.error(name, "missing, and the quantized weight cannot be read without it".into())
        })?;
        let found = tensor.info.dtype;
        if let Some(dtype) = dtype.filter(|dtype| *dtype != found) {
            return Err(self.error(name, format!("expected type {dtype}, found {found}")));
        }
        if tensor.bytes.len() != expected {
            let found = tensor.bytes.len();
            return Err(self.error(name, format!("expected {expected} bytes, found {found}")));
        }
        Ok(tensor.bytes)
    }

    fn floats(&self, name: &str, count: usize) -> Result<Vec<f32>> {
        let bytes = self.bytes(name, Some(Dtype::F32), count * 4)?;
        let values: Vec<f32> = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        match values.iter().find(|value| !value.is_finite()) {
            Some(value) => Err(self.error(name, format!("holds {value}, which is no scale"))),
            None => Ok(values),
        }
    }

    fn four_bits(&self, weight: &str, kind: &str, beside: &mut HashSet<String>) -> Result<Layer> {
        let state_name = format!("{weight}{STATE}{kind}");
        let error = |reason: String| self.error(&state_name, reason);
        let json = self.tensors.tensor(&state_name).map(|tensor| tensor.bytes).unwrap_or_default();
        let state: State = serde_json::from_slice(json).map_err(|cause| error(cause.to_string()))?;
        let name = match state.quant_type.as_str() {
            "nf4" => "NF4",
            "fp4" => "FP4",
            other => return Err(error(format!("`quant_type`: expected nf4 or fp4, found `{other}`"))),
        };
        let elements = state.shape.iter().try_fold(1usize, |product, size| product.checked_mul(*size));
        let elements = elements.filter(|_| state.shape.len() == 2 && !state.shape.contains(&0));
        let elements =
            elements.ok_or_else(|| error(format!("`shape`: {:?} is that of no matrix", state.shape)))?;
        if !state.blocksize.is_power_of_two() || !(32..=4096).contains(&state.blocksize) {
            let reason =
                format!("`blocksize`: expected a power of two from 32 to 4096, found {}", state.blocksize);
            return Err(error(reason));
        }
        self.bytes(weight, None, elements.div_ceil(2))?;
        let part = |part: &str| format!("{weight}.{part}");
        let table = self.floats(&part("quant_map"), 16)?;
        let blocks = elements.div_ceil(state.blocksize);
        let magnitudes = match state.nested_blocksize {
            None => {
                self.floats(&part("absmax"), blocks)?;
                Magnitudes::Plain(part("absmax"))
            }
            Some(0) => return Err(error("`nested_blocksize`: expected at least 1, found 0".into())),
            Some(block) => {
                self.bytes(&part("absmax"), Some(Dtype::U8), blocks)?;
                let offset = state.nested_offset.filter(|offset| offset.is_finite());
                Magnitudes::Nested {
                    codes: part("absmax"),
                    map: self.floats(&part("nested_quant_map"), 256)?,
                    absmax: self.floats(&part("nested_absmax"), blocks.div_ceil(block))?,
                    block,
                    offset: offset.ok_or_else(|| error("`nested_offset`: missing, or no number".into()))?,
                }
            }
        };
        beside.extend(["absmax", "quant_map", "nested_absmax", "nested_quant_map"].map(part));
        beside.insert(state_name.clone());
        let mut values = [0.0; 16];
        values.copy_from_slice(&table);
        let scheme = Scheme::Four { name, table: values, block: state.blocksize, magnitudes };
        Ok(Layer { name: weight.into(), shape: state.shape, scheme })
    }

    /// A layer whose name ends in a dot.
    fn eight_bits(&self, layer: &str, beside: &mut HashSet<String>) -> Result<Layer> {
        let [weight, scales, format] =
            ["weight", ROW_SCALES, ROW_FORMAT].map(|part| format!("{layer}{part}"));
        let tensor = self.tensors.tensor(&weight).ok_or_else(|| {
            self.error(&weight, format!("missing, although its scales `{scales}` are there"))
        })?;
        let info = tensor.info;
        let &[rows, _] = &info.shape[..] else {
            return Err(self.error(&weight, format!("expected a matrix, found shape {:?}", info.shape)));
        };
        if info.dtype != Dtype::I8 {
            let reason = format!("expected type I8 because of `{scales}`, found {}", info.dtype);
            return Err(self.error(&weight, reason));
        }
        self.floats(&scales, rows)?;
        if self.tensors.tensor(&format).is_some()
            && let [other @ 1..=u8::MAX] = self.bytes(&format, Some(Dtype::U8), 1)?
        {
            let reason = format!(
                "{other} is an order of columns for GPUs; save the model again with a newer bitsandbytes"
            );
            return Err(self.error(&format, reason));
        }
        beside.extend([scales.clone(), format]);
        Ok(Layer { name: weight, shape: info.shape.clone(), scheme: Scheme::Eight { scales } })
    }

    /// Whether a `config.json` says that bitsandbytes quantized it.
    fn is_said_to_be_quantized(&self) -> Result<bool> {
        let folder = if self.path.is_dir() { self.path } else { self.path.parent().unwrap_or(Path::new("")) };
        let path = folder.join("config.json");
        if !path.is_file() {
            return Ok(false);
        }
        let config: Value = serde_json::from_str(&fs::read_to_string(&path)?).unwrap_or_default();
        let method = &config["quantization_config"];
        // Before there were other methods, folders did not name this one.
        let by_flags = method["quant_method"].is_null()
            && (method["load_in_4bit"] == true || method["load_in_8bit"] == true);
        Ok(method["quant_method"] == "bitsandbytes" || by_flags)
    }

    /// No weight is there whose scales are not.
    fn check_that_nothing_is_left(&self, found: &Quantized) -> Result<()> {
        for info in self.tensors.tensors() {
            let TensorInfo { name, dtype, .. } = info;
            if found.layers.contains_key(name) || found.beside.contains(name) {
                continue;
            }
            let layer = name.strip_suffix("weight").filter(|_| matches!(dtype, Dtype::I8 | Dtype::U8));
            if let Some(layer) = layer {
                let missing = match dtype {
                    Dtype::I8 => format!("{layer}{ROW_SCALES}"),
                    _ => format!("{name}{STATE}nf4"),
                };
                return Err(self.error(&missing, format!("missing, and `{name}` cannot be read without it")));
            }
        }
        if found.layers.is_empty() {
            let reason = "tells of bitsandbytes, but no tensor is quantized; remove the field for a model of 16 or 32 bits";
            let path = self.path.join("config.json");
            return Err(Error::Config { path, field: "quantization_config".into(), reason: reason.into() });
        }
        Ok(())
    }
}

impl Layer {
    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// `NF4`, `FP4` or `INT8`.
    pub(crate) fn scheme_name(&self) -> &'static str {
        match self.scheme {
            Scheme::Four { name, .. } => name,
            Scheme::Eight { .. } => "INT8",
        }
    }

    /// The type of what [`Layer::rows`] gives.
    pub(crate) fn kind(&self) -> BlockType {
        match &self.scheme {
            Scheme::Four { table, block, .. }
                if *table == nf4::CODEBOOK
                    && block.is_multiple_of(nf4::ELEMENTS)
                    && self.width().is_multiple_of(nf4::ELEMENTS) =>
            {
                BlockType::Nf4
            }
            _ => BlockType::F32,
        }
    }

    fn width(&self) -> usize {
        self.shape.get(1).copied().unwrap_or(1)
    }

    /// Names of all that is read for it.
    pub(crate) fn parts(&self) -> [&str; 2] {
        let other = match &self.scheme {
            Scheme::Four {
                magnitudes: Magnitudes::Plain(name) | Magnitudes::Nested { codes: name, .. },
                ..
            } => name,
            Scheme::Eight { scales } => scales,
        };
        [&self.name, other]
    }

    /// These rows, as [`Layer::kind`] says.
    pub(crate) fn rows(&self, tensors: &TensorFolder, rows: Range<usize>) -> Result<Vec<u8>, String> {
        let [weight, scales] = self.parts().map(|name| tensors.tensor(name).map(|tensor| tensor.bytes));
        let (Some(weight), Some(scales)) = (weight, scales) else {
            return Err("missing".into());
        };
        let width = self.width();
        let elements = rows.start * width..rows.end * width;
        let float =
            |index: usize| scales.as_chunks().0.get(index).map_or(0.0, |bytes| f32::from_le_bytes(*bytes));
        let (table, block, magnitudes) = match &self.scheme {
            Scheme::Four { table, block, magnitudes, .. } => (table, *block, magnitudes),
            Scheme::Eight { .. } => {
                let mut out = Vec::with_capacity(elements.len() * 4);
                for row in rows {
                    let scale = float(row);
                    let quants = weight.get(row * width..(row + 1) * width).ok_or("too few bytes")?;
                    out.extend(
                        quants
                            .iter()
                            .flat_map(|quant| (f32::from(*quant as i8) * scale * EIGHT_BITS).to_le_bytes()),
                    );
                }
                return Ok(out);
            }
        };
        let magnitude = |index: usize| match magnitudes {
            Magnitudes::Plain(_) => float(index),
            Magnitudes::Nested { map, absmax, block, offset, .. } => {
                let code = scales.get(index).copied().unwrap_or(0);
                map[usize::from(code)] * absmax[index / block] + offset
            }
        };
        if self.kind() == BlockType::Nf4 {
            let mut out = Vec::with_capacity(elements.len() / nf4::ELEMENTS * size_of::<nf4::Nf4>());
            for first in elements.step_by(nf4::ELEMENTS) {
                let nibbles = weight.get(first / 2..(first + nf4::ELEMENTS) / 2).ok_or("too few bytes")?;
                out.extend(magnitude(first / block).to_le_bytes());
                out.extend(nibbles);
            }
            return Ok(out);
        }
        let mut out = Vec::with_capacity(elements.len() * 4);
        for element in elements {
            let byte = weight.get(element / 2).ok_or("too few bytes")?;
            let nibble = if element.is_multiple_of(2) { byte >> 4 } else { byte & 15 };
            out.extend((table[usize::from(nibble)] * magnitude(element / block)).to_le_bytes());
        }
        Ok(out)
    }
}
