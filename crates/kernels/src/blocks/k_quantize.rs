//! f32 to ggml's super-blocks of 256, as its reference quantizes them, with and without an importance of each column.
//!
//! Three steps: a scale (and minimum) for each sub-block; those quantized against the super-block's own; the quants once
//! more with what was stored. Sixteen super-blocks go side by side, one to a lane.

use std::array::from_fn;

use super::k::{
    ELEMENTS, Q2K, Q3K, Q4K, Q5K, Q6K, Quants, pack_scales_and_minima, pack_sixteen_scales, to_nibbles,
    to_nibbles_of_half, to_one_bit, to_two_bits,
};
use super::lanes::{LANES, Lanes, each_lane, flat, flat_mut, nearest, put_into_lane};
use super::legacy::{WEIGHTED, weigh};
use super::plain::{f32_to_half, half_to_f32};
use super::search::{ALL_ZERO, Candidates, Distance, affine, positive, symmetric, symmetric_by_descent};

/// Up to sixteen super-blocks: element i of each is row i.
pub(super) struct Tile {
    values: [Lanes; ELEMENTS],
    /// The importance of each element, if there is one.
    importance: Option<[Lanes; ELEMENTS]>,
}

/// A type of super-block that can be quantized.
pub(super) trait Quantize: Sized {
    /// The first as many super-blocks of the tile as `blocks` has.
    fn quantize(tile: &Tile, blocks: &mut [Self]);
}

/// Quantizes `values`, whole rows; `importance` has one row's length.
pub(super) fn quantize<B: Quantize>(values: &[f32], importance: Option<&[f32]>, blocks: &mut [B]) {
    let mut tile =
        Tile { values: [Lanes::ZERO; ELEMENTS], importance: importance.map(|_| [Lanes::ZERO; ELEMENTS]) };
    for (number, blocks) in blocks.chunks_mut(LANES).enumerate() {
        for lane in 0..blocks.len() {
            let start = (number * LANES + lane) * ELEMENTS;
            put_into_lane(&mut tile.values, lane, &values[start..]);
            if let (Some(tile), Some(importance)) = (&mut tile.importance, importance) {
                put_into_lane(tile, lane, &importance[start % importance.len()..]);
            }
        }
        B::quantize(&tile, blocks);
    }
}

/// The quants of sixteen super-blocks, element i of each in row i.
type TileQuants = [[u8; LANES]; ELEMENTS];

fn of_lane(quants: &TileQuants, lane: usize) -> Quants {
    from_fn(|i| quants[i][lane])
}

/// Σ x² of each lane.
#[inline(always)]
fn sum_of_squares(values: &[Lanes]) -> Lanes {
    let mut sum = Lanes::ZERO;
    for &x in values {
        sum = sum + x * x;
    }
    sum
}

by_cpu_level! {
    /// Weights from importance: times √(`factor` · mean square of the super-block + x²), and their sums by sub-block.
    fn weigh_by_importance(values: &[Lanes], factor: f32, weights: &mut [Lanes], sums: &mut [Lanes]) {
        let mean_square = Lanes::splat(factor) * sum_of_squares(values) / Lanes::splat(ELEMENTS as f32);
        weigh(values, mean_square, weights);
        let length = values.len() / sums.len();
        for (sum, weights) in sums.iter_mut().zip(weights.chunks_exact(length)) {
            *sum = weights.iter().fold(Lanes::ZERO, |sum, &w| sum + w);
        }
    }
}

by_cpu_level! {
    /// |x|.
    fn weigh_by_magnitude(values: &[Lanes], weights: &mut [Lanes]) {
        for (w, x) in flat_mut(weights).iter_mut().zip(flat(values)) {
            *w = x.abs();
        }
    }
}

by_cpu_level! {
    /// |x| + the root of the sub-block's mean square.
    fn weigh_by_magnitude_and_mean(values: &[Lanes], weights: &mut [Lanes]) {
        let root = (sum_of_squares(values) / Lanes::splat(values.len() as f32)).sqrt();
        for (w, x) in weights.iter_mut().zip(values) {
            *w = root + x.abs();
        }
    }
}

