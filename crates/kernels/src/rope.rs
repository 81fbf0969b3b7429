//! Rotary position embedding (Su et al. 2021, arXiv:2104.09864) in Hugging Face's half-split layout: element i of a
//! head is rotated with element i + E/2 by the angle position · frequency[i].

use crate::buffer::ViewMut;
use crate::team::parallel_chunks;
use crate::value::Value;

/// Tokens of one task.
const ROWS: usize = 16;

/// cos and sin of every position's angles, [positions, E/2] each.
pub struct RopeTable {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
}

/// Which way to rotate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// By the angle.
    Forward,
    /// By the negative angle: the gradient of the forward.
    Backward,
}

impl RopeTable {
    /// The table for positions `0 .. positions` and the frequencies of the E/2 pairs.
    pub fn new(positions: usize, frequencies: &[f32]) -> Self {
        let angles = (0..positions).flat_map(|position| frequencies.iter().map(move |f| position as f32 * f));
        let (sin, cos) = angles.map(f32::sin_cos).unzip();
        Self { cos, sin, half: frequencies.len() }
    }

    /// Number of positions.
    pub fn positions(&self) -> usize {
        self.cos.len() / self.half.max(1)
    }
}

/// Rotates x [T, heads · E] in place, token t by the angles of `positions[t]`.
///
/// # Panics
/// If a position lies beyond the table.
pub fn rope<T: Value>(x: ViewMut<T>, positions: &[u32], table: &RopeTable, direction: Direction) {
    let _timer = crate::timing::Operation::Rope.start();
    if positions.is_empty() {
        return;
    }
    let half = table.half;
    let width = x.0.len() / positions.len();
    assert_eq!(x.0.len(), width * positions.len());
    parallel_chunks(x.0, ROWS * width, |task, x| {
        for (row, x) in x.chunks_exact_mut(width).enumerate() {
            let start = positions[task * ROWS + row] as usize * half;
            rotate(x, &table.cos[start..start + half], &table.sin[start..start + half], direction);
        }
    });
}

by_cpu_level! {
    fn rotate<[T: Value]>(x: &mut [T], cos: &[f32], sin: &[f32], direction: Direction) {
        let sign = if direction == Direction::Forward { 1.0 } else { -1.0 };
        for head in x.chunks_exact_mut(2 * cos.len()) {
            let (first, second) = head.split_at_mut(cos.len());
            for (((first, second), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                let sin = sin * sign;
                let (a, b) = (first.to_f32(), second.to_f32());
                (*first, *second) = (T::from_f32(a * cos - b * sin), T::from_f32(b * cos + a * sin));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{close, finite_difference, normals};

    #[test]
    fn rotates_pairs_and_its_gradient_rotates_back() {
        let (heads, width) = (3, 8);
        let frequencies = [1.0, 0.3, 0.02, 0.001];
        let positions = [0, 1, 2, 0, 1, 9, 4];
        let twin = |inputs: &[&[f64]]| -> Vec<f64> {
            let mut y = inputs[0].to_vec();
            for (token, row) in y.chunks_mut(heads * width).enumerate() {
                for head in row.chunks_mut(width) {
                    for pair in 0..width / 2 {
                        let angle = f64::from(positions[token]) * f64::from(frequencies[pair]);
                        let (a, b) = (head[pair], head[pair + width / 2]);
                        head[pair] = a * angle.cos() - b * angle.sin();
                        head[pair + width / 2] = b * angle.cos() + a * angle.sin();
                    }
                }
            }
            y
        };
        let table = RopeTable::new(10, &frequencies);
        assert_eq!(table.positions(), 10);
        let x = normals(1, positions.len() * heads * width);
        let dy = normals(2, x.len());
        let mut y = x.clone();
        rope(ViewMut(&mut y), &positions, &table, Direction::Forward);
        close(&y, twin, &[&x], 1e-6);
        let mut dx = dy.clone();
        rope(ViewMut(&mut dx), &positions, &table, Direction::Backward);
        finite_difference(twin, &[&x], &dy, &[&dx], 1e-4);
    }
}
