//! Linear layers: Y = X · Wᵀ, their gradients, and low-rank adapters beside them.
//!
//! A weight is [outputs, inputs], as every checkpoint of the family stores it; biases are in [`crate::bias`]. Layers that share
//! their input (queries, keys and values; gate and up) pack it once, and the gradient of that input is one sum.

use std::cell::OnceCell;

use crate::blocks::BlockType;
use crate::blocks::grouped::Grouped;
use crate::buffer::{View, ViewMut};
use crate::int8::{self, Packed, Rounded};
use crate::matmul::{Left, Operand, Output, Right, Storage, matmul, sum_of_products};
use crate::value::{Data, Value};

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
    /// A weight of values in row-major order.
    pub fn new<T: Value>(view: View<'a, T>, outputs: usize, inputs: usize) -> Self {
        Self { operand: Operand::new(view, outputs, inputs) }
    }

    /// A weight of stored blocks in row-major order, which stay what they are: parts are dequantized while they are used.
    ///
    /// # Panics
    /// If a row is not whole blocks, or the bytes are not those of the weight.
    pub fn blocks(kind: BlockType, bytes: View<'a, u8>, outputs: usize, inputs: usize) -> Self {
        Self { operand: Operand::blocks(kind, bytes.0, outputs, inputs) }
    }

    /// A weight of columns quantized in groups, which stays what it is.
    pub fn grouped(grouped: &'a Grouped) -> Self {
        Self { operand: Operand::grouped(grouped) }
    }

    /// A weight that is repacked for products of integers, with which activations are rounded to them.
    pub fn repacked(packed: Packed<'a>) -> Self {
        Self { operand: Operand::repacked(packed) }
    }

    fn packed(&self) -> Option<Packed<'a>> {
        match self.operand.storage {
            Storage::Packed(packed) => Some(packed),
            _ => None,
        }
    }

    /// Number of outputs.
    pub fn outputs(&self) -> usize {
        self.operand.rows
    }

    /// Number of inputs.
    pub fn inputs(&self) -> usize {
        self.operand.columns
    }

    /// Row `index` [inputs] as f32.
    pub fn row(&self, index: usize, row: &mut [f32]) {
        self.operand.row(index, row);
    }
}

/// y [T, outputs] (+)= x [T, inputs] · Wᵀ.
pub fn linear<X: Value, Y: Value>(
    precision: Precision,
    x: View<X>,
    weight: Weight,
    output: Output,
    y: ViewMut<Y>,
) {
    let _timer = crate::timing::Operation::LinearForward.start();
    if let Some(packed) = weight.packed() {
        return int8::products(&Rounded::of(x.0, packed.inputs), &mut [(packed, y.0)], output);
    }
    let x = Operand::rows_of(x, weight.inputs());
    matmul(precision, 1.0, x, weight.operand.transposed(), output, y);
}

/// dx [T, inputs] (+)= dy [T, outputs] · W.
pub fn linear_backward_input<X: Value, Y: Value>(
    precision: Precision,
    dy: View<Y>,
    weight: Weight,
    output: Output,
    dx: ViewMut<X>,
) {
    let _timer = crate::timing::Operation::LinearInputGradient.start();
    matmul(precision, 1.0, Operand::rows_of(dy, weight.outputs()), weight.operand, output, dx);
}

/// dW [outputs, inputs] += dyᵀ · x, for dy [T, outputs] and x [T, inputs].
pub fn linear_backward_weight<X: Value, Y: Value>(
    precision: Precision,
    dy: View<Y>,
    x: View<X>,
    [outputs, inputs]: [usize; 2],
    dweight: ViewMut<f32>,
) {
    let _timer = crate::timing::Operation::LinearWeightGradient.start();
    let dy = Operand::rows_of(dy, outputs);
    Right::new(precision, Operand::rows_of(x, inputs)).product(1.0, dy.transposed(), Output::Add, dweight);
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

impl<'a> Lora<'a> {
    fn a_operand(&self) -> Operand<'a> {
        Operand::new(self.a, self.rank, self.a.0.len() / self.rank)
    }

    fn b_operand(&self) -> Operand<'a> {
        Operand::new(self.b, self.b.0.len() / self.rank, self.rank)
    }
}

/// A weight and the adapter beside it.
#[derive(Clone, Copy)]
pub struct Layer<'a> {
    /// The weight [outputs, inputs].
    pub weight: Weight<'a>,
    /// Its adapter, if it has one.
    pub adapter: Option<Lora<'a>>,
}

/// What layers share: x [T, inputs], packed once for their outputs and once for their gradients.
pub struct Input<'a> {
    precision: Precision,
    values: Data<'a>,
    inputs: usize,
    left: Left<'a>,
    right: Right<'a>,
    rounded: OnceCell<Rounded>,
}

impl<'a> Input<'a> {
    /// The input of layers with so many inputs.
    pub fn new<X: Value>(precision: Precision, x: View<'a, X>, inputs: usize) -> Self {
        let values = X::data(x.0);
        let x = Operand::rows_of(x, inputs);
        let (left, right) = (Left::new(precision, x), Right::new(precision, x));
        Self { precision, values, inputs, left, right, rounded: OnceCell::new() }
    }

