//! The training loop.
//!
//! A step takes the next samples, cuts them into slices, runs each forward and backward, and updates once. The result is
//! a function of recipe and data: threads, micro-batches, kills and resumes change no bit of it.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Instant;

use danlu_data::StepOrder;
use danlu_data::slices::{SLICE_TOKENS, Slice};
use danlu_formats::write_file_atomically;
use danlu_kernels::View;
use danlu_kernels::cross_entropy::Score;
use danlu_model::{
    Activations, GradientSink, Gradients, Model, PackedTokens, ParameterId, Parameters, Resident, Target,
    TrainingPlace,
};

use crate::best::Best;
use crate::checkpoint::{self, TrainingState, fingerprint};
use crate::error::{Result, TrainError};
use crate::guard::{Guard, Skipped};
use crate::objective::answers::answers;
use crate::objective::reference::{Reference, SetReference};
use crate::objective::rewards::Rewards;
use crate::objective::step::{Step, Steps};
use crate::objective::{Objective, Tally};
use crate::optimizer::Optimizer;
use crate::prepare::Prepared;
use crate::recipe::IntervalStrategy;
use crate::run_folder::{EvalLog, FinishLog, RunFacts, RunFolder, StepLog};
use crate::run_record::RunRecord;
use crate::samples::{self, Answer};

/// Watches a run.
pub trait Observer {
    /// The run goes on from a checkpoint: this many steps are done already.
    fn resumed(&mut self, steps: u64) {
        _ = steps;
    }
    /// Before the first step of preference tuning: the reference of so many of all tokens is computed.
    fn reference(&mut self, tokens: u64, all: u64) {
        _ = (tokens, all);
    }
    /// A step is done.
    fn step(&mut self, progress: &Progress) {
        _ = progress;
    }
    /// A log line was written.
    fn log(&mut self, log: &StepLog) {
        _ = log;
    }
    /// A validation is done.
    fn evaluated(&mut self, log: &EvalLog) {
        _ = log;
    }
    /// A step changed nothing.
    fn skipped(&mut self, step: u64, reason: Skipped) {
        _ = (step, reason);
    }
    /// The model answered a prompt.
    fn answered(&mut self, answer: &Answer) {
        _ = answer;
    }
    /// The run ends before its last step, for this reason.
    fn ends_early(&mut self, step: u64, reason: &str) {
        _ = (step, reason);
    }
    /// A checkpoint was written.
    fn saved(&mut self, path: &Path) {
        _ = path;
    }
    /// Whether the run should end after this step; a checkpoint is written first.
    fn stops(&mut self) -> bool {
        false
    }
}

/// Where a run is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Finished steps.
    pub step: u64,
    /// Steps of the run.
    pub total_steps: u64,
    /// Loss of this step.
    pub loss: f64,
    /// Tokens per second of this step.
    pub tokens_per_second: f64,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Where the model or adapter is.
    pub output_dir: PathBuf,
    /// Finished steps.
    pub steps: u64,
    /// Mean loss of the run's steps; none if a resumed run was finished already.
    pub train_loss: Option<f64>,
    /// Loss of the last validation, or of that whose state is the result.
    pub eval_loss: Option<f64>,
    /// The step whose state is the result, where that is not the last.
    pub best_step: Option<u64>,
    /// Steps that changed nothing.
    pub skipped_steps: u64,
    /// Rewards of the validation of the result, in preference tuning.
    pub eval_rewards: Option<Rewards>,
    /// The checkpoint that was written because somebody asked to stop.
    pub interrupted: Option<PathBuf>,
}

