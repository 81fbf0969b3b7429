//! Rotary position embedding (Su et al. 2021, arXiv:2104.09864): pairs of a head's elements are rotated by the angle
//! position · frequency[i]. Which elements make pair i is the [`RopeLayout`].

use std::ops::Range;

use crate::buffer::ViewMut;
use crate::team::parallel_chunks;
use crate::value::Value;

/// Tokens of one task.
const ROWS: usize = 16;

/// Which elements of a head are rotated together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RopeLayout {
    /// Element i with element i + E/2, as Hugging Face's checkpoints have them.
    #[default]
    HalfSplit,
    /// Element 2i with element 2i + 1, as Meta's checkpoints and llama2.c have them.
    Interleaved,
}

/// cos and sin of every row's angles, [rows, E/2] each. Row p is position p, unless rows of other frequencies follow.
pub struct RopeTable {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
    layout: RopeLayout,
    scale: f32,
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
    /// The table for positions `0 .. positions` and the frequencies of the E/2 pairs; rotated pairs are multiplied by
    /// `scale` (YaRN's attention factor, otherwise 1).
    pub fn new(layout: RopeLayout, scale: f32, positions: usize, frequencies: &[f32]) -> Self {
        let (cos, sin) = (Vec::new(), Vec::new());
        let mut table = Self { cos, sin, half: frequencies.len(), layout, scale };
        table.append(0..positions, frequencies);
        table
    }

    /// Adds rows for `positions` with other frequencies and returns the first of them.
    pub fn append(&mut self, positions: Range<usize>, frequencies: &[f32]) -> usize {
        assert_eq!(frequencies.len(), self.half);
        let first = self.rows();
        for position in positions {
            for frequency in frequencies {
                let (sin, cos) = (position as f32 * frequency).sin_cos();
                self.cos.push(cos * self.scale);
                self.sin.push(sin * self.scale);
            }
        }
        first
    }

    /// Forgets all rows from `rows` on.
    pub fn truncate(&mut self, rows: usize) {
        self.cos.truncate(rows * self.half);
        self.sin.truncate(rows * self.half);
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.cos.len() / self.half.max(1)
    }
}

/// Rotates x [T, heads · E] in place, token t by the angles of row `rows[t]` of the table.
///
/// # Panics
/// If a row lies beyond the table.
pub fn rope<T: Value>(x: ViewMut<T>, rows: &[u32], table: &RopeTable, direction: Direction) {
    let _timer = crate::timing::Operation::Rope.start();
    if rows.is_empty() {
        return;
    }
    let half = table.half;
    let width = x.0.len() / rows.len();
    assert_eq!(x.0.len(), width * rows.len());
    let rotate = match table.layout {
        RopeLayout::HalfSplit => rotate_halves::<T>,
        RopeLayout::Interleaved => rotate_neighbours::<T>,
    };
    let sign = if direction == Direction::Forward { 1.0 } else { -1.0 };
    parallel_chunks(x.0, ROWS * width, |task, x| {
        for (token, x) in x.chunks_exact_mut(width).enumerate() {
            let start = rows[task * ROWS + token] as usize * half;
            rotate(x, &table.cos[start..start + half], &table.sin[start..start + half], sign);
        }
    });
}

by_cpu_level! {
    fn rotate_halves<[T: Value]>(x: &mut [T], cos: &[f32], sin: &[f32], sign: f32) {
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

by_cpu_level! {
    fn rotate_neighbours<[T: Value]>(x: &mut [T], cos: &[f32], sin: &[f32], sign: f32) {
        for head in x.chunks_exact_mut(2 * cos.len()) {
            let (pairs, _) = head.as_chunks_mut::<2>();
            for ((pair, cos), sin) in pairs.iter_mut().zip(cos).zip(sin) {
                let sin = sin * sign;
                let (a, b) = (pair[0].to_f32(), pair[1].to_f32());
                *pair = [T::from_f32(a * cos - b * sin), T::from_f32(b * cos + a * sin)];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{close, finite_difference, normals};

    const HEADS: usize = 3;
    const WIDTH: usize = 8;
    const FREQUENCIES: [f32; WIDTH / 2] = [1.0, 0.3, 0.02, 0.001];
    const ROWS: [u32; 7] = [0, 1, 2, 0, 1, 9, 4];

    /// The elements of pair i.
    fn elements(layout: RopeLayout, pair: usize) -> [usize; 2] {
        match layout {
            RopeLayout::HalfSplit => [pair, pair + WIDTH / 2],
            RopeLayout::Interleaved => [2 * pair, 2 * pair + 1],
        }
    }

    #[test]
    fn rotates_pairs_and_its_gradient_rotates_back() {
        for (layout, scale) in [(RopeLayout::HalfSplit, 1.0), (RopeLayout::Interleaved, 1.25)] {
            let twin = |inputs: &[&[f64]]| -> Vec<f64> {
                let mut y = inputs[0].to_vec();
                for (token, row) in y.chunks_mut(HEADS * WIDTH).enumerate() {
                    for head in row.chunks_mut(WIDTH) {
                        for (pair, frequency) in FREQUENCIES.iter().enumerate() {
                            let angle = f64::from(ROWS[token]) * f64::from(*frequency);
                            let [first, second] = elements(layout, pair);
                            let (a, b) = (head[first], head[second]);
                            head[first] = f64::from(scale) * (a * angle.cos() - b * angle.sin());
                            head[second] = f64::from(scale) * (b * angle.cos() + a * angle.sin());
                        }
                    }
                }
                y
            };
            let table = RopeTable::new(layout, scale, 10, &FREQUENCIES);
            assert_eq!(table.rows(), 10);
            let x = normals(1, ROWS.len() * HEADS * WIDTH);
            let dy = normals(2, x.len());
            let mut y = x.clone();
            rope(ViewMut(&mut y), &ROWS, &table, Direction::Forward);
            close(&y, twin, &[&x], 1e-6);
            let mut dx = dy.clone();
            rope(ViewMut(&mut dx), &ROWS, &table, Direction::Backward);
            finite_difference(twin, &[&x], &dy, &[&dx], 1e-4);
        }
    }

    #[test]
    fn rows_of_other_frequencies_follow_and_are_forgotten() {
        let mut table = RopeTable::new(RopeLayout::HalfSplit, 1.0, 4, &FREQUENCIES);
        let slow = FREQUENCIES.map(|frequency| frequency / 2.0);
        assert_eq!(table.append(0..6, &slow), 4);
        let x = normals(1, WIDTH);
        let (mut appended, mut own) = (x.clone(), x);
        rope(ViewMut(&mut appended), &[4 + 5], &table, Direction::Forward);
        let other = RopeTable::new(RopeLayout::HalfSplit, 1.0, 6, &slow);
        rope(ViewMut(&mut own), &[5], &other, Direction::Forward);
        assert_eq!(appended, own);
        table.truncate(4);
        assert_eq!(table.rows(), 4);
    }
}
