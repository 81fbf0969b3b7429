//! Folders of GPTQ (Frantar et al. 2022, arXiv:2210.17323) as AutoGPTQ, GPTQModel and the programs behind them write
//! them: what their settings say, and their linear layers as the engine reads them.
//!
//! A layer of I inputs and O outputs in G groups is `qweight` i32 [I · bits / 32, O], `qzeros` i32 [G, O · bits / 32],
//! `scales` f16 [G, O] and `g_idx` i32 [I], the group of each input. Words hold their first quant in the lowest bits.
//! In the format `gptq`, zeros are stored less one: the words of `qzeros` are short of 0x11111111 (4 bit) or
//! 0x01010101 (8 bit), as integers; `gptq_v2` stores them as they are.

use std::path::{Path, PathBuf};

use danlu_formats::{Dtype, Tensor};
use danlu_kernels::Grouped;
use danlu_kernels::team::parallel_chunks;
use fs_err as fs;
use serde_json::{Map, Value, json};

use crate::fields::Fields;
use crate::{Error, Result};

/// The method's name in settings.
pub(crate) const METHOD: &str = "gptq";
/// Where older folders keep the settings that newer ones have in `config.json`.
pub(crate) const SETTINGS: &str = "quantize_config.json";
/// What a layer's tensors are called behind its name.
pub(crate) const PARTS: [&str; 4] = [".qweight", ".qzeros", ".scales", ".g_idx"];
/// Rows that one task lays out.
const ROWS: usize = 16;

/// How a folder was quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gptq {
    /// 4 or 8.
    pub bits: usize,
    /// Inputs of a group; all of a layer if not given.
    pub group_size: Option<usize>,
    /// Whether inputs were quantized in the order of their importance (act-order), which scatters groups.
    pub desc_act: bool,
    /// Whether zeros are in the middle of the grid.
    pub sym: bool,
    /// Whether zeros are stored as they are.
    pub(crate) is_v2: bool,
}

impl Gptq {
    /// Settings to quantize with. Asymmetric zeros are stored as they are (`gptq_v2`): GPTQModel reads them in no other way.
    ///
    /// # Errors
    /// Other bits than 4 or 8, groups that are not whole words of quants.
    pub fn new(bits: usize, group_size: Option<usize>, desc_act: bool, sym: bool) -> Result<Self> {
        if !matches!(bits, 4 | 8) {
            return Err(Error::Message(format!("GPTQ has 4 or 8 bits here, found {bits}")));
        }
        match group_size {
            Some(size) if size < 8 || !size.is_multiple_of(8) => Err(Error::Message(format!(
                "the group size should be -1 or a multiple of 8 (128, 64 and 32 are usual), found {size}"
            ))),
            _ => Ok(Self { bits, group_size, desc_act, sym, is_v2: !sym }),
        }
    }

    /// The settings of a folder, if it has some of this method.
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>> {
        let (config, own) = (folder.join("config.json"), folder.join(SETTINGS));
        if let Some(object) = read_object(&config)?
            && let Some(settings) = object.get("quantization_config").filter(|value| !value.is_null())
        {
            let fields = Fields::new(&config, &object);
            let fields = fields.inside("quantization_config", settings)?;
            let is_ours = fields.text("quant_method") == Some(METHOD);
            return if is_ours { Self::from_fields(&fields).map(Some) } else { Ok(None) };
        }
        let Some(object) = read_object(&own)? else { return Ok(None) };
        let fields = Fields::new(&own, &object);
        match fields.text("quant_method") {
            None | Some(METHOD) => Self::from_fields(&fields).map(Some),
            Some(_) => Ok(None),
        }
    }

    fn from_fields(fields: &Fields) -> Result<Self> {
        let bits = fields.required("bits")?;
        if !matches!(bits, 4 | 8) {
            return Err(fields.error("bits", format!("expected 4 or 8, found {bits}")));
        }
        let group_size = match fields.get("group_size").and_then(Value::as_i64) {
            Some(-1) => None,
            Some(size @ 1..) => usize::try_from(size).ok(),
            _ => {
                let found = fields.get("group_size").unwrap_or(&Value::Null);
                return Err(
                    fields.error("group_size", format!("expected -1 or a number above 0, found {found}"))
                );
            }
        };
        let is_v2 = match fields.text("checkpoint_format") {
            None | Some("gptq") => false,
            Some("gptq_v2") => true,
            Some(other) => {
                let reason =
                    format!("expected `gptq` or `gptq_v2`, found `{other}`; convert it with GPTQModel first");
                return Err(fields.error("checkpoint_format", reason));
            }
        };
        let (desc_act, sym) = (fields.flag("desc_act")?, fields.flag_or("sym", true)?);
        Ok(Self { bits, group_size, desc_act, sym, is_v2 })
    }

