//! The run folder: what is written into it, and when.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::NameList;

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
    /// Steps before the first scoring; with `eval_strategy: epoch`, epochs. The last step is scored all the same.
    ///
    /// zh: 首次评估之前的步数；`eval_strategy: epoch` 时为轮数。最后一步总会评估。
    pub eval_delay: f64,
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
    /// `tensorboard` (or `all`) writes TensorBoard event files too; `none` writes none.
    ///
    /// zh: `tensorboard`（或 `all`）时另外写出 TensorBoard 事件文件；`none` 则不写。
    pub report_to: NameList,
    /// Folder of the event files (default: `runs` in `output_dir`).
    ///
    /// zh: 事件文件所在的文件夹（默认为 `output_dir` 下的 `runs`）。
    pub logging_dir: Option<PathBuf>,
}

impl Default for OutputOptions {
    fn default() -> Self {
        Self {
            output_dir: PathBuf::new(),
            overwrite_output_dir: false,
            logging_steps: 10,
            eval_strategy: IntervalStrategy::No,
            eval_steps: None,
            eval_delay: 0.0,
            save_strategy: IntervalStrategy::Steps,
            save_steps: 500,
            save_total_limit: None,
            resume_from_checkpoint: None,
            plot_loss: true,
            report_to: NameList::default(),
            logging_dir: None,
        }
    }
}

impl OutputOptions {
    /// Where event files go, if they are written.
    #[must_use]
    pub fn event_folder(&self) -> Option<PathBuf> {
        let is_wanted = self.report_to.0.iter().any(|name| name == "tensorboard" || name == "all");
        is_wanted.then(|| self.logging_dir.clone().unwrap_or_else(|| self.output_dir.join("runs")))
    }

    /// Names in `report_to` that nothing is sent to.
    #[must_use]
    pub fn absent_reporters(&self) -> Vec<&str> {
        let names = self.report_to.0.iter().map(String::as_str);
        names.filter(|name| !["tensorboard", "all", "none"].contains(name)).collect()
    }

    /// `eval_steps`, or `logging_steps` as the Hugging Face Trainer does.
    #[must_use]
    pub fn eval_steps(&self) -> u64 {
        self.eval_steps.unwrap_or(self.logging_steps)
    }
}
