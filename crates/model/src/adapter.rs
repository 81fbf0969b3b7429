//! PEFT adapter folders: reading one onto a frozen model, writing the trained one.

use std::path::Path;

use danlu_formats::{
    AdapterConfig, Bias, Dtype, InitLoraWeights, ModuleSelection, SafetensorsFolder, TensorInfo,
    WriteOptions, write_safetensors,
};

use crate::checkpoint::{block_type, to_f32};
use crate::families::Packing;
use crate::lora::stacked_rows;
use crate::names::block_tensor;
use crate::save::little_endian;
use crate::{Error, Family, LoraOptions, Model, Module, ParameterId, Result};

const PREFIX: &str = "base_model.model.";

/// Puts the adapter of `folder` onto a frozen model and returns its configuration, for saving it again after more
/// training.
///
/// # Errors
/// A folder that is missing or damaged, a setting that changes the arithmetic and is not known here, and any tensor
/// that does not fit the model; each named.
pub fn read_adapter(model: &mut Model, folder: &Path) -> Result<AdapterConfig> {
    let config = AdapterConfig::read(folder)?;
    refuse_unknown_arithmetic(&config, folder)?;
    let tensors = SafetensorsFolder::open_named(folder, "adapter_model")?;
    let family = model.config().family;
    let mut wanted = Vec::new();
    for layer in 0..model.config().num_hidden_layers {
        for module in Module::ALL.into_iter().filter(|module| !family.span(*module).is_empty()) {
            let path = family.names().module(layer, module);
            let [a, b] = names(&path);
            let (Some(a), Some(_)) = (tensors.tensor(&a), tensors.tensor(&b)) else { continue };
            let spec = &model.specs[block_tensor(&model.config, layer, module.part())];
            let Some(&rank) = a.info.shape.first().filter(|rank| **rank > 0) else { continue };
            if a.info.shape != [rank, spec.shape[1]] {
                let reason = format!(
                    "expected {} inputs for this model, found shape {:?}",
                    spec.shape[1], a.info.shape
                );
                return Err(Error::Tensor { path: folder.into(), name: a.info.name.clone(), reason });
            }
            let alpha = pattern(&config.alpha_pattern, &path).unwrap_or(config.lora_alpha);
            let divisor = if config.use_rslora { (rank as f64).sqrt() } else { rank as f64 };
            wanted.push((layer, module, rank, (alpha / divisor) as f32));
        }
    }
    model.place_adapters(&wanted)?;
    let parameters = model.parameters().list().to_vec();
    let leftover: Vec<String> = tensors
        .names()
        .filter(|name| !parameters.iter().any(|parameter| parameter.name == *name))
        .map(str::to_owned)
        .collect();
    if !leftover.is_empty() {
        return Err(Error::LeftoverTensors { path: folder.into(), names: leftover });
    }
    if parameters.is_empty() {
        return Err(Error::Message(format!("`{}` holds an adapter without a tensor", folder.display())));
    }
    for (index, parameter) in parameters.into_iter().enumerate() {
        let error =
            |reason: String| Error::Tensor { path: folder.into(), name: parameter.name.clone(), reason };
        let tensor = tensors.tensor(&parameter.name).ok_or_else(|| error("missing".into()))?;
        if tensor.info.shape != parameter.shape {
            let found = &tensor.info.shape;
            return Err(error(format!(
                "expected shape {:?} for this model, found {found:?}",
                parameter.shape
            )));
        }
        let kind = block_type(tensor.info.dtype)
            .ok_or_else(|| error(format!("type `{}` is not one of F32, F16, BF16", tensor.info.dtype)))?;
        let places = row_places(model, ParameterId(index));
        let values = &mut model.parameters_mut().values_mut().host_mut()[parameter.range.clone()];
        to_f32(kind, tensor.bytes, values).map_err(error)?;
        if let Some(places) = places {
            let (stored, rank) = (values.to_vec(), parameter.shape[1]);
            for (row, place) in stored.chunks_exact(rank).zip(places) {
                values[place * rank..][..rank].copy_from_slice(row);
            }
        }
    }
    Ok(config)
}

