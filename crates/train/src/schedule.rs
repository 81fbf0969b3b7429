//! Learning rate schedules, equal to those of `transformers.optimization` and of DeepSpeed.
//!
//! A schedule is a pure function of the step: nothing to save in a checkpoint.

mod arguments;

use std::f64::consts::PI;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::arguments::{Curve, LrSchedulerKwargs};

/// How the learning rate changes over the run.
///
/// zh: 学习率在训练过程中的变化方式。
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LrSchedulerType {
    /// Falls in a straight line to zero.
    ///
    /// zh: 线性下降到零。
    #[default]
    Linear,
    /// Falls along half a cosine wave to zero.
    ///
    /// zh: 按半个余弦波下降到零。
    Cosine,
    /// Like `cosine`, but ends at `min_lr` or `min_lr_rate`.
    ///
    /// zh: 同 `cosine`，但终点是 `min_lr` 或 `min_lr_rate`。
    CosineWithMinLr,
    /// Falls along half a cosine wave `num_cycles` times, each time from the top.
    ///
    /// zh: 按半个余弦波下降 `num_cycles` 次，每次从最高值重新开始。
    CosineWithRestarts,
    /// Falls to `lr_end` with the power `power` of what remains of the run.
    ///
    /// zh: 按剩余进度的 `power` 次方下降到 `lr_end`。
    Polynomial,
    /// Falls with the inverse square root of the step.
    ///
    /// zh: 按步数的平方根的倒数下降。
    InverseSqrt,
    /// Stays at the highest rate for `num_stable_steps` and falls over `num_decay_steps`. Without them a third of the
    /// steps behind the warmup are stable, as in LLaMA-Factory.
    ///
    /// zh: 以最高学习率保持 `num_stable_steps` 步，再用 `num_decay_steps` 步下降。不给出时，预热之后的三分之一步数保持不变，与 LLaMA-Factory 相同。
    WarmupStableDecay,
    /// Never changes, and has no warmup.
    ///
    /// zh: 始终不变，也没有预热。
    Constant,
    /// Does not change after the warmup.
    ///
    /// zh: 预热之后不再变化。
    ConstantWithWarmup,
    /// DeepSpeed: rises with the logarithm of the step, then does not change.
    ///
    /// zh: DeepSpeed：按步数的对数上升，之后不变。
    #[serde(rename = "WarmupLR")]
    WarmupLr,
    /// DeepSpeed: the same rise, then a straight line to zero.
    ///
    /// zh: DeepSpeed：同样的上升，之后线性下降到零。
    #[serde(rename = "WarmupDecayLR")]
    WarmupDecayLr,
    /// DeepSpeed: the same rise, then half a cosine wave to `cos_min_ratio`.
    ///
    /// zh: DeepSpeed：同样的上升，之后按半个余弦波下降到 `cos_min_ratio`。
    #[serde(rename = "WarmupCosineLR")]
    WarmupCosineLr,
}

impl LrSchedulerType {
    /// Its name in recipes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Cosine => "cosine",
            Self::CosineWithMinLr => "cosine_with_min_lr",
            Self::CosineWithRestarts => "cosine_with_restarts",
            Self::Polynomial => "polynomial",
            Self::InverseSqrt => "inverse_sqrt",
            Self::WarmupStableDecay => "warmup_stable_decay",
            Self::Constant => "constant",
            Self::ConstantWithWarmup => "constant_with_warmup",
            Self::WarmupLr => "WarmupLR",
            Self::WarmupDecayLr => "WarmupDecayLR",
            Self::WarmupCosineLr => "WarmupCosineLR",
        }
    }
}

/// A schedule with its numbers filled in.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Schedule {
    /// Shape of the curve.
    pub kind: LrSchedulerType,
    /// Learning rate at the end of the warmup.
    pub peak: f64,
    /// Steps over which the rate rises; ignored by [`LrSchedulerType::Constant`].
    pub warmup_steps: u64,
    /// Optimizer steps of the whole run.
    pub total_steps: u64,
    /// End of [`LrSchedulerType::CosineWithMinLr`] as a share of `peak`.
    pub min_lr_rate: f64,
    /// What else the kind takes.
    pub arguments: LrSchedulerKwargs,
}

impl Schedule {
    /// The learning rate of the update that follows `step` finished updates: 0 for the first one.
    #[must_use]
    pub fn learning_rate(&self, step: u64) -> f64 {
        self.peak * self.factor(step)
    }

