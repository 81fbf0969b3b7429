//! A model into a folder of GPTQ: block by block, with the inputs that the blocks before it, quantized already, make of a
//! calibration set. Memory holds the quantized blocks, one block in f32, its Hessians and the calibration set's residual
//! stream.
//!
//! Within a block, what runs first is quantized first: queries, keys and values, then the output, gate and up, down.

use std::ops::ControlFlow;
use std::path::Path;

use danlu_formats::{AtomicFolder, Dtype, TensorInfo, TensorSink, WriteOptions, write_safetensors};
use danlu_kernels::unit_rows::unit_rows_in_place;
use danlu_kernels::{Buffer, Precision, Value};
use danlu_tokenizer::Tokenizer;

use super::{CHUNK, Converted, Input, Work, add_share};
use crate::activations::{Activations, BlockActivations, Buffers, Keep, with_buffers};
use crate::forward::Rows;
use crate::gptq::{Gptq, PARTS, SETTINGS};
use crate::gptq_solver::Hessian;
use crate::layout::{FileTensor, file_tensors};
use crate::model::Stored;
use crate::names::{self, Extra, Part, Role, TensorId, block_tensor, extra_tensor};
use crate::save::{write_description, write_json};
use crate::{Config, Error, Family, Model, Module, PackedTokens, Result};

/// Tokens that run through a block together, about.
const BATCH: usize = 1024;
/// Words of a row that are turned at once: a cache line.
const LINE: usize = 16;

/// How to quantize.
pub struct GptqOptions {
    /// The grid.
    pub settings: Gptq,
    /// What is added to the Hessian's diagonal, as a share of its mean.
    pub damp_percent: f64,
    /// Sequences of token ids that the model should go on treating alike. Without any, values are rounded to nearest.
    pub calibration: Vec<Vec<u32>>,
    /// How the model computes the inputs of its layers.
    pub precision: Precision,
}

