//! What is trained of a model that exists: adapters of PEFT's kinds, a few of its layers, rows of its embedding.

use std::collections::BTreeMap;

use danlu_formats::{AdapterConfig, InitLoraWeights, ModuleSelection, TokenIndices};
use danlu_model::pissa_method;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::NameList;

/// Adapters, and which layers `finetuning_type: freeze` leaves to train.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct AdapterOptions {
    /// Rank of the adapter matrices.
    ///
    /// zh: 适配器矩阵的秩。
    pub lora_rank: usize,
    /// Scale of the adapter: its output is multiplied by `lora_alpha / lora_rank` (default: twice the rank).
    ///
    /// zh: 适配器的缩放：输出乘以 `lora_alpha / lora_rank`（默认为秩的两倍）。
    pub lora_alpha: Option<f64>,
    /// Share of the adapter's input that is dropped at random in training, never in evaluation.
    ///
    /// zh: 训练时适配器输入中随机丢弃的比例；评测时不丢弃。
    pub lora_dropout: f64,
    /// Linear layers that get an adapter: names such as `q_proj,v_proj`, ends of paths such as `layers.0.mlp.up_proj`, one
    /// regular expression over whole paths, or `all` for every one but the output head.
    ///
    /// zh: 带适配器的线性层：如 `q_proj,v_proj` 的名称，如 `layers.0.mlp.up_proj` 的路径结尾，一个匹配整条路径的正则表达式，或表示除输出层外全部线性层的 `all`。
    pub lora_target: NameList,
    /// Modules that are trained and saved whole beside the adapter (PEFT's `modules_to_save`), such as
    /// `embed_tokens,lm_head`; a head that is the embedding becomes one of its own then.
    ///
    /// zh: 在适配器之外整体训练并保存的模块（PEFT 的 `modules_to_save`），如 `embed_tokens,lm_head`；与词嵌入共用的输出层此时成为独立的一份。
    pub additional_target: NameList,
    /// Rank of single layers: a mapping of names or regular expressions to ranks, as PEFT's.
    ///
    /// zh: 单独指定某些层的秩：名称或正则表达式到秩的映射，与 PEFT 相同。
    pub rank_pattern: BTreeMap<String, usize>,
    /// Alpha of single layers, as `rank_pattern`.
    ///
    /// zh: 单独指定某些层的 alpha，写法同 `rank_pattern`。
    pub alpha_pattern: BTreeMap<String, f64>,
    /// Scale by `lora_alpha / √lora_rank` instead (rsLoRA), for large ranks.
    ///
    /// zh: 改用 `lora_alpha / √lora_rank` 缩放（rsLoRA），适合较大的秩。
    pub use_rslora: bool,
    /// Train the length of every row of weight and adapter together beside its direction (DoRA).
    ///
    /// zh: 除方向外，另训练权重与适配器之和每一行的长度（DoRA）。
    pub use_dora: bool,
    /// What the matrices start as: `true` (A random, B zero), `false` (both random), `gaussian` or `orthogonal`, as PEFT has
    /// them.
    ///
    /// zh: 矩阵的初始值：`true`（A 随机、B 为零）、`false`（两者随机）、`gaussian` 或 `orthogonal`，与 PEFT 相同。
    pub init_lora_weights: LoraInit,
    /// Start from the largest singular values of the weights, which the weights then lack (PiSSA). What is saved is a plain
    /// LoRA of twice the rank for the model as it was. Needs a model of 16 or 32 bits.
    ///
    /// zh: 以权重的最大奇异值作为起点，并从权重中减去（PiSSA）。保存的是针对原模型的普通 LoRA，秩为两倍。须为 16 或 32 位的模型。
    pub pissa_init: bool,
    /// Iterations of the search for these singular values; `-1` for as many as it takes.
    ///
    /// zh: 求这些奇异值的迭代次数；`-1` 表示直到收敛。
    pub pissa_iter: i64,
    /// Learning rate of B as a multiple of that of A (LoRA+), such as `16`.
    ///
    /// zh: B 的学习率相对 A 的倍数（LoRA+），例如 `16`。
    pub loraplus_lr_ratio: Option<f64>,
    /// Merge all adapters of `adapter_name_or_path` into the model and train a fresh one.
    ///
    /// zh: 把 `adapter_name_or_path` 中的适配器全部合并进模型，另训练一个新的。
    pub create_new_adapter: bool,
    /// Rows of the embedding that are trained, as token ids; or a mapping such as `{embed_tokens: [..], lm_head: [..]}`. The
    /// right way to teach new tokens. A head that is the embedding has the same rows.
    ///
    /// zh: 训练词嵌入的哪些行，以词元 id 给出；或如 `{embed_tokens: [..], lm_head: [..]}` 的映射。适合学习新词元。与词嵌入共用的输出层同样更新这些行。
    pub trainable_token_indices: Option<TokenRows>,
    /// Noise on the embeddings in training (NEFTune): its alpha, such as `5`.
    ///
    /// zh: 训练时在词嵌入上加的噪声（NEFTune）的 alpha，例如 `5`。
    pub neftune_noise_alpha: Option<f64>,
    /// `finetuning_type: freeze`: how many of the last decoder blocks are trained; below 0, of the first.
    ///
    /// zh: `finetuning_type: freeze`：训练最后多少个解码层；负数表示最前面的层。
    pub freeze_trainable_layers: i64,
    /// `finetuning_type: freeze`: which modules of these blocks are trained, such as `self_attn,input_layernorm`, or `all`.
    ///
    /// zh: `finetuning_type: freeze`：训练这些层中的哪些模块，如 `self_attn,input_layernorm`，或 `all`。
    pub freeze_trainable_modules: NameList,
    /// `finetuning_type: freeze`: modules outside the blocks that are trained too, such as `embed_tokens,norm,lm_head`.
    ///
    /// zh: `finetuning_type: freeze`：另外训练解码层之外的哪些模块，如 `embed_tokens,norm,lm_head`。
    pub freeze_extra_modules: NameList,
}