    /// The settings as files have them, for GPTQModel, vLLM and transformers.
    pub(crate) fn to_json(self, damp_percent: f64) -> Value {
        json!({
            "bits": self.bits,
            "checkpoint_format": if self.is_v2 { "gptq_v2" } else { "gptq" },
            "damp_percent": damp_percent,
            "desc_act": self.desc_act,
            "group_size": self.group_size.map_or(-1, |size| size as i64),
            "lm_head": false,
            "quant_method": METHOD,
            "static_groups": false,
            "sym": self.sym,
            "true_sequential": true,
        })
    }

    /// Groups of a layer.
    pub(crate) fn groups(self, inputs: usize) -> usize {
        self.group_size.map_or(1, |size| inputs.div_ceil(size))
    }

    /// Quants in a word of 32 bits.
    pub(crate) fn pack(self) -> usize {
        32 / self.bits
    }

    /// What words of `qzeros` are short of.
    pub(crate) fn zero_offset(self) -> u32 {
        match (self.is_v2, self.bits) {
            (true, _) => 0,
            (false, 4) => 0x1111_1111,
            (false, _) => 0x0101_0101,
        }
    }

    /// The one file of weights in a folder of AutoGPTQ that has no other: `gptq_model-4bit-128g.safetensors`.
    pub(crate) fn own_file(self, folder: &Path) -> Option<PathBuf> {
        let group = self.group_size.map_or("-1".into(), |size| size.to_string());
        let path = folder.join(format!("gptq_model-{}bit-{group}g.safetensors", self.bits));
        path.is_file().then_some(path)
    }
}

/// A JSON object in a file, if the file is there.
fn read_object(path: &Path) -> Result<Option<Map<String, Value>>> {
    if !path.is_file() {
        return Ok(None);
    }
    let error = |reason: String| Error::Json { path: path.into(), reason };
    match serde_json::from_str(&fs::read_to_string(path)?) {
        Ok(Value::Object(object)) => Ok(Some(object)),
        Ok(_) => Err(error("expected an object".into())),
        Err(cause) => Err(error(cause.to_string())),
    }
}

/// A linear layer in a folder.
pub(crate) struct GptqLinear<'a> {
    settings: Gptq,
    stem: String,
    /// [outputs, inputs]
    shape: [usize; 2],
    qweight: Tensor<'a>,
    others: [Option<Tensor<'a>>; 3],
}

impl<'a> GptqLinear<'a> {
    /// The layer whose weight would be called `name`, if its quants are there; nothing of it is checked yet.
    pub(crate) fn find(
        settings: Gptq,
        name: &str,
        tensor: impl Fn(&str) -> Option<Tensor<'a>>,
    ) -> Option<Self> {
        let stem = name.strip_suffix(".weight")?;
        let [qweight, zeros, scales, order] = PARTS.map(|part| tensor(&format!("{stem}{part}")));
        let qweight = qweight?;
        let [words, outputs] = qweight.info.shape[..] else { return None };
        let shape = [outputs, words.saturating_mul(settings.pack())];
        Some(Self { settings, stem: stem.into(), shape, qweight, others: [zeros, scales, order] })
    }

