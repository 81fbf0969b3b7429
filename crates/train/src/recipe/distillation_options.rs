//! How a student imitates a teacher.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{MethodOptions, Stage};

/// The teacher, and how much of it is learned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DistillationOptions {
    /// Distillation: a larger model with the same vocabulary, whose most probable tokens are learned beside the data, in
    /// `stage: pt` and `sft`: a folder, a GGUF file, or an id of a hub. A new model without a tokenizer takes the teacher's.
    /// It reads the training samples once, before the first step; what it finds probable is kept in the folder
    /// `distillation` of the run, and used again as long as teacher and data are the same.
    ///
    /// zh: 蒸馏：一个词表相同的较大模型，在 `stage: pt` 与 `sft` 中除数据外还学习它认为最可能的词元；可为文件夹、GGUF 文件或模型名。未给分词器的新模型采用教师的分词器。它在第一步之前把训练样本读一遍，结果存放在运行文件夹的 `distillation` 中，只要教师与数据不变就重复使用。
    pub teacher_model_name_or_path: Option<String>,
    /// The share α of the teacher in the loss: α · T² · KL(teacher ‖ student) + (1 − α) · cross-entropy, from above 0 to 1.
    ///
    /// zh: 教师在损失中所占的比例 α：α · T² · KL(教师 ‖ 学生) + (1 − α) · 交叉熵，大于 0，至多为 1。
    pub distillation_alpha: f64,
    /// The temperature T by which the logits of both are divided: above 1, the less probable tokens count for more.
    ///
    /// zh: 双方的 logits 所除以的温度 T：大于 1 时，可能性较小的词元分量更重。
    pub distillation_temperature: f64,
    /// How many of the teacher's most probable tokens are kept of each learned position; their probabilities are normalised again.
    /// One takes 8 bytes.
    ///
    /// zh: 每个被学习的位置保留教师最可能的多少个词元，其概率重新归一化；每个占 8 字节。
    pub distillation_top_k: usize,
}

impl Default for DistillationOptions {
    fn default() -> Self {
        Self {
            teacher_model_name_or_path: None,
            distillation_alpha: 0.5,
            distillation_temperature: 1.0,
            distillation_top_k: 32,
        }
    }
}

impl DistillationOptions {
    /// Tokens of a position that may be kept at most.
    const MOST: usize = 1024;

    /// The first problem: the key to blame, and a sentence.
    pub(super) fn first_problem(&self, method: &MethodOptions) -> Option<(&'static str, String)> {
        let (alpha, temperature, top_k) =
            (self.distillation_alpha, self.distillation_temperature, self.distillation_top_k);
        if !(alpha > 0.0 && alpha <= 1.0) {
            let key = "distillation_alpha";
            return Some((key, format!("`{key}` must be above 0 and at most 1, found `{alpha}`")));
        }
        if !(temperature.is_finite() && temperature > 0.0) {
            let key = "distillation_temperature";
            return Some((key, format!("`{key}` must be above 0, found `{temperature}`")));
        }
        if !(1..=Self::MOST).contains(&top_k) {
            let key = "distillation_top_k";
            return Some((key, format!("`{key}` must be from 1 to {}, found `{top_k}`", Self::MOST)));
        }
        let default = Self::default();
        if self.teacher_model_name_or_path.is_none() {
            let (key, _) = [
                ("distillation_alpha", alpha != default.distillation_alpha),
                ("distillation_temperature", temperature != default.distillation_temperature),
                ("distillation_top_k", top_k != default.distillation_top_k),
            ]
            .into_iter()
            .find(|(_, is_set)| *is_set)?;
            return Some((key, format!("`{key}` needs `teacher_model_name_or_path`, the model to imitate")));
        }
        (!matches!(method.stage, Stage::Pt | Stage::Sft)).then(|| {
            let key = "teacher_model_name_or_path";
            let stage = method.stage.name();
            (key, format!("`{key}` goes with `stage: pt` and `sft`, and `stage: {stage}` learns preferences"))
        })
    }
}
