//! The tensors of the model: which there are for a configuration, in what order, and in what shapes.
//!
//! Their names here are those of a Hugging Face Llama; what a family's files call them is in [`crate::families`].

use crate::{AttentionBias, Config, Module};

/// Place of a tensor in [`tensors`].
pub(crate) type TensorId = usize;

/// One tensor of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TensorSpec {
    pub(crate) name: String,
    /// [outputs, inputs] of a matrix, one dimension of a norm or bias.
    pub(crate) shape: Vec<usize>,
    pub(crate) kind: Kind,
    pub(crate) role: Role,
}

/// What a tensor is in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Embedding,
    Norm,
    Bias,
    Linear,
    /// A linear layer whose output is added to the residual stream.
    Residual,
}

impl Kind {
    /// Whether it always rests as f32: small, and no operand of a matrix product.
    pub(crate) fn is_vector(self) -> bool {
        matches!(self, Kind::Norm | Kind::Bias)
    }
}

/// Where a tensor stands in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Embedding,
    Block(usize, Part),
    Extra(usize, Extra),
    FinalNorm,
    Head,
}

impl TensorSpec {
    pub(crate) fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Elements of one row: of one output of a matrix, one of a vector.
    pub(crate) fn width(&self) -> usize {
        self.shape.get(1).copied().unwrap_or(1)
    }
}

/// The tensors that every decoder block has, in order, behind the embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Part {
    InputNorm,
    Query,
    Key,
    Value,
    Output,
    PostNorm,
    Gate,
    Up,
    Down,
}

impl Part {
    pub(crate) const ALL: [Part; 9] = [
        Part::InputNorm,
        Part::Query,
        Part::Key,
        Part::Value,
        Part::Output,
        Part::PostNorm,
        Part::Gate,
        Part::Up,
        Part::Down,
    ];
}

/// The tensors that only some families have in a block, in order behind [`Part::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extra {
    Bias(Module),
    /// [E]: norm of each query head.
    QueryNorm,
    /// [E]: norm of each key head.
    KeyNorm,
}

impl Extra {
    const ALL: [Extra; 9] = [
        Extra::Bias(Module::Query),
        Extra::Bias(Module::Key),
        Extra::Bias(Module::Value),
        Extra::Bias(Module::Output),
        Extra::Bias(Module::Gate),
        Extra::Bias(Module::Up),
        Extra::Bias(Module::Down),
        Extra::QueryNorm,
        Extra::KeyNorm,
    ];

    fn is_in(self, config: &Config) -> bool {
        match self {
            Extra::Bias(Module::Query | Module::Key | Module::Value) => {
                config.attention_bias != AttentionBias::None
            }
            Extra::Bias(Module::Output) => config.attention_bias == AttentionBias::All,
            Extra::Bias(Module::Gate | Module::Up | Module::Down) => config.mlp_bias,
            Extra::QueryNorm | Extra::KeyNorm => config.query_key_norm,
        }
    }

    fn all_in(config: &Config) -> impl Iterator<Item = Extra> {
        Self::ALL.into_iter().filter(|extra| extra.is_in(config))
    }
}

pub(crate) const EMBEDDING: TensorId = 0;

fn block_size(config: &Config) -> usize {
    Part::ALL.len() + Extra::all_in(config).count()
}

/// The tensor `part` of block `layer`.
pub(crate) fn block_tensor(config: &Config, layer: usize, part: Part) -> TensorId {
    1 + layer * block_size(config) + part as usize
}

/// The tensor `extra` of block `layer`, if this configuration has it.
pub(crate) fn extra_tensor(config: &Config, layer: usize, extra: Extra) -> Option<TensorId> {
    let place = Extra::all_in(config).position(|other| other == extra)?;
    Some(1 + layer * block_size(config) + Part::ALL.len() + place)
}

/// The last norm.
pub(crate) fn final_norm(config: &Config) -> TensorId {
    1 + config.num_hidden_layers * block_size(config)
}

/// The head: the embedding itself when they are tied.
pub(crate) fn head(config: &Config) -> TensorId {
    if config.tie_word_embeddings { EMBEDDING } else { final_norm(config) + 1 }
}

/// Every tensor of the model: the embedding, the blocks, the last norm, the head unless it is the embedding.
pub(crate) fn tensors(config: &Config) -> Vec<TensorSpec> {
    let names = &crate::families::LLAMA_NAMES;
    let spec = |role: Role, shape: Vec<usize>, kind| TensorSpec { name: names.of(role), shape, kind, role };
    let table = vec![config.vocab_size, config.hidden_size];
    let mut specs = vec![spec(Role::Embedding, table.clone(), Kind::Embedding)];
    for layer in 0..config.num_hidden_layers {
        for part in Part::ALL {
            let kind = match part {
                Part::InputNorm | Part::PostNorm => Kind::Norm,
                Part::Output | Part::Down => Kind::Residual,
                _ => Kind::Linear,
            };
            specs.push(spec(Role::Block(layer, part), part_shape(config, part), kind));
        }
        for extra in Extra::all_in(config) {
            let (shape, kind) = match extra {
                Extra::Bias(module) => (vec![part_shape(config, module.part())[0]], Kind::Bias),
                Extra::QueryNorm | Extra::KeyNorm => (vec![config.head_dim], Kind::Norm),
            };
            specs.push(spec(Role::Extra(layer, extra), shape, kind));
        }
    }
    specs.push(spec(Role::FinalNorm, vec![config.hidden_size], Kind::Norm));
    if !config.tie_word_embeddings {
        specs.push(spec(Role::Head, table, Kind::Linear));
    }
    specs
}

fn part_shape(config: &Config, part: Part) -> Vec<usize> {
    let (d, f) = (config.hidden_size, config.intermediate_size);
    let (q, kv) = (config.query_size(), config.key_value_size());
    match part {
        Part::InputNorm | Part::PostNorm => vec![d],
        Part::Query => vec![q, d],
        Part::Key | Part::Value => vec![kv, d],
        Part::Output => vec![d, q],
        Part::Gate | Part::Up => vec![f, d],
        Part::Down => vec![d, f],
    }
}
