//! Low-rank adapters on the linear layers of the blocks: which layers, which rank, and where A and B are.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::OnceLock;

use danlu_formats::ModuleSelection;
use danlu_kernels::dora::{inverse_lengths, row_squares};
use danlu_kernels::linear::Lora;
use danlu_kernels::{Buffer, Precision, View, ViewMut, Weight};

use crate::derived::Derived;
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
    /// What `target_modules` says of the layers that a recipe names: Llama's names or this family's own, `all`, the end
    /// of a path with dots, or alone a regular expression over whole paths.
    ///
    /// # Errors
    /// A name of no linear layer of the block, or of a part of layers that are one tensor; in a sentence.
    pub fn target_modules(self, names: &[String]) -> Result<ModuleSelection, String> {
        if let [name] = names
            && name.chars().any(|letter| !letter.is_alphanumeric() && !"_.-".contains(letter))
        {
            return Ok(ModuleSelection::Pattern(name.clone()));
        }
        let (mut modules, mut paths) = (Vec::new(), Vec::new());
        for name in names {
            match self.modules_of(name) {
                found if !found.is_empty() => modules.extend(found),
                _ if name.contains('.') => paths.push(name.clone()),
                _ => {
                    let names = self.target_names(&Module::ALL).join(", ");
                    return Err(format!(
                        "`{name}` is not a linear layer of the block: expected one of {names}, or all"
                    ));
                }
            }
        }
        for module in Module::ALL {
            let span = self.span(module);
            let wanted = span.iter().filter(|module| modules.contains(module)).count();
            if wanted != 0 && wanted != span.len() {
                return Err(format!(
                    "this model has queries, keys and values as one layer; adapt it as a whole by its name, `{}`",
                    self.names().target(module)
                ));
            }
        }
        modules.sort_unstable();
        modules.dedup();
        let known = self.target_names(&modules).into_iter().map(str::to_owned);
        Ok(ModuleSelection::Names(known.chain(paths).collect()))
    }

    /// The layers of this name: Llama's or this family's own, or `all`.
    fn modules_of(self, name: &str) -> Vec<Module> {
        let own = |module: &Module| name == "all" || self.names().target(*module) == name;
        let modules: Vec<Module> = Module::ALL.into_iter().filter(own).collect();
        match modules.is_empty() {
            true => Module::ALL.into_iter().filter(|module| module.name() == name).collect(),
            false => modules,
        }
    }

    /// What `modules_to_save` calls embedding and head.
    pub fn table_modules(self) -> Vec<String> {
        let name = |file: &str| file.rsplit('.').nth(1).unwrap_or(file).to_owned();
        [self.names().embedding, self.names().head].map(name).to_vec()
    }

    /// What `target_modules` calls these layers, each name once.
    pub(crate) fn target_names(self, modules: &[Module]) -> Vec<&'static str> {
        let mut names: Vec<&str> = modules.iter().map(|module| self.names().target(*module)).collect();
        names.dedup();
        names
    }

    /// The layer that answers for `module`.
    pub(crate) fn lead(self, module: Module) -> Module {
        match (self.names().packing, module) {
            (Some(_), Module::Key | Module::Value) => Module::Query,
            _ => module,
        }
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

/// One adapter of one layer, or its part in an adapter that spans queries, keys and values: they share A, and each has
/// rows of B.
pub(crate) struct Adapter {
    pub(crate) a: ParameterId,
    pub(crate) b: ParameterId,
    /// Rows of B.
    pub(crate) rows: Range<usize>,
    pub(crate) rank: usize,
    pub(crate) scale: f32,
    /// Lengths of the rows of the sum, of DoRA.
    pub(crate) magnitude: Option<Magnitude>,
}

/// The trained lengths of the rows of a weight and its adapter together.
pub(crate) struct Magnitude {
    /// [rows of B]
    pub(crate) id: ParameterId,
    /// ‖W_i‖² of the layer's own rows, taken when they are first needed: the weight is frozen.
    squares: OnceLock<Buffer<f32>>,
    /// 1 / ‖W_i + scale · B_i·A‖ of the same rows, for as long as A and B stay.
    inverse: Derived<Buffer<f32>>,
}

impl Magnitude {
    pub(crate) fn new(id: ParameterId) -> Self {
        Self { id, squares: OnceLock::new(), inverse: Derived::default() }
    }

    /// What the layer's rows are multiplied by to have length one.
    pub(crate) fn inverse(&self, precision: Precision, weight: Weight, lora: Lora) -> View<'_, f32> {
        let outputs = weight.outputs();
        let squares = self.squares.get_or_init(|| {
            let mut squares = Buffer::zeros(outputs);
            row_squares(weight, squares.first_mut(outputs));
            squares
        });
        let inverse = self.inverse.get(|spare| {
            let mut inverse = spare.unwrap_or_else(|| Buffer::zeros(outputs));
            let own = inverse.first_mut(outputs);
            inverse_lengths(precision, weight, lora, squares.first(outputs), own);
            inverse
        });
        inverse.first(outputs)
    }
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

    /// This layer's rows, of `width`, of what has all rows.
    pub(crate) fn own_rows<'a>(&self, all: ViewMut<'a, f32>, width: usize) -> ViewMut<'a, f32> {
        let (_, from_start) = all.split_at(self.rows.start * width);
        from_start.split_at(self.rows.len() * width).0
    }
}

/// Trained rows of a table whose other rows are frozen.
pub(crate) struct TokenRows {
    /// Embedding or head.
    pub(crate) tensor: TensorId,
    /// Which rows, in the order of the parameter.
    pub(crate) ids: Vec<u32>,
    places: HashMap<u32, usize>,
    /// [rows, D]; the table is given their values whenever they change.
    pub(crate) parameter: ParameterId,
}