    /// The rate as a share of `peak`.
    fn factor(&self, step: u64) -> f64 {
        use LrSchedulerType as Kind;
        let arguments = &self.arguments;
        match self.kind {
            Kind::Constant => 1.0,
            Kind::WarmupStableDecay => self.warmup_stable_decay(step),
            Kind::WarmupLr | Kind::WarmupDecayLr | Kind::WarmupCosineLr => self.deepspeed(step),
            _ if step < self.warmup_steps => step as f64 / self.warmup_steps as f64,
            Kind::ConstantWithWarmup => 1.0,
            Kind::Linear => self.end().saturating_sub(step) as f64 / self.decay_steps(),
            Kind::Cosine => wave(arguments.num_cycles, self.progress(step)).max(0.0),
            Kind::CosineWithMinLr => {
                let factor = wave(arguments.num_cycles, self.progress(step));
                (factor * (1.0 - self.min_lr_rate) + self.min_lr_rate).max(0.0)
            }
            Kind::CosineWithRestarts if self.progress(step) >= 1.0 => 0.0,
            Kind::CosineWithRestarts => {
                let cycle = arguments.num_cycles.unwrap_or(1.0) * self.progress(step);
                (0.5 * (1.0 + (PI * (cycle % 1.0)).cos())).max(0.0)
            }
            Kind::Polynomial => {
                let end = arguments.lr_end.unwrap_or(1e-7);
                let remaining = (1.0 - self.progress(step)).max(0.0);
                let decay = (self.peak - end) * remaining.powf(arguments.power.unwrap_or(1.0));
                (decay + end) / self.peak
            }
            Kind::InverseSqrt => {
                let whole_warmup = if self.warmup_steps > 0 { self.warmup_steps } else { 10_000 };
                let timescale = arguments.timescale.unwrap_or(whole_warmup) as f64;
                1.0 / ((step as f64 + timescale - self.warmup_steps as f64) / timescale).sqrt()
            }
        }
    }

    /// The step at which the schedule ends.
    fn end(&self) -> u64 {
        self.arguments.total_num_steps.unwrap_or(self.total_steps)
    }

    fn decay_steps(&self) -> f64 {
        self.end().saturating_sub(self.warmup_steps).max(1) as f64
    }

    /// How far behind the warmup `step` is: 1 where the schedule ends.
    fn progress(&self, step: u64) -> f64 {
        ((step - self.warmup_steps) as f64 / self.decay_steps()).min(1.0)
    }

    fn warmup_stable_decay(&self, step: u64) -> f64 {
        let arguments = &self.arguments;
        let minimum = arguments.min_lr_ratio.unwrap_or(0.0);
        let above_minimum = |factor: f64| (factor * (1.0 - minimum) + minimum).max(0.0);
        let rest = self.total_steps.saturating_sub(self.warmup_steps);
        let (stable, decay) = match (arguments.num_stable_steps, arguments.num_decay_steps) {
            (Some(stable), Some(decay)) => (stable, decay),
            (None, Some(decay)) => (rest.saturating_sub(decay), decay),
            (Some(stable), None) => (stable, rest.saturating_sub(stable)),
            (None, None) => (rest / 3, rest - rest / 3),
        };
        if step < self.warmup_steps {
            let progress = step as f64 / self.warmup_steps as f64;
            return above_minimum(match arguments.warmup_type {
                Some(Curve::Cosine) => 0.5 * (1.0 - (PI * progress).cos()),
                Some(Curve::OneMinusSqrt) => 1.0 - (1.0 - progress).sqrt(),
                Some(Curve::Linear | Curve::Log) | None => progress,
            });
        }
        let behind = step - self.warmup_steps;
        if behind < stable {
            return 1.0;
        }
        if behind >= stable + decay {
            return minimum;
        }
        let progress = (behind - stable) as f64 / decay.max(1) as f64;
        above_minimum(match arguments.decay_type {
            Some(Curve::Linear) => 1.0 - progress,
            Some(Curve::OneMinusSqrt) => 1.0 - progress.sqrt(),
            Some(Curve::Cosine | Curve::Log) | None => wave(arguments.num_cycles, progress),
        })
    }

