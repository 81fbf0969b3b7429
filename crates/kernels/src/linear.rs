//! Linear layers: Y = X · Wᵀ, their gradients, and low-rank adapters beside them.
//!
//! A weight is [outputs, inputs], as every checkpoint of the family stores it; no layer has a bias.

use half::bf16;

use crate::buffer::{View, ViewMut};
use crate::matmul::{Operand, Output, Right, matmul};

/// How operands of matrix products are rounded. Sums, norms, softmax, the residual stream and optimizer state are f32
/// in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// No rounding.
    F32,
    /// Operands rounded to bf16.
    Bf16,
}

/// A weight [outputs, inputs] at rest.
#[derive(Clone, Copy)]
pub struct Weight<'a> {
    pub(crate) operand: Operand<'a>,
}

impl<'a> Weight<'a> {
    /// A weight of f32 values.
    pub fn f32(view: View<'a, f32>, outputs: usize, inputs: usize) -> Self {
        Self { operand: Operand::new(view, outputs, inputs) }
    }

    /// A weight of bf16 values.
    pub fn bf16(view: View<'a, bf16>, outputs: usize, inputs: usize) -> Self {
        Self { operand: Operand::new(view, outputs, inputs) }
    }

    /// Number of outputs.
    pub fn outputs(&self) -> usize {
        self.operand.rows
    }

    /// Number of inputs.
    pub fn inputs(&self) -> usize {
        self.operand.columns
    }
}

/// y [T, outputs] (+)= x [T, inputs] · Wᵀ.
pub fn linear(precision: Precision, x: View<f32>, weight: Weight, output: Output, y: ViewMut<f32>) {
    let x = Operand::new(x, x.0.len() / weight.inputs(), weight.inputs());
    matmul(precision, 1.0, x, weight.operand.transposed(), output, y);
}

/// dx [T, inputs] (+)= dy [T, outputs] · W.
pub fn linear_backward_input(
    precision: Precision,
    dy: View<f32>,
    weight: Weight,
    output: Output,
    dx: ViewMut<f32>,
) {
    let dy = Operand::new(dy, dy.0.len() / weight.outputs(), weight.outputs());
    matmul(precision, 1.0, dy, weight.operand, output, dx);
}

/// dW [outputs, inputs] += dyᵀ · x, for dy [T, outputs] and x [T, inputs].
pub fn linear_backward_weight(
    precision: Precision,
    dy: View<f32>,
    x: View<f32>,
    outputs: usize,
    inputs: usize,
    dweight: ViewMut<f32>,
) {
    let dy = Operand::new(dy, dy.0.len() / outputs, outputs);
    let x = Operand::new(x, x.0.len() / inputs, inputs);
    Right::new(precision, x).product(1.0, dy.transposed(), Output::Add, dweight);
}

/// A low-rank adapter (Hu et al. 2021, arXiv:2106.09685): y += scale · (x · Aᵀ) · Bᵀ.
#[derive(Clone, Copy)]
pub struct Lora<'a> {
    /// A [R, inputs].
    pub a: View<'a, f32>,
    /// B [outputs, R].
    pub b: View<'a, f32>,
    /// R.
    pub rank: usize,
    /// α / R, or what the adapter's configuration makes of them.
    pub scale: f32,
}

