//! Quantizing a linear layer so that its outputs change least on given inputs: GPTQ (Frantar et al. 2022,
//! arXiv:2210.17323). Columns are rounded one by one; what each loses is made up for by those behind it, as far as the
//! inputs' second moments H = Σ x·xᵀ say.
//!
//! It knows matrices, not models. The order of every sum depends on shapes only.

use danlu_kernels::linear::linear_backward_weight;
use danlu_kernels::matmul::{Operand, Output, matmul};
use danlu_kernels::team::parallel_chunks;
use danlu_kernels::{Buffer, Grouped, Precision, Value, View};
use half::f16;

use crate::gptq::Gptq;

/// Columns whose losses are passed on together to all behind them.
const BLOCK: usize = 128;
/// A triangle that is not split further.
const SMALL: usize = 64;
/// Rows that one task quantizes.
const ROWS: usize = 4;
/// How often the damping is raised before a Hessian is given up.
const ATTEMPTS: usize = 10;

/// Second moments of a layer's inputs.
pub(crate) struct Hessian {
    inputs: usize,
    values: Buffer<f32>,
}

impl Hessian {
    pub(crate) fn new(inputs: usize) -> Self {
        Self { inputs, values: Buffer::zeros(inputs * inputs) }
    }

    /// Adds x [T, inputs].
    pub(crate) fn add<T: Value>(&mut self, x: View<T>) {
        let all = self.values.len();
        linear_backward_weight(Precision::F32, x, x, [self.inputs; 2], self.values.first_mut(all));
    }

    /// What the layers with these inputs need to be quantized; `None` if the moments are no finite numbers.
    pub(crate) fn solve(self, settings: Gptq, damp_percent: f64) -> Option<Solver> {
        let n = self.inputs;
        let values = self.values.host();
        let mut diagonal: Vec<f32> = (0..n).map(|i| values[i * (n + 1)]).collect();
        if !values.iter().all(|value| value.is_finite()) {
            return None;
        }
        let order = match settings.desc_act {
            true => {
                let mut order: Vec<usize> = (0..n).collect();
                order.sort_by(|a, b| diagonal[*b].total_cmp(&diagonal[*a]));
                order
            }
            false => (0..n).collect(),
        };
        // An input that never was anything loses nothing by itself and passes nothing on.
        diagonal.iter_mut().filter(|moment| **moment == 0.0).for_each(|moment| *moment = 1.0);
        let damping = diagonal.iter().map(|moment| f64::from(*moment)).sum::<f64>() / n as f64 * damp_percent;
        for attempt in 1..=ATTEMPTS {
            let mut ordered = Buffer::zeros(n * n);
            parallel_chunks(ordered.host_mut(), n, |row, ordered| {
                let moments = &values[order[row] * n..][..n];
                ordered.iter_mut().zip(&order).for_each(|(out, column)| *out = moments[*column]);
                ordered[row] = (f64::from(diagonal[order[row]]) + damping * attempt as f64) as f32;
            });
            if let Some(factor) = inverse_factor(ordered, n) {
                return Some(Solver { settings, order, factor });
            }
        }
        None
    }
}

/// Upper triangular U with H⁻¹ = UᵀU.
///
/// With H = R·Rᵀ and R upper triangular, U = R⁻¹. H = [[A, B], [Bᵀ, D]] is split; with Q = B·U_Dᵀ, the factor of
/// A − Q·Qᵀ is that of the first part, and −U_A·Q·U_D stands beside it.
fn inverse_factor(h: Buffer<f32>, n: usize) -> Option<Buffer<f32>> {
    if n <= SMALL {
        return small_factor(h.host(), n);
    }
    let m = (n / 2).next_multiple_of(SMALL).min(n - 1);
    let rest = n - m;
    let part = |first: usize, rows: usize, column: usize, columns: usize| {
        let mut part = Buffer::zeros(rows * columns);
        for (row, out) in part.host_mut().chunks_exact_mut(columns).enumerate() {
            out.copy_from_slice(&h.host()[(first + row) * n + column..][..columns]);
        }
        part
    };
    let mut a = part(0, m, 0, m);
    let (b, d) = (part(0, m, m, rest), part(m, rest, m, rest));
    drop(h);
    let u_d = inverse_factor(d, rest)?;
    let q = product([m, rest], 1.0, whole(&b, m), whole(&u_d, rest).transposed());
    let all = a.len();
    matmul(Precision::F32, -1.0, whole(&q, m), whole(&q, m).transposed(), Output::Add, a.first_mut(all));
    let u_a = inverse_factor(a, m)?;
    let q_u = product([m, rest], 1.0, whole(&q, m), whole(&u_d, rest));
    let beside = product([m, rest], -1.0, whole(&u_a, m), whole(&q_u, m));
    let mut u = Buffer::zeros(n * n);
    for (row, out) in u.host_mut().chunks_exact_mut(n).enumerate() {
        if row < m {
            out[..m].copy_from_slice(&u_a.host()[row * m..][..m]);
            out[m..].copy_from_slice(&beside.host()[row * rest..][..rest]);
        } else {
            out[m..].copy_from_slice(&u_d.host()[(row - m) * rest..][..rest]);
        }
    }
    Some(u)
}

