//! Adapters that start as the largest singular values of their weights (PiSSA, Meng et al. 2024, arXiv:2404.02948), which the
//! weights then lack: W = W' + s·B₀·A₀.
//!
//! What is saved belongs to the weights as they were: twice the rank, [B, −B₀]·[A; A₀], as PEFT converts such adapters. The
//! halves are also what a run goes on from. The decomposition is randomized (Halko et al. 2011, arXiv:0909.4061).

use danlu_formats::AdapterConfig;
use danlu_kernels::linear::{linear, linear_backward_input};
use danlu_kernels::matmul::Output;
use danlu_kernels::random::Random;
use danlu_kernels::team::parallel_chunks;
use danlu_kernels::{Buffer, Precision, Weight};

use crate::model::Stored;
use crate::names::{TensorId, block_tensor};
use crate::{Error, Model, Module, ParameterId, Parameters, Result};

/// Vectors beside those that are wanted, which make the wanted ones exact sooner.
const OVERSAMPLING: usize = 8;
/// Iterations at most where their number is not given, and the change of the singular values that ends them.
const MOST_ITERATIONS: usize = 300;
const CONVERGED: f64 = 1e-7;

/// The name of the method with so many iterations; below 0, as many as it takes.
pub fn pissa_method(iterations: i64) -> String {
    if iterations < 0 { "pissa".into() } else { format!("pissa_niter_{iterations}") }
}

/// How many iterations a method of this name has; none in its place for as many as it takes, nothing if it is another.
pub(crate) fn iterations_of(method: &str) -> Option<Option<usize>> {
    match method.strip_prefix("pissa")? {
        "" => Some(None),
        rest => rest.strip_prefix("_niter_")?.parse().ok().map(Some),
    }
}

/// The configuration of what is saved.
pub(crate) fn doubled(config: &AdapterConfig) -> AdapterConfig {
    scaled(config, 2.0, |rank| 2 * rank)
}

/// The configuration of what is trained, from that of what was saved.
fn halved(config: &AdapterConfig) -> AdapterConfig {
    scaled(config, 0.5, |rank| rank / 2)
}

fn scaled(config: &AdapterConfig, factor: f64, rank: impl Fn(usize) -> usize) -> AdapterConfig {
    // The scale is alpha over the rank, or over its root, and stays.
    let alpha = if config.use_rslora { factor.sqrt() } else { factor };
    AdapterConfig {
        r: rank(config.r),
        lora_alpha: config.lora_alpha * alpha,
        rank_pattern: config.rank_pattern.iter().map(|(name, r)| (name.clone(), rank(*r))).collect(),
        alpha_pattern: config.alpha_pattern.iter().map(|(name, own)| (name.clone(), own * alpha)).collect(),
        init_lora_weights: danlu_formats::InitLoraWeights::Flag(true),
        ..config.clone()
    }
}

impl Model {
    /// Refuses weights that cannot lose a part without losing precision.
    pub(crate) fn check_pissa(&self, layer: usize, module: Module) -> Result<()> {
        for &member in self.config.family.span(module) {
            let tensor = block_tensor(&self.config, layer, member.part());
            if matches!(self.stored[tensor], Stored::Blocks(..) | Stored::Grouped(_) | Stored::Repacked(..)) {
                return Err(Error::Message(format!(
                    "`pissa_init`: `{}` is quantized, and what the adapter takes out of it would be rounded away; start \
                     from a model of 16 or 32 bits, or leave `pissa_init` out",
                    self.specs[tensor].name
                )));
            }
        }
        Ok(())
    }