/// Runs what was prepared.
///
/// # Errors
/// A disk that is full, a loss that is not a number, a checkpoint that does not fit. Checkpoints before it are unharmed.
pub fn train(mut prepared: Prepared, observer: &mut dyn Observer) -> Result<Outcome> {
    let recipe = prepared.recipe.clone();
    let (training, output) = (&recipe.training, &recipe.output);
    let steps_per_epoch = prepared.order.steps_per_epoch();
    let total_steps = prepared.total_steps;
    let epoch_at = |step: u64| step as f64 / steps_per_epoch as f64;
    let data_fingerprint = fingerprint(&prepared.training, &prepared.order);
    let mut optimizer = Optimizer::new(&prepared.model, training)
        .with_ratio_of_b(&prepared.model, recipe.adapter.loraplus_lr_ratio.unwrap_or(1.0));
    let facts = RunFacts {
        total_steps,
        num_train_epochs: training.num_train_epochs,
        train_batch_size: training.per_device_train_batch_size,
        logging_steps: output.logging_steps,
        eval_steps: output.eval_steps(),
        save_steps: output.save_steps,
        plot_loss: output.plot_loss,
        event_folder: output.event_folder(),
    };
    let start = Instant::now();
    let mut activations = Activations::new(&prepared.model, capacity(&prepared), prepared.recompute.keep());
    let objective = Objective::of(&recipe);
    let reference = match &prepared.resume_from {
        _ if !prepared.needs_reference() => Reference::default(),
        Some(checkpoint) => {
            let samples = [prepared.training.len(), prepared.validation.len()];
            Reference::read(checkpoint, samples, recipe.preference())?
        }
        None => compute_reference(&prepared, &mut activations, observer)?,
    };
    let (mut run_folder, state) = match &prepared.resume_from {
        Some(checkpoint) => {
            let state = checkpoint::restore(checkpoint, &prepared, data_fingerprint, &mut optimizer)?;
            if !checkpoint::belongs_to(checkpoint, &output.output_dir) {
                checkpoint::remove_earlier(&output.output_dir)?;
            }
            samples::keep_until(&output.output_dir, state.step)?;
            (RunFolder::resume(&output.output_dir, checkpoint, facts)?, state)
        }
        None => {
            checkpoint::remove_earlier(&output.output_dir)?;
            let state = TrainingState::new(&prepared, data_fingerprint, 0, 0, 0.0);
            (RunFolder::create(&output.output_dir, facts)?, state)
        }
    };
    let (mut tokens_seen, mut loss_sum) = (state.tokens_seen, state.loss_sum);
    let first_step = prepared.continue_at.map_or(state.step, |step| step.clamp(state.step, total_steps));
    checkpoint::save_recipe(&recipe, &output.output_dir)?;
    let record = serde_json::to_vec_pretty(&RunRecord::new(&prepared, data_fingerprint, first_step));
    write_file_atomically(output.output_dir.join("run.json"), &record.map_err(std::io::Error::from)?)?;
    let mut guard = Guard::new(training, state.guard);
    if prepared.continue_at.is_some() {
        guard.pass_over(first_step - state.step);
    }
    let mut best = Best::of_history(&recipe.evaluation, run_folder.history());
    run_folder.note_best(best.found);
    let mut ends_early = best.ends().filter(|_| first_step > 0);

    if first_step > 0 {
        observer.resumed(first_step);
    }
    let mut gradients = optimizer.gradients(&prepared.model);
    let steps_of = |samples, reference: &SetReference| Steps {
        reference: Arc::new(reference.clone()),
        ..prepared.steps(samples)
    };
    let training_steps = steps_of(&prepared.training, &reference.training);
    let validation = steps_of(&prepared.validation, &reference.validation);
    let mut since_log = SinceLog::default();
    let (mut samples_seen, mut steps) = (0, 0);
    let mut interrupted = None;
    let (mut last_eval, mut best_eval): (Option<EvalLog>, Option<EvalLog>) = (None, None);
    let ahead = steps_ahead(training_steps, prepared.order.clone(), first_step..total_steps);
    for (step, (batch, samples)) in (first_step..total_steps).zip(ahead) {
        if ends_early.is_some() {
            break;
        }
        let step_start = Instant::now();
        samples_seen += samples;
        let done = step + 1;
        let learning_rate = prepared.schedule.learning_rate(step);
        optimizer.begin(learning_rate, done);
        let model = &mut prepared.model;
        let judge = |loss| guard.judge(loss);
        let StepResult { loss, grad_norm, rewards, skipped } =
            take_step(model, &objective, &batch, &mut activations, &mut gradients, &mut optimizer, &judge)?;
        guard.note(done, loss, skipped)?;
        steps += 1;
        let tokens = batch.slices.tokens();
        tokens_seen += tokens as u64;
        let seconds = step_start.elapsed().as_secs_f64();
        match skipped {
            None => {
                loss_sum += loss;
                since_log.add(loss, &rewards, &batch, seconds);
            }
            Some(reason) => {
                run_folder.note(&format!("step {done} changed nothing: {reason}"))?;
                observer.skipped(done, reason);
            }
        }
        let tokens_per_second = tokens as f64 / seconds.max(1e-9);
        observer.step(&Progress { step: done, total_steps, loss, tokens_per_second });

        let last = done == total_steps;
        let stops = observer.stops();
        let epoch_ends = done.is_multiple_of(steps_per_epoch) || last;
        let mut is_best = false;
        let due = |strategy: IntervalStrategy, every: u64| match strategy {
            IntervalStrategy::No => false,
            IntervalStrategy::Steps => last || done.is_multiple_of(every.max(1)),
            IntervalStrategy::Epoch => epoch_ends,
        };
        let log_is_due = done.is_multiple_of(output.logging_steps.max(1)) || done == 1 || last || stops;
        if log_is_due && !since_log.is_empty() {
            let log = StepLog {
                step: done,
                loss: since_log.mean_loss(),
                rewards: objective.preference.map(|_| since_log.rewards),
                learning_rate,
                grad_norm,
                epoch: epoch_at(done),
                tokens_seen,
                tokens_per_second: since_log.tokens_per_second(),
                elapsed: start.elapsed(),
            };
            run_folder.log_step(&log)?;
            observer.log(&log);
            since_log = SinceLog::default();
        }
        let passed =
            if output.eval_strategy == IntervalStrategy::Epoch { epoch_at(done) } else { done as f64 };
        let evaluation_is_due =
            last || passed >= output.eval_delay && due(output.eval_strategy, output.eval_steps());
        if evaluation_is_due && !prepared.validation.is_empty() {
            let log = evaluate(&prepared.model, &objective, &validation, &mut activations, done)?;
            let log = EvalLog { epoch: epoch_at(done), elapsed: start.elapsed(), ..log };
            let values = run_folder.log_eval(&log)?;
            last_eval = Some(log);
            observer.evaluated(&log);
            is_best = values.get(best.metric.as_str()).is_some_and(|&value| best.add(done, value));
            best_eval = if is_best { last_eval } else { best_eval };
            run_folder.note_best(best.found);
            ends_early = best.ends().filter(|_| !last);
        }
        if evaluation_is_due {
            let (model, tokenizer) = (&prepared.model, &prepared.tokenizer);
            match prepared.prompts.answer(model, tokenizer, done, &output.output_dir) {
                Ok(answers) => answers.iter().for_each(|answer| observer.answered(answer)),
                // The answers are for looking at: a run does not end for them.
                Err(error) => run_folder.note(&format!("step {done} answered no prompts: {error}"))?,
            }
        }
        if let Some(reason) = &ends_early {
            run_folder.note(&format!("the run ends at step {done}: {reason}"))?;
            observer.ends_early(done, reason);
        }
        if epoch_ends && let Some(path) = checkpoint::save_epoch(&prepared, step / steps_per_epoch)? {
            observer.saved(&path);
        }
        let keeps_best = recipe.evaluation.load_best_model_at_end;
        let ends_here = ends_early.is_some() && output.save_strategy != IntervalStrategy::No;
        if due(output.save_strategy, output.save_steps)
            || stops && !last
            || ends_here
            || keeps_best && is_best
        {
            let mut state = TrainingState::new(&prepared, data_fingerprint, done, tokens_seen, loss_sum);
            state.guard = guard.memory().clone();
            let spared = best.found.map(|(step, _)| step).filter(|_| keeps_best);
            let at = epoch_at(done);
            let path = checkpoint::save(&prepared, &optimizer, &run_folder, &reference, state, at, spared)?;
            observer.saved(&path);
            if stops && !last {
                interrupted = Some(path);
                break;
            }
        }
    }

    let last_step = first_step + steps;
    let best_step = best.found.map(|(step, _)| step).filter(|step| {
        recipe.evaluation.load_best_model_at_end && interrupted.is_none() && *step != last_step
    });
    // A run that went on in another folder has no checkpoint of what was best before.
    let best_step = best_step.filter(|step| checkpoint::folder(&output.output_dir, *step).is_dir());
    let evaluation = run_folder.last_evaluation(best_step);
    let skipped_steps = guard.memory().skipped;
    let counted = last_step.saturating_sub(skipped_steps).max(1);
    let outcome = Outcome {
        output_dir: output.output_dir.clone(),
        steps: last_step,
        train_loss: (steps > 0).then(|| loss_sum / counted as f64),
        eval_loss: evaluation.as_ref().and_then(|values| values.get("eval_loss")?.as_f64()),
        best_step,
        skipped_steps,
        eval_rewards: best_step.map_or(last_eval, |_| best_eval).and_then(|log| log.rewards),
        interrupted,
    };
    match best_step {
        _ if outcome.interrupted.is_some() => {}
        Some(step) => checkpoint::copy_weights(&output.output_dir, step)?,
        None => checkpoint::save_weights(&prepared, &output.output_dir)?,
    }
    if let (None, Some(train_loss)) = (&outcome.interrupted, outcome.train_loss) {
        let log = FinishLog {
            step: last_step,
            epoch: epoch_at(last_step),
            train_loss,
            samples: samples_seen,
            steps,
            tokens_seen,
            elapsed: start.elapsed(),
        };
        run_folder.finish(&log, evaluation)?;
    }
    Ok(outcome)
}

