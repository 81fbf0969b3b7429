//! The options of this room: one struct, whose fields have the names and meanings of the recipe's keys.
//!
//! The chat template is not among them: the caller opens it and hands it over in [`Task`](crate::Task).

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{DataError, Result};
use crate::records::{ReadOptions, TextUnit};

/// What happens to a row that has more tokens than `cutoff_len`.
///
/// zh: 一行的词元数超过 `cutoff_len` 时如何处理。
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Overlong {
    /// The row is left out and counted.
    ///
    /// zh: 丢弃该行并计数。
    #[default]
    Drop,
    /// The end of the answer is cut; the prompt stays whole, cut tokens are counted.
    ///
    /// zh: 截去答案末尾；提示保持完整，被截的词元会计数。
    Truncate,
    /// A conversation becomes several samples, each with the system message and as many whole exchanges as fit; an exchange
    /// that is too long alone is left out and counted. Not with `mask_history`.
    ///
    /// zh: 一段对话分成多个样本，每个样本都带系统提示和尽可能多的完整问答；单独一轮就过长的问答略去并计数。不能与
    /// `mask_history` 同用。
    Split,
    /// The run stops with the row's file and line.
    ///
    /// zh: 停止运行，并指出文件和行号。
    Error,
}

/// What happens to a row that cannot be read or lacks a column.
///
/// zh: 一行无法读取或缺少列时如何处理。
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnBadRow {
    /// The run stops with the row's file, line and field.
    ///
    /// zh: 停止运行，并指出文件、行号和字段。
    #[default]
    Error,
    /// The row is left out and counted by reason.
    ///
    /// zh: 跳过该行，并按原因计数。
    Skip,
}

/// What of a token file (`.bin`) becomes a sample.
///
/// zh: 词元文件（`.bin`）的哪一部分成为一个样本。
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TokenFileUnit {
    /// Each document, which ends with the end-of-text token; longer ones are cut into pieces as texts are.
    ///
    /// zh: 每篇文档（以文本结束词元结尾）；过长的与文本一样切块。
    #[default]
    Documents,
    /// Each `cutoff_len` ids in a row, whatever documents they belong to; the rest of a data set is left out. So
    /// Baby-Llama2 reads its files.
    ///
    /// zh: 每连续 `cutoff_len` 个词元，不论属于哪些文档；数据集末尾的余数略去。Baby-Llama2 即如此读取。
    Rows,
}

/// How several datasets become one.
///
/// zh: 多个数据集如何合为一个。
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MixStrategy {
    /// One after another: every sample once a pass.
    ///
    /// zh: 首尾相接：每遍每个样本一次。
    #[default]
    Concat,
    /// In turn, or by `interleave_probs`, until one dataset has no samples left; the rest of the others is not used.
    ///
    /// zh: 轮流（或按 `interleave_probs`）取样，直到某个数据集取完；其余数据集剩下的不用。
    InterleaveUnder,
    /// In turn, or by `interleave_probs`, until all datasets were used up; those that end before begin again.
    ///
    /// zh: 轮流（或按 `interleave_probs`）取样，直到所有数据集都取完；先取完的从头再来。
    InterleaveOver,
}

/// How samples for validation are chosen.
///
/// zh: 如何选出用于验证的样本。
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ValSplit {
    /// By the seed; other rows may be chosen once rows are added.
    ///
    /// zh: 由随机种子决定；增加行之后可能选出别的行。
    #[default]
    Random,
    /// By the content of each row: a row stays where it is when others are added, and equal rows stay together.
    ///
    /// zh: 由每行的内容决定：增加其他行时原有的行不变，相同的行总在一起。
    Hash,
}

/// One column or several; the texts of several are joined by newlines, those a row lacks are left out.
///
/// zh: 一列或多列；多列的文本以换行连接，行中没有的列略去。
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ColumnNames {
    /// One column.
    ///
    /// zh: 一列。
    One(String),
    /// Several columns, in this order.
    ///
    /// zh: 多列，按此顺序。
    Many(Vec<String>),
}

impl ColumnNames {
    /// The names in order.
    pub fn names(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Many(names) => names,
        }
    }
}