    /// A and B from the largest singular values of the weights that `module` answers for: s·B·A is the best
    /// approximation of its rank.
    pub(crate) fn start_pissa(
        &mut self,
        layer: usize,
        module: Module,
        [a, b]: [ParameterId; 2],
        iterations: Option<usize>,
        random: &mut Random,
    ) -> Result<()> {
        let Some(adapter) = self.adapters.get(layer, module) else { return Ok(()) };
        let (rank, scale) = (adapter.rank, adapter.scale);
        let span = self.config.family.span(module).iter();
        let tensors: Vec<TensorId> =
            span.map(|member| block_tensor(&self.config, layer, member.part())).collect();
        let weight = self.values_together(&tensors)?;
        let inputs = self.parameters.list()[a.0].shape[1];
        let outputs = weight.len() / inputs;
        let weight = Weight::new(weight.first(weight.len()), outputs, inputs);
        let values = largest_singular(weight, rank, iterations, random);
        let mut first = vec![0.0; rank * inputs];
        let mut second = vec![0.0; outputs * rank];
        for (index, Singular { value, left, right }) in values.iter().enumerate() {
            let root = (value / f64::from(scale)).sqrt();
            let row = first[index * inputs..(index + 1) * inputs].iter_mut();
            row.zip(right).for_each(|(to, from)| *to = (root * from) as f32);
            let column = second[index..].iter_mut().step_by(rank);
            column.zip(left).for_each(|(to, from)| *to = (root * from) as f32);
        }
        self.set_parameter(a, &first);
        self.set_parameter(b, &second);
        Ok(())
    }

    /// Keeps what the adapters start with, and takes it out of the weights.
    pub(crate) fn take_start_out(&mut self, start: Buffer<f32>) -> Result<()> {
        for layer in 0..self.config.num_hidden_layers {
            for module in Module::ALL {
                let Some(adapter) = self.adapters.get(layer, module) else { continue };
                let (rank, scale) = (adapter.rank, adapter.scale);
                let range = |id: ParameterId| self.parameters.list()[id.0].range.clone();
                let (a, b) = (&start.host()[range(adapter.a)], &start.host()[range(adapter.b)]);
                let b = &b[adapter.rows.start * rank..adapter.rows.end * rank];
                let tensor = block_tensor(&self.config, layer, module.part());
                let width = self.specs[tensor].width();
                let mut values = self.values_together(&[tensor])?;
                parallel_chunks(values.host_mut(), width, |row, values| {
                    for (b, a) in b[row * rank..(row + 1) * rank].iter().zip(a.chunks_exact(width)) {
                        values.iter_mut().zip(a).for_each(|(value, a)| *value -= scale * b * a);
                    }
                });
                self.stored[tensor] = self.at_rest(tensor, values);
            }
        }
        self.adapters.start = Some(start);
        Ok(())
    }

    /// All values of tensors, one behind the other.
    fn values_together(&self, tensors: &[TensorId]) -> Result<Buffer<f32>> {
        let elements = |tensor: &TensorId| self.specs[*tensor].elements();
        let mut all = Buffer::zeros(tensors.iter().map(elements).sum());
        let mut end = 0;
        for tensor in tensors {
            self.values(*tensor, 0..elements(tensor), |part| {
                all.host_mut()[end..end + part.len()].copy_from_slice(part);
                end += part.len();
                Ok(())
            })?;
        }
        Ok(all)
    }