impl Lora<'_> {
    fn a_operand(&self) -> Operand<'_> {
        Operand::new(self.a, self.rank, self.a.0.len() / self.rank)
    }

    fn b_operand(&self) -> Operand<'_> {
        Operand::new(self.b, self.b.0.len() / self.rank, self.rank)
    }

    /// low [T, R] = x · Aᵀ, kept for the backward; y [T, outputs] += scale · low · Bᵀ.
    pub fn forward(&self, precision: Precision, x: View<f32>, mut low: ViewMut<f32>, y: ViewMut<f32>) {
        let a = self.a_operand();
        let x = Operand::new(x, x.0.len() / a.columns, a.columns);
        let tokens = x.rows;
        matmul(precision, 1.0, x, a.transposed(), Output::Overwrite, low.reborrow());
        let low = Operand::new(low.as_view(), tokens, self.rank);
        matmul(precision, self.scale, low, self.b_operand().transposed(), Output::Add, y);
    }

    /// Adds the gradients of A and B, and of x if it is wanted; `dlow` [T, R] is scratch.
    #[allow(clippy::too_many_arguments)]
    pub fn backward(
        &self,
        precision: Precision,
        x: View<f32>,
        low: View<f32>,
        dy: View<f32>,
        mut dlow: ViewMut<f32>,
        da: ViewMut<f32>,
        db: ViewMut<f32>,
        dx: Option<ViewMut<f32>>,
    ) {
        let (a, b) = (self.a_operand(), self.b_operand());
        let tokens = low.0.len() / self.rank;
        let dy = Operand::new(dy, tokens, b.rows);
        let low = Operand::new(low, tokens, self.rank);
        matmul(precision, self.scale, dy.transposed(), low, Output::Add, db);
        matmul(precision, self.scale, dy, b, Output::Overwrite, dlow.reborrow());
        let dlow = Operand::new(dlow.as_view(), tokens, self.rank);
        let x = Operand::new(x, tokens, a.columns);
        matmul(precision, 1.0, dlow.transposed(), x, Output::Add, da);
        if let Some(dx) = dx {
            matmul(precision, 1.0, dlow, a, Output::Add, dx);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{close, finite_difference, normals};

    const T: usize = 11;
    const INPUTS: usize = 10;
    const OUTPUTS: usize = 7;
    const RANK: usize = 3;

    fn product(x: &[f64], weight: &[f64], inputs: usize) -> Vec<f64> {
        x.chunks(inputs)
            .flat_map(|x| {
                weight.chunks(inputs).map(|w| w.iter().zip(x).map(|(w, x)| w * x).sum()).collect::<Vec<f64>>()
            })
            .collect()
    }

    #[test]
    fn linear_and_its_gradients() {
        let (x, w, dy) = (normals(1, T * INPUTS), normals(2, OUTPUTS * INPUTS), normals(3, T * OUTPUTS));
        let twin = |inputs: &[&[f64]]| product(inputs[0], inputs[1], INPUTS);
        let weight = Weight::f32(View(&w), OUTPUTS, INPUTS);
        let mut y = vec![0.0; T * OUTPUTS];
        linear(Precision::F32, View(&x), weight, Output::Overwrite, ViewMut(&mut y));
        close(&y, twin, &[&x, &w], 1e-6);
        let (mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; w.len()]);
        linear_backward_input(Precision::F32, View(&dy), weight, Output::Overwrite, ViewMut(&mut dx));
        linear_backward_weight(Precision::F32, View(&dy), View(&x), OUTPUTS, INPUTS, ViewMut(&mut dw));
        finite_difference(twin, &[&x, &w], &dy, &[&dx, &dw], 1e-5);
    }

    #[test]
    fn lora_and_its_gradients() {
        let (x, dy) = (normals(1, T * INPUTS), normals(3, T * OUTPUTS));
        let (a, b) = (normals(4, RANK * INPUTS), normals(5, OUTPUTS * RANK));
        let scale = 1.5;
        let twin = |inputs: &[&[f64]]| -> Vec<f64> {
            let low = product(inputs[0], inputs[1], INPUTS);
            product(&low, inputs[2], RANK).iter().map(|y| y * f64::from(scale)).collect()
        };
        let lora = Lora { a: View(&a), b: View(&b), rank: RANK, scale };
        let (mut low, mut y) = (vec![0.0; T * RANK], vec![0.0; T * OUTPUTS]);
        lora.forward(Precision::F32, View(&x), ViewMut(&mut low), ViewMut(&mut y));
        close(&y, twin, &[&x, &a, &b], 1e-6);
        let (mut dx, mut da, mut db) = (vec![0.0; x.len()], vec![0.0; a.len()], vec![0.0; b.len()]);
        let mut dlow = vec![0.0; low.len()];
        lora.backward(
            Precision::F32,
            View(&x),
            View(&low),
            View(&dy),
            ViewMut(&mut dlow),
            ViewMut(&mut da),
            ViewMut(&mut db),
            Some(ViewMut(&mut dx)),
        );
        finite_difference(twin, &[&x, &a, &b], &dy, &[&dx, &da, &db], 1e-5);
    }
}
