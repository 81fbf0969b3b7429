//! Room for what is trained of a frozen model: low-rank matrices beside layers, whole tensors, rows of tables.
//!
//! It gives parameters their names and shapes and the model its places for them. Which values they start with is said in
//! [`crate::adapter`] for adapters that are read and in [`crate::adapter_fresh`] for new ones.

use std::ops::{Deref, DerefMut};

use danlu_kernels::Buffer;

use crate::adapter::{FROZEN, names};
use crate::adapter_folder::PREFIX;
use crate::lora::{Adapter, Magnitude, TokenRows};
use crate::model::Stored;
use crate::names::{self, TensorId};
use crate::{Error, Model, Module, ParameterId, Parameters, Result};

/// Low-rank matrices of one layer, or of the span of layers that are one tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LowRankPlace {
    pub(crate) layer: usize,
    pub(crate) module: Module,
    pub(crate) rank: usize,
    pub(crate) scale: f32,
    /// Whether rows of the sum have trained lengths.
    pub(crate) has_magnitude: bool,
}

/// What is trained, in the order of its parameters; names are those of files.
#[derive(Clone, Debug, Default)]
pub(crate) struct Placement {
    pub(crate) low_ranks: Vec<LowRankPlace>,
    /// Whole tensors.
    pub(crate) whole: Vec<(TensorId, String)>,
    /// Rows of embedding or head.
    pub(crate) rows: Vec<(TensorId, Vec<u32>, String)>,
    pub(crate) dropout: f64,
}

/// The parameters of each part of a placement.
pub(crate) struct Placed {
    /// A, B and lengths.
    pub(crate) low_ranks: Vec<[Option<ParameterId>; 3]>,
    pub(crate) whole: Vec<ParameterId>,
    pub(crate) rows: Vec<ParameterId>,
}

impl Model {
    /// Makes room for what is trained: low-rank matrices are zero, whole tensors and rows have the values that they had,
    /// unless only shapes are wanted.
    pub(crate) fn place(&mut self, placement: &Placement, with_values: bool) -> Result<Placed> {
        if !self.parameters.is_empty() {
            return Err(Error::Message(FROZEN.into()));
        }
        let mut shapes: Vec<(String, Vec<usize>)> = Vec::new();
        let mut placed = Placed { low_ranks: Vec::new(), whole: Vec::new(), rows: Vec::new() };
        let mut next = |name: String, shape: Vec<usize>| {
            shapes.push((name, shape));
            ParameterId(shapes.len() - 1)
        };
        for low_rank in &placement.low_ranks {
            let &LowRankPlace { layer, module, rank, scale, has_magnitude } = low_rank;
            let family = self.config.family;
            let spec = |module: Module| &self.specs[names::block_tensor(&self.config, layer, module.part())];
            let outputs: usize = family.span(module).iter().map(|member| spec(*member).shape[0]).sum();
            let inputs = spec(module).shape[1];
            let path = family.names().module(layer, module);
            let [a_name, b_name] = names(&path);
            let (a, b) = (next(a_name, vec![rank, inputs]), next(b_name, vec![outputs, rank]));
            let magnitude_name = format!("{PREFIX}{path}.lora_magnitude_vector");
            let magnitude = has_magnitude.then(|| next(magnitude_name, vec![outputs]));
            let mut end = 0;
            for &member in family.span(module) {
                let rows = end..end + spec(member).shape[0];
                end = rows.end;
                let magnitude = magnitude.map(Magnitude::new);
                self.adapters.set(layer, member, Adapter { a, b, rows, rank, scale, magnitude });
            }
            placed.low_ranks.push([Some(a), Some(b), magnitude]);
        }
        for (tensor, name) in &placement.whole {
            placed.whole.push(next(name.clone(), self.specs[*tensor].shape.clone()));
        }
        for (tensor, ids, name) in &placement.rows {
            placed.rows.push(next(name.clone(), vec![ids.len(), self.specs[*tensor].width()]));
        }
        self.parameters = Parameters::new(shapes);
        self.adapters.dropout = placement.dropout as f32;
        for ((tensor, _), id) in placement.whole.iter().zip(&placed.whole) {
            if with_values {
                let elements = 0..self.specs[*tensor].elements();
                let values = self.tensor_values(*tensor, elements)?;
                self.set_parameter(*id, &values);
            }
            self.stored[*tensor] = Stored::Trained(*id);
        }
        for ((tensor, ids, _), id) in placement.rows.iter().zip(&placed.rows) {
            self.place_rows(*tensor, ids, *id, with_values)?;
        }
        Ok(placed)
    }

