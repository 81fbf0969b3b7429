//! Training a few layers of a model whose others stay frozen, chosen as LLaMA-Factory's `freeze` does.

use std::path::Path;

use crate::adapter_place::Placement;
use crate::layout::file_tensors;
use crate::names::Role;
use crate::open::exact_values;
use crate::{Error, Model, Result};

/// Which layers are trained.
#[derive(Clone, Debug, PartialEq)]
pub struct FreezeOptions {
    /// How many of the last blocks; below 0, of the first.
    pub layers: i64,
    /// Modules of these blocks, such as `self_attn` or `mlp.up_proj`; `all` for every one.
    pub modules: Vec<String>,
    /// Modules outside the blocks.
    pub extra: Vec<String>,
}

impl Model {
    /// Makes the tensors that `options` chooses of a frozen model trainable, with the values that they have in the files of
    /// the model at `path`, not rounded as frozen ones are; for plans, with shapes alone.
    ///
    /// # Errors
    /// A name that fits nothing, with what there is; nothing to train.
    pub fn train_layers(&mut self, options: &FreezeOptions, path: Option<&Path>) -> Result<()> {
        let names = self.config.family.names();
        let files = file_tensors(&self.config, &self.specs, names);
        let blocks = self.config.num_hidden_layers;
        let count = usize::try_from(options.layers.unsigned_abs()).unwrap_or(usize::MAX).min(blocks);
        let chosen = if options.layers > 0 { blocks - count..blocks } else { 0..count };
        let is_in = |rest: &str, module: &str| {
            rest.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let (mut inside, mut outside) = (Vec::new(), Vec::new());
        let mut placement = Placement::default();
        let mut found = vec![false; options.modules.len() + options.extra.len()];
        for file in &files {
            let Some(piece) = file.pieces.first() else { continue };
            let layer = match self.specs[piece.tensor].role {
                Role::Block(layer, _) | Role::Extra(layer, _) => Some(layer),
                _ => None,
            };
            let prefix = layer.map_or_else(String::new, |layer| format!("{}{layer}.", names.blocks));
            let rest = file.name.strip_prefix(&prefix).unwrap_or(&file.name);
            let (module, wanted, first) = match layer {
                Some(_) => (rest.split('.').next().unwrap_or(rest), &options.modules, 0),
                None => (rest.rsplit('.').nth(1).unwrap_or(rest), &options.extra, options.modules.len()),
            };
            let there = if layer.is_some() { &mut inside } else { &mut outside };
            if !there.contains(&module.to_owned()) {
                there.push(module.to_owned());
            }
            let mut is_wanted = false;
            for (index, name) in wanted.iter().enumerate() {
                let fits = match layer {
                    Some(_) => name == "all" || is_in(rest, name),
                    None => name == module,
                };
                found[first + index] |= fits;
                is_wanted |= fits;
            }
            if is_wanted && layer.is_none_or(|layer| chosen.contains(&layer)) {
                let mut tensors: Vec<_> = file.pieces.iter().map(|piece| piece.tensor).collect();
                tensors.sort_unstable();
                tensors.dedup();
                let named = tensors.into_iter().map(|tensor| (tensor, self.specs[tensor].name.clone()));
                placement.whole.extend(named);
            }
        }
        if let Some(absent) = found.iter().position(|found| !found) {
            let (key, name, there) = match options.modules.get(absent) {
                Some(name) => ("freeze_trainable_modules", name, inside),
                None => ("freeze_extra_modules", &options.extra[absent - options.modules.len()], outside),
            };
            return Err(Error::Message(format!(
                "`{key}`: nothing there is called `{name}`; expected one of {}",
                there.join(", ")
            )));
        }
        if placement.whole.is_empty() {
            let reason =
                "0 blocks leave nothing to train; name a number, or modules in `freeze_extra_modules`";
            return Err(Error::Message(format!("`freeze_trainable_layers`: {reason}")));
        }
        let placed = self.place(&placement, path.is_some())?;
        let Some(path) = path else { return Ok(()) };
        let tensors: Vec<_> = placement.whole.iter().map(|(tensor, _)| *tensor).collect();
        let specs = self.specs.clone();
        exact_values(path, &tensors, &specs, |index, values| self.set_parameter(placed.whole[index], values))
    }
}
