//! Rows of length one: Baichuan 2's head, ŵ = w / ‖w‖ row by row, and the gradient of w.

use crate::buffer::{View, ViewMut};
use crate::reduce::dot;
use crate::team::parallel_chunks;
use crate::value::Value;

/// Elements of one task, unless a row has more.
const CHUNK: usize = 1 << 14;
/// Shorter rows are divided by this instead, as PyTorch's `normalize` does.
const SHORTEST: f32 = 1e-12;

/// ŵ [V, D] from w [V, D], for rows of `width` = D.
pub fn unit_rows<T: Value>(w: View<f32>, width: usize, unit: ViewMut<T>) {
    let _timer = crate::timing::Operation::Head.start();
    assert!(w.0.len() == unit.0.len() && w.0.len().is_multiple_of(width));
    let rows = (CHUNK / width).max(1);
    parallel_chunks(unit.0, rows * width, |task, unit| {
        let w = &w.0[task * rows * width..][..unit.len()];
        for (w, unit) in w.chunks_exact(width).zip(unit.chunks_exact_mut(width)) {
            scale_to_one(w, unit);
        }
    });
}

/// The same in place.
pub fn unit_rows_in_place(w: ViewMut<f32>, width: usize) {
    let _timer = crate::timing::Operation::Head.start();
    assert!(w.0.len().is_multiple_of(width));
    parallel_chunks(w.0, (CHUNK / width).max(1) * width, |_, w| {
        w.chunks_exact_mut(width).for_each(scale_in_place);
    });
}

/// Turns the gradient g of ŵ into that of w: (g − ŵ (ŵ · g)) / ‖w‖. Not linear in how often it is called: once, when g
/// is complete.
pub fn unit_rows_backward(w: View<f32>, width: usize, gradient: ViewMut<f32>) {
    let _timer = crate::timing::Operation::Head.start();
    assert!(w.0.len() == gradient.0.len() && w.0.len().is_multiple_of(width));
    let rows = (CHUNK / width).max(1);
    parallel_chunks(gradient.0, rows * width, |task, gradient| {
        let w = &w.0[task * rows * width..][..gradient.len()];
        for (w, gradient) in w.chunks_exact(width).zip(gradient.chunks_exact_mut(width)) {
            project(w, gradient);
        }
    });
}

by_cpu_level! {
    fn scale_to_one<[T: Value]>(w: &[f32], unit: &mut [T]) {
        let inverse = 1.0 / dot(w, w).sqrt().max(SHORTEST);
        for (unit, w) in unit.iter_mut().zip(w) {
            *unit = T::from_f32(w * inverse);
        }
    }
}

by_cpu_level! {
    fn scale_in_place(w: &mut [f32]) {
        let inverse = 1.0 / dot(w, w).sqrt().max(SHORTEST);
        for w in w {
            *w *= inverse;
        }
    }
}

by_cpu_level! {
    fn project(w: &[f32], gradient: &mut [f32]) {
        let inverse = 1.0 / dot(w, w).sqrt().max(SHORTEST);
        let along = dot(w, gradient) * inverse * inverse;
        for (gradient, w) in gradient.iter_mut().zip(w) {
            *gradient = (*gradient - w * along) * inverse;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{close, finite_difference, normals};

    #[test]
    fn forward_and_backward_follow_the_formula() {
        let (rows, width) = (41, 23);
        let (w, dy) = (normals(1, rows * width), normals(2, rows * width));
        let twin = |inputs: &[&[f64]]| -> Vec<f64> {
            let unit = |row: &[f64]| {
                let norm = row.iter().map(|w| w * w).sum::<f64>().sqrt();
                row.iter().map(|w| w / norm).collect::<Vec<_>>()
            };
            inputs[0].chunks(width).flat_map(unit).collect()
        };
        let mut unit = vec![0.0; w.len()];
        unit_rows(View(&w), width, ViewMut(&mut unit));
        close(&unit, twin, &[&w], 1e-6);
        let mut in_place = w.clone();
        unit_rows_in_place(ViewMut(&mut in_place), width);
        assert_eq!(in_place, unit);
        let mut gradient = dy.clone();
        unit_rows_backward(View(&w), width, ViewMut(&mut gradient));
        finite_difference(twin, &[&w], &dy, &[&gradient], 1e-4);
    }

    #[test]
    fn a_row_of_zeros_stays_zero() {
        let mut unit = [1.0f32; 4];
        unit_rows(View(&[0.0; 4]), 4, ViewMut(&mut unit));
        assert_eq!(unit, [0.0; 4]);
    }
}
