//! How preferences are learned, in the keys of LLaMA-Factory.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{MethodOptions, Stage};

/// The loss of a pair of answers.
///
/// zh: 一对回答的损失。
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PrefLoss {
    /// DPO: −log σ of the difference of rewards.
    ///
    /// zh: DPO：奖励之差的 −log σ。
    #[default]
    Sigmoid,
    /// IPO: the squared distance of the difference, per token, from 1 / (2 · `pref_beta`).
    ///
    /// zh: IPO：按词元平均的差与 1 / (2 · `pref_beta`) 的平方距离。
    Ipo,
    /// 1 minus the difference of rewards, where that is above 0.
    ///
    /// zh: 1 减奖励之差，小于 0 时取 0。
    Hinge,
    /// ORPO: learns the wanted answer, and the odds ratio of the two. Needs no reference.
    ///
    /// zh: ORPO：学习较好的回答以及两者的几率比。不需要参考模型。
    Orpo,
    /// SimPO: the difference per token beyond the margin `simpo_gamma`. Needs no reference.
    ///
    /// zh: SimPO：按词元平均的差超出间隔 `simpo_gamma` 的部分。不需要参考模型。
    Simpo,
    /// CPO: −log σ of the difference of the answers' log-probabilities, and learns the wanted answer (`pref_ftx`, here 1
    /// unless it is set). Needs no reference.
    ///
    /// zh: CPO：两个回答对数概率之差的 −log σ，并学习较好的回答（`pref_ftx`，此处默认为 1）。不需要参考模型。
    Cpo,
}

/// How preferences are learned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PreferenceOptions {
    /// Loss of a pair of answers (default: `sigmoid`).
    ///
    /// zh: 一对回答的损失（默认 `sigmoid`）。
    pub pref_loss: Option<PrefLoss>,
    /// How much a difference of log-probabilities counts; of ORPO, the weight of the odds ratio. SimPO's
    /// authors advise 2 to 2.5.
    ///
    /// zh: 对数概率之差的系数；对 ORPO 为几率比的权重。SimPO 的作者建议取 2 至 2.5。
    pub pref_beta: f64,
    /// Weight of the plain loss of the wanted answer, per token, beside the preference (default: 0; 1 for `cpo`).
    ///
    /// zh: 在偏好损失之外，较好回答的普通损失（按词元平均）的权重（默认 0；`cpo` 为 1）。
    pub pref_ftx: Option<f64>,
    /// Share of the pairs that may be labelled the wrong way round, for `sigmoid`, `simpo` and `cpo`.
    ///
    /// zh: 可能标反的偏好对所占比例，用于 `sigmoid`、`simpo` 与 `cpo`。
    pub dpo_label_smoothing: f64,
    /// Margin of `simpo` between the rewards of the two answers.
    ///
    /// zh: `simpo` 中两个回答的奖励之间的间隔。
    pub simpo_gamma: f64,
    /// Weight of the wanted answers of `kto`.
    ///
    /// zh: `kto` 中可取回答的权重。
    pub kto_chosen_weight: f64,
    /// Weight of the unwanted answers of `kto`.
    ///
    /// zh: `kto` 中不可取回答的权重。
    pub kto_rejected_weight: f64,
}

/// What is learned of answers that are compared or judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preference {
    /// Pairs, by this loss.
    Pairs(PrefLoss),
    /// Judged answers, by KTO.
    Judged,
}

impl Default for PreferenceOptions {
    fn default() -> Self {
        Self {
            pref_loss: None,
            pref_beta: 0.1,
            pref_ftx: None,
            dpo_label_smoothing: 0.0,
            simpo_gamma: 0.5,
            kto_chosen_weight: 1.0,
            kto_rejected_weight: 1.0,
        }
    }
}

impl Preference {
    /// Samples that are compared with each other, and stay in one slice.
    #[must_use]
    pub fn group(self) -> usize {
        if let Self::Pairs(_) = self { 2 } else { 1 }
    }