/// Which column of a dataset holds what; what is not given is found by the usual names.
///
/// zh: 数据集各列的含义；未给出的按常用列名识别。
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Columns {
    /// Text for pretraining (default `text`).
    ///
    /// zh: 预训练文本所在列（默认 `text`）。
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<ColumnNames>,
    /// What the user asks.
    ///
    /// zh: 用户的指令或问题。
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Added to the prompt on a new line when it is not empty.
    ///
    /// zh: 非空时另起一行接在指令之后。
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// The answer that is learned.
    ///
    /// zh: 要学习的回答。
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<String>,
    /// Earlier turns, a list of pairs of question and answer.
    ///
    /// zh: 先前的对话，问答对的列表。
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history: Option<String>,
    /// The system message.
    ///
    /// zh: 系统提示。
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// The list of messages of a conversation.
    ///
    /// zh: 对话的消息列表。
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<String>,
    /// The functions that the assistant may call, as JSON.
    ///
    /// zh: 助手可调用的函数（JSON）。
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<String>,
    /// The wanted answer of a preference pair.
    ///
    /// zh: 偏好对中较好的回答。
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chosen: Option<String>,
    /// The unwanted answer of a preference pair.
    ///
    /// zh: 偏好对中较差的回答。
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejected: Option<String>,
    /// Whether the answer is wanted (true or false).
    ///
    /// zh: 回答是否可取（true 或 false）。
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kto_tag: Option<String>,
}

impl Columns {
    /// These columns, and those of `other` where they name none.
    pub fn or(self, other: &Self) -> Self {
        Self {
            text: self.text.or_else(|| other.text.clone()),
            prompt: self.prompt.or_else(|| other.prompt.clone()),
            query: self.query.or_else(|| other.query.clone()),
            response: self.response.or_else(|| other.response.clone()),
            history: self.history.or_else(|| other.history.clone()),
            system: self.system.or_else(|| other.system.clone()),
            messages: self.messages.or_else(|| other.messages.clone()),
            tools: self.tools.or_else(|| other.tools.clone()),
            chosen: self.chosen.or_else(|| other.chosen.clone()),
            rejected: self.rejected.or_else(|| other.rejected.clone()),
            kto_tag: self.kto_tag.or_else(|| other.kto_tag.clone()),
        }
    }
}

