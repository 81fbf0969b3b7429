//! Batches, optimizer, schedule, precision.

use danlu_model::Keep;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schedule::{LrSchedulerKwargs, LrSchedulerType};

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

/// How gradients become changes of the weights.
///
/// zh: 由梯度得出权重更新的方法。
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Optim {
    /// AdamW: two f32 moments, 8 bytes per trained element.
    ///
    /// zh: AdamW：两个 f32 动量，每个被训练的元素 8 字节。
    #[default]
    Adamw,
    /// AdamW with moments in 8 bits, about 2 bytes; parameters of fewer than 4,096 elements keep f32.
    ///
    /// zh: 动量以 8 位保存的 AdamW，约 2 字节；不足 4096 个元素的参数仍用 f32。
    #[serde(rename = "adamw_8bit")]
    Adamw8bit,
    /// Adafactor: a mean per row and column, next to nothing; no first moment, the schedule's learning rate.
    ///
    /// zh: Adafactor：每行每列各一个均值，几乎不占内存；没有一阶动量，用调度给出的学习率。
    Adafactor,
    /// Lion: one f32 moment, 4 bytes; wants about a third to a tenth of AdamW's `learning_rate`.
    ///
    /// zh: Lion：一个 f32 动量，4 字节；`learning_rate` 宜取 AdamW 的三分之一到十分之一。
    Lion,
    /// Muon for the matrices of the blocks, 4 bytes and more time; AdamW for embedding, head and norms, with the same
    /// `learning_rate`.
    ///
    /// zh: 对各层的矩阵用 Muon，4 字节但更费时；词嵌入、输出头和归一化用 AdamW，`learning_rate` 相同。
    Muon,
    /// Plain gradient descent: no state, no momentum.
    ///
    /// zh: 朴素梯度下降：没有状态，也没有动量。
    Sgd,
}

impl Optim {
    /// All of them.
    pub const ALL: [Optim; 6] =
        [Self::Adamw, Self::Adamw8bit, Self::Adafactor, Self::Lion, Self::Muon, Self::Sgd];

    /// Its name in recipes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Adamw => "adamw",
            Self::Adamw8bit => "adamw_8bit",
            Self::Adafactor => "adafactor",
            Self::Lion => "lion",
            Self::Muon => "muon",
            Self::Sgd => "sgd",
        }
    }
}

/// What `max_grad_norm` limits.
///
/// zh: `max_grad_norm` 限制的对象。
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Clip {
    /// The norm of the whole gradient.
    ///
    /// zh: 整个梯度的范数。
    #[default]
    Global,
    /// The norm of each parameter's gradient by itself.
    ///
    /// zh: 每个参数各自梯度的范数。
    PerTensor,
}

/// What the backward computes again instead of keeping it.
///
/// zh: 反向传播中重新计算、而不保存哪些中间结果。
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    /// The first of the following that fits into the memory.
    ///
    /// zh: 以下各项中第一个放得进内存的。
    #[default]
    Auto,
    /// Norm outputs and the SwiGLU product.
    ///
    /// zh: 归一化的输出与 SwiGLU 的乘积。
    Cheap,
    /// Also gate and up: two of seven products of a block run again.
    ///
    /// zh: 另加 gate 与 up：每层七个矩阵乘法中的两个重算一次。
    Mlp,
    /// Whole blocks: the forward runs twice, and only the residual stream before each block is kept.
    ///
    /// zh: 整层重算：前向计算做两遍，只保留残差流。
    Block,
}

