//! PEFT adapters on a model in memory: put on for use, several of them together, or for more training, and saved again.
//!
//! Low-rank matrices of the blocks' linear layers stay beside the frozen weights. For use, everything else becomes part
//! of the weights when it is read; for training, whole copies become parameters.

use std::path::Path;

use danlu_formats::{AdapterConfig, Dtype, TensorInfo, WriteOptions, write_safetensors};
use danlu_kernels::elementwise::round_to_bf16;
use danlu_kernels::unit_rows::unit_rows_in_place;
use danlu_kernels::{Buffer, Precision};

use crate::adapter_folder::{AdapterFolder, BaseTensors, Change, PREFIX};
use crate::adapter_place::{LowRankPlace, Placement};
use crate::adapter_set::AdapterSet;
use crate::families::Packing;
use crate::layout::{FileTensor, Piece, file_tensors};
use crate::lora::{Adapter, stacked_rows};
use crate::model::Stored;
use crate::names::{self, EMBEDDING, Role, TensorId};
use crate::pissa::doubled;
use crate::save::little_endian;
use crate::{Error, Model, Module, ParameterId, Result};

/// Puts the adapter of `folder` onto a frozen model to train it further, and returns its configuration, for saving it
/// again with [`save_adapter`].
///
/// # Errors
/// A folder that is missing or damaged, a setting that cannot be followed or not be trained here, and any tensor that
/// does not fit the model; each named.
pub fn read_adapter(model: &mut Model, folder: &Path) -> Result<AdapterConfig> {
    let mut set = AdapterSet::open(&[folder], &model.config)?;
    let [adapter] = &set.folders[..] else { unreachable!("one folder was opened") };
    refuse_untrainable(adapter, &set.base)?;
    let trains_table = [set.base.names.embedding, set.base.names.head].into_iter().any(|name| {
        let changes = adapter.changes.get(name).into_iter().flatten();
        changes.into_iter().any(|change| matches!(change, Change::Whole { is_trained: true, .. }))
    });
    // They may be equal now and are trained apart.
    set.is_tied &= !trains_table || adapter.config.ensure_weight_tying;
    put(model, &set, Use::Train)?;
    let [adapter] = &set.folders[..] else { unreachable!("one folder was opened") };
    Ok(adapter.config.clone())
}

/// Puts the adapters of `folders` onto a frozen model for use without training: their sum.
///
/// # Errors
/// As [`read_adapter`], and adapters that cannot be added to each other.
pub fn apply_adapters(model: &mut Model, folders: &[&Path]) -> Result<()> {
    put(model, &AdapterSet::open(folders, &model.config)?, Use::Apply)
}

/// Makes the adapter of `folder` a part of a frozen model's weights, or where weights are not wanted of its shapes alone.
///
/// # Errors
/// As [`read_adapter`], and quantized weights, whose precision would change.
pub fn merge_adapter(model: &mut Model, folder: &Path, with_values: bool) -> Result<()> {
    let set = AdapterSet::open(&[folder], &model.config)?;
    for file in file_tensors(&model.config, &model.specs, model.config.family.names()) {
        let is_quantized = |piece: &Piece| match &model.stored[piece.tensor] {
            Stored::Blocks(kind, _) => kind.block_elements() > 1,
            Stored::Grouped(_) | Stored::Repacked(..) => true,
            _ => false,
        };
        if !set.changes(&file.name).is_empty() && file.pieces.iter().any(is_quantized) {
            return Err(Error::Message(format!(
                "`{}` cannot be merged into a quantized model while it is loaded (`{}` would change its precision); make a \
                 model of both with `danlu merge`, or give one adapter alone",
                folder.display(),
                file.name
            )));
        }
    }
    if !with_values {
        model.set_tables(set.vocab_size, set.is_tied);
        return Ok(());
    }
    put(model, &set, Use::Merge)
}