/// What is read, and how rows become samples.
///
/// zh: 读取哪些数据，以及每一行如何成为样本。
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DataOptions {
    /// Files, folders, or names in `dataset_info.json`; a list or separated by commas.
    ///
    /// zh: 文件、文件夹，或 `dataset_info.json` 中的名称；可用列表或逗号分隔。
    #[serde(deserialize_with = "list_or_commas")]
    #[schemars(with = "ColumnNames")]
    pub dataset: Vec<String>,
    /// Folder of `dataset_info.json` and of the files it names.
    ///
    /// zh: `dataset_info.json` 及其所列文件所在的文件夹。
    pub dataset_dir: PathBuf,
    /// Like `dataset`, for validation.
    ///
    /// zh: 与 `dataset` 相同，用于验证。
    #[serde(deserialize_with = "list_or_commas")]
    #[schemars(with = "ColumnNames")]
    pub eval_dataset: Vec<String>,
    /// Files of the data sets of a hub that `dataset_info.json` names, by their names there.
    #[serde(skip)]
    pub downloaded: BTreeMap<String, Vec<PathBuf>>,
    /// Which column holds what, where the usual names do not fit.
    ///
    /// zh: 列名与常用名不同时，指定各列的含义。
    pub columns: Columns,
    /// Encoding of all text files that carry no mark, such as `gb18030`, `big5` or `shift_jis`; without it UTF-8, UTF-16,
    /// GB18030 (GBK) and Big5 are told by the content.
    ///
    /// zh: 所有不带标记的文本文件的编码，如 `gb18030`、`big5` 或 `shift_jis`；不设时按内容识别 UTF-8、UTF-16、
    /// GB18030（GBK）和 Big5。
    pub encoding: Option<String>,
    /// What one document of a `.txt` file is.
    ///
    /// zh: `.txt` 文件中一篇文档的单位。
    pub text_unit: TextUnit,
    /// What of a token file (`.bin`) becomes a sample.
    ///
    /// zh: 词元文件（`.bin`）的哪一部分成为一个样本。
    pub token_files: TokenFileUnit,
    /// Values for `{{name}}` in the texts of the dataset.
    ///
    /// zh: 数据集文本中 `{{name}}` 的取值。
    pub dataset_placeholders: BTreeMap<String, String>,
    /// System message of the rows that have none.
    ///
    /// zh: 没有系统提示的行所用的系统提示。
    pub default_system: Option<String>,
    /// Longest sample, in tokens; documents for pretraining are cut into pieces of it, and nothing is lost.
    ///
    /// zh: 样本的最大词元数；预训练文档按此切块，不丢失任何词元。
    pub cutoff_len: usize,
    /// What happens to a row that is longer than `cutoff_len`.
    ///
    /// zh: 一行超过 `cutoff_len` 时如何处理。
    pub overlong: Overlong,
    /// At most so many rows of each dataset, from its start.
    ///
    /// zh: 每个数据集最多取前多少行。
    pub max_samples: Option<usize>,
    /// Rows whose prompt has fewer characters are left out: all messages but the answers, together.
    ///
    /// zh: 提示的字符数少于此值的行略去；提示指回答以外的全部消息之和。
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_prompt_chars: Option<usize>,
    /// Rows whose prompt has more characters are left out.
    ///
    /// zh: 提示的字符数多于此值的行略去。
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_prompt_chars: Option<usize>,
    /// Rows whose answers, together, have fewer characters are left out.
    ///
    /// zh: 回答的总字符数少于此值的行略去。
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_answer_chars: Option<usize>,
    /// Rows whose answers, together, have more characters are left out.
    ///
    /// zh: 回答的总字符数多于此值的行略去。
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_answer_chars: Option<usize>,
    /// Part of the samples kept for validation: a fraction below 1, or a count.
    ///
    /// zh: 留作验证的样本：小于 1 为比例，否则为个数。
    pub val_size: f64,
    /// How samples for validation are chosen.
    ///
    /// zh: 如何选出用于验证的样本。
    pub val_split: ValSplit,
    /// How several datasets become one. Validation samples are taken out before, so that none is trained on.
    ///
    /// zh: 多个数据集如何合为一个。验证样本在此之前取出，不会被训练到。
    pub mix_strategy: MixStrategy,
    /// Share of each dataset among the samples, in the order of `dataset`; a list or separated by commas.
    ///
    /// zh: 各数据集在样本中所占的份额，按 `dataset` 的顺序；可用列表或逗号分隔。
    #[serde(deserialize_with = "numbers_or_commas")]
    #[schemars(with = "NumberList")]
    pub interleave_probs: Vec<f64>,
    /// A batch counts blocks of `cutoff_len` tokens, which samples fill by best fit, in place of samples (default: `true`
    /// for `stage: pt`). Samples in a block do not see each other.
    ///
    /// zh: 批次以 `cutoff_len` 个词元的块计数，样本按最佳适配装入块中，而不以样本计数（`stage: pt` 默认为 `true`）。
    /// 同一块中的样本互不可见。
    pub packing: Option<bool>,
    /// `false` lets the documents of a packed `stage: pt` run on into each other, one after another without a gap;
    /// conversations are always kept apart.
    ///
    /// zh: 设为 `false` 时，打包的预训练文档首尾相接、彼此可见；对话始终互不可见。
    pub neat_packing: bool,
    /// Steps of samples of similar length. Nothing is padded, so this saves no time; not with `packing`.
    ///
    /// zh: 每步取长度相近的样本。这里从不填充，因此并不节省时间；不能与 `packing` 同用。
    pub group_by_length: bool,
    /// Folder that keeps the tokenized samples for later runs, whatever their size. Without it only data sets of more than
    /// 32 MB are kept, in `danlu/tokenized` of the user's cache folder, at most 20 GB. What is kept is known by the content
    /// of the files, the vocabulary, the template and the options, not by names.
    ///
    /// zh: 保存分词结果供以后使用的文件夹，不论大小。不设时只保存超过 32 MB 的数据集，放在用户缓存文件夹的
    /// `danlu/tokenized` 中，最多 20 GB。结果按文件内容、词表、模板与选项识别，而不按名称。
    pub tokenized_path: Option<PathBuf>,
    /// Tokenize again even if the result is kept.
    ///
    /// zh: 即使已有保存的结果也重新分词。
    pub overwrite_cache: bool,
    /// What happens to a row that cannot be read or lacks a column.
    ///
    /// zh: 一行无法读取或缺少列时如何处理。
    pub on_bad_row: OnBadRow,
    /// Learn the prompt too; not with `mask_history`.
    ///
    /// zh: 提示部分也参与学习；不能与 `mask_history` 同用。
    pub train_on_prompt: bool,
    /// Learn only the last answer of a conversation; not with `train_on_prompt`.
    ///
    /// zh: 只学习对话的最后一个回答；不能与 `train_on_prompt` 同用。
    pub mask_history: bool,
}

