//! The options of choosing tokens. Those of `SamplingArgs` are also evaluation's; all of them are of `generate` and `chat`.

use std::sync::Arc;

use anyhow::Result;
use danlu_model::{Opened, Sampling, Vocabulary};

use crate::failure::wrong_input;

/// How tokens are chosen.
#[derive(Debug, Clone, clap::Args)]
pub struct SamplingArgs {
    /// 0 takes the most probable token; higher is more varied
    ///
    /// zh: 0 总取概率最高的词元；越高越多样
    #[arg(long, value_name = "T", default_value_t = Sampling::default().temperature, allow_negative_numbers = true)]
    temperature: f32,
    /// Choose among so many most probable tokens; 0 for all
    ///
    /// zh: 只在概率最高的若干词元中选择；0 表示全部
    #[arg(long, value_name = "K", default_value_t = Sampling::default().top_k)]
    top_k: usize,
    /// Choose among the most probable tokens that together reach this probability
    ///
    /// zh: 只在累计概率达到此值的词元中选择
    #[arg(long, value_name = "P", default_value_t = Sampling::default().top_p, allow_negative_numbers = true)]
    top_p: f32,
    /// Above 1: tokens that occurred become less probable
    ///
    /// zh: 大于 1 时降低已出现词元的概率
    #[arg(long, value_name = "R", default_value_t = Sampling::default().repetition_penalty, allow_negative_numbers = true)]
    repetition_penalty: f32,
    /// The same seed chooses the same tokens
    ///
    /// zh: 随机种子；相同的种子选出相同的词元
    #[arg(long, value_name = "N", default_value_t = Sampling::default().seed)]
    seed: u64,
}

impl SamplingArgs {
    /// The values, if they are in range.
    ///
    /// # Errors
    /// A value out of range.
    pub fn sampling(&self) -> Result<Sampling> {
        let Self { temperature, top_k, top_p, repetition_penalty, seed } = *self;
        let sampling =
            Sampling { temperature, top_k, top_p, repetition_penalty, seed, ..Sampling::default() };
        sampling.check().map_err(wrong_input)?;
        Ok(sampling)
    }
}