/// What adapters are put onto a model for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Low-rank matrices stay beside the weights, everything else becomes a part of them.
    Apply,
    /// What was trained becomes parameters.
    Train,
    /// Everything becomes a part of the weights.
    Merge,
}

/// Low-rank matrices that stay beside a layer's weight, with the adapters that they are of.
type Pairs<'a> = [(&'a AdapterFolder, &'a Change)];

fn put(model: &mut Model, set: &AdapterSet, purpose: Use) -> Result<()> {
    let trains = purpose == Use::Train;
    if !model.parameters.is_empty() {
        return Err(Error::Message(FROZEN.into()));
    }
    model.set_tables(set.vocab_size, set.is_tied);
    let family = model.config.family;
    let files = file_tensors(&model.config, &model.specs, family.names());
    let (mut placement, mut beside, mut carried) = (Placement::default(), Vec::new(), Vec::new());
    for file in &files {
        let changes = set.changes(&file.name);
        if changes.is_empty() {
            continue;
        }
        let place = linear_layer(model, file);
        let stays_beside = |change: &Change| match change {
            Change::LowRank { magnitude, .. } => match purpose {
                Use::Apply => place.is_some() && magnitude.is_none(),
                Use::Train => place.is_some(),
                Use::Merge => false,
            },
            _ => false,
        };
        let pairs: Vec<_> = changes.iter().copied().filter(|(_, change)| stays_beside(change)).collect();
        if let Some((layer, module)) = place
            && !pairs.is_empty()
        {
            placement.low_ranks.push(low_rank_place(layer, module, &pairs));
            beside.push(pairs);
        }
        let whole = changes.iter().find_map(|(_, change)| match change {
            Change::Whole { is_trained, .. } => Some(*is_trained),
            _ => None,
        });
        if let (true, Some(is_trained), [piece]) = (trains, whole, &file.pieces[..]) {
            let list = if is_trained { &mut placement.whole } else { &mut carried };
            list.push((piece.tensor, format!("{PREFIX}{}", file.name)));
            if is_trained {
                continue;
            }
        }
        change_frozen(model, set, file, &stays_beside)?;
        // The table holds them already, and the parameter starts as they are.
        if let (true, [piece]) = (trains, &file.pieces[..]) {
            let rows = changes.iter().filter_map(|(_, change)| match change {
                Change::Rows { stored, ids } => Some((stored, ids)),
                _ => None,
            });
            placement.rows.extend(rows.map(|(stored, ids)| {
                let ids = ids.iter().map(|id| *id as u32).collect();
                (piece.tensor, ids, stored.clone())
            }));
        }
    }
    if trains
        && set.is_tied
        && set
            .changes(set.base.names.head)
            .iter()
            .any(|(folder, _)| folder.changes.contains_key(set.base.names.head))
    {
        carried.push((EMBEDDING, format!("{PREFIX}{}", set.base.names.head)));
    }
    if let ([folder], true) = (&set.folders[..], trains) {
        placement.dropout = folder.config.lora_dropout;
    }
    let placed = model.place(&placement, true)?;
    model.adapters.carried = carried;
    for (pairs, ids) in beside.iter().zip(&placed.low_ranks) {
        fill(model, pairs, ids)?;
    }
    for ((tensor, name), id) in placement.whole.iter().zip(&placed.whole) {
        let name = name.strip_prefix(PREFIX).unwrap_or(name);
        let width = model.specs[*tensor].width();
        let range = model.parameters.list()[id.0].range.clone();
        let values = &mut model.parameters.values_mut().host_mut()[range];
        if let Some(change) = set.load(name, width)? {
            change.apply(0, values)?;
        }
    }
    // Rows as the file has them: a table may round them.
    for ((_, _, stored), id) in placement.rows.iter().zip(&placed.rows) {
        for folder in &set.folders {
            let values = folder.values(stored)?;
            model.set_parameter(*id, &values);
        }
    }
    Ok(())
}