impl Default for DataOptions {
    fn default() -> Self {
        Self {
            dataset: Vec::new(),
            dataset_dir: PathBuf::from("data"),
            eval_dataset: Vec::new(),
            downloaded: BTreeMap::new(),
            columns: Columns::default(),
            encoding: None,
            text_unit: TextUnit::default(),
            token_files: TokenFileUnit::default(),
            dataset_placeholders: BTreeMap::new(),
            default_system: None,
            cutoff_len: 2048,
            overlong: Overlong::default(),
            max_samples: None,
            val_size: 0.0,
            val_split: ValSplit::default(),
            mix_strategy: MixStrategy::default(),
            interleave_probs: Vec::new(),
            min_prompt_chars: None,
            max_prompt_chars: None,
            min_answer_chars: None,
            max_answer_chars: None,
            packing: None,
            neat_packing: true,
            group_by_length: false,
            tokenized_path: None,
            overwrite_cache: false,
            on_bad_row: OnBadRow::default(),
            train_on_prompt: false,
            mask_history: false,
        }
    }
}

impl DataOptions {
    /// How files are read.
    pub fn reading(&self) -> ReadOptions {
        ReadOptions { encoding: self.encoding.clone(), text_unit: self.text_unit, csv_columns: None }
    }

    /// Checks the values that no dataset could make right.
    pub fn validate(&self) -> Result<()> {
        if self.cutoff_len < 2 {
            let problem = format!(
                "found {}: expected at least 2, one token to see and one to predict",
                self.cutoff_len
            );
            return Err(DataError::Option { option: "cutoff_len", problem });
        }
        if self.max_samples == Some(0) {
            let problem = "found 0: expected at least 1, or no `max_samples` to take all rows".to_owned();
            return Err(DataError::Option { option: "max_samples", problem });
        }
        if !self.val_size.is_finite() || self.val_size < 0.0 {
            let problem = format!("found {}: expected a fraction below 1 or a count", self.val_size);
            return Err(DataError::Option { option: "val_size", problem });
        }
        if self.val_size > 0.0 && !self.eval_dataset.is_empty() {
            let problem = format!(
                "takes {} of `dataset`, and `eval_dataset` names samples of its own: set `val_size=0`, or leave `eval_dataset` out",
                self.val_size
            );
            return Err(DataError::Option { option: "val_size", problem });
        }
        if self.val_split == ValSplit::Hash && self.val_size >= 1.0 {
            let problem = format!(
                "chooses a share of the rows, found `val_size: {}`: expected a fraction below 1",
                self.val_size
            );
            return Err(DataError::Option { option: "val_split", problem });
        }
        if !self.interleave_probs.iter().all(|probability| probability.is_finite() && *probability > 0.0) {
            let problem =
                format!("found {:?}: expected a number above 0 for each dataset", self.interleave_probs);
            return Err(DataError::Option { option: "interleave_probs", problem });
        }
        if !self.interleave_probs.is_empty() && self.mix_strategy == MixStrategy::Concat {
            let problem = "needs `mix_strategy: interleave_under` or `interleave_over`".to_owned();
            return Err(DataError::Option { option: "interleave_probs", problem });
        }
        for (option, least, most) in [
            ("max_prompt_chars", self.min_prompt_chars, self.max_prompt_chars),
            ("max_answer_chars", self.min_answer_chars, self.max_answer_chars),
        ] {
            if let (Some(least), Some(most)) = (least, most)
                && least > most
            {
                let problem = format!("found {most}: expected at least the minimum, {least}");
                return Err(DataError::Option { option, problem });
            }
        }
        if self.group_by_length && self.packing == Some(true) {
            let problem = "sorts samples, `packing` makes blocks of them: set one of the two".to_owned();
            return Err(DataError::Option { option: "group_by_length", problem });
        }
        if self.mask_history && self.train_on_prompt {
            let problem =
                "learns only the last answer, `train_on_prompt` everything: set one of them".to_owned();
            return Err(DataError::Option { option: "mask_history", problem });
        }
        if self.mask_history && self.overlong == Overlong::Split {
            let problem = "learns only the last answer, `overlong: split` all: set one of them".to_owned();
            return Err(DataError::Option { option: "mask_history", problem });
        }
        Ok(())
    }
}

