//! The training loop.
//!
//! A step takes the next samples, cuts them into slices, runs each forward and backward, and updates once. The result is
//! a function of recipe and data: threads, micro-batches, kills and resumes change no bit of it. It goes back to no earlier
//! checkpoint by itself; that is [`crate::rollback`].

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use danlu_data::StepOrder;
use danlu_data::slices::SLICE_TOKENS;
use danlu_kernels::heap;
use danlu_model::{Activations, Gradients};

use crate::best::Best;
use crate::checkpoint::{self, Identity, TrainingState};
use crate::error::{Result, TrainError};
use crate::guard::Guard;
use crate::objective::Objective;
use crate::objective::reference::{Reference, SetReference};
use crate::objective::rewards;
use crate::objective::step::{Step, Steps};
use crate::objective::teacher::TopTokens;
use crate::observer::{Observer, Progress};
use crate::optimizer::Optimizer;
use crate::optimizer_step::{StepResult, take_step};
use crate::prepare::{PassedOver, Prepared};
use crate::recipe::IntervalStrategy;
use crate::run_folder::{EvalLog, FinishLog, RunFacts, RunFolder, StepLog, TrainerState};
use crate::run_record;
use crate::samples;
use crate::validation::validate;

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Where the model or adapter is.
    pub output_dir: PathBuf,
    /// Finished steps.
    pub steps: u64,
    /// Whether there was nothing left to do.
    pub was_done: bool,
    /// Mean loss of the run's steps.
    pub train_loss: f64,
    /// Loss of the last validation, or of that whose state is the result.
    pub eval_loss: Option<f64>,
    /// The step whose state is the result, where that is not the last.
    pub best_step: Option<u64>,
    /// Steps that changed nothing.
    pub skipped_steps: u64,
    /// Rewards of the validation of the result, in preference tuning.
    pub eval_rewards: Option<BTreeMap<&'static str, f64>>,
    /// The checkpoint that was written because somebody asked to stop.
    pub interrupted: Option<PathBuf>,
}

/// Takes the steps of what was prepared, from where it begins or goes on.
///
/// # Errors
/// A disk that is full, a loss that is not a number, a checkpoint that does not fit. Checkpoints before it are unharmed.
pub(crate) fn run(prepared: Prepared, observer: &mut dyn Observer) -> Result<Outcome> {
    let mut run = Run::begin(prepared, observer)?;
    for step in run.steps_to_take() {
        if run.ends_early.is_some() || run.interrupted.is_some() {
            break;
        }
        let (batch, samples) = step?;
        run.take(&batch, samples)?;
        run.log_if_due()?;
        run.validate_if_due()?;
        run.save_if_due()?;
    }
    run.finish()
}

/// A run on its way.
struct Run<'o> {
    prepared: Prepared,
    observer: &'o mut dyn Observer,
    objective: Objective,
    optimizer: Optimizer,
    gradients: Gradients,
    activations: Activations,
    reference: Reference,
    top_tokens: Option<TopTokens>,
    validation: Steps,
    run_folder: RunFolder,
    guard: Guard,
    best: Best,
    /// Sums up to now, as the next checkpoint keeps them; those of the guard are its own.
    state: TrainingState,
    /// Learning rate and gradient norm of the last step.
    last_step: (f64, f64),
    /// When this process began, and how long it took to come to its checkpoint.
    started: Instant,
    elapsed_before: Duration,
    first_step: u64,
    ends_early: Option<String>,
    stops: bool,
    interrupted: Option<PathBuf>,
}

