//! `danlu eval`: multiple choice, perplexity, entities, long texts, answers, comparison of models. Each is a file of its own; this
//! one only names them.

mod arena;
mod compare;
mod generate;
mod longbench;
mod multiple_choice;
mod ner;
mod perplexity;
mod server;
mod settings;
mod takes;

use anyhow::Result;

use crate::printer::Printer;

/// What to measure.
#[derive(Debug, clap::Subcommand)]
pub enum Args {
    /// C-Eval, as lm-eval asks it: by default letters, 5 examples, no chat template
    ///
    /// zh: C-Eval，提问方式与 lm-eval 相同：默认比较字母、5 个示例、不用对话模板
    Ceval(multiple_choice::Args),
    /// CMMLU, as lm-eval asks it: by default letters, 5 examples, no chat template
    ///
    /// zh: CMMLU，提问方式与 lm-eval 相同：默认比较字母、5 个示例、不用对话模板
    Cmmlu(multiple_choice::Args),
    /// MMLU, as lm-eval asks it: by default letters, 5 examples, no chat template
    ///
    /// zh: MMLU，提问方式与 lm-eval 相同：默认比较字母、5 个示例、不用对话模板
    Mmlu(multiple_choice::Args),
    /// Your own multiple-choice questions: by default the options' texts, no examples, the model's own chat template
    ///
    /// zh: 自备的单项选择题：默认比较选项文本、无示例、使用模型自带的对话模板
    Mcq(multiple_choice::Args),
    /// Perplexity of a text
    ///
    /// zh: 文本的困惑度
    Ppl(perplexity::Args),
    /// Entities that answers name, one `entity_type` a line: precision, recall and F1 by type and in all
    ///
    /// zh: 实体抽取，回答每行一个“实体_类型”：按类型与总体给出精确率、召回率与 F1
    Ner(ner::Args),
    /// LongBench: answers about long texts, as its own scripts ask and score them, from local files
    ///
    /// zh: LongBench：针对长文本的回答，提问与评分方式与其官方脚本相同，读取本地文件
    Longbench(Box<longbench::Args>),
    /// Answers to questions with reference answers: BLEU-4, ROUGE-1/2/L, chrF, exact match
    ///
    /// zh: 回答带参考答案的问题：BLEU-4、ROUGE-1/2/L、chrF、完全匹配
    Generate(Box<generate::Args>),
    /// Two results on the same questions: differences with intervals, exact tests, who got what right
    ///
    /// zh: 比较同样题目上的两份结果：差值及区间、精确检验、各自答对了什么
    Compare(compare::Args),
    /// Ratings of models from votes on pairs of answers, of people or of a judge
    ///
    /// zh: 由成对回答的投票（来自人或评判模型）计算模型评分
    Arena(arena::Args),
}

/// Runs `danlu eval`.
///
/// # Errors
/// A model, questions or a text that cannot be used.
pub fn run(args: Args, printer: &Printer) -> Result<()> {
    match args {
        Args::Ceval(args) => multiple_choice::run(args, &multiple_choice::CEVAL, printer),
        Args::Cmmlu(args) => multiple_choice::run(args, &multiple_choice::CMMLU, printer),
        Args::Mmlu(args) => multiple_choice::run(args, &multiple_choice::MMLU, printer),
        Args::Mcq(args) => multiple_choice::run(args, &multiple_choice::MCQ, printer),
        Args::Ppl(args) => perplexity::run(args, printer),
        Args::Ner(args) => ner::run(&args, printer),
        Args::Longbench(args) => longbench::run(&args, printer),
        Args::Generate(args) => generate::run(&args, printer),
        Args::Compare(args) => compare::run(&args, printer),
        Args::Arena(args) => arena::run(&args, printer),
    }
}

/// Rounds of a bootstrap: at least 1, and not more than anybody waits for.
fn rounds(text: &str) -> Result<usize, String> {
    let rounds: usize = text.parse().map_err(|_| "expected a whole number".to_owned())?;
    if (1..=1_000_000).contains(&rounds) { Ok(rounds) } else { Err("expected 1 to 1000000".to_owned()) }
}
