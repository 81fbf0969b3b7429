//! The short reason under which rows that are skipped for one kind of problem are counted, in English and Chinese. What is wrong
//! with one row in full is the problem's own message.

use super::RowProblem;

impl RowProblem {
    /// The reason under which skipped rows are counted.
    pub fn reason(&self) -> String {
        self.reasons().0
    }

    /// The reason in Chinese.
    pub fn reason_zh(&self) -> String {
        self.reasons().1
    }

    /// The reason in English and in Chinese.
    fn reasons(&self) -> (String, String) {
        let (en, zh) = match self {
            Self::InvalidUtf8 { .. } => ("invalid UTF-8", "不是有效的 UTF-8"),
            Self::Undecodable { encoding, .. } => {
                return (format!("invalid {encoding}"), format!("不是有效的 {encoding}"));
            }
            Self::InvalidJson { .. } => ("invalid JSON", "不是有效的 JSON"),
            Self::NotAnObject { .. } => ("not a JSON object", "不是 JSON 对象"),
            Self::FieldCount { .. } => ("wrong number of fields", "字段数不对"),
            Self::UnclosedQuote { .. } => ("quote without partner", "引号没有闭合"),
            Self::DuplicateColumn { .. } => ("column named twice", "列名重复"),
            Self::MissingColumn { column, .. } => {
                return (format!("missing column `{column}`"), format!("缺少列 `{column}`"));
            }
            Self::UnknownColumns { .. } => ("unknown columns", "列名无法识别"),
            Self::PlainText => ("plain text document", "纯文本文档"),
            Self::WrongType { .. } => ("wrong kind of value", "值的类型不对"),
            Self::UnknownRole { role, .. } => {
                return (format!("unknown role `{role}`"), format!("未知角色 `{role}`"));
            }
            Self::MissingKey { key, .. } => return (format!("missing `{key}`"), format!("缺少 `{key}`")),
            Self::HalfExchange { missing, .. } => {
                return (format!("missing `{missing}`"), format!("缺少 `{missing}`"));
            }
            Self::LossWeight { .. } => ("wrong `loss_weight`", "`loss_weight` 不对"),
            Self::NoWeight => ("every `loss_weight` is 0", "所有 `loss_weight` 都为 0"),
            Self::NoAnswer => ("no answer", "没有回答"),
            Self::NoQuestion => ("nothing is asked", "没有提问"),
            Self::Transcript { .. } => ("text without marks of its turns", "文本没有轮次标记"),
            Self::PreferencePair { .. } => ("preference pair", "偏好对"),
            Self::NoPairAnswer { column } => {
                return (format!("no answer in `{column}`"), format!("`{column}` 中没有回答"));
            }
            Self::DifferentPrompts { .. } => ("answers to different prompts", "两个回答的提示不同"),
            Self::JudgedAnswer { field } => {
                let en = format!("`{field}` says whether the answer is wanted");
                return (en, format!("`{field}` 表明回答是否合意"));
            }
            Self::Rule { .. } => ("a rule cannot be applied", "规则无法应用"),
            Self::NoPlace { form, what } => {
                return (
                    format!("no place in `{form}` for {what}"),
                    format!("`{form}` 容不下该行的内容（{what}）"),
                );
            }
            Self::Template { .. } => ("refused by the chat template", "被对话模板拒绝"),
        };
        (en.to_owned(), zh.to_owned())
    }
}