    /// Whether log-probabilities are compared with those at the beginning of the run.
    #[must_use]
    pub fn needs_reference(self) -> bool {
        !matches!(self, Self::Pairs(PrefLoss::Orpo | PrefLoss::Simpo | PrefLoss::Cpo))
    }
}

impl PreferenceOptions {
    /// `pref_ftx`, or 1 for `cpo`, whose authors have it so, and else 0.
    #[must_use]
    pub fn pref_ftx(&self) -> f64 {
        self.pref_ftx.unwrap_or(if self.pref_loss == Some(PrefLoss::Cpo) { 1.0 } else { 0.0 })
    }

    /// What the stage learns of preferences; none of those that imitate.
    #[must_use]
    pub fn preference(&self, method: &MethodOptions) -> Option<Preference> {
        match method.stage {
            Stage::Pt | Stage::Sft => None,
            Stage::Dpo => Some(Preference::Pairs(self.pref_loss.unwrap_or_default())),
            Stage::Orpo => Some(Preference::Pairs(PrefLoss::Orpo)),
            Stage::Simpo => Some(Preference::Pairs(PrefLoss::Simpo)),
            Stage::Kto => Some(Preference::Judged),
        }
    }

    /// The first problem: the key to blame, and a sentence.
    pub(super) fn first_problem(&self, method: &MethodOptions) -> Option<(&'static str, String)> {
        let range = |key, value: f64, fits: bool, range: &str| {
            let problem = || (key, format!("`{key}` must be {range}, found `{value}`"));
            (!fits || !value.is_finite()).then(problem)
        };
        let (beta, ftx, smoothing) = (self.pref_beta, self.pref_ftx(), self.dpo_label_smoothing);
        let (chosen, rejected) = (self.kto_chosen_weight, self.kto_rejected_weight);
        [
            range("pref_beta", beta, beta > 0.0, "above 0, for with 0 nothing would be learned"),
            range("pref_ftx", ftx, ftx >= 0.0, "0 or more"),
            range("dpo_label_smoothing", smoothing, (0.0..0.5).contains(&smoothing), "from 0 to below 0.5"),
            range("simpo_gamma", self.simpo_gamma, self.simpo_gamma >= 0.0, "0 or more"),
            range("kto_chosen_weight", chosen, chosen > 0.0, "above 0"),
            range("kto_rejected_weight", rejected, rejected > 0.0, "above 0"),
        ]
        .into_iter()
        .flatten()
        .next()
        .or_else(|| self.conflict(method))
    }

    /// Keys that say different things, or that the stage has no use for.
    fn conflict(&self, method: &MethodOptions) -> Option<(&'static str, String)> {
        let preference = self.preference(method);
        let stage = method.stage.name();
        if let (Some(loss), Some(Preference::Pairs(of_stage))) = (self.pref_loss, preference)
            && loss != of_stage
        {
            let loss = loss.name();
            let problem =
                format!("`stage: {stage}` and `pref_loss: {loss}` are two losses: leave one of them out");
            return Some(("pref_loss", problem));
        }
        let smoothed = [PrefLoss::Sigmoid, PrefLoss::Simpo, PrefLoss::Cpo].map(Preference::Pairs);
        if self.dpo_label_smoothing > 0.0
            && preference.is_some_and(|preference| !smoothed.contains(&preference))
        {
            let problem = "`dpo_label_smoothing` goes with `pref_loss: sigmoid`, `simpo` or `cpo` alone";
            return Some(("dpo_label_smoothing", problem.to_owned()));
        }
        None
    }
}

impl PrefLoss {
    /// Its name in recipes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sigmoid => "sigmoid",
            Self::Ipo => "ipo",
            Self::Hinge => "hinge",
            Self::Orpo => "orpo",
            Self::Simpo => "simpo",
            Self::Cpo => "cpo",
        }
    }
}