    /// Makes of a saved adapter that was read what is trained and what was taken out of the weights, its two halves; for plans
    /// the weights stay.
    ///
    /// # Errors
    /// An adapter with an odd rank, or quantized weights.
    pub fn continue_pissa(&mut self, config: &AdapterConfig, with_values: bool) -> Result<AdapterConfig> {
        let is_half = |name: &str, of: &str| name.ends_with(&format!(".lora_{of}.weight"));
        let list = self.parameters.list().to_vec();
        let ranks = list.iter().filter(|one| is_half(&one.name, "A")).map(|one| one.shape[0]);
        if ranks.into_iter().any(|rank| rank % 2 != 0) || config.use_dora {
            return Err(Error::Message(
                "`pissa_init`: this adapter was not saved by a run with it; continue it without".into(),
            ));
        }
        for layer in 0..self.config.num_hidden_layers {
            for module in Module::ALL {
                if self.adapters.get(layer, module).is_some() {
                    self.check_pissa(layer, self.config.family.lead(module))?;
                }
            }
        }
        let shapes = list.iter().map(|one| match one.shape[..] {
            [rank, inputs] if is_half(&one.name, "A") => (one.name.clone(), vec![rank / 2, inputs]),
            [outputs, rank] if is_half(&one.name, "B") => (one.name.clone(), vec![outputs, rank / 2]),
            _ => (one.name.clone(), one.shape.clone()),
        });
        let mut halves = Parameters::new(shapes);
        let mut start = Buffer::zeros(low_rank_elements(&halves));
        let ranges: Vec<_> = halves.list().iter().map(|one| one.range.clone()).collect();
        let values = self.parameters.values().host();
        for (one, range) in list.iter().zip(ranges) {
            let (from, half) = (&values[one.range.clone()], range.len());
            let to = &mut halves.values_mut().host_mut()[range.clone()];
            let own = start.host_mut().get_mut(range).unwrap_or_default();
            if is_half(&one.name, "A") {
                to.copy_from_slice(&from[..half]);
                own.copy_from_slice(&from[half..]);
            } else if is_half(&one.name, "B") {
                let rank = one.shape[1] / 2;
                let rows = to.chunks_exact_mut(rank).zip(own.chunks_exact_mut(rank));
                for ((to, own), from) in rows.zip(from.chunks_exact(2 * rank)) {
                    to.copy_from_slice(&from[..rank]);
                    own.iter_mut().zip(&from[rank..]).for_each(|(own, from)| *own = -from);
                }
            } else {
                to.copy_from_slice(from);
            }
        }
        self.parameters = halves;
        self.adapters.halve_ranks();
        match with_values {
            true => self.take_start_out(start)?,
            false => self.adapters.start = Some(start),
        }
        Ok(halved(config))
    }
}

/// Elements of the matrices of adapters, which come before everything else that is trained.
pub(crate) fn low_rank_elements(parameters: &Parameters) -> usize {
    let last = parameters.list().iter().rfind(|parameter| parameter.name.contains(".lora_"));
    last.map_or(0, |parameter| parameter.range.end)
}

/// A singular value with its vectors.
#[derive(Clone)]
struct Singular {
    value: f64,
    /// [outputs]
    left: Vec<f64>,
    /// [inputs]
    right: Vec<f64>,
}

