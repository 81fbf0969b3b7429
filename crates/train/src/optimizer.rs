//! Optimizers over the flat memory of trained parameters: which rule each parameter follows, its state, norm, clipping.
//!
//! The arithmetic is that of [`danlu_kernels::optimizer`]. A step begins, hears of every complete gradient as the
//! backward's [`GradientSink`], and is finished; with `fused_backward` the updates happen on the way.

use std::ops::Range;

use danlu_kernels::optimizer::adafactor::{
    AdafactorStep, adafactor_matrix_step, adafactor_scratch, adafactor_vector_step,
};
use danlu_kernels::optimizer::adamw::{AdamwStep, adamw_step};
use danlu_kernels::optimizer::adamw_8bit::{self, Codes, adamw_8bit_step};
use danlu_kernels::optimizer::lion::{LionStep, lion_step};
use danlu_kernels::optimizer::muon::{MuonStep, muon_scratch, muon_step};
use danlu_kernels::optimizer::sgd::{SgdStep, sgd_step};
use danlu_kernels::reduce::sum_of_squares;
use danlu_kernels::{Buffer, View};
use danlu_model::{GradientSink, Gradients, Model, Parameter, ParameterId, Parameters, Precision};

use crate::recipe::{Clip, Optim, TrainingOptions};

/// Names of the f32 state in checkpoints.
const FLOATS: [&str; 7] = [
    "first_moment",
    "second_moment",
    "momentum",
    "row_means",
    "column_means",
    "first_moment_scales",
    "second_moment_scales",
];
/// Names of the state in bytes in checkpoints.
const CODES: [&str; 2] = ["first_moment_codes", "second_moment_codes"];

/// An optimizer with its state and the numbers of the step that it is in.
pub struct Optimizer {
    rules: Vec<Rule>,
    pub(crate) state: State,
    scratch: Buffer<f32>,
    constants: Constants,
    learning_rate: f32,
    /// Multiple of the learning rate for each parameter.
    ratios: Vec<f32>,
    step: u64,
    /// Σ gradient² of each parameter in this step.
    squares: Vec<f64>,
}

/// What every parameter's state is made of, each kind in one flat buffer; kinds without a user are empty.
pub(crate) struct State {
    floats: [Buffer<f32>; FLOATS.len()],
    codes: [Buffer<u8>; CODES.len()],
}

struct Constants {
    beta1: f32,
    beta2: f32,
    epsilon: f32,
    weight_decay: f32,
    max_grad_norm: f64,
    clip: Clip,
    fused_backward: bool,
    precision: Precision,
}

/// How one parameter is updated, and where its state is.
#[derive(Clone)]
enum Rule {
    Adamw { moments: Range<usize> },
    Adamw8bit { codes: Range<usize>, scales: Range<usize> },
    AdafactorMatrix { rows: Range<usize>, columns: Range<usize> },
    AdafactorVector { moment: Range<usize> },
    Lion { moment: Range<usize> },
    Muon { shape: [usize; 2], momentum: Range<usize> },
    Sgd,
}

/// The rules of all parameters and the sizes of their state, in elements.
#[derive(Default)]
struct Layout {
    rules: Vec<Rule>,
    floats: [usize; FLOATS.len()],
    codes: usize,
    scratch: usize,
}

impl Layout {
    fn new(optim: Optim, parameters: &[Parameter]) -> Self {
        let mut layout = Self::default();
        for parameter in parameters {
            let rule = layout.rule(optim, parameter);
            layout.rules.push(rule);
        }
        layout
    }

    fn rule(&mut self, optim: Optim, parameter: &Parameter) -> Rule {
        let elements = parameter.range.len();
        let [first, second, momentum, rows, columns, first_scales, second_scales] = &mut self.floats;
        match (optim, parameter.shape.as_slice()) {
            (Optim::Sgd, _) => Rule::Sgd,
            (Optim::Lion, _) => Rule::Lion { moment: take(first, elements) },
            (Optim::Adafactor, &[outputs, inputs]) => {
                self.scratch = self.scratch.max(adafactor_scratch(outputs, inputs));
                Rule::AdafactorMatrix { rows: take(rows, outputs), columns: take(columns, inputs) }
            }
            (Optim::Adafactor, _) => Rule::AdafactorVector { moment: take(second, elements) },
            (Optim::Muon, &[outputs, inputs]) if parameter.is_hidden_matrix() => {
                self.scratch = self.scratch.max(muon_scratch(outputs, inputs));
                Rule::Muon { shape: [outputs, inputs], momentum: take(momentum, elements) }
            }
            (Optim::Adamw8bit, _) if elements >= adamw_8bit::FEWEST_ELEMENTS => {
                let blocks = elements.div_ceil(adamw_8bit::BLOCK);
                take(second_scales, blocks);
                Rule::Adamw8bit { codes: take(&mut self.codes, elements), scales: take(first_scales, blocks) }
            }
            (Optim::Adamw | Optim::Adamw8bit | Optim::Muon, _) => {
                take(second, elements);
                Rule::Adamw { moments: take(first, elements) }
            }
        }
    }

