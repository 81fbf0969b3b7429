//! The run folder: what is written into it, and when.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When something is done during the run.
///
/// zh: 训练中何时执行某项操作。
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum IntervalStrategy {
    /// Never.
    ///
    /// zh: 从不。
    No,
    /// Every so many optimizer steps.
    ///
    /// zh: 每隔若干优化步。
    Steps,
    /// At the end of every epoch.
    ///
    /// zh: 每个轮次结束时。
    Epoch,
}

/// A checkpoint to continue from.
///
/// zh: 从哪个检查点继续。
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ResumeFrom {
    /// `true`: the newest in `output_dir`; `false`: none.
    ///
    /// zh: `true`：`output_dir` 中最新的；`false`：不继续。
    Newest(bool),
    /// This `checkpoint-N` folder.
    ///
    /// zh: 指定的 `checkpoint-N` 文件夹。
    Folder(PathBuf),
}

/// The run folder: what is written into it, and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct OutputOptions {
    /// Folder that receives the model, checkpoints and logs. Required.
    ///
    /// zh: 存放模型、检查点和日志的文件夹。必填。
    pub output_dir: PathBuf,
    /// Train into a folder that is not empty.
    ///
    /// zh: 允许写入非空文件夹。
    pub overwrite_output_dir: bool,
    /// Optimizer steps between two log lines.
    ///
    /// zh: 每隔多少优化步记录一行日志。
    pub logging_steps: u64,
    /// When the validation samples are scored.
    ///
    /// zh: 何时在验证样本上评估。
    pub eval_strategy: IntervalStrategy,
    /// Steps between two scorings (default: `logging_steps`).
    ///
    /// zh: 两次评估间隔的步数（默认同 `logging_steps`）。
    pub eval_steps: Option<u64>,
    /// When a checkpoint is written.
    ///
    /// zh: 何时保存检查点。
    pub save_strategy: IntervalStrategy,
    /// Steps between two checkpoints.
    ///
    /// zh: 两个检查点间隔的步数。
    pub save_steps: u64,
    /// Keep only so many newest checkpoints (default: all).
    ///
    /// zh: 只保留最新的若干个检查点（默认全部保留）。
    pub save_total_limit: Option<usize>,
    /// Checkpoint to continue from: `true` for the newest in `output_dir` (if there is one), or its folder, which may
    /// be one of another run; `output_dir` then begins anew.
    ///
    /// zh: 从检查点继续：`true` 表示 `output_dir` 中最新的（若有），或给出其文件夹；若属于另一次运行，则 `output_dir` 另起新的运行。
    pub resume_from_checkpoint: Option<ResumeFrom>,
    /// Draw `training_loss.svg` and `training_loss.png`.
    ///
    /// zh: 绘制 `training_loss.svg` 与 `training_loss.png`。
    pub plot_loss: bool,
}

impl Default for OutputOptions {
    fn default() -> Self {
        Self {
            output_dir: PathBuf::new(),
            overwrite_output_dir: false,
            logging_steps: 10,
            eval_strategy: IntervalStrategy::No,
            eval_steps: None,
            save_strategy: IntervalStrategy::Steps,
            save_steps: 500,
            save_total_limit: None,
            resume_from_checkpoint: None,
            plot_loss: true,
        }
    }
}

impl OutputOptions {
    /// `eval_steps`, or `logging_steps` as the Hugging Face Trainer does.
    #[must_use]
    pub fn eval_steps(&self) -> u64 {
        self.eval_steps.unwrap_or(self.logging_steps)
    }
}
