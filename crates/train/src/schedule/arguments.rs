//! Numbers that some schedules take beside the learning rate and the warmup: `lr_scheduler_kwargs`.
//!
//! The names are those of `transformers.optimization` and of DeepSpeed. It computes nothing.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::LrSchedulerType;

/// Shape of a rise or fall of the learning rate.
///
/// zh: 学习率上升或下降的曲线形状。
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Curve {
    /// A straight line.
    ///
    /// zh: 直线。
    Linear,
    /// Half a cosine wave.
    ///
    /// zh: 半个余弦波。
    Cosine,
    /// One minus the square root.
    ///
    /// zh: 一减平方根。
    #[serde(rename = "1-sqrt")]
    OneMinusSqrt,
    /// The logarithm: DeepSpeed's warmup.
    ///
    /// zh: 对数：DeepSpeed 的预热方式。
    Log,
}

/// Numbers that some schedules take.
///
/// zh: 部分调度方式所需的数值。
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LrSchedulerKwargs {
    /// Waves of the cosine: 0.5 falls once; whole numbers for `cosine_with_restarts` (default: 1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_cycles: Option<f64>,
    /// Exponent of `polynomial` (default: 1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power: Option<f64>,
    /// Last learning rate of `polynomial` (default: 1e-7).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr_end: Option<f64>,
    /// Steps in which `inverse_sqrt` falls by the square root of two (default: the warmup, or 10,000).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timescale: Option<u64>,
    /// Steps of the fall of `warmup_stable_decay`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_decay_steps: Option<u64>,
    /// Steps at the highest rate of `warmup_stable_decay`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_stable_steps: Option<u64>,
    /// How it rises: `linear`, `cosine` or `1-sqrt` for `warmup_stable_decay`, `log` or `linear` for DeepSpeed's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_type: Option<Curve>,
    /// How `warmup_stable_decay` falls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay_type: Option<Curve>,
    /// Ends of `warmup_stable_decay` as a share of the learning rate (default: 0).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_lr_ratio: Option<f64>,
    /// Where DeepSpeed's `WarmupLR` and `WarmupDecayLR` begin (default: 0).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_min_lr: Option<f64>,
    /// Where DeepSpeed's `WarmupCosineLR` begins, as a share of the learning rate (default: 0).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_min_ratio: Option<f64>,
    /// Where DeepSpeed's `WarmupCosineLR` ends, as a share of the learning rate (default: 0.0001).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cos_min_ratio: Option<f64>,
    /// Step at which `linear`, `cosine`, `cosine_with_min_lr`, `polynomial` and DeepSpeed's schedules end (default: the last of
    /// the run).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_num_steps: Option<u64>,
}

impl LrSchedulerKwargs {
    /// What is wrong with the numbers for this schedule.
    #[must_use]
    pub fn problem(&self, kind: LrSchedulerType, learning_rate: f64) -> Option<String> {
        let given = serde_json::to_value(self).unwrap_or_default();
        let taken = taken_by(kind);
        let given = given.as_object().into_iter().flatten();
        for (name, value) in given {
            if !taken.contains(&name.as_str()) {
                let kind = kind.name();
                return Some(match taken {
                    [] => format!("`lr_scheduler_type: {kind}` takes none of them, found `{name}`"),
                    _ => format!(
                        "`lr_scheduler_type: {kind}` takes {}, found `{name}`",
                        taken.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
                    ),
                });
            }
            if let Some(problem) = out_of_range(name, value, kind, learning_rate) {
                return Some(format!("`{name}` {problem}, found `{}`", plain(value)));
            }
        }
        None
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn out_of_range(
    name: &str,
    value: &Value,
    kind: LrSchedulerType,
    learning_rate: f64,
) -> Option<&'static str> {
    // Numbers that are not finite become null, and null is none.
    let number = value.as_f64().unwrap_or(f64::NAN);
    let (fits, expected) = match name {
        "num_cycles" if kind == LrSchedulerType::CosineWithRestarts => {
            (number >= 1.0 && number.fract() == 0.0, "must be a whole number, 1 or more")
        }
        "num_cycles" | "power" => (number > 0.0, "must be above 0"),
        "timescale" => (number >= 1.0, "must be at least 1"),
        "lr_end" | "warmup_min_lr" => {
            ((0.0..learning_rate).contains(&number), "must be 0 or more and below `learning_rate`")
        }
        "min_lr_ratio" | "warmup_min_ratio" | "cos_min_ratio" => {
            ((0.0..=1.0).contains(&number), "must be from 0 to 1")
        }
        "warmup_type" if kind == LrSchedulerType::WarmupStableDecay => {
            (value != "log", "must be one of `linear`, `cosine`, `1-sqrt`")
        }
        "warmup_type" => (value == "log" || value == "linear", "must be one of `log`, `linear`"),
        "decay_type" => (value != "log", "must be one of `linear`, `cosine`, `1-sqrt`"),
        _ => (true, ""),
    };
    (!fits).then_some(expected)
}

fn taken_by(kind: LrSchedulerType) -> &'static [&'static str] {
    use LrSchedulerType as Kind;
    match kind {
        Kind::Constant | Kind::ConstantWithWarmup => &[],
        Kind::Linear => &["total_num_steps"],
        Kind::Cosine | Kind::CosineWithMinLr => &["num_cycles", "total_num_steps"],
        Kind::CosineWithRestarts => &["num_cycles"],
        Kind::Polynomial => &["lr_end", "power", "total_num_steps"],
        Kind::InverseSqrt => &["timescale"],
        Kind::WarmupStableDecay => &[
            "num_decay_steps",
            "num_stable_steps",
            "warmup_type",
            "decay_type",
            "min_lr_ratio",
            "num_cycles",
        ],
        Kind::WarmupLr => &["warmup_min_lr", "warmup_type"],
        Kind::WarmupDecayLr => &["warmup_min_lr", "warmup_type", "total_num_steps"],
        Kind::WarmupCosineLr => &["warmup_min_ratio", "cos_min_ratio", "warmup_type", "total_num_steps"],
    }
}