impl<'o> Run<'o> {
    /// Begins in the output folder, or restores what the checkpoint keeps.
    fn begin(mut prepared: Prepared, observer: &'o mut dyn Observer) -> Result<Self> {
        let started = Instant::now();
        let identity = Identity::of(&prepared);
        let resumed = match &prepared.resume_from {
            Some(checkpoint) => {
                Some((checkpoint.clone(), checkpoint::read_state(checkpoint, &prepared, &identity)?))
            }
            None => None,
        };
        let takes_steps = match &resumed {
            Some((checkpoint, state)) => takes_steps(&prepared, checkpoint, state)?,
            None => true,
        };
        let top_tokens = ask_teacher(&mut prepared, takes_steps, observer)?;
        let recipe = &prepared.recipe;
        let (output, output_dir) = (&recipe.output, &recipe.output.output_dir);
        let mut optimizer = Optimizer::new(&prepared.model, &recipe.training)
            .with_ratio_of_b(&prepared.model, recipe.adapter.loraplus_lr_ratio.unwrap_or(1.0));
        let capacity = capacity(&prepared);
        let mut activations = Activations::new(&prepared.model, capacity, prepared.recompute.keep());
        let reference = reference(&prepared, &mut activations, observer)?;
        let facts = RunFacts {
            total_steps: prepared.total_steps,
            num_train_epochs: recipe.training.num_train_epochs,
            train_batch_size: recipe.training.per_device_train_batch_size,
            logging_steps: output.logging_steps,
            eval_steps: output.eval_steps(),
            save_steps: output.save_steps,
            plot_loss: output.plot_loss,
            event_folder: output.event_folder(),
        };
        let (mut run_folder, mut state, first_step) = match resumed {
            Some((checkpoint, state)) => {
                checkpoint::restore_optimizer(&checkpoint, &mut optimizer)?;
                let until = prepared.passed_over.last().map_or(state.step, |passed| passed.until);
                let first_step = until.clamp(state.step, prepared.total_steps);
                if !checkpoint::belongs_to(&checkpoint, output_dir) {
                    checkpoint::remove_earlier(output_dir)?;
                }
                samples::keep_until(output_dir, state.step)?;
                let run_folder = RunFolder::resume(output_dir, &checkpoint, facts, state.step..first_step)?;
                (run_folder, state, first_step)
            }
            None => {
                checkpoint::remove_earlier(output_dir)?;
                let mut run_folder = RunFolder::create(output_dir, facts)?;
                run_folder.note(None, &prepared.trainable_line())?;
                (run_folder, TrainingState::before_all(identity.clone()), 0)
            }
        };
        checkpoint::save_recipe(recipe, output_dir)?;
        run_record::write(&prepared, identity.data_fingerprint, first_step)?;
        let mut guard = Guard::new(&recipe.training, std::mem::take(&mut state.guard));
        let elapsed_before = Duration::try_from_secs_f64(state.elapsed_seconds).unwrap_or_default();
        for PassedOver { until, .. } in &prepared.passed_over {
            let elapsed = elapsed_before + started.elapsed();
            run_folder.log_rollback(*until, state.step, epoch_at(&prepared, *until), elapsed)?;
        }
        // The others were noted when they came.
        if let Some(PassedOver { until, told }) = prepared.passed_over.last() {
            guard.pass_over(first_step - state.step);
            run_folder.note(Some(*until), told)?;
        }
        if state.identity.validation_differs(&identity) {
            let told = format!(
                "the validation samples are not those of the checkpoint: losses of validations up to step {first_step} do not \
                 compare with later ones"
            );
            observer.noted(&run_folder.note(Some(first_step), &told)?);
        }
        (state.step, state.identity) = (first_step, identity);
        let best = Best::of_history(&recipe.evaluation, run_folder.history());
        run_folder.note_best(best.found);
        if first_step > 0 {
            observer.resumed(first_step);
        }
        let validation = Steps {
            reference: Arc::new(reference.validation.clone()),
            ..prepared.steps(&prepared.validation)
        };
        Ok(Self {
            objective: Objective::of(recipe),
            gradients: optimizer.gradients(&prepared.model),
            ends_early: best.ends().filter(|_| first_step > 0),
            prepared,
            observer,
            optimizer,
            activations,
            reference,
            top_tokens,
            validation,
            run_folder,
            guard,
            best,
            state,
            last_step: (0.0, 0.0),
            started,
            elapsed_before,
            first_step,
            stops: false,
            interrupted: None,
        })
    }