/// The reference of the samples to train on and to validate with.
fn compute_reference(
    prepared: &Prepared,
    activations: &mut Activations,
    observer: &mut dyn Observer,
) -> Result<Reference> {
    let (mut done, all) = (0, prepared.reference_tokens());
    let mut goes_on = |tokens: usize| {
        done += tokens as u64;
        observer.reference(done, all);
        !observer.stops()
    };
    let mut compute =
        |samples| SetReference::compute(&prepared.steps(samples), &prepared.model, activations, &mut goes_on);
    Ok(Reference { training: compute(&prepared.training)?, validation: compute(&prepared.validation)? })
}

/// What each step sees, and how many samples they are of, put together by a thread of its own one step ahead: the
/// training threads find them ready. What a step holds is a function of its number alone.
fn steps_ahead(samples: Steps, mut order: StepOrder, steps: Range<u64>) -> Receiver<(Step, u64)> {
    let (sender, receiver) = sync_channel(1);
    thread::spawn(move || {
        for step in steps {
            let indices = order.step(step);
            let count = (indices.len() / samples.group()) as u64;
            // Nobody takes it when the run has ended before its last step.
            if sender.send((samples.step(indices), count)).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Tokens that the longest slice can have.
pub(crate) fn capacity(prepared: &Prepared) -> usize {
    let longest = |samples| prepared.steps(samples).longest();
    longest(&prepared.training).max(longest(&prepared.validation)).max(SLICE_TOKENS)
}

/// What a step came to.
#[derive(Clone, Copy, Debug)]
pub struct StepResult {
    /// Loss before the update.
    pub loss: f64,
    /// Norm of the gradient before clipping; of a step that was left out for its loss, not a number.
    pub grad_norm: f64,
    /// What is logged of preferences, before the update.
    pub rewards: Rewards,
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
    let divergence = divergence(model, step, activations, &mut tally)?;
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
        if let Some(known) = objective.known_coefficients(slice, step) {
            let scores = model.backward(&tokens, &targets, &known, activations, gradients, sink, source);
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
    let rewards = tally.rewards;
    if let Some(skipped) = judge(loss) {
        return Ok(StepResult { loss, grad_norm: f64::NAN, rewards, skipped: Some(skipped) });
    }
    let grad_norm = optimizer.finish(&mut model.parameters_mut(), gradients);
    let skipped = (!grad_norm.is_finite()).then_some(Skipped::Gradient);
    Ok(StepResult { loss, grad_norm, rewards, skipped })
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

fn model_input(slice: &Slice) -> (PackedTokens, Vec<Target>) {
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

/// How far the model is from its reference on the step's mismatched answers, at least 0; 0 where there are none.
fn divergence(model: &Model, step: &Step, activations: &mut Activations, tally: &mut Tally) -> Result<f64> {
    let mut ratios = Vec::new();
    for slice in &step.mismatched.slices {
        let scores = score(model, slice, activations)?;
        let reference = &step.mismatched_reference[ratios.len()..];
        let pairs = answers(slice, &scores).into_iter().zip(reference);
        ratios.extend(pairs.map(|(answer, reference)| answer.log_probability - reference));
    }
    if ratios.is_empty() {
        return Ok(0.0);
    }
    let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
    // What is not a number stays so, for the guard to see.
    let divergence = if mean < 0.0 { 0.0 } else { mean };
    tally.rewards.add_divergence(divergence);
    Ok(divergence)
}

/// Mean loss of the validation samples, and of texts the share of the tokens that the model finds the most probable ones;
/// tokens without loss count for nothing. The caller knows when.
fn evaluate(
    model: &Model,
    objective: &Objective,
    validation: &Steps,
    activations: &mut Activations,
    step: u64,
) -> Result<EvalLog> {
    let start = Instant::now();
    let whole = validation.whole();
    let mut tally = Tally::default();
    let divergence = divergence(model, &whole, activations, &mut tally)?;
    let (mut right, mut count) = (0, 0);
    for (index, slice) in whole.slices.slices.iter().enumerate() {
        let scores = score(model, slice, activations)?;
        objective.weigh(&whole, index, &scores, divergence, &mut tally);
        right +=
            slice.targets.iter().zip(&scores).filter(|(target, score)| target.id == score.argmax).count();
        count += scores.len();
    }
    let is_of_texts = objective.preference.is_none();
    Ok(EvalLog {
        step,
        epoch: 0.0,
        eval_loss: tally.loss / whole.units.max(f64::MIN_POSITIVE),
        accuracy: is_of_texts.then(|| right as f64 / count.max(1) as f64),
        rewards: objective.preference.map(|_| tally.rewards),
        samples: (validation.samples.len() / validation.group()) as u64,
        runtime: start.elapsed(),
        elapsed: start.elapsed(),
    })
}

/// What a log line sums up.
#[derive(Default)]
struct SinceLog {
    weighted_loss: f64,
    weight: f64,
    tokens: usize,
    rewards: Rewards,
    /// Of the steps alone, without validations and checkpoints.
    seconds: f64,
}

impl SinceLog {
    fn add(&mut self, loss: f64, rewards: &Rewards, step: &Step, seconds: f64) {
        self.seconds += seconds;
        self.weighted_loss += loss * step.units;
        self.weight += step.units;
        self.tokens += step.slices.tokens();
        self.rewards.join(rewards);
    }

    fn is_empty(&self) -> bool {
        self.tokens == 0
    }

    fn mean_loss(&self) -> f64 {
        if self.weight > 0.0 { self.weighted_loss / self.weight } else { 0.0 }
    }

    fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.seconds.max(1e-9)
    }
}