by_cpu_level! {
    /// x².
    fn weigh_by_square(values: &[Lanes], weights: &mut [Lanes]) {
        for (w, x) in flat_mut(weights).iter_mut().zip(flat(values)) {
            *w = x * x;
        }
    }
}

by_cpu_level! {
    /// Each quant again, from the scale and minimum that were stored; those whose scale is 0 stay.
    fn requantize(
        values: &[Lanes],
        scale: Lanes,
        minimum: Lanes,
        lowest: f32,
        highest: f32,
        quants: &mut [[u8; LANES]],
    ) {
        let kept = scale.equals(Lanes::ZERO);
        for (quants, &x) in quants.iter_mut().zip(values) {
            let found = ((x + minimum) / scale).rounded(lowest, highest) - Lanes::splat(lowest);
            *quants = kept.select_bytes(*quants, found.bytes());
        }
    }
}

/// One number of each sub-block, as it is stored: bytes that the super-block's f16 multiplies.
struct Stored<const SUB_BLOCKS: usize> {
    half: [[u8; 2]; LANES],
    bytes: [[u8; LANES]; SUB_BLOCKS],
}

impl<const SUB_BLOCKS: usize> Stored<SUB_BLOCKS> {
    /// Numbers from 0 up, in 0 ..= `levels`; `weights` are those of the sub-blocks where there is an importance.
    fn positive(numbers: &[Lanes; SUB_BLOCKS], weights: Option<&[Lanes; SUB_BLOCKS]>, levels: f32) -> Self {
        let mut bytes = [[0; LANES]; SUB_BLOCKS];
        if let Some(weights) = weights {
            let scale = positive(numbers, weights, levels, &mut bytes);
            return Self { half: scale.0.map(f32_to_half), bytes };
        }
        let largest = numbers.iter().fold(Lanes::ZERO, |largest, &number| number.greater(largest));
        let half = largest.0.map(|largest| f32_to_half(largest / levels));
        let inverse = largest.0.map(|largest| if largest > 0.0 { levels / largest } else { 0.0 });
        for (bytes, numbers) in bytes.iter_mut().zip(numbers) {
            *bytes = each_lane(|lane| (nearest(inverse[lane] * numbers.0[lane]) as u8).min(levels as u8));
        }
        Self { half, bytes }
    }

    /// Numbers of both signs: the largest becomes −`half`, and `round` makes the byte of the others' shares.
    fn signed(numbers: &[Lanes; SUB_BLOCKS], half: f32, round: impl Fn(f32) -> u8) -> Self {
        let mut stored = Self { half: [[0; 2]; LANES], bytes: [[0; LANES]; SUB_BLOCKS] };
        for lane in 0..LANES {
            let largest = numbers
                .iter()
                .map(|numbers| numbers.0[lane])
                .fold(0.0f32, |largest, number| if number.abs() > largest.abs() { number } else { largest });
            if largest != 0.0 {
                let inverse = -half / largest;
                stored.half[lane] = f32_to_half(1.0 / inverse);
                for (bytes, numbers) in stored.bytes.iter_mut().zip(numbers) {
                    bytes[lane] = round(inverse * numbers.0[lane]);
                }
            }
        }
        stored
    }

    /// What sub-block `j` of each super-block reads back; `value` is that of a byte.
    fn read(&self, j: usize, value: impl Fn(u8) -> f32) -> Lanes {
        Lanes(each_lane(|lane| half_to_f32(self.half[lane]) * value(self.bytes[j][lane])))
    }

    fn of_lane(&self, lane: usize) -> ([u8; 2], [u8; SUB_BLOCKS]) {
        (self.half[lane], from_fn(|j| self.bytes[j][lane]))
    }
}

/// The three steps for the types with minima: scales and minima in 0 ..= `stored_levels`, quants in 0 ..= `levels`.
struct Affine {
    levels: f32,
    stored_levels: f32,
    /// Of the mean square, in weights from importance.
    factor: f32,
    /// Without importance.
    weigh: fn(&[Lanes], &mut [Lanes]),
    candidates: Candidates,
}