fn list_or_commas<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(match ColumnNames::deserialize(deserializer)? {
        ColumnNames::Many(names) => names,
        ColumnNames::One(names) => {
            names.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
        }
    })
}

/// Numbers, or a text with commas between them.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum NumberList {
    Many(Vec<f64>),
    One(f64),
    Text(String),
}

fn numbers_or_commas<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
    match NumberList::deserialize(deserializer)? {
        NumberList::Many(numbers) => Ok(numbers),
        NumberList::One(number) => Ok(vec![number]),
        NumberList::Text(text) => {
            let number = |text: &str| text.trim().parse().map_err(serde::de::Error::custom);
            text.split(',').filter(|text| !text.trim().is_empty()).map(number).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dataset_is_a_list_or_separated_by_commas() {
        let commas: DataOptions = serde_json::from_str(r#"{"dataset": "identity, alpaca_zh_demo"}"#).unwrap();
        let list: DataOptions =
            serde_json::from_str(r#"{"dataset": ["identity", "alpaca_zh_demo"]}"#).unwrap();
        assert_eq!(commas.dataset, ["identity", "alpaca_zh_demo"]);
        assert_eq!(commas, list);
    }

    #[test]
    fn probabilities_are_a_list_or_separated_by_commas() {
        let read = |text: &str| serde_json::from_str::<DataOptions>(text).unwrap().interleave_probs;
        assert_eq!(read(r#"{"interleave_probs": "0.7, 0.3"}"#), [0.7, 0.3]);
        assert_eq!(read(r#"{"interleave_probs": [0.7, 0.3]}"#), [0.7, 0.3]);
        assert!(serde_json::from_str::<DataOptions>(r#"{"interleave_probs": "a,b"}"#).is_err());
    }

    #[test]
    fn every_option_is_explained_in_both_languages() {
        let schema = serde_json::to_value(schemars::schema_for!(DataOptions)).unwrap();
        for (name, property) in schema["properties"].as_object().unwrap() {
            let description = property["description"].as_str().unwrap_or_default();
            assert!(description.contains("\n\nzh: "), "`{name}`: {description}");
        }
    }

    #[test]
    fn impossible_values_are_refused() {
        let error = DataOptions { cutoff_len: 1, ..Default::default() }.validate().unwrap_err();
        assert_eq!(
            error.to_string(),
            "`cutoff_len`: found 1: expected at least 2, one token to see and one to predict"
        );
        let error = DataOptions { val_size: -0.1, ..Default::default() }.validate().unwrap_err();
        assert_eq!(error.to_string(), "`val_size`: found -0.1: expected a fraction below 1 or a count");
        let message = |options: DataOptions| options.validate().unwrap_err().to_string();
        assert_eq!(
            message(DataOptions { max_samples: Some(0), ..Default::default() }),
            "`max_samples`: found 0: expected at least 1, or no `max_samples` to take all rows"
        );
        let options = DataOptions { val_size: 3.0, val_split: ValSplit::Hash, ..Default::default() };
        assert_eq!(
            message(options),
            "`val_split`: chooses a share of the rows, found `val_size: 3`: expected a fraction below 1"
        );
        let options = DataOptions { interleave_probs: vec![0.5, 0.5], ..Default::default() };
        assert!(message(options.clone()).contains("needs `mix_strategy: interleave_under`"));
        let mix_strategy = MixStrategy::InterleaveOver;
        let options = DataOptions { interleave_probs: vec![0.5, 0.0], mix_strategy, ..options };
        assert!(message(options).contains("found [0.5, 0.0]: expected a number above 0"));
        let options =
            DataOptions { min_answer_chars: Some(6), max_answer_chars: Some(5), ..Default::default() };
        assert_eq!(message(options), "`max_answer_chars`: found 5: expected at least the minimum, 6");
        let options = DataOptions { group_by_length: true, packing: Some(true), ..Default::default() };
        assert!(message(options).starts_with("`group_by_length`: sorts samples"));
        let options = DataOptions { mask_history: true, train_on_prompt: true, ..Default::default() };
        assert_eq!(
            options.validate().unwrap_err().to_string(),
            "`mask_history`: learns only the last answer, `train_on_prompt` everything: set one of them"
        );
    }
}