    fn rounded(&self) -> &Rounded {
        self.rounded.get_or_init(|| match self.values {
            Data::F32(values) => Rounded::of(values, self.inputs),
            Data::Bf16(values) => Rounded::of(values, self.inputs),
        })
    }

    /// y [T, outputs] (+)= x · Wᵀ for each weight, in one parallel region; false, and nothing done, unless all weights are
    /// repacked.
    pub fn products<Y: Value, const N: usize>(
        &self,
        weights: [Weight; N],
        output: Output,
        ys: [ViewMut<Y>; N],
    ) -> bool {
        let packed = weights.map(|weight| weight.packed());
        if packed.iter().any(Option::is_none) {
            return false;
        }
        let _timer = crate::timing::Operation::LinearForward.start();
        let members = packed.into_iter().zip(ys);
        let mut members: Vec<_> = members.filter_map(|(packed, y)| Some((packed?, y.0))).collect();
        int8::products(self.rounded(), &mut members, output);
        true
    }

    /// low [T, R] = scale · x · Aᵀ, which the forward takes and the backward needs again.
    pub fn low(&self, lora: Lora, low: ViewMut<f32>) {
        let _timer = crate::timing::Operation::LinearForward.start();
        sum_of_products(lora.scale, &[(&self.left, lora.a_operand().transposed())], Output::Overwrite, low);
    }

    /// y [T, outputs] (+)= x · Wᵀ + low · Bᵀ; `low` is empty without an adapter.
    pub fn forward<Y: Value>(&self, layer: Layer, low: View<f32>, output: Output, mut y: ViewMut<Y>) {
        if self.products([layer.weight], output, [y.reborrow()]) {
            let Some(lora) = layer.adapter else { return };
            let low = Left::new(self.precision, Operand::rows_of(low, lora.rank));
            return sum_of_products(1.0, &[(&low, lora.b_operand().transposed())], Output::Add, y);
        }
        let _timer = crate::timing::Operation::LinearForward.start();
        let weight = layer.weight.operand.transposed();
        let Some(lora) = layer.adapter else {
            return sum_of_products(1.0, &[(&self.left, weight)], output, y);
        };
        let low = Left::new(self.precision, Operand::rows_of(low, lora.rank));
        sum_of_products(1.0, &[(&self.left, weight), (&low, lora.b_operand().transposed())], output, y);
    }

    /// dW [outputs, inputs] += dyᵀ · x.
    pub fn weight_gradient(&self, dy: &OutputGradient, dweight: ViewMut<f32>) {
        let _timer = crate::timing::Operation::LinearWeightGradient.start();
        self.right.product(1.0, dy.operand.transposed(), Output::Add, dweight);
    }

    /// dB [outputs, R] += dyᵀ · low and dA [R, inputs] += dlowᵀ · x, where dlow [T, R] = scale · dy · B is kept for
    /// [`input_gradient`].
    pub fn adapter_gradient(
        &self,
        dy: &OutputGradient,
        low: View<f32>,
        mut dlow: ViewMut<f32>,
        da: ViewMut<f32>,
        db: ViewMut<f32>,
    ) {
        let _timer = crate::timing::Operation::Adapter.start();
        let Some(lora) = dy.layer.adapter else { return };
        let low = Right::new(self.precision, Operand::rows_of(low, lora.rank));
        low.product(1.0, dy.operand.transposed(), Output::Add, db);
        sum_of_products(lora.scale, &[(&dy.left, lora.b_operand())], Output::Overwrite, dlow.reborrow());
        let dlow = Operand::rows_of(dlow.as_view(), lora.rank);
        self.right.product(1.0, dlow.transposed(), Output::Add, da);
    }
}

/// The gradient dy [T, outputs] of a layer's output, packed once for its input and its adapter.
pub struct OutputGradient<'a> {
    layer: Layer<'a>,
    operand: Operand<'a>,
    left: Left<'a>,
}

impl<'a> OutputGradient<'a> {
    /// dy of a layer.
    pub fn new<Y: Value>(precision: Precision, layer: Layer<'a>, dy: View<'a, Y>) -> Self {
        let operand = Operand::rows_of(dy, layer.weight.outputs());
        Self { layer, operand, left: Left::new(precision, operand) }
    }
}

/// The part of an adapter in the gradient of its input, dx [T, inputs] = dlow · A.
pub fn adapter_input_gradient(precision: Precision, lora: Lora, dlow: View<f32>, dx: ViewMut<f32>) {
    let _timer = crate::timing::Operation::Adapter.start();
    let dlow = Left::new(precision, Operand::rows_of(dlow, lora.rank));
    sum_of_products(1.0, &[(&dlow, lora.a_operand())], Output::Overwrite, dx);
}