impl Affine {
    fn quantize<const SUB_BLOCKS: usize>(
        &self,
        tile: &Tile,
    ) -> (Stored<SUB_BLOCKS>, Stored<SUB_BLOCKS>, TileQuants) {
        let length = ELEMENTS / SUB_BLOCKS;
        let ranges = |j: usize| j * length..(j + 1) * length;
        let mut weights = tile.importance.unwrap_or([Lanes::ZERO; ELEMENTS]);
        let mut sums = [Lanes::ZERO; SUB_BLOCKS];
        let candidates = if tile.importance.is_some() {
            weigh_by_importance(&tile.values, self.factor, &mut weights, &mut sums);
            WEIGHTED
        } else {
            for j in 0..SUB_BLOCKS {
                (self.weigh)(&tile.values[ranges(j)], &mut weights[ranges(j)]);
            }
            self.candidates
        };
        let mut quants = [[0; LANES]; ELEMENTS];
        let (mut scales, mut minima) = ([Lanes::ZERO; SUB_BLOCKS], [Lanes::ZERO; SUB_BLOCKS]);
        for j in 0..SUB_BLOCKS {
            let (values, weights) = (&tile.values[ranges(j)], &weights[ranges(j)]);
            (scales[j], minima[j]) = affine(values, weights, self.levels, candidates, &mut quants[ranges(j)]);
        }
        let sums = tile.importance.is_some().then_some(&sums);
        let scales = Stored::positive(&scales, sums, self.stored_levels);
        let minima = Stored::positive(&minima, sums, self.stored_levels);
        for j in 0..SUB_BLOCKS {
            let (scale, minimum) = (scales.read(j, f32::from), minima.read(j, f32::from));
            let values = &tile.values[ranges(j)];
            requantize(values, scale, minimum, 0.0, self.levels, &mut quants[ranges(j)]);
        }
        (scales, minima, quants)
    }
}

impl Quantize for Q2K {
    fn quantize(tile: &Tile, blocks: &mut [Self]) {
        let affine = Affine {
            levels: 3.0,
            stored_levels: 15.0,
            factor: 1.0,
            weigh: weigh_by_magnitude,
            candidates: Candidates { first: -0.5, step: 0.1, last: 15, distance: Distance::Absolute },
        };
        let (scales, minima, quants) = affine.quantize::<16>(tile);
        for (lane, block) in blocks.iter_mut().enumerate() {
            let ((d, scales), (m, minima)) = (scales.of_lane(lane), minima.of_lane(lane));
            let scales = from_fn(|j| scales[j] | minima[j] << 4);
            *block = Self { scales, two_bits: to_two_bits(&of_lane(&quants, lane)), d, m };
        }
    }
}

impl Quantize for Q4K {
    fn quantize(tile: &Tile, blocks: &mut [Self]) {
        let affine = Affine {
            levels: 15.0,
            stored_levels: 63.0,
            factor: 2.0,
            weigh: weigh_by_magnitude_and_mean,
            candidates: Candidates { first: -1.0, step: 0.1, last: 20, distance: Distance::Squared },
        };
        let (scales, minima, quants) = affine.quantize::<8>(tile);
        for (lane, block) in blocks.iter_mut().enumerate() {
            let ((d, scales), (m, minima)) = (scales.of_lane(lane), minima.of_lane(lane));
            let scales = pack_scales_and_minima(&scales, &minima);
            *block = Self { d, m, scales, nibbles: to_nibbles(&of_lane(&quants, lane)) };
        }
    }
}

impl Quantize for Q5K {
    fn quantize(tile: &Tile, blocks: &mut [Self]) {
        let affine = Affine {
            levels: 31.0,
            stored_levels: 63.0,
            factor: 2.0,
            weigh: weigh_by_magnitude_and_mean,
            candidates: Candidates { first: -0.5, step: 0.1, last: 15, distance: Distance::Squared },
        };
        let (scales, minima, quants) = affine.quantize::<8>(tile);
        for (lane, block) in blocks.iter_mut().enumerate() {
            let ((d, scales), (m, minima)) = (scales.of_lane(lane), minima.of_lane(lane));
            let scales = pack_scales_and_minima(&scales, &minima);
            let quants = of_lane(&quants, lane);
            let one_bit = to_one_bit(&quants.map(|quant| quant >> 4));
            *block = Self { d, m, scales, one_bit, nibbles: to_nibbles(&quants.map(|quant| quant & 15)) };
        }
    }
}