/// The same by the definitions, in f64.
fn small_factor(h: &[f32], n: usize) -> Option<Buffer<f32>> {
    let (mut r, mut u) = (vec![0.0f64; n * n], vec![0.0f64; n * n]);
    for j in (0..n).rev() {
        for i in (0..=j).rev() {
            let sum: f64 = (j + 1..n).map(|k| r[i * n + k] * r[j * n + k]).sum();
            let left = f64::from(h[i * n + j]) - sum;
            r[i * n + j] = if i == j { left.sqrt() } else { left / r[j * n + j] };
        }
        if !(r[j * n + j] > 0.0 && r[j * n + j].is_finite()) {
            return None;
        }
    }
    for j in 0..n {
        u[j * n + j] = 1.0 / r[j * n + j];
        for i in (0..j).rev() {
            let sum: f64 = (i + 1..=j).map(|k| r[i * n + k] * u[k * n + j]).sum();
            u[i * n + j] = -sum / r[i * n + i];
        }
    }
    Some(Buffer::from_host(&u.into_iter().map(|value| value as f32).collect::<Vec<_>>()))
}

fn whole(buffer: &Buffer<f32>, rows: usize) -> Operand<'_> {
    Operand::new(buffer.first(buffer.len()), rows, buffer.len() / rows)
}

/// A [M, K] · B [K, N].
fn product([m, n]: [usize; 2], alpha: f32, a: Operand, b: Operand) -> Buffer<f32> {
    let length = m * n;
    let mut c = Buffer::zeros(length);
    matmul(Precision::F32, alpha, a, b, Output::Overwrite, c.first_mut(length));
    c
}

/// What the layers with the same inputs share.
pub(crate) struct Solver {
    settings: Gptq,
    /// Inputs in the order in which they are quantized.
    order: Vec<usize>,
    /// U of the inputs in that order.
    factor: Buffer<f32>,
}

/// One row of a weight on its way, columns in the solver's order.
struct Row {
    values: Vec<f32>,
    quants: Vec<u8>,
    /// What the columns of this block lost, divided by U's diagonal.
    losses: Vec<f32>,
    scales: Vec<f16>,
    zeros: Vec<u8>,
}

impl Solver {
    /// Quantizes a weight [outputs, inputs]; `None` if a value or a scale is not finite.
    pub(crate) fn quantize(&self, weight: &[f32]) -> Option<Grouped> {
        if !weight.iter().all(|value| value.is_finite()) {
            return None;
        }
        let n = self.order.len();
        let outputs = weight.len() / n;
        let bits = self.settings.bits;
        let mut rows: Vec<Row> = weight
            .chunks_exact(n)
            .map(|row| Row {
                values: self.order.iter().map(|column| row[*column]).collect(),
                quants: vec![0; n],
                losses: Vec::new(),
                scales: Vec::new(),
                zeros: Vec::new(),
            })
            .collect();
        for first in (0..n).step_by(BLOCK) {
            let end = n.min(first + BLOCK);
            parallel_chunks(&mut rows, ROWS, |_, rows| {
                rows.iter_mut().for_each(|row| self.block(row, first, end));
            });
            if end < n {
                self.pass_on(&mut rows, first, end);
            }
        }
        let groups = self.settings.groups(n);
        let size = self.settings.group_size.unwrap_or(n);
        let mut group_of = vec![0; n];
        self.order.iter().enumerate().for_each(|(place, column)| group_of[*column] = (place / size) as u16);
        let mut grouped = Grouped::zeros(bits, [outputs, n], groups, &group_of);
        let parts = grouped.parts_mut();
        let words = parts.words.chunks_exact_mut(n / self.settings.pack());
        let zeros = parts.zeros.chunks_exact_mut(groups);
        let scales = parts.scales.as_chunks_mut::<2>().0.chunks_exact_mut(groups);
        for (((row, words), zeros), scales) in rows.iter().zip(words).zip(zeros).zip(scales) {
            if !row.scales.iter().all(|scale| scale.is_finite()) {
                return None;
            }
            for (place, column) in self.order.iter().enumerate() {
                let bit = column * bits;
                words[bit / 32] |= u32::from(row.quants[place]) << (bit % 32);
            }
            zeros.copy_from_slice(&row.zeros);
            scales.iter_mut().zip(&row.scales).for_each(|(bytes, scale)| *bytes = scale.to_le_bytes());
        }
        Some(grouped)
    }