    /// Rows of a table are given the values of a parameter, so the table has to rest in values.
    fn place_rows(
        &mut self,
        tensor: TensorId,
        ids: &[u32],
        id: ParameterId,
        with_values: bool,
    ) -> Result<()> {
        let spec = &self.specs[tensor];
        let (width, elements) = (spec.width(), spec.elements());
        if self.config.normalized_head && tensor == names::head(&self.config) {
            let reason =
                "this model uses its head with rows of length one, of which single rows cannot be trained";
            return Err(Error::Message(format!("`trainable_token_indices`: {reason}")));
        }
        if let Some(beyond) = ids.iter().find(|id| **id as usize >= spec.shape[0]) {
            return Err(self.no_row(tensor, *beyond as usize));
        }
        if matches!(self.stored[tensor], Stored::Trained(_)) {
            return Err(Error::Message(format!(
                "`trainable_token_indices`: all rows of `{}` are trained already",
                spec.name
            )));
        }
        if !matches!(self.stored[tensor], Stored::F32(_) | Stored::Bf16(_)) {
            self.stored[tensor] = match with_values {
                true => self.at_rest(tensor, Buffer::from_host(&self.tensor_values(tensor, 0..elements)?)),
                false => Stored::zeros(spec, self.precision, None),
            };
        }
        if with_values {
            let mut values = Vec::with_capacity(ids.len() * width);
            for &row in ids {
                let start = row as usize * width;
                values.extend(self.tensor_values(tensor, start..start + width)?);
            }
            self.set_parameter(id, &values);
        }
        let rows = TokenRows::new(tensor, ids.to_vec(), id);
        self.adapters.rows.push(rows);
        Ok(())
    }

    /// A table has no row of this number.
    pub(crate) fn no_row(&self, tensor: TensorId, row: usize) -> Error {
        let spec = &self.specs[tensor];
        Error::Message(format!(
            "`trainable_token_indices`: there is no row {row} in `{}`, which has {} rows; expected ids below that",
            spec.name, spec.shape[0]
        ))
    }

    /// Values of a tensor as f32.
    pub(crate) fn tensor_values(&self, tensor: TensorId, range: std::ops::Range<usize>) -> Result<Vec<f32>> {
        let mut values = Vec::with_capacity(range.len());
        self.values(tensor, range, |part| {
            values.extend_from_slice(part);
            Ok(())
        })?;
        Ok(values)
    }

    pub(crate) fn set_parameter(&mut self, id: ParameterId, values: &[f32]) {
        let range = self.parameters.list()[id.0].range.clone();
        self.parameters.values_mut().host_mut()[range].copy_from_slice(values);
    }

    /// The parameter that a table is, or that some of its rows are.
    pub(crate) fn trained_table(&self, table: TensorId) -> Option<ParameterId> {
        let rows = || self.adapters.rows_of(table).map(|rows| rows.parameter);
        self.trained(table).or_else(rows)
    }

    /// Gives the tables the trained rows of this parameter, or of all.
    pub(crate) fn renew_token_rows(&mut self, changed: Option<ParameterId>) {
        for rows in &self.adapters.rows {
            if changed.is_some_and(|id| id != rows.parameter) {
                continue;
            }
            let width = self.specs[rows.tensor].width();
            let range = self.parameters.list()[rows.parameter.0].range.clone();
            let values = self.parameters.values().host()[range].chunks_exact(width);
            for (&row, values) in rows.ids.iter().zip(values) {
                let place = row as usize * width..(row as usize + 1) * width;
                match &mut self.stored[rows.tensor] {
                    Stored::F32(table) => table.host_mut()[place].copy_from_slice(values),
                    Stored::Bf16(table) => {
                        let table = table.host_mut()[place].iter_mut();
                        table
                            .zip(values)
                            .for_each(|(row, value)| *row = danlu_kernels::bf16::from_f32(*value));
                    }
                    Stored::Blocks(..) | Stored::Grouped(_) | Stored::Repacked(..) | Stored::Trained(_) => {}
                }
            }
        }
    }
}

/// The trained parameters while they are changed: what follows from them is made anew afterwards.
pub struct ParametersMut<'m>(pub(crate) &'m mut Model);

impl Deref for ParametersMut<'_> {
    type Target = Parameters;

    fn deref(&self) -> &Parameters {
        &self.0.parameters
    }
}

impl DerefMut for ParametersMut<'_> {
    fn deref_mut(&mut self) -> &mut Parameters {
        &mut self.0.parameters
    }
}

impl Drop for ParametersMut<'_> {
    fn drop(&mut self) {
        self.0.renew_token_rows(None);
    }
}
