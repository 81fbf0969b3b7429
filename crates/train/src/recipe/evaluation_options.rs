//! Validation during a run: which state is kept, when nothing improves any more, what the model answers meanwhile.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is made of validations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct EvaluationOptions {
    /// Keep the state of the best validation as the result instead of the last one. A checkpoint is written at each
    /// validation that is the best so far, and `save_total_limit` spares it.
    ///
    /// zh: 以验证最好的状态（而非最后的状态）作为结果。每次验证刷新最好成绩时保存检查点，`save_total_limit` 不会删除它。
    pub load_best_model_at_end: bool,
    /// What the best is measured by: `loss`, `perplexity` or `accuracy`, of preferences `loss`, `rewards/accuracies` or
    /// `rewards/margins` (default: `loss`); `eval_` in front is the same.
    ///
    /// zh: 以什么衡量最好：`loss`、`perplexity` 或 `accuracy`，偏好训练时为 `loss`、`rewards/accuracies` 或 `rewards/margins`（默认 `loss`）；前面加 `eval_` 亦可。
    pub metric_for_best_model: Option<String>,
    /// Whether more of it is better (default: `true`, but for a loss and for the perplexity).
    ///
    /// zh: 数值是否越大越好（默认 `true`；损失与困惑度除外）。
    pub greater_is_better: Option<bool>,
    /// End the run after so many validations in a row that do not improve `metric_for_best_model` (default: never).
    ///
    /// zh: 连续这么多次验证没有改进 `metric_for_best_model` 时结束训练（默认从不）。
    pub early_stopping_steps: Option<u64>,
    /// The improvement that counts for `early_stopping_steps`.
    ///
    /// zh: 对 `early_stopping_steps` 而言算作改进的最小幅度。
    pub early_stopping_threshold: f64,
    /// Texts that the model answers (`stage: pt`: continues) at each validation, always with the most probable token. The
    /// answers go into `samples.jsonl`.
    ///
    /// zh: 每次验证时让模型回答（`stage: pt` 时为续写）的文本，总取概率最高的词元；结果写入 `samples.jsonl`。
    pub sample_prompts: Vec<String>,
    /// Longest such answer, in tokens.
    ///
    /// zh: 每个回答最多的词元数。
    pub sample_max_new_tokens: usize,
}

impl Default for EvaluationOptions {
    fn default() -> Self {
        Self {
            load_best_model_at_end: false,
            metric_for_best_model: None,
            greater_is_better: None,
            early_stopping_steps: None,
            early_stopping_threshold: 0.0,
            sample_prompts: Vec::new(),
            sample_max_new_tokens: 64,
        }
    }
}

impl EvaluationOptions {
    /// Name of the metric in logs.
    #[must_use]
    pub fn metric(&self) -> String {
        let name = self.metric_for_best_model.as_deref().unwrap_or("loss");
        if name.starts_with("eval_") { name.to_owned() } else { format!("eval_{name}") }
    }

    /// `greater_is_better`, or what the metric's name says.
    #[must_use]
    pub fn greater_is_better(&self) -> bool {
        let metric = self.metric();
        self.greater_is_better.unwrap_or(!metric.ends_with("loss") && !metric.ends_with("perplexity"))
    }

    /// Whether validations decide anything.
    #[must_use]
    pub fn needs_validation(&self) -> bool {
        self.load_best_model_at_end || self.early_stopping_steps.is_some()
    }
}
