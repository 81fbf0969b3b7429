//! The gated unit of Llama's feed-forward (Shazeer 2020, arXiv:2002.05202): y = silu(gate) · up with
//! silu(g) = g · σ(g).

use crate::buffer::{View, ViewMut};
use crate::exp::exp;
use crate::team::{SharedSlice, parallel_chunks};

/// Elements of one task.
const CHUNK: usize = 1 << 13;

/// y = silu(gate) · up.
pub fn swiglu(gate: View<f32>, up: View<f32>, y: ViewMut<f32>) {
    assert!(gate.0.len() == y.0.len() && up.0.len() == y.0.len());
    parallel_chunks(y.0, CHUNK, |task, y| {
        let range = task * CHUNK..task * CHUNK + y.len();
        forward(&gate.0[range.clone()], &up.0[range], y);
    });
}

/// Replaces gate and up by their gradients.
///
/// dgate = dy · up · σ(g) · (1 + g · (1 − σ(g))); dup = dy · silu(g).
pub fn swiglu_backward(dy: View<f32>, gate: ViewMut<f32>, up: ViewMut<f32>) {
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
    fn forward(gate: &[f32], up: &[f32], y: &mut [f32]) {
        for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
            *y = gate / (1.0 + exp(-gate)) * up;
        }
    }
}

by_cpu_level! {
    fn backward(dy: &[f32], gate: &mut [f32], up: &mut [f32]) {
        for ((dy, gate), up) in dy.iter().zip(gate).zip(up) {
            let sigmoid = 1.0 / (1.0 + exp(-*gate));
            let silu = *gate * sigmoid;
            *gate = dy * *up * sigmoid * (1.0 + *gate * (1.0 - sigmoid));
            *up = dy * silu;
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