    /// DeepSpeed's schedules, whose warmup has at least two steps, at its `last_batch_iteration = step`.
    fn deepspeed(&self, step: u64) -> f64 {
        let arguments = &self.arguments;
        let is_cosine = self.kind == LrSchedulerType::WarmupCosineLr;
        let warmup_steps = self.warmup_steps.max(2);
        let total = self.end() as f64;
        let minimum = match is_cosine {
            true => arguments.warmup_min_ratio.unwrap_or(0.0),
            false => arguments.warmup_min_lr.unwrap_or(0.0) / self.peak,
        };
        let (step, warmup) = (step as f64, warmup_steps as f64);
        let above = |minimum: f64, factor: f64| minimum + (1.0 - minimum) * factor;
        if step < warmup {
            let linear = arguments.warmup_type == Some(Curve::Linear);
            let gamma = if linear { step / warmup } else { (step + 1.0).ln() / warmup.ln() };
            return above(minimum, gamma);
        }
        match self.kind {
            LrSchedulerType::WarmupDecayLr => {
                above(minimum, ((total - step) / (total - warmup).max(1.0)).max(0.0))
            }
            LrSchedulerType::WarmupCosineLr => {
                let progress = ((step - warmup + 1.0) / (total - warmup).max(1.0)).min(1.0);
                above(arguments.cos_min_ratio.unwrap_or(1e-4), 0.5 * (1.0 + (PI * progress).cos())).max(0.0)
            }
            _ => 1.0,
        }
    }
}

/// A cosine from 1 that has done so many waves at progress 1: half a one ends at 0.
fn wave(num_cycles: Option<f64>, progress: f64) -> f64 {
    0.5 * (1.0 + (PI * num_cycles.unwrap_or(0.5) * 2.0 * progress).cos())
}

