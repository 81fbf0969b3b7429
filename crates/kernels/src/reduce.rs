//! Sums and maxima whose order is fixed: lanes, then a tree of them; of large vectors chunks of a fixed size in order.

use crate::buffer::{View, ViewMut};
use crate::team::{SharedSlice, parallel_chunks, parallel_for};
use crate::value::Value;

const CHUNK: usize = 1 << 16;

/// Σ x².
pub fn sum_of_squares(x: View<f32>) -> f64 {
    let _timer = crate::timing::Operation::Optimizer.start();
    let mut sums = vec![0.0f64; x.0.len().div_ceil(CHUNK)];
    parallel_chunks(&mut sums, 1, |task, sum| {
        let start = task * CHUNK;
        sum[0] = squares(&x.0[start..x.0.len().min(start + CHUNK)]);
    });
    sums.iter().sum()
}

/// Columns of one task.
const COLUMNS: usize = 64;

/// sums [N] += Σ x² over the rows of x [T, N], column by column, as an importance matrix counts the inputs of a layer.
pub fn add_squares_of_columns<T: Value>(x: View<T>, sums: ViewMut<f32>) {
    let width = sums.0.len();
    assert!(x.0.len().is_multiple_of(width));
    let sums = SharedSlice::new(sums.0);
    parallel_for(width.div_ceil(COLUMNS), |task| {
        let (start, count) = (task * COLUMNS, COLUMNS.min(width - task * COLUMNS));
        // SAFETY: each block of columns belongs to one task.
        let sums = unsafe { sums.range(start, count) };
        x.0.chunks_exact(width).for_each(|row| add_squares(&row[start..start + count], sums));
    });
}

by_cpu_level! {
    fn add_squares<[T: Value]>(row: &[T], sums: &mut [f32]) {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += value.to_f32() * value.to_f32();
        }
    }
}

pub(crate) const LANES: usize = 16;

by_cpu_level! {
    fn squares(x: &[f32]) -> f64 {
        let mut sums = [0.0f64; LANES];
        let (chunks, rest) = x.as_chunks::<LANES>();
        for chunk in chunks {
            for lane in 0..LANES {
                sums[lane] += f64::from(chunk[lane]) * f64::from(chunk[lane]);
            }
        }
        let rest: f64 = rest.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
        sums.iter().sum::<f64>() + rest
    }
}

/// Σ xᵢ yᵢ in lanes, for rows inside other operations.
#[inline(always)]
pub(crate) fn dot<X: Value, Y: Value>(x: &[X], y: &[Y]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (x_chunks, x_rest) = x.as_chunks::<LANES>();
    let (y_chunks, y_rest) = y.as_chunks::<LANES>();
    for (x, y) in x_chunks.iter().zip(y_chunks) {
        for lane in 0..LANES {
            sums[lane] += x[lane].to_f32() * y[lane].to_f32();
        }
    }
    let rest: f32 = x_rest.iter().zip(y_rest).map(|(x, y)| x.to_f32() * y.to_f32()).sum();
    folded(sums, |a, b| a + b) + rest
}

/// max xᵢ in lanes; negative infinity for none.
#[inline(always)]
pub(crate) fn maximum(x: &[f32]) -> f32 {
    let greater = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] = greater(lanes[lane], chunk[lane]);
        }
    }
    if !rest.is_empty() {
        let rest = padded(rest);
        for lane in 0..LANES {
            lanes[lane] = greater(lanes[lane], rest[lane]);
        }
    }
    folded(lanes, greater)
}

/// The first place of `value` in x; 0 where it is not.
#[inline(always)]
pub(crate) fn position(x: &[f32], value: f32) -> usize {
    let holds = |chunk: &[f32]| chunk.iter().fold(false, |found, &x| found | (x == value));
    let chunk = x.chunks(LANES).position(holds).unwrap_or(0) * LANES;
    chunk + x[chunk..].iter().take(LANES).position(|&x| x == value).unwrap_or(0)
}

/// Replaces x by exp(x − shift) and returns the sum, in lanes.
#[inline(always)]
pub(crate) fn exponentials<const FUSED: bool>(x: &mut [f32], shift: f32) -> f32 {
    let mut sums = [0.0f32; LANES];
    let mut replace = |chunk: &mut [f32; LANES]| {
        for lane in 0..LANES {
            chunk[lane] = crate::exp::exp::<FUSED>(chunk[lane] - shift);
            sums[lane] += chunk[lane];
        }
    };
    let (chunks, rest) = x.as_chunks_mut::<LANES>();
    chunks.iter_mut().for_each(&mut replace);
    if !rest.is_empty() {
        let mut last = padded(rest);
        replace(&mut last);
        rest.copy_from_slice(&last[..rest.len()]);
    }
    folded(sums, |a, b| a + b)
}

/// Σ exp(factor · (x − shift)), in lanes.
#[inline(always)]
pub(crate) fn sum_of_exponentials<const FUSED: bool>(x: &[f32], shift: f32, factor: f32) -> f32 {
    let mut sums = [0.0f32; LANES];
    let mut add = |chunk: &[f32; LANES]| {
        for lane in 0..LANES {
            sums[lane] += crate::exp::exp::<FUSED>(factor * (chunk[lane] - shift));
        }
    };
    let (chunks, rest) = x.as_chunks::<LANES>();
    chunks.iter().for_each(&mut add);
    add(&padded(rest));
    folded(sums, |a, b| a + b)
}

/// The greatest of x, the greatest first and of equals the one that comes first, into `places` and `values`, which are as long.
#[inline(always)]
pub(crate) fn greatest(x: &[f32], places: &mut [u32], values: &mut [f32]) {
    let last = values.len() - 1;
    values.fill(f32::NEG_INFINITY);
    places.fill(0);
    for (number, chunk) in x.chunks(LANES).enumerate() {
        let least = values[last];
        if !chunk.iter().fold(false, |found, &x| found | (x > least)) {
            continue;
        }
        for (lane, &x) in chunk.iter().enumerate() {
            if x > values[last] {
                let place = values.partition_point(|&value| value >= x);
                values.copy_within(place..last, place + 1);
                places.copy_within(place..last, place + 1);
                (values[place], places[place]) = (x, (number * LANES + lane) as u32);
            }
        }
    }
}

/// The last values in lanes, and below everything where there are none.
#[inline(always)]
fn padded(rest: &[f32]) -> [f32; LANES] {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    lanes[..rest.len()].copy_from_slice(rest);
    lanes
}

/// The lanes joined in a fixed tree.
#[inline(always)]
pub(crate) fn folded(lanes: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    let eight: [f32; 8] = std::array::from_fn(|lane| join(lanes[lane], lanes[lane + 8]));
    let four: [f32; 4] = std::array::from_fn(|lane| join(eight[lane], eight[lane + 4]));
    join(join(four[0], four[2]), join(four[1], four[3]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{close, normals};

    #[test]
    fn squares_of_columns_are_added_up() {
        let (rows, width) = (9, 130);
        let x = normals(1, rows * width);
        let twin = |inputs: &[&[f64]]| -> Vec<f64> {
            let column = |column: usize| inputs[0].chunks(width).map(|row| row[column] * row[column]).sum();
            (0..width).map(column).collect()
        };
        let mut sums = vec![0.0; width];
        add_squares_of_columns(View(&x), ViewMut(&mut sums));
        close(&sums, twin, &[&x], 1e-6);
        let once = sums.clone();
        add_squares_of_columns(View(&x), ViewMut(&mut sums));
        sums.iter().zip(&once).for_each(|(twice, once)| assert!((twice / once - 2.0).abs() < 1e-5));
    }
}
