//! Batches, optimizer, schedule, precision.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schedule::LrSchedulerType;

/// Arithmetic of the matrix products; everything else is always f32.
///
/// zh: 矩阵乘法的精度；其余运算始终为 f32。
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// `bf16` where the CPU multiplies it, `f32` elsewhere.
    ///
    /// zh: CPU 支持时用 `bf16`，否则用 `f32`。
    #[default]
    Auto,
    /// Full single precision.
    ///
    /// zh: 完整的单精度。
    F32,
    /// Operands rounded to bf16, sums in f32.
    ///
    /// zh: 操作数舍入为 bf16，以 f32 累加。
    Bf16,
}

/// Batches, optimizer, schedule, precision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TrainingOptions {
    /// Samples that are computed together.
    ///
    /// zh: 一次同时计算的样本数。
    pub per_device_train_batch_size: usize,
    /// Such batches per optimizer step; the loss is divided by the trained tokens of all of them.
    ///
    /// zh: 每个优化步累积多少批；损失除以其中全部被训练的词元数。
    pub gradient_accumulation_steps: usize,
    /// Highest learning rate of the run.
    ///
    /// zh: 训练过程中的最高学习率。
    pub learning_rate: f64,
    /// Passes over the dataset.
    ///
    /// zh: 遍历数据集的次数。
    pub num_train_epochs: f64,
    /// Optimizer steps; replaces `num_train_epochs` when it is positive.
    ///
    /// zh: 优化步数；为正数时取代 `num_train_epochs`。
    pub max_steps: i64,
    /// How the learning rate changes over the run.
    ///
    /// zh: 学习率在训练过程中的变化方式。
    pub lr_scheduler_type: LrSchedulerType,
    /// Share of the steps over which the learning rate rises from zero.
    ///
    /// zh: 学习率从零上升所占的步数比例。
    pub warmup_ratio: f64,
    /// Number of those steps; wins over `warmup_ratio` when it is positive.
    ///
    /// zh: 预热步数；为正数时优先于 `warmup_ratio`。
    pub warmup_steps: u64,
    /// Last learning rate of `cosine_with_min_lr`.
    ///
    /// zh: `cosine_with_min_lr` 的最终学习率。
    pub min_lr: Option<f64>,
    /// The same as a share of `learning_rate`.
    ///
    /// zh: 同上，以占 `learning_rate` 的比例给出。
    pub min_lr_rate: Option<f64>,
    /// AdamW weight decay; norms and biases are exempt.
    ///
    /// zh: AdamW 的权重衰减；归一化与偏置除外。
    pub weight_decay: f64,
    /// AdamW: memory of the mean gradient.
    ///
    /// zh: AdamW：梯度均值的衰减率。
    pub adam_beta1: f64,
    /// AdamW: memory of the mean squared gradient.
    ///
    /// zh: AdamW：梯度平方均值的衰减率。
    pub adam_beta2: f64,
    /// AdamW: added to the denominator.
    ///
    /// zh: AdamW：加在分母上的小量。
    pub adam_epsilon: f64,
    /// Longest gradient vector; longer ones are scaled down to it, 0 turns this off.
    ///
    /// zh: 梯度范数的上限，超出则按比例缩小；0 表示不限制。
    pub max_grad_norm: f64,
    /// Seed of everything random.
    ///
    /// zh: 一切随机数的种子。
    pub seed: u64,
    /// Seed of the order of samples (default: `seed`).
    ///
    /// zh: 样本顺序的随机种子（默认同 `seed`）。
    pub data_seed: Option<u64>,
    /// Arithmetic of the matrix products.
    ///
    /// zh: 矩阵乘法的精度。
    pub precision: Precision,
    /// As the Hugging Face Trainer spells it: `true` is `precision: bf16`, `false` is `precision: f32`.
    ///
    /// zh: Hugging Face Trainer 的写法：`true` 即 `precision: bf16`，`false` 即 `precision: f32`。
    pub bf16: Option<bool>,
    /// Computing threads (default: one per core). The result does not depend on it.
    ///
    /// zh: 计算线程数（默认每核一个）。结果与线程数无关。
    pub threads: Option<usize>,
}

impl Default for TrainingOptions {
    fn default() -> Self {
        Self {
            per_device_train_batch_size: 8,
            gradient_accumulation_steps: 1,
            learning_rate: 5e-5,
            num_train_epochs: 3.0,
            max_steps: -1,
            lr_scheduler_type: LrSchedulerType::default(),
            warmup_ratio: 0.0,
            warmup_steps: 0,
            min_lr: None,
            min_lr_rate: None,
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            max_grad_norm: 1.0,
            seed: 42,
            data_seed: None,
            precision: Precision::default(),
            bf16: None,
            threads: None,
        }
    }
}

impl TrainingOptions {
    /// Samples of one optimizer step.
    #[must_use]
    pub fn samples_per_step(&self) -> usize {
        self.per_device_train_batch_size.saturating_mul(self.gradient_accumulation_steps)
    }

    /// `data_seed`, or `seed`.
    #[must_use]
    pub fn data_seed(&self) -> u64 {
        self.data_seed.unwrap_or(self.seed)
    }

    /// `precision` joined with `bf16`.
    #[must_use]
    pub fn precision(&self) -> Precision {
        match (self.precision, self.bf16) {
            (Precision::Auto, Some(true)) => Precision::Bf16,
            (Precision::Auto, Some(false)) => Precision::F32,
            (precision, _) => precision,
        }
    }
}