    fn bytes(&self) -> usize {
        let floats = self.floats.iter().sum::<usize>() + self.scratch;
        floats * size_of::<f32>() + self.codes * CODES.len()
    }
}

/// The next `count` elements behind `end`.
fn take(end: &mut usize, count: usize) -> Range<usize> {
    let start = *end;
    *end += count;
    start..*end
}

/// Bytes that `optim` takes beside the parameters of a model and their gradients.
pub fn optimizer_bytes(optim: Optim, parameters: &Parameters) -> usize {
    Layout::new(optim, parameters.list()).bytes()
}

impl Optimizer {
    /// A fresh state for the trained parameters of `model`.
    pub fn new(model: &Model, options: &TrainingOptions) -> Self {
        let Layout { rules, floats, codes, scratch } = Layout::new(options.optim, model.parameters().list());
        Self {
            squares: vec![0.0; rules.len()],
            ratios: vec![1.0; rules.len()],
            rules,
            state: State {
                floats: floats.map(Buffer::zeros),
                codes: [Buffer::zeros(codes), Buffer::zeros(codes)],
            },
            scratch: Buffer::zeros(scratch),
            constants: Constants {
                beta1: options.adam_beta1 as f32,
                beta2: options.adam_beta2() as f32,
                epsilon: options.adam_epsilon as f32,
                weight_decay: options.weight_decay as f32,
                max_grad_norm: options.max_grad_norm,
                clip: options.clip,
                fused_backward: options.fused_backward,
                precision: model.precision(),
            },
            learning_rate: 0.0,
            step: 0,
        }
    }

    /// The same with a learning rate of B of every adapter, and of vectors, that is so many times that of the others: LoRA+
    /// (Hayou et al. 2024, arXiv:2402.12354), with the groups of LLaMA-Factory.
    #[must_use]
    pub fn with_ratio_of_b(mut self, model: &Model, ratio: f64) -> Self {
        for (own, parameter) in self.ratios.iter_mut().zip(model.parameters().list()) {
            if parameter.name.contains(".lora_B.") || parameter.shape.len() == 1 {
                *own = ratio as f32;
            }
        }
        self
    }

    /// Memory for the gradients of `model`: all of them, or with `fused_backward` what is incomplete at a time.
    pub fn gradients(&self, model: &Model) -> Gradients {
        if self.constants.fused_backward { Gradients::passing(model) } else { Gradients::whole(model) }
    }

    /// Begins step `step` (from 1).
    pub fn begin(&mut self, learning_rate: f64, step: u64) {
        self.learning_rate = learning_rate as f32;
        self.step = step;
        self.squares.fill(0.0);
    }

    /// The step that was begun last.
    pub fn current_step(&self) -> u64 {
        self.step
    }

    /// Clips the gradients, updates the parameters unless the backward did, and returns the norm of the whole gradient
    /// before clipping. If that is not finite, nothing is updated from here on.
    pub fn finish(&mut self, parameters: &mut Parameters, gradients: &Gradients) -> f64 {
        let norm = self.squares.iter().sum::<f64>().sqrt();
        if !self.constants.fused_backward && norm.is_finite() {
            for id in (0..self.rules.len()).map(ParameterId) {
                let clipped = match self.constants.clip {
                    Clip::Global => norm,
                    Clip::PerTensor => self.squares[id.0].sqrt(),
                };
                self.update(id, parameters, gradients.view(id), clipped);
            }
        }
        norm
    }