/// The `rank` largest singular values of W [outputs, inputs], the largest first; zeros where W has fewer.
fn largest_singular(
    weight: Weight,
    rank: usize,
    iterations: Option<usize>,
    random: &mut Random,
) -> Vec<Singular> {
    let (outputs, inputs) = (weight.outputs(), weight.inputs());
    let count = (rank + OVERSAMPLING).min(outputs).min(inputs);
    let mut right = Buffer::zeros(count * inputs);
    right.host_mut().iter_mut().for_each(|value| *value = random.normal());
    let mut left = Buffer::zeros(count * outputs);
    let to_left = |right: &Buffer<f32>, left: &mut Buffer<f32>| {
        let (x, y) = (right.first(right.len()), left.first_mut(count * outputs));
        linear(Precision::F32, x, weight, Output::Overwrite, y);
        orthonormalize(left.host_mut(), outputs);
    };
    let mut before = vec![0.0; count];
    for _ in 0..iterations.unwrap_or(MOST_ITERATIONS) {
        to_left(&right, &mut left);
        let (y, x) = (left.first(count * outputs), right.first_mut(count * inputs));
        linear_backward_input(Precision::F32, y, weight, Output::Overwrite, x);
        let lengths: Vec<f64> = right.host().chunks_exact(inputs).map(length).collect();
        let largest = lengths.iter().fold(0.0, |largest, length| f64::max(largest, *length));
        let moved =
            lengths.iter().zip(&before).any(|(now, before)| (now - before).abs() > CONVERGED * largest);
        before = lengths;
        orthonormalize(right.host_mut(), inputs);
        if iterations.is_none() && !moved {
            break;
        }
    }
    to_left(&right, &mut left);
    let (y, x) = (left.first(count * outputs), right.first_mut(count * inputs));
    linear_backward_input(Precision::F32, y, weight, Output::Overwrite, x);
    // Of the small matrix Q·W the squares of the singular values are the eigenvalues of its products of rows.
    let rows: Vec<&[f32]> = right.host().chunks_exact(inputs).collect();
    let mut products = vec![vec![0.0; count]; count];
    parallel_chunks(&mut products, 1, |one, products| {
        let pairs = products[0].iter_mut().zip(&rows);
        pairs.for_each(|(sum, other)| *sum = product(rows[one], other));
    });
    let vectors = eigenvectors(&mut products);
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by(|one, other| products[*other][*other].total_cmp(&products[*one][*one]));
    let combine = |matrix: &Buffer<f32>, width: usize, index: usize, factor: f64| -> Vec<f64> {
        let mut sum = vec![0.0; width];
        for (row, weights) in matrix.host().chunks_exact(width).zip(&vectors) {
            let weight = factor * weights[index];
            sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += weight * f64::from(*value));
        }
        sum
    };
    let none = Singular { value: 0.0, left: vec![0.0; outputs], right: vec![0.0; inputs] };
    let mut values = vec![none; rank];
    parallel_chunks(&mut values, 1, |place, singular| {
        let Some(&index) = order.get(place) else { return };
        let value = products[index][index].max(0.0).sqrt();
        let inverse = if value > 0.0 { 1.0 / value } else { 0.0 };
        let (left, right) = (combine(&left, outputs, index, 1.0), combine(&right, inputs, index, inverse));
        singular[0] = Singular { value, left, right };
    });
    values
}

fn product(one: &[f32], other: &[f32]) -> f64 {
    one.iter().zip(other).map(|(one, other)| f64::from(*one) * f64::from(*other)).sum()
}

fn length(row: &[f32]) -> f64 {
    product(row, row).sqrt()
}

/// Makes rows of `width` orthogonal to each other and of length one (modified Gram–Schmidt, twice, because once leaves
/// what rounding made); a row that is a sum of others becomes zero.
fn orthonormalize(rows: &mut [f32], width: usize) {
    for _ in 0..2 {
        let whole: Vec<f64> = rows.chunks_exact(width).map(length).collect();
        for (index, whole) in whole.into_iter().enumerate() {
            let (done, later) = rows.split_at_mut((index + 1) * width);
            let row = &mut done[index * width..];
            let rest = length(row);
            let factor = if rest > 1e-6 * whole { 1.0 / rest } else { 0.0 };
            row.iter_mut().for_each(|value| *value = (f64::from(*value) * factor) as f32);
            parallel_chunks(later, width, |_, other| {
                let along = product(other, row) as f32;
                other.iter_mut().zip(row.iter()).for_each(|(value, row)| *value -= along * row);
            });
        }
    }
}