/// PEFT's `init_lora_weights`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum LoraInit {
    /// B zero, or both random.
    Flag(bool),
    /// A way by its name.
    Method(String),
}

/// PEFT's `trainable_token_indices`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum TokenRows {
    /// Of the embedding.
    Ids(Vec<usize>),
    /// Of the modules of these names.
    Modules(BTreeMap<String, Vec<usize>>),
}

impl Default for AdapterOptions {
    fn default() -> Self {
        Self {
            lora_rank: 8,
            lora_alpha: None,
            lora_dropout: 0.0,
            lora_target: NameList(vec!["all".into()]),
            additional_target: NameList::default(),
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            use_rslora: false,
            use_dora: false,
            init_lora_weights: LoraInit::Flag(true),
            pissa_init: false,
            pissa_iter: 16,
            loraplus_lr_ratio: None,
            create_new_adapter: false,
            trainable_token_indices: None,
            neftune_noise_alpha: None,
            freeze_trainable_layers: 2,
            freeze_trainable_modules: NameList(vec!["all".into()]),
            freeze_extra_modules: NameList::default(),
        }
    }
}

impl AdapterOptions {
    /// `lora_alpha`, or twice the rank.
    #[must_use]
    pub fn lora_alpha(&self) -> f64 {
        self.lora_alpha.unwrap_or(2.0 * self.lora_rank as f64)
    }

    /// Whether a fresh adapter begins with PiSSA, by either of its keys.
    #[must_use]
    pub fn starts_from_singular_values(&self) -> bool {
        let named = |init: &LoraInit| matches!(init, LoraInit::Method(method) if method.starts_with("pissa"));
        self.pissa_init || named(&self.init_lora_weights)
    }

    /// The keys that say something else than a continued adapter's own configuration, which decides; `target` is what
    /// `lora_target` means in its model.
    #[must_use]
    pub fn unused_beside(
        &self,
        adapter: &AdapterConfig,
        target: Option<ModuleSelection>,
    ) -> Vec<&'static str> {
        let fresh = self.adapter_config(target.clone().unwrap_or(ModuleSelection::Names(Vec::new())));
        let default = Self::default();
        let sorted = |modules: Option<ModuleSelection>| match modules {
            Some(ModuleSelection::Names(mut names)) => {
                names.sort_unstable();
                Some(ModuleSelection::Names(names))
            }
            other => other,
        };
        // A value that is the default may not have been asked for.
        let keys = [
            ("lora_rank", self.lora_rank != default.lora_rank && fresh.r != adapter.r),
            ("lora_alpha", self.lora_alpha.is_some() && fresh.lora_alpha != adapter.lora_alpha),
            ("lora_dropout", self.lora_dropout != 0.0 && fresh.lora_dropout != adapter.lora_dropout),
            (
                "lora_target",
                self.lora_target != default.lora_target
                    && sorted(target) != sorted(adapter.target_modules.clone()),
            ),
            (
                "additional_target",
                fresh.modules_to_save.is_some() && fresh.modules_to_save != adapter.modules_to_save,
            ),
            ("rank_pattern", !self.rank_pattern.is_empty() && fresh.rank_pattern != adapter.rank_pattern),
            ("alpha_pattern", !self.alpha_pattern.is_empty() && fresh.alpha_pattern != adapter.alpha_pattern),
            ("use_rslora", self.use_rslora && !adapter.use_rslora),
            ("use_dora", self.use_dora && !adapter.use_dora),
            ("init_lora_weights", self.init_lora_weights != default.init_lora_weights),
            ("pissa_init", self.pissa_init),
            (
                "trainable_token_indices",
                fresh.trainable_token_indices.is_some()
                    && fresh.trainable_token_indices != adapter.trainable_token_indices,
            ),
        ];
        keys.into_iter().filter_map(|(key, is_unused)| is_unused.then_some(key)).collect()
    }

    /// PEFT's configuration of a fresh adapter on these modules.
    #[must_use]
    pub fn adapter_config(&self, target_modules: ModuleSelection) -> AdapterConfig {
        let saved = self.additional_target.0.clone();
        AdapterConfig {
            task_type: Some("CAUSAL_LM".into()),
            r: self.lora_rank,
            lora_alpha: self.lora_alpha(),
            lora_dropout: self.lora_dropout,
            target_modules: Some(target_modules),
            modules_to_save: (!saved.is_empty()).then_some(saved),
            rank_pattern: self.rank_pattern.clone(),
            alpha_pattern: self.alpha_pattern.clone(),
            use_rslora: self.use_rslora,
            use_dora: self.use_dora,
            init_lora_weights: match &self.init_lora_weights {
                _ if self.pissa_init => InitLoraWeights::Method(pissa_method(self.pissa_iter)),
                LoraInit::Flag(flag) => InitLoraWeights::Flag(*flag),
                LoraInit::Method(method) => InitLoraWeights::Method(method.clone()),
            },
            trainable_token_indices: self.trainable_token_indices.clone().map(|rows| match rows {
                TokenRows::Ids(ids) => TokenIndices::Embedding(ids),
                TokenRows::Modules(modules) => TokenIndices::Modules(modules),
            }),
            ..AdapterConfig::default()
        }
    }
}