/// The linear layer of a block that a tensor of the file is the weight of.
pub(crate) fn linear_layer(model: &Model, file: &FileTensor) -> Option<(usize, Module)> {
    let Role::Block(layer, part) = model.specs[file.pieces.first()?.tensor].role else { return None };
    Some((layer, Module::ALL.into_iter().find(|module| module.part() == part)?))
}

/// Makes what does not stay beside a frozen tensor a part of it.
fn change_frozen(
    model: &mut Model,
    set: &AdapterSet,
    file: &FileTensor,
    stays_beside: &dyn Fn(&Change) -> bool,
) -> Result<()> {
    let Some(first) = file.pieces.first() else { return Ok(()) };
    let width = model.specs[first.tensor].width();
    let Some(change) = set.load_some(&file.name, width, |change| !stays_beside(change))? else {
        return Ok(());
    };
    let is_unit_head = model.config.normalized_head && model.specs[first.tensor].role == Role::Head;
    if is_unit_head && !change.replaces_all() {
        return Err(Error::Message(format!(
            "this model uses its head with rows of length one, so `{}` cannot be adapted in memory; make a model of \
             both with `danlu merge`",
            file.name
        )));
    }
    let rows: usize = file.pieces.iter().map(|piece| piece.rows.len()).sum();
    let mut values = Vec::with_capacity(rows * width);
    if change.replaces_all() {
        values.resize(rows * width, 0.0);
    } else {
        for piece in &file.pieces {
            let range = piece.rows.start * width..piece.rows.end * width;
            model.values(piece.tensor, range, |part| {
                values.extend_from_slice(part);
                Ok(())
            })?;
        }
    }
    change.apply(0, &mut values)?;
    if is_unit_head {
        let mut buffer = Buffer::from_host(&values);
        unit_rows_in_place(buffer.first_mut(values.len()), width);
        values.copy_from_slice(buffer.host());
    }
    let mut tensors: Vec<TensorId> = file.pieces.iter().map(|piece| piece.tensor).collect();
    tensors.sort_unstable();
    tensors.dedup();
    for tensor in tensors {
        let mut own = Buffer::zeros(model.specs[tensor].elements());
        let mut row = 0;
        for piece in &file.pieces {
            let source = row * width..(row + piece.rows.len()) * width;
            if piece.tensor == tensor {
                let place = piece.rows.start * width..piece.rows.end * width;
                own.host_mut()[place].copy_from_slice(&values[source]);
            }
            row += piece.rows.len();
        }
        model.stored[tensor] = model.at_rest(tensor, own);
    }
    Ok(())
}

/// Room for the matrices of a layer: with the rank of all together, and the scale where it is that of one.
fn low_rank_place(layer: usize, module: Module, pairs: &Pairs) -> LowRankPlace {
    let rank = pairs.iter().map(|(_, change)| rank_and_scale(change).0).sum();
    let scale = if let [(_, change)] = pairs { rank_and_scale(change).1 } else { 1.0 };
    let is_scaled = |(_, change): &(_, &Change)| matches!(change, Change::LowRank { magnitude: Some(_), .. });
    LowRankPlace { layer, module, rank, scale, has_magnitude: pairs.iter().any(is_scaled) }
}

fn rank_and_scale(change: &Change) -> (usize, f32) {
    match change {
        Change::LowRank { rank, scale, .. } => (*rank, *scale as f32),
        _ => (0, 0.0),
    }
}