/// Makes a symmetric matrix diagonal by Jacobi's rotations; returns the eigenvectors as columns.
fn eigenvectors(matrix: &mut [Vec<f64>]) -> Vec<Vec<f64>> {
    let size = matrix.len();
    let mut vectors: Vec<Vec<f64>> =
        (0..size).map(|row| (0..size).map(|column| f64::from(u8::from(row == column))).collect()).collect();
    for _ in 0..60 {
        let off: f64 = (0..size)
            .flat_map(|row| (0..row).map(move |column| (row, column)))
            .map(|(row, column)| matrix[row][column].powi(2))
            .sum();
        let diagonal: f64 = (0..size).map(|index| matrix[index][index].powi(2)).sum();
        if off <= 1e-28 * diagonal {
            break;
        }
        for p in 0..size {
            for q in p + 1..size {
                if matrix[p][q] == 0.0 {
                    continue;
                }
                let theta = (matrix[q][q] - matrix[p][p]) / (2.0 * matrix[p][q]);
                let tangent = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let tangent = if theta == 0.0 { 1.0 } else { tangent };
                let cosine = 1.0 / (tangent * tangent + 1.0).sqrt();
                let sine = tangent * cosine;
                let turn = |one: f64, other: f64| (cosine * one - sine * other, sine * one + cosine * other);
                for row in matrix.iter_mut().chain(vectors.iter_mut()) {
                    (row[p], row[q]) = turn(row[p], row[q]);
                }
                let (before, from) = matrix.split_at_mut(q);
                for (one, other) in before[p].iter_mut().zip(from[0].iter_mut()) {
                    (*one, *other) = turn(*one, *other);
                }
            }
        }
    }
    vectors
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A matrix whose singular values are known: orthogonal rows times values times orthogonal columns.
    fn known(outputs: usize, inputs: usize, values: &[f64]) -> Vec<f32> {
        let mut random = Random::new(&[1]);
        let mut normals = |count: usize| -> Vec<f32> { (0..count).map(|_| random.normal()).collect() };
        let (mut left, mut right) = (normals(values.len() * outputs), normals(values.len() * inputs));
        orthonormalize(&mut left, outputs);
        orthonormalize(&mut right, inputs);
        let at = |row: usize, column: usize| -> f64 {
            let one = |(index, value): (usize, &f64)| {
                value * f64::from(left[index * outputs + row]) * f64::from(right[index * inputs + column])
            };
            values.iter().enumerate().map(one).sum()
        };
        (0..outputs * inputs).map(|index| at(index / inputs, index % inputs) as f32).collect()
    }

    #[test]
    fn the_largest_singular_values_are_found_with_their_vectors() {
        let (outputs, inputs) = (40, 30);
        let values: Vec<f64> = (0..30).map(|index| 3.0 * 0.9f64.powi(index)).collect();
        let matrix = known(outputs, inputs, &values);
        let buffer = Buffer::from_host(&matrix);
        let weight = Weight::new(buffer.first(matrix.len()), outputs, inputs);
        for (iterations, bound) in [(None, 1e-5), (Some(16), 1e-2)] {
            let found = largest_singular(weight, 5, iterations, &mut Random::new(&[2]));
            for (singular, value) in found.iter().zip(&values) {
                assert!((singular.value - value).abs() < bound * value, "{} {value}", singular.value);
            }
            // W·v = σ·u
            let Singular { value, left, right } = &found[0];
            for (row, left) in matrix.chunks(inputs).zip(left) {
                let along: f64 = row.iter().zip(right).map(|(one, other)| f64::from(*one) * other).sum();
                assert!((along - value * left).abs() < bound * value, "{along} {}", value * left);
            }
        }
    }

    #[test]
    fn a_matrix_of_a_lower_rank_has_zeros() {
        let matrix = known(12, 9, &[2.0, 1.0]);
        let buffer = Buffer::from_host(&matrix);
        let weight = Weight::new(buffer.first(matrix.len()), 12, 9);
        let found = largest_singular(weight, 11, None, &mut Random::new(&[2]));
        assert!(found.len() == 11 && found[2..].iter().all(|singular| singular.value < 1e-3));
        assert!(found.iter().all(|one| one.left.iter().chain(&one.right).all(|value| value.is_finite())));
    }

    #[test]
    fn names_of_the_method_carry_the_iterations() {
        assert_eq!(pissa_method(-1), "pissa");
        assert_eq!(iterations_of("pissa"), Some(None));
        assert_eq!(iterations_of(&pissa_method(16)), Some(Some(16)));
        assert_eq!((iterations_of("pissa_niter_x"), iterations_of("gaussian")), (None, None));
    }
}
