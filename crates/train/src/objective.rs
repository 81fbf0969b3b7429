//! Objectives own the loss. The model gives log-probabilities and takes the loss's derivative by each of them.
//!
//! | objective | coefficients | atomic group | divided by | reference |
//! |---|---|---|---|---|
//! | [`language_modelling`] | known before the forward | sequence | weights of the step's tokens | no |
//! | [`distillation`] | known before the forward | sequence | weights of the step's tokens | no, a [`teacher`] |
//! | [`dpo`]: sigmoid, IPO, hinge | after the forward | pair | pairs of the step | yes |
//! | [`orpo`], [`simpo`], [`cpo`] | after the forward | pair | pairs of the step | no |
//! | [`kto`] | after the forward, with a divergence of the whole step | sequence | answers of the step | yes |
//!
//! A step's coefficients depend on the step alone, so that its split into micro-batches changes no bit.

pub mod answers;
pub mod cpo;
pub mod distillation;
pub mod dpo;
pub mod kto;
pub mod language_modelling;
pub mod orpo;
pub mod reference;
pub mod rewards;
pub mod simpo;
pub mod step;
pub mod teacher;

use danlu_data::Slice;
use danlu_kernels::cross_entropy::Score;

use crate::recipe::{PrefLoss, Preference, PreferenceOptions, Recipe};
use answers::{Answer, answers};
use distillation::{Distillation, Parts};
use rewards::Rewards;
use step::Step;

/// What a run learns.
#[derive(Clone, Debug, Default)]
pub struct Objective {
    /// What is compared or judged; none in language modelling.
    pub preference: Option<Preference>,
    /// How much of a teacher is learned; none without one.
    pub distillation: Option<Distillation>,
    options: PreferenceOptions,
}

/// What a pair of answers, the wanted one first, comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PairTerm {
    /// Its loss.
    pub loss: f64,
    /// ∂loss / ∂ log p of each answer as a whole.
    pub slopes: [f64; 2],
    /// What each answer is worth, as it is logged.
    pub rewards: [f64; 2],
    /// Log-probabilities as they are logged.
    pub log_probabilities: [f64; 2],
    /// −log σ of the odds ratio, of ORPO.
    pub odds_ratio_loss: Option<f64>,
}

/// What the slices of a step came to so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Sum of the losses, before the division by the step's units.
    pub loss: f64,
    /// What is logged of preferences.
    pub rewards: Rewards,
    /// The parts of the loss of distillation.
    pub parts: Parts,
}

impl Objective {
    /// The objective of a recipe.
    pub fn of(recipe: &Recipe) -> Self {
        Self {
            preference: recipe.preference(),
            distillation: Distillation::of(&recipe.distillation),
            options: recipe.preference.clone(),
        }
    }

    /// ∂loss / ∂log p of every target of a slice, where that is known before the forward.
    pub fn known_coefficients(&self, slice: &Slice, step: &Step) -> Option<Vec<f32>> {
        self.preference.is_none().then(|| language_modelling::coefficients(slice, step.units))
    }

    /// Adds the loss of a slice to `tally` and returns ∂loss / ∂log p of every target. `divergence` is that of KTO.
    pub fn weigh(
        &self,
        step: &Step,
        slice: usize,
        scores: &[Score],
        divergence: f64,
        tally: &mut Tally,
    ) -> Vec<f32> {
        let (first, slice) = (step.first_sequence(slice), &step.slices.slices[slice]);
        let Some(preference) = self.preference else {
            tally.loss += language_modelling::weighted_loss(slice, scores);
            return language_modelling::coefficients(slice, step.units);
        };
        let answers = answers(slice, scores);
        let reference = |index: usize| step.reference.get(first + index).copied().unwrap_or(0.0);
        let mut coefficients = vec![0.0; scores.len()];
        let mut set = |answer: &Answer, slope: f64| {
            coefficients[answer.targets.clone()].fill((slope / step.units) as f32);
        };
        match preference {
            Preference::Pairs(loss) => {
                for (index, pair) in answers.as_chunks::<2>().0.iter().enumerate() {
                    let term = self.pair(loss, pair, [reference(2 * index), reference(2 * index + 1)]);
                    let weight = pair[0].weight.abs();
                    tally.loss += weight * term.loss;
                    tally.rewards.add_pair(&term, self.options.pref_ftx() > 0.0, &pair[0]);
                    set(&pair[0], weight * term.slopes[0]);
                    set(&pair[1], weight * term.slopes[1]);
                }
            }
            Preference::Judged => {
                for (index, answer) in answers.iter().enumerate() {
                    let (loss, slope) =
                        kto::term(&self.options, answer, reference(index), divergence, &mut tally.rewards);
                    tally.loss += answer.weight.abs() * loss;
                    set(answer, answer.weight.abs() * slope);
                }
            }
        }
        coefficients
    }

    /// The term of a pair, with the plain loss of its wanted answer if `pref_ftx` asks for it.
    pub fn pair(&self, loss: PrefLoss, pair: &[Answer; 2], reference: [f64; 2]) -> PairTerm {
        let PreferenceOptions { pref_beta: beta, dpo_label_smoothing: smoothing, .. } = self.options;
        let mut term = match loss {
            PrefLoss::Sigmoid => dpo::sigmoid(beta, smoothing, pair, reference),
            PrefLoss::Ipo => dpo::ipo(beta, pair, reference),
            PrefLoss::Hinge => dpo::hinge(beta, pair, reference),
            PrefLoss::Orpo => orpo::term(beta, pair),
            PrefLoss::Simpo => simpo::term(beta, self.options.simpo_gamma, smoothing, pair),
            PrefLoss::Cpo => cpo::term(beta, smoothing, pair),
        };
        let weight = self.options.pref_ftx();
        if weight > 0.0 {
            term.loss -= weight * pair[0].mean();
            term.slopes[0] -= weight / pair[0].tokens();
        }
        term
    }
}

/// log σ(x).
fn log_sigmoid(x: f64) -> f64 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}

/// σ(x).
fn sigmoid(x: f64) -> f64 {
    log_sigmoid(x).exp()
}

/// −(1 − ε) log σ(x) − ε log σ(−x) and its derivative by x.
fn smoothed_log_sigmoid(x: f64, smoothing: f64) -> (f64, f64) {
    let loss = -(1.0 - smoothing) * log_sigmoid(x) - smoothing * log_sigmoid(-x);
    (loss, smoothing * sigmoid(x) - (1.0 - smoothing) * sigmoid(-x))
}
