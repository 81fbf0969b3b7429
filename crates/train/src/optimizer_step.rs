//! One optimizer step: forward and backward of every slice, in order, and the update.
//!
//! It neither chooses the samples nor decides when steps are taken; that is [`crate::trainer`].

use danlu_data::slices::Slice;
use danlu_kernels::View;
use danlu_kernels::cross_entropy::Score;
use danlu_model::{
    Activations, GradientSink, Gradients, Model, PackedTokens, ParameterId, Parameters, Resident, Target,
    TrainingPlace,
};

use crate::error::{Result, TrainError};
use crate::guard::Skipped;
use crate::objective::answers::answers;
use crate::objective::distillation::Parts;
use crate::objective::rewards::Rewards;
use crate::objective::step::Step;
use crate::objective::{Objective, Tally};
use crate::optimizer::Optimizer;

/// What a step came to.
#[derive(Clone, Copy, Debug)]
pub struct StepResult {
    /// Loss before the update.
    pub loss: f64,
    /// Norm of the gradient before clipping; of a step that was left out for its loss, not a number.
    pub grad_norm: f64,
    /// What is logged of preferences, before the update.
    pub rewards: Rewards,
    /// The parts of the loss of distillation, summed with the weights of their targets.
    pub parts: Parts,
    /// Why the update was left out, if it was.
    pub skipped: Option<Skipped>,
}

/// Forward and backward of every slice of a step, in order, and the update, after [`Optimizer::begin`]. There is no update if
/// `judge` says so of the loss, or if the gradient is not finite.
///
/// # Errors
/// A trained parameter that did not get its gradient exactly once.
pub fn take_step(
    model: &mut Model,
    objective: &Objective,
    step: &Step,
    activations: &mut Activations,
    gradients: &mut Gradients,
    optimizer: &mut Optimizer,
    judge: &dyn Fn(f64) -> Option<Skipped>,
) -> Result<StepResult> {
    gradients.clear();
    let slices = &step.slices.slices;
    let mut tally = Tally::default();
    let divergence = divergence(&mismatched_ratios(model, step, activations)?, &mut tally);
    let times = vec![0; model.parameters().list().len()];
    let mut place = TrainingPlace { step: optimizer.current_step(), first_sequence: 0 };
    let mut sink = LastSlice { is_last: false, times, optimizer };
    for (index, slice) in slices.iter().enumerate() {
        let (tokens, targets) = model_input(slice);
        let tokens = tokens.in_training(place);
        place.first_sequence += tokens.sequences().len() as u64;
        model.forward(&tokens, activations, &mut Resident)?;
        sink.is_last = index + 1 == slices.len();
        let (sink, source) = (&mut sink, &mut Resident);
        if let Some(distillation) = objective.distillation {
            let known = distillation.coefficients(slice, step.units);
            let soft = step.soft[index].targets(distillation, &known);
            let scores = model.backward(
                &tokens,
                &targets,
                &known.hard,
                Some(soft),
                activations,
                gradients,
                sink,
                source,
            );
            let parts = Parts::of(slice, &scores);
            tally.loss += distillation.loss(&parts);
            tally.parts.join(&parts);
        } else if let Some(known) = objective.known_coefficients(slice, step) {
            let scores =
                model.backward(&tokens, &targets, &known, None, activations, gradients, sink, source);
            objective.weigh(step, index, &scores, divergence, &mut tally);
        } else {
            let mut weigh = |scores: &[Score]| objective.weigh(step, index, scores, divergence, &mut tally);
            model.backward_after(&tokens, &targets, &mut weigh, activations, gradients, sink, source);
        }
    }
    if let Some(missing) = sink.times.iter().position(|&times| times != 1)
        && !slices.is_empty()
    {
        return Err(TrainError::MissingGradient { name: model.parameters().list()[missing].name.clone() });
    }
    let loss = if step.units > 0.0 { tally.loss / step.units } else { 0.0 };
    let Tally { rewards, parts, .. } = tally;
    if let Some(skipped) = judge(loss) {
        return Ok(StepResult { loss, grad_norm: f64::NAN, rewards, parts, skipped: Some(skipped) });
    }
    let grad_norm = optimizer.finish(&mut model.parameters_mut(), gradients);
    let skipped = (!grad_norm.is_finite()).then_some(Skipped::Gradient);
    Ok(StepResult { loss, grad_norm, rewards, parts, skipped })
}

/// Passes on to the optimizer what is complete with the last slice, and counts it.
struct LastSlice<'a> {
    is_last: bool,
    times: Vec<u8>,
    optimizer: &'a mut Optimizer,
}

impl GradientSink for LastSlice<'_> {
    fn ready(&mut self, id: ParameterId, parameters: &mut Parameters, gradient: View<f32>) {
        if self.is_last {
            self.times[id.0] += 1;
            self.optimizer.ready(id, parameters, gradient);
        }
    }

    fn is_last_backward(&self) -> bool {
        self.is_last
    }
}

pub(crate) fn model_input(slice: &Slice) -> (PackedTokens, Vec<Target>) {
    let sequences = slice.sequence_starts.windows(2).map(|bounds| &slice.ids[bounds[0]..bounds[1]]);
    let target = |target: &danlu_data::Target| Target { position: target.position as u32, id: target.id };
    (PackedTokens::new(sequences), slice.targets.iter().map(target).collect())
}

/// The log-probability of every target of a slice.
///
/// # Errors
/// Tokens that the model does not take.
pub fn score(model: &Model, slice: &Slice, activations: &mut Activations) -> Result<Vec<Score>> {
    let (tokens, targets) = model_input(slice);
    model.forward(&tokens, activations, &mut Resident)?;
    Ok(model.score(&tokens, &targets, activations))
}

/// How much more probable than at the beginning of the run each mismatched answer of a step is, as logarithms.
///
/// # Errors
/// Tokens that the model does not take.
pub(crate) fn mismatched_ratios(
    model: &Model,
    step: &Step,
    activations: &mut Activations,
) -> Result<Vec<f64>> {
    let mut ratios = Vec::new();
    for slice in &step.mismatched.slices {
        let scores = score(model, slice, activations)?;
        let reference = &step.mismatched_reference[ratios.len()..];
        let pairs = answers(slice, &scores).into_iter().zip(reference);
        ratios.extend(pairs.map(|(answer, reference)| answer.log_probability - reference));
    }
    Ok(ratios)
}

/// How far the model is from its reference: the mean of [`mismatched_ratios`], at least 0; 0 where there are none.
pub(crate) fn divergence(ratios: &[f64], tally: &mut Tally) -> f64 {
    if ratios.is_empty() {
        return 0.0;
    }
    let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
    // What is not a number stays so, for the guard to see.
    let divergence = if mean < 0.0 { 0.0 } else { mean };
    tally.rewards.add_divergence(divergence);
    divergence
}
