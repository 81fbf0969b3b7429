//! The verbs. Each has its file, with its arguments and a function that runs it.

mod bench;
mod chat;
mod convert;
mod data;
mod docs;
mod doctor;
mod download;
mod eval;
mod generate;
mod info;
mod merge;
mod plan;
mod quickstart;
mod recipes;
mod tokenizer;
mod train;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::printer::Printer;

/// Domain language models of the Llama family, from corpus to chat, in one program
///
/// zh: 领域语言模型（Llama 系）的全流程：从语料到对话，一个程序
#[derive(Debug, Parser)]
#[command(name = "danlu", version, arg_required_else_help = true, disable_help_subcommand = true)]
pub struct Cli {
    /// Threads for computing (default: one for each physical core)
    ///
    /// zh: 计算线程数（默认：每个物理核心一个）
    #[arg(long, global = true, value_name = "N", display_order = 900, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Print the result as one JSON object, the last line of standard output
    ///
    /// zh: 以一个 JSON 对象输出结果，位于标准输出的最后一行
    #[arg(long, global = true, display_order = 901)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// A verb with its arguments.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// From nothing to a model that answers, in a few minutes
    ///
    /// zh: 几分钟内从零得到一个会回答的模型
    Quickstart(quickstart::Args),
    /// Train as a recipe says: pretraining or fine-tuning, all weights or a LoRA adapter
    ///
    /// zh: 按配方训练：预训练或微调，全参数或 LoRA 适配器
    Train(train::Args),
    /// Say what a recipe would do, before it runs
    ///
    /// zh: 在运行之前说明配方会做什么
    Plan(plan::Args),
    /// List, show or copy the recipes that are built in
    ///
    /// zh: 列出、查看或复制内置的训练配方
    #[command(subcommand)]
    Recipes(recipes::Args),
    /// Look at data as training will see it
    ///
    /// zh: 查看训练将看到的数据
    #[command(subcommand)]
    Data(data::Args),
    /// Train a vocabulary, encode and decode
    ///
    /// zh: 训练词表，编码与解码
    #[command(subcommand)]
    Tokenizer(tokenizer::Args),
    /// Say what a model, adapter or tokenizer is and what can be done with it
    ///
    /// zh: 说明一个模型、适配器或分词器是什么、能用来做什么
    Info(info::Args),
    /// Get a model or data set from Hugging Face, a mirror or ModelScope
    ///
    /// zh: 从 Hugging Face、其镜像或 ModelScope 下载模型或数据集
    Download(download::Args),
    /// Write a model in another form: safetensors, bin, pth, GGUF (quantized or not), llama2.c
    ///
    /// zh: 将模型转换为另一种格式：safetensors、bin、pth、GGUF（可量化）、llama2.c
    Convert(convert::Args),
    /// Make one model of a base and its adapters
    ///
    /// zh: 把基础模型与适配器合并成一个模型
    Merge(merge::Args),
    /// Score a model: multiple choice, perplexity
    ///
    /// zh: 评测模型：单项选择题、困惑度
    #[command(subcommand)]
    Eval(eval::Args),
    /// Talk with a model
    ///
    /// zh: 与模型对话
    Chat(chat::Args),
    /// Answer or continue one prompt
    ///
    /// zh: 回答或续写一段文本
    Generate(generate::Args),
    /// Say what this machine can do: which models and methods fit, and how fast
    ///
    /// zh: 说明本机的能力：哪些模型与方法可行，速度如何
    Doctor(doctor::Args),
    /// Measure how near to its limit this machine runs
    ///
    /// zh: 测量本机离其极限有多近
    #[command(subcommand)]
    Bench(bench::Args),
    /// Write the reference of commands and recipe keys
    ///
    /// zh: 生成命令与配方键的参考文档
    Docs(docs::Args),
}

impl Command {
    /// Runs the verb.
    ///
    /// # Errors
    /// What went wrong, with a sentence for the user.
    pub fn run(self, printer: &Printer) -> Result<()> {
        match self {
            Self::Quickstart(args) => quickstart::run(args, printer),
            Self::Train(args) => train::run(args, printer),
            Self::Plan(args) => plan::run(args, printer),
            Self::Recipes(args) => recipes::run(args, printer),
            Self::Data(args) => data::run(args, printer),
            Self::Tokenizer(args) => tokenizer::run(args, printer),
            Self::Info(args) => info::run(&args, printer),
            Self::Download(args) => download::run(args, printer),
            Self::Convert(args) => convert::run(args, printer),
            Self::Merge(args) => merge::run(&args, printer),
            Self::Eval(args) => eval::run(args, printer),
            Self::Chat(args) => chat::run(args, printer),
            Self::Generate(args) => generate::run(args, printer),
            Self::Doctor(args) => doctor::run(&args, printer),
            Self::Bench(args) => bench::run(args, printer),
            Self::Docs(args) => docs::run(args, printer),
        }
    }
}