/// Reads A, B and lengths of a layer into its parameters: A and B of several adapters side by side, their scales in B.
fn fill(model: &mut Model, pairs: &Pairs, ids: &[Option<ParameterId>; 3]) -> Result<()> {
    let [Some(a), Some(b), lengths] = *ids else { return Ok(()) };
    let places = row_places(model, b);
    let [a, b] = [a, b].map(|id| model.parameters.list()[id.0].clone());
    let lengths = lengths.map(|id| model.parameters.list()[id.0].range.clone());
    let all = b.shape[1];
    let place = |row: usize| places.as_ref().map_or(row, |places| places[row]);
    let values = model.parameters.values_mut().host_mut();
    let mut before = 0;
    for (folder, change) in pairs {
        let Change::LowRank { a: stored_a, b: stored_b, rank, scale, magnitude, .. } = change else {
            continue;
        };
        let factor = if pairs.len() == 1 { 1.0 } else { *scale as f32 };
        let inputs = a.shape[1];
        let rows = a.range.start + before * inputs..a.range.start + (before + rank) * inputs;
        folder.read(stored_a, 0, &mut values[rows])?;
        for (row, stored) in folder.values(stored_b)?.chunks_exact(*rank).enumerate() {
            let columns = &mut values[b.range.start + place(row) * all + before..][..*rank];
            columns.iter_mut().zip(stored).for_each(|(value, stored)| *value = stored * factor);
        }
        if let (Some(lengths), Some(stored)) = (&lengths, magnitude) {
            for (row, stored) in folder.values(stored)?.into_iter().enumerate() {
                values[lengths.start + place(row)] = stored;
            }
        }
        before += rank;
    }
    Ok(())
}

impl Model {
    /// Gives embedding and head so many rows, and the head a weight of its own if it is no longer the embedding; whole
    /// copies then fill what was not there.
    pub(crate) fn set_tables(&mut self, vocab_size: usize, is_tied: bool) {
        if self.config.tie_word_embeddings && !is_tied {
            let head = self.stored[EMBEDDING].copy();
            self.config.tie_word_embeddings = false;
            self.stored.push(head);
        }
        self.config.vocab_size = vocab_size;
        self.specs = names::tensors(&self.config);
    }

    /// A frozen tensor of these values as it rests.
    pub(crate) fn at_rest(&self, tensor: TensorId, values: Buffer<f32>) -> Stored {
        if self.precision == Precision::F32 || self.specs[tensor].kind.is_vector() {
            return Stored::F32(values);
        }
        let mut rounded = Buffer::zeros(values.len());
        round_to_bf16(values.first(values.len()), rounded.first_mut(values.len()));
        Stored::Bf16(rounded)
    }
}

pub(crate) const FROZEN: &str = "adapters need a model whose weights are frozen";

/// Writes `adapter_config.json` and `adapter_model.safetensors` into the existing `folder`; `base` is the model that a
/// fresh adapter belongs to. One that was read keeps the name of a model on the hub.
pub fn save_adapter(model: &Model, config: &AdapterConfig, base: &str, folder: &Path) -> Result<()> {
    let kept = config.base_model_name_or_path.clone().filter(|name| is_hub_id(name));
    let base = kept.unwrap_or_else(|| base.into());
    let start = model.adapters.start.as_ref();
    let config = if start.is_some() { doubled(config) } else { config.clone() };
    AdapterConfig { base_model_name_or_path: Some(base), ..config }.write(folder)?;
    let parameters = model.parameters();
    let carried = &model.adapters.carried;
    let half = |name: &str| match start {
        Some(_) if name.ends_with(".lora_A.weight") => Half::Rows,
        Some(_) if name.ends_with(".lora_B.weight") => Half::Columns,
        _ => Half::None,
    };
    let trained = parameters.list().iter().map(|parameter| {
        let shape = match (half(&parameter.name), &parameter.shape[..]) {
            (Half::Rows, [rank, inputs]) => vec![2 * rank, *inputs],
            (Half::Columns, [outputs, rank]) => vec![*outputs, 2 * rank],
            (_, shape) => shape.to_vec(),
        };
        (&parameter.name, shape)
    });
    let others = carried.iter().map(|(tensor, name)| (name, model.specs[*tensor].shape.clone()));
    let infos: Vec<TensorInfo> = trained
        .chain(others)
        .map(|(name, shape)| TensorInfo { name: name.clone(), dtype: Dtype::F32, shape })
        .collect();
    let options = WriteOptions { base_name: "adapter_model".into(), ..WriteOptions::default() };
    write_safetensors(folder, &options, &infos, |index, sink| -> Result<()> {
        let Some(parameter) = parameters.list().get(index) else {
            let (tensor, _) = &carried[index - parameters.list().len()];
            let all = 0..model.specs[*tensor].elements();
            return model.values(*tensor, all, |values| Ok(sink.write(&little_endian(values))?));
        };
        let values = &parameters.values().host()[parameter.range.clone()];
        // Only that of low-rank matrices is kept.
        let start = start.and_then(|start| start.host().get(parameter.range.clone())).unwrap_or_default();
        let places = row_places(model, ParameterId(index));
        match (half(&parameter.name), places) {
            (Half::Rows, _) => {
                sink.write(&little_endian(values))?;
                Ok(sink.write(&little_endian(start))?)
            }
            (Half::None, None) => Ok(sink.write(&little_endian(values))?),
            (half, places) => {
                let rank = parameter.shape.get(1).copied().unwrap_or(1);
                let rows = places.unwrap_or_else(|| (0..parameter.shape[0]).collect());
                let mut stored = Vec::with_capacity(2 * values.len());
                for row in rows {
                    stored.extend_from_slice(&values[row * rank..][..rank]);
                    if let Half::Columns = half {
                        stored.extend(start[row * rank..][..rank].iter().map(|value| -value));
                    }
                }
                Ok(sink.write(&little_endian(&stored))?)
            }
        }
    })
}