/// How tokens are chosen, with everything that there is to say about it.
#[derive(Debug, Clone, clap::Args)]
pub struct AllSamplingArgs {
    #[command(flatten)]
    basic: SamplingArgs,
    /// Choose among the tokens at least this fraction as probable as the most probable one; 0 for all
    ///
    /// zh: 只在概率不低于最高概率此比例的词元中选择；0 表示全部
    #[arg(long, value_name = "P", default_value_t = Sampling::default().min_p, allow_negative_numbers = true)]
    min_p: f32,
    /// Choose among the tokens of nearly average information that together reach this probability; 1 for all
    ///
    /// zh: 只在信息量接近平均、累计概率达到此值的词元中选择；1 表示全部
    #[arg(long, value_name = "P", default_value_t = Sampling::default().typical_p, allow_negative_numbers = true)]
    typical_p: f32,
    /// Subtracted from the logits of tokens that the answer already has
    ///
    /// zh: 回答中已出现的词元，其 logit 减去此值
    #[arg(long, value_name = "A", default_value_t = Sampling::default().presence_penalty, allow_negative_numbers = true)]
    presence_penalty: f32,
    /// Subtracted from the logits of tokens for each time that the answer already has them
    ///
    /// zh: 回答中的词元每出现一次，其 logit 减去此值
    #[arg(long, value_name = "A", default_value_t = Sampling::default().frequency_penalty, allow_negative_numbers = true)]
    frequency_penalty: f32,
    /// Added to the logit of a token, by its id; -100 bans it. May be given several times
    ///
    /// zh: 给某个词元编号的 logit 加上此值；-100 表示禁用。可多次给出
    #[arg(long, value_name = "ID=BIAS", value_parser = bias)]
    logit_bias: Vec<(u32, f32)>,
    /// Steer the surprise of the answer instead of top-k, top-p, min-p and typical-p: version 1 or 2, 0 for off
    ///
    /// zh: 用 mirostat 控制回答的意外程度，代替 top-k、top-p、min-p 与 typical-p：版本 1 或 2，0 关闭
    #[arg(long, value_name = "N", default_value_t = Sampling::default().mirostat)]
    mirostat: u8,
    /// The surprise that mirostat holds, in bits a token
    ///
    /// zh: mirostat 保持的意外程度（每词元比特数）
    #[arg(long, value_name = "BITS", default_value_t = Sampling::default().mirostat_tau, allow_negative_numbers = true)]
    mirostat_tau: f32,
    /// How fast mirostat corrects itself
    ///
    /// zh: mirostat 的修正速度
    #[arg(long, value_name = "R", default_value_t = Sampling::default().mirostat_eta, allow_negative_numbers = true)]
    mirostat_eta: f32,
    /// Weight of DRY, a penalty on going on with a repetition that grows with its length; 0 for off
    ///
    /// zh: DRY 的权重：惩罚继续重复，重复越长惩罚越大；0 关闭
    #[arg(long, value_name = "W", default_value_t = Sampling::default().dry_multiplier, allow_negative_numbers = true)]
    dry_multiplier: f32,
    /// What DRY's penalty is multiplied by for each token that the repetition is longer
    ///
    /// zh: 重复每长一个词元，DRY 惩罚乘以此值
    #[arg(long, value_name = "B", default_value_t = Sampling::default().dry_base, allow_negative_numbers = true)]
    dry_base: f32,
    /// Tokens of a repetition that DRY leaves alone
    ///
    /// zh: DRY 允许的重复词元数
    #[arg(long, value_name = "N", default_value_t = Sampling::default().dry_allowed_length)]
    dry_allowed_length: usize,
    /// Tokens that DRY searches for repetitions; -1 for all
    ///
    /// zh: DRY 检查的最近词元数；-1 表示全部
    #[arg(long, value_name = "N", default_value_t = Sampling::default().dry_penalty_last_n, allow_negative_numbers = true)]
    dry_penalty_last_n: i64,
    /// Text that a repetition cannot span, instead of the line break, `:`, `"` and `*`. May be given several times
    ///
    /// zh: 重复不能跨越的文本，代替默认的换行、`:`、`"` 与 `*`。可多次给出
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    dry_sequence_breaker: Vec<String>,
}

impl AllSamplingArgs {
    /// The values, if they are in range.
    ///
    /// # Errors
    /// A value out of range.
    pub fn sampling(&self) -> Result<Sampling> {
        let breakers = match &self.dry_sequence_breaker {
            none if none.is_empty() => Sampling::default().dry_sequence_breakers,
            given => given.clone(),
        };
        let sampling = Sampling {
            min_p: self.min_p,
            typical_p: self.typical_p,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            logit_bias: self.logit_bias.iter().copied().collect(),
            mirostat: self.mirostat,
            mirostat_tau: self.mirostat_tau,
            mirostat_eta: self.mirostat_eta,
            dry_multiplier: self.dry_multiplier,
            dry_base: self.dry_base,
            dry_allowed_length: self.dry_allowed_length,
            dry_penalty_last_n: self.dry_penalty_last_n,
            dry_sequence_breakers: breakers,
            ..self.basic.sampling()?
        };
        sampling.check().map_err(wrong_input)?;
        Ok(sampling)
    }
}

/// The bytes of tokens, where choosing them needs these.
pub fn vocabulary_of(sampling: &Sampling, opened: &Opened) -> Option<Arc<Vocabulary>> {
    if sampling.needs_vocabulary() { opened.vocabulary().map(Arc::new) } else { None }
}

fn bias(text: &str) -> Result<(u32, f32), &'static str> {
    let message = "expected a token's id and a number, such as 15=-100";
    let (id, bias) = text.split_once('=').ok_or(message)?;
    Ok((id.trim().parse().map_err(|_| message)?, bias.trim().parse().map_err(|_| message)?))
}