    /// What each step that is left sees, and of how many samples it is.
    fn steps_to_take(&mut self) -> Receiver<Result<(Step, u64)>> {
        let (prepared, top_tokens) = (&self.prepared, self.top_tokens.take());
        let reference = Arc::new(self.reference.training.clone());
        let steps = Steps { reference, ..prepared.steps(&prepared.training) };
        steps_ahead(steps, top_tokens, prepared.order.clone(), self.first_step..prepared.total_steps)
    }

    /// Takes the next step.
    fn take(&mut self, batch: &Step, samples: u64) -> Result<()> {
        let start = Instant::now();
        let Self { prepared, guard, state, optimizer, gradients, activations, .. } = self;
        let learning_rate = prepared.schedule.learning_rate(state.step);
        state.step += 1;
        optimizer.begin(learning_rate, state.step);
        let judge = |loss| guard.judge(loss);
        let model = &mut prepared.model;
        let StepResult { loss, grad_norm, rewards, parts, skipped } =
            take_step(model, &self.objective, batch, activations, gradients, optimizer, &judge)?;
        guard.note(state.step, loss, skipped)?;
        let (tokens, seconds) = (batch.slices.tokens(), start.elapsed().as_secs_f64());
        self.last_step = (learning_rate, grad_norm);
        state.tokens_seen += tokens as u64;
        state.samples_seen += samples;
        state.steps_taken += 1;
        let step = state.step;
        if let Some(reason) = skipped {
            self.note(&format!("changed nothing: {reason}"))?;
        } else {
            state.loss_sum += loss;
            state.since_log.add(loss, &rewards, &parts, batch, seconds);
        }
        let (total_steps, tokens_per_second) = (self.prepared.total_steps, tokens as f64 / seconds.max(1e-9));
        self.observer.step(&Progress { step, total_steps, loss, tokens_per_second });
        self.stops = self.observer.stops() && !self.is_last();
        Ok(())
    }

    fn log_if_due(&mut self) -> Result<()> {
        let elapsed = self.elapsed();
        let (state, every) = (&mut self.state, self.prepared.recipe.output.logging_steps.max(1));
        let is_due = state.step == 1 || state.step == self.prepared.total_steps;
        if !is_due && !state.step.is_multiple_of(every) || state.since_log.is_empty() {
            return Ok(());
        }
        let since_log = std::mem::take(&mut state.since_log);
        let log = StepLog {
            step: state.step,
            loss: since_log.mean_loss(),
            rewards: self.objective.preference.map(|_| since_log.rewards),
            parts: self.objective.distillation.map(|_| since_log.parts.mean(since_log.weight)),
            learning_rate: self.last_step.0,
            grad_norm: self.last_step.1,
            epoch: epoch_at(&self.prepared, state.step),
            tokens_seen: state.tokens_seen,
            tokens_per_second: since_log.tokens_per_second(),
            elapsed,
        };
        self.run_folder.log_step(&log)?;
        self.observer.log(&log);
        Ok(())
    }

    /// Validates and answers prompts, and finds out whether the run still improves.
    fn validate_if_due(&mut self) -> Result<()> {
        let (output, step) = (&self.prepared.recipe.output, self.state.step);
        let passed = match output.eval_strategy {
            IntervalStrategy::Epoch => epoch_at(&self.prepared, step),
            _ => step as f64,
        };
        let is_due = passed >= output.eval_delay && self.is_due(output.eval_strategy, output.eval_steps());
        if !self.is_last() && !is_due {
            return Ok(());
        }
        if !self.prepared.validation.is_empty() {
            let Self { prepared, objective, validation, activations, .. } = self;
            let found = validate(&prepared.model, objective, validation, activations)?;
            let log = EvalLog {
                step,
                epoch: epoch_at(prepared, step),
                eval_loss: found.loss,
                accuracy: found.accuracy,
                rewards: found.rewards,
                samples: found.samples,
                runtime: found.runtime,
                elapsed: self.elapsed(),
            };
            let values = self.run_folder.log_eval(&log)?;
            self.observer.evaluated(&log);
            if let Some(value) = values.get(self.best.metric.as_str()) {
                self.best.add(step, *value);
            }
            self.run_folder.note_best(self.best.found);
            self.ends_early = self.best.ends().filter(|_| !self.is_last());
        }
        let Prepared { model, tokenizer, recipe, prompts, .. } = &self.prepared;
        match prompts.answer(model, tokenizer, step, &recipe.output.output_dir) {
            Ok(answers) => answers.iter().for_each(|answer| self.observer.answered(answer)),
            // The answers are for looking at: a run does not end for them.
            Err(error) => drop(self.run_folder.note(Some(step), &format!("answered no prompts: {error}"))?),
        }
        if let Some(reason) = &self.ends_early {
            self.note(&format!("the run ends: {reason}"))?;
        }
        Ok(())
    }