/// dx [T, inputs] (+)= Σ dy · W + dlow · A over layers with one input; `dlow` is what
/// [`Input::adapter_gradient`] left, for adapters that see the same input.
pub fn input_gradient<X: Value, const N: usize>(
    precision: Precision,
    members: [(&OutputGradient, Option<View<f32>>); N],
    output: Output,
    dx: ViewMut<X>,
) {
    let _timer = crate::timing::Operation::LinearInputGradient.start();
    let lows = members.map(|(dy, dlow)| {
        let (lora, dlow) = (dy.layer.adapter?, dlow?);
        Some((Left::new(precision, Operand::rows_of(dlow, lora.rank)), lora.a_operand()))
    });
    let mut terms = Vec::with_capacity(2 * N);
    for ((dy, _), low) in members.iter().zip(&lows) {
        terms.push((&dy.left, dy.layer.weight.operand));
        terms.extend(low.as_ref().map(|(low, a)| (low, *a)));
    }
    sum_of_products(1.0, &terms, output, dx);
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
        let weight = Weight::new(View(&w), OUTPUTS, INPUTS);
        let mut y = vec![0.0; T * OUTPUTS];
        linear(Precision::F32, View(&x), weight, Output::Overwrite, ViewMut(&mut y));
        close(&y, twin, &[&x, &w], 1e-6);
        let (mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; w.len()]);
        linear_backward_input(Precision::F32, View(&dy), weight, Output::Overwrite, ViewMut(&mut dx));
        linear_backward_weight(Precision::F32, View(&dy), View(&x), [OUTPUTS, INPUTS], ViewMut(&mut dw));
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
        let frozen = vec![0.0; OUTPUTS * INPUTS];
        let lora = Lora { a: View(&a), b: View(&b), rank: RANK, scale };
        let layer = Layer { weight: Weight::new(View(&frozen), OUTPUTS, INPUTS), adapter: Some(lora) };
        let (mut low, mut y) = (vec![0.0; T * RANK], vec![0.0; T * OUTPUTS]);
        let input = Input::new(Precision::F32, View(&x), INPUTS);
        input.low(lora, ViewMut(&mut low));
        input.forward(layer, View(&low), Output::Overwrite, ViewMut(&mut y));
        close(&y, twin, &[&x, &a, &b], 1e-6);
        let (mut dx, mut da, mut db) = (vec![0.0; x.len()], vec![0.0; a.len()], vec![0.0; b.len()]);
        let mut dlow = vec![0.0; low.len()];
        let dy_of = OutputGradient::new(Precision::F32, layer, View(&dy));
        let (da_view, db_view) = (ViewMut(&mut da), ViewMut(&mut db));
        input.adapter_gradient(&dy_of, View(&low), ViewMut(&mut dlow), da_view, db_view);
        let members = [(&dy_of, Some(View(dlow.as_slice())))];
        input_gradient(Precision::F32, members, Output::Overwrite, ViewMut(&mut dx));
        finite_difference(twin, &[&x, &a, &b], &dy, &[&dx, &da, &db], 1e-5);
        let mut alone = vec![7.0; x.len()];
        adapter_input_gradient(Precision::F32, lora, View(&dlow), ViewMut(&mut alone));
        assert!(alone.iter().zip(&dx).all(|(alone, dx)| (alone - dx).abs() < 1e-5), "W is zero here");
    }

    #[test]
    fn layers_that_share_their_input_sum_its_gradient() {
        for tokens in [1, 3, 40] {
            let x = normals(1, tokens * INPUTS);
            let weights = [normals(2, OUTPUTS * INPUTS), normals(3, 5 * INPUTS)];
            let dys = [normals(4, tokens * OUTPUTS), normals(5, tokens * 5)];
            let layer = |index: usize, outputs| Layer {
                weight: Weight::new(View(&weights[index]), outputs, INPUTS),
                adapter: None,
            };
            let input = Input::new(Precision::F32, View(&x), INPUTS);
            let dy = [(0, OUTPUTS), (1, 5)].map(|(index, outputs)| {
                OutputGradient::new(Precision::F32, layer(index, outputs), View(&dys[index]))
            });
            let (mut both, mut one_by_one) = (vec![1.0; x.len()], vec![1.0; x.len()]);
            let members = [(&dy[0], None), (&dy[1], None)];
            input_gradient(Precision::F32, members, Output::Add, ViewMut(&mut both));
            for (index, outputs) in [(0, OUTPUTS), (1, 5)] {
                let weight = layer(index, outputs).weight;
                let dy_view = View(dys[index].as_slice());
                linear_backward_input(Precision::F32, dy_view, weight, Output::Add, ViewMut(&mut one_by_one));
                let mut shared = vec![0.0; outputs * INPUTS];
                let mut alone = shared.clone();
                input.weight_gradient(&dy[index], ViewMut(&mut shared));
                let shape = [outputs, INPUTS];
                linear_backward_weight(Precision::F32, dy_view, View(&x), shape, ViewMut(&mut alone));
                assert_eq!(shared, alone);
            }
            let largest = one_by_one.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
            for (both, one_by_one) in both.iter().zip(&one_by_one) {
                assert!((both - one_by_one).abs() <= 1e-6 * largest);
            }
        }
    }
}