    /// Updates a parameter with its gradient scaled as `norm` asks; matrices decay, norms do not.
    fn update(&mut self, id: ParameterId, parameters: &mut Parameters, gradient: View<f32>, norm: f64) {
        let Constants { beta1, beta2, epsilon, max_grad_norm, precision, .. } = self.constants;
        let (learning_rate, step) = (self.learning_rate * self.ratios[id.0], self.step);
        let gradient_scale =
            if max_grad_norm > 0.0 { (max_grad_norm / (norm + 1e-6)).min(1.0) as f32 } else { 1.0 };
        let decays = parameters.list()[id.0].decays();
        let weight_decay = if decays { self.constants.weight_decay } else { 0.0 };
        let adamw = AdamwStep { learning_rate, beta1, beta2, epsilon, weight_decay, step, gradient_scale };
        let adafactor = AdafactorStep { learning_rate, weight_decay, step, gradient_scale };
        let parameter = parameters.view_mut(id);
        let [first, second, momenta, row_means, column_means, first_scales, second_scales] =
            &mut self.state.floats;
        let [first_codes, second_codes] = &mut self.state.codes;
        match self.rules[id.0].clone() {
            Rule::Adamw { moments } => {
                let (first, second) = (first.view_mut(moments.clone()), second.view_mut(moments));
                adamw_step(&adamw, gradient, first, second, parameter);
            }
            Rule::Adamw8bit { codes, scales } => {
                let first = Codes {
                    codes: first_codes.view_mut(codes.clone()),
                    scales: first_scales.view_mut(scales.clone()),
                };
                let second =
                    Codes { codes: second_codes.view_mut(codes), scales: second_scales.view_mut(scales) };
                adamw_8bit_step(&adamw, gradient, first, second, parameter);
            }
            Rule::AdafactorMatrix { rows, columns } => {
                let scratch = self.scratch.first_mut(adafactor_scratch(rows.len(), columns.len()));
                let (rows, columns) = (row_means.view_mut(rows), column_means.view_mut(columns));
                adafactor_matrix_step(&adafactor, gradient, rows, columns, scratch, parameter);
            }
            Rule::AdafactorVector { moment } => {
                adafactor_vector_step(&adafactor, gradient, second.view_mut(moment), parameter);
            }
            Rule::Lion { moment } => {
                let step = LionStep { learning_rate, beta1, beta2, weight_decay, gradient_scale };
                lion_step(&step, gradient, first.view_mut(moment), parameter);
            }
            Rule::Muon { shape, momentum } => {
                let step = MuonStep { learning_rate, weight_decay, gradient_scale, precision };
                let scratch = self.scratch.first_mut(muon_scratch(shape[0], shape[1]));
                muon_step(&step, shape, gradient, momenta.view_mut(momentum), scratch, parameter);
            }
            Rule::Sgd => {
                sgd_step(&SgdStep { learning_rate, weight_decay, gradient_scale }, gradient, parameter);
            }
        }
    }
}

impl GradientSink for Optimizer {
    /// Takes the norm while the gradient is in the caches; with `fused_backward`, updates the parameter at once.
    fn ready(&mut self, id: ParameterId, parameters: &mut Parameters, gradient: View<f32>) {
        let squares = sum_of_squares(gradient);
        self.squares[id.0] = squares;
        if self.constants.fused_backward && squares.is_finite() {
            self.update(id, parameters, gradient, squares.sqrt());
        }
    }
}

impl State {
    /// The f32 state that this optimizer has, with its name in checkpoints.
    pub(crate) fn floats(&self) -> impl Iterator<Item = (&'static str, &Buffer<f32>)> {
        FLOATS.into_iter().zip(&self.floats).filter(|(_, values)| !values.is_empty())
    }

    /// The same, to read from a checkpoint.
    pub(crate) fn floats_mut(&mut self) -> impl Iterator<Item = (&'static str, &mut Buffer<f32>)> {
        FLOATS.into_iter().zip(&mut self.floats).filter(|(_, values)| !values.is_empty())
    }

    /// The state in bytes that this optimizer has, with its name in checkpoints.
    pub(crate) fn codes(&self) -> impl Iterator<Item = (&'static str, &Buffer<u8>)> {
        CODES.into_iter().zip(&self.codes).filter(|(_, values)| !values.is_empty())
    }

    /// The same, to read from a checkpoint.
    pub(crate) fn codes_mut(&mut self) -> impl Iterator<Item = (&'static str, &mut Buffer<u8>)> {
        CODES.into_iter().zip(&mut self.codes).filter(|(_, values)| !values.is_empty())
    }
}