    /// Quantizes the columns `first..end` of a row, each made up for by those behind it.
    fn block(&self, row: &mut Row, first: usize, end: usize) {
        let n = self.order.len();
        let size = self.settings.group_size.unwrap_or(n);
        let most = ((1u32 << self.settings.bits) - 1) as f32;
        row.losses.clear();
        for column in first..end {
            if column.is_multiple_of(size) {
                let (scale, zero) = self.grid(&row.values[column..n.min(column + size)]);
                row.scales.push(scale);
                row.zeros.push(zero);
            }
            let (Some(scale), Some(zero)) = (row.scales.last(), row.zeros.last()) else { return };
            let (scale, zero) = (scale.to_f32(), f32::from(*zero));
            let value = row.values[column];
            let quant = ((value / scale).round_ties_even() + zero).clamp(0.0, most);
            row.quants[column] = quant as u8;
            let factors = &self.factor.host()[column * n..][column..end];
            let loss = (value - (quant - zero) * scale) / factors[0];
            row.losses.push(loss);
            for (value, factor) in row.values[column..end].iter_mut().zip(factors) {
                *value -= loss * factor;
            }
        }
    }

    /// Makes up for a block's losses in all columns behind it.
    fn pass_on(&self, rows: &mut [Row], first: usize, end: usize) {
        let n = self.order.len();
        let (block, rest) = (end - first, n - end);
        let losses: Vec<f32> = rows.iter().flat_map(|row| row.losses.iter().copied()).collect();
        let factors: Vec<f32> = (first..end)
            .flat_map(|row| self.factor.host()[row * n + end..(row + 1) * n].iter().copied())
            .collect();
        let (losses, factors) = (Buffer::from_host(&losses), Buffer::from_host(&factors));
        let change = product([rows.len(), rest], 1.0, whole(&losses, rows.len()), whole(&factors, block));
        for (row, change) in rows.iter_mut().zip(change.host().chunks_exact(rest)) {
            row.values[end..].iter_mut().zip(change).for_each(|(value, change)| *value -= change);
        }
    }

    /// Scale and zero of a group, from its extremes; 0 is always a value.
    fn grid(&self, values: &[f32]) -> (f16, u8) {
        let extremes = |(low, high): (f32, f32), value: &f32| (low.min(*value), high.max(*value));
        let (low, high) = values.iter().fold((0.0, 0.0), extremes);
        let most = ((1u32 << self.settings.bits) - 1) as f32;
        let (low, high) = match self.settings.sym {
            true => (-high.max(-low), high.max(-low)),
            false => (low, high),
        };
        let (low, high) = if low == 0.0 && high == 0.0 { (-1.0, 1.0) } else { (low, high) };
        let scale = f16::from_f32((high - low) / most);
        // The smallest f16 in the place of 0.
        let scale = if scale.to_bits() == 0 { f16::from_bits(1) } else { scale };
        let zero = match self.settings.sym {
            true => (most + 1.0) / 2.0,
            // Stored less one: a zero of 0 would not be read alike everywhere.
            false => (-low / scale.to_f32()).round_ties_even().clamp(1.0, most),
        };
        (scale, zero as u8)
    }
}

#[cfg(test)]
mod tests {
    use danlu_kernels::random::Random;

    use super::*;

    const INPUTS: usize = 320;
    const OUTPUTS: usize = 9;