impl TokenRows {
    pub(crate) fn new(tensor: TensorId, ids: Vec<u32>, parameter: ParameterId) -> Self {
        let places = ids.iter().enumerate().map(|(place, id)| (*id, place)).collect();
        Self { tensor, ids, places, parameter }
    }

    /// The place of a row of the table among the trained ones.
    pub(crate) fn place(&self, id: u32) -> Option<usize> {
        self.places.get(&id).copied()
    }
}

/// The adapters of all blocks.
#[derive(Default)]
pub(crate) struct Adapters {
    /// [layer][module]
    layers: Vec<[Option<Adapter>; Module::ALL.len()]>,
    /// Trained rows of tables.
    pub(crate) rows: Vec<TokenRows>,
    /// What A and B started with and the weights lack, where they are among the parameters, of PiSSA.
    pub(crate) start: Option<Buffer<f32>>,
    /// The share of the input of A that is dropped in training.
    pub(crate) dropout: f32,
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
        self.all().map(|adapter| adapter.rank).max().unwrap_or(0)
    }

    /// Whether rows of any layer have trained lengths.
    pub(crate) fn has_magnitudes(&self) -> bool {
        self.all().any(|adapter| adapter.magnitude.is_some())
    }

    /// Rows that have trained lengths, of all layers.
    pub(crate) fn magnitudes(&self) -> usize {
        self.all().filter(|adapter| adapter.magnitude.is_some()).map(|adapter| adapter.rows.len()).sum()
    }

    /// A and B of all adapters change, or this one of them.
    pub(crate) fn forget_lengths(&mut self, changed: Option<ParameterId>) {
        for adapter in self.layers.iter_mut().flatten().flatten() {
            if changed.is_none_or(|id| [adapter.a, adapter.b].contains(&id))
                && let Some(magnitude) = &mut adapter.magnitude
            {
                magnitude.inverse.forget();
            }
        }
    }

    /// The trained rows of a table.
    pub(crate) fn rows_of(&self, tensor: TensorId) -> Option<&TokenRows> {
        self.rows.iter().find(|rows| rows.tensor == tensor)
    }

    /// Half of the rank of each stays.
    pub(crate) fn halve_ranks(&mut self) {
        self.layers.iter_mut().flatten().flatten().for_each(|adapter| adapter.rank /= 2);
    }

    fn all(&self) -> impl Iterator<Item = &Adapter> {
        self.layers.iter().flatten().flatten()
    }
}

#[cfg(test)]
mod tests {
    use danlu_formats::{AdapterConfig, InitLoraWeights};

    use super::*;
    use crate::hooks::Resident;
    use crate::{Activations, Keep, Model, PackedTokens};

    fn dora() -> Model {
        let config = Config {
            vocab_size: 9,
            hidden_size: 16,
            intermediate_size: 24,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            num_key_value_heads: 1,
            head_dim: 8,
            ..Config::default()
        };
        let mut model = Model::random(config, Precision::F32, None, 1);
        let adapter = AdapterConfig {
            r: 3,
            use_dora: true,
            target_modules: Some(ModuleSelection::Pattern("all-linear".into())),
            init_lora_weights: InitLoraWeights::Flag(false),
            ..AdapterConfig::default()
        };
        model.add_adapter(&adapter, Some(1)).unwrap();
        model
    }

    #[test]
    fn lengths_of_rows_are_computed_once_until_parameters_change() {
        let mut model = dora();
        let current = |model: &Model| -> Vec<bool> {
            let all = model.adapters.all().filter_map(|adapter| adapter.magnitude.as_ref());
            all.map(|magnitude| magnitude.inverse.is_current()).collect()
        };
        let mut activations = Activations::new(&model, 4, Keep::Nothing);
        let tokens = PackedTokens::new([&[1u32, 2, 3][..]]);
        model.forward(&tokens, &mut activations, &mut Resident).unwrap();
        assert_eq!(current(&model), [true; 14]);
        let adapter = model.adapters.get(1, Module::Up).unwrap();
        let (a, query) = (adapter.a, 7 + Module::Up as usize);
        model.adapters.forget_lengths(Some(a));
        assert_eq!(current(&model), std::array::from_fn::<_, 14, _>(|index| index != query));
        drop(model.parameters_mut());
        assert_eq!(current(&model), [false; 14]);
    }

    /// PEFT measures the rows of the sum, so that the scale of a fresh adapter is one.
    #[test]
    fn lengths_begin_as_those_of_the_sum_where_b_is_not_zero() {
        let model = dora();
        for module in Module::ALL {
            let adapter = model.adapters.get(0, module).unwrap();
            let magnitude = adapter.magnitude.as_ref().unwrap();
            let weight = model.matrix(crate::names::block_tensor(&model.config, 0, module.part()));
            let lora = adapter.matrices(&model.parameters);
            let lengths = model.parameters.list()[magnitude.id.0].range.clone();
            let lengths = &model.parameters.values().host()[lengths];
            let mut inverse = Buffer::zeros(lengths.len());
            let rows = inverse.len();
            let mut squares = Buffer::zeros(rows);
            row_squares(weight, squares.first_mut(rows));
            inverse_lengths(Precision::F32, weight, lora, squares.first(rows), inverse.first_mut(rows));
            let own = squares.host().iter().map(|square| square.sqrt());
            assert!(own.zip(lengths).any(|(own, length)| (own / length - 1.0).abs() > 0.1), "B is not zero");
            for (length, inverse) in lengths.iter().zip(inverse.host()) {
                assert!((length * inverse - 1.0).abs() < 1e-5, "{module:?} {length} {inverse}");
            }
        }
    }
}