impl Recompute {
    /// Its name in recipes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cheap => "cheap",
            Self::Mlp => "mlp",
            Self::Block => "block",
        }
    }

    /// What is kept instead.
    #[must_use]
    pub fn keep(self) -> Keep {
        match self {
            Self::Auto | Self::Cheap => Keep::ForBackward,
            Self::Mlp => Keep::WithoutFeedForward,
            Self::Block => Keep::ResidualOnly,
        }
    }
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
    /// What the schedule takes besides: `total_num_steps`, where it ends before or behind the run (`linear`, `cosine`,
    /// `cosine_with_min_lr`, `polynomial`), `num_cycles` (`cosine`, `cosine_with_min_lr`, `cosine_with_restarts`), `power` and
    /// `lr_end` (`polynomial`), `timescale` (`inverse_sqrt`), `num_stable_steps`, `num_decay_steps`, `warmup_type`, `decay_type`,
    /// `min_lr_ratio` and `num_cycles` (`warmup_stable_decay`), and those of DeepSpeed's schedules.
    ///
    /// zh: 调度所需的其他数值：`total_num_steps`，即不随训练结束的终点（`linear`、`cosine`、`cosine_with_min_lr`、`polynomial`），`num_cycles`（`cosine`、`cosine_with_min_lr`、`cosine_with_restarts`），`power` 与 `lr_end`（`polynomial`），`timescale`（`inverse_sqrt`），`num_stable_steps`、`num_decay_steps`、`warmup_type`、`decay_type`、`min_lr_ratio` 与 `num_cycles`（`warmup_stable_decay`），以及 DeepSpeed 各调度的参数。
    pub lr_scheduler_kwargs: LrSchedulerKwargs,
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
    /// The optimizer. Spellings of the Hugging Face Trainer count as the nearest of these: `adamw_torch`,
    /// `adamw_torch_fused`, `adamw_hf`, `paged_adamw` … as `adamw`; `adamw_bnb_8bit`, `adamw_torch_8bit`,
    /// `paged_adamw_8bit` as `adamw_8bit` (nothing is paged, the 8-bit format is danlu's own); `lion_32bit`,
    /// `paged_lion_32bit`, and also `lion_8bit`, `paged_lion_8bit`, as `lion` (its moment stays f32).
    ///
    /// zh: 优化器。Hugging Face Trainer 的写法视作其中最接近的一个：`adamw_torch`、`adamw_torch_fused`、`adamw_hf`、
    /// `paged_adamw` 等即 `adamw`；`adamw_bnb_8bit`、`adamw_torch_8bit`、`paged_adamw_8bit` 即 `adamw_8bit`
    /// （不分页，8 位格式为 danlu 自有）；`lion_32bit`、`paged_lion_32bit`，以及 `lion_8bit`、`paged_lion_8bit`，
    /// 都即 `lion`（动量仍为 f32）。
    pub optim: Optim,
    /// Decoupled weight decay of every optimizer; norms and biases are exempt.
    ///
    /// zh: 权重衰减（与梯度解耦，适用于所有优化器）；归一化与偏置除外。
    pub weight_decay: f64,
    /// AdamW: memory of the mean gradient. Lion: share of the moment in a step.
    ///
    /// zh: AdamW：梯度均值的衰减率。Lion：动量在每步方向中所占的份额。
    pub adam_beta1: f64,
    /// AdamW: memory of the mean squared gradient (default: 0.999). Lion: memory of the moment (default: 0.99).
    ///
    /// zh: AdamW：梯度平方均值的衰减率（默认 0.999）。Lion：动量的衰减率（默认 0.99）。
    pub adam_beta2: Option<f64>,
    /// AdamW: added to the denominator.
    ///
    /// zh: AdamW：加在分母上的小量。
    pub adam_epsilon: f64,
    /// Longest gradient vector; longer ones are scaled down to it, 0 turns this off.
    ///
    /// zh: 梯度范数的上限，超出则按比例缩小；0 表示不限制。
    pub max_grad_norm: f64,
    /// Which vector `max_grad_norm` measures.
    ///
    /// zh: `max_grad_norm` 衡量哪个向量。
    pub clip: Clip,
    /// Update each parameter as soon as the backward has its gradient, so that all gradients never exist at once. Needs
    /// steps of one slice (1,024 tokens, or one longer sample), and `clip: per_tensor` or `max_grad_norm: 0`.
    ///
    /// zh: 反向传播一得出某参数的梯度就更新该参数，全部梯度不会同时存在。要求每步只有一片（1024 个词元，或一条更长的样本），
    /// 并设 `clip: per_tensor` 或 `max_grad_norm: 0`。
    pub fused_backward: bool,
    /// Leave out the update of a step whose loss is more than this many times the mean of the last 32 (default: none is
    /// left out for its loss). A step whose loss or gradient is not a finite number is always left out.
    ///
    /// zh: 某步损失超过最近 32 步均值的这么多倍时，跳过该步的更新（默认不因损失跳过）。损失或梯度不是有限数的步总会跳过。
    pub loss_spike_factor: Option<f64>,
    /// Steps in a row that may be left out; one more ends the run.
    ///
    /// zh: 允许连续跳过的步数；再多一步则结束训练。
    pub max_skipped_steps: u64,
    /// Instead of ending there, take the weights of the last checkpoint and go on behind the samples that did the harm: three
    /// times at most without a step in between that changed anything.
    ///
    /// zh: 不就此结束，而是取回最近检查点的权重，越过造成损害的样本继续训练；其间若没有一步有效，最多连续三次。
    pub rollback: bool,
    /// What the backward computes again instead of keeping it. No bit of the result depends on it.
    ///
    /// zh: 反向传播中重新计算哪些中间结果以节省内存；结果的每一位都与之无关。
    pub recompute: Recompute,
    /// Most memory of the run, such as `6GB`: `recompute: auto` fits the run into it, and a run that cannot fit is
    /// refused. Without it `auto` goes by what the machine has, and a run that may need more begins with a warning.
    ///
    /// zh: 训练最多占用的内存，如 `6GB`：`recompute: auto` 会据此选择，放不下的训练不会开始。不设时以机器的全部内存为准，
    /// 可能超出时给出警告。
    pub max_memory: Option<String>,
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
            lr_scheduler_kwargs: LrSchedulerKwargs::default(),
            warmup_ratio: 0.0,
            warmup_steps: 0,
            min_lr: None,
            min_lr_rate: None,
            optim: Optim::default(),
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: None,
            adam_epsilon: 1e-8,
            max_grad_norm: 1.0,
            clip: Clip::default(),
            fused_backward: false,
            loss_spike_factor: None,
            max_skipped_steps: 5,
            rollback: false,
            recompute: Recompute::default(),
            max_memory: None,
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

    /// `adam_beta2`, or what the authors of the optimizer advise.
    #[must_use]
    pub fn adam_beta2(&self) -> f64 {
        self.adam_beta2.unwrap_or(if self.optim == Optim::Lion { 0.99 } else { 0.999 })
    }

    /// `data_seed`, or `seed`.
    #[must_use]
    pub fn data_seed(&self) -> u64 {
        self.data_seed.unwrap_or(self.seed)
    }

    /// `max_memory` in bytes.
    ///
    /// # Errors
    /// If it is no size.
    pub fn max_memory(&self) -> Result<Option<u64>, String> {
        let Some(size) = &self.max_memory else { return Ok(None) };
        let size: Result<bytesize::ByteSize, _> = size.parse();
        size.map(|size| Some(size.as_u64())).map_err(|_| {
            let found = self.max_memory.as_deref().unwrap_or_default();
            format!("`max_memory` must be a size such as `6GB` or `512MiB`, found `{found}`")
        })
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