/// Writes the model at `input` to the folder `output` with the linear layers of its blocks in GPTQ's layout and
/// everything else in f16; as [`super::convert`] otherwise.
///
/// # Errors
/// As [`super::convert`]; layers that do not divide into groups, sequences that the model cannot run, weights that the grid
/// cannot hold.
pub fn quantize_gptq(
    input: &Path,
    output: &Path,
    options: &GptqOptions,
    tokenizer: Option<Tokenizer>,
    progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<Converted> {
    let Input { checkpoint, contents, tokenizer } = Input::open(input, tokenizer, None)?;
    let config = &contents.config;
    let batches = batches(&options.calibration);
    // A pass of a batch and the solution of a layer count as much as a stretch of values that is written.
    let steps = config.num_hidden_layers * (PASSES * batches.len() + Module::ALL.len());
    let total = (steps * CHUNK) as u64 + contents.elements();
    let mut work = Work::new(&checkpoint, &contents, total, progress);
    work.check_grid(options.settings)?;
    if checkpoint.source().gptq().is_some() {
        work.notes.push("it was quantized before (GPTQ), so it loses more than from the original".into());
    }
    let mut model = Model::frozen_zeros(config.clone(), options.precision, None);
    for sequence in &options.calibration {
        model.check_ids(sequence)?;
        model.check_length("a calibration sequence", sequence.len(), "lower `--calibration-length`")?;
    }
    let longest = batches.iter().map(PackedTokens::len).max().unwrap_or(1);
    let mut activations = Activations::new(&model, longest, Keep::Nothing);
    with_buffers!(&mut activations.0, buffers => work.quantize(&mut model, &batches, options, buffers)?);
    drop(activations);
    let written = work.gptq_folder(output, &model, options, tokenizer.as_ref())?;
    let (types, notes) = (work.types, work.notes);
    Ok(Converted { source: checkpoint.source().name(), config: written, types, notes, tokenizer })
}

/// Passes over the calibration set for each block.
const PASSES: usize = 5;

/// Sequences one behind the other, in rows of about so many tokens.
fn batches(sequences: &[Vec<u32>]) -> Vec<PackedTokens> {
    let (mut batches, mut batch, mut tokens) = (Vec::new(), Vec::new(), 0);
    for sequence in sequences.iter().filter(|sequence| !sequence.is_empty()) {
        if tokens > 0 && tokens + sequence.len() > BATCH {
            batches.push(PackedTokens::new(std::mem::take(&mut batch)));
            tokens = 0;
        }
        tokens += sequence.len();
        batch.push(sequence.as_slice());
    }
    if tokens > 0 {
        batches.push(PackedTokens::new(batch));
    }
    batches
}

impl Work<'_> {
    /// Whether files can have all layers in this grid.
    fn check_grid(&self, settings: Gptq) -> Result<()> {
        let family = self.config.family;
        if matches!(family, Family::BabyLlama2 | Family::MiniMindV1) {
            let message =
                "GPTQ folders are for models that transformers has: convert this one to safetensors first";
            return Err(Error::Message(message.into()));
        }
        for file in file_tensors(self.config, self.specs, family.names()) {
            let [outputs, inputs] = file.shape[..] else { continue };
            if !self.is_linear(&file) {
                continue;
            }
            let pack = settings.pack();
            if !outputs.is_multiple_of(pack) || !inputs.is_multiple_of(pack) {
                let reason =
                    format!("its {outputs} outputs and {inputs} inputs do not fill words of {pack} quants");
                return Err(self.tensor_error(&file.name, reason));
            }
            if let Some(size) = settings.group_size.filter(|size| !inputs.is_multiple_of(*size)) {
                let whole: Vec<String> = [128, 64, 32, 16, 8]
                    .iter()
                    .filter(|size| inputs.is_multiple_of(**size))
                    .map(usize::to_string)
                    .collect();
                let reason = format!(
                    "its {inputs} inputs are not whole groups of {size}, which other programs need; a `--group-size` of \
                     {} or -1 (one group) is possible here",
                    whole.join(", ")
                );
                return Err(self.tensor_error(&file.name, reason));
            }
        }
        Ok(())
    }

    fn tensor_error(&self, name: &str, reason: String) -> Error {
        Error::Tensor { path: self.checkpoint.path().into(), name: name.into(), reason }
    }

    fn is_linear(&self, file: &FileTensor) -> bool {
        let role = self.specs[file.pieces[0].tensor].role;
        matches!(role, Role::Block(_, part) if !matches!(part, Part::InputNorm | Part::PostNorm))
    }

    /// Reads a tensor as the model computes with it.
    fn load(&self, model: &mut Model, id: TensorId) -> Result<()> {
        let spec = &self.specs[id];
        let mut values = Buffer::zeros(spec.elements());
        let rows = 0..spec.shape[0];
        self.checkpoint.read(self.layout, id, spec, self.config, rows, values.host_mut())?;
        self.checkpoint.drop_pages(self.layout, id);
        if self.config.normalized_head && spec.role == Role::Head {
            unit_rows_in_place(values.first_mut(spec.elements()), spec.width());
        }
        model.stored[id] = Stored::F32(values);
        Ok(())
    }

    /// Quantizes the linear layers of all blocks; the model keeps nothing else but vectors.
    fn quantize<T: Value>(
        &mut self,
        model: &mut Model,
        batches: &[PackedTokens],
        options: &GptqOptions,
        buffers: &mut Buffers<T>,
    ) -> Result<()> {
        let config = self.config;
        let (d, q, f) = (config.hidden_size, config.query_size(), config.intermediate_size);
        let Buffers { blocks, scratch, rotary, .. } = buffers;
        let Some(BlockActivations { saved, keys, values }) = blocks.first_mut() else { return Ok(()) };
        self.load(model, names::EMBEDDING)?;
        let mut streams = Vec::new();
        for batch in batches {
            let mut x = Buffer::zeros(batch.len() * d);
            model.embed(batch.ids(), x.first_mut(batch.len() * d));
            streams.push(x);
        }
        model.stored[names::EMBEDDING] =
            Stored::zeros(&self.specs[names::EMBEDDING], options.precision, None);
        for layer in 0..config.num_hidden_layers {
            let extras = Module::ALL.map(Extra::Bias).into_iter().chain([Extra::QueryNorm, Extra::KeyNorm]);
            let extras = extras.filter_map(|extra| extra_tensor(config, layer, extra));
            let parts = Part::ALL.map(|part| block_tensor(config, layer, part));
            for id in parts.into_iter().chain(extras) {
                self.load(model, id)?;
            }
            let mut hessian = Hessian::new(d);
            for x in &streams {
                model.norm_input(layer, x.first(x.len()), saved, scratch);
                hessian.add(scratch.normed.first(x.len()));
                self.advance(CHUNK)?;
            }
            self.replace(model, layer, &[Module::Query, Module::Key, Module::Value], hessian, options)?;

            let mut hessian = Hessian::new(q);
            let mut attended: Vec<Buffer<T>> = Vec::new();
            for (batch, x) in batches.iter().zip(&streams) {
                rotary.place(config, batch.sequences().iter().map(|own| (0..own.keys.len(), own.keys.len())));
                let rows = Rows { rotary, sequences: batch.sequences(), follows: &[], first_key: 0 };
                model.norm_input(layer, x.first(x.len()), saved, scratch);
                model.attend(layer, rows, saved, [&mut *keys, &mut *values], scratch);
                hessian.add(saved.attention.first(batch.len() * q));
                attended.push(Buffer::from_host(&saved.attention.host()[..batch.len() * q]));
                self.advance(CHUNK)?;
            }
            self.replace(model, layer, &[Module::Output], hessian, options)?;

            let mut hessian = Hessian::new(d);
            for ((x, batch), attended) in streams.iter_mut().zip(batches).zip(attended) {
                saved.attention.host_mut()[..attended.len()].copy_from_slice(attended.host());
                model.add_attention(layer, x.first(x.len()), saved, scratch);
                x.host_mut().copy_from_slice(&saved.middle.host()[..batch.len() * d]);
                model.norm_middle(layer, batch.len(), saved, scratch);
                hessian.add(scratch.normed.first(batch.len() * d));
                self.advance(CHUNK)?;
            }
            self.replace(model, layer, &[Module::Gate, Module::Up], hessian, options)?;

            let mut hessian = Hessian::new(f);
            for (x, batch) in streams.iter().zip(batches) {
                saved.middle.host_mut()[..x.len()].copy_from_slice(x.host());
                model.norm_middle(layer, batch.len(), saved, scratch);
                model.gate_and_up(layer, batch.len(), saved, scratch);
                hessian.add(scratch.product.first(batch.len() * f));
                self.advance(CHUNK)?;
            }
            self.replace(model, layer, &[Module::Down], hessian, options)?;

            for (x, batch) in streams.iter_mut().zip(batches) {
                saved.middle.host_mut()[..x.len()].copy_from_slice(x.host());
                model.norm_middle(layer, batch.len(), saved, scratch);
                model.gate_and_up(layer, batch.len(), saved, scratch);
                let length = x.len();
                model.add_feed_forward(layer, batch.len(), saved, scratch, x.first_mut(length));
                self.advance(CHUNK)?;
            }
        }
        Ok(())
    }

    /// Puts quantized layers in the place of those of a block.
    fn replace(
        &mut self,
        model: &mut Model,
        layer: usize,
        modules: &[Module],
        hessian: Hessian,
        options: &GptqOptions,
    ) -> Result<()> {
        let solver = hessian.solve(options.settings, options.damp_percent);
        for module in modules {
            let id = block_tensor(self.config, layer, module.part());
            let name = &self.specs[id].name;
            let unusable =
                "what it sees of the calibration text is not finite: the model's weights are damaged";
            let solver = solver.as_ref().ok_or_else(|| self.tensor_error(name, unusable.into()))?;
            let Stored::F32(values) = &model.stored[id] else { unreachable!("the block was loaded") };
            let reason = "a weight is not finite, or beyond what f16 scales hold";
            let grouped =
                solver.quantize(values.host()).ok_or_else(|| self.tensor_error(name, reason.into()))?;
            model.stored[id] = Stored::Grouped(grouped);
            self.advance(CHUNK)?;
        }
        Ok(())
    }

    fn gptq_folder(
        &mut self,
        output: &Path,
        model: &Model,
        options: &GptqOptions,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<Config> {
        let settings = options.settings;
        let files = file_tensors(self.config, self.specs, self.config.family.names());
        let mut infos = Vec::new();
        // Which tensor of the model's files each is, and which part of it.
        let mut places = Vec::new();
        for (index, file) in files.iter().enumerate() {
            if !self.is_linear(file) {
                infos.push(TensorInfo {
                    name: file.name.clone(),
                    dtype: Dtype::F16,
                    shape: file.shape.clone(),
                });
                places.push((index, None));
                continue;
            }
            let (outputs, inputs) = (file.shape[0], file.shape[1]);
            let (pack, groups) = (settings.pack(), settings.groups(inputs));
            let stem = file.name.trim_end_matches(".weight");
            let shapes = [
                vec![inputs / pack, outputs],
                vec![groups, outputs / pack],
                vec![groups, outputs],
                vec![inputs],
            ];
            for (part, (end, shape)) in PARTS.iter().zip(shapes).enumerate() {
                let dtype = if part == 2 { Dtype::F16 } else { Dtype::I32 };
                infos.push(TensorInfo { name: format!("{stem}{end}"), dtype, shape });
                places.push((index, Some(part)));
            }
        }
        let folder = AtomicFolder::create(output)?;
        write_safetensors(folder.path(), &WriteOptions::default(), &infos, |place, sink| {
            match places[place] {
                (file, None) => self.give(&files[file], &infos[place], sink),
                (file, Some(part)) => {
                    add_share(
                        &mut self.types,
                        infos[place].dtype.name(),
                        1,
                        infos[place].byte_length().unwrap_or(0) as u64,
                    );
                    write_part(model, &files[file], settings, part, sink)
                }
            }
        })?;
        let mut config = self.config.clone();
        let described = settings.to_json(options.damp_percent);
        config.other_fields.insert("quantization_config".into(), described.clone());
        write_description(&config, "float16", folder.path())?;
        write_json(&folder.path().join(SETTINGS), &described)?;
        self.companions(folder.path(), tokenizer, true)?;
        folder.commit()?;
        Ok(config)
    }
}

/// Writes one of the tensors that a quantized layer is.
fn write_part(
    model: &Model,
    file: &FileTensor,
    settings: Gptq,
    part: usize,
    sink: &mut TensorSink<'_>,
) -> Result<()> {
    let [outputs, inputs] = file.shape[..] else { unreachable!("matrices have two dimensions") };
    let pieces: Vec<_> = file
        .pieces
        .iter()
        .map(|piece| match &model.stored[piece.tensor] {
            Stored::Grouped(grouped) => (grouped, piece.rows.clone()),
            _ => unreachable!("all linear layers were quantized"),
        })
        .collect();
    // The file's rows: which weight and which of its rows.
    let rows = || pieces.iter().flat_map(|(grouped, rows)| rows.clone().map(move |row| (*grouped, row)));
    let groups = settings.groups(inputs);
    let mut bytes = Vec::new();
    match part {
        0 => {
            let row_words = inputs / settings.pack();
            for first in (0..row_words).step_by(LINE) {
                let count = LINE.min(row_words - first);
                bytes.resize(count * outputs * 4, 0);
                let words = bytes.as_chunks_mut::<4>().0;
                for (place, (grouped, row)) in rows().enumerate() {
                    let own = &grouped.words()[row * row_words + first..][..count];
                    own.iter()
                        .enumerate()
                        .for_each(|(word, own)| words[word * outputs + place] = own.to_le_bytes());
                }
                sink.write(&bytes)?;
            }
            return Ok(());
        }
        1 => {
            for group in 0..groups {
                let zeros: Vec<u8> =
                    rows().map(|(grouped, row)| grouped.zero_points()[row * groups + group]).collect();
                for zeros in zeros.chunks_exact(settings.pack()) {
                    let word =
                        zeros.iter().rev().fold(0u32, |word, zero| word << settings.bits | u32::from(*zero));
                    bytes.extend(word.wrapping_sub(settings.zero_offset()).to_le_bytes());
                }
            }
        }
        2 => {
            for group in 0..groups {
                for (grouped, row) in rows() {
                    bytes.extend_from_slice(&grouped.scales()[2 * (row * groups + group)..][..2]);
                }
            }
        }
        _ => {
            let (grouped, _) = pieces[0];
            bytes.extend((0..inputs).flat_map(|column| (grouped.group_of(column) as i32).to_le_bytes()));
        }
    }
    Ok(sink.write(&bytes)?)
}
