//! The options of this room: one struct, whose fields have the names and meanings of the recipe's keys.
//!
//! The chat template is not among them: the caller opens it and hands it over in [`Task`](crate::Task).

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{DataError, Result};

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
    /// Part of the samples kept for validation: a fraction below 1, or a count.
    ///
    /// zh: 留作验证的样本：小于 1 为比例，否则为个数。
    pub val_size: f64,
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
            dataset_placeholders: BTreeMap::new(),
            default_system: None,
            cutoff_len: 2048,
            overlong: Overlong::default(),
            max_samples: None,
            val_size: 0.0,
            on_bad_row: OnBadRow::default(),
            train_on_prompt: false,
            mask_history: false,
        }
    }
}

impl DataOptions {
    /// Checks the values that no dataset could make right.
    pub fn validate(&self) -> Result<()> {
        if self.cutoff_len < 2 {
            let problem = format!(
                "found {}: expected at least 2, one token to see and one to predict",
                self.cutoff_len
            );
            return Err(DataError::Option { option: "cutoff_len", problem });
        }
        if !self.val_size.is_finite() || self.val_size < 0.0 {
            let problem = format!("found {}: expected a fraction below 1 or a count", self.val_size);
            return Err(DataError::Option { option: "val_size", problem });
        }
        if self.mask_history && self.train_on_prompt {
            let problem =
                "learns only the last answer, `train_on_prompt` everything: set one of them".to_owned();
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
        let options = DataOptions { mask_history: true, train_on_prompt: true, ..Default::default() };
        assert_eq!(
            options.validate().unwrap_err().to_string(),
            "`mask_history`: learns only the last answer, `train_on_prompt` everything: set one of them"
        );
    }
}