    /// [outputs, inputs]
    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Fails with a tensor's name and what is wrong with it, unless all parts are there and fit together.
    pub(crate) fn check(&self) -> Result<(), (String, String)> {
        let Self { settings, shape: [outputs, inputs], .. } = *self;
        let groups = settings.groups(inputs);
        let error = |part: usize, reason: String| Err((format!("{}{}", self.stem, PARTS[part]), reason));
        let zeros = (outputs.saturating_mul(settings.bits)).div_ceil(32);
        if !outputs.is_multiple_of(settings.pack()) {
            return error(1, format!("{outputs} outputs do not fill words of {} zeros", settings.pack()));
        }
        let expected = [
            (Dtype::I32, self.qweight.info.shape.clone()),
            (Dtype::I32, vec![groups, zeros]),
            (Dtype::F16, vec![groups, outputs]),
            (Dtype::I32, vec![inputs]),
        ];
        let parts = [Some(self.qweight)].into_iter().chain(self.others);
        for (part, (tensor, (dtype, shape))) in parts.zip(expected).enumerate() {
            let Some(tensor) = tensor else {
                // Without act-order, groups follow from the places of columns.
                if part == 3 && !settings.desc_act {
                    continue;
                }
                return error(part, "missing".into());
            };
            if tensor.info.dtype != dtype || tensor.info.shape != shape {
                let (own, own_shape) = (tensor.info.dtype, &tensor.info.shape);
                return error(
                    part,
                    format!("expected {dtype} {shape:?} from the settings, found {own} {own_shape:?}"),
                );
            }
        }
        if groups > 1 << 16 {
            return error(2, format!("{groups} groups; expected at most {}", 1 << 16));
        }
        if let Some(order) = self.others[2]
            && let Some((column, group)) =
                words(order).enumerate().find(|(_, group)| *group as usize >= groups)
        {
            let group = group as i32;
            return error(3, format!("input {column} is in group {group}, but there are {groups} groups"));
        }
        if let Some(scales) = self.others[1]
            && let Some(place) =
                scales.bytes.as_chunks::<2>().0.iter().position(|half| half[1] & 0x7c == 0x7c)
        {
            return error(
                2,
                format!("the scale of group {}, output {} is not finite", place / outputs, place % outputs),
            );
        }
        Ok(())
    }

    /// So many rows of zeros with this layer's groups.
    pub(crate) fn empty(&self, rows: usize) -> Grouped {
        let [_, inputs] = self.shape;
        let group_of: Vec<u16> = match self.others[2] {
            Some(order) => words(order).map(|group| group as u16).collect(),
            None => {
                let size = self.settings.group_size.unwrap_or(inputs);
                (0..inputs).map(|column| (column / size) as u16).collect()
            }
        };
        Grouped::zeros(self.settings.bits, [rows, inputs], self.settings.groups(inputs), &group_of)
    }

    /// These rows of a layer that was checked, in this order.
    pub(crate) fn grouped(&self, rows: &[usize]) -> Grouped {
        let Self { settings, shape: [outputs, inputs], others, .. } = self;
        let mut grouped = self.empty(rows.len());
        let [Some(zeros), Some(scales), _] = others else { return grouped };
        let (groups, row_words) = (settings.groups(*inputs), inputs / settings.pack());
        let parts = grouped.parts_mut();
        let all = self.qweight.bytes.as_chunks::<4>().0;
        parallel_chunks(parts.words, ROWS * row_words, |task, words| {
            let rows = &rows[task * ROWS..];
            for column in 0..row_words {
                for (row, words) in rows.iter().zip(words.chunks_exact_mut(row_words)) {
                    words[column] = u32::from_le_bytes(all[column * outputs + row]);
                }
            }
        });
        let (zeros, scales) = (zeros.bytes.as_chunks::<4>().0, scales.bytes.as_chunks::<2>().0);
        let (pack, mask) = (settings.pack(), ((1u32 << settings.bits) - 1) as u8);
        let own_zeros = parts.zeros.chunks_exact_mut(groups);
        let own_scales = parts.scales.as_chunks_mut::<2>().0.chunks_exact_mut(groups);
        for ((row, own_zeros), own_scales) in rows.iter().zip(own_zeros).zip(own_scales) {
            for group in 0..groups {
                let word = u32::from_le_bytes(zeros[group * (outputs / pack) + row / pack]);
                let word = word.wrapping_add(settings.zero_offset());
                own_zeros[group] = (word >> (row % pack * settings.bits)) as u8 & mask;
                own_scales[group] = scales[group * outputs + row];
            }
        }
        grouped
    }

    /// The values of these rows, f32 in little-endian bytes.
    pub(crate) fn values(&self, rows: std::ops::Range<usize>) -> Vec<u8> {
        let grouped = self.grouped(&rows.clone().collect::<Vec<_>>());
        let inputs = self.shape[1];
        let mut bytes = vec![0; rows.len() * inputs * 4];
        parallel_chunks(&mut bytes, 4 * inputs, |row, bytes| {
            let mut values = vec![0.0; inputs];
            grouped.dequantize(row, 0, &mut values);
            for (bytes, value) in bytes.as_chunks_mut().0.iter_mut().zip(&values) {
                *bytes = value.to_le_bytes();
            }
        });
        bytes
    }
}

/// The words of a tensor of 32-bit integers.
fn words(tensor: Tensor<'_>) -> impl Iterator<Item = u32> {
    tensor.bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word))
}