/// `warmup_steps` when it is positive, else the share `warmup_ratio` of the run, rounded up.
#[must_use]
pub fn warmup_steps(total_steps: u64, warmup_steps: u64, warmup_ratio: f64) -> u64 {
    if warmup_steps > 0 { warmup_steps } else { (total_steps as f64 * warmup_ratio).ceil() as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [LrSchedulerType; 12] = [
        LrSchedulerType::Linear,
        LrSchedulerType::Cosine,
        LrSchedulerType::CosineWithMinLr,
        LrSchedulerType::CosineWithRestarts,
        LrSchedulerType::Polynomial,
        LrSchedulerType::InverseSqrt,
        LrSchedulerType::WarmupStableDecay,
        LrSchedulerType::Constant,
        LrSchedulerType::ConstantWithWarmup,
        LrSchedulerType::WarmupLr,
        LrSchedulerType::WarmupDecayLr,
        LrSchedulerType::WarmupCosineLr,
    ];

    fn schedule(kind: LrSchedulerType, peak: f64, warmup_steps: u64, total_steps: u64) -> Schedule {
        Schedule { kind, peak, warmup_steps, total_steps, ..Schedule::default() }
    }

    #[test]
    fn seed_004_linear_schedule() {
        let linear = schedule(LrSchedulerType::Linear, 3e-4, 0, 725);
        assert_eq!(linear.learning_rate(10), 0.000_295_862_068_965_517_2);
        assert_eq!(linear.learning_rate(725), 0.0);
        assert_eq!(linear.learning_rate(10_000), 0.0);
    }

    #[test]
    fn seed_003_cosine_schedule() {
        assert_eq!(warmup_steps(101, 0, 0.05), 6);
        assert_eq!(warmup_steps(101, 3, 0.05), 3);
        let cosine = schedule(LrSchedulerType::Cosine, 1e-4, 6, 101);
        assert_eq!(cosine.learning_rate(0), 0.0);
        assert_eq!(cosine.learning_rate(3), 0.5e-4);
        assert_eq!(cosine.learning_rate(6), 1e-4);
        let expected = 1e-4 * 0.5 * (1.0 + (PI * 50.0 / 95.0).cos());
        assert!((cosine.learning_rate(56) - expected).abs() < 1e-18);
        assert!(cosine.learning_rate(101) < 1e-18);
    }

    #[test]
    fn names_are_those_of_recipes() {
        for kind in ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
    }

    #[test]
    fn seed_000_lr_schedule_of_baby_llama2_and_luban() {
        let cosine = |peak, min_lr_rate, end| Schedule {
            min_lr_rate,
            arguments: LrSchedulerKwargs { total_num_steps: Some(end), ..LrSchedulerKwargs::default() },
            ..schedule(LrSchedulerType::CosineWithMinLr, peak, 1000, 200_000)
        };
        let pretraining = cosine(3e-4, 1e-5 / 3e-4, 80_000);
        for (step, rate) in
            [(0, 0.0), (500, 1.5e-4), (1000, 3e-4), (40_500, 1.55e-4), (80_000, 1e-5), (120_000, 1e-5)]
        {
            assert!((pretraining.learning_rate(step) - rate).abs() < 1e-12, "{step}");
        }
        assert!((cosine(2e-5, 0.05, 50_000).learning_rate(25_500) - 1.05e-5).abs() < 1e-12);
    }

    #[test]
    fn seed_001_deepspeed_warmup_is_the_logarithm_of_the_step() {
        let warmup = schedule(LrSchedulerType::WarmupLr, 1e-4, 100, 1000);
        assert_eq!((warmup.learning_rate(0), warmup.learning_rate(100)), (0.0, 1e-4));
        assert!((warmup.learning_rate(9) - 1e-4 * 10_f64.ln() / 100_f64.ln()).abs() < 1e-18);
        let decay = schedule(LrSchedulerType::WarmupDecayLr, 1e-4, 0, 1000);
        // A warmup of none is one of two steps.
        assert!((decay.learning_rate(2) - 1e-4).abs() < 1e-18);
        assert!((decay.learning_rate(501) - 1e-4 * 499.0 / 998.0).abs() < 1e-18);
        assert_eq!(decay.learning_rate(1000), 0.0);
    }

    #[test]
    fn a_stable_phase_without_numbers_is_a_third_as_in_llama_factory() {
        let stable = schedule(LrSchedulerType::WarmupStableDecay, 1.0, 10, 100);
        assert_eq!((stable.learning_rate(10), stable.learning_rate(39)), (1.0, 1.0));
        assert!(stable.learning_rate(41) < 1.0);
    }

    #[test]
    fn constant_and_minimum() {
        assert_eq!(schedule(LrSchedulerType::Constant, 1e-3, 10, 100).learning_rate(0), 1e-3);
        let constant = schedule(LrSchedulerType::ConstantWithWarmup, 1e-3, 10, 100);
        assert_eq!((constant.learning_rate(5), constant.learning_rate(99)), (0.5e-3, 1e-3));
        let cosine =
            Schedule { min_lr_rate: 0.1, ..schedule(LrSchedulerType::CosineWithMinLr, 1e-3, 0, 100) };
        assert!((cosine.learning_rate(100) - 1e-4).abs() < 1e-18);
    }

    #[test]
    fn every_schedule_follows_transformers() {
        #[derive(Deserialize)]
        struct Golden {
            schedules: Vec<Recorded>,
            warmup_ratios: Vec<RecordedWarmup>,
        }
        #[derive(Deserialize)]
        struct Recorded {
            lr_scheduler_type: LrSchedulerType,
            learning_rate: f64,
            max_steps: u64,
            warmup_steps: u64,
            #[serde(default)]
            min_lr_rate: f64,
            #[serde(default)]
            lr_scheduler_kwargs: LrSchedulerKwargs,
            values: Vec<f64>,
        }
        #[derive(Deserialize)]
        struct RecordedWarmup {
            max_steps: u64,
            warmup_ratio: f64,
            warmup_steps: u64,
        }
        let golden: Golden = serde_json::from_str(include_str!("../tests/golden/schedules.json")).unwrap();
        assert!(golden.schedules.len() > 20);
        for recorded in golden.schedules {
            let schedule = Schedule {
                min_lr_rate: recorded.min_lr_rate,
                arguments: recorded.lr_scheduler_kwargs,
                ..schedule(
                    recorded.lr_scheduler_type,
                    recorded.learning_rate,
                    recorded.warmup_steps,
                    recorded.max_steps,
                )
            };
            for (step, value) in recorded.values.iter().enumerate() {
                let ours = schedule.learning_rate(step as u64);
                assert!(
                    (ours - value).abs() <= 1e-12 * recorded.learning_rate,
                    "{schedule:?} step {step}: {ours} {value}"
                );
            }
        }
        for recorded in golden.warmup_ratios {
            assert_eq!(warmup_steps(recorded.max_steps, 0, recorded.warmup_ratio), recorded.warmup_steps);
        }
    }

    #[test]
    fn a_run_shorter_than_its_warmup_does_not_divide_by_zero() {
        for kind in ALL {
            for (warmup, total) in [(5, 5), (5, 3), (0, 1), (1, 1)] {
                let schedule = schedule(kind, 1.0, warmup, total);
                assert!(
                    (0..20).all(|step| (0.0..=1.0).contains(&schedule.learning_rate(step))),
                    "{schedule:?}"
                );
            }
        }
    }
}
