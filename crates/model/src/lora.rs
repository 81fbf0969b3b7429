//! Low-rank adapters on the linear layers of the blocks: which layers, which rank, and where A and B are.

use std::str::FromStr;

use danlu_kernels::{View, linear::Lora};

use crate::names::Part;
use crate::{ParameterId, Parameters};

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

impl FromStr for Module {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|module| module.name() == name).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|module| module.name()).collect();
            format!(
                "`{name}` is not a linear layer of the block: expected one of {}, or all",
                names.join(", ")
            )
        })
    }
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

/// One adapter of one layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Adapter {
    pub(crate) a: ParameterId,
    pub(crate) b: ParameterId,
    pub(crate) rank: usize,
    pub(crate) scale: f32,
}

impl Adapter {
    pub(crate) fn matrices<'a>(&self, parameters: &'a Parameters) -> Lora<'a> {
        let view = |id| -> View<'a, f32> { parameters.view(id) };
        Lora { a: view(self.a), b: view(self.b), rank: self.rank, scale: self.scale }
    }
}

/// The adapters of all blocks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Adapters {
    /// [layer][module]
    layers: Vec<[Option<Adapter>; Module::ALL.len()]>,
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
