//! Learning rate schedules, equal to those of `transformers.optimization`.
//!
//! A schedule is a pure function of the step: nothing to save in a checkpoint.

use std::f64::consts::PI;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    /// Never changes, and has no warmup.
    ///
    /// zh: 始终不变，也没有预热。
    Constant,
    /// Does not change after the warmup.
    ///
    /// zh: 预热之后不再变化。
    ConstantWithWarmup,
}

/// A schedule with its numbers filled in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Shape of the curve.
    pub kind: LrSchedulerType,
    /// Learning rate at the end of the warmup.
    pub peak: f64,
    /// Steps over which the rate rises from zero; ignored by [`LrSchedulerType::Constant`].
    pub warmup_steps: u64,
    /// Optimizer steps of the whole run.
    pub total_steps: u64,
    /// End of [`LrSchedulerType::CosineWithMinLr`] as a share of `peak`.
    pub min_lr_rate: f64,
}

impl Schedule {
    /// The learning rate of the update that follows `step` finished updates: 0 for the first one.
    #[must_use]
    pub fn learning_rate(&self, step: u64) -> f64 {
        self.peak * self.factor(step)
    }

    fn factor(&self, step: u64) -> f64 {
        if self.kind == LrSchedulerType::Constant {
            return 1.0;
        }
        if step < self.warmup_steps {
            return step as f64 / self.warmup_steps as f64;
        }
        let decay_steps = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let half_wave = || {
            let progress = (step - self.warmup_steps) as f64 / decay_steps;
            0.5 * (1.0 + (PI * 0.5 * 2.0 * progress).cos())
        };
        match self.kind {
            LrSchedulerType::Linear => self.total_steps.saturating_sub(step) as f64 / decay_steps,
            LrSchedulerType::Cosine => half_wave().max(0.0),
            LrSchedulerType::CosineWithMinLr => {
                (half_wave() * (1.0 - self.min_lr_rate) + self.min_lr_rate).max(0.0)
            }
            LrSchedulerType::Constant | LrSchedulerType::ConstantWithWarmup => 1.0,
        }
    }
}

/// `warmup_steps` when it is positive, else the share `warmup_ratio` of the run, rounded up.
#[must_use]
pub fn warmup_steps(total_steps: u64, warmup_steps: u64, warmup_ratio: f64) -> u64 {
    if warmup_steps > 0 { warmup_steps } else { (total_steps as f64 * warmup_ratio).ceil() as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(kind: LrSchedulerType, peak: f64, warmup_steps: u64, total_steps: u64) -> Schedule {
        Schedule { kind, peak, warmup_steps, total_steps, min_lr_rate: 0.0 }
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
        for kind in [LrSchedulerType::Linear, LrSchedulerType::Cosine, LrSchedulerType::CosineWithMinLr] {
            let schedule = schedule(kind, 1.0, 5, 5);
            assert!((0..20).all(|step| schedule.learning_rate(step).is_finite()));
        }
    }
}
