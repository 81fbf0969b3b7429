//! What is learned, and which weights learn it.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};

/// What is learned.
///
/// zh: 学习什么。
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Pretraining: to continue plain text.
    ///
    /// zh: 预训练：续写纯文本。
    Pt,
    /// Supervised fine-tuning: to answer.
    ///
    /// zh: 有监督微调：学会回答。
    #[default]
    Sft,
    /// Preference tuning: to prefer one answer to another, by `pref_loss`.
    ///
    /// zh: 偏好训练：在两个回答中学会偏好其一，方法由 `pref_loss` 指定。
    Dpo,
    /// Preference tuning with answers of which each is wanted or not.
    ///
    /// zh: 偏好训练：数据只标明每个回答可取或不可取。
    Kto,
    /// The same as `dpo` with `pref_loss: orpo`.
    ///
    /// zh: 等同于 `dpo` 加 `pref_loss: orpo`。
    Orpo,
    /// The same as `dpo` with `pref_loss: simpo`.
    ///
    /// zh: 等同于 `dpo` 加 `pref_loss: simpo`。
    Simpo,
}

/// Which weights learn.
///
/// zh: 训练哪些权重。
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FinetuningType {
    /// All of them.
    ///
    /// zh: 全部权重。
    Full,
    /// A low-rank adapter beside the frozen weights.
    ///
    /// zh: 冻结原权重，只训练低秩适配器。
    #[default]
    Lora,
    /// A few layers; the others stay as they are.
    ///
    /// zh: 只训练少数几层，其余保持不变。
    Freeze,
}

/// Stage, kind of training and chat template.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct MethodOptions {
    /// What is learned.
    ///
    /// zh: 学习什么。
    pub stage: Stage,
    /// Which weights learn. A new model needs `full`.
    ///
    /// zh: 训练哪些权重。新建的模型须为 `full`。
    pub finetuning_type: FinetuningType,
    /// Chat template: a built-in name or a file (default: the model's own).
    ///
    /// zh: 对话模板：内置名称或文件（默认使用模型自带的模板）。
    pub template: Option<String>,
    /// Whether a template with thoughts (`qwen3` …) is asked for them; `false` puts an empty thought before answers
    /// that have none, unlearned (default: as the template has it).
    ///
    /// zh: 带思考的模板（如 `qwen3`）是否要求思考；`false` 时在没有思考的回答前放一个不参与学习的空思考（默认由模板决定）。
    pub enable_thinking: Option<bool>,
}

impl Stage {
    /// Its name in recipes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pt => "pt",
            Self::Sft => "sft",
            Self::Dpo => "dpo",
            Self::Kto => "kto",
            Self::Orpo => "orpo",
            Self::Simpo => "simpo",
        }
    }
}

/// Names, written as a list or separated by commas.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct NameList(pub Vec<String>);

impl<'de> Deserialize<'de> for NameList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Commas(String),
            List(Vec<String>),
        }
        Ok(Self(match Form::deserialize(deserializer)? {
            Form::List(names) => names,
            Form::Commas(names) => {
                names.split(',').map(str::trim).filter(|name| !name.is_empty()).map(String::from).collect()
            }
        }))
    }
}

impl JsonSchema for NameList {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "NameList".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }] })
    }
}
