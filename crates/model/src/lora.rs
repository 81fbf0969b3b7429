//! Low-rank adapters on the linear layers of the blocks: which layers, which rank, and where A and B are.

use std::ops::Range;

use danlu_kernels::linear::Lora;
use danlu_kernels::{View, ViewMut};

use crate::families::Packing;
use crate::layout::packed;
use crate::names::{Part, TensorId};
use crate::{Config, Family, ParameterId, Parameters};

/// A linear layer of a decoder block that can carry an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Module {
    /// `q_proj`
    Query,
    /// `k_proj`
    Key,
    /// `v_proj`
    Value,
    /// `o_proj`
    Output,
    /// `gate_proj`
    Gate,
    /// `up_proj`
    Up,
    /// `down_proj`
    Down,
}

impl Module {
    /// All of them, in the order of the forward.
    pub const ALL: [Module; 7] =
        [Module::Query, Module::Key, Module::Value, Module::Output, Module::Gate, Module::Up, Module::Down];

    /// The name that PEFT's `target_modules` has.
    pub fn name(self) -> &'static str {
        match self {
            Module::Query => "q_proj",
            Module::Key => "k_proj",
            Module::Value => "v_proj",
            Module::Output => "o_proj",
            Module::Gate => "gate_proj",
            Module::Up => "up_proj",
            Module::Down => "down_proj",
        }
    }

    pub(crate) fn part(self) -> Part {
        match self {
            Module::Query => Part::Query,
            Module::Key => Part::Key,
            Module::Value => Part::Value,
            Module::Output => Part::Output,
            Module::Gate => Part::Gate,
            Module::Up => Part::Up,
            Module::Down => Part::Down,
        }
    }
}

impl Family {
    /// The layers that a name of `target_modules` means: Llama's name or this family's own, or `all`.
    ///
    /// # Errors
    /// A name of no linear layer of the block, in a sentence.
    pub fn target_modules(self, name: &str) -> Result<Vec<Module>, String> {
        if name == "all" {
            return Ok(Module::ALL.to_vec());
        }
        let own = |module: &Module| self.names().target(*module) == name;
        let modules: Vec<Module> = Module::ALL.into_iter().filter(own).collect();
        if !modules.is_empty() {
            return Ok(modules);
        }
        if let Some(module) = Module::ALL.into_iter().find(|module| module.name() == name) {
            return Ok(vec![module]);
        }
        let names = self.target_names(&Module::ALL).join(", ");
        Err(format!("`{name}` is not a linear layer of the block: expected one of {names}, or all"))
    }

    /// What `target_modules` calls these layers, each name once.
    pub(crate) fn target_names(self, modules: &[Module]) -> Vec<&'static str> {
        let mut names: Vec<&str> = modules.iter().map(|module| self.names().target(*module)).collect();
        names.dedup();
        names
    }

    /// The layers that `module` answers for: itself, or queries, keys and values where they are one tensor; then none
    /// for keys and for values.
    pub(crate) fn span(self, module: Module) -> &'static [Module] {
        let all: &'static [Module] = &Module::ALL;
        match (self.names().packing, module) {
            (Some(_), Module::Query) => &[Module::Query, Module::Key, Module::Value],
            (Some(_), Module::Key | Module::Value) => &[],
            _ => &all[module as usize..=module as usize],
        }
    }
}

/// For each row of a file's tensor of queries, keys and values, its place where they lie one behind the other.
pub(crate) fn stacked_rows(config: &Config, packing: Packing) -> Vec<usize> {
    let (q, kv) = (config.query_size(), config.key_value_size());
    let starts = [0, q, q + kv];
    let pieces = packed(config, packing, [0, 1, 2]);
    pieces.into_iter().flat_map(|piece| piece.rows.map(move |row| starts[piece.tensor] + row)).collect()
}

/// What a fresh adapter is like.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraOptions {
    /// R.
    pub rank: usize,
    /// α: the change of a weight is B·A · α / R.
    pub alpha: f64,
    /// The layers that carry one.
    pub modules: Vec<Module>,
}

/// One adapter of one layer, or its part in an adapter that spans queries, keys and values: they share A, and each has
/// rows of B.
#[derive(Clone, Debug)]
pub(crate) struct Adapter {
    pub(crate) a: ParameterId,
    pub(crate) b: ParameterId,
    /// Rows of B.
    pub(crate) rows: Range<usize>,
    pub(crate) rank: usize,
    pub(crate) scale: f32,
}

impl Adapter {
    pub(crate) fn matrices<'a>(&self, parameters: &'a Parameters) -> Lora<'a> {
        let view = |id| -> View<'a, f32> { parameters.view(id) };
        let b = view(self.b).part(self.rows.start * self.rank..self.rows.end * self.rank);
        Lora { a: view(self.a), b, rank: self.rank, scale: self.scale }
    }

    /// Whether this layer answers for the parameters that it may share.
    pub(crate) fn leads(&self) -> bool {
        self.rows.start == 0
    }

    /// This layer's rows of the gradient of B.
    pub(crate) fn own_rows<'a>(&self, db: ViewMut<'a, f32>) -> ViewMut<'a, f32> {
        let (_, from_start) = db.split_at(self.rows.start * self.rank);
        from_start.split_at(self.rows.len() * self.rank).0
    }
}

/// The adapters of all blocks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Adapters {
    /// [layer][module]
    layers: Vec<[Option<Adapter>; Module::ALL.len()]>,
    /// Frozen tensors that the adapter brought along, and their names in its file.
    pub(crate) carried: Vec<(TensorId, String)>,
}

impl Adapters {
    pub(crate) fn get(&self, layer: usize, module: Module) -> Option<&Adapter> {
        self.layers.get(layer)?[module as usize].as_ref()
    }

    pub(crate) fn set(&mut self, layer: usize, module: Module, adapter: Adapter) {
        if self.layers.len() <= layer {
            self.layers.resize_with(layer + 1, Default::default);
        }
        self.layers[layer][module as usize] = Some(adapter);
    }

    /// Highest rank, for the size of the low-rank activations.
    pub(crate) fn largest_rank(&self) -> usize {
        self.layers.iter().flatten().flatten().map(|adapter| adapter.rank).max().unwrap_or(0)
    }
}
