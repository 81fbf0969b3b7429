//! Rotary frequencies and how they are stretched for longer contexts, as transformers computes them
//! (`modeling_rope_utils.py`).

use std::f64::consts::TAU;

use serde_json::{Value, json};

use crate::fields::Fields;
use crate::{Config, Result};

/// How the rotary frequencies differ from rope_theta^(−2i/E).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    #[default]
    None,
    /// All divided by `factor`.
    Linear {
        /// By how much the context grows.
        factor: f64,
    },
    /// A larger base for a sequence that is longer than `max_position_embeddings`, by its length (NTK).
    Dynamic {
        /// By how much the context can grow.
        factor: f64,
    },
    /// Llama 3.1: slow frequencies divided by `factor`, fast ones kept, a smooth passage between.
    Llama3 {
        /// By how much the context grows.
        factor: f64,
        /// Wavelengths above original / this are slow.
        low_freq_factor: f64,
        /// Wavelengths below original / this are fast.
        high_freq_factor: f64,
        /// Context before the scaling.
        original_max_position_embeddings: usize,
    },
    /// YaRN (Peng et al. 2023, arXiv:2309.00071).
    Yarn(Yarn),
}

/// Settings of [`RopeScaling::Yarn`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Yarn {
    /// By how much the context grows.
    pub factor: f64,
    /// Context before the scaling.
    pub original_max_position_embeddings: usize,
    /// What rotated pairs are multiplied by; otherwise it follows from the factor and `mscale`.
    pub attention_factor: Option<f64>,
    /// Rotations over the original context from which on a frequency is kept.
    pub beta_fast: f64,
    /// Rotations over the original context up to which a frequency is divided.
    pub beta_slow: f64,
    /// Scale of the attention factor's numerator, with `mscale_all_dim`.
    pub mscale: Option<f64>,
    /// Scale of the attention factor's denominator, with `mscale`.
    pub mscale_all_dim: Option<f64>,
    /// Whether the bounds of the passage are rounded to whole pairs.
    pub truncate: bool,
}

impl RopeScaling {
    /// Reads `rope_scaling`, or `rope_parameters` as transformers 5 writes it.
    pub(crate) fn read(fields: &Fields, max_position_embeddings: usize) -> Result<Self> {
        let Some((field, settings)) = fields.rope() else { return Ok(Self::None) };
        let settings = fields.inside(field, settings)?;
        let kind = settings.get("rope_type").or_else(|| settings.get("type"));
        let factor = || settings.required_number("factor");
        let original = || -> Result<usize> {
            let outside = fields.optional("original_max_position_embeddings")?;
            let inside = settings.optional("original_max_position_embeddings")?;
            Ok(outside.or(inside).unwrap_or(max_position_embeddings))
        };
        match kind.and_then(Value::as_str) {
            None if settings.all().keys().all(|key| key == "rope_theta") => Ok(Self::None),
            Some("default") => Ok(Self::None),
            Some("linear") => Ok(Self::Linear { factor: factor()? }),
            Some("dynamic") => Ok(Self::Dynamic { factor: factor()? }),
            Some("llama3") => Ok(Self::Llama3 {
                factor: factor()?,
                low_freq_factor: settings.required_number("low_freq_factor")?,
                high_freq_factor: settings.required_number("high_freq_factor")?,
                original_max_position_embeddings: original()?,
            }),
            Some("yarn") => {
                let original = original()?;
                let grown = max_position_embeddings as f64 / original.max(1) as f64;
                Ok(Self::Yarn(Yarn {
                    factor: settings.number("factor")?.unwrap_or(grown),
                    original_max_position_embeddings: original,
                    attention_factor: settings.number("attention_factor")?,
                    beta_fast: settings.number("beta_fast")?.unwrap_or(32.0),
                    beta_slow: settings.number("beta_slow")?.unwrap_or(1.0),
                    mscale: settings.number("mscale")?,
                    mscale_all_dim: settings.number("mscale_all_dim")?,
                    truncate: settings.flag_or("truncate", true)?,
                }))
            }
            _ => {
                let found = kind.unwrap_or(&Value::Null);
                let expected = "`default`, `linear`, `dynamic`, `llama3` or `yarn`";
                Err(settings.error("rope_type", format!("expected {expected}, found {found}")))
            }
        }
    }