impl LoraOptions {
    /// The configuration of a fresh adapter of a model of this family.
    pub fn adapter_config(&self, family: Family) -> AdapterConfig {
        let modules = family.target_names(&self.modules).into_iter().map(str::to_owned).collect();
        AdapterConfig {
            task_type: Some("CAUSAL_LM".into()),
            r: self.rank,
            lora_alpha: self.alpha,
            target_modules: Some(ModuleSelection::Names(modules)),
            ..AdapterConfig::default()
        }
    }
}

/// Writes `adapter_config.json` and `adapter_model.safetensors` into the existing `folder`; `base` is the model that the
/// adapter belongs to.
pub fn save_adapter(model: &Model, config: &AdapterConfig, base: &str, folder: &Path) -> Result<()> {
    AdapterConfig { base_model_name_or_path: Some(base.into()), ..config.clone() }.write(folder)?;
    let parameters = model.parameters();
    let infos: Vec<TensorInfo> = parameters
        .list()
        .iter()
        .map(|parameter| TensorInfo {
            name: parameter.name.clone(),
            dtype: Dtype::F32,
            shape: parameter.shape.clone(),
        })
        .collect();
    let options = WriteOptions { base_name: "adapter_model".into(), ..WriteOptions::default() };
    write_safetensors(folder, &options, &infos, |index, sink| -> Result<()> {
        let parameter = &parameters.list()[index];
        let values = &parameters.values().host()[parameter.range.clone()];
        let Some(places) = row_places(model, ParameterId(index)) else {
            return Ok(sink.write(&little_endian(values))?);
        };
        let rank = parameter.shape[1];
        let stored: Vec<f32> =
            places.into_iter().flat_map(|place| &values[place * rank..][..rank]).copied().collect();
        Ok(sink.write(&little_endian(&stored))?)
    })
}

/// For B of layers that files have as one tensor with rows in another order: where each of its rows is here.
fn row_places(model: &Model, id: ParameterId) -> Option<Vec<usize>> {
    let packing = model.config.family.names().packing.filter(|packing| *packing != Packing::Stacked)?;
    let of_layer = |layer| model.adapters.get(layer, Module::Query).map(|adapter| adapter.b);
    let is_packed = (0..model.config.num_hidden_layers).any(|layer| of_layer(layer) == Some(id));
    is_packed.then(|| stacked_rows(&model.config, packing))
}

/// PEFT's names of A and B of the layer at `path`.
pub(crate) fn names(path: &str) -> [String; 2] {
    ["lora_A", "lora_B"].map(|matrix| format!("{PREFIX}{path}.{matrix}.weight"))
}

/// The value of a module by its name or the end of its path, as PEFT's patterns without special characters work.
fn pattern(values: &std::collections::BTreeMap<String, f64>, path: &str) -> Option<f64> {
    let matches = |key: &str| path == key || path.strip_suffix(key).is_some_and(|rest| rest.ends_with('.'));
    values.iter().find(|(key, _)| matches(key)).map(|(_, value)| *value)
}

fn refuse_unknown_arithmetic(config: &AdapterConfig, folder: &Path) -> Result<()> {
    let is_expression = |key: &&String| !key.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '.');
    let pattern = config.alpha_pattern.keys().find(is_expression).cloned();
    // These methods take the adapter's start out of the base weights when the adapter is loaded.
    let changes_base = matches!(&config.init_lora_weights, InitLoraWeights::Method(method)
        if ["pissa", "olora", "corda", "loftq"].iter().any(|name| method.to_lowercase().starts_with(name)));
    let refusals = [
        ("use_dora", config.use_dora),
        ("fan_in_fan_out", config.fan_in_fan_out),
        ("lora_bias", config.lora_bias),
        ("bias", config.bias != Bias::None),
        ("modules_to_save", config.modules_to_save.as_ref().is_some_and(|modules| !modules.is_empty())),
        ("trainable_token_indices", config.trainable_token_indices.is_some()),
        ("alpha_pattern", pattern.is_some()),
        ("layer_replication", config.layer_replication.is_some()),
        ("target_parameters", config.target_parameters.is_some()),
        ("init_lora_weights", changes_base),
    ];
    match refusals.iter().find(|(_, used)| *used) {
        Some((field, _)) => Err(Error::Config {
            path: folder.join("adapter_config.json"),
            field: (*field).into(),
            reason: "this setting is not supported; expected a plain LoRA adapter of the linear layers"
                .into(),
        }),
        None => Ok(()),
    }
}