    /// Writes what belongs to the end of an epoch, and a checkpoint where one is due, where the run stops or ends, and of the
    /// best state if that will be the result.
    fn save_if_due(&mut self) -> Result<()> {
        let step = self.state.step;
        let epoch = (step - 1) / self.prepared.order.steps_per_epoch();
        if self.ends_epoch()
            && let Some(path) = checkpoint::save_epoch(&self.prepared, epoch)?
        {
            self.observer.saved(&path);
        }
        let recipe = &self.prepared.recipe;
        let output = &recipe.output;
        let best = self.best.found.map(|(step, _)| step);
        let spared = best.filter(|_| recipe.evaluation.load_best_model_at_end);
        let ends_here = self.ends_early.is_some() && output.save_strategy != IntervalStrategy::No;
        let is_wanted = self.stops || ends_here || spared == Some(step);
        if !is_wanted && !self.is_due(output.save_strategy, output.save_steps) {
            return Ok(());
        }
        self.state.guard = self.guard.memory().clone();
        self.state.elapsed_seconds = self.elapsed().as_secs_f64();
        let path = checkpoint::save(
            &self.prepared,
            &self.optimizer,
            &self.run_folder,
            &self.reference,
            &self.state,
            epoch_at(&self.prepared, step),
            spared,
        )?;
        self.observer.saved(&path);
        self.interrupted = self.stops.then_some(path);
        Ok(())
    }

    /// Writes the result, unless the run was interrupted, and says how it ended.
    fn finish(mut self) -> Result<Outcome> {
        let Self { prepared, state, .. } = &self;
        let (recipe, step) = (&prepared.recipe, state.step);
        let output_dir = recipe.output.output_dir.clone();
        let wants_best = recipe.evaluation.load_best_model_at_end && self.interrupted.is_none();
        let best_step = self.best.found.map(|(step, _)| step).filter(|best| wants_best && *best != step);
        // A run that went on in another folder has no checkpoint of what was best before.
        let best_step = best_step.filter(|step| checkpoint::folder(&output_dir, *step).is_dir());
        let evaluation = self.run_folder.last_evaluation(best_step);
        let skipped_steps = self.guard.memory().skipped;
        let outcome = Outcome {
            output_dir,
            steps: step,
            was_done: step == self.first_step && prepared.passed_over.is_empty(),
            train_loss: state.loss_sum / step.saturating_sub(skipped_steps).max(1) as f64,
            eval_loss: evaluation.as_ref().and_then(|values| values.get("eval_loss")?.as_f64()),
            best_step,
            skipped_steps,
            eval_rewards: evaluation
                .as_ref()
                .filter(|_| self.objective.preference.is_some())
                .map(rewards::logged),
            interrupted: self.interrupted.take(),
        };
        if outcome.interrupted.is_some() {
            return Ok(outcome);
        }
        match best_step {
            Some(step) => checkpoint::copy_weights(&outcome.output_dir, step)?,
            None => checkpoint::save_weights(&self.prepared, &outcome.output_dir)?,
        }
        let log = FinishLog {
            step,
            epoch: epoch_at(&self.prepared, step),
            train_loss: outcome.train_loss,
            samples: self.state.samples_seen,
            steps: self.state.steps_taken,
            tokens_seen: self.state.tokens_seen,
            elapsed: self.elapsed(),
        };
        self.run_folder.finish(&log, evaluation)?;
        Ok(outcome)
    }

