//! The gated unit of Llama's feed-forward (Shazeer 2020, arXiv:2002.05202): y = silu(gate) · up with
//! silu(g) = g · σ(g).

use crate::buffer::{View, ViewMut};
use crate::exp::exp;
use crate::team::{SharedSlice, parallel_chunks};
use crate::value::Value;

/// Elements of one task.
const CHUNK: usize = 1 << 13;

/// y = silu(gate) · up.
pub fn swiglu<T: Value>(gate: View<T>, up: View<T>, y: ViewMut<T>) {
    let _timer = crate::timing::Operation::Swiglu.start();
    assert!(gate.0.len() == y.0.len() && up.0.len() == y.0.len());
    parallel_chunks(y.0, CHUNK, |task, y| {
        let range = task * CHUNK..task * CHUNK + y.len();
        forward(&gate.0[range.clone()], &up.0[range], y);
    });
}

/// Replaces gate and up by their gradients.
///
/// dgate = dy · up · σ(g) · (1 + g · (1 − σ(g))); dup = dy · silu(g).
pub fn swiglu_backward<T: Value>(dy: View<T>, gate: ViewMut<T>, up: ViewMut<T>) {
    let _timer = crate::timing::Operation::Swiglu.start();
    assert!(gate.0.len() == dy.0.len() && up.0.len() == dy.0.len());
    let gate = SharedSlice::new(gate.0);
    parallel_chunks(up.0, CHUNK, |task, up| {
        let start = task * CHUNK;
        // SAFETY: each chunk belongs to one task.
        let gate = unsafe { gate.range(start, up.len()) };
        backward(&dy.0[start..start + up.len()], gate, up);
    });
}

by_cpu_level! {
    fn forward<[T: Value]>(gate: &[T], up: &[T], y: &mut [T]) {
        for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
            let gate = gate.to_f32();
            *y = T::from_f32(gate / (1.0 + exp::<FUSED>(-gate)) * up.to_f32());
        }
    }
}

by_cpu_level! {
    fn backward<[T: Value]>(dy: &[T], gate: &mut [T], up: &mut [T]) {
        for ((dy, gate), up) in dy.iter().zip(gate).zip(up) {
            let (dy, g) = (dy.to_f32(), gate.to_f32());
            let sigmoid = 1.0 / (1.0 + exp::<FUSED>(-g));
            *gate = T::from_f32(dy * up.to_f32() * sigmoid * (1.0 + g * (1.0 - sigmoid)));
            *up = T::from_f32(dy * g * sigmoid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{close, finite_difference, normals};

    fn twin(inputs: &[&[f64]]) -> Vec<f64> {
        inputs[0].iter().zip(inputs[1]).map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up).collect()
    }

    #[test]
    fn forward_and_backward_follow_the_formula() {
        let (mut gate, up, dy) = (normals(1, 300), normals(2, 300), normals(3, 300));
        gate[0] = 40.0;
        gate[1] = -40.0;
        gate[2] = -100.0;
        let mut y = vec![0.0; 300];
        swiglu(View(&gate), View(&up), ViewMut(&mut y));
        close(&y, twin, &[&gate, &up], 1e-6);
        let (mut dgate, mut dup) = (gate.clone(), up.clone());
        swiglu_backward(View(&dy), ViewMut(&mut dgate), ViewMut(&mut dup));
        finite_difference(twin, &[&gate, &up], &dy, &[&dgate, &dup], 1e-4);
    }
}