    /// Inputs that depend on each other, some more than others, and one that is always zero.
    fn inputs(tokens: usize) -> Buffer<f32> {
        let mut random = Random::new(&[3]);
        let mix: Vec<f32> = (0..INPUTS * 16).map(|_| random.normal()).collect();
        let mut x = Vec::new();
        for _ in 0..tokens {
            let hidden: Vec<f32> = (0..16).map(|_| random.normal()).collect();
            for (column, mix) in mix.chunks_exact(16).enumerate() {
                let shared: f32 = mix.iter().zip(&hidden).map(|(a, b)| a * b).sum();
                let value = (shared + 0.3 * random.normal()) * (1.0 + (column % 7) as f32);
                x.push(if column == 5 { 0.0 } else { value });
            }
        }
        Buffer::from_host(&x)
    }

    /// Mean square of what the outputs lose.
    fn loss(weight: &[f32], grouped: &Grouped, x: &Buffer<f32>) -> f64 {
        let mut change = weight.to_vec();
        for (row, values) in change.chunks_exact_mut(INPUTS).enumerate() {
            let mut own = vec![0.0; INPUTS];
            grouped.dequantize(row, 0, &mut own);
            values.iter_mut().zip(own).for_each(|(value, own)| *value -= own);
        }
        let change = Buffer::from_host(&change);
        let lost = product(
            [x.len() / INPUTS, OUTPUTS],
            1.0,
            whole(x, x.len() / INPUTS),
            whole(&change, OUTPUTS).transposed(),
        );
        lost.host().iter().map(|value| f64::from(*value).powi(2)).sum()
    }

    #[test]
    fn the_factor_is_that_of_the_inverse() {
        let x = inputs(2 * INPUTS);
        let mut hessian = Hessian::new(INPUTS);
        hessian.add(x.first(x.len()));
        let mut h = hessian.values.host().to_vec();
        (0..INPUTS).for_each(|i| h[i * (INPUTS + 1)] += 50.0);
        let u = inverse_factor(Buffer::from_host(&h), INPUTS).unwrap();
        assert!((1..INPUTS).all(|row| u.host()[row * INPUTS..][..row].iter().all(|value| *value == 0.0)));
        // H·UᵀU = 1
        let u_h = product([INPUTS; 2], 1.0, whole(&u, INPUTS), whole(&Buffer::from_host(&h), INPUTS));
        let one = product([INPUTS; 2], 1.0, whole(&u, INPUTS).transposed(), whole(&u_h, INPUTS));
        for (place, value) in one.host().iter().enumerate() {
            let expected = if place % (INPUTS + 1) == 0 { 1.0 } else { 0.0 };
            assert!((value - expected).abs() < 5e-3, "{place}: {value}");
        }
        assert!(inverse_factor(Buffer::from_host(&vec![-1.0; 100 * 100]), 100).is_none());
    }

    #[test]
    fn outputs_lose_less_than_by_rounding_and_less_with_more_bits() {
        let mut random = Random::new(&[4]);
        let weight: Vec<f32> = (0..OUTPUTS * INPUTS).map(|_| 0.1 * random.normal()).collect();
        let x = inputs(1000);
        for (sym, desc_act) in [(true, false), (false, false), (true, true), (false, true)] {
            let mut before = f64::INFINITY;
            for (bits, size) in [(4, None), (4, Some(128)), (4, Some(32)), (8, Some(64))] {
                let settings = Gptq { bits, group_size: size, desc_act, sym, is_v2: false };
                let mut hessian = Hessian::new(INPUTS);
                let rounded = Hessian::new(INPUTS).solve(settings, 0.01).unwrap().quantize(&weight).unwrap();
                hessian.add(x.first(x.len()));
                let solver = hessian.solve(settings, 0.01).unwrap();
                let solved = solver.quantize(&weight).unwrap();
                let (rounded, solved) = (loss(&weight, &rounded, &x), loss(&weight, &solved, &x));
                assert!(solved < 0.7 * rounded, "{settings:?}: {solved} against {rounded}");
                assert!(solved < 1.1 * before, "{settings:?}: {solved} after {before}");
                before = solved;
            }
        }
    }

    #[test]
    fn what_is_no_number_is_refused() {
        let settings = Gptq { bits: 4, group_size: Some(32), desc_act: false, sym: true, is_v2: false };
        let solver = Hessian::new(64).solve(settings, 0.01).unwrap();
        assert!(solver.quantize(&[0.0; 128]).is_some());
        assert!(solver.quantize(&[f32::NAN; 128]).is_none());
        assert!(solver.quantize(&[1e30; 128]).is_none());
        let mut hessian = Hessian::new(2);
        hessian.add(Buffer::from_host(&[f32::INFINITY, 1.0]).first(2));
        assert!(hessian.solve(settings, 0.01).is_none());
    }
}