/// Where what an adapter started with stands beside what became of it.
#[derive(Clone, Copy)]
enum Half {
    None,
    Rows,
    Columns,
}

/// `org/name`, and no path that is here.
pub fn is_hub_id(name: &str) -> bool {
    let is_word = |word: &str| {
        !word.is_empty()
            && !word.starts_with('.')
            && word.chars().all(|letter| letter.is_alphanumeric() || "-_.".contains(letter))
    };
    let words = name.split_once('/');
    words.is_some_and(|(owner, model)| is_word(owner) && is_word(model)) && !Path::new(name).exists()
}

/// For B and lengths of layers that files have as one tensor with rows in another order: where each of its rows is here.
fn row_places(model: &Model, id: ParameterId) -> Option<Vec<usize>> {
    let packing = model.config.family.names().packing.filter(|packing| *packing != Packing::Stacked)?;
    let is_of = |adapter: &Adapter| {
        adapter.b == id || adapter.magnitude.as_ref().is_some_and(|magnitude| magnitude.id == id)
    };
    let mut layers = 0..model.config.num_hidden_layers;
    let is_packed = layers.any(|layer| model.adapters.get(layer, Module::Query).is_some_and(is_of));
    is_packed.then(|| stacked_rows(&model.config, packing))
}

/// PEFT's names of A and B of the layer at `path`.
pub(crate) fn names(path: &str) -> [String; 2] {
    ["lora_A", "lora_B"].map(|matrix| format!("{PREFIX}{path}.{matrix}.weight"))
}

/// Refuses what can be used but not be trained here.
fn refuse_untrainable(adapter: &AdapterFolder, base: &BaseTensors) -> Result<()> {
    let merge = "this can be used and merged, but not be trained further here";
    for (name, change) in
        adapter.changes.iter().flat_map(|(name, all)| all.iter().map(move |one| (name, one)))
    {
        let field = match change {
            Change::LowRank { is_embedding: true, .. } => "target_modules",
            Change::LowRank { .. } if base.is_table(name) => "target_modules",
            Change::Rows { .. } if base.is_tied && name == base.names.head => "trainable_token_indices",
            Change::Whole { .. } if name.ends_with(".bias") => "bias",
            _ => continue,
        };
        return Err(adapter.refuse(field, &format!("{merge} (`{name}`)")));
    }
    Ok(())
}
