//! The tensors of a file: what a family calls the model's tensors, and which of them it stores as one.

use std::ops::Range;

use crate::families::{Names, Packing};
use crate::names::{Extra, Role, TensorId, TensorSpec};
use crate::{Config, Module};

/// One tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileTensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    /// Its rows from the first to the last, each piece behind the one before.
    pub(crate) pieces: Vec<Piece>,
}

/// Rows of one of the model's tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) tensor: TensorId,
    pub(crate) rows: Range<usize>,
}

/// The tensors of a file with these names, in the order of the model's.
pub(crate) fn file_tensors(config: &Config, specs: &[TensorSpec], names: &Names) -> Vec<FileTensor> {
    let mut files = Vec::new();
    for (id, spec) in specs.iter().enumerate() {
        let module = match spec.role {
            Role::Block(_, part) => Module::ALL.into_iter().find(|module| module.part() == part),
            Role::Extra(_, Extra::Bias(module)) => Some(module),
            _ => None,
        };
        match (names.packing, module) {
            (Some(packing), Some(Module::Query)) => {
                let pieces = packed(config, packing, [id, id + 1, id + 2]);
                let rows = config.query_size() + 2 * config.key_value_size();
                let shape = [&[rows], &spec.shape[1..]].concat();
                files.push(FileTensor { name: names.of(spec.role), shape, pieces });
            }
            (Some(_), Some(Module::Key | Module::Value)) => {}
            _ => {
                let pieces = vec![Piece { tensor: id, rows: 0..spec.shape[0] }];
                files.push(FileTensor { name: names.of(spec.role), shape: spec.shape.clone(), pieces });
            }
        }
    }
    files
}

/// The rows of queries, keys and values as one tensor has them.
pub(crate) fn packed(config: &Config, packing: Packing, tensors: [TensorId; 3]) -> Vec<Piece> {
    let [query, key, value] = tensors;
    let kv = config.key_value_size();
    let piece = |tensor, rows| Piece { tensor, rows };
    match packing {
        Packing::Stacked => {
            vec![piece(query, 0..config.query_size()), piece(key, 0..kv), piece(value, 0..kv)]
        }
        Packing::Grouped => {
            let head = config.head_dim;
            let group = config.query_size() / config.num_key_value_heads;
            let of_group = |index: usize| {
                let rows = index * head..(index + 1) * head;
                let queries = piece(query, index * group..(index + 1) * group);
                [queries, piece(key, rows.clone()), piece(value, rows)]
            };
            (0..config.num_key_value_heads).flat_map(of_group).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_rows_lie_as_their_families_say() {
        let config =
            Config { num_attention_heads: 4, num_key_value_heads: 2, head_dim: 8, ..Config::default() };
        let rows = |pieces: Vec<Piece>| -> Vec<(TensorId, Range<usize>)> {
            pieces.into_iter().map(|piece| (piece.tensor, piece.rows)).collect()
        };
        let stacked = rows(packed(&config, Packing::Stacked, [5, 6, 7]));
        assert_eq!(stacked, [(5, 0..32), (6, 0..16), (7, 0..16)]);
        let grouped = rows(packed(&config, Packing::Grouped, [5, 6, 7]));
        assert_eq!(grouped, [(5, 0..16), (6, 0..8), (7, 0..8), (5, 16..32), (6, 8..16), (7, 8..16)]);
    }
}