    fn is_last(&self) -> bool {
        self.state.step == self.prepared.total_steps
    }

    fn ends_epoch(&self) -> bool {
        self.is_last() || self.state.step.is_multiple_of(self.prepared.order.steps_per_epoch())
    }

    fn is_due(&self, strategy: IntervalStrategy, every: u64) -> bool {
        match strategy {
            IntervalStrategy::No => false,
            IntervalStrategy::Steps => self.is_last() || self.state.step.is_multiple_of(every.max(1)),
            IntervalStrategy::Epoch => self.ends_epoch(),
        }
    }

    /// Time that it took to come here; that of steps which a kill or a rollback gave up does not count.
    fn elapsed(&self) -> Duration {
        self.elapsed_before + self.started.elapsed()
    }

    /// Says something of this step.
    fn note(&mut self, text: &str) -> Result<()> {
        let line = self.run_folder.note(Some(self.state.step), text)?;
        self.observer.noted(&line);
        Ok(())
    }
}

/// Passes over the samples after so many steps.
fn epoch_at(prepared: &Prepared, step: u64) -> f64 {
    step as f64 / prepared.order.steps_per_epoch() as f64
}

/// The reference of the samples to train on and to validate with, if the objective has one: that of the checkpoint, or
/// computed with the model as it is.
fn reference(
    prepared: &Prepared,
    activations: &mut Activations,
    observer: &mut dyn Observer,
) -> Result<Reference> {
    if !prepared.needs_reference() {
        return Ok(Reference::default());
    }
    if let Some(checkpoint) = &prepared.resume_from {
        let samples = [prepared.training.len(), prepared.validation.len()];
        return Reference::read(checkpoint, samples, prepared.recipe.preference());
    }
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

/// Whether a run that goes on has steps left to take.
fn takes_steps(prepared: &Prepared, checkpoint: &Path, state: &TrainingState) -> Result<bool> {
    let until = prepared.passed_over.last().map_or(state.step, |passed| passed.until);
    let history = TrainerState::read_of(checkpoint)?.log_history;
    let has_ended =
        state.step > 0 && Best::of_history(&prepared.recipe.evaluation, &history).ends().is_some();
    Ok(until < prepared.total_steps && !has_ended)
}

/// Lets the teacher of a distillation read what it has not read yet, if steps are left that learn from it, and then loads
/// the weights of the student.
fn ask_teacher(
    prepared: &mut Prepared,
    takes_steps: bool,
    observer: &mut dyn Observer,
) -> Result<Option<TopTokens>> {
    let Some(teacher) = &prepared.teacher else { return Ok(None) };
    let mut top_tokens = None;
    if takes_steps {
        let (mut done, all) = (0, teacher.reading.tokens);
        let mut goes_on = |tokens: usize| {
            // Of a slice that was kept in part all tokens are read again.
            done = all.min(done + tokens as u64);
            observer.teacher(done, all);
            !observer.stops()
        };
        top_tokens = Some(teacher.read(&prepared.steps(&prepared.training), &mut goes_on)?);
        heap::give_back_freed();
    }
    prepared.load_weights()?;
    Ok(top_tokens)
}

/// What each step sees, and how many samples they are of, put together by a thread of its own one step ahead: the
/// training threads find them ready. What a step holds is a function of its number alone.
fn steps_ahead(
    samples: Steps,
    mut top_tokens: Option<TopTokens>,
    mut order: StepOrder,
    steps: Range<u64>,
) -> Receiver<Result<(Step, u64)>> {
    let (sender, receiver) = sync_channel(1);
    thread::spawn(move || {
        for step in steps {
            let indices = order.step(step);
            let count = (indices.len() / samples.group()) as u64;
            let mut step = samples.step(indices);
            let added = top_tokens.as_mut().map_or(Ok(()), |tokens| tokens.add_to(&mut step, indices));
            // Nobody takes it when the run has ended before its last step.
            if sender.send(added.map(|()| (step, count)).map_err(TrainError::from)).is_err() {
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
