//! The options of `danlu convert --quant gptq-4bit`, under the names that AutoGPTQ, GPTQModel and LLaMA-Factory have for
//! them, and the calibration set that they name.

use std::path::Path;

use anyhow::Result;
use danlu_data::{DataOptions, Dataset, OnBadRow, Task};
use danlu_model::{Gptq, GptqOptions, Rest, open_shape};
use danlu_tokenizer::{ChatTemplate, Tokenizer};

use crate::commands::data::inspect::is_corpus;
use crate::failure::wrong_input;
use crate::models::PrecisionChoice;

/// How `--quant gptq-4bit` and `gptq-8bit` quantize.
#[derive(Debug, clap::Args)]
pub struct GptqArgs {
    /// GPTQ: samples of the calibration set, spread evenly over it (default: 128)
    ///
    /// zh: GPTQ：从校准集中均匀抽取的样本数（默认：128）
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    calibration_samples: Option<u32>,
    /// GPTQ: tokens of a sample at most (default: 512)
    ///
    /// zh: GPTQ：每个样本最多的词元数（默认：512）
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    calibration_length: Option<u32>,
    /// GPTQ: inputs that share a scale; -1 is a whole row (default: 128)
    ///
    /// zh: GPTQ：共用一个缩放系数的输入数；-1 表示整行（默认：128）
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    group_size: Option<i64>,
    /// GPTQ: quantize the most important inputs first (act-order): a little better, slower in some programs
    ///
    /// zh: GPTQ：先量化最重要的输入（act-order）：质量略好，在某些程序中较慢
    #[arg(long)]
    desc_act: bool,
    /// GPTQ: grid around zero, which every program reads fast; false fits skewed weights better (default: true)
    ///
    /// zh: GPTQ：以零为中心的网格，所有程序都能快速读取；false 更适合偏斜的权重（默认：true）
    #[arg(long, value_name = "true|false")]
    sym: Option<bool>,
    /// GPTQ: what is added to the Hessian's diagonal, as a share of its mean (default: 0.01)
    ///
    /// zh: GPTQ：加到 Hessian 对角线上的量，占其均值的比例（默认：0.01）
    #[arg(long, value_name = "SHARE")]
    damp_percent: Option<f64>,
}

impl GptqArgs {
    /// Refuses options of GPTQ where nothing is quantized so.
    pub fn refuse(&self) -> Result<()> {
        let given = [
            ("calibration-samples", self.calibration_samples.is_some()),
            ("calibration-length", self.calibration_length.is_some()),
            ("group-size", self.group_size.is_some()),
            ("desc-act", self.desc_act),
            ("sym", self.sym.is_some()),
            ("damp-percent", self.damp_percent.is_some()),
        ];
        match given.into_iter().find(|(_, is_given)| *is_given) {
            Some((name, _)) => {
                Err(wrong_input(format!("`--{name}` is for `--quant gptq-4bit` and `gptq-8bit`")))
            }
            None => Ok(()),
        }
    }

    /// What they say for the model at `model`, and the calibration set in its vocabulary.
    ///
    /// # Errors
    /// No calibration set, or one that cannot be read; options out of range.
    pub fn options(
        &self,
        bits: usize,
        calibration: Option<&Path>,
        model: &Path,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<GptqOptions> {
        let Some(path) = calibration else {
            return Err(wrong_input(
                "GPTQ needs to see what the model is for: give a text or data set with `--calibration FILE`",
            ));
        };
        let group_size = match self.group_size.unwrap_or(128) {
            -1 => None,
            size => Some(
                usize::try_from(size)
                    .map_err(|_| wrong_input(format!("`--group-size`: expected -1 or more, found {size}")))?,
            ),
        };
        let damp_percent = self.damp_percent.unwrap_or(0.01);
        if !(damp_percent > 0.0 && damp_percent <= 1.0) {
            let message =
                format!("`--damp-percent`: expected a share above 0 and up to 1, found {damp_percent}");
            return Err(wrong_input(message));
        }
        let settings = Gptq::new(bits, group_size, self.desc_act, self.sym.unwrap_or(true))
            .map_err(|error| wrong_input(error.to_string()))?;
        let precision = PrecisionChoice::Auto.resolve(model);
        let opened = open_shape(model, precision, Rest::Frozen)?;
        let tokenizer = match tokenizer {
            Some(tokenizer) => tokenizer,
            None => opened.tokenizer()?,
        };
        let context = opened.model.config().context_length();
        let calibration = self.samples(path, tokenizer, context)?;
        Ok(GptqOptions { settings, damp_percent, calibration, precision })
    }

    /// Samples of the calibration set, spread evenly over it: texts cut to pieces, or conversations in the model's template.
    fn samples(&self, path: &Path, tokenizer: &Tokenizer, context: usize) -> Result<Vec<Vec<u32>>> {
        let length = self.calibration_length.map_or(512, |length| length as usize).min(context);
        let options = DataOptions {
            dataset: vec![path.display().to_string()],
            cutoff_len: length,
            on_bad_row: OnBadRow::Skip,
            ..DataOptions::default()
        };
        let (template, tokens) = (tokenizer.chat_template(), tokenizer.template_tokens());
        let dataset = match template {
            Some(template) if !is_corpus(path)? => {
                let template = ChatTemplate::from_source(template)?;
                Dataset::load(
                    &options,
                    tokenizer,
                    Task::Conversation { template: &template, tokens: &tokens },
                )?
            }
            _ => Dataset::load(&options, tokenizer, Task::Pretraining)?,
        };
        let all = dataset.samples.len();
        let wanted = self.calibration_samples.map_or(128, |samples| samples as usize).min(all);
        Ok((0..wanted).map(|index| dataset.samples.get(index * all / wanted).ids).collect())
    }
}