impl Quantize for Q3K {
    fn quantize(tile: &Tile, blocks: &mut [Self]) {
        let mut quants = [[0; LANES]; ELEMENTS];
        let mut scales = [Lanes::ZERO; 16];
        let sub_blocks = scales.iter_mut().zip(tile.values.chunks_exact(16)).zip(quants.chunks_exact_mut(16));
        let stored = if let Some(mut weights) = tile.importance {
            let mut sums = [Lanes::ZERO; 16];
            weigh_by_importance(&tile.values, 2.0, &mut weights, &mut sums);
            for (((scale, values), quants), weights) in sub_blocks.zip(weights.chunks_exact(16)) {
                *scale = symmetric(values, weights, 4.0, quants);
            }
            let mut bytes = [[0; LANES]; 16];
            let scale = symmetric(&scales, &sums, 32.0, &mut bytes);
            Stored { half: scale.0.map(f32_to_half), bytes }
        } else {
            for ((scale, values), quants) in sub_blocks {
                *scale = symmetric_by_descent(values, 4.0, quants);
            }
            Stored::signed(&scales, 32.0, |share| ((nearest(share) as i8).clamp(-32, 31) + 32) as u8)
        };
        let sub_blocks = tile.values.chunks_exact(16).zip(quants.chunks_exact_mut(16));
        for (j, (values, quants)) in sub_blocks.enumerate() {
            let scale = stored.read(j, |byte| f32::from(byte as i8 - 32));
            requantize(values, scale, Lanes::ZERO, -4.0, 3.0, quants);
        }
        for (lane, block) in blocks.iter_mut().enumerate() {
            let ((d, scales), quants) = (stored.of_lane(lane), of_lane(&quants, lane));
            let one_bit = to_one_bit(&quants.map(|quant| quant >> 2));
            let two_bits = to_two_bits(&quants.map(|quant| quant & 3));
            *block = Self { one_bit, two_bits, scales: pack_sixteen_scales(&scales), d };
        }
    }
}

impl Quantize for Q6K {
    fn quantize(tile: &Tile, blocks: &mut [Self]) {
        let mut quants = [[0; LANES]; ELEMENTS];
        let mut scales = [Lanes::ZERO; 16];
        let weights = tile.importance.unwrap_or_else(|| {
            let mut squares = [Lanes::ZERO; ELEMENTS];
            weigh_by_square(&tile.values, &mut squares);
            squares
        });
        let sub_blocks = tile.values.chunks_exact(16).zip(quants.chunks_exact_mut(16));
        for ((scale, weights), (values, quants)) in
            scales.iter_mut().zip(weights.chunks_exact(16)).zip(sub_blocks)
        {
            *scale = symmetric(values, weights, 32.0, quants);
        }
        let stored = Stored::signed(&scales, 128.0, |share| nearest(share).min(127) as u8);
        let sub_blocks = tile.values.chunks_exact(16).zip(quants.chunks_exact_mut(16));
        for (j, (values, quants)) in sub_blocks.enumerate() {
            let scale = stored.read(j, |byte| f32::from(byte as i8));
            requantize(values, scale, Lanes::ZERO, -32.0, 31.0, quants);
        }
        for (lane, block) in blocks.iter_mut().enumerate() {
            let all_zero = scales.iter().all(|scale| scale.0[lane].abs() < ALL_ZERO);
            let ((d, scales), quants) = (stored.of_lane(lane), of_lane(&quants, lane));
            *block = if all_zero {
                bytemuck::Zeroable::zeroed()
            } else {
                let two_bits = to_two_bits(&quants.map(|quant| quant >> 4));
                Self { nibbles: to_nibbles_of_half(&quants.map(|quant| quant & 15)), two_bits, scales, d }
            };
        }
    }
}