    /// `rope_scaling` as every version of the field's tools reads it.
    pub(crate) fn to_json(self) -> Value {
        match self {
            Self::None => Value::Null,
            // Code of 2023 accepts these two fields and no other.
            Self::Linear { factor } => json!({ "type": "linear", "factor": factor }),
            Self::Dynamic { factor } => json!({ "type": "dynamic", "factor": factor }),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                json!({
                    "rope_type": "llama3",
                    "factor": factor,
                    "low_freq_factor": low_freq_factor,
                    "high_freq_factor": high_freq_factor,
                    "original_max_position_embeddings": original_max_position_embeddings,
                })
            }
            Self::Yarn(yarn) => {
                let mut settings = json!({
                    "rope_type": "yarn",
                    "factor": yarn.factor,
                    "original_max_position_embeddings": yarn.original_max_position_embeddings,
                    "beta_fast": yarn.beta_fast,
                    "beta_slow": yarn.beta_slow,
                });
                let optional = [
                    ("attention_factor", yarn.attention_factor),
                    ("mscale", yarn.mscale),
                    ("mscale_all_dim", yarn.mscale_all_dim),
                ];
                for (field, value) in optional {
                    if let Some(value) = value {
                        settings[field] = value.into();
                    }
                }
                if !yarn.truncate {
                    settings["truncate"] = false.into();
                }
                settings
            }
        }
    }

    /// The field that makes the arithmetic impossible, and why.
    pub(crate) fn problem(self) -> Option<(&'static str, String)> {
        let factor = match self {
            Self::None => return None,
            Self::Linear { factor } | Self::Dynamic { factor } | Self::Llama3 { factor, .. } => factor,
            Self::Yarn(yarn) => yarn.factor,
        };
        if !(factor >= 1.0 && factor.is_finite()) {
            return Some(("factor", format!("expected a number of 1 or more, found {factor}")));
        }
        match self {
            Self::Llama3 { low_freq_factor: low, high_freq_factor: high, .. }
                if !(0.0 < low && low < high) =>
            {
                let reason =
                    format!("expected more than `low_freq_factor` ({low}) and that above 0, found {high}");
                Some(("high_freq_factor", reason))
            }
            Self::Llama3 { original_max_position_embeddings: 0, .. }
            | Self::Yarn(Yarn { original_max_position_embeddings: 0, .. }) => {
                Some(("original_max_position_embeddings", "expected a number above 0, found 0".into()))
            }
            Self::Yarn(yarn) if !(0.0 < yarn.beta_slow && yarn.beta_slow <= yarn.beta_fast) => {
                let reason = format!(
                    "expected at least `beta_slow` ({}) and that above 0, found {}",
                    yarn.beta_slow, yarn.beta_fast
                );
                Some(("beta_fast", reason))
            }
            _ => None,
        }
    }
}

impl Yarn {
    /// What rotated pairs are multiplied by.
    fn scale(&self) -> f64 {
        let scale =
            |mscale: f64| if self.factor <= 1.0 { 1.0 } else { 0.1 * mscale * self.factor.ln() + 1.0 };
        match (self.attention_factor, self.mscale, self.mscale_all_dim) {
            (Some(factor), ..) => factor,
            (None, Some(mscale), Some(all)) if mscale != 0.0 && all != 0.0 => scale(mscale) / scale(all),
            _ => scale(1.0),
        }
    }

    /// The frequency of pair `index` of `pairs`, which is `frequency` before the scaling.
    fn stretched(&self, base: f64, pairs: usize, index: usize, frequency: f64) -> f64 {
        let width = 2.0 * pairs as f64;
        // The pair whose wavelength fits so many times into the original context.
        let pair_of = |rotations: f64| {
            let context = self.original_max_position_embeddings as f64;
            width * (context / (rotations * TAU)).ln() / (2.0 * base.ln())
        };
        let (mut low, mut high) = (pair_of(self.beta_fast), pair_of(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(width - 1.0));
        if low == high {
            high += 0.001;
        }
        let ramp = ((index as f64 - low) / (high - low)).clamp(0.0, 1.0);
        frequency / self.factor * ramp + frequency * (1.0 - ramp)
    }
}

impl Config {
    /// The frequencies of the E/2 pairs in a sequence of `length` tokens.
    pub(crate) fn rope_frequencies(&self, length: usize) -> Vec<f32> {
        let (pairs, width) = (self.head_dim / 2, self.head_dim as f64);
        let base = match self.rope_scaling {
            RopeScaling::Dynamic { factor } if length > self.max_position_embeddings => {
                let grown = factor * length as f64 / self.max_position_embeddings as f64 - (factor - 1.0);
                self.rope_theta * grown.powf(width / (width - 2.0))
            }
            _ => self.rope_theta,
        };
        let frequency = |index: usize| {
            let plain = base.powf(-2.0 * index as f64 / width);
            match self.rope_scaling {
                RopeScaling::None | RopeScaling::Dynamic { .. } => plain,
                RopeScaling::Linear { factor } => plain / factor,
                RopeScaling::Llama3 {
                    factor,
                    low_freq_factor: low,
                    high_freq_factor: high,
                    original_max_position_embeddings,
                } => {
                    // How often the pair turns in the original context.
                    let turns = original_max_position_embeddings as f64 * plain / TAU;
                    let smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    (1.0 - smooth) * plain / factor + smooth * plain
                }
                RopeScaling::Yarn(yarn) => yarn.stretched(base, pairs, index, plain),
            }
        };
        (0..pairs).map(|index| frequency(index) as f32).collect()
    }

    /// What rotated pairs are multiplied by.
    pub(crate) fn rope_scale(&self) -> f32 {
        match self.rope_scaling {
            RopeScaling::Yarn(yarn) => yarn.scale() as f32,
            _ => 1.0,
        }
    }

    /// The original context of `dynamic` scaling, beyond which a sequence has frequencies of its own.
    pub(crate) fn dynamic_beyond(&self) -> Option<usize> {
        matches!(self.rope_scaling, RopeScaling::Dynamic { .. }).then_some(self.max_position_embeddings)
    }

    /// Whether a token's angles depend on how long its sequence is.
    pub fn angles_depend_on_length(&self) -> bool {
        self.dynamic_beyond().is_some()
    }
}
